return attention {
  name = "x",
  threshold = 0.5,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

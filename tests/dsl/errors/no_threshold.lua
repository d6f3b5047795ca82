return attention {
  name = "x",
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

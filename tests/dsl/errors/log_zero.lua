return attention {
  name = "x",
  threshold = function(c) return log(0) * c.i end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

return attention {
  name = "x",
  threshold = function(c) return sqrt(1000 - c.i) end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

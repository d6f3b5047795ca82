return attention {
  name = "x",
  threshold = function(c) return math.sqrt(c.i) end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  score = function(s, c) return 1 + c.i end,
}

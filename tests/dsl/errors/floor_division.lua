return attention {
  name = "x",
  threshold = function(c) return c.i // 2 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

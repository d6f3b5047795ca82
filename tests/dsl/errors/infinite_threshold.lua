return attention {
  name      = "x",
  threshold = function(c) return log(c.i) end,
  weight    = function(s, tau) return relu(s - tau) ^ 2 end,
}

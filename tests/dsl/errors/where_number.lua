return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return where(s - tau, s, 0) end,
}

return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return 2 * relu(s - tau) * s(tau) end,
}

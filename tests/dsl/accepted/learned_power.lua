-- A power that may be 0 is not proved: relu(x)^0 is 1.
return attention {
  name = "learned_power",
  params = { p = learned(scalar, 2) },
  threshold = function(c) return 0.05 end,
  weight = function(s, tau, c) return relu(s - tau) ^ c.p end,
}

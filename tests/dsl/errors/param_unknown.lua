return attention {
  name = "x",
  threshold = function(c) return c.betta end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  params = { beta = learned(per_head, 1), kappa = constant(1) },
}

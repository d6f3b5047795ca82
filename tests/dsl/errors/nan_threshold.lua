return attention {
  name = "x",
  threshold = function(c)
    return sqrt(2 * log((c.i + 1) / c.kappa) / c.head_dim)
  end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  params = { kappa = constant(4) },
}

-- Threshold differential attention (arXiv 2601.12145) with kappa above 1: about kappa random scores of a row may pass its
-- threshold. The first rows have fewer keys than that: there the logarithm would be negative, and the threshold is 0.
local p = option("p", 2)

return attention {
  name      = "tda_kappa",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  views     = 2,
  normalize = "l2",
  mask      = causal(),
  params    = {
    beta   = learned(per_head, 1.0),
    kappa  = constant(option("kappa", 4)),
    lambda = learned(scalar, 0.5, { min = 0, max = 1 }),
  },
  threshold = function(c) return c.beta * sqrt(2 * max(log((c.i + 1) / c.kappa), 0) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda } end,
}

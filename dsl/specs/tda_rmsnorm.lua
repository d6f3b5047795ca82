-- Threshold differential attention (arXiv 2601.12145) with its output norm fused: rows of few survivors are small, and
-- RMSNorm with a learned gain brings them to one scale. A row without survivors stays 0.
local p = option("p", 2)

return attention {
  name      = "tda_rmsnorm",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  views     = 2,
  normalize = "l2",
  mask      = causal(),
  params    = {
    beta   = learned(per_head, 1.0),
    kappa  = constant(1.0),
    lambda = learned(scalar, 0.5, { min = 0, max = 1 }),
  },
  threshold = function(c) return c.beta * sqrt(2 * log((c.i + 1) / c.kappa) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda } end,
  output    = rms_norm { eps = 1e-6, gain = learned(per_channel, 1) },
}

-- Threshold differential attention (arXiv 2601.12145): two views of rectified, thresholded scores, the second subtracted
-- from the first. No softmax: a key whose score does not pass its row's threshold gets exactly 0.
local p = option("p", 2)

local dtype = option("dtype", "bf16")

return attention {
  name      = "tda",
  dtype     = dtype,
  precision = dtype == "f32" and option("precision", "ieee") or nil,
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
}

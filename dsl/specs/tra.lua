-- Threshold rectified attention (arXiv 2601.12145): one view of rectified, thresholded scores. The threshold grows with the
-- number of keys in sight as the largest of so many random scores would, so that noise stays below it.
local p = option("p", 2)

local dtype = option("dtype", "bf16")

return attention {
  name      = "tra",
  dtype     = dtype,
  precision = dtype == "f32" and option("precision", "ieee") or nil,
  head_dim  = option("head_dim", 64),
  normalize = "l2",
  mask      = causal(),
  params    = { beta = learned(per_head, 1.0), kappa = constant(1.0) },
  threshold = function(c) return c.beta * sqrt(2 * log((c.i + 1) / c.kappa) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
}

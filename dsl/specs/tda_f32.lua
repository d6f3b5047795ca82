-- Threshold differential attention (arXiv 2601.12145) on float32 inputs. precision "ieee" has the error of float32 FMAs,
-- "tf32" is faster and keeps 10 bits of each product's factors.
local p = option("p", 2)
local dtype = option("dtype", "f32")
local precision = option("precision", "ieee")

return attention {
  name      = "tda_f32",
  dtype     = dtype,
  precision = dtype == "f32" and precision or nil,
  head_dim  = option("head_dim", 64),
  views     = 2,
  normalize = "l2",
  mask      = causal(),
  params    = { beta = learned(per_head, 1.0), lambda = learned(scalar, 0.5, { min = 0, max = 1 }) },
  threshold = function(c) return c.beta * sqrt(2 * log(c.i + 1) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda } end,
}

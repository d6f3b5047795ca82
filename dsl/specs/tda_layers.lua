-- Threshold differential attention (arXiv 2601.12145) with thresholds that adapt to the layer: beta is learned for each
-- layer and head, and a fixed schedule starts shallow layers at half the threshold and reaches the whole one after
-- `ramp` layers. One compiled kernel serves all layers: the layer is an argument of the launch.
local p = option("p", 2)
local ramp = option("ramp", 8)

return attention {
  name      = "tda_layers",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  views     = 2,
  normalize = "l2",
  mask      = causal(),
  params    = {
    beta   = learned(per_layer_head, 1.0, { min = 0 }),
    lambda = learned(per_layer, 0.5, { min = 0, max = 1 }),
  },
  threshold = function(c)
    local schedule = 0.5 + 0.5 * min(c.layer / ramp, 1)
    return c.beta * schedule * sqrt(2 * log(c.i + 1) / c.head_dim)
  end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda } end,
}

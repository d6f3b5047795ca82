-- What no spec that comes along has: four views, a threshold of each, and nothing normalised. --set causal=false: row i sees the keys
-- from i - 19 to i + 19, and a weight that is not 0 below the threshold, so that no zeros are proved.
local zeros = option("causal", true)

return attention {
  name      = "counted",
  dtype     = option("dtype", "f32"),
  head_dim  = option("head_dim", 16),
  views     = 4,
  normalize = "none",
  mask      = zeros and causal() or window(20),
  params    = { bar = learned(per_layer_head, 0.9), step = learned(scalar, 0.1) },
  threshold = function(c) return c.bar + c.step * c.view + c.i / 4096 end,
  score     = function(s, c) return s + c.j / 65536 end,
  weight    = function(s, tau) return zeros and relu(s - tau) ^ 2 or relu(s - tau + 0.25) end,
  combine   = function(c) return { 1, -0.5, 0.25, 0 } end,
}

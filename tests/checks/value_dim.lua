-- Threshold differential attention whose values are wider or narrower than its keys.
return attention {
  name      = "value_dim",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  value_dim = option("value_dim", 128),
  views     = 2,
  mask      = causal(),
  params    = { beta = learned(per_head, 1.0), lambda = learned(scalar, 0.5, { min = 0, max = 1 }) },
  threshold = function(c) return c.beta * sqrt(2 * log(c.i + 1) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ 2 end,
  combine   = function(c) return { 1, -c.lambda } end,
  output    = option("norm", 0) == 1 and rms_norm { gain = learned(per_channel, 1) } or nil,
}

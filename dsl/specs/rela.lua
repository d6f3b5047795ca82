-- Rectified linear attention, ReLA (Zhang, Titov, Sennrich 2021, "Sparse attention with linear units", arXiv 2104.07012):
-- scaled dot products through a ReLU instead of a softmax, and RMSNorm with a learned gain on the output. Its threshold
-- is 0, so about half of the scores survive: exact zeros, yet few of them.
local p = option("p", 1)

return attention {
  name      = "rela",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  normalize = "none",
  mask      = causal(),
  score     = function(s, c) return s / sqrt(c.head_dim) end,
  threshold = function(c) return 0 end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  output    = rms_norm { eps = 1e-6, gain = learned(per_channel, 1) },
}

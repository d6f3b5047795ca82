-- Squared ReLU over a sliding window, as in the gated attention unit of FLASH (Hua et al. 2022, arXiv 2202.10447): scaled
-- scores, rectified, squared and divided by the number of keys in the window.
local p = option("p", 2)
local width = option("window", 256)

return attention {
  name      = "relu2_window",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  normalize = "none",
  mask      = { causal(), window(width) },
  score     = function(s, c) return s / sqrt(c.head_dim) end,
  threshold = function(c) return 0 end,
  weight    = function(s, tau) return relu(s - tau) ^ p / width end,
}

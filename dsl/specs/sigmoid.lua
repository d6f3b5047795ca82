-- Sigmoid attention (Ramapuram et al. 2024, arXiv 2409.04431): an elementwise sigmoid of scaled dot products with the bias
-- -log(n) for n keys, written here as a threshold. It has no exact zeros, so its plan is dense.
return attention {
  name      = "sigmoid",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  normalize = "none",
  mask      = causal(),
  score     = function(s, c) return s / sqrt(c.head_dim) end,
  threshold = function(c) return log(c.k_len) end,
  weight    = function(s, tau) return sigmoid(s - tau) end,
}

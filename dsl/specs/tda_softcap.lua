-- Threshold differential attention (arXiv 2601.12145) on soft-capped scores, cap * tanh(s / cap), as Gemma 2 caps its
-- logits (arXiv 2408.00118). The cap increases in s, so a threshold on the capped score is one on the score itself.
local p = option("p", 2)
local cap = option("cap", 1)

return attention {
  name      = "tda_softcap",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  views     = 2,
  normalize = "l2",
  mask      = causal(),
  params    = { beta = learned(per_head, 1.0), lambda = learned(scalar, 0.5, { min = 0, max = 1 }) },
  score     = function(s, c) return cap * tanh(s / cap) end,
  threshold = function(c) return c.beta * sqrt(2 * log(c.i + 1) / c.head_dim) end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda } end,
}

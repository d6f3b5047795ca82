-- Three views: threshold differential attention (arXiv 2601.12145) with a second subtracted view, each of them with a
-- threshold of its own. Shows that views are a list, not a pair.
local p = option("p", 2)

return attention {
  name      = "tda3",
  dtype     = option("dtype", "bf16"),
  head_dim  = option("head_dim", 64),
  views     = 3,
  normalize = "l2",
  mask      = causal(),
  params    = {
    beta   = learned(per_head, 1.0),
    lambda = learned(scalar, 0.5, { min = 0, max = 1 }),
    mu     = learned(per_head, 0.25, { min = 0, max = 1 }),
  },
  threshold = function(c)
    local stricter = 1 + 0.05 * (c.view - 1)
    return c.beta * stricter * sqrt(2 * log(c.i + 1) / c.head_dim)
  end,
  weight    = function(s, tau) return relu(s - tau) ^ p end,
  combine   = function(c) return { 1, -c.lambda, -c.mu } end,
}

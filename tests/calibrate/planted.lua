-- Scores are what the test plants: plain dot products, every key in sight. Survivors fall with bar and rise with slack.
local scale = option("scale", 1)
local root = option("root", false)

return attention {
  name      = option("name", "planted"),
  dtype     = "f32",
  head_dim  = 8,
  views     = option("views", 1),
  normalize = "none",
  params    = {
    bar   = learned(scalar, 0.5),
    slack = learned(per_layer_head, 0, { min = -8, max = 1 }),
    share = learned(scalar, 0.5),
    one   = constant(1),
  },
  threshold = function(c) return scale * ((root and sqrt(c.bar - 0.25) or c.bar) - c.slack) * c.one end,
  score     = function(s, c) return s + 0 * c.one end,
  weight    = function(s, tau, c) return relu(s - tau) * c.one end,
  combine   = function(c) local all = {} for n = 1, option("views", 1) do all[n] = c.share * c.one end return all end,
}

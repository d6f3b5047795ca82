-- One threshold for each head, given at the launch, so that it can lie right beside a score.
local dtype = option("dtype", "bf16")
local cap = option("cap", 0)
local steep = option("steep", 0)
local masks = { causal = causal(), full = full(), window = { causal(), window(50) }, band = window(40) }

return attention {
  name      = "screen",
  dtype     = dtype,
  precision = dtype == "f32" and option("precision", "ieee") or nil,
  head_dim  = option("head_dim", 64),
  value_dim = 8,
  views     = option("views", 1),
  normalize = option("normalize", "l2"),
  mask      = masks[option("mask", "causal")],
  params    = { bar = learned(per_head, 0.3) },
  score     = cap ~= 0 and function(s) return cap * tanh(s / cap) end
              or steep ~= 0 and function(s) return 1000 * (exp(s * steep) - 1) end or nil,
  threshold = function(c) return c.bar end,
  weight    = function(s, tau) return relu(s - tau) ^ 2 end,
  combine   = function(c) return ({ { 1 }, { 1, -0.5 } })[option("views", 1)] end,
}

-- Where heads are below `dense` and rows are in `from` to `to`, every pair survives; elsewhere few do.
local dtype = option("dtype", "bf16")
local views = option("views", 2)
local dense, from, to = option("dense", 1), option("from", 0), option("to", 1000000)
local bar = option("bar", 0.9)                         -- of the rows where few survive
local view = option("view", 0)                         -- 0: in all views alike, else in this one alone
local masks = { causal = causal(), full = full(), window = { causal(), window(150) }, band = window(100) }
local coefficients = { 1, -0.5, 0.25, 2 }

local function outside(x)                              -- 1 where x > 0, -1 where x < 0; x is an odd multiple of 1/2
  return clamp(4 * x, -1, 1)
end

return attention {
  name      = "heavy",
  dtype     = dtype,
  head_dim  = option("head_dim", 64),
  value_dim = option("value_dim", 64),
  views     = views,
  normalize = option("normalize", "l2"),
  mask      = masks[option("mask", "causal")],
  params    = { shift = learned(per_head, 0.0), scale = learned(scalar, 1.0) },
  threshold = function(c)
    local sparse = max(outside(c.head - dense + 0.5), outside(from - c.i - 0.5), outside(c.i - to + 0.5))
    if view > 0 then sparse = max(sparse, outside(abs(c.view - view) - 0.5)) end
    return c.shift + c.scale * (bar - 1.2 + (bar + 1.2) * sparse) / 2
  end,
  weight    = function(s, tau) return relu(s - tau) ^ 2 end,
  combine   = function(c)
    local list = {}
    for v = 1, views do list[v] = v == 2 and coefficients[v] * c.scale or coefficients[v] end
    return list
  end,
  output    = option("norm", 0) == 1 and rms_norm { eps = 1e-6 } or nil,
}

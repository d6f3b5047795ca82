-- options: dtype=f32 strict=false cap=2
-- Every field and every kind of parameter at once.
local strict, cap = option("strict", true), option("cap", 30)
return attention {
  name = "every.thing-1",
  dtype = option("dtype", "bf16"),
  precision = "tf32",
  head_dim = 40,
  value_dim = 72,
  views = 4,
  normalize = "none",
  mask = { causal(), window(512), window(64), full() },
  params = {
    a = learned(scalar, 1),
    b = learned(per_head, 0.5, { min = 0 }),
    c = learned(per_layer, 2, { max = 3 }),
    d = learned(per_layer_head, 0.25, { min = -1, max = 1 }),
    power = learned(per_head, 2, { min = 1, max = 4 }),
    scale = constant(0.125),
  },
  score = function(s, c)
    local bias = where(lt(c.i - c.j, 16), 0.1, 0) + c.d * c.head / 64
    return cap * tanh((s * c.scale + bias) / cap)
  end,
  threshold = function(c)
    if strict then return c.a end
    return max(c.a * log(c.q_len + c.k_len), c.b, 0.1) * min(c.layer + 1, c.c) / c.view
  end,
  weight = function(s, tau, c) return relu(s - tau) ^ c.power / (1 + abs(c.a)) end,
  combine = function(c) return { 1, -c.b, c.view, sigmoid(c.a) * floor(2.5) } end,
  output = rms_norm { eps = 1e-5, gain = learned(per_channel, 1) },
}

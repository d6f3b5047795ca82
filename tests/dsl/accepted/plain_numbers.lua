-- Functions and operators on plain numbers make plain numbers; conditions on them are Lua's.
assert(sqrt(16) == 4 and max(1, 3, 2) == 3 and min(4, 2) == 2 and clamp(7, 0, 5) == 5 and relu(-1) == 0)
assert(lt(1, 2) and not ge(1, 2) and where(gt(2, 1), 10, 20) == 10 and floor(2.5) == 2 and abs(-3) == 3)
assert(math.floor(2.5) == 2 and ("x"):rep(3) == "xxx" and string.format("%d", 7) == "7" and #table.pack(1, 2) == 2)
local values = {}
for k, v in ipairs { 1, 2, 3 } do values[k] = v * v end
return attention {
  name = "plain_numbers",
  head_dim = 2 ^ 6,
  threshold = function(c) return where(c.head_dim > 32, values[3] / 90, 5) end,
  weight = function(s, tau) return relu(s - tau) ^ (1 + 1) * exp2(0) end,
}

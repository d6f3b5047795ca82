local p = option("p", -1)
assert(p > 0, "p must be above 0")
return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

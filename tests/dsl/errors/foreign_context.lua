local kept
return attention {
  name = "x",
  threshold = function(c) kept = c return 0 end,
  weight = function(s, tau) return relu(s - tau) * kept.i end,
}

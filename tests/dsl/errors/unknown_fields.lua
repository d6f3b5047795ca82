return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  windoe = 3,
  zzz = 1,
  maks = causal(),
}

return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - taw) ^ 2 end,
  mask = causal(),
}

return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  params = { beta = learned(per_head, 2, { min = 1, max = 0 }) },
}

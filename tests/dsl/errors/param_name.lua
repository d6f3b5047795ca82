return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  params = { ["be ta"] = learned(per_head, 1) },
}

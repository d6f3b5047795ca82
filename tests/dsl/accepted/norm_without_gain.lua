return attention {
  name = "norm_without_gain",
  threshold = function(c) return 0.05 end,
  weight = function(s, tau) return where(gt(s, tau), (s - tau) ^ 1.5, 0) end,
  output = rms_norm(),
}

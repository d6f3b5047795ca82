return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  params = { gain = learned(scalar, 1) },
  output = rms_norm { gain = learned(per_channel, 1) },
}

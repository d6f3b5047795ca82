return attention {
  name = "x",
  threshold = function(c) return c.gain end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  output = rms_norm { gain = learned(per_channel, 1) },
}

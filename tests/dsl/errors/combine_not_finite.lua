return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  views = 2,
  params = { lambda = learned(scalar, 0) },
  combine = function(c) return { 1, log(c.lambda) } end,
}

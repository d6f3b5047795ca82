return attention {
  name = "x",
  threshold = function(c) return sqrt(1.5 - c.view) end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
  views = 2,
  combine = function(c) return { 1, -1 } end,
}

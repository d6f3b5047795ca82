return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau)
    if s == tau then return 0 end
    return s
  end,
}

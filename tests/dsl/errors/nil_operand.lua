return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau)
    local t = {}
    return s - t.tau
  end,
}

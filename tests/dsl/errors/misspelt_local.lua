local power = 2
return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau)
    local above = relu(s - tau)
    return abve ^ power
  end,
}

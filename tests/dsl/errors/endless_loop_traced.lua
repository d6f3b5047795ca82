return attention {
  name = "x",
  threshold = function(c)
    local x = c.i
    while true do x = x + 1 end
    return x
  end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau)
    local x = relu(s - tau)
    for k = 1, 60 do x = x * x end
    error("\27[2Jx is " .. tostring(x) .. ", tau is " .. tostring(tau + 1))
  end,
}

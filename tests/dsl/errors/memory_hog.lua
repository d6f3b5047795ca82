local t = {}
for k = 1, 1000 do t[k] = ("x"):rep(1000000, tostring(k)) end
return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return relu(s - tau) ^ 2 end,
}

local function f(x) return f(x) + 1 end
return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau) return f(s) end,
}

return attention {
  name = "windows_text",
  threshold = function(c) return 0 end,
  weight = function(s, tau) return relu(s - tau) end,
}

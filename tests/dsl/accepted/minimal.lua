-- Only what is required: everything else has its default.
return attention {
  name = "minimal",
  threshold = function(c) return 0 end,
  weight = function(s, tau) return relu(s - tau) end,
}

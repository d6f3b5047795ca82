-- The factor exp(s) is not finite for every finite s, so zeros are not proved.
return attention {
  name = "not_sparse",
  threshold = function(c) return 0.05 end,
  weight = function(s, tau) return relu(s - tau) * exp(s) end,
}

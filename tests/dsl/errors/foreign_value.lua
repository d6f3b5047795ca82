local kept
local function score(s, c) return s end
return attention {
  name = "x",
  threshold = function(c) return 0.1 end,
  weight = function(s, tau)
    kept = s
    return relu(s - tau)
  end,
  views = 2,
  combine = function(c) return { 1, kept } end,
}

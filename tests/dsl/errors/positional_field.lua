return attention { "x", threshold = function(c) return 0 end, weight = function(s, tau) return s end }

return attention {
  name = "x",

return attention "x"

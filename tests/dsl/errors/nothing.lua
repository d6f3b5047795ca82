local a = attention {}

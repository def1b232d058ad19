std = "luajit"
max_line_length = 150
cache = false
ignore = { "581" }   -- not (x < y) is not x >= y: NaN
files["tests/lua"] = { allow_defined_top = true }

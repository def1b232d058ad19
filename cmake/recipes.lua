-- luajit cmake/recipes.lua OUT FILE...: the text of the project's objectives and models as one Lua
-- module, so that the program finds them by name wherever it is run.
local out = assert(io.open(arg[1], "w"))
out:write "-- Text of recipes/*/*.lua by their names below recipes/. Made by cmake/recipes.lua.\nreturn {\n"
for i = 2, #arg do
  local file = assert(io.open(arg[i], "rb"))
  out:write(("  [%q] = %q,\n"):format(arg[i]:gsub("^recipes/", ""), file:read "*a"))
  file:close()
end
out:write "}\n"
out:close()

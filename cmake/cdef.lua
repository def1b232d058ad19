-- luajit cdef.lua HEADER OUT: the text between "/* cdef begin */" and "/* cdef end */" of HEADER as
-- a Lua module.
local header, out = ...
local text = assert(io.open(header)):read "*a"
local parts = {}
for part in text:gmatch "/%* cdef begin %*/(.-)/%* cdef end %*/" do
  parts[#parts + 1] = part:gsub("/%*.-%*/", "")   -- comments only cost start-up time
end
assert(#parts > 0, header .. ": no cdef markers")
local cdef = table.concat(parts, "\n"):gsub("[ \t]+\n", "\n"):gsub("\n\n+", "\n")
local file = assert(io.open(out, "w"))
file:write("return [==[", cdef, "]==]\n")
file:close()

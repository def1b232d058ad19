-- base: what all other rooms use: the C library through LuaJIT's FFI, texts, Lua literals, files of
-- rows, renamed names, and the list of public modules. Nothing in here uses tensors.
-- Uses: nothing.
return setmetatable({}, { __index = function(_, name) return require("ijepa.base." .. name) end })

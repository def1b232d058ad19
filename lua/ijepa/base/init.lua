-- base: what every other room stands on: the C library through LuaJIT's FFI, texts, Lua literals, files of rows, and the
-- list of public modules. Nothing in here knows of tensors.
-- Uses: nothing.
return setmetatable({}, { __index = function(_, name) return require("ijepa.base." .. name) end })

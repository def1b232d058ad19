-- host: the program at a terminal: command line, prompt, completion, help, the machine's check.
-- Uses: every room.
return setmetatable({}, { __index = function(_, name) return require("ijepa.host." .. name) end })

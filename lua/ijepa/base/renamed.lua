--- Warns once in a process that a name was renamed; the old name still works.
local warned = {}

---@param old string
---@param new string
return function(old, new)
  if warned[old] then return end
  warned[old] = true
  io.stderr:write(("ijepa: '%s' was renamed: use '%s'\n"):format(old, new))
end

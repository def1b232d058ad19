--- Reads the comments of a Lua source: the first one of the file, and those above functions. Used
--- when
-- the program is built (cmake/docs.lua makes the module ijepa._docs of ours), and for users' files.

local patterns = {   -- of a line that defines a function: table, mark, name, parameters
  "^%s*function%s+([%w_.]-)([.:])([%w_]+)%s*(%b())",
  "^%s*([%w_.]-)([.])([%w_]+)%s*=%s*function%s*(%b())",
}

-- name, parameters, mark ("." or ":") and the table's name of a definition.
local function definition(line)
  for _, pattern in ipairs(patterns) do
    local owner, mark, name, parameters = line:match(pattern)
    if name then return name, parameters, mark, owner end
  end
  -- a class of ijepa.nn
  local class, its = line:match '^local%s+[%w_]+%s*=%s*[%w_.]+%("([%w_.]+)",%s*function%s*(%b())'
  if class then return class:match "[%w_]+$", its, ".", "nn" end
  local name, parameters = line:match "^%s*local%s+function%s+([%w_]+)%s*(%b())"
  if not name then name, parameters = line:match "^%s*function%s+([%w_]+)%s*(%b())" end
  return name, parameters, ".", ""
end

local scan = {}

--- The lines of the comment that a source starts with.
---@param source string
---@return string
function scan.head(source)
  local lines = {}
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do
    local comment = line:match "^%-%-%-?%s?(.*)$"
    if not comment and not (#lines == 0 and line:find "^#!") then break end
    lines[#lines + 1] = comment
  end
  return table.concat(lines, "\n")
end

--- The functions of a source with a comment right above them, of three dashes (or of `dashes`).
---@param source string
---@param dashes string? "---" or "--"
---@return { name: string, owner: string, signature: string, text: string, line: integer }[]
function scan.functions(source, dashes)
  local functions, block, number = {}, nil, 0
  local start = "^%s*" .. (dashes or "---"):gsub("%-", "%%-") .. "%s?(.*)$"
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    local comment = line:match(start)
    if comment then
      block = block or {}
      local param, rest = comment:match "^@param%s+(%S+)%s*(.*)$"
      local result = comment:match "^@return%s+(.*)$"
      if param then comment = ("  %s: %s"):format(param, rest) elseif result then comment =
          "  returns " .. result end
      if param or result or not comment:find "^@" then block[#block + 1] = comment end
    else
      local name, parameters, mark, owner = definition(line)
      if name and block then
        functions[#functions + 1] = { name = name, owner = owner,
          signature = (mark == ":" and ":" or "") .. name .. parameters,
          text = table.concat(block, "\n"), line = number }
      end
      block = nil
    end
  end
  return functions
end

return scan

--- `RECIPE --help`: the comment that a recipe starts with and its settings. The recipe runs up to
--- its
-- call of ijepa.config, which stops it there.
local ijepa = require "ijepa"
local cli = require "ijepa.host.cli"
local config = require "ijepa.config"
local help = require "ijepa.host.help"
local scan = require "ijepa.host.scan"
local text = require "ijepa.base.text"

local recipe = {}

-- A value as the command line takes it: 10,20 for a list.
local function value_text(value)
  if value == nil then return "..." end
  if type(value) == "string" then return value end
  local s = config.dump(value):gsub("^return ", ""):gsub("%s+", " "):gsub("%s$", "")
  return (s:gsub("^{ ([^{}]*) }$", "%1"):gsub(", ", ","))
end

--- Prints a recipe's first comment and its settings. asked: what ijepa.config raised for --help.
---@param path string
---@param asked { given: table, schema: table|false }
function recipe.print(path, asked)
  local file = assert(io.open(path))
  local head = scan.head(file:read "*a")
  file:close()
  print(path)
  print(help.wrap(head, "  ", nil, true))
  local own = asked.schema ~= config.schema
  local schema = asked.schema or nil
  local rows = {}
  for _, key in ipairs(schema and config.keys(schema) or {}) do
    local leaf = config.describe(key, schema) --[[@as table]]
    local value = config.value(asked.given, key)
    if own or value ~= nil then
      if value == nil then value = leaf.default end
      rows[#rows + 1] = { ("%s=%s"):format(key, value_text(value)),
        own and leaf.doc or help.short(leaf.doc) }
    end
  end
  print(own and "Settings and their defaults:" or "Settings that it sets:")
  for _, row in ipairs(rows) do print(help.row(row[1], row[2] or "", 30)) end
  if not own then
    print "All settings: ijepa help settings, docs/settings.md"
  end
end

--- Prints the help of the recipe at a path. nil where there is no such file (no message) or where
--- it fails before it calls ijepa.config.
---@param path string
---@return boolean? shown, string? message
function recipe.show(path)
  local chunk, message = text.load_file(path)
  if not chunk then
    if message:find "^cannot open" then return nil end
    return nil, message
  end
  local before = ijepa.args
  ijepa.args = { "--help" }
  local ok, asked = cli.protected(chunk, "--help")
  ijepa.args = before
  if ok or asked.given == nil then
    return nil, ok and path .. ": the file calls no ijepa.config" or asked.text
  end
  recipe.print(path, asked)
  return true
end

return recipe

-- What `ijepa help NAME` and `? NAME` print: the comment above a function, taken from our sources when the program is
-- built (module ijepa._docs, made by cmake/docs.lua with help.scan) or from a user's file when asked.
local help = {}

local patterns = {   -- of a line that defines a function: table, mark, name, parameters
  "^%s*function%s+([%w_.]-)([.:])([%w_]+)%s*(%b())",
  "^%s*([%w_.]-)([.])([%w_]+)%s*=%s*function%s*(%b())",
}

local function definition(line)
  for _, pattern in ipairs(patterns) do
    local _, mark, name, parameters = line:match(pattern)
    if name then return name, parameters, mark end
  end
  local name, parameters = line:match "^%s*local%s+function%s+([%w_]+)%s*(%b())"
  if not name then name, parameters = line:match "^%s*function%s+([%w_]+)%s*(%b())" end
  return name, parameters, "."
end

--- The documented functions of a Lua source: the file's first comment, and a list of { name, signature, text, line }
--- of the functions with a comment that starts with three dashes (in a user's file two will do) right above them.
---@param source string
---@param dashes string? "---" or "--"
---@return string first, table[] functions
function help.scan(source, dashes)
  dashes = dashes or "---"
  local functions, block, number = {}, nil, 0
  local start = "^%s*" .. dashes:gsub("%-", "%%-") .. "%s?(.*)$"
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    local comment = line:match(start)
    if comment then
      block = block or {}
      local param, rest = comment:match "^@param%s+(%S+)%s*(.*)$"
      local result = comment:match "^@return%s+(.*)$"
      if param then comment = ("  %s: %s"):format(param, rest) elseif result then comment = "  returns " .. result end
      if param or result or not comment:find "^@" then block[#block + 1] = comment end
    else
      local name, parameters, mark = definition(line)
      if name and block then
        functions[#functions + 1] = {
          name = name, signature = (mark == ":" and ":" or "") .. name .. parameters, text = table.concat(block, "\n"), line = number,
        }
      end
      block = nil
    end
  end
  local words = {}   -- of the comment at the top
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do
    local comment = line:match "^%-%-%-?%s?(.*)$"
    if not comment then break end
    words[#words + 1] = comment
  end
  return table.concat(words, "\n"), functions
end

local function docs()
  local ok, found = pcall(require, "ijepa._docs")
  return ok and found or { modules = {}, names = {} }
end

local function sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

-- The first sentence, on one line.
local function brief(s)
  s = s:gsub("%s*\n%s*", " ")
  s = s:match "^(.-)%.%s" or s
  return #s > 100 and s:sub(1, 97):gsub("%s*%S*$", "") .. " ..." or (s:gsub("%.$", ""))
end

local function show_entry(name, entry)
  local module = name:match "^(.*)[.]" or ""
  print((module ~= "" and module .. (entry.signature:find "^:" and "" or ".") or "") .. entry.signature)
  print("  " .. entry.text:gsub("\n", "\n  "))
  return true
end

local function config_module()
  local config = require "ijepa.config"
  if not next(config.schema) then pcall(require, "ijepa.pretrain") end   -- it fills the schema
  return config
end

local function show_key(key)
  local config = config_module()
  local leaf = config.describe(key)
  if not leaf then return false end
  local default = leaf.default ~= nil and config.dump(leaf.default):gsub("^return ", ""):gsub("%s+$", "") or "none"
  print(("%s  (%s; default %s)"):format(key, leaf.type, default))
  if leaf.doc then print("  " .. leaf.doc) end
  return true
end

local function show_module(name, d)
  print("ijepa." .. name)
  print("  " .. d.modules[name]:gsub("\n", "\n  "))
  for _, key in ipairs(sorted(d.names)) do
    if key:match "^(.*)[.]" == name then print(("    %-30s %s"):format(d.names[key].signature, brief(d.names[key].text))) end
  end
  if name == "config" then
    print "  keys of a recipe:"
    for _, key in ipairs(config_module().keys()) do
      local leaf = config_module().describe(key)
      print(("    %-22s %s"):format(key, leaf.doc or leaf.type))
    end
  end
  return true
end

local function overview(d)
  print "Modules (ijepa.NAME; `ijepa help NAME` tells more; NAME may be a function or a configuration key too):"
  for _, name in ipairs(sorted(d.modules)) do print(("  %-12s %s"):format(name, brief(d.modules[name]))) end
  print "Functions of ijepa itself:"
  for _, key in ipairs(sorted(d.names)) do
    if not key:find "[.]" then print(("  %-24s %s"):format(d.names[key].signature, brief(d.names[key].text))) end
  end
  return true
end

-- A function: by its place in a source.
local function show_function(f, d)
  local at = debug.getinfo(f, "S")
  for _, key in ipairs(sorted(d.names)) do
    local entry = d.names[key]
    if at.linedefined == entry.line and at.source:sub(-#entry.file) == entry.file then return show_entry(key, entry) end
  end
  local file = at.what ~= "C" and io.open((at.source:gsub("^@", "", 1)))
  if not file then return false end
  local _, functions = help.scan(file:read "*a", "--")
  file:close()
  for _, entry in ipairs(functions) do
    if entry.line == at.linedefined then return show_entry(entry.name, entry) end
  end
  return false
end

--- Prints what is known about a name, function or module; nil prints what there is. nil when nothing is known.
---@param what any
---@return boolean?
function help.show(what)
  local d = docs()
  if what == nil then return overview(d) end
  if type(what) == "function" and show_function(what, d) then return true end
  if type(what) == "table" then
    for name in pairs(d.modules) do
      if package.loaded["ijepa." .. require "ijepa.base.names"[name]] == what then return show_module(name, d) end
    end
    if package.loaded.ijepa == what then return overview(d) end
  end
  if type(what) ~= "string" then
    io.stderr:write(("nothing is known about this %s\n"):format(type(what)))
    return nil
  end
  local name = what:gsub("^ijepa%.", ""):gsub(":", "."):gsub("%(.*", "")
  if d.modules[name] then return show_module(name, d) end
  if d.names[name] then return show_entry(name, d.names[name]) end
  local found = {}
  for _, key in ipairs(sorted(d.names)) do
    if key:match "[^.]+$" == name then found[#found + 1] = key end
  end
  for _, key in ipairs(found) do show_entry(key, d.names[key]) end
  if #found > 0 then return true end
  if show_key(name) then return true end
  local names = sorted(d.names)
  for _, key in ipairs(sorted(d.modules)) do names[#names + 1] = key end
  for _, key in ipairs(config_module().keys()) do names[#names + 1] = key end
  for i = 1, #names do names[#names + 1] = names[i]:match "[^.]+$" end
  io.stderr:write(("nothing is known about '%s'%s\n"):format(what, require "ijepa.base.text".hint(name, names)))
  return nil
end

return help

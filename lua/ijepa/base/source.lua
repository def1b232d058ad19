--- The source text of a function or of a table of functions, as a file that makes the same again.
-- What a function refers to outside itself must be found again too: modules, numbers, strings,
-- booleans, tables of these, and functions of which the same holds.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"

local source = {}

-- Text of what was typed at the prompt: chunk name -> text. The prompt (host/repl.lua) fills it.
source.typed = {}

local function lines_of(f)
  local at = debug.getinfo(f, "S")
  local all = source.typed[at.source]
  if not all then
    local file = at.source:sub(1, 1) == "@" and io.open(at.source:sub(2), "rb")
    if not file then return nil end
    all = file:read "*a" or ""
    file:close()
  end
  local lines, n = {}, 0
  for line in (all .. "\n"):gmatch "([^\n]*)\n" do
    n = n + 1
    if n >= at.linedefined and n <= at.lastlinedefined then lines[#lines + 1] = line end
  end
  return lines[1] and table.concat(lines, "\n")
end

-- A number of LuaJIT's bytecode dumps (ULEB128) at a position, and the position behind it.
local function number_at(bytes, at)
  local n, unit = 0, 1
  while true do
    local b = bytes:byte(at)
    if not b then return nil end
    n, at, unit = n + b % 128 * unit, at + 1, unit * 128
    if b < 128 then return n, at end
  end
end

-- The bytecode without names and lines: the same for the same text, wherever it stands. Where a
-- function finds its upvalues in the function around it is left out.
local function stripped(f)
  local ok, bytes = pcall(string.dump, f, true)
  if not ok then return nil end
  local at, parts = 6, { bytes:sub(1, 5) }   -- ESC "LJ", version, flags
  while true do
    local length, from = number_at(bytes, at)
    if not length then return nil end
    if length == 0 then return table.concat(parts) end
    local upvalues, after = bytes:byte(from + 3), from + 4
    local constants, count
    constants, after = number_at(bytes, after)
    if constants then constants, after = number_at(bytes, after) end
    if constants then count, after = number_at(bytes, after) end
    if not count then return nil end
    parts[#parts + 1] = bytes:sub(from, after + 4 * count - 1)
    parts[#parts + 1] = bytes:sub(after + 4 * count + 2 * upvalues, from + length - 1)
    at = from + length
  end
end

local function upvalue_names(f)
  local names, list = {}, {}
  for i = 1, 60 do
    local name, value = debug.getupvalue(f, i)
    if not name then break end
    if not names[name] then list[#list + 1] = { name = name, value = value } end
    names[name] = true
  end
  return list
end

-- The text of a function alone, "function(a, b) ... end", or nil.
local function text_of(f)
  local all = lines_of(f)
  if not all then return nil end
  local names, head = {}, ""
  for i, u in ipairs(upvalue_names(f)) do names[i] = u.name end
  if names[1] then head = "local " .. table.concat(names, ", ") .. " = ... " end
  local want = stripped(f)
  local from = 1
  while true do
    local first, after = all:find("%f[%w_]function%f[^%w_]", from)
    if not first then break end
    from = after + 1
    local rest = all:sub(after + 1)
    local name, parameters = rest:match "^%s*([%w_.:]*)%s*(%b())"
    local body = parameters and rest:sub((select(2, rest:find "^%s*[%w_.:]*%s*%b()")) + 1)
    if body then
      -- the method of an object has a parameter that its text does not name
      if name:find ":" then
        parameters = "(self" .. (parameters:find "^%(%s*%)" and ")" or ", " .. parameters:sub(2))
      end
      for stop in body:gmatch "%f[%w_]end%f[^%w_]()" do
        local one = "function" .. parameters .. body:sub(1, stop - 1)
        local chunk = loadstring(head .. "return " .. one)
        if chunk then
          if want and stripped(chunk()) == want then return one end
          break   -- further ends belong to what follows
        end
      end
    end
  end
  return nil
end

-- What every Lua has: found again without being told.
local STANDARD = { string = true, table = true, math = true, io = true, os = true, debug = true,
  coroutine = true, package = true, bit = true, jit = true, _G = true, self = true }

-- The globals that a function's text names and that are not Lua's own: names and values.
local function globals_of(f, own)
  local list, seen, env = {}, {}, debug.getfenv(f)
  for _, u in ipairs(upvalue_names(f)) do seen[u.name] = true end
  local code = own:gsub("%-%-[^\n]*", "")
  for _, pattern in ipairs { "local[ \t]+([%w_, \t]+)", "function[ \t]*[%w_.:]*%(([^)]*)%)",
    "for[ \t]+([%w_, \t]+)[ \t]*%f[=i]" } do
    for names in code:gmatch("%f[%w_]" .. pattern) do
      for name in names:gmatch "[%w_]+" do seen[name] = true end
    end
  end
  for before, name in code:gmatch "([^%w_]?)%f[%w_]([%a_][%w_]*)" do
    if not seen[name] and not STANDARD[name] and before ~= "." and before ~= ":"
        and before ~= '"' and before ~= "'" then
      seen[name] = true
      local ok, value = pcall(function() return env[name] end)
      local at = ok and type(value) == "function" and debug.getinfo(value, "S")
      if ok and value ~= nil and not (at and (at.what == "C" or F.is_internal(at.source))) then
        list[#list + 1] = { name = name, value = value }
      end
    end
  end
  return list
end

local function quoted(s)
  return (("%q"):format(s):gsub("\\\n", "\\n"):gsub("\r", "\\r"):gsub("%z", "\\0"))
end

local function module_of(value)
  for name, module in pairs(package.loaded) do
    if module == value and type(name) == "string" and name ~= "_G" and name:sub(1, 1) ~= "@" then
      return name
    end
  end
end

local value_text

local function table_text(t, seen, path)
  if getmetatable(t) then return nil, ("%s is an object"):format(path) end
  local parts, keys = {}, {}
  for key in pairs(t) do
    if type(key) ~= "string" and type(key) ~= "number" then return nil, path .. " has odd keys" end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for _, key in ipairs(keys) do
    local one, why = value_text(t[key], seen, type(key) == "string" and key or path)
    if not one then return nil, why end
    parts[#parts + 1] = ("[%s] = %s"):format(type(key) == "string" and quoted(key)
      or ("%.17g"):format(key), one)
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local function function_text(f, seen, path)
  local at = debug.getinfo(f, "S")
  local where = ("%s:%d"):format(at.source:gsub("^[@=]", "", 1), at.linedefined)
  local own = at.what ~= "C" and text_of(f)
  if not own then return nil, ("the text of '%s' (%s) can't be found"):format(path, where) end
  local lines = {}
  for _, u in ipairs(upvalue_names(f)) do
    local one, why = value_text(u.value, seen, u.name)
    if not one then return nil, why end
    if u.value ~= nil then lines[#lines + 1] = ("local %s = %s\n"):format(u.name, one)
    else lines[#lines + 1] = ("local %s\n"):format(u.name) end
  end
  for _, g in ipairs(globals_of(f, own)) do
    local one, why = value_text(g.value, seen, g.name)
    if not one then return nil, why end
    table.insert(lines, ("local %s = %s\n"):format(g.name, one))
  end
  if not lines[1] then return own end
  return ("(function()\n%sreturn %s\nend)()"):format(table.concat(lines), own)
end

function value_text(value, seen, path)
  local kind = type(value)
  if kind == "number" then
    if value ~= value then return "0/0" end
    if math.abs(value) == math.huge then return value > 0 and "1/0" or "-1/0" end
    return ("%.17g"):format(value)
  end
  if kind == "string" then return quoted(value) end
  if kind == "boolean" or kind == "nil" then return tostring(value) end
  local module = (kind == "table" or kind == "function") and module_of(value)
  if module then return ("require %s"):format(quoted(module)) end
  if kind == "table" or kind == "function" then
    if seen[value] then return nil, ("'%s' refers to itself"):format(path) end
    seen[value] = true
    local one, why
    if kind == "table" then one, why = table_text(value, seen, path)
    else one, why = function_text(value, seen, path) end
    seen[value] = nil
    return one, why
  end
  return nil, ("'%s' is a %s"):format(path, kind)
end

--- The text of a file that returns this function, or table with functions, again; nil and why not.
---@param value function|table
---@param title string of its first line
---@return string? text, string? message
function source.text(value, title)
  local one, why = value_text(value, {}, "it")
  if not one then return nil, why end
  local all = ("-- %s, kept by the run that used it.\nreturn %s\n"):format(text.shown(title), one)
  if not loadstring(all) then return nil, "its text can't be found" end
  return all
end

return source

-- Settings of a recipe: its table, completed by the defaults of a schema (settings.lua), changed by
-- key=value on the command line; and the import of the published code's YAML files.
--
-- A schema is a table of sections and settings; a setting is a table with a `type`:
--   { type = "integer", default = 128, doc = "Images per batch, 1 or more.",
--     check = function(v) return v > 0, "must be above 0" end }
-- check(value, section, key) returns whether it is fine, and what was expected. opaque: a table is
-- kept as it is, not copied (it may hold functions and objects). Numbers are finite,
-- and integers at most `max` (2^31 - 1). Types: "number", "integer", "boolean", "string",
-- "function", "table", "any", "numbers" or "strings" (lists), and alternatives like
-- "string|function". Without a default a setting may be nil.
-- Uses: base, tensor.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local config = {}

--- The settings of a pretraining recipe (settings.lua): the schema of ijepa.config without a
--- schema.
config.schema = require "ijepa.config.settings"
local renamed = require "ijepa.config.renamed"
local warn_renamed = require "ijepa.base.renamed"

-- "FILE:LINE" of a key in the user's file: the first line from the call on that sets it, else the
-- call's line. caller: "FILE:LINE" of the call.
local function line_of(caller, key)
  local path, line = (caller or ""):match "^(.*):(%d+)$"
  local file = path and io.open(path)
  if not file then return caller or "recipe" end
  local name, number, found = key:match "[^.]+$":gsub("%p", "%%%0"), 0, nil
  for source in file:lines() do
    number = number + 1
    if number >= tonumber(line) and source:find("%f[%w_]" .. name .. "%f[^%w_][%s\"%]']*=") then
      found = number
      break
    end
  end
  file:close()
  return path .. ":" .. (found or line)
end

local function is_leaf(node) return type(node) == "table" and type(node.type) == "string" end

local function is_list(t)
  return type(t) == "table" and (#t > 0 or next(t) == nil)
end

-- Every dotted key of a schema or of a recipe's table.
local function all_keys(node, prefix, keys)
  for _, name in ipairs(text.keys(node)) do
    local child, key = node[name], prefix .. name
    keys[#keys + 1] = key
    if type(child) == "table" and not is_leaf(child) and not is_list(child) then
      all_keys(child, key .. ".", keys)
    end
  end
  return keys
end

-- The key that was meant: the nearest complete key, or one whose last part is the same.
local function hint(key, keys)
  local near = text.nearest(key, keys)
  if not near then
    local last = key:gsub("^.*%.", "")
    for _, k in ipairs(keys) do
      if k:match "[^.]+$" == last then near = k end
    end
  end
  return near and (" (did you mean '%s'?)"):format(near) or ""
end

local function find(node, key)
  for name in key:gmatch "[^.]+" do
    if type(node) ~= "table" or is_leaf(node) then return nil end
    node = node[name]
  end
  return node
end

-- The type of a value without a schema.
local function type_of(value)
  if not is_list(value) then return type(value) end
  if type(value[1]) == "string" then return "strings" end
  return type(value[1]) == "number" and "numbers" or "table"
end

local function is_finite(v) return type(v) == "number" and v == v and math.abs(v) < math.huge end

local function every(list, kind)
  if not is_list(list) then return false end
  for _, v in ipairs(list) do
    if type(v) ~= kind or kind == "number" and not is_finite(v) then return false end
  end
  return true
end

local function fits(value, kind)
  for one in kind:gmatch "[^|]+" do
    if one == "any" or one == type(value) and one ~= "number" then return true end
    if one == "number" and is_finite(value) then return true end
    if one == "integer" and is_finite(value) and value % 1 == 0 then return true end
    if one == "numbers" and every(value, "number") or one == "strings" and every(value,
        "string") then
      return true
    end
  end
  return false
end

local articles = { integer = "an integer", numbers = "a list of numbers",
  strings = "a list of strings", any = "anything" }

local function wanted(kind)
  return (kind:gsub("[^|]+", function(one) return articles[one] or "a " .. one end):gsub("|",
    " or "))
end

local function to_number(word)
  local n = word:find "^[-+.%deExXa-fA-F]+$" and tonumber((word:gsub("^%+", "")))
  return n and n == n and math.abs(n) ~= math.huge and n or nil
end

local function to_list(word, kind)
  local list = {}
  word = word:match "^%s*{(.*)}%s*$" or word
  if word:find "%S" then
    for item in (word .. ","):gmatch "%s*([^,]-)%s*," do
      local v = item:match "^[\"'](.*)[\"']$" or item
      if kind == "numbers" then v = to_number(v) end
      if v == nil then return nil end
      list[#list + 1] = v
    end
  end
  return list
end

-- The value of an argument's text, or nil where it is not of the type `kind`.
local function parse(word, kind)
  local readers = {
    number = to_number, integer = to_number,
    boolean = function(w) if w == "true" then return true elseif w == "false" then return false end end,
    numbers = function(w) return to_list(w, "numbers") end,
    strings = function(w) return to_list(w, "strings") end,
    string = function(w) return w end,
  }
  readers.any = function(w)
    local v = readers.boolean(w)
    if v ~= nil then return v end
    return to_number(w) or w
  end
  local text_last   -- every text is a string: other types come first, a list only in braces
  if ("|" .. kind .. "|"):find("|string|", 1, true) then text_last = word end
  for one in kind:gmatch "[^|]+" do
    if one ~= "string" and readers[one]
        and not (text_last and one:find "s$" and not word:find "^%s*{") then
      local v = readers[one](word)
      if v ~= nil and fits(v, one) then return v end
    end
  end
  return text_last
end

local function copy(value)
  if type(value) ~= "table" then return value end
  local t = {}
  for k, v in pairs(value) do t[k] = copy(v) end
  return t
end

-- A fresh table: the schema's defaults under what is given.
local function complete(node, given)
  local t = {}
  for name, child in pairs(node) do
    if is_leaf(child) then
      t[name] = copy(child.default)
    elseif given[name] == nil or type(given[name]) == "table" then
      t[name] = complete(child, given[name] or {})
    end
  end
  for name, value in pairs(given) do
    local child = node[name]
    if child == nil or is_leaf(child) or type(value) ~= "table" then
      t[name] = child and child.opaque and value or copy(value)
    end
  end
  return t
end

-- In a message, which is one line.
local function plain(word) return (word:gsub("%c", "?")) end

local function shown(value)
  if type(value) == "string" then return ("'%s'"):format(plain(value)) end
  if type(value) == "number" then return ("%.14g"):format(value) end
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for i, v in ipairs(value) do parts[i] = type(v) == "number" and ("%.14g"):format(v) or nil end
  return #parts > 0 and #parts == #value and #parts <= 8 and "{" .. table.concat(parts, ", ")
    .. "}" or "a table"
end

-- What is wrong with a number's size, as the end of a message, or nil. most: of integers.
local function beyond(value, kind, most)
  for _, v in ipairs(type(value) == "table" and value or { value }) do
    if type(v) == "number" and not is_finite(v) then return ", which is not finite" end
    if kind:find "integer" and type(v) == "number" and math.abs(v) > (most or 2 ^ 31 - 1) then
      return (", which is beyond integers: expected at most %.0f"):format(most or 2 ^ 31 - 1)
    end
  end
end

-- Checks every value of t; where(key) gives "FILE:LINE" or "command line" for messages.
local function check(node, t, prefix, where, keys)
  for _, name in ipairs(text.keys(t)) do
    local child, value, key = node[name], t[name], prefix .. name
    if child == nil then
      F.raise(("%s: unknown key '%s'%s"):format(where(key), key, hint(key, keys)), 0)
    elseif is_leaf(child) then
      local size = beyond(value, child.type, child.max)
      if size then F.raise(("%s: '%s' is %s%s"):format(where(key), key, shown(value), size), 0) end
      if not fits(value, child.type) then
        F.raise(("%s: '%s' is %s, expected %s"):format(where(key), key, shown(value),
          wanted(child.type)), 0)
      end
      local ok, why = true, nil
      if child.check then ok, why = child.check(value, t, key) end
      if not ok then
        F.raise(("%s: '%s' is %s: %s"):format(where(key), key, shown(value), why or "not allowed"),
          0)
      end
    elseif type(value) ~= "table" then
      F.raise(("%s: '%s' is %s, expected a table"):format(where(key), key, shown(value)), 0)
    else
      check(child, value, key .. ".", where, keys)
    end
  end
  for name in pairs(t) do
    if type(name) ~= "string" then
      local section = prefix == "" and "the configuration" or ("'%s'"):format(prefix:sub(1, -2))
      F.raise(("%s: %s holds a value without a key"):format(where(prefix:sub(1, -2)), section), 0)
    end
  end
end

local function set(t, key, value)
  local path, last = key:match "^(.*)%.([^.]+)$"
  for name in (path or ""):gmatch "[^.]+" do
    if type(t[name]) ~= "table" then t[name] = {} end
    t = t[name]
  end
  t[last or key] = value
end

-- What ijepa.config raises for RECIPE --help; the command line prints it.
local Asked = { __tostring = function() return "the recipe's settings were asked for with --help" end }

-- { key, text } of every argument; only key=value is allowed.
local function overrides(args, given, schema)
  local list = {}
  for i, word in ipairs(args) do
    if word == "--help" or word == "-h" then
      error(setmetatable({ exit = 0, given = given, schema = schema or false }, Asked), 0)
    end
    local key, value = word:match "^([%a_][%w_.]*)=(.*)$"
    if not key then F.raise(("command line: '%s' is not key=value"):format(plain(word)), 0) end
    list[i] = { key, value }
  end
  return list
end

-- The values with old names of settings replaced; warns once for each.
local function with_new_names(given)
  local t = given
  for old, new in pairs(renamed) do
    local value = type(t) == "table" and find(t, old)
    if value ~= nil then
      warn_renamed(old, new)
      if t == given then t = copy(given) end
      set(t, old, nil)
      if find(t, new) == nil then set(t, new, value) end
    end
  end
  return t
end

-- All tensors and models that the recipe makes live on this device.
local function use_device(name, where)
  local C, out = F.C, F.new "ij_device *[1]"
  local ok, message = F.try(C.ij_device_open(name, out))
  if not ok then F.raise(where and ("%s: %s"):format(where, message) or message, 0) end
  require("ijepa.tensor.device").use(out[0])
end

--- The settings of a run as a new table: the schema's defaults, overridden by `given`, overridden
--- by key=value of the command line (ijepa.args). An unknown key or a value of the wrong type
--- raises an error that names the line of the recipe, or the command line.
---
---     local cfg = ijepa.config { data = { root = "train", batch = 128 } }
---
---@param given table the recipe's values; without a schema they are the known keys and give the
--- types
---@param schema table|false|nil another schema than config.schema; false: none
---@param args string[]? instead of the command line
---@return table
function config.resolve(given, schema, args)
  if type(given) ~= "table" then
    F.raise(("config: expected a table, not %s"):format(shown(given)))
  end
  if schema == nil then
    -- a recipe: from here on a reader of its output that goes away costs no run
    F.C.ij_pipe_ignore()
    schema = config.schema
    given = with_new_names(given)
  end
  local caller, from_command = F.caller(), {}
  local keys = all_keys(schema or given, "", {})
  local function where(key) return from_command[key] and "command line" or line_of(caller, key) end
  if schema then check(schema, given, "", where, keys) end
  local t = schema and complete(schema, given) or copy(given)
  for _, pair in ipairs(overrides(args or require "ijepa".args, given, schema)) do
    local key, word = pair[1], pair[2]
    if schema == config.schema and renamed[key] then
      warn_renamed(key, renamed[key])
      key = renamed[key]
    end
    local leaf = find(schema or given, key)
    local kind = leaf ~= nil and (not schema and type_of(leaf) or is_leaf(leaf) and leaf.type)
    if leaf == nil then
      F.raise(("command line: unknown key '%s'%s"):format(key, hint(key, keys)), 0)
    elseif kind == "table" then
      F.raise(("command line: '%s' is a table: set it in a recipe"):format(key), 0)
    elseif not kind then
      F.raise(("command line: '%s' is a table: set one of its keys, like %s.%s=..."):format(key,
        key,
        text.keys(leaf)[1] or "name"), 0)
    end
    local value = parse(word, kind)
    if value == nil then
      local number = tonumber(word)
      F.raise(("command line: '%s' is '%s', %sexpected %s"):format(key, plain(word),
        number and not is_finite(number) and "which is not finite: " or "",
        wanted((kind:gsub("|function", "")))), 0)
    end
    from_command[key] = true
    set(t, key, value)
  end
  if schema then check(schema, t, "", where, keys) end
  local cpus = F.C.ij_cpu_count()
  if schema == config.schema and t.threads > cpus then
    io.stderr:write(("ijepa: threads=%d exceeds the %s: expect slower steps; threads=0 uses all CPUs\n"):format(
      t.threads, text.count(cpus, "CPU")))
  end
  if schema and schema.device and t.device ~= "" then use_device(t.device, where "device") end
  return t
end

-- The part of t that the schema knows.
local function known(node, t)
  local kept = {}
  for name, child in pairs(node) do
    if is_leaf(child) or type(t[name]) ~= "table" then
      kept[name] = t[name]
    else
      kept[name] = known(child, t[name])
    end
  end
  return kept
end

--- Settings from a file, perhaps of another version or from a stranger: unknown keys are dropped,
--- values are checked.
---@param saved table
---@param where string the start of a message
---@param filled boolean? add defaults for missing keys
---@return table? settings, string? message
function config.restored(saved, where, filled)
  local t = known(config.schema, with_new_names(saved))
  if filled then t = complete(config.schema, t) end
  local ok, message = pcall(check, config.schema, t, "", function() return where end, {})
  if ok then return t end
  return nil, message
end

local function number_text(n)
  if n ~= n then return "0/0" end
  if n == math.huge then return "1/0" elseif n == -math.huge then return "-1/0" end
  local short = ("%.14g"):format(n)
  return tonumber(short) == n and short or ("%.17g"):format(n)
end

local function key_text(key)
  if type(key) ~= "string" then return ("[%s]"):format(tostring(key)) end
  local reserved = not loadstring(("local %s"):format(key))
  return key:find "^[%a_][%w_]*$" and not reserved and key or ("[%q]"):format(key)
end

local function value_text(value, indent, open)
  local kind = type(value)
  if kind == "number" then return number_text(value) end
  if kind == "boolean" then return tostring(value) end
  if kind == "string" then
    return (("%q"):format(value):gsub("\\\n", "\\n"):gsub("\r", "\\r"):gsub("%z", "\\0"))
  end
  if kind == "function" then
    local at = debug.getinfo(value, "S")
    return ("nil --[[ function at %s:%d ]]"):format(
      (at.source:gsub("^[@=]", "", 1):gsub("%]%]", "")), at.linedefined)
  end
  if kind ~= "table" then return ("nil --[[ %s ]]"):format(kind) end
  if open[value] then return "nil --[[ a table in itself ]]" end
  open[value] = true
  local parts, inner, flat = {}, indent .. "  ", true
  for _, v in ipairs(value) do
    parts[#parts + 1] = value_text(v, inner, open)
    flat = flat and type(v) ~= "table"
  end
  local listed, names = #parts, {}
  for k in pairs(value) do
    if not (type(k) == "number" and k % 1 == 0 and k >= 1 and k <= listed) then
      names[#names + 1] = k
    end
  end
  table.sort(names, function(a, b)
    if type(a) == type(b) and type(a) ~= "boolean" then return a < b end
    return tostring(a) < tostring(b)
  end)
  for _, k in ipairs(names) do
    parts[#parts + 1] = key_text(k) .. " = " .. value_text(value[k], inner, open)
  end
  open[value] = nil
  if #parts == 0 then return "{}" end
  if flat and #names == 0 then return "{ " .. table.concat(parts, ", ") .. " }" end
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. ",\n" .. indent .. "}"
end

--- Lua source text ("return { ... }") of settings, keys sorted, so that equal settings give equal
--- text. A function becomes nil with a comment that names its file and line.
---@param t table
---@return string
function config.dump(t) return "return " .. value_text(t, "", {}) .. "\n" end

--- A setting as { key, type, default, doc }, or nil. key: dotted. schema: config.schema without
--- one.
---@param key string
---@param schema table?
---@return table?
function config.describe(key, schema)
  local leaf = find(schema or config.schema, key)
  if not is_leaf(leaf) then return nil end
  return { key = key, type = leaf.type, default = leaf.default, doc = leaf.doc }
end

--- The value of a dotted key in a table of settings, or nil.
---@param t table
---@param key string
---@return any
function config.value(t, key) return find(t, key) end

--- Every dotted key of a schema (config.schema without one), sorted.
---@param schema table?
---@return string[]
function config.keys(schema)
  local keys = {}
  schema = schema or config.schema
  for _, key in ipairs(all_keys(schema, "", {})) do
    if is_leaf(find(schema, key)) then keys[#keys + 1] = key end
  end
  return keys
end

return setmetatable(config,
  { __call = function(_, given, schema, args) return config.resolve(given, schema, args) end })

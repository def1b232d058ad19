-- What Tab completes: names and methods in code, settings in ijepa.config { ... }, files and
-- settings in quotes; after `f(` it shows the parameters of f.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local complete = {}

local MAXIMUM = 200   -- candidates shown
local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if",
  "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while" }

-- The position of the quote that is open at the end of `code`, and the names before the open
-- braces: "ijepa.config" and "data" in 'ijepa.config { data = { ba'.
local function context(code)
  local open, i = {}, 1
  while i <= #code do
    local c = code:sub(i, i)
    if c == '"' or c == "'" then
      local j = i + 1
      while j <= #code and code:sub(j, j) ~= c do j = j + (code:sub(j, j) == "\\" and 2 or 1) end
      if j > #code then return i, open end
      i = j
    elseif code:sub(i, i + 1) == "--" then
      i = code:find("\n", i, true) or #code
    elseif c == "{" then
      open[#open + 1] = code:sub(1, i - 1):match "([%w_.]+)%s*[=(]?%s*$" or ""
    elseif c == "}" then
      open[#open] = nil
    end
    i = i + 1
  end
  return nil, open
end

local function starts(word, start) return word:sub(1, #start) == start end

-- object.name without running the user's code; nil where that is not possible.
local function field(object, name)
  if type(object) == "string" then return string[name] end
  if type(object) ~= "table" then return nil end
  local value = rawget(object, name)
  if value ~= nil then return value end
  local meta = getmetatable(object)
  local index = type(meta) == "table" and rawget(meta, "__index")
  if type(index) == "table" then return field(index, name) end
  if type(index) == "function" and (F.is_internal(debug.getinfo(index, "S").source)) then
    local ok, found = pcall(index, object, name)   -- ours only look up
    return ok and found or nil
  end
end
complete.field = field

--- The value of a path such as "a.b[1].c:d", or nil.
---@param path string
---@param env table
function complete.value(path, env)
  local value, rest = env, "." .. path
  while rest ~= "" do
    local name, after = rest:match "^[.:]([%a_][%w_]*)(.*)$"
    if not name then
      name, after = rest:match "^%[(%d+)%](.*)$"
      name = tonumber(name)
    end
    if not name then name, after = rest:match "^%[[\"']([^\"'%]]*)[\"']%](.*)$" end
    if not name then return nil end
    value, rest = field(value, name), after
    if value == nil then return nil end
  end
  return value
end

-- The names that a value answers to; only functions where `methods`.
local function names_of(value, methods, hidden)
  local seen = {}
  local function add(t)
    for key, v in pairs(t) do
      if type(key) == "string" and key:find "^[%a_][%w_]*$" and not key:find "^__"
          and (hidden or not key:find "^_")
        and (not methods or type(v) == "function") then seen[key] = true end
    end
  end
  local function class(object)
    local meta = type(object) == "string" and { __index = string } or getmetatable(object)
    local index = type(meta) == "table" and rawget(meta, "__index")
    if type(index) == "table" then
      add(index)
      if index ~= object then class(index) end
    elseif type(index) == "function" then
      add(meta)
    end
  end
  if type(value) == "table" then add(value) end
  class(value)
  return seen
end

-- Modules of the program that are not loaded yet.
local function add_modules(seen)
  local ok, docs = pcall(require, "ijepa._docs")
  for name in pairs(ok and docs.modules or {}) do
    if not name:find "[._]" then seen[name] = true end
  end
end

local function code_names(word, env)
  local base, mark, start = word:match "^(.-)([.:]?)([%w_]*)$"
  local value = base == "" and env or complete.value(base, env)
  if value == nil or (base == "" and mark ~= "") then return start, {} end
  local seen = names_of(value, mark == ":", start ~= "")
  local ijepa = package.loaded.ijepa
  if value == env then
    for name in pairs(names_of(_G)) do seen[name] = true end
    for name in pairs(names_of(ijepa)) do seen[name] = true end
    for _, name in ipairs(start ~= "" and KEYWORDS or {}) do seen[name] = true end
  end
  if value == env or value == ijepa then add_modules(seen) end
  return start, text.keys(seen)
end

--- The names that Tab knows after `base`: "" (the session's), "mask." or "grid:".
---@param base string
---@param env table
---@return string[]
function complete.names(base, env)
  local _, list = code_names(base, env)
  return list
end

--- The methods of an object, sorted.
---@param value table
---@return string[]
function complete.methods(value)
  local own = {}
  for key in pairs(value) do own[key] = true end
  local list = {}
  for _, name in ipairs(text.keys(names_of(value, true))) do
    if not own[name] then list[#list + 1] = name end
  end
  return list
end

-- The parameters of the function before an open parenthesis at the end: "mask.draw(policy, o)
-- ...".
local function parameters(before, env)
  local path = before:match "([%a_][%w_.:]*)%s*%(%s*$"
  local f = path and complete.value(path, env)
  return type(f) == "function" and require "ijepa.host.help".signature(f) or nil
end

local function is_setting(node) return type(node.type) == "string" end

-- After `ijepa.config { data = {`: the keys of `data`, with " = " appended.
local function setting_names(open, env)
  local node
  for _, name in ipairs(open) do
    if name:find "config$" and (name == "config" or complete.value(name, env)) then
      node = require "ijepa.config.settings"
    else node = node and node[name] end
    if node and is_setting(node) then return nil end
  end
  local list = node and text.keys(node)
  for i = 1, #(list or {}) do list[i] = list[i] .. " = " end
  return list
end

local function all_settings(node, prefix, list)
  for _, name in ipairs(text.keys(node)) do
    if is_setting(node[name]) then list[#list + 1] = prefix .. name .. "="
    else all_settings(node[name], prefix .. name .. ".", list) end
  end
  return list
end

-- Files whose path starts with this: the start of the last name, the names (folders with "/"), and
-- for "~" the number of characters to erase and the path to put instead.
local function files(path)
  local home, erase, put = os.getenv "HOME", 0, ""
  if home and path:find "^~/" or path == "~" then   -- io.open knows no ~
    erase, put = #path, home .. (path == "~" and "/" or path:sub(2))
    path = put
  end
  local folder, start = path:match "^(.*/)([^/]*)$"
  if not folder then folder, start = "", path end
  local names, list = F.new "char *[1]", {}
  if F.C.ij_dir_list(folder == "" and "." or folder, names) == 0 then
    for name in F.string(names[0]):gmatch "[^\n]+" do
      if starts(name, start) and (start ~= "" or not name:find "^%.") then
        list[#list + 1] = name .. (F.C.ij_path_kind(folder .. name) == 2 and "/" or "")
      end
    end
    F.C.ij_bytes_free(names[0])
  end
  table.sort(list)
  return start, list, erase, put
end

local function common(list)
  local first = list[1] or ""
  for _, word in ipairs(list) do
    while not starts(word, first) do first = first:sub(1, -2) end
  end
  return first
end

-- Names in columns, in order downwards.
local function columns(names, width)
  local widest, lines, list = 0, {}, {}
  for i, name in ipairs(names) do list[i] = text.shown(name) end
  local shown = math.min(#list, MAXIMUM)
  for i = 1, shown do widest = math.max(widest, #list[i]) end
  local across = math.max(1, math.floor((width + 1) / (widest + 2)))
  local rows = math.ceil(shown / across)
  for row = 1, rows do
    local parts = {}
    for i = row, shown, rows do parts[#parts + 1] = list[i] .. (" "):rep(widest - #list[i]) end
    lines[row] = table.concat(parts, "  "):gsub("%s+$", "")
  end
  if shown < #list then lines[#lines + 1] = ("... %d in all"):format(#list) end
  return table.concat(lines, "\n")
end

--- What Tab does after `before`: the number of characters to erase, the text to insert, and what to
--- show.
---@param before string
---@param env table
---@param width integer? columns of the terminal
---@return integer erase, string insert, string? choices
function complete.tab(before, env, width)
  local quote, open = context(before)
  local start, list
  local erase, put, closing = 0, "", ""
  if quote then
    local inside = before:sub(quote + 1)
    closing = before:sub(quote, quote)
    start, list, erase, put = files(inside:match "^[%w_.]+=(.*)$" or inside)
    if #list == 0 and inside ~= "" and erase == 0 then
      start, list, closing = inside, all_settings(require "ijepa.config.settings", "", {}), ""
    end
  else
    local line_start = before:match "^%s*$" or before:match "\n%s*$"
    if line_start and #open == 0 then return 0, "  " end   -- nothing to complete: indent
    local signature = parameters(before, env)
    if signature then return 0, "", signature end
    local word = before:match "[%w_.:%[%]\"']*$"
    if word:find "^[%a_]+[^%[]*%]" then word = word:match "[%w_.:]*$" end
    local settings = not word:find "[.:]" and before:sub(1, -1 - #word):find "[{,]%s*$"
      and setting_names(open, env)
    if settings then start, list = word, settings else start, list = code_names(word, env) end
  end
  local fitting = {}
  for _, name in ipairs(list) do
    if starts(name, start) then fitting[#fitting + 1] = name end
  end
  local insert = #fitting > 0 and common(fitting):sub(#start + 1) or ""
  if insert:find "%c" then return 0, "", columns(fitting, width or 80) end   -- can't be typed
  if #fitting == 1 and closing ~= "" and not fitting[1]:find "/$" then
    insert = insert .. closing
  end
  return erase, put .. insert, #fitting > 1 and insert == "" and columns(fitting, width or 80)
    or nil
end

return complete

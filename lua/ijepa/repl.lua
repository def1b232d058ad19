-- The interactive session: results print without "=", a last ";" hides them, ">>" while a chunk is unfinished, "? NAME"
-- helps, Tab completes names, Ctrl-C stops what runs. Input that is no terminal is read without prompts or echo.
local ijepa = require "ijepa"
local F = require "ijepa._ffi"
local cli = require "ijepa.cli"
local repl = {}

local env = setmetatable({ ijepa = ijepa, help = function(name) ijepa.help(name) end }, {
  __index = function(_, name)   -- tensor, mask, ... without "ijepa." in front
    local value = rawget(_G, name)
    if value == nil then value = ijepa[name] end
    return value
  end,
})
env._G = env

local function short(value, depth)
  if type(value) == "string" then
    local quoted = ("%q"):format(value):gsub("\\\n", "\\n")
    return #quoted > 200 and quoted:sub(1, 200) .. "..." or quoted
  end
  local meta = type(value) == "table" and getmetatable(value)
  if type(value) ~= "table" or (meta and meta.__tostring) or depth > 1 then return tostring(value) end
  local parts, count = {}, 0
  for _, v in ipairs(value) do
    count = count + 1
    if count <= 20 then parts[count] = short(v, depth + 1) end
  end
  local names, listed = {}, count
  for k in pairs(value) do
    if not (type(k) == "number" and k % 1 == 0 and k >= 1 and k <= listed) then names[#names + 1] = k end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(names) do
    count = count + 1
    if #parts < 40 then
      parts[#parts + 1] = (type(k) == "string" and k or "[" .. short(k, 2) .. "]") .. " = " .. short(value[k], depth + 1)
    end
  end
  if count > #parts then parts[#parts + 1] = ("... (%d in all)"):format(count) end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

local function print_results(results)
  local parts = {}
  for i = 1, results.n do
    local value = results[i]
    parts[i] = type(value) == "string" and results.n == 1 and value or short(value, 0)
  end
  print(table.concat(parts, "\t"))
end

local function pack(...) return { n = select("#", ...), ... } end

-- A chunk for `source`, to be called with pack: an expression gives its packed values (as arguments of a call, so that
-- it is no tail call and the session's line stays in tracebacks), then true; a statement what it returns. nil, message
-- where it does not compile; the third result tells that more lines could complete it.
local function compile(source)
  local chunk = loadstring("return (...)(" .. source .. "\n)", "=session")
  if chunk then return chunk, true end
  local message
  chunk, message = loadstring(source, "=session")
  if chunk then return chunk, false end
  return nil, message, message:find "'<eof>'$" ~= nil
end

-- Runs one complete input. False when it failed.
local function run(source, host)
  local name = source:match "^%s*%?%s*(.-)%s*$"
  if name then return ijepa.help(name ~= "" and name or nil) ~= nil end
  local hidden = source:find ";%s*$"
  local chunk, expression = compile((source:gsub(";%s*$", "")))
  if not chunk then
    io.stderr:write(expression, "\n")   -- here it is the message
    return false
  end
  setfenv(chunk, env)
  if host then   -- compiled loops do not look for Ctrl-C: what is typed here runs interpreted
    jit.off(chunk, true)
    host.catch_interrupt(true)
  end
  local results
  local ok, failure = cli.protected(function()
    results = pack(chunk(pack))
    if expression then results = results[1] end
    if results.n > 0 and not hidden then print_results(results) end   -- a __tostring may fail too
  end)
  if host then host.catch_interrupt(false) end
  if ok then
    if results.n > 0 then env._ = results[1] end
    return true
  end
  if failure.exit then
    if failure.exit == 130 and host then
      io.stderr:write "interrupted\n"
      return false
    end
    return nil, failure.exit
  end
  io.stderr:write(failure.text, "\n")
  return false
end

local function history_path()
  local state = os.getenv "XDG_STATE_HOME"
  if not state or state == "" then
    local home = os.getenv "HOME"
    if not home or home == "" then return nil end
    state = home .. "/.local/state"
  end
  local folder = state .. "/ijepa"
  if F.C.ij_mkdirs(folder) ~= 0 then return nil end
  return folder .. "/history"
end

--- Names that complete a word like "ijepa.con" or "t:na"; at most 200, sorted.
---@param word string
---@return string[]
function repl.complete(word)
  local base, mark, start = word:match "^(.-)([.:]?)([%w_]*)$"
  local value = env
  for name in base:gmatch "[^.:]+" do
    local ok, next_value = pcall(function() return value[name] end)
    if not ok or next_value == nil then return {} end
    value = next_value
  end
  local found, seen = {}, {}
  local function add(t)
    for k in pairs(t) do
      if type(k) == "string" and k:find "^[%a_][%w_]*$" and k:sub(1, #start) == start and not seen[k]
        and (start ~= "" or not k:find "^_") then
        seen[k] = true
        found[#found + 1] = base .. mark .. k
      end
    end
  end
  if type(value) == "table" then add(value) end
  local meta = type(value) == "string" and { __index = string } or getmetatable(value)
  if type(meta) == "table" and type(meta.__index) == "table" then add(meta.__index) end
  if value == env then
    add(_G)
    add(ijepa)
  end
  local ok, docs = pcall(require, "ijepa._docs")
  if ok and (value == ijepa or value == env) then add(docs.modules) end
  table.sort(found)
  return { unpack(found, 1, 200) }
end

-- Lines from the terminal or another input; read(first) asks for one: nil at the end, false after Ctrl-C.
local function reader(host)
  if not host then
    return function() return io.read "*l" end
  end
  return function(first)
    io.stdout:flush()
    return host.readline(first and "> " or ">> ")
  end
end

--- Runs the session until the input ends; returns the exit code.
---@return integer
function repl.main()
  local C = F.C
  local terminal = C.ij_isatty(0) ~= 0
  local ok, host = pcall(require, "ijepa._host")
  if not terminal or not ok then host = nil end
  local history = host and history_path()
  if host then
    io.stderr:write(("ijepa %s: ? helps, Ctrl-D leaves\n"):format(ijepa.version))
    host.complete_with(repl.complete)
    if history then host.history_load(history) end
  end
  local read, code = reader(host), 0
  while true do
    local source = read(true)
    if source == nil then break end
    while source and not source:find "^%s*%?" do
      local _, _, unfinished = compile((source:gsub(";%s*$", "")))
      local line
      if unfinished then line = read(false) end
      if line == nil then break end
      source = line and source .. "\n" .. line   -- false: Ctrl-C drops what was typed so far
    end
    if not source then
      io.stdout:write "\n"
    elseif source:find "%S" then
      if host then host.history_add(source) end
      local fine, leave = run(source, host)
      if leave then
        code = leave
        break
      end
      if not fine and not terminal then code = 1 end
    end
  end
  if host then
    if history then host.history_save(history) end
    io.stdout:write "\n"
  end
  return code
end

return repl

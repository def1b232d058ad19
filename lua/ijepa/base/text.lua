-- Small helpers for text.
local F = require "ijepa.base.ffi"
local text = {}

-- Edits (insert, delete, replace, swap neighbours) between a and b.
local function distance(a, b)
  local before, last
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    before, last, row = last, row, { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
  end
  return row[#b]
end

--- The names that are near `name`, the nearest first, at most `limit`.
---@param name string
---@param names string[]
---@param limit integer
---@return string[]
function text.near(name, names, limit)
  local found = {}
  -- no typing error, and the time grows with the length squared
  if #name > 100 then return found end
  for _, candidate in ipairs(names) do
    local edits = distance(name:lower(), candidate:lower())
    if edits <= math.max(1, math.floor(#name / 3)) then found[#found + 1] = { edits, candidate } end
  end
  table.sort(found, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  local list = {}
  for i = 1, math.min(limit, #found) do list[i] = found[i][2] end
  return list
end

--- The name nearest to `name` among `names`, or nil where none is near.
---@param name string
---@param names string[]
---@return string?
function text.nearest(name, names) return text.near(name, names, 1)[1] end

--- " (did you mean 'x'?)", or "" where nothing is near.
function text.hint(name, names)
  local best = text.nearest(name, names)
  return best and (" (did you mean '%s'?)"):format(best) or ""
end

local NAMED = { ["\n"] = "\\n", ["\t"] = "\\t" }
local function escaped(c) return NAMED[c] or ("\\x%02x"):format(c:byte(-1)) end
--- A name as it may be shown: control characters as \n, \t or \x1b, for they command a terminal.
--- The library's messages are escaped so already.
---@param name string
---@return string
function text.shown(name)
  return (name:gsub("[%c\127]", escaped):gsub("\194[\128-\159]", escaped))
end

--- Writes a line on stderr: fmt with its arguments, in which control characters are escaped.
---@param fmt string
---@param ... any
function text.say(fmt, ...)
  local list = { ... }
  for i, v in ipairs(list) do
    if type(v) == "string" then list[i] = text.shown(v) end
  end
  io.stderr:write(fmt:format(unpack(list, 1, select("#", ...))), "\n")
end

--- The keys of t that are strings, sorted.
function text.keys(t)
  local keys = {}
  for k in pairs(t) do
    if type(k) == "string" then keys[#keys + 1] = k end
  end
  table.sort(keys)
  return keys
end

--- A count with its noun: "1 step", "2 steps".
---@param n number
---@param noun string singular
---@param plural string? its plural, where that is not the noun with an "s"
---@return string
function text.count(n, noun, plural)
  return ("%.14g %s"):format(n, n == 1 and noun or plural or noun .. "s")
end

--- A count of bytes with its unit: "512 bytes", "3.1 kB", "2.50 GB" (decimal units).
---@param n number
---@return string
function text.bytes(n)
  local units, i = { "bytes", "kB", "MB", "GB", "TB" }, 1
  while n >= 999.5 and i < #units do n, i = n / 1000, i + 1 end
  if i == 1 then return text.count(n, "byte") end
  return (n < 9.995 and "%.2f %s" or n < 99.95 and "%.1f %s" or "%.0f %s"):format(n, units[i])
end

local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
--- Base64 of n bytes from p (u8).
---@return string
function text.base64(p, n)
  local out, at = F.new("uint8_t[?]", math.floor((n + 2) / 3) * 4), 0
  local function digit(v)
    out[at] = digits:byte(v + 1)
    at = at + 1
  end
  for i = 0, n - 1, 3 do
    local v = p[i] * 65536 + (i + 1 < n and p[i + 1] * 256 or 0) + (i + 2 < n and p[i + 2] or 0)
    digit(math.floor(v / 262144))
    digit(math.floor(v / 4096) % 64)
    digit(math.floor(v / 64) % 64)
    digit(v % 64)
  end
  if n % 3 > 0 then out[at - 1] = 61 end
  if n % 3 == 1 then out[at - 2] = 61 end
  return F.string(out, at)
end

--- Why a Lua file can't be compiled: message, or that it is UTF-16, by its first two bytes.
---@param path string
---@param head string? its first bytes
---@param message string of the compiler
---@return string
function text.compile_error(path, head, message)
  local mark = (head or ""):sub(1, 2)
  if mark ~= "\255\254" and mark ~= "\254\255" then return message end
  return path .. ":1: the file is UTF-16; save it as UTF-8"
end

--- A Lua file as a function, as loadfile does it; UTF-16 is named.
---@param path string
---@return function? chunk, string? message
function text.load_file(path)
  local chunk, message = loadfile(path)
  if chunk then return chunk end
  local file = io.open(path, "rb")
  local head = file and file:read(2)
  if file then file:close() end
  return nil, text.compile_error(path, head, message)
end

--- Raises at the user's line where a table of options has a key that is not in names.
---@param where string the function, for the message
---@param t table
---@param names string[]
function text.check_keys(where, t, names)
  local known = {}
  for _, name in ipairs(names) do known[name] = true end
  for key in pairs(t) do
    if not known[key] then
      F.raise(("%s: unknown setting '%s'%s"):format(where, tostring(key),
        text.hint(tostring(key), names)))
    end
  end
end

return text

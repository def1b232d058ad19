-- Reads what config.dump writes without running it: "return" and one value of numbers, strings,
-- booleans, nil and tables. A run's folder may come from a stranger, and even Lua without globals
-- can loop for ever.
local literal = {}

local DEEPEST = 32
local NAMED = { n = "\n", r = "\r", t = "\t", a = "\a", b = "\b", f = "\f", v = "\v" }
local WORDS = { ["nil"] = {}, ["true"] = { true }, ["false"] = { false } }   -- each with its value

local function fail(s, what)
  error({ literal = ("line %d: %s"):format(select(2, s.text:sub(1, s.at):gsub("\n", "")) + 1,
    what) }, 0)
end

-- Skips blanks and comments.
local function skip(s)
  repeat
    s.at = s.text:match("^%s*()", s.at)
    local after = s.text:match("^%-%-%[%[.-%]%]()", s.at) or s.text:match("^%-%-[^\n]*()", s.at)
    s.at = after or s.at
  until not after
end

-- The text that the pattern matches here, or nil; the position moves behind it.
local function take(s, pattern)
  skip(s)
  local found, after = s.text:match("^(" .. pattern .. ")()", s.at)
  s.at = after or s.at
  return found
end

local function string_of(s, quote)
  local parts = {}
  while true do
    local plain, sign, after = s.text:match("^([^\\\n\"']*)(.)()", s.at)
    if not sign or sign == "\n" then fail(s, "a string is not closed") end
    s.at = after
    parts[#parts + 1] = plain
    if sign == quote then return table.concat(parts) end
    if sign == "\\" then
      local digits = s.text:match("^%d%d?%d?", s.at)
      local c = digits or s.text:sub(s.at, s.at)
      if digits and tonumber(digits) > 255 then fail(s, "no such character: \\" .. digits) end
      sign = digits and string.char(digits) or NAMED[c] or c
      s.at = s.at + #c
    end
    parts[#parts + 1] = sign
  end
end

local value_of

local function table_of(s, depth)
  local t, listed = {}, 0
  if depth > DEEPEST then fail(s, "tables are nested too deeply") end
  while not take(s, "}") do
    local key
    if take(s, "%[") then
      key = value_of(s, depth)
      if key == nil or key ~= key or not take(s, "%]") or not take(s, "=") then
        fail(s, "expected a key")
      end
    else
      local before, name = s.at, take(s, "[%a_][%w_]*")
      if name and take(s, "=") then key = name else s.at = before end
    end
    local value = value_of(s, depth)
    if key == nil then
      listed = listed + 1
      key = listed
    end
    t[key] = value
    if not take(s, "[,;]") then
      if not take(s, "}") then fail(s, "expected , or }") end
      break
    end
  end
  return t
end

function value_of(s, depth)
  if take(s, "{") then return table_of(s, depth + 1) end
  local quote = take(s, "[\"']")
  if quote then return string_of(s, quote) end
  local digits = take(s, "%-?%.?%d[%w.]*[eE][+-]%d+") or take(s, "%-?%.?%d[%w.]*")
  if digits then
    local n = tonumber(digits)
    if n and take(s, "/") then
      n = n / (tonumber(take(s, "%d+") or nil) or fail(s, "expected a number"))
    end
    return n or fail(s, "expected a number")
  end
  local word = take(s, "[%a_][%w_]*")
  if not word or not WORDS[word] then
    fail(s, ("expected a value%s"):format(word and ", not '" .. word .. "'" or ""))
  end
  return WORDS[word][1]
end

--- The value of a text of this form, or nil and a message.
---@param text string
---@return any value, string? message
function literal.read(text)
  local s = { text = text, at = 1 }
  local ok, value = pcall(function()
    if take(s, "[%a_][%w_]*") ~= "return" then fail(s, "expected return and a value") end
    local v = value_of(s, 0)
    skip(s)
    if s.at <= #text then fail(s, "there is text after the value") end
    return v
  end)
  if ok then return value end
  if type(value) ~= "table" then error(value, 0) end
  return nil, value.literal
end

return literal

--- Settings that are lists of tables: groups of views (`data.views`) and of parameters
--- (`optim.groups`). What is wrong with one, as text.
local text = require "ijepa.base.text"

local groups = {}

local function finite(v) return type(v) == "number" and v == v and math.abs(v) < math.huge end
local function whole(v) return finite(v) and v % 1 == 0 end
local function pair(v) return type(v) == "table" and #v == 2 and finite(v[1]) and finite(v[2]) end

local function number(low, high)
  return function(v)
    return finite(v) and v >= low and v <= high, high == math.huge
      and ("expected %g or more"):format(low) or ("expected %g to %g"):format(low, high)
  end
end
local fraction = number(0, 1)
local positive = number(0, math.huge)
local function count(most)
  return function(v)
    return whole(v) and v >= 1 and v <= most, ("expected a whole number from 1 to %d"):format(most)
  end
end
local function rising(low, high)
  return function(v)
    return pair(v) and v[1] > low and v[1] <= v[2] and v[2] <= high,
      ("expected two numbers above %g%s, the smaller one first"):format(low,
        high < math.huge and (", up to %g"):format(high) or "")
  end
end
local function side(v)
  local list = type(v) == "table" and #v == 2 and v or { v }
  for i = 1, #list do
    if not whole(list[i]) or list[i] < 1 or list[i] > 16384 then list = {} end
  end
  return #list > 0, "expected a side, or {height, width}, in pixels, 1 to 16384"
end
local function pattern(v)
  return type(v) == "string" and pcall(string.find, "", v),
    "expected a Lua pattern of parameter names, such as \"%.bias$\""
end

-- The keys of a group: a check, and whether it must be given.
local KINDS = {
  views = { needed = "n", example = "{ n = 6, crop = 96, scale = { .05, .3 } }",
    n = count(64), crop = side, scale = rising(0, 1), ratio = rising(0, math.huge),
    flip = fraction, jitter = number(0, 2.5), jitter_p = fraction, grey = fraction,
    blur = fraction },
  parameters = { needed = "match", example = "{ match = \"%.bias$\", wd = 0 }",
    match = pattern, lr = positive, wd = positive },
}

--- The keys that a group may have, sorted.
---@param kind "views"|"parameters"
---@return string[]
function groups.keys(kind)
  local keys = {}
  for key, check in pairs(KINDS[kind]) do
    if type(check) == "function" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  return keys
end

local function shown(v)
  if type(v) == "string" then return ("'%s'"):format(text.shown(v)) end
  if type(v) ~= "table" then return tostring(v) end
  local list = {}
  for i, item in ipairs(v) do list[i] = type(item) == "number" and ("%.14g"):format(item) or "?" end
  return "{" .. table.concat(list, ", ") .. "}"
end

local function wrong_group(kind, i, group)
  local known = KINDS[kind]
  if type(group) ~= "table" then
    return ("group %d is a %s, expected a table such as %s"):format(i, type(group), known.example)
  end
  for key, v in pairs(group) do
    local check = known[key]
    if type(check) ~= "function" then
      return ("group %d: unknown key '%s'%s"):format(i, text.shown(tostring(key)),
        text.hint(tostring(key), groups.keys(kind)))
    end
    local ok, why = check(v)
    if not ok then return ("group %d: %s is %s: %s"):format(i, key, shown(v), why) end
  end
  if group[known.needed] == nil then
    return ("group %d lacks '%s': expected such as %s"):format(i, known.needed, known.example)
  end
end

--- What is wrong with a list of groups; nil: nothing.
---@param kind "views"|"parameters"
---@param list any
---@return string?
function groups.wrong(kind, list)
  local n = type(list) == "table" and #list or 0
  local keys = 0
  for _ in pairs(type(list) == "table" and list or {}) do keys = keys + 1 end
  if type(list) ~= "table" or keys ~= n then
    return ("expected a list of groups such as { %s }"):format(KINDS[kind].example)
  end
  for i = 1, n do
    local why = wrong_group(kind, i, list[i])
    if why then return why end
  end
end

return groups

-- How the session shows a value: on one line where it fits, else wrapped and indented; with colours
-- when asked.
local terminal = require "ijepa.base.terminal"
local text = require "ijepa.base.text"
local show = { has_colours = terminal.has_colours, paint = terminal.paint }

-- of all tables together; tables in tables; bytes of a string
local MOST_ITEMS, MOST_DEEP, MOST_TEXT = 500, 8, 300

local width_of = terminal.columns

local function quoted(s)
  local cut = #s > MOST_TEXT
  local inside = (cut and s:sub(1, MOST_TEXT) or s):gsub('[%c"\\]', function(c)
    return ({ ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" })[c]
      or ("\\%03d"):format(c:byte())
  end)
  return '"' .. inside .. '"' .. (cut and (" ... (%d bytes)"):format(#s) or "")
end

-- Keys: numbers first, then names, each in order.
local function before(a, b)
  local x, y = type(a) == "number", type(b) == "number"
  if x ~= y then return x end
  if x then return a < b end
  return tostring(a) < tostring(b)
end

-- Words side by side, as many on a line as fit.
local function fill(words, indent, width)
  local lines, line, used = {}, {}, indent
  for i, word in ipairs(words) do
    if i < #words then word = word .. "," end
    if #line > 0 and used + width_of(word) + 1 > width then
      lines[#lines + 1] = table.concat(line, " ")
      line, used = {}, indent
    end
    line[#line + 1] = word
    used = used + width_of(word) + 1
  end
  lines[#lines + 1] = table.concat(line, " ")
  return table.concat(lines, "\n" .. (" "):rep(indent))
end

local render

-- s: width, colours, and for one call: left (items), open (tables that we are in).
local function render_table(t, s, indent, depth)
  if s.open[t] then return show.paint(s.colours, "dim", "<itself>") end
  if next(t) == nil then return "{}" end
  if depth > MOST_DEEP then return show.paint(s.colours, "dim", "{...}") end
  s.open[t] = true
  local parts, count, listed, simple = {}, 0, 0, true
  local function add(key, value)
    count = count + 1
    s.left = s.left - 1
    if s.left < 0 then return end
    local own = render(value, s, indent + 2, depth + 1)
    simple = simple and not key and type(value) ~= "table"
    parts[#parts + 1] = (key and show.paint(s.colours, "key", key) .. " = " or "") .. own
  end
  for i, value in ipairs(t) do
    listed = i
    add(nil, value)
  end
  local keys, object = {}, type(getmetatable(t)) == "table"
  for key, value in pairs(t) do   -- of an object not what is the library's or private
    local own = object and (type(value) == "cdata" or type(key) == "string" and key:find "^_")
    if not own and not (type(key) == "number" and key % 1 == 0 and key >= 1 and key <= listed) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, before)
  for _, key in ipairs(keys) do
    local name = type(key) == "string" and (key:find "^[%a_][%w_]*$" and key or "[" .. quoted(key)
      .. "]")
      or "[" .. tostring(key) .. "]"
    add(name, t[key])
  end
  s.open[t] = nil
  if count > #parts then
    parts[#parts + 1] = show.paint(s.colours, "dim", ("... %d in all"):format(count))
  end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if s.flat and depth > 0 and (line:find "\n" or indent + width_of(line) > s.width) then
    return show.paint(s.colours, "dim", ("{ %s }"):format(count == listed
      and text.count(count, "item") or text.count(count, "field")))
  end
  if not line:find "\n" and indent + width_of(line) <= s.width then return line end
  local margin = (" "):rep(indent)
  if simple then
    return ("{\n%s  %s\n%s}"):format(margin, fill(parts, indent + 2, s.width), margin)
  end
  return ("{\n%s  %s,\n%s}"):format(margin, table.concat(parts, ",\n  " .. margin), margin)
end

function render(value, s, indent, depth)
  local kind = type(value)
  if kind == "string" then return show.paint(s.colours, kind, quoted(value)) end
  if kind == "table" then
    local meta = getmetatable(value)
    if type(meta) == "table" and meta.__tostring then
      local own = tostring(value)
      return depth == 0 and own or own:match "[^\n]*"
    end
    return render_table(value, s, indent, depth)
  end
  if kind == "function" then
    local at = debug.getinfo(value, "S")
    return at.what == "C" and tostring(value)
      or ("function (%s:%d)"):format(at.source:gsub("^[@=]", "", 1), at.linedefined)
  end
  return show.paint(s.colours, kind, tostring(value))
end

local function lines_of(s) return select(2, s:gsub("\n", "")) + 1 end

-- The first lines of a text, and how many there are.
local function cut(s, most, colours)
  local lines = {}
  for line in s:gmatch "[^\n]+" do lines[#lines + 1] = line end
  local left = #lines - most + 1
  return table.concat(lines, "\n", 1, most - 1) .. "\n"
    .. show.paint(colours, "dim", ("... %d more lines"):format(left))
end

--- The text of a value. o: width (columns, 80), colours (none), lines: at most so many (no limit);
--- tables in a table that is too long are then counted only.
---@param value any
---@param o { width: integer?, colours: boolean?, lines: integer? }?
---@return string
function show.text(value, o)
  o = o or {}
  local function rendered(flat)
    return render(value, { width = o.width or 80, colours = o.colours, left = MOST_ITEMS,
      open = {}, flat = flat }, 0, 0)
  end
  local all = rendered(false)
  if not o.lines or lines_of(all) <= o.lines then return all end
  all = rendered(true)
  return lines_of(all) <= o.lines and all or cut(all, o.lines, o.colours)
end

--- Whether a value is an image that shows itself: it has a method show, a width and a height.
function show.is_image(value)
  return type(value) == "table" and pcall(function()
    assert(type(value.show) == "function" and type(value.width) == "number"
      and type(value.height) == "number")
  end)
end

return show

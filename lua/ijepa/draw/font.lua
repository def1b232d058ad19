--- The type of the figures: strokes (lines and arcs), drawn with a round pen and smooth edges at
-- any size. Units: capital letters are 14 high, small letters 10, descenders reach -4; y points up
-- from the baseline.
-- A glyph is "WIDTH; STROKE; STROKE ...": a stroke is a list of points "x,y x,y ...", or an arc
-- "o CX CY RX RY FROM TO" in degrees, counter-clockwise from the right.
local F = require "ijepa.base.ffi"
local floor, ceil, max, min, sqrt = math.floor, math.ceil, math.max, math.min, math.sqrt

local font = {}

local art = {
  [" "] = "3.4", ["!"] = "0; 0,14 0,4.6; 0,.2 0,.2", ['"'] = "3.4; 0,14 0,10; 3.4,14 3.4,10",
  ["#"] = "9; 3.2,13.5 1.6,.5; 7.4,13.5 5.8,.5; .4,9.4 9,9.4; 0,4.6 8.6,4.6",
  ["$"] = "8; 4,16 4,-2; o 4 10.4 3.8 3.6 35 270; o 4 3.4 4 3.4 -145 90",
  ["%"] = "12; o 2.7 10.8 2.7 3.2 0 360; o 9.3 3.2 2.7 3.2 0 360; 10,14 2,0",
  ["&"] = "10; 10,0 2.2,10; o 4.2 11.2 2.4 2.8 0 205; 6.6,11.2 5.6,9 2,6.6; "
    .. "o 3.8 3.6 3.8 3.6 115 300; 5.7,.5 9.4,6",
  ["'"] = "0; 0,14 0,10", ["("] = "3; o 5 5.5 5 10.5 115 245", [")"] = "3; o -2 5.5 5 10.5 -65 65",
  ["*"] = "6; 3,14 3,8; .4,12.5 5.6,9.5; 5.6,12.5 .4,9.5", ["+"] = "8; 4,10 4,2; 0,6 8,6",
  [","] = "1; 1,.2 0,-2.6", ["-"] = "4.6; 0,5.4 4.6,5.4", ["."] = "0; 0,.2 0,.2",
  ["/"] = "6; 0,-1.5 6,14.5",
  ["0"] = "8; o 4 7 4 7 0 360", ["1"] = "8; 1.2,11.4 4.6,14 4.6,0; 1,0 8,0",
  ["2"] = "8; o 3.9 10.2 3.8 3.8 -30 160; 7.2,8.3 0,0 8,0",
  ["3"] = "8; o 3.8 10.6 3.6 3.4 -90 150; o 3.8 3.6 4 3.6 -150 90; 2.4,7.2 3.8,7.2",
  ["4"] = "8.6; 6.4,0 6.4,14 0,4 8.6,4",
  ["5"] = "8; 7.2,14 1,14 .6,7.6; o 3.8 4.5 4.1 4.5 -145 140",
  ["6"] = "8; o 4 4.4 4 4.4 0 360; o 5.4 4.6 5.4 9.4 75 180", ["7"] = "8; 0,14 8,14 2.8,0",
  ["8"] = "8; o 4 10.6 3.5 3.4 0 360; o 4 3.6 4 3.6 0 360",
  ["9"] = "8; o 4 9.6 4 4.4 0 360; o 2.6 9.4 5.4 9.4 255 360",
  [":"] = "0; 0,.2 0,.2; 0,9.6 0,9.6", [";"] = "1; 1,.2 0,-2.6; 1,9.6 1,9.6",
  ["<"] = "8; 8,10.4 0,6 8,1.6",
  ["="] = "8; 0,8 8,8; 0,4 8,4", [">"] = "8; 0,10.4 8,6 0,1.6",
  ["?"] = "7; o 3.5 10.6 3.5 3.4 -50 165; 5.7,8 3.6,6 3.6,4.4; 3.6,.2 3.6,.2",
  ["@"] = "13; o 6.5 6 6.5 7.6 -50 0; o 6.5 6 6.5 7.6 0 305; "
    .. "o 6.2 6 2.8 3.2 0 360; 9,9 9,5; o 11 5 2 2 180 360; 13,5 13,6",
  A = "10; 0,0 5,14 10,0; 1.8,5 8.2,5",
  B = "8.6; 0,0 0,14 4.8,14; 0,7.4 5,7.4; 0,0 5,0; o 4.8 10.7 3.2 3.3 -90 90; "
    .. "o 5 3.7 3.6 3.7 -90 90",
  C = "9.6; o 5.6 7 5.6 7 48 312", D = "9.6; 0,0 0,14 3.6,14; 0,0 3.6,0; o 3.6 7 6 7 -90 90",
  E = "7.4; 7.4,14 0,14 0,0 7.4,0; 0,7.4 6.6,7.4", F = "7; 7,14 0,14 0,0; 0,7 6.2,7",
  G = "10; o 5.6 7 5.6 7 48 330; 10.4,3.5 10.4,6.6 6,6.6",
  H = "9; 0,0 0,14; 9,0 9,14; 0,7.2 9,7.2", I = "0; 0,0 0,14",
  J = "6; 6,14 6,3.4; o 3 3.4 3 3.4 190 360", K = "9; 0,0 0,14; 8.4,14 0,5; 3,8.2 9,0",
  L = "7; 0,14 0,0 7,0",
  M = "11; 0,0 0,14 5.5,3.4 11,14 11,0", N = "9.4; 0,0 0,14 9.4,0 9.4,14",
  O = "11; o 5.5 7 5.5 7 0 360",
  P = "8; 0,0 0,14 4.4,14; 0,6.4 4.4,6.4; o 4.4 10.2 3.8 3.8 -90 90",
  Q = "11; o 5.5 7 5.5 7 0 360; 6.6,3.4 10.6,-1",
  R = "8.6; 0,0 0,14 4.4,14; 0,6.6 4.4,6.6; o 4.4 10.3 3.8 3.7 -90 90; 4.6,6.6 8.6,0",
  S = "8.4; o 4.2 10.4 3.9 3.6 35 270; o 4.2 3.4 4.2 3.4 -145 90", T = "9; 0,14 9,14; 4.5,14 4.5,0",
  U = "9; 0,14 0,4.5; o 4.5 4.5 4.5 4.5 180 360; 9,14 9,4.5", V = "10; 0,14 5,0 10,14",
  W = "15; 0,14 3.8,0 7.5,13 11.2,0 15,14",
  X = "9; 0,14 9,0; 9,14 0,0", Y = "9.4; 0,14 4.7,6.6 9.4,14; 4.7,6.6 4.7,0",
  Z = "8.6; 0,14 8.6,14 0,0 8.6,0",
  ["["] = "3; 3,16 0,16 0,-3 3,-3", ["\\"] = "6; 0,14.5 6,-1.5", ["]"] = "3; 0,16 3,16 3,-3 0,-3",
  ["^"] = "7; 0,9 3.5,14 7,9", ["_"] = "8; 0,-2.4 8,-2.4", ["`"] = "2.4; 0,14.4 2.4,12",
  a = "7.6; o 3.9 6.5 3.7 3.5 0 150; 7.6,6.5 7.6,0; 7.6,5.8 3.1,5.8; "
    .. "o 3.1 2.9 3.1 2.9 90 270; 3.1,0 4,0; o 4 3.2 3.6 3.2 270 360",
  b = "8; 0,0 0,14; o 4 5 4 5 0 360", c = "7.2; o 4.2 5 4.2 5 48 312",
  d = "8; 8,0 8,14; o 4 5 4 5 0 360",
  e = "8.2; .1,5.2 8.2,5.2; o 4.1 5 4.1 5 0 312",
  f = "5; 0,10 5,10; 2,0 2,11; o 4.8 11 2.8 3 80 180",
  g = "8; o 4 5 4 5 0 360; 8,10 8,-.4; o 4 -.4 4 3.6 215 360",
  h = "7.4; 0,0 0,14; o 3.7 6.3 3.7 3.7 0 180; 7.4,6.3 7.4,0",
  i = "0; 0,0 0,10; 0,13.6 0,13.6", j = "2; 2,10 2,-1.4; o -.4 -1.4 2.4 2.6 270 360; 2,13.6 2,13.6",
  k = "7.4; 0,0 0,14; 6.8,10 0,3.8; 2.6,6.2 7.4,0",
  l = "1.8; 0,14 0,1.8; o 1.8 1.8 1.8 1.8 180 270",
  m = "12.4; 0,0 0,10; o 3.1 6.6 3.1 3.4 0 180; 6.2,6.6 6.2,0; "
    .. "o 9.3 6.6 3.1 3.4 0 180; 12.4,6.6 12.4,0",
  n = "7.4; 0,0 0,10; o 3.7 6.3 3.7 3.7 0 180; 7.4,6.3 7.4,0", o = "8.4; o 4.2 5 4.2 5 0 360",
  p = "8; 0,-4 0,10; o 4 5 4 5 0 360", q = "8; 8,-4 8,10; o 4 5 4 5 0 360",
  r = "4.6; 0,0 0,10; o 4 6 4 4 75 180",
  s = "7; o 3.5 7.5 3.3 2.5 35 270; o 3.5 2.5 3.5 2.5 -145 90",
  t = "4.8; 2,13 2,2.8; o 4.8 2.8 2.8 2.8 180 275; 0,10 4.8,10",
  u = "7.4; 0,10 0,3.7; o 3.7 3.7 3.7 3.7 180 360; 7.4,10 7.4,0", v = "8; 0,10 4,0 8,10",
  w = "12; 0,10 3,0 6,9.4 9,0 12,10", x = "7.6; 0,10 7.6,0; 7.6,10 0,0",
  y = "8; 0,10 4,.4; 8,10 3.4,-2.4 2.2,-3.7 .4,-4",
  z = "7; 0,10 7,10 0,0 7,0", ["{"] = "4; 4,16 2,15 2,8 0,6.5 2,5 2,-2 4,-3",
  ["|"] = "0; 0,16 0,-3",
  ["}"] = "4; 0,16 2,15 2,8 4,6.5 2,5 2,-2 0,-3", ["~"] = "8; 0,5 1.6,7 3,6.6 5,5.2 6.4,5 8,7",
}
local missing = "8; 0,0 0,14 8,14 8,0 0,0"   -- for every character that is not here

local function pen_of(size, bold) return max(1.15, size * .085) * (bold and 1.6 or 1) end

-- The strokes of a glyph as lists of x, y, in units.
local function strokes(source)
  local list, width = {}, tonumber(source:match "^[%d.]+")
  for part in source:gmatch ";%s*([^;]+)" do
    local cx, cy, rx, ry, from, to = part:match "^o (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)"
    local points = {}
    if cx then
      local n = max(4, ceil((to - from) / 15))
      for i = 0, n do
        local angle = math.rad(from + (to - from) * i / n)
        points[#points + 1] = cx + rx * math.cos(angle)
        points[#points + 1] = cy + ry * math.sin(angle)
      end
    else
      for x, y in part:gmatch "([%d.-]+),([%d.-]+)" do
        points[#points + 1] = tonumber(x)
        points[#points + 1] = tonumber(y)
      end
    end
    list[#list + 1] = points
  end
  return list, width
end

local cache = {}   -- [key of size and weight][character]: its coverage

-- Coverage of one character: { advance, left, top, width, height, cover }, in pixels; top is below
-- the top of the capitals.
local function render(char, size, bold)
  local list, units = strokes(art[char] or missing)
  local pen, cap = pen_of(size, bold), floor(size * .73 + .5)
  local small = floor(size * .54 + .5)
  local kx, low = size * .052, (small - pen) / 10
  local high = char:find "%l" and (cap - small) / 4 or (cap - pen) / 14
  -- Lines at the heights 0, 10 (of small letters) and 14 fill rows of pixels: type stays sharp.
  local function down(y)
    local up = char:find "%l" and (y <= 10 and y * low or 10 * low + (y - 10) * high) or y * high
    return cap - pen / 2 - up
  end
  local gap = max(1.2, size * .11)
  local advance = floor(units * kx + pen + gap + .5)
  local shift = (advance - units * kx) / 2
  if units == 0 or char:find "[hnmulkbpr]" then shift = floor(shift - pen / 2 + .5) + pen / 2 end
  local left, width, top, height = -2, advance + 5, -floor(size / 4), cap + 2 * floor(size / 4) + 2
  local cover = F.new("float[?]", width * height)
  for _, p in ipairs(list) do
    for i = 1, max(1, #p - 3), 2 do
      local ax, ay = p[i] * kx + shift, down(p[i + 1])
      local bx, by = (p[i + 2] or p[i]) * kx + shift, down(p[i + 3] or p[i + 1])
      local dx, dy = bx - ax, by - ay
      local scale = dx * dx + dy * dy
      scale = scale > 0 and 1 / scale or 0
      local half = #p == 2 and pen * .6 or pen / 2
      if scale == 0 then half = pen * .62 end
      local y0 = max(0, floor(min(ay, by) - pen - top))
      local y1 = min(height - 1, ceil(max(ay, by) + pen - top))
      local x0 = max(0, floor(min(ax, bx) - pen - left))
      local x1 = min(width - 1, ceil(max(ax, bx) + pen - left))
      for y = y0, y1 do
        for x = x0, x1 do
          local qx, qy = x + left + .5 - ax, y + top + .5 - ay
          local t = max(0, min(1, (qx * dx + qy * dy) * scale))
          local ex, ey = qx - t * dx, qy - t * dy
          local c = max(0, min(1, half + .5 - sqrt(ex * ex + ey * ey)))
          if c > cover[y * width + x] then cover[y * width + x] = c end
        end
      end
    end
  end
  return { advance = advance, left = left, top = top, width = width, height = height,
    cover = cover }
end

--- One character, drawn once for each size.
---@param char string one UTF-8 character
---@param size number pixels of the type
---@param bold? boolean
---@return table glyph advance, left, top, width, height: pixels; cover: f32 (height, width)
function font.glyph(char, size, bold)
  local key = bold and -size or size
  cache[key] = cache[key] or {}
  if not art[char] then char = "\127" end
  local found = cache[key][char] or render(char, size, bold)
  cache[key][char] = found
  return found
end

--- Width of a line and height of its capitals.
---@param text string
---@param size number
---@param bold? boolean
---@return integer width, integer height
function font.size(text, size, bold)
  local width = 0
  for c in text:gmatch "[%z\1-\127\194-\244][\128-\191]*" do
    width = width + font.glyph(c, size, bold).advance
  end
  return width, floor(size * .73 + .5)
end

return font

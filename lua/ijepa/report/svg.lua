--- Line charts as inline SVG for the report: no script, colours from the page's style sheet
--- (classes s1, s2, ...).
local chart = require "ijepa.draw.chart"
local page = require "ijepa.report.page"
local max, min, abs = math.max, math.min, math.abs

local svg = {}
local WIDTH, HEIGHT = 380, 220   -- of the view box: type of 12 is readable on phone and desk
local LEFT, RIGHT, TOP, BOTTOM = 58, 8, 8, 38

local function finite(v) return type(v) == "number" and v == v and abs(v) < math.huge end

--- Values in at most `count` buckets of neighbours. A bucket without a finite number is false in
--- all of them.
---@param values number[] by step
---@param count integer
---@return { x: number[], mean: (number|false)[], low: (number|false)[], high: (number|false)[] }
function svg.buckets(values, count)
  local n = #values
  local width, b = max(1, math.ceil(n / count)), { x = {}, mean = {}, low = {}, high = {} }
  for from = 1, n, width do
    local to, sum, good, low, high = min(n, from + width - 1), 0, 0, math.huge, -math.huge
    for i = from, to do
      local v = values[i]
      if finite(v) then sum, good, low, high = sum + v, good + 1, min(low, v), max(high, v) end
    end
    local i = #b.x + 1
    b.x[i] = (from + to) / 2
    b.mean[i], b.low[i], b.high[i] = good > 0 and sum / good, good > 0 and low, good > 0 and high
  end
  return b
end

-- Smallest and largest finite value of some lists, or nil.
local function range(lists)
  local lo, hi = math.huge, -math.huge
  for _, list in ipairs(lists) do
    for i = 1, #list do
      if finite(list[i]) then lo, hi = min(lo, list[i]), max(hi, list[i]) end
    end
  end
  if lo <= hi then return lo, hi end
end

-- Ends and ticks of an axis that holds lo to hi; padded: with margin at the ends, and from 0 where
-- that is near.
local function axis(lo, hi, count, padded)
  if hi - lo <= max(abs(hi), abs(lo)) * 1e-9 then   -- a level line gets some margin
    local margin = lo == 0 and 1 or abs(lo)
    lo, hi = min(lo, max(0, lo - margin)), hi + margin
  end
  if padded and lo >= 0 and lo < .4 * hi then lo = 0 end
  if padded then
    local margin = .05 * (hi - lo)
    lo, hi = lo == 0 and 0 or lo - margin, hi + margin
  end
  local ticks, step = chart.ticks(lo, hi, count)
  return lo, hi, ticks, step
end

local function at(v) return (("%.1f"):format(v):gsub("%.0$", "")) end

-- The path of a line; a point that is no finite number breaks it, and a point alone becomes a dot.
local function line(xs, ys, px, py)
  local parts, pen = {}, false
  for i = 1, #ys do
    local good = finite(xs[i]) and finite(ys[i])
    if good and pen then parts[#parts + 1] = ("L%s %s"):format(at(px(xs[i])), at(py(ys[i]))) end
    if good and not pen then
      local alone = not finite(ys[i + 1])
      parts[#parts + 1] = ("M%s %s%s"):format(at(px(xs[i])), at(py(ys[i])), alone and "h0" or "")
    end
    pen = good
  end
  return table.concat(parts)
end

-- The area between two curves, a closed piece for each stretch of finite values.
local function area(xs, low, high, px, py)
  local parts, from = {}, nil
  for i = 1, #xs + 1 do
    if i <= #xs and finite(low[i]) then
      from = from or i
    elseif from then
      local points = {}
      for j = from, i - 1 do points[#points + 1] = at(px(xs[j])) .. " " .. at(py(high[j])) end
      for j = i - 1, from, -1 do points[#points + 1] = at(px(xs[j])) .. " " .. at(py(low[j])) end
      parts[#parts + 1] = "M" .. table.concat(points, "L") .. "Z"
      from = nil
    end
  end
  return table.concat(parts)
end

local function text(x, y, class, words)
  local tag = '<text x="%s" y="%s" class="%s">%s</text>'
  return tag:format(at(x), at(y), class, page.escape(words))
end

-- All lists of x and of y of the series and of what lies behind them.
local function lists_of(series)
  local xs, ys = {}, {}
  for _, s in ipairs(series) do
    for _, part in ipairs { s, s.behind } do
      xs[#xs + 1] = part.x
      for _, key in ipairs { "y", "low", "high" } do ys[#ys + 1] = part[key] end
    end
  end
  return xs, ys
end

-- Grid lines, ticks and their texts, and the name of the x axis. x, y: { ticks, step, pixel } of
-- the axes.
local function axes(parts, x, y, name)
  for _, v in ipairs(y.ticks) do
    local line_of = '<path class="grid" d="M%d %sH%d"/>'
    parts[#parts + 1] = line_of:format(LEFT, at(y.pixel(v)), WIDTH - RIGHT)
    parts[#parts + 1] = text(LEFT - 6, y.pixel(v) + 4, "end", chart.tick_text(v, y.step))
  end
  for _, v in ipairs(x.ticks) do
    local bottom = HEIGHT - BOTTOM
    parts[#parts + 1] = ('<path class="axis" d="M%s %dv4"/>'):format(at(x.pixel(v)), bottom)
    parts[#parts + 1] = text(min(x.pixel(v), WIDTH - 14), bottom + 17, "middle",
      chart.tick_text(v, x.step))
  end
  parts[#parts + 1] = ('<path class="axis" d="M%d %dH%d"/>'):format(LEFT, HEIGHT - BOTTOM,
    WIDTH - RIGHT)
  parts[#parts + 1] = text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "middle", name)
end

local function upright(parts, mark, x)
  local right = x > WIDTH / 2
  parts[#parts + 1] = ('<path class="mark" d="M%s %dV%d"/>'):format(at(x), TOP, HEIGHT - BOTTOM)
  parts[#parts + 1] = text(x + (right and -4 or 4), TOP + 10, right and "end" or "start", mark.name)
end

-- Series i: what lies behind it, its line and, where they are few, its points.
local function draw_series(parts, s, i, px, py)
  local b = s.behind
  local function path(class, d)
    parts[#parts + 1] = ('<path class="%s s%d" d="%s"/>'):format(class, i, d)
  end
  if b and b.low then path("band", area(b.x, b.low, b.high, px, py)) end
  if b and b.y then path("raw", line(b.x, b.y, px, py)) end
  path("line", line(s.x, s.y, px, py))
  for j = 1, #s.y <= 12 and #s.y or 0 do
    if finite(s.x[j]) and finite(s.y[j]) then
      parts[#parts + 1] = ('<circle class="s%d" cx="%s" cy="%s" r="2.5"/>'):format(i,
        at(px(s.x[j])), at(py(s.y[j])))
    end
  end
end

--- A line chart; nil where no series has a finite value.
---@param series table[] at most four: { name: string?, x: number[], y: number[], behind: table? };
--- behind, pale: { x, y } a thin line, or { x, low, high } the band between
---@param o { label: string, x: string, zero: boolean?, marks: { x: number, name: string }[]? }
--- label: what it shows, for screen readers; x: name and unit of that axis; zero: the other axis
--- begins there; marks: upright lines
---@return string? svg
function svg.chart(series, o)
  local xs, ys = lists_of(series)
  local x_low, x_high = range(xs)
  local y_low, y_high = range(ys)
  if not x_low or not y_low then return nil end
  local x0, x1, x_ticks, x_step = axis(x_low, x_high, 4)
  local y0, y1, y_ticks, y_step = axis(o.zero and min(y_low, 0) or y_low, y_high, 4, true)
  local function px(v) return LEFT + (v - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT) end
  local function py(v)
    return HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
  end
  local head = '<svg viewBox="0 0 %d %d" role="img" aria-label="%s">'
  local parts = { head:format(WIDTH, HEIGHT, page.escape(o.label)) }
  axes(parts, { ticks = x_ticks, step = x_step, pixel = px },
    { ticks = y_ticks, step = y_step, pixel = py }, o.x)
  for _, mark in ipairs(o.marks or {}) do
    if mark.x >= x0 and mark.x <= x1 then upright(parts, mark, px(mark.x)) end
  end
  for i, s in ipairs(series) do draw_series(parts, s, i, px, py) end
  parts[#parts + 1] = "</svg>"
  return table.concat(parts)
end

return svg

--- Line charts as canvases. The report has its own, as SVG (report/svg.lua), with the same ticks.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local floor, ceil, max, min, abs = math.floor, math.ceil, math.max, math.min, math.abs
local log10 = math.log10

local chart = {}

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local function finite(v) return type(v) == "number" and v == v and abs(v) < math.huge end
local function text_width(text) return (canvas.text_size(text, style.text)) end

-- ---- ticks --------------------------------------------------------------------------------------

--- Ticks in steps of 1, 2 or 5 times a power of ten: about `count` of them from lo to hi.
---@param lo number
---@param hi number
---@param count integer
---@return number[] ticks, number step
function chart.ticks(lo, hi, count)
  local raw = (hi - lo) / count
  local power = 10 ^ floor(log10(raw))
  local lead = raw / power
  local step = power * (lead <= 1 and 1 or lead <= 2 and 2 or lead <= 5 and 5 or 10)
  local ticks = {}
  for i = ceil(lo / step - 1e-9), floor(hi / step + 1e-9) do ticks[#ticks + 1] = i * step end
  return ticks, step
end

--- The text of a tick, with as many digits as the step between ticks needs.
---@param v number
---@param step number
---@return string
function chart.tick_text(v, step)
  if abs(v) < step * 1e-6 then return "0" end
  if step >= 1e6 then return string.format("%gM", v / 1e6) end
  if step >= 1000 then return string.format("%gk", v / 1000) end
  if step < 1e-5 or abs(v) >= 1e7 then return (string.format("%.2g", v):gsub("e([+-])0", "e%1")) end
  return string.format("%." .. tostring(max(0, ceil(-log10(step) - 1e-9)) + 0) .. "f", v)
end

local function log_ticks(lo, hi)
  local ticks, dense = {}, hi - lo < 2.5
  for power = floor(lo), ceil(hi) do
    for _, lead in ipairs(dense and { 1, 2, 5 } or { 1 }) do
      local v = power + log10(lead)
      if v >= lo - 1e-9 and v <= hi + 1e-9 then ticks[#ticks + 1] = v end
    end
  end
  return ticks
end

-- The y axis: { lo, hi, ticks, texts, widest }, of values or, with o.log, of their logarithms.
local function y_axis(all_lo, all_hi, height, o)
  local from, to = o.y_from, o.y_to
  if o.log then from, to = from and log10(from), to and log10(to) end
  local pad = (all_hi - all_lo) * 0.05
  local floor_at_0 = not o.log and all_lo >= 0 and all_lo < 0.35 * all_hi
  local axis = { lo = from or (floor_at_0 and 0 or all_lo - pad), hi = to or all_hi + pad,
    texts = {}, widest = 0 }
  local step
  if o.log then axis.ticks = log_ticks(axis.lo, axis.hi) end
  if not axis.ticks or #axis.ticks < 2 then
    axis.ticks, step = chart.ticks(axis.lo, axis.hi, max(3, height / 70))
  end
  for i, v in ipairs(axis.ticks) do
    local text = o.log and string.format("%.3g", 10 ^ v):gsub("e([+-])0", "e%1")
    axis.texts[i] = text or chart.tick_text(v, step)
    axis.widest = max(axis.widest, text_width(axis.texts[i]))
  end
  return axis
end

-- ---- series -------------------------------------------------------------------------------------

--- Means of neighbours, so that a curve of thousands of steps can be read: about `points` of them.
---@param values number[]
---@param points integer
---@return number[] x, number[] y
function chart.smooth(values, points)
  local width = max(1, floor(#values / points))
  local x, y = {}, {}
  for from = 1, #values - width + 1, width do
    local sum = 0
    for i = from, from + width - 1 do sum = sum + values[i] end
    x[#x + 1], y[#y + 1] = from + floor(width / 2), sum / width
  end
  return x, y
end

-- The points of a series that can be drawn: arrays x and y; false where a value is not finite,
-- which breaks the line.
local function points_of(s, i, on_log)
  need(type(s) == "table" and type(s.y) == "table", "draw.curves: series %d has no array 'y'", i)
  local xs, ys = {}, {}
  for j = 1, #s.y do
    local x, y = s.x and s.x[j] or not s.x and j, s.y[j]
    if on_log and finite(y) then y = y > 0 and log10(y) or nil end
    local ok = finite(x) and finite(y)
    xs[j], ys[j] = ok and x, ok and y
  end
  return xs, ys
end

local function range(all, key, from, to)
  local lo, hi = math.huge, -math.huge
  for _, s in ipairs(all) do
    for j = 1, #s[key] do
      local v = s[key][j]
      if v then lo, hi = min(lo, v), max(hi, v) end
    end
  end
  if lo > hi then lo, hi = 0, 1 end
  lo, hi = from or lo, to or hi
  if hi - lo <= abs(hi) * 1e-9 then   -- room above and below a level line
    local pad = max(abs(hi) * 0.1, 1e-6)
    lo, hi = lo - pad, hi + pad
  end
  return lo, hi
end

-- Points closer than pixels become the mean of each column of pixels, with the range as a pale
-- band.
local function condensed(c, px, py, n, colour)
  local xs, ys, lines = {}, {}, 0
  local column, sum, count, low, high = nil, 0, 0, nil, nil
  local function flush()
    if count > 0 then
      lines = lines + 1
      xs[lines], ys[lines] = column + 0.5, sum / count
      if high - low > 1 then c:rect(column, low, 1, high - low, colour, 0.25) end
    end
    count = 0
  end
  for j = 1, n do
    if not px[j] then
      flush()
      lines = lines + 1
      xs[lines], ys[lines] = false, false
    else
      local x = floor(px[j])
      if x ~= column or count == 0 then
        flush()
        column, sum, low, high = x, 0, py[j], py[j]
      end
      sum, count, low, high = sum + py[j], count + 1, min(low, py[j]), max(high, py[j])
    end
  end
  flush()
  return xs, ys, lines
end

local function polyline(c, px, py, n, colour)
  local good = 0
  for j = 1, n do good = good + (px[j] and 1 or 0) end
  if good > 2 * c.width then px, py, n = condensed(c, px, py, n, colour) end
  for j = 1, n do
    if px[j] then
      if j > 1 and px[j - 1] then
        c:line(px[j - 1], py[j - 1], px[j], py[j], colour, 2)
      elseif not px[j + 1] then
        c:circle(px[j], py[j], 3, colour)
      end
    end
  end
end

-- ---- the chart ----------------------------------------------------------------------------------

-- Legend of several series from (x, y) on, in lines up to `right`; returns the y below it.
local function legend(c, all, x, y, right)
  local left = x
  for _, s in ipairs(all) do
    if s.name then
      local wide = 30 + text_width(s.name)
      if x > left and x + wide > right then x, y = left, y + 20 end
      c:rect(x, y + 3, 22, 4, s.colour)
      c:text(x + 30, y, s.name, style.soft, style.text)
      x = x + wide + 22
    end
  end
  return y + 24
end

-- Title, name of the y axis and legend; returns the top of the plot area.
local function header(c, all, o, left, right)
  local y, named = style.margin, 0
  for _, s in ipairs(all) do named = named + (s.name and 1 or 0) end
  if o.title then
    c:text(style.margin, y, o.title, style.ink, style.title)
    y = y + 28
  end
  if o.y then
    c:text(style.margin, y, o.y, style.soft, style.text)
    y = y + 24
  end
  if named > 1 then y = legend(c, all, left, y, right) end
  return y
end

local function draw_axes(c, area, y_axis_of, x_ticks, x_step, at_x, at_y)
  for i, v in ipairs(y_axis_of.ticks) do
    local y = floor(at_y(v))
    c:rect(area.left, y, area.right - area.left, 1, style.faint)
    c:text(area.left - 10, y - 5, y_axis_of.texts[i], style.soft, style.text, "right")
  end
  local free = -math.huge   -- where the last x label ended
  for _, v in ipairs(x_ticks) do
    local x, text = floor(at_x(v)), chart.tick_text(v, x_step)
    local half = text_width(text) / 2
    c:rect(x, area.bottom, 1, 5, style.soft)
    local centre = min(x, c.width - 4 - half)
    if centre - half > free then
      c:text(centre, area.bottom + 11, text, style.soft, style.text, "centre")
      free = centre + half + 8
    end
  end
end

local function draw_marks(c, marks, area, x_lo, x_hi, at_x)
  for _, mark in ipairs(marks or {}) do
    if finite(mark.x) and mark.x >= x_lo and mark.x <= x_hi then
      local x = floor(at_x(mark.x))
      for y = area.top, area.bottom - 4, 8 do c:rect(x, y, 1, 4, style.soft) end
      if mark.name then c:text(x + 5, area.top + 3, mark.name, style.soft, style.text) end
    end
  end
end

-- The lines alone, small, with the ranges as text: for terminals.
local function in_words(all, axis, x_lo, x_hi, o)
  local c = canvas.new(160, 64, style.paper)
  for _, s in ipairs(all) do
    local px, py, n = {}, {}, #s.x
    for j = 1, n do
      px[j] = s.x[j] and 2 + (s.x[j] - x_lo) / (x_hi - x_lo) * 156
      py[j] = s.y[j] and max(1, min(62, 62 - (s.y[j] - axis.lo) / (axis.hi - axis.lo) * 60))
    end
    polyline(c, px, py, n, s.colour)
  end
  local function value(v) return o.log and ("%.3g"):format(10 ^ v) or ("%.3g"):format(v) end
  local legend_of = {}
  for i, s in ipairs(all) do
    legend_of[i] = { name = s.name or "series " .. i, colour = s.colour }
  end
  return { parts = { { c } }, title = o.title, legend = #all > 1 and legend_of or nil,
    note = ("%s: %s to %s; %s: %.6g to %.6g"):format(o.y or "y", value(axis.lo), value(axis.hi),
      o.x or "x", x_lo, x_hi) }
end

--- A line chart.
---@param file? string
---@param series table[] each { name =, y = {...}, x = {...}? (1, 2, ...), colour =? }; a value
--- that is not finite breaks its line
---@param o? table title; x, y: names of the axes; width, height (800, 400); log: true for a
--- logarithmic y axis; y_from, y_to: ends of the y axis; marks: { { x =, name = }, ... } vertical
--- lines
---@return ijepa.canvas|string? done, string? message, integer? code
function chart.curves(file, series, o)
  o = o or {}
  need(type(series) == "table" and type(o) == "table",
    "draw.curves: expected a list of series and options")
  if series.y then series = { series } end
  local width, height = max(240, o.width or 800), max(160, o.height or 400)
  local c, all = canvas.new(width, height, style.paper), {}
  for i, s in ipairs(series) do
    all[i] = { name = s.name, colour = s.colour or style.palette[(i - 1) % #style.palette + 1] }
    all[i].x, all[i].y = points_of(s, i, o.log)
  end
  local x_lo, x_hi = range(all, "x")
  local y_lo, y_hi = range(all, "y", o.y_from and (o.log and log10(o.y_from) or o.y_from),
    o.y_to and (o.log and log10(o.y_to) or o.y_to))
  local axis = y_axis(y_lo, y_hi, height, o)
  local x_ticks, x_step = chart.ticks(x_lo, x_hi, max(3, width / 110))
  local area = { left = style.margin + axis.widest + 12, right = width - 24,
    bottom = height - 34 - (o.x and 22 or 0) }
  area.top = header(c, all, o, area.left, area.right)
  local function at_x(v)
    return area.left + (v - x_lo) / (x_hi - x_lo) * (area.right - area.left)
  end
  local function at_y(v)
    local y = area.bottom - (v - axis.lo) / (axis.hi - axis.lo) * (area.bottom - area.top)
    return max(area.top, min(area.bottom, y))
  end
  draw_axes(c, area, axis, x_ticks, x_step, at_x, at_y)
  draw_marks(c, o.marks, area, x_lo, x_hi, at_x)
  for _, s in ipairs(all) do
    local px, py, n = {}, {}, #s.x
    for j = 1, n do px[j], py[j] = s.x[j] and at_x(s.x[j]), s.y[j] and at_y(s.y[j]) end
    polyline(c, px, py, n, s.colour)
  end
  c:rect(area.left, area.bottom, area.right - area.left + 1, 1, style.soft)
  if o.x then
    c:text(floor((area.left + area.right) / 2), height - 20, o.x, style.soft, style.text, "centre")
  end
  c.figure = in_words(all, axis, x_lo, x_hi, o)
  return layout.finish(c, file)
end

return chart

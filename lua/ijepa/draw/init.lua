-- Figures for files and the terminal: curves, histograms, masks. Each function takes a file name and returns true, or nil,
-- message, code; without a file name it returns the canvas. canvas.lua has the pixels, show.lua the terminal's protocols.
-- Nothing in here knows of models or data sets.
-- Uses: base.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local floor, ceil, max, min, abs, log10 = math.floor, math.ceil, math.max, math.min, math.abs, math.log10

local draw = {}

local white, ink, soft, faint = 0xffffff, 0x222222, 0x666666, 0xdddddd

--- Colours that people with colour-blindness can tell apart (Okabe and Ito, 2008), in order of use.
draw.palette = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x7a5195, 0x222222 }

local function colour_of(i) return draw.palette[(i - 1) % #draw.palette + 1] end

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

local function finish(c, file)
  if file == nil then return c end
  return c:save(file)
end

-- ---- masks ----------------------------------------------------------------------------------------------------

-- The set of one row of patch numbers, as an array of booleans by patch.
local function patch_set(row, from, count, patches)
  local set = {}
  for i = from, from + count - 1 do
    local patch = tonumber(row[i])
    need(patch >= 0 and patch < patches, "draw.masks: patch %d lies outside of a grid of %d patches", patch, patches)
    set[patch] = true
  end
  return set
end

-- Outlines a set of patches on its inner side, `inset` pixels in from the edge. Each side of a patch whose neighbour is
-- not in the set gets a bar; its ends draw back at outer corners and reach on at inner ones, so that the line closes.
local function outline(c, set, gh, gw, x0, y0, ph, pw, colour, thick, inset)
  local function has(y, x) return y >= 0 and x >= 0 and y < gh and x < gw and set[y * gw + x] end
  for y = 0, gh - 1 do
    for x = 0, gw - 1 do
      if has(y, x) then
        for _, side in ipairs { -1, 1 } do
          if not has(y + side, x) then -- top or bottom
            local function stop(to) -- how far the bar's end goes beyond the patch
              if not has(y, x + to) then return -inset end
              return has(y + side, x + to) and inset + thick or 0
            end
            local left, right = x0 + x * pw - stop(-1), x0 + (x + 1) * pw + stop(1)
            local top = side < 0 and y0 + y * ph + inset or y0 + (y + 1) * ph - inset - thick
            c:rect(left, top, right - left, thick, colour)
          end
          if not has(y, x + side) then -- left or right
            local function stop(to)
              if not has(y + to, x) then return -inset end
              return has(y + to, x + side) and inset + thick or 0
            end
            local top, bottom = y0 + y * ph - stop(-1), y0 + (y + 1) * ph + stop(1)
            local left = side < 0 and x0 + x * pw + inset or x0 + (x + 1) * pw - inset - thick
            c:rect(left, top, thick, bottom - top, colour)
          end
        end
      end
    end
  end
end

-- Image b of the batch at the size in which it is drawn; without pixels, a plain board of patches.
local function base_image(o, b, width, height, gh, gw)
  if o.pixels then
    local source = canvas.from_pixels(o.pixels + b * o.height * o.width * 3, o.width, o.height)
    if width % o.width == 0 and height == o.height * (width / o.width) then
      return canvas.new(width, height):blit(source, 0, 0, width / o.width)
    end
    return source:resized(width, height)
  end
  local c, ph, pw = canvas.new(width, height, 0x9fb4c4), height / gh, width / gw
  for y = 0, gh - 1 do
    for x = y % 2, gw - 1, 2 do c:rect(x * pw, y * ph, pw, ph, 0x8ca3b5) end
  end
  return c
end

local function check_masks(m, o)
  local grid = type(o) == "table" and type(o.grid) == "table" and o.grid or {}
  need((tonumber(grid[1]) or 0) >= 1 and (tonumber(grid[2]) or 0) >= 1,
    "draw.masks: option 'grid' must be { rows, columns }")
  need((type(m) == "table" or type(m) == "cdata") and m.context ~= nil and m.target ~= nil,
    "draw.masks: expected the masks that a policy has sampled")
  need(not o.pixels or (o.height or 0) >= 1 and (o.width or 0) >= 1,
    "draw.masks: pixels need the options 'height' and 'width'")
end

--- Images side by side, each from top to bottom: as it is, its context (all else dimmed), its targets outlined.
---@param file? string
---@param m table masks of a batch: count B, contexts C, targets M, k, t, context i32 (C, B, K), target i32 (M, B, T);
--- an ij_masks will do
---@param o table grid: { rows, columns } of patches; pixels: u8 (B, height, width, 3), with height and width;
--- images: how many at most (4); first: number of the first, from 0; side: about how wide an image is drawn (224);
--- title
---@return ijepa.canvas|boolean? done, string? message, integer? code
function draw.masks(file, m, o)
  check_masks(m, o)
  local gh, gw, patches = o.grid[1], o.grid[2], o.grid[1] * o.grid[2]
  local first = o.first or 0
  local images = min(o.images or 4, m.count - first)
  need(images >= 1, "draw.masks: no image number %d among %d", first, m.count)
  local side = o.side or 224
  local width = gw * max(2, floor(side / gw))
  local height = width / gw * gh
  if o.pixels then
    local zoom = max(1, floor(side / o.width))
    if o.width * zoom <= 1.5 * side then width = o.width * zoom end
    height = max(1, floor(width * o.height / o.width + 0.5))
  end
  local pw, ph = width / gw, height / gh

  local gap, margin, top = 12, 44, o.title and 48 or 16
  local rows = 2 + m.contexts
  local legend = 30
  local total = max(margin + images * (width + gap) + 4, 440)
  local c = canvas.new(total, top + rows * (height + gap) + legend + 12, white)
  if o.title then c:text(margin, 18, o.title, ink, 15) end
  local thick = max(1, min(3, floor(min(pw, ph) / 6)))
  local step = min(pw, ph) >= 2 * thick * m.targets + 2 and thick or 0 -- margin to show outlines that coincide

  local function label(row, text)
    c:text(16, top + row * (height + gap) + floor(height / 2), text, soft, 15, "centre", true)
  end
  label(0, "image")
  for j = 0, m.contexts - 1 do label(1 + j, m.contexts > 1 and "context " .. j + 1 or "context") end
  label(rows - 1, "targets")

  for i = 0, images - 1 do
    local b, x = first + i, margin + i * (width + gap)
    local image = base_image(o, b, width, height, gh, gw)
    c:blit(image, x, top)
    for j = 0, m.contexts - 1 do
      local y = top + (1 + j) * (height + gap)
      local set = patch_set(m.context, (j * m.count + b) * m.k, m.k, patches)
      c:blit(image, x, y)
      for patch = 0, patches - 1 do
        if not set[patch] then
          local py, px = y + floor(patch / gw) * ph, x + patch % gw * pw
          c:rect(px, py, pw, ph, 0xf4f4f4, 0.86)
        end
      end
      outline(c, set, gh, gw, x, y, ph, pw, 0x888888, 1, 0)
    end
    local y = top + (rows - 1) * (height + gap)
    c:blit(image, x, y):rect(x, y, width, height, white, 0.55)
    for j = 0, m.targets - 1 do
      local set = patch_set(m.target, (j * m.count + b) * m.t, m.t, patches)
      for patch in pairs(set) do
        c:rect(x + patch % gw * pw, y + floor(patch / gw) * ph, pw, ph, colour_of(j + 1), 0.16)
      end
    end
    for j = 0, m.targets - 1 do
      local set = patch_set(m.target, (j * m.count + b) * m.t, m.t, patches)
      outline(c, set, gh, gw, x, y, ph, pw, colour_of(j + 1), thick, j * step)
    end
    for j = 0, rows - 1 do c:frame(x - 1, top + j * (height + gap) - 1, width + 2, height + 2, faint) end
  end

  local text = string.format("grid %d x %d: context %d patches, %d targets of %d", gh, gw, m.k, m.targets, m.t)
  c:text(margin, c.height - 28, text, ink, canvas.text_size(text, 15) <= total - margin - 8 and 15 or 11)
  return finish(c, file)
end

-- ---- curves ---------------------------------------------------------------------------------------------------

local function finite(v) return type(v) == "number" and v == v and abs(v) < math.huge end

--- Steps of 1, 2 or 5 times a power of ten: about `count` of them from lo to hi.
---@param lo number
---@param hi number
---@param count integer
---@return number[] ticks, number step
function draw.ticks(lo, hi, count)
  local raw = (hi - lo) / count
  local power = 10 ^ floor(log10(raw))
  local step = power * (raw <= power and 1 or raw <= 2 * power and 2 or raw <= 5 * power and 5 or 10)
  local ticks = {}
  for i = ceil(lo / step - 1e-9), floor(hi / step + 1e-9) do ticks[#ticks + 1] = i * step end
  return ticks, step
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

--- The text of a tick, with as many digits as the step between ticks asks for.
---@param v number
---@param step number
---@return string
function draw.tick_text(v, step)
  if abs(v) < step * 1e-6 then return "0" end
  if step >= 1e6 then return string.format("%gM", v / 1e6) end
  if step >= 1000 then return string.format("%gk", v / 1000) end
  if step < 1e-5 or abs(v) >= 1e7 then return (string.format("%.2g", v):gsub("e([+-])0", "e%1")) end
  return string.format("%." .. tostring(max(0, ceil(-log10(step) - 1e-9)) + 0) .. "f", v)
end

-- The points of a series that can be drawn: arrays x and y; a point that is not a number breaks the line (false).
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

-- One line; where points are closer than pixels, their range as a pale band below the line of their means.
local function polyline(c, px, py, n, colour)
  local column, sum, count, low, high
  local line_x, line_y, lines = {}, {}, 0
  local dense = 0
  for j = 1, n do dense = dense + (px[j] and 1 or 0) end
  dense = dense > 2 * c.width
  local function flush()
    if count and count > 0 then
      lines = lines + 1
      line_x[lines], line_y[lines] = column + 0.5, sum / count
      if high - low > 1 then c:rect(column, low, 1, high - low, colour, 0.25) end
    end
    count = 0
  end
  for j = 1, n do
    if not px[j] then
      if dense then flush() end
      lines = lines + 1
      line_x[lines], line_y[lines] = false, false
    elseif dense then
      local at = floor(px[j])
      if at ~= column or count == 0 then
        flush()
        column, sum, low, high = at, 0, py[j], py[j]
      end
      sum, count, low, high = sum + py[j], count + 1, min(low, py[j]), max(high, py[j])
    else
      lines = lines + 1
      line_x[lines], line_y[lines] = px[j], py[j]
    end
  end
  if dense then flush() end
  for j = 1, lines do
    if line_x[j] then
      if j > 1 and line_x[j - 1] then
        c:line(line_x[j - 1], line_y[j - 1], line_x[j], line_y[j], colour, 2)
      elseif not line_x[j + 1] then
        c:circle(line_x[j], line_y[j], 3, colour)
      end
    end
  end
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
  if hi - lo <= abs(hi) * 1e-9 then -- a level line gets some margin
    local margin = max(abs(hi) * 0.1, 1e-6)
    lo, hi = lo - margin, hi + margin
  end
  return lo, hi
end

--- Means of neighbours, so that a curve of thousands of steps can be read: about `points` of them.
---@param values number[]
---@param points integer
---@return number[] x, number[] y
function draw.smooth(values, points)
  local width = max(1, floor(#values / points))
  local x, y = {}, {}
  for from = 1, #values - width + 1, width do
    local sum = 0
    for i = from, from + width - 1 do sum = sum + values[i] end
    x[#x + 1], y[#y + 1] = from + floor(width / 2), sum / width
  end
  return x, y
end

--- A line chart.
---@param file? string
---@param series table[] each { name =, y = {...}, x = {...}? (1, 2, ...), colour =? }; a value that is no finite number
--- breaks its line
---@param o? table title; x, y: names of the axes; width, height (800, 400); log: true for a logarithmic y axis;
--- y_from, y_to: ends of the y axis; marks: { { x =, name = }, ... } vertical lines
---@return ijepa.canvas|boolean? done, string? message, integer? code
function draw.curves(file, series, o)
  o = o or {}
  need(type(series) == "table" and type(o) == "table", "draw.curves: expected a list of series and options")
  if series.y then series = { series } end
  local width, height = max(240, o.width or 800), max(160, o.height or 400)
  local c = canvas.new(width, height, white)
  local all = {}
  for i, s in ipairs(series) do
    all[i] = { name = s.name, colour = s.colour or colour_of(i) }
    all[i].x, all[i].y = points_of(s, i, o.log)
  end
  local x_lo, x_hi = range(all, "x")
  local y_from, y_to = o.y_from, o.y_to
  if o.log then y_from, y_to = y_from and log10(y_from), y_to and log10(y_to) end
  local y_lo, y_hi = range(all, "y", y_from, y_to)
  local margin = (y_hi - y_lo) * 0.05
  local floor_at_0 = not o.log and y_lo >= 0 and y_lo < 0.35 * y_hi
  y_lo = y_from or (floor_at_0 and 0 or y_lo - margin)
  y_hi = y_to or y_hi + margin

  -- tick texts first: they say how wide the left margin is
  local y_ticks, y_step, x_ticks, x_step
  if o.log then y_ticks = log_ticks(y_lo, y_hi) end
  if not y_ticks or #y_ticks < 2 then y_ticks, y_step = draw.ticks(y_lo, y_hi, max(3, height / 70)) end
  x_ticks, x_step = draw.ticks(x_lo, x_hi, max(3, width / 110))
  local texts, widest = {}, 0
  for i, v in ipairs(y_ticks) do
    if o.log then
      texts[i] = string.format("%.3g", 10 ^ v):gsub("e([+-])0", "e%1")
    else
      texts[i] = draw.tick_text(v, y_step)
    end
    widest = max(widest, (canvas.text_size(texts[i], 15)))
  end
  local left = widest + 22 + (o.y and 26 or 0)
  local right, top, bottom = width - 24, 20, height - 38 - (o.x and 24 or 0)
  if o.title then
    c:text(left, 16, o.title, ink, 15)
    top = top + 28
  end
  local named = 0
  for _, s in ipairs(all) do named = named + (s.name and 1 or 0) end
  if named > 0 then -- legend: a row (or more) below the title
    local x, y = left, top
    for _, s in ipairs(all) do
      if s.name then
        local need_width = 32 + canvas.text_size(s.name, 15)
        if x > left and x + need_width > right then x, y = left, y + 22 end
        c:rect(x, y + 5, 22, 4, s.colour)
        c:text(x + 30, y, s.name, ink, 15)
        x = x + need_width + 24
      end
    end
    top = y + 28
  end

  local function at_x(v) return left + (v - x_lo) / (x_hi - x_lo) * (right - left) end
  local function at_y(v) return max(top, min(bottom, bottom - (v - y_lo) / (y_hi - y_lo) * (bottom - top))) end
  for i, v in ipairs(y_ticks) do
    local y = floor(at_y(v))
    c:rect(left, y, right - left, 1, faint)
    c:text(left - 10, y - 7, texts[i], soft, 15, "right")
  end
  local free = -math.huge -- where the last x label ended
  for _, v in ipairs(x_ticks) do
    local x, text = floor(at_x(v)), draw.tick_text(v, x_step)
    local half = canvas.text_size(text, 15) / 2
    c:rect(x, bottom, 1, 6, soft)
    local centre = min(x, width - 4 - half)
    if centre - half > free then
      c:text(centre, bottom + 12, text, soft, 15, "centre")
      free = centre + half + 8
    end
  end
  for _, mark in ipairs(o.marks or {}) do
    if finite(mark.x) and mark.x >= x_lo and mark.x <= x_hi then
      local x = floor(at_x(mark.x))
      for y = top, bottom - 4, 8 do c:rect(x, y, 1, 4, soft) end
      if mark.name then c:text(x + 5, top + 3, mark.name, soft, 11) end
    end
  end
  for _, s in ipairs(all) do
    local px, py, n = {}, {}, #s.x
    for j = 1, n do
      px[j], py[j] = s.x[j] and at_x(s.x[j]), s.y[j] and at_y(s.y[j])
    end
    polyline(c, px, py, n, s.colour)
  end
  c:rect(left, bottom, right - left + 1, 1, soft):rect(left, top, 1, bottom - top, soft)
  if o.x then c:text(floor((left + right) / 2), height - 24, o.x, ink, 15, "centre") end
  if o.y then c:text(10, floor((top + bottom) / 2), o.y, ink, 15, "centre", true) end
  return finish(c, file)
end

-- ---- summary --------------------------------------------------------------------------------------------------

--- One image of a run: a title, lines of text, the masks, the curves.
---@param file? string
---@param o table title; lines: list of texts; masks: { masks, options of draw.masks }; curves: list of
--- { series, options of draw.curves } or one such
---@return ijepa.canvas|boolean? done, string? message, integer? code
function draw.summary(file, o)
  need(type(o) == "table", "draw.summary: expected a table of options")
  local parts, width = {}, 800
  if o.masks then
    parts[1] = draw.masks(nil, o.masks[1], o.masks[2])
    width = max(width, parts[1].width)
  end
  local curves = o.curves or {}
  if curves[1] and (curves[1].y or curves[1][1] and curves[1][1].y) and not (curves[1][1] and curves[1][1][1]) then
    curves = { curves }
  end
  for _, curve in ipairs(curves) do
    local options = { width = width }
    for k, v in pairs(curve[2] or {}) do options[k] = v end
    parts[#parts + 1] = draw.curves(nil, curve[1], options)
    width = max(width, parts[#parts].width)
  end
  local lines, height = o.lines or {}, 20
  if o.title then height = height + 34 end
  local text_height = height + #lines * 22
  height = text_height + 8
  for _, part in ipairs(parts) do height = height + part.height + 8 end
  local c, y = canvas.new(width, height, white), 20
  if o.title then
    c:text(20, y, o.title, ink, 20)
    y = y + 34
  end
  for _, line in ipairs(lines) do
    c:text(20, y, line, soft, 15)
    y = y + 22
  end
  for _, part in ipairs(parts) do
    c:rect(20, y + 3, width - 40, 1, faint):blit(part, 0, y + 8)
    y = y + part.height + 8
  end
  return finish(c, file)
end

return draw

-- Figures for files and the terminal: curves, masks, the summary of a run. Each function takes a
-- file's name and returns it, or nil, message, code; without a file's name it returns the canvas.
-- canvas.lua has the pixels, png.lua and font.lua what it writes and its type, style.lua colours
-- and sizes, layout.lua figures of several parts, chart.lua curves, masks.lua masks, show.lua the
-- terminal's protocols. Nothing in here knows of models or data sets. Uses: base.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local chart = require "ijepa.draw.chart"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local max = math.max

local draw = {
  palette = style.palette, masks = require "ijepa.draw.masks",
  curves = chart.curves, smooth = chart.smooth, ticks = chart.ticks, tick_text = chart.tick_text,
}

-- Masks and curves of a summary as canvases of the same width.
local function parts_of(o)
  local parts, width = {}, 640
  if o.masks then
    parts[1] = draw.masks(nil, o.masks[1], o.masks[2])
    width = max(width, parts[1].width)
  end
  local curves = o.curves or {}
  local first = curves[1]
  if first and (first.y or first[1] and first[1].y) then curves = { curves } end   -- one chart
  for _, curve in ipairs(curves) do
    local options = { width = width, height = 320 }
    for k, v in pairs(curve[2] or {}) do options[k] = v end
    parts[#parts + 1] = draw.curves(nil, curve[1], options)
    width = max(width, parts[#parts].width)
  end
  return parts, width
end

-- Lines of text from y on; lists of cells are rows of a table, and the first list is its head.
-- Returns the y below them.
local function draw_lines(c, lines, y)
  local columns, head = {}, nil
  for _, line in ipairs(lines) do
    for i, cell in ipairs(type(line) == "table" and line or {}) do
      columns[i] = max(columns[i] or 0, (canvas.text_size(cell, style.text)))
    end
  end
  for _, line in ipairs(lines) do
    local x = style.margin
    for i, cell in ipairs(type(line) == "table" and line or { line }) do
      local right = i > 1
      local colour = type(line) == "table" and head == nil and style.ink or style.soft
      c:text(right and x + columns[i] or x, y, cell, colour, style.text,
        right and "right" or "left")
      x = x + (columns[i] or 0) + 24
    end
    if type(line) == "table" then head = line end
    y = y + 22
  end
  return y
end

--- One figure of a run: a title, lines of text, the masks, the curves.
---@param file? string
---@param o table title; lines: texts, or lists of cells that stand in columns; masks: { masks,
--- options of draw.masks }; curves: list of { series, options of draw.curves } or one such
---@return ijepa.canvas|string? done, string? message, integer? code
function draw.summary(file, o)
  if type(o) ~= "table" then F.raise "draw.summary: expected a table of options" end
  local parts, width = parts_of(o)
  local lines = o.lines or {}
  local height = style.margin + (o.title and 30 or 0) + #lines * 22 + 8
  for _, part in ipairs(parts) do height = height + part.height + 8 end
  local c, y = canvas.new(width, height, style.paper), style.margin
  if o.title then
    c:text(style.margin, y, o.title, style.ink, style.title + 3)
    y = y + 34
  end
  y = draw_lines(c, lines, y)
  for _, part in ipairs(parts) do
    c:rect(style.margin, y + 3, width - 2 * style.margin, 1, style.faint):blit(part, 0, y + 8)
    y = y + part.height + 8
  end
  return layout.finish(c, file)
end

return draw

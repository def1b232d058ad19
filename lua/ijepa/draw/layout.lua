--- A figure of several parts: canvases in rows, with a title, a caption, headings, colour bars and
-- a legend. `layout.rows` draws it as one canvas, whose field `figure` keeps the description.
-- draw/show.lua prints its texts as terminal text, and the report writes them as HTML.
local canvas = require "ijepa.draw.canvas"
local style = require "ijepa.draw.style"
local floor, max, min = math.floor, math.max, math.min

local layout = {}
local BAR, LINE = 10, 19   -- height of a colour bar, and from one line of text to the next

---@class ijepa.colour_bar
---@field low number
---@field high number
---@field format string? of both ends: "%.2f"
---@field unit string? what the values are

---@class ijepa.figure_part
---@field [1] ijepa.canvas
---@field title string? above the part; the only title in a row is the heading of the row
---@field bar ijepa.colour_bar? below the part

---@class ijepa.figure
---@field parts ijepa.figure_part[]
---@field columns integer? parts in a row; all of them
---@field title string?
---@field note string? caption below the title
---@field bar ijepa.colour_bar? of all parts, below them
---@field legend { name: string, colour: integer }[]?

--- The colour of a fraction, 0 (dark) to 1 (bright); NaN: grey.
---@param fraction number
---@return integer
function layout.colour(fraction)
  if fraction ~= fraction then return 0x808080 end
  local ramp = style.ramp
  local position = max(0, min(1, fraction)) * (#ramp - 1)
  local i = min(floor(position), #ramp - 2)
  return canvas.mix(ramp[i + 1], ramp[i + 2], position - i)
end

--- The texts of a colour bar.
---@param bar ijepa.colour_bar
---@return string low, string high, string unit
function layout.bar_texts(bar)
  local format = bar.format or "%.2f"
  return format:format(bar.low), format:format(bar.high), bar.unit or ""
end

--- The parts of a figure by row. A row has `height`, the height of its tallest part; `titled` and
--- `barred`, whether a part has a title or a bar; and `heading`, its only title.
---@param figure ijepa.figure
---@return table[] rows
function layout.rows_of(figure)
  local rows, columns = {}, figure.columns or #figure.parts
  for i, part in ipairs(figure.parts) do
    if (i - 1) % columns == 0 then rows[#rows + 1] = { height = 0, titles = 0 } end
    local row = rows[#rows]
    row[#row + 1] = part
    row.height = max(row.height, part[1].height)
    row.titles = row.titles + (part.title and 1 or 0)
    row.barred = row.barred or part.bar ~= nil
  end
  for _, row in ipairs(rows) do
    row.titled = row.titles > 0
    row.heading = row.titles == 1 and row[1].title or nil
  end
  return rows
end

local function text_width(text) return (canvas.text_size(text, style.text)) end

--- A text in lines that are at most `width` wide.
---@param text string
---@param width number
---@param measure? fun(line: string): number the width of a line; default: pixels of a figure's text
---@return string[]
function layout.wrap(text, width, measure)
  measure = measure or text_width
  local lines = {}
  for word in text:gmatch "%S+" do
    local longer = lines[1] and lines[#lines] .. " " .. word
    if longer and measure(longer) <= width then
      lines[#lines] = longer
    else
      lines[#lines + 1] = word
    end
  end
  return lines
end

-- Pixels that a colour bar takes; its unit has a line of its own where it does not fit between the
-- ends.
local function bar_height(bar, width)
  local low, high, unit = layout.bar_texts(bar)
  local fits = text_width(low) + text_width(high) + text_width(unit) + 24 <= width
  return BAR + LINE + (unit ~= "" and not fits and LINE or 0), fits
end

local function draw_bar(c, bar, x, y, width)
  local low, high, unit = layout.bar_texts(bar)
  local _, fits = bar_height(bar, width)
  for i = 0, width - 1 do c:rect(x + i, y, 1, BAR, layout.colour(i / (width - 1))) end
  y = y + BAR + 6
  c:text(x, y, low, style.soft, style.text)
  c:text(x + width, y, high, style.soft, style.text, "right")
  c:text(floor(x + width / 2), fits and y or y + LINE, unit, style.soft, style.text, "centre")
end

-- Lines of a legend: lists of { name, colour, x }.
local function legend_lines(legend, width)
  local lines, x = {}, 0
  for _, entry in ipairs(legend or {}) do
    local wide = 20 + text_width(entry.name)
    if not lines[1] or x + wide > width then
      lines[#lines + 1], x = {}, 0
    end
    table.insert(lines[#lines], { name = entry.name, colour = entry.colour, x = x })
    x = x + wide + 18
  end
  return lines
end

-- Widths of the columns, and of all of them with the gaps.
local function column_widths(rows)
  local widths, total, headings = {}, 0, 0
  for _, row in ipairs(rows) do
    for col, part in ipairs(row) do
      local wide = part.title and not row.heading and text_width(part.title) or 0
      widths[col] = max(widths[col] or 0, part[1].width, wide)
    end
    headings = max(headings, row.heading and text_width(row.heading) or 0)
  end
  for _, w in ipairs(widths) do total = total + w + style.gap end
  return widths, max(total - style.gap, headings)
end

-- Height of a row without the gap below it: title, parts, colour bars.
local function row_height(row)
  local bars = 0
  for _, part in ipairs(row) do
    bars = max(bars, part.bar and 6 + bar_height(part.bar, part[1].width) or 0)
  end
  return (row.titled and LINE or 0) + row.height + bars
end

local function draw_row(c, row, widths, y)
  local x, top = style.margin, y + (row.titled and LINE or 0)
  for col, part in ipairs(row) do
    if part.title then c:text(x, y + 3, part.title, style.ink, style.text) end
    c:blit(part[1], x, top)
    if part.bar then draw_bar(c, part.bar, x, top + part[1].height + 6, part[1].width) end
    x = x + widths[col] + style.gap
  end
end

local function draw_legend(c, lines, y)
  for _, line in ipairs(lines) do
    for _, entry in ipairs(line) do
      c:rect(style.margin + entry.x, y - 1, 12, 12, entry.colour)
      c:text(style.margin + entry.x + 20, y, entry.name, style.soft, style.text)
    end
    y = y + LINE
  end
end

--- Draws canvases in rows; returns one canvas.
---@param parts ijepa.figure_part[]
---@param o ijepa.figure? without parts
---@return ijepa.canvas
function layout.rows(parts, o)
  o = o or {}
  local figure = { parts = parts, columns = min(#parts, o.columns or #parts), title = o.title,
    note = o.note, bar = o.bar, legend = o.legend }
  local rows, margin = layout.rows_of(figure), style.margin
  local widths, width = column_widths(rows)
  if o.title then width = max(width, (canvas.text_size(o.title, style.title))) end
  if o.note then width = max(width, min(text_width(o.note), 320)) end
  local note = o.note and layout.wrap(o.note, width) or {}
  local legend = legend_lines(o.legend, width)
  local head = margin + (o.title and 28 or 0) + #note * LINE + (#note > 0 and 6 or 0)
  local height, bar_width = head, min(width, 240)
  for _, row in ipairs(rows) do height = height + row_height(row) + style.gap end
  local after = height + (#legend > 0 and 2 or 0)
  height = height - style.gap
  if o.bar then height = height + style.gap + bar_height(o.bar, bar_width) end
  if #legend > 0 then height = height + style.gap + #legend * LINE - 4 end
  local c = canvas.new(width + 2 * margin, height + margin, style.paper)
  local y = margin
  if o.title then
    c:text(margin, y, o.title, style.ink, style.title)
    y = y + 28
  end
  for i, line in ipairs(note) do
    c:text(margin, y + (i - 1) * LINE, line, style.soft, style.text)
  end
  y = head
  for _, row in ipairs(rows) do
    draw_row(c, row, widths, y)
    y = y + row_height(row) + style.gap
  end
  draw_legend(c, legend, after)
  if o.bar then draw_bar(c, o.bar, margin, after + #legend * LINE, bar_width) end
  c.figure = figure
  return c
end

--- A canvas, or with a file's name the file: its name, or nil, message, code.
---@param c ijepa.canvas
---@param file string?
---@return ijepa.canvas|string|nil done, string? message, integer? code
function layout.finish(c, file)
  if not file then return c end
  local ok, message, code = c:save(file)
  if ok then return file end
  return nil, message, code
end

return layout

--- What images of features are made of: images at the grid's size, heat maps, patches, panels side by side.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local floor, max, min = math.floor, math.max, math.min

local panel = {}
local white, ink, soft = 0xffffff, 0x222222, 0x666666

-- Dark violet to yellow, rising in lightness, so that it reads in grey too.
local ramp = { 0x2b1055, 0x3f3688, 0x35618d, 0x24868e, 0x2fb47c, 0x94d741, 0xfde725 }

--- The colour of a share, 0 (dark) to 1 (bright).
---@param share number
---@return integer
function panel.colour(share)
  if share ~= share then return 0x808080 end
  local at = max(0, min(1, share)) * (#ramp - 1)
  local i = min(floor(at), #ramp - 2)
  return canvas.mix(ramp[i + 1], ramp[i + 2], at - i)
end

--- Pixels a patch is drawn high and wide, so that the longer side of the grid comes near to `side`.
---@param grid integer[] rows, columns
---@param side integer? 192
---@return integer
function panel.cell(grid, side) return max(2, floor((side or 192) / max(grid[1], grid[2]))) end

--- One image of a batch, as large as its grid is drawn.
---@param pixels ijepa.tensor u8 (B, H, W, 3)
---@param i integer from 1
---@param grid integer[]
---@param cell integer
---@return ijepa.canvas
function panel.image(pixels, i, grid, cell)
  local h, w = pixels:size(2), pixels:size(3)
  local p = pixels:narrow(1, i, 1):read()
  return canvas.from_pixels(p, w, h):resized(grid[2] * cell, grid[1] * cell)
end

--- Values of patches as colours.
---@param values number[] row-major, from 1; nil or not a number: grey
---@param grid integer[]
---@param cell integer
---@param o { low: number, high: number, over: ijepa.canvas?, alpha: number?, colour: (fun(share: number): integer)? } over: an image that
--- shines through
---@return ijepa.canvas
function panel.heat(values, grid, cell, o)
  local c = canvas.new(grid[2] * cell, grid[1] * cell)
  if o.over then c:blit(o.over, 0, 0) end
  local range = o.high > o.low and o.high - o.low or 1
  for i = 0, grid[1] * grid[2] - 1 do
    local v = values[i + 1]
    local x, y = i % grid[2] * cell, floor(i / grid[2]) * cell
    if v then c:rect(x, y, cell, cell, (o.colour or panel.colour)((v - o.low) / range), o.over and (o.alpha or .8) or 1)
    elseif not o.over then c:rect(x, y, cell, cell, 0xe4e4e4) end
  end
  return c
end

--- The scale of a heat map, as a bar with its ends.
---@param width integer
---@param low number
---@param high number
---@param format string?
---@return ijepa.canvas
function panel.bar(width, low, high, format)
  local c = canvas.new(width, 28, white)
  for x = 0, width - 1 do c:rect(x, 2, 1, 8, panel.colour(x / (width - 1))) end
  format = format or "%.2g"
  c:text(0, 15, format:format(low), soft):text(width - 1, 15, format:format(high), soft, 11, "right")
  return c
end

--- Draws canvases in rows, each below its title; returns one canvas.
---@param parts { [1]: ijepa.canvas, title: string?, below: ijepa.canvas? }[]
---@param o { columns: integer?, title: string?, note: string?, gap: integer? }? title, note: large and small, above
---@return ijepa.canvas
function panel.rows(parts, o)
  o = o or {}
  local columns, gap = min(#parts, o.columns or #parts), o.gap or 12
  local widths, heights, titles, lower = {}, {}, {}, {}
  for i, part in ipairs(parts) do
    local col, row = (i - 1) % columns + 1, floor((i - 1) / columns) + 1
    local text_width = part.title and canvas.text_size(part.title) or 0
    widths[col] = max(widths[col] or 0, part[1].width, text_width, part.below and part.below.width or 0)
    heights[row] = max(heights[row] or 0, part[1].height)
    titles[row] = max(titles[row] or 0, part.title and 16 or 0)
    lower[row] = max(lower[row] or 0, part.below and part.below.height + 4 or 0)
  end
  local width, height = gap, gap + (o.title and 24 or 0) + (o.note and 16 or 0)
  for _, w in ipairs(widths) do width = width + w + gap end
  if o.title then width = max(width, canvas.text_size(o.title, 15) + 2 * gap) end
  if o.note then width = max(width, canvas.text_size(o.note) + 2 * gap) end
  local tops = {}
  for row, h in ipairs(heights) do
    tops[row] = height
    height = height + titles[row] + h + lower[row] + gap
  end
  local c, x = canvas.new(width, height, white), gap
  if o.title then c:text(gap, gap, o.title, ink, 15) end
  if o.note then c:text(gap, gap + (o.title and 24 or 0), o.note, soft) end
  for i, part in ipairs(parts) do
    local col, row = (i - 1) % columns + 1, floor((i - 1) / columns) + 1
    if col == 1 then x = gap end
    if part.title then c:text(x, tops[row] + 2, part.title, ink) end
    c:blit(part[1], x, tops[row] + titles[row])
    if part.below then c:blit(part.below, x, tops[row] + titles[row] + part[1].height + 4) end
    x = x + widths[col] + gap
  end
  return c
end

--- The pixels of images, patch by patch.
---@param pixels ijepa.tensor u8 (B, H, W, 3)
---@param patch integer side P
---@return ffi.cdata* u8 (B, N, P, P, 3)
function panel.cut(pixels, patch)
  local B, H, W = pixels:size(1), pixels:size(2), pixels:size(3)
  local gh, gw, from = floor(H / patch), floor(W / patch), pixels:read()
  local out, at = F.new("uint8_t[?]", B * H * W * 3), 0
  for b = 0, B - 1 do
    for y = 0, gh - 1 do
      for x = 0, gw - 1 do
        for row = 0, patch - 1 do
          F.copy(out + at, from + ((b * H + y * patch + row) * W + x * patch) * 3, patch * 3)
          at = at + patch * 3
        end
      end
    end
  end
  return out
end

--- Puts the pixels of a patch onto a canvas that shows a grid, in place number `at` (from 0).
---@param c ijepa.canvas
---@param pixels ffi.cdata* u8 (P, P, 3)
---@param patch integer P
---@param at integer
---@param grid integer[]
---@param cell integer
---@return ijepa.canvas
function panel.paste(c, pixels, patch, at, grid, cell)
  local source = canvas.from_pixels(pixels, patch, patch):resized(cell, cell)
  return c:blit(source, at % grid[2] * cell, floor(at / grid[2]) * cell)
end

--- The patches of an image that its contexts hold; the others are covered.
---@param pixels ijepa.tensor u8 (1, H, W, 3)
---@param context ijepa.tensor i32 (C, 1, K)
---@param grid integer[]
---@param cell integer
---@return ijepa.canvas
function panel.context(pixels, context, grid, cell)
  local seen, list, n = {}, context:read()
  for i = 0, n - 1 do seen[list[i]] = true end
  local c = panel.image(pixels, 1, grid, cell)
  for i = 0, grid[1] * grid[2] - 1 do
    if not seen[i] then c:rect(i % grid[2] * cell, floor(i / grid[2]) * cell, cell, cell, 0xececec) end
  end
  return c
end

return panel

--- What figures of features are made of: images at the grid's size, heat maps, patches.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local floor, max = math.floor, math.max

local panel = {}
--- The colour of a fraction, 0 (dark) to 1 (bright).
panel.colour = layout.colour

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
---@param values number[] row-major, from 1; nil: grey
---@param grid integer[]
---@param cell integer
---@param o { low: number, high: number, over: ijepa.canvas?, alpha: number? } over: an image
--- below the colours; alpha: their opacity over it
---@return ijepa.canvas
function panel.heat(values, grid, cell, o)
  local c = canvas.new(grid[2] * cell, grid[1] * cell)
  if o.over then c:blit(o.over, 0, 0):greyed() end   -- colours keep the meaning of the bar
  local range = o.high > o.low and o.high - o.low or 1
  for i = 0, grid[1] * grid[2] - 1 do
    local v = values[i + 1]
    local x, y = i % grid[2] * cell, floor(i / grid[2]) * cell
    if v then
      c:rect(x, y, cell, cell, layout.colour((v - o.low) / range), o.over and (o.alpha or .8) or 1)
    elseif not o.over then
      c:rect(x, y, cell, cell, style.unused)
    end
  end
  return c
end

--- Draws canvases in rows, each below its title; returns one canvas: see draw/layout.lua.
panel.rows = layout.rows

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

--- Puts the pixels of a patch onto a canvas that shows a grid, at patch `at` (from 0).
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
    if not seen[i] then
      c:rect(i % grid[2] * cell, floor(i / grid[2]) * cell, cell, cell, style.hidden)
    end
  end
  return c
end

return panel

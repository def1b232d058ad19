--- A small RGB raster to draw on: shapes with smooth edges, text in type of our own
-- (draw/font.lua), PNG files. Pixel (0, 0) is the top left one and covers [0, 1) x [0, 1), so a
-- pixel's centre lies at .5. Colours are numbers 0xRRGGBB. What lies outside of the canvas is cut
-- off. Drawing methods return the canvas.
local F = require "ijepa.base.ffi"
local font = require "ijepa.draw.font"
local bit = require "bit"
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local sqrt, abs = math.sqrt, math.abs

---@class ijepa.canvas
---@field width integer
---@field height integer
---@field pixels ffi.cdata* u8 (height, width, 3)
local canvas = {}
canvas.__index = canvas

local max_pixels = 2 ^ 26
local bytes = F.typeof "uint8_t[?]"

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

--- Whether a value is a canvas.
---@param value any
---@return boolean
function canvas.is(value) return getmetatable(value) == canvas end

local function numbers(name, ...)
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    need(type(v) == "number", "canvas:%s: argument %d is a %s, expected a number", name, i, type(v))
  end
end

local function blank(width, height)
  local pixels = bytes(width * height * 3)
  return setmetatable({ width = width, height = height, pixels = pixels }, canvas)
end

--- A new canvas, filled with one colour.
---@param width integer pixels
---@param height integer pixels
---@param colour? integer 0xRRGGBB; white
---@return ijepa.canvas
function canvas.new(width, height, colour)
  local function side(v) return type(v) == "number" and v >= 1 and v % 1 == 0 end
  need(side(width) and side(height) and width * height <= max_pixels,
    "canvas.new: size %s x %s is no size of at most %d pixels", tostring(width), tostring(height),
    max_pixels)
  return blank(width, height):fill(colour or 0xffffff)
end

--- A copy of RGB bytes.
---@param pixels ffi.cdata* u8 (height, width, 3)
---@param width integer
---@param height integer
---@return ijepa.canvas
function canvas.from_pixels(pixels, width, height)
  local c = canvas.new(width, height)
  F.copy(c.pixels, pixels, width * height * 3)
  return c
end

--- An image from a file.
---@param path string
---@return ijepa.canvas? canvas, string? message, integer? code
function canvas.load(path)
  need(type(path) == "string", "canvas.load: path is a %s, expected a string", type(path))
  local data, height, width = F.new "uint8_t *[1]", F.new "int[1]", F.new "int[1]"
  local ok, message, code = F.try(F.C.ij_image_load(path, data, height, width))
  if not ok then return nil, message, code end
  local c, h, w = nil, height[0], width[0]
  if w * h <= max_pixels then
    c = blank(w, h)
    F.copy(c.pixels, data[0], w * h * 3)
  end
  F.C.ij_bytes_free(data[0])
  if not c then
    local text = "image '%s' is %d x %d, more than %d pixels"
    return nil, text:format(path, w, h, max_pixels), 2
  end
  return c
end

--- Writes the canvas to a file; the ending of its name selects the format (.png, .jpg, ...).
---@param path string
---@return true? ok, string? message, integer? code
function canvas:save(path)
  need(type(path) == "string", "canvas:save: path is a %s, expected a string", type(path))
  return F.try(F.C.ij_image_save(path, self.pixels, self.height, self.width))
end

--- Shows the canvas in the terminal, or writes it with file = "NAME.png": see ijepa.show.
---@param o? table
---@return true? ok, string? message
function canvas:show(o) return require "ijepa.draw.show"(self, o) end

function canvas:__tostring()
  local text = 'canvas of %d x %d pixels: :show() shows it, :show { file = "NAME.png" } writes it'
  return text:format(self.width, self.height)
end

local function split(colour)
  need(type(colour) == "number", "colour is a %s, expected a number 0xRRGGBB", type(colour))
  return band(rshift(colour, 16), 255), band(rshift(colour, 8), 255), band(colour, 255)
end

canvas.split = split   -- red, green and blue (0 to 255) of a colour
--- A colour of red, green and blue (0 to 255).
---@param r integer
---@param g integer
---@param b integer
---@return integer
function canvas.rgb(r, g, b)
  return bor(lshift(band(r, 255), 16), lshift(band(g, 255), 8), band(b, 255))
end

--- The colour at `fraction` (0 to 1) of the way from a to b.
---@param a integer
---@param b integer
---@param fraction number
---@return integer
function canvas.mix(a, b, fraction)
  local ar, ag, ab = split(a)
  local br, bg, bb = split(b)
  local function at(x, y) return floor(x + (y - x) * fraction + 0.5) end
  return canvas.rgb(at(ar, br), at(ag, bg), at(ab, bb))
end

-- Lays the colour over pixel i with the given opacity: the only function that writes a blended
-- pixel.
local function blend(p, i, r, g, b, alpha)
  p[i] = p[i] + (r - p[i]) * alpha + 0.5
  p[i + 1] = p[i + 1] + (g - p[i + 1]) * alpha + 0.5
  p[i + 2] = p[i + 2] + (b - p[i + 2]) * alpha + 0.5
end

-- The pixels of 0 to size - 1 that [from, to) touches; nothing for what is not a number.
local function clip(from, to, size)
  if from < to then return floor(max(from, 0)), ceil(min(to, size)) - 1 end
  return 0, -1
end

--- Lays `colour` over what a signed distance function covers, with smooth edges.
---@param x0 number box that holds the shape: left
---@param y0 number top
---@param x1 number right
---@param y1 number bottom
---@param distance fun(x: number, y: number): number to the shape's edge in pixels, negative inside
---@param colour integer
---@param alpha? number opacity, 0 to 1; 1
---@return ijepa.canvas
function canvas:shape(x0, y0, x1, y1, distance, colour, alpha)
  numbers("shape", x0, y0, x1, y1)
  local p, w = self.pixels, self.width
  local r, g, b = split(colour)
  alpha = alpha or 1
  local left, right = clip(x0 - 1, x1 + 1, w)
  local top, bottom = clip(y0 - 1, y1 + 1, self.height)
  for y = top, bottom do
    for x = left, right do
      local cover = 0.5 - distance(x + 0.5, y + 0.5)
      if cover > 0 then blend(p, (y * w + x) * 3, r, g, b, min(cover, 1) * alpha) end
    end
  end
  return self
end

---@param colour integer
---@return ijepa.canvas
function canvas:fill(colour)
  local p, r, g, b = self.pixels, split(colour)
  for i = 0, self.width * self.height * 3 - 1, 3 do
    p[i], p[i + 1], p[i + 2] = r, g, b
  end
  return self
end

--- The colour of a pixel; nil outside.
---@param x integer
---@param y integer
---@return integer?
function canvas:get(x, y)
  numbers("get", x, y)
  x, y = floor(x), floor(y)
  if not (x >= 0 and y >= 0 and x < self.width and y < self.height) then return nil end
  local p, i = self.pixels, (y * self.width + x) * 3
  return canvas.rgb(p[i], p[i + 1], p[i + 2])
end

---@param x integer
---@param y integer
---@param colour integer
---@param alpha number?
---@return ijepa.canvas
function canvas:set(x, y, colour, alpha)
  numbers("set", x, y, colour)
  x, y = floor(x), floor(y)
  if x >= 0 and y >= 0 and x < self.width and y < self.height then
    local r, g, b = split(colour)
    blend(self.pixels, (y * self.width + x) * 3, r, g, b, alpha or 1)
  end
  return self
end

--- A filled rectangle; edges between pixels are blended.
---@param x number
---@param y number
---@param width number
---@param height number
---@param colour integer
---@param alpha number?
---@return ijepa.canvas
function canvas:rect(x, y, width, height, colour, alpha)
  numbers("rect", x, y, width, height, colour)
  local p, w = self.pixels, self.width
  local r, g, b = split(colour)
  local left, right = clip(x, x + width, w)
  local top, bottom = clip(y, y + height, self.height)
  for row = top, bottom do
    local cover = (min(row + 1, y + height) - max(row, y)) * (alpha or 1)
    for column = left, right do
      local part = min(column + 1, x + width) - max(column, x)
      blend(p, (row * w + column) * 3, r, g, b, cover * part)
    end
  end
  return self
end

--- A rectangle's outline, drawn inwards.
---@param x number
---@param y number
---@param width number
---@param height number
---@param colour integer
---@param thickness number?
---@param alpha number?
---@return ijepa.canvas
function canvas:frame(x, y, width, height, colour, thickness, alpha)
  numbers("frame", x, y, width, height, colour)
  local t = min(thickness or 1, width / 2, height / 2)
  self:rect(x, y, width, t, colour, alpha)
  self:rect(x, y + height - t, width, t, colour, alpha)
  self:rect(x, y + t, t, height - 2 * t, colour, alpha)
  return self:rect(x + width - t, y + t, t, height - 2 * t, colour, alpha)
end

--- A line with round ends.
---@param x0 number
---@param y0 number
---@param x1 number
---@param y1 number
---@param colour integer
---@param width number?
---@param alpha number?
---@return ijepa.canvas
function canvas:line(x0, y0, x1, y1, colour, width, alpha)
  numbers("line", x0, y0, x1, y1, colour)
  local half, dx, dy = (width or 1) / 2, x1 - x0, y1 - y0
  local length2 = dx * dx + dy * dy
  local scale = length2 > 0 and 1 / length2 or 0
  local function distance(x, y)
    local t = max(0, min(1, ((x - x0) * dx + (y - y0) * dy) * scale))
    local ex, ey = x - x0 - t * dx, y - y0 - t * dy
    return sqrt(ex * ex + ey * ey) - half
  end
  return self:shape(min(x0, x1) - half, min(y0, y1) - half, max(x0, x1) + half,
    max(y0, y1) + half, distance, colour, alpha)
end

--- A disc, or a ring `thickness` wide that lies inside of the radius.
---@param cx number
---@param cy number
---@param radius number
---@param colour integer
---@param thickness number?
---@param alpha number?
---@return ijepa.canvas
function canvas:circle(cx, cy, radius, colour, thickness, alpha)
  numbers("circle", cx, cy, radius, colour)
  local half = thickness and thickness / 2
  return self:shape(cx - radius, cy - radius, cx + radius, cy + radius, function(x, y)
    local d = sqrt((x - cx) * (x - cx) + (y - cy) * (y - cy)) - radius
    return half and abs(d + half) - half or d
  end, colour, alpha)
end

--- A filled polygon; where it crosses itself, inside is what an odd number of edges encloses.
---@param points number[] x1, y1, x2, y2, ...
---@param colour integer
---@param alpha? number
---@return ijepa.canvas
function canvas:polygon(points, colour, alpha)
  need(type(points) == "table" and #points >= 6 and #points % 2 == 0,
    "canvas:polygon: expected the coordinates x1, y1, x2, y2, ... of at least three points")
  local p, w, n = self.pixels, self.width, #points
  local r, g, b = split(colour)
  for i = 1, n do
    need(type(points[i]) == "number", "canvas:polygon: coordinate %d is a %s, expected a number", i,
      type(points[i]))
  end
  local top, bottom = math.huge, -math.huge
  for i = 2, n, 2 do
    top, bottom = min(top, points[i]), max(bottom, points[i])
  end
  local first, last = clip(top, bottom, self.height)
  local cover, cross = F.new("double[?]", w), {}
  local steps = 4 -- lines sampled in a row of pixels; along a line the coverage is exact
  for row = first, last do
    local left, right = w, -1
    for step = 0, steps - 1 do
      local y, count = row + (step + 0.5) / steps, 0
      local ax, ay = points[n - 1], points[n]
      for i = 1, n, 2 do
        local bx, by = points[i], points[i + 1]
        if (ay <= y) ~= (by <= y) then
          count = count + 1
          cross[count] = ax + (y - ay) / (by - ay) * (bx - ax)
        end
        ax, ay = bx, by
      end
      for i = count + 1, #cross do cross[i] = nil end
      table.sort(cross)
      for i = 1, count - 1, 2 do
        local from, to = clip(cross[i], cross[i + 1], w)
        left, right = min(left, from), max(right, to)
        for x = from, to do
          cover[x] = cover[x] + (min(x + 1, cross[i + 1]) - max(x, cross[i])) / steps
        end
      end
    end
    for x = left, right do
      if cover[x] > 0 then blend(p, (row * w + x) * 3, r, g, b, min(cover[x], 1) * (alpha or 1)) end
      cover[x] = 0
    end
  end
  return self
end

--- Puts another canvas here, each of its pixels `scale` wide and high.
---@param source ijepa.canvas
---@param x integer
---@param y integer
---@param scale? integer 1
---@param alpha? number
---@return ijepa.canvas
function canvas:blit(source, x, y, scale, alpha)
  need(getmetatable(source) == canvas, "canvas:blit: source is no canvas")
  numbers("blit", x, y)
  scale = max(1, floor(scale or 1))
  x, y = floor(x), floor(y)
  local p, q, w = self.pixels, source.pixels, self.width
  local left, right = clip(x, x + source.width * scale, w)
  local top, bottom = clip(y, y + source.height * scale, self.height)
  for row = top, bottom do
    local from = floor((row - y) / scale) * source.width
    for column = left, right do
      local i = (from + floor((column - x) / scale)) * 3
      blend(p, (row * w + column) * 3, q[i], q[i + 1], q[i + 2], alpha or 1)
    end
  end
  return self
end

--- A copy in another size, bilinear, smooth when it shrinks too.
---@param width integer
---@param height integer
---@return ijepa.canvas
function canvas:resized(width, height)
  numbers("resized", width, height)
  local c = canvas.new(width, height)
  F.check(F.C.ij_image_crop(self.pixels, self.height, self.width, 0, 0, self.height, self.width,
    height, width, c.pixels))
  return c
end

--- Turns the colours into greys of the same luminance.
---@return ijepa.canvas
function canvas:greyed()
  local p = self.pixels
  for i = 0, self.width * self.height * 3 - 1, 3 do
    local grey = .299 * p[i] + .587 * p[i + 1] + .114 * p[i + 2] + .5
    p[i], p[i + 1], p[i + 2] = grey, grey, grey
  end
  return self
end

--- How wide a text and how high its capital letters are, in pixels.
---@param text string
---@param size? number of the type, in pixels; 11
---@param bold? boolean
---@return integer width, integer height
function canvas.text_size(text, size, bold) return font.size(text, size or 11, bold) end

--- Writes one line of text.
---@param x number left edge; the middle or the right edge with align
---@param y number top of the capital letters
---@param text string
---@param colour integer
---@param size? number of the type, in pixels, 6 to 200; 11
---@param align? "left"|"centre"|"right"
---@param upright? boolean true: from bottom to top, x is the top of the letters and y where the
--- text starts
---@param bold? boolean
---@return ijepa.canvas
function canvas:text(x, y, text, colour, size, align, upright, bold)
  numbers("text", x, y)
  need(type(text) == "string" and type(colour) == "number",
    "canvas:text: expected x, y, a string and a colour")
  size = max(6, min(200, size or 11))
  local length = font.size(text, size, bold)
  local along = -floor(align == "centre" and length / 2 or align == "right" and length or 0)
  local p, w, h = self.pixels, self.width, self.height
  local r, g, b = split(colour)
  x, y = floor(x), floor(y)
  for c in text:gmatch "[%z\1-\127\194-\244][\128-\191]*" do
    local glyph = font.glyph(c, size, bold)
    for row = 0, glyph.height - 1 do
      for column = 0, glyph.width - 1 do
        local cover = glyph.cover[row * glyph.width + column]
        if cover > 0 then
          local over, down = along + glyph.left + column, glyph.top + row
          local px, py = x + over, y + down
          if upright then px, py = x + down, y - over - 1 end
          if px >= 0 and py >= 0 and px < w and py < h then
            blend(p, (py * w + px) * 3, r, g, b, cover)
          end
        end
      end
    end
    along = along + glyph.advance
  end
  return self
end

--- The bytes of a PNG file that stores the pixels uncompressed: larger than `save` makes it, but
--- fast to write and read. For thousands of small images.
---@return string
function canvas:png() return require "ijepa.draw.png"(self.pixels, self.width, self.height) end

return canvas

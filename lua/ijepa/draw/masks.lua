--- Masks over images: each image as it is, with its context, and with its targets.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local canvas = require "ijepa.draw.canvas"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local floor, max, min = math.floor, math.max, math.min

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

local function colour_of(i) return style.palette[(i - 1) % #style.palette + 1] end

-- The set of one row of patch indices, as an array of booleans by patch.
local function patch_set(row, from, count, patches)
  local set = {}
  for i = from, from + count - 1 do
    local patch = tonumber(row[i])
    need(patch >= 0 and patch < patches,
      "draw.masks: patch %d lies outside of a grid of %d patches", patch, patches)
    set[patch] = true
  end
  return set
end

-- One side of a patch as a bar. `has(across, along)`: whether a patch is in the set, from this one;
-- the bar's ends draw back at outer corners and reach on at inner ones, so that the outline closes.
-- Returns how far it reaches at both ends.
local function reach(has, side, inset, thick)
  local function stop(along)
    if not has(0, along) then return -inset end
    return has(side, along) and inset + thick or 0
  end
  return stop(-1), stop(1)
end

-- Outlines a set of patches on its inner side, `inset` pixels in from the edge.
-- box: { x, y, rows, columns, height and width of a patch }.
local function outline(c, set, box, colour, thick, inset)
  local gh, gw, ph, pw = box.rows, box.columns, box.ph, box.pw
  local function has(y, x) return y >= 0 and x >= 0 and y < gh and x < gw and set[y * gw + x] end
  local function sides_of(y, x)
    local left, top = box.x + x * pw, box.y + y * ph
    for _, side in ipairs { -1, 1 } do
      if not has(y + side, x) then
        local a, b = reach(function(dy, dx) return has(y + dy, x + dx) end, side, inset, thick)
        local edge = side < 0 and top + inset or top + ph - inset - thick
        c:rect(left - a, edge, pw + a + b, thick, colour)
      end
      if not has(y, x + side) then
        local a, b = reach(function(dx, dy) return has(y + dy, x + dx) end, side, inset, thick)
        local edge = side < 0 and left + inset or left + pw - inset - thick
        c:rect(edge, top - a, thick, ph + a + b, colour)
      end
    end
  end
  for y = 0, gh - 1 do
    for x = 0, gw - 1 do
      if has(y, x) then sides_of(y, x) end
    end
  end
end

-- Image b of the batch at the size in which it is drawn; without pixels, a plain board of patches.
local function base_image(o, b, width, height, box)
  if o.pixels then
    local source = canvas.from_pixels(o.pixels + b * o.height * o.width * 3, o.width, o.height)
    if width % o.width == 0 and height == o.height * (width / o.width) then
      return canvas.new(width, height):blit(source, 0, 0, width / o.width)
    end
    return source:resized(width, height)
  end
  local c = canvas.new(width, height, 0x3d7cae)
  for y = 0, box.rows - 1 do
    for x = y % 2, box.columns - 1, 2 do
      c:rect(x * box.pw, y * box.ph, box.pw, box.ph, 0x4a88ba)
    end
  end
  return c
end

local function check(m, o)
  local grid = type(o) == "table" and type(o.grid) == "table" and o.grid or {}
  need((tonumber(grid[1]) or 0) >= 1 and (tonumber(grid[2]) or 0) >= 1,
    "draw.masks: option 'grid' must be { rows, columns }")
  need((type(m) == "table" or type(m) == "cdata") and m.context ~= nil and m.target ~= nil,
    "draw.masks: expected the masks that a policy has sampled")
  need(not o.pixels or (o.height or 0) >= 1 and (o.width or 0) >= 1,
    "draw.masks: pixels need the options 'height' and 'width'")
end

-- Width and height of an image in the figure: complete patches, or the image's own pixels several
-- times.
local function size_of(o)
  local gh, gw, side = o.grid[1], o.grid[2], o.side or 224
  local width = gw * max(2, floor(side / gw))
  if not o.pixels then return width, width / gw * gh end
  local zoom = max(1, floor(side / o.width))
  if o.width * zoom <= 1.5 * side then width = o.width * zoom end
  return width, max(1, floor(width * o.height / o.width + 0.5))
end

-- The image with all patches outside of the context covered.
local function context_part(m, image, b, j, box)
  local c = canvas.new(image.width, image.height):blit(image, 0, 0)
  local set = patch_set(m.context, (j * m.count + b) * m.k, m.k, box.rows * box.columns)
  for patch = 0, box.rows * box.columns - 1 do
    if not set[patch] then
      local x, y = patch % box.columns * box.pw, floor(patch / box.columns) * box.ph
      c:rect(x, y, box.pw, box.ph, style.hidden, 0.9)
    end
  end
  return c
end

-- The image, dimmed, with an outline around each target.
local function targets_part(m, image, b, box)
  local c = canvas.new(image.width, image.height):blit(image, 0, 0)
  c:rect(0, 0, c.width, c.height, style.hidden, 0.6)
  local sets = {}
  for j = 0, m.targets - 1 do
    sets[j] = patch_set(m.target, (j * m.count + b) * m.t, m.t, box.rows * box.columns)
    for patch in pairs(sets[j]) do
      local x, y = patch % box.columns * box.pw, floor(patch / box.columns) * box.ph
      c:rect(x, y, box.pw, box.ph, colour_of(j + 1), 0.25)
    end
  end
  local cell = min(box.ph, box.pw)
  local thick = max(1, min(3, floor(cell / 6)))
  local step = cell >= 2 * thick * m.targets + 2 and thick or 0   -- equal outlines stay visible
  for j = 0, m.targets - 1 do outline(c, sets[j], box, colour_of(j + 1), thick, j * step) end
  return c
end

local function legend_of(m)
  local legend = { { name = "hidden from the context encoder", colour = style.hidden } }
  if m.targets > #style.palette then return legend end
  for j = 1, m.targets do
    local name = m.targets == 1 and "target" or "target " .. j
    legend[#legend + 1] = { name = name, colour = colour_of(j) }
  end
  return legend
end

-- The heading of row j of contexts, from 0.
local function context_title(m, j)
  local number = m.contexts > 1 and " " .. j + 1 or ""
  return ("context%s: %s"):format(number, text.count(m.k, "patch", "patches"))
end

--- Images side by side, each from top to bottom: as it is, its contexts (all else covered), its
--- targets outlined.
---@param file? string
---@param m table masks of a batch: count B, contexts C, targets M, k, t, context i32 (C, B, K),
--- target i32 (M, B, T); an ij_masks will do
---@param o table grid: { rows, columns } of patches; pixels: u8 (B, height, width, 3), with
--- height and width; images: images in the figure, at most (4); first: index of the first, from 0;
--- side: about the width of an image in pixels (224); title: your title, false: none
---@return ijepa.canvas|string? done, string? message, integer? code
return function(file, m, o)
  check(m, o)
  local gh, gw, first = o.grid[1], o.grid[2], o.first or 0
  local images = min(o.images or 4, m.count - first)
  need(images >= 1, "draw.masks: no image %d among %d", first, m.count)
  local width, height = size_of(o)
  local box = { x = 0, y = 0, rows = gh, columns = gw, ph = height / gh, pw = width / gw }
  local parts, row = {}, 0
  local function add(title, part)   -- a row of images; the first has its title
    for i = 0, images - 1 do
      local image = base_image(o, first + i, width, height, box)
      parts[row * images + i + 1] = { part(image, first + i), title = i == 0 and title or nil }
    end
    row = row + 1
  end
  if o.pixels then add(images == 1 and "image" or "images", function(image) return image end) end
  for j = 0, m.contexts - 1 do
    add(context_title(m, j), function(image, b) return context_part(m, image, b, j, box) end)
  end
  add(("%s of %s"):format(text.count(m.targets, "target"), text.count(m.t, "patch", "patches")),
    function(image, b) return targets_part(m, image, b, box) end)
  local figure = { columns = images, legend = legend_of(m) }
  if o.title ~= false then
    figure.title = o.title or "Masks"
    figure.note = ("A grid of %d x %d patches. The predictor predicts the targets from the "
      .. "context."):format(gh, gw)
  end
  return layout.finish(layout.rows(parts, figure), file)
end

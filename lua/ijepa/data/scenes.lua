--- Images that the program draws itself, with labels: a large shape on a patterned ground among
--- small dots. They let the quickstart and the tests train and probe without a download.
--
-- Shape and count can't be told from a few pixels or from average colours: the shape's colour,
-- place, size, direction, texture and ground are drawn independently of its class, and all classes
-- cover the same area on average. The shape's colour is the easier label, but not a plain one: the
-- ground, which covers more, is just as bright. Image i of a seed is a function of (seed, part, i)
-- alone, so any number of them, in any order, is the same set.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local C = F.C
local floor, max, min, sqrt, abs, sin, cos, pi = math.floor, math.max, math.min, math.sqrt,
  math.abs, math.sin,
  math.cos, math.pi

local scenes = {}

-- Signed distances (exact or close to it near the edge), negative inside, of shapes of radius about
-- 1. `area` (counted) makes the classes' areas equal: a shape's unit is 1 / sqrt(area). `rim` is
-- its farthest point.
local function segment(x, y, ax, ay, bx, by)
  local dx, dy, px, py = bx - ax, by - ay, x - ax, y - ay
  local t = max(0, min(1, (px * dx + py * dy) / (dx * dx + dy * dy)))
  px, py = px - t * dx, py - t * dy
  return sqrt(px * px + py * py)
end

local function box(x, y, w, h)
  local dx, dy = abs(x) - w, abs(y) - h
  local ox, oy = max(dx, 0), max(dy, 0)
  return sqrt(ox * ox + oy * oy) + min(max(dx, dy), 0)
end

-- A star of `n` tips: distance to one edge, after folding the plane into half a tip.
local function star(x, y, n, inner)
  local r, angle = sqrt(x * x + y * y), math.atan2(x, -y) / (2 * pi / n)
  local a = abs(angle - floor(angle + 0.5)) * (2 * pi / n)
  local px, py = r * sin(a), r * cos(a)
  local bx, by = inner * sin(pi / n), inner * cos(pi / n)
  local d = segment(px, py, 0, 1, bx, by)
  return (px * (by - 1) - (py - 1) * bx) < 0 and d or -d
end

local shapes = {
  { name = "crescent", area = 1.61, rim = 1, distance = function(x, y)
    local outer = sqrt(x * x + y * y) - 1
    local hole = sqrt((x - 0.55) * (x - 0.55) + y * y) - 0.8
    return max(outer, -hole)
  end },
  { name = "cross", area = 2.10, rim = 1.05, distance = function(x, y)
    return min(box(x, y, 1, 0.31), box(x, y, 0.31, 1))
  end },
  { name = "disc", area = 3.14, rim = 1,
    distance = function(x, y) return sqrt(x * x + y * y) - 1 end },
  -- two discs and a turned square
  { name = "heart", area = 2.63, rim = 1.17, distance = function(x, y)
    x = abs(x)
    local d = sqrt((x - 0.46) * (x - 0.46) + (y + 0.36) * (y + 0.36)) - 0.58
    local u, v = (x + y - 0.08) * 0.70711, (y - x - 0.08) * 0.70711
    return min(d, max(box(u, v, 0.62, 0.62), -y - 0.36))
  end },
  { name = "ring", area = 2.01, rim = 1,
    distance = function(x, y) return abs(sqrt(x * x + y * y) - 0.8) - 0.2 end },
  { name = "square", area = 2.56, rim = 1.14,
    distance = function(x, y) return box(x, y, 0.8, 0.8) end },
  { name = "star", area = 1.32, rim = 1, distance = function(x, y) return star(x, y, 5, 0.45) end },
  { name = "triangle", area = 1.30, rim = 1, distance = function(x, y)
    return max(y - 0.5, 0.866025 * abs(x) - 0.5 * y - 0.5)
  end },
}

local hues = { -- name, degrees
  { "red", 0 }, { "orange", 32 }, { "yellow", 56 }, { "green", 120 }, { "cyan", 180 },
    { "blue", 228 },
  { "purple", 275 }, { "pink", 320 },
}
local most_dots = 5

local function names(list, key)
  local all = {}
  for i, item in ipairs(list) do all[i] = item[key] end
  return all
end

--- The classes of each kind of label, in the order of their numbers (from 0) in a data set of that
--- label.
scenes.labels = {
  shape = names(shapes, "name"),
  colour = names(hues, 1),
  count = { "0", "1", "2", "3", "4", "5" },
}
table.sort(scenes.labels.colour)

-- Hue in degrees, saturation and value to red, green and blue of 0 to 255.
local function hsv(h, s, v)
  local function channel(n)
    local k = (n + h / 60) % 6
    return 255 * (v - v * s * max(0, min(k, 4 - k, 1)))
  end
  return channel(5), channel(3), channel(1)
end

-- Lays a shape of the given centre, size and direction over the canvas, in a colour that changes
-- smoothly across it.
local function lay(c, distance, cx, cy, radius, angle, reach, r, g, b, shade, outline, stripes,
  stripe_step)
  local p, w = c.pixels, c.width
  local sa, ca, scale = sin(angle), cos(angle), 1 / radius
  local left, right = max(0, floor(cx - reach)), min(w - 1, floor(cx + reach) + 1)
  local top, bottom = max(0, floor(cy - reach)), min(c.height - 1, floor(cy + reach) + 1)
  for y = top, bottom do
    for x = left, right do
      local dx, dy = (x + 0.5 - cx) * scale, (y + 0.5 - cy) * scale
      local u, v = ca * dx + sa * dy, ca * dy - sa * dx
      local d = distance(u, v) * radius
      local cover = 0.5 - d
      if cover > 0 then
        local light = 1 + shade * u
        if stripes > 0 then light = light * (1 + stripes * sin(v * stripe_step)) end
        light = light * (1 - outline * max(0, min(1, d + 2.2)))
        cover = min(cover, 1)
        local i = (y * w + x) * 3
        p[i] = p[i] + (min(255, r * light) - p[i]) * cover + 0.5
        p[i + 1] = p[i + 1] + (min(255, g * light) - p[i + 1]) * cover + 0.5
        p[i + 2] = p[i + 2] + (min(255, b * light) - p[i + 2]) * cover + 0.5
      end
    end
  end
end

-- A ground: a gradient between two related colours, with a faint wave over it.
local function ground(c, r, g, b, fade, angle, wave, fx, fy, phase)
  local p, w, h = c.pixels, c.width, c.height
  local gx, gy = cos(angle) * fade / w, sin(angle) * fade / h
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      local light = 1 + gx * (x - w / 2) + gy * (y - h / 2) + wave * sin(fx * x + fy * y + phase)
      local i = (y * w + x) * 3
      p[i] = max(0, min(255, r * light))
      p[i + 1] = max(0, min(255, g * light))
      p[i + 2] = max(0, min(255, b * light))
    end
  end
end

-- Adds up to +-amplitude to each value.
local function grain(c, rng, amplitude)
  local p, scale = c.pixels, 2 * amplitude / 255
  for i = 0, c.width * c.height * 3 - 1, 3 do
    local n = C.ij_rng_u32(rng)
    for k = 0, 2 do
      p[i + k] = max(0, min(255, p[i + k] + (n % 256) * scale - amplitude + 0.5))
      n = floor(n / 256)
    end
  end
end

local parts = { train = 0, test = 1 }

--- Draws image number `index` (from 0) of a seed.
---@param c ijepa.canvas square; what is on it is replaced
---@param seed integer
---@param part "train"|"test" two disjoint sets
---@param index integer
---@return table truth shape, colour, count (as in scenes.labels), x, y, radius (fraction of the
--- side), angle
function scenes.draw(c, seed, part, index)
  if getmetatable(c) ~= canvas or c.width ~= c.height then
    F.raise "scenes.draw: expected a square canvas"
  end
  if not parts[part] then
    F.raise(string.format("scenes.draw: part '%s' is neither train nor test", tostring(part)))
  end
  if type(index) ~= "number" or index % 1 ~= 0 or index < 0 or index >= 2 ^ 32 then
    F.raise(string.format("scenes.draw: image number '%s' is no whole number from 0",
      tostring(index)))
  end
  local rng = F.new "ij_rng"
  C.ij_rng_init(rng, seed, C.IJ_RNG_SCENE, parts[part], index)
  local function uniform(from, to) return from + (to - from) * C.ij_rng_uniform(rng) end
  local size = c.width
  local unit = size / 64
  local shape = shapes[C.ij_rng_below(rng, #shapes) + 1]
  local hue = hues[C.ij_rng_below(rng, #hues) + 1]
  local count = C.ij_rng_below(rng, most_dots + 1)

  -- the ground is as bright as the shape: which colour is the shape's is a matter of what lies on
  -- what
  local br, bg, bb = hsv(uniform(0, 360), uniform(0.6, 1), uniform(0.6, 1))
  ground(c, br, bg, bb, uniform(0.1, 0.5), uniform(0, 2 * pi), uniform(0, 0.04),
    uniform(-0.8, 0.8) / unit,
    uniform(-0.8, 0.8) / unit, uniform(0, 2 * pi))
  local r, g, b = hsv(hue[2] + uniform(-8, 8), uniform(0.6, 1), uniform(0.6, 1))

  local equal = uniform(24, 31) * unit -- radius of a shape of area 1; in area the classes are alike
  local radius = equal / sqrt(shape.area)
  local reach = radius * shape.rim + 1
  local edge = 0.4 * reach -- the image's edge may cut some of it off
  local cx, cy, angle = uniform(edge, size - edge), uniform(edge, size - edge), uniform(0, 2 * pi)
  lay(c, shape.distance, cx, cy, radius, angle, reach, r, g, b, uniform(-0.2, 0.2),
    uniform(0.3, 0.7),
    uniform(0, 1) < 0.3 and uniform(0.1, 0.2) or 0, uniform(4, 9))

  local disc = shapes[3].distance
  for _ = 1, count do
    local dr, dg, db = hsv(uniform(0, 360), uniform(0.5, 1), uniform(0.6, 1))
    local dot, x, y = uniform(2, 3) * unit, 0, 0
    for _ = 1, 20 do -- beside the shape where there is room
      x, y = uniform(4, size - 4), uniform(4, size - 4)
      if (x - cx) ^ 2 + (y - cy) ^ 2 > (radius * 0.9 + dot) ^ 2 then break end
    end
    lay(c, disc, x, y, dot, 0, dot + 1, dr, dg, db, 0, 0.5, 0, 0)
  end
  grain(c, rng, uniform(2, 8))
  return { shape = shape.name, colour = hue[1], count = tostring(count), x = cx / size,
    y = cy / size,
    radius = radius / size, angle = angle }
end

-- A tar header of an ordinary file; times and owners are left out, so that equal scenes give equal
-- files.
local function tar_header(name, size)
  local h = name .. ("\0"):rep(100 - #name) .. "0000644\0" .. "0000000\0" .. "0000000\0"
    .. string.format("%011o\0", size) .. "00000000000\0" .. "        " .. "0" .. ("\0"):rep(100)
      .. "ustar\0" .. "00"
    .. ("\0"):rep(247)
  local sum = 0
  for i = 1, 512 do sum = sum + h:byte(i) end
  return h:sub(1, 148) .. string.format("%06o\0 ", sum) .. h:sub(157)
end

-- Where images go: a function that takes (name, bytes), and one that ends the writing. Both: true
-- or nil, message.
local function tar_sink(path)
  local file, message = io.open(path .. ".part", "wb")
  if not file then return nil, message end
  local function put(name, data)
    return file:write(tar_header(name, #data), data, ("\0"):rep(-#data % 512))
  end
  local function finish(keep)
    local ok, why = file:write(("\0"):rep(1024))
    local closed, why_not = file:close()
    if not (keep and ok and closed) then
      os.remove(path .. ".part")
      return nil, why or why_not
    end
    return os.rename(path .. ".part", path)
  end
  return put, finish
end

local function folder_sink(path, classes)
  for _, class in ipairs(classes) do
    local ok, message = F.try(C.ij_mkdirs(path .. "/" .. class))
    if not ok then return nil, message end
  end
  local function put(name, data)
    local file, message = io.open(path .. "/" .. name, "wb")
    if not file then return nil, message end
    local ok, why = file:write(data)
    local closed, why_not = file:close()
    return ok and closed, why or why_not
  end
  return put, function() return true end
end

local EIO, EINTERRUPT = 4, 8 -- IJ_EIO, IJ_EINTERRUPT

-- Draws one part; returns its path, or nil, message, code.
local function generate_part(o, part, n)
  local path = o.out .. "/" .. part .. (o.form == "tar" and ".tar" or "")
  local put, finish
  if o.form == "tar" then
    put, finish = tar_sink(path)
  else
    put, finish = folder_sink(path, scenes.labels[o.label])
  end
  if not put then return nil, finish, EIO end
  local c, rows = canvas.new(o.size, o.size),
    { "image\tshape\tcolour\tcount\tx\ty\tradius\tangle\n" }
  for i = 0, n - 1 do
    local truth = scenes.draw(c, o.seed, part, i)
    local name = string.format("%s/%06d.png", truth[o.label], i)
    local ok, message = put(name, c:png())
    if not ok or C.ij_interrupted() ~= 0 then
      finish(false)
      if ok then return nil, "drawing scenes was interrupted", EINTERRUPT end
      return nil, message, EIO
    end
    rows[#rows + 1] = string.format("%s\t%s\t%s\t%s\t%.4f\t%.4f\t%.4f\t%.4f\n", name, truth.shape,
      truth.colour,
      truth.count, truth.x, truth.y, truth.radius, truth.angle)
    if o.progress and i % 256 == 255 then o.progress(part, i + 1, n) end
  end
  local ok, message = finish(true)
  if not ok then return nil, message, EIO end
  local table_of_truth = table.concat(rows)
  local code
  ok, message, code = F.try(C.ij_file_replace(o.out .. "/" .. part .. ".tsv", table_of_truth,
    #table_of_truth))
  if not ok then return nil, message, code end
  return path
end

local defaults = { out = "scenes", n = 8000, test = 2000, seed = 0, size = 64, label = "shape",
  form = "tar" }

--- Draws a data set: `out`/train.tar and `out`/test.tar with members CLASS/NUMBER.png, and beside
--- each a table (train.tsv, test.tsv) of all that is true of each image. Equal settings give equal
--- bytes.
---@param options? table out: folder (scenes); n, test: images (8000, 2000; 0: leave that part out);
--- seed (0);
--- size: side in pixels (64); label: "shape", "colour" or "count" (shape); form: "tar" or "folder"
--- (tar); progress: function(part, done, all)
---@return table? made train, test: paths (nil for a part left out); classes: names in the order of
--- their numbers
---@return string? message
---@return integer? code
function scenes.generate(options)
  if options ~= nil and type(options) ~= "table" then
    F.raise(string.format("scenes.generate: expected a table of options, not a %s", type(options)))
  end
  local o = {}
  for k, v in pairs(defaults) do o[k] = v end
  for k, v in pairs(options or {}) do
    if k ~= "progress" and type(v) ~= type(defaults[k]) then
      local why = defaults[k] == nil
        and "is no option; known are form, label, n, out, progress, seed, size, test"
        or string.format("is a %s, expected a %s", type(v), type(defaults[k]))
      F.raise(string.format("scenes.generate: '%s' %s", tostring(k), why))
    end
    o[k] = v
  end
  local function whole(key, least, most)
    local v = o[key]
    if v % 1 ~= 0 or v < least or v > most then
      F.raise(string.format("scenes.generate: '%s' is %g, expected a whole number from %d to %d",
        key, v, least, most))
    end
  end
  whole("n", 0, 1e6)
  whole("test", 0, 1e6)
  whole("seed", 0, 2 ^ 53)
  whole("size", 16, 1024)
  if not scenes.labels[o.label] then
    F.raise(string.format("scenes.generate: label '%s' is none of shape, colour, count", o.label))
  end
  if o.form ~= "tar" and o.form ~= "folder" then
    F.raise(string.format("scenes.generate: form '%s' is neither tar nor folder", o.form))
  end
  local ok, message, code = F.try(C.ij_mkdirs(o.out))
  if not ok then return nil, message, code end
  local made = { classes = scenes.labels[o.label] }
  for part, n in pairs { train = o.n, test = o.test } do
    if n > 0 then
      made[part], message, code = generate_part(o, part, n)
      if not made[part] then return nil, message, code end
    end
  end
  return made
end

return scenes

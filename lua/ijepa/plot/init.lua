-- Figures of what a model sees: masks, principal components of features, attention, similarity,
-- loss by position, curves. An image is a file's name, a list of names, a canvas, or a tensor u8
-- (B, H, W, 3) of the encoder's size; names are loaded as the loader does it for evaluation.
-- Features are the encoder's outputs after a layer norm: what is predicted. `encoder` may be a
-- model (ijepa.model): its target encoder.
-- Uses: base, tensor, draw, data, optim, model, run, probe.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local linalg = require "ijepa.tensor.linalg"
local canvas = require "ijepa.draw.canvas"
local draw = require "ijepa.draw"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local panel = require "ijepa.plot.panel"
local Run = require "ijepa.run"
local text = require "ijepa.base.text"
local C = F.C

local plot = {}

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

-- An encoder, or a model's target encoder.
local function encoder_of(v, name)
  local e = type(v) == "table" and (v.encoder and v.target or v)
  need(type(e) == "table" and e.grid and e.patch,
    "%s: the first argument is a %s, expected an encoder or a model", name, type(v))
  return e
end

-- ---- images in ----------------------------------------------------------------------------------

local function centred(c, o)
  local h, w = pair(o.crop or 224)
  local out = F.new("uint8_t[?]", h * w * 3)
  F.check(C.ij_image_centre(c.pixels, c.height, c.width, o.resize or math.floor(h * 8 / 7 + .5), h,
    w, out))
  return tensor.from_pointer(out, { 1, h, w, 3 }, "u8", true)
end

--- An image as the loader gives it for evaluation: its short side resized, the crop cut from the
--- middle.
---@param path string|ijepa.canvas
---@param o { crop: integer|integer[]|nil, resize: integer? }? crop: side or { height, width }, 224;
--- resize: crop * 8 / 7
---@return ijepa.tensor? pixels u8 (1, H, W, 3), string? message, integer? code
function plot.load(path, o)
  if canvas.is(path) then return centred(path, o or {}) end
  local c, message, code = canvas.load(path)
  if not c then return nil, message, code end
  return centred(c, o or {})
end

--- Images as a tensor for an encoder: see the top of this module; a folder or a tar gives `count`
--- (16), drawn from all of it, the same in each call.
---@param images string|string[]|ijepa.canvas|ijepa.tensor
---@param encoder ijepa.encoder
---@param o { resize: integer?, count: integer? }?
---@return ijepa.tensor pixels u8 (B, H, W, 3)
function plot.batch(images, encoder, o)
  o = o or {}
  if tensor.is(images) then return images end
  local crop = { encoder.grid[1] * encoder.patch, encoder.grid[2] * encoder.patch }
  local first = type(images) == "table" and not canvas.is(images) and images[1] or images
  local as = data.decoding({}, encoder.settings)   -- as it was trained
  local many = type(first) == "string" and (C.ij_path_kind(first) == 2 or first:find "%.tar$")
  if many then
    local set, message = data.open { root = images, crop = crop, resize = o.resize,
      batch = o.count or 16, workers = 0, shuffle = true, orient = as.orient,
      damaged = as.damaged, range = as.range }
    local x = nil
    if set then x, message = set:read() end
    if not x then F.raise(tostring(message)) end
    return x
  end
  if type(images) ~= "table" or canvas.is(images) then images = { images } end
  need(#images > 0, "images: the list is empty")
  local size = crop[1] * crop[2] * 3
  local all = F.new("uint8_t[?]", #images * size)
  for i, one in ipairs(images) do
    need(type(one) == "string" or canvas.is(one),
      "images: number %d is a %s, expected a file's name or a canvas", i, type(one))
    local x, message = plot.load(one, { crop = crop, resize = o.resize })
    if not x then F.raise(message) end
    F.copy(all + (i - 1) * size, x:read(), size)
  end
  return tensor.from_pointer(all, { #images, crop[1], crop[2], 3 }, "u8", true)
end

-- The patches' rows and columns in an image of this size.
local function grid_of(x, encoder)
  return { x:size(2) / encoder.patch, x:size(3) / encoder.patch }
end

-- The number of a block, from 1: n, or from the end where n is negative.
local function block_of(encoder, n, name)
  local block = n < 0 and encoder.depth + 1 + n or n
  need(block % 1 == 0 and block >= 1 and block <= encoder.depth, "%s: there is no layer %s of %d",
    name,
    tostring(n), encoder.depth)
  return block
end

--- Features of images, some at a time: the outputs of the encoder, or of one of its layers, after a
--- layer norm.
---@param encoder ijepa.encoder
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param layer integer? 1 the first block, -1 the last: the encoder's output (the default)
---@return ijepa.tensor f32 (B, N, D)
function plot.features(encoder, x, layer)
  local block = block_of(encoder, layer or -1, "plot.features")
  local B, out, chunk = x:size(1), nil, 16
  for from = 1, B, chunk do
    local n = math.min(chunk, B - from + 1)
    device.no_grad(function()
      local some = x:narrow(1, from, n):contiguous()
      local y = block == encoder.depth and encoder(some)
        or encoder:blocks(some, encoder.depth - block + 1)[1]
      y = y:layer_norm()
      out = out or tensor.empty({ B, y:size(2), y:size(3) }, "f32", true)
      out:narrow(1, from, n):copy_(y)
    end)
  end
  return out
end

local function position(o, grid, name)
  local row, col = pair(o)
  need(type(row) == "number" and type(col) == "number" and row % 1 == 0 and col % 1 == 0
    and row >= 0 and col >= 0
    and row < grid[1] and col < grid[2],
      "%s: patch must be { row, column } from 0 in a grid of %d x %d", name, grid[1], grid[2])
  return row * grid[2] + col
end

--- The images as they are shown: from files and canvases, cropped as for the encoder but at the
--- size that is drawn.
---@param images any
---@param x ijepa.tensor u8 (B, H, W, 3): the images as the encoder takes them
---@param grid integer[] rows, columns
---@param cell integer pixels of a patch in the figure
---@return ijepa.tensor pixels u8 (B, H, W, 3)
function plot.sharp(images, x, grid, cell)
  if tensor.is(images) then return x end
  return plot.batch(images, { grid = grid, patch = cell }, { count = x:size(1) })
end

-- Options of layout.rows with the title and the caption of a figure; title = false: neither.
local function heading(o, columns, title, note)
  if o.title == false then return { columns = columns } end
  return { columns = columns, title = o.title or title, note = note }
end

local function mark(c, at, grid, cell)
  local x, y = at % grid[2] * cell, math.floor(at / grid[2]) * cell
  c:frame(x, y, cell, cell, 0xffffff, 2)
  return c:frame(x - 1, y - 1, cell + 2, cell + 2, style.mark, 1)
end

-- "patch (row, column)"
local function patch_name(at, grid)
  return ("patch (%d, %d)"):format(math.floor(at / grid[2]), at % grid[2])
end

local function layer_name(encoder, layer)
  local block = block_of(encoder, layer or -1, "plot")
  return block < encoder.depth and (" after layer %d of %d"):format(block, encoder.depth) or ""
end

-- ---- masks and curves ---------------------------------------------------------------------------

-- A policy as it masks images that `read` gives, if it reads images; raises where there are none.
local function seeing(policy, read, target, first, name)
  local p, message = policy:for_images(nil)
  local x = not p and read() or nil
  if x then p, message = policy:for_images(x, target, first) end
  need(p, "%s: %s", name, message)
  return p
end

--- What a mask policy draws, over images: as they are, the contexts, the targets.
---@param policy ijepa.mask_policy|table a policy, or a model (ijepa.model) with its policy
---@param o { images: any, target: ijepa.encoder?, draws: integer?, first: integer?, side: integer?, title: string?, file: string? }?
--- images: see the top of this module, nil: a plain board, or, where the model's policy reads
--- images, some that it was trained on; target: the target encoder, for policies that read it
--- (default: the model's); draws: how many (4); first: number of the first, from 0
---@return ijepa.canvas|boolean? done, string? message
function plot.masks(policy, o)
  o = o or {}
  local model = policy.policy and policy or {}
  policy = model.policy or policy
  need(policy.sample_raw, "plot.masks: expected a mask policy or a model")
  local grid, n, target, first = policy.grid, o.draws or 4, o.target or model.target, o.first or 0
  local settings = { grid = grid, images = n, side = o.side, title = o.title }
  local cell = panel.cell(grid, o.side or 224)
  local images = o.images
  local masks = seeing(policy, function()   -- at the size that the encoder sees
    images = images or model.config and model.config.data.root
    return images and plot.batch(images, { grid = grid, patch = target and target.patch or cell,
      settings = model.config }, { count = n })
  end, target, first, "plot.masks")
  if images then
    local x = images
    if not tensor.is(x) then
      -- whole patches of the policy's grid, at about the size that is drawn
      x = plot.batch(x, { grid = grid, patch = cell, settings = model.config }, { count = n })
    end
    local B, h, w = x:size(1), x:size(2), x:size(3)
    local from, size = x:read(), h * w * 3
    settings.pixels, settings.height, settings.width = F.new("uint8_t[?]", n * size), h, w
    for i = 0, n - 1 do F.copy(settings.pixels + i * size, from + i % B * size, size) end
  end
  return draw.masks(o.file, masks:sample_raw(n, first), settings)
end

--- The losses of a run by step, smoothed over 1/200 of it.
---@param run string|table a run's folder, or what ijepa.pretrain or ijepa.model gave
---@param o { title: string?, log: boolean?, width: integer?, height: integer?, file: string? }?
---@return ijepa.canvas|boolean? done, string? message
function plot.curves(run, o)
  o = o or {}
  local out = type(run) == "table" and run.out or run
  need(type(out) == "string", "plot.curves: expected a run's folder, or a model")
  local log, message = Run.read_log(out, type(run) == "table" and run.config and run.config.tag
    or nil)
  if not log then F.raise(message) end
  if message then text.say("warning: %s", message) end
  local x, y = draw.smooth(log.loss, 200)
  return draw.curves(o.file, { { name = "loss", x = x, y = y } },
    { title = o.title or "Training loss of " .. out,
    x = "step", y = "smooth L1, mean of neighbouring steps", log = o.log, width = o.width,
      height = o.height })
end

-- ---- principal components -----------------------------------------------------------------------

local Basis = { __tostring = function(b)
  return ("principal components: %.0f, %.0f, %.0f %% of the variance"):format(100 * b.fraction[1],
    100 * b.fraction[2], 100 * b.fraction[3])
end }

---@class ijepa.basis
---@field mean ijepa.tensor f32 (D)
---@field vectors ijepa.tensor f32 (3, D): unit directions, the one of most variance first
---@field deviation number[] standard deviation along each
---@field fraction number[] of the variance

-- The sign of a principal component (D values of v from i on) that makes the sum of its cubes
-- positive.
local function sign_of(v, i, D)
  local cubes = 0
  for j = i, i + D - 1 do cubes = cubes + v[j] ^ 3 end
  return cubes < 0 and -1 or 1
end

--- The three directions in which the features of these patches differ most: fitted once, usable for
--- all images. A direction has the sign that makes the sum of its cubed values positive.
---@param encoder ijepa.encoder
---@param images any
---@param o { layer: integer? }? layer: as for plot.features
---@return ijepa.basis
function plot.basis(encoder, images, o)
  encoder = encoder_of(encoder, "plot.basis")
  local h = plot.features(encoder, plot.batch(images, encoder, { count = 64 }), o and o.layer)
  local D = h:size(3)
  need(D >= 3, "plot.basis: features have %d dimensions, three are needed", D)
  local covariance, mean = linalg.covariance(h:reshape(-1, D))
  local values, vectors = linalg.eigh(covariance, true)
  local v, total = vectors:read(), 0
  for _, value in ipairs(values) do total = total + math.max(value, 0) end
  local deviation, fraction = {}, {}
  for i = 0, 2 do
    local sign = sign_of(v, i * D, D)
    for j = i * D, (i + 1) * D - 1 do v[j] = sign * v[j] end
    deviation[i + 1] = math.sqrt(math.max(values[i + 1], 1e-12))
    fraction[i + 1] = total > 0 and values[i + 1] / total or 0
  end
  return setmetatable({ mean = mean:clone(true),
    vectors = tensor.from_pointer(v, { 3, D }, "f32", true),
    deviation = deviation, fraction = fraction }, Basis)
end

-- Image b as colours; y: (B * N, 3), the components of each patch.
local function component_image(y, b, basis, grid, cell)
  local c, N = canvas.new(grid[2] * cell, grid[1] * cell), grid[1] * grid[2]
  for i = 0, N - 1 do
    local rgb = {}
    for k = 1, 3 do
      local v = y[((b - 1) * N + i) * 3 + k - 1] / (2.5 * basis.deviation[k])
      rgb[k] = math.floor(255 * math.max(0, math.min(1, .5 + v / 2)) + .5)
    end
    local x, top = i % grid[2] * cell, math.floor(i / grid[2]) * cell
    c:rect(x, top, cell, cell, canvas.rgb(rgb[1], rgb[2], rgb[3]))
  end
  return c
end

--- Features as colours: red, green and blue are the first three principal components, from -2.5
--- standard deviations (dark) to 2.5 (bright). With the same basis a colour means the same in all
--- images.
---@param encoder ijepa.encoder
---@param images any
---@param o { basis: ijepa.basis?, layer: integer?, side: integer?, title: (string|false)?, file: string? }? basis: default: of these
--- images; layer: as for plot.features
---@return ijepa.canvas|string? done, ijepa.basis|string|nil basis_or_message
function plot.pca(encoder, images, o)
  encoder = encoder_of(encoder, "plot.pca")
  o = o or {}
  local x = plot.batch(images, encoder)
  local basis = o.basis or plot.basis(encoder, x, o)
  local grid = grid_of(x, encoder)
  local B, N, cell = x:size(1), grid[1] * grid[2], panel.cell(grid, o.side)
  local h = plot.features(encoder, x, o.layer)
  local y = (h:reshape(B * N, h:size(3)) - basis.mean):linear(basis.vectors):read()   -- (B * N, 3)
  local parts, original = {}, plot.sharp(images, x, grid, cell)
  for b = 1, B do
    parts[b] = { panel.image(original, b, grid, cell) }
    parts[B + b] = { component_image(y, b, basis, grid, cell) }
  end
  parts[1].title, parts[B + 1].title = B == 1 and "image" or "images",
    "components 1, 2, 3 as red, green, blue"
  local c = panel.rows(parts,
    heading(o, B, "Principal components of the patch features" .. layer_name(encoder, o.layer),
    ("The three components hold %.0f, %.0f and %.0f %% of the variance."):format(
      100 * basis.fraction[1],
      100 * basis.fraction[2], 100 * basis.fraction[3])))
  if o.file then return layout.finish(c, o.file) end
  return c, basis
end

-- ---- attention and similarity -------------------------------------------------------------------

-- Attention by head, (1, A, N, N), as lists of N multiples of even attention: of patch `at`, or the
-- mean of all patches. The last list is the mean of the heads.
local function attention_lists(p, A, N, at)
  local lists, mean = {}, {}
  for j = 1, N do mean[j] = 0 end
  for a = 0, A - 1 do
    local values = {}
    for j = 0, N - 1 do
      local sum = 0
      for i = at or 0, at or N - 1 do sum = sum + p[(a * N + i) * N + j] end
      values[j + 1] = sum / (at and 1 or N) * N
      mean[j + 1] = mean[j + 1] + values[j + 1] / A
    end
    lists[a + 1] = values
  end
  if A > 1 then lists[A + 1] = mean end
  return lists
end

--- Which patches a block attends to, for each head and for their mean: the attention of one patch
--- to all or, without `patch`, the mean over all patches. The values are multiples of even
--- attention.
---@param encoder ijepa.encoder
---@param one any one image
---@param o { layer: integer?, patch: integer[]?, side: integer?, title: (string|false)?, file: string? }? layer: 1 the
--- first block, -1 the last (the default); patch: { row, column } from 0
---@return ijepa.canvas|string? done, string? message, integer? code
function plot.attention(encoder, one, o)
  encoder = encoder_of(encoder, "plot.attention")
  o = o or {}
  local x = plot.batch(one, encoder):narrow(1, 1, 1):contiguous()
  local grid = grid_of(x, encoder)
  local N, A, cell = grid[1] * grid[2], encoder.heads, panel.cell(grid, o.side)
  local block = block_of(encoder, o.layer or o.block or -1, "plot.attention")
  local at = o.patch and position(o.patch, grid, "plot.attention")
  -- (1, A, N, N)
  local p = device.no_grad(function() return encoder:attention(x, block) end):read()
  local lists, high = attention_lists(p, A, N, at), 0
  for _, values in ipairs(lists) do high = math.max(high, unpack(values)) end
  local original = panel.image(plot.sharp(one, x, grid, cell), 1, grid, cell)
  local shown = canvas.new(original.width, original.height):blit(original, 0, 0)
  local parts = { { at and mark(shown, at, grid, cell) or shown, title = "image" } }
  for a, values in ipairs(lists) do
    local heat = panel.heat(values, grid, cell,
      { low = 0, high = high, over = original, alpha = .7 })
    parts[a + 1] = { at and mark(heat, at, grid, cell) or heat, title = a > A and "mean" or "head "
      .. a }
  end
  local figure = heading(o, math.min(#parts, 5),
    ("Attention of layer %d of %d"):format(block, encoder.depth)
      .. (at and ", " .. patch_name(at, grid) or ""),
    at and "Attention of the framed patch to all patches."
      or "The mean over the attention of all patches.")
  figure.bar = { low = 0, high = high, format = "%.1f", unit = "times even attention" }
  return layout.finish(panel.rows(parts, figure), o.file)
end

-- Cosines of patch `at` of image 1 with all patches, a list of N for each image, and the smallest
-- of them.
local function cosines_of(features, at)
  local h, B, N, D = features:read(), features:size(1), features:size(2), features:size(3)
  local function dot(i, j)
    local sum = 0
    for d = 0, D - 1 do sum = sum + h[i * D + d] * h[j * D + d] end
    return sum
  end
  local length, values, low = math.sqrt(dot(at, at)) + 1e-12, {}, 1
  for b = 1, B do
    values[b] = {}
    for j = 1, N do
      local i = (b - 1) * N + j - 1
      values[b][j] = dot(i, at) / (length * (math.sqrt(dot(i, i)) + 1e-12))
      low = math.min(low, values[b][j])
    end
  end
  return values, low
end

--- How similar one patch of the first image is to all patches of all images: the cosine of their
--- features.
---@param encoder ijepa.encoder
---@param images any
---@param o { patch: integer[]?, layer: integer?, side: integer?, title: (string|false)?, file: string? }? patch:
--- { row, column } from 0; default: the middle; layer: as for plot.features
---@return ijepa.canvas|string? done, number[][]|string|nil values by image and patch, or the
--- message
function plot.similarity(encoder, images, o)
  encoder = encoder_of(encoder, "plot.similarity")
  o = o or {}
  local x = plot.batch(images, encoder)
  local grid = grid_of(x, encoder)
  local B, cell = x:size(1), panel.cell(grid, o.side)
  local middle = { math.floor(grid[1] / 2), math.floor(grid[2] / 2) }
  local at = position(o.patch or middle, grid, "plot.similarity")
  local values, low = cosines_of(plot.features(encoder, x, o.layer), at)
  local parts, shown = {}, plot.sharp(images, x, grid, cell)
  for b = 1, B do
    local over = panel.image(shown, b, grid, cell)
    parts[b] = { panel.image(shown, b, grid, cell) }
    parts[B + b] = { panel.heat(values[b], grid, cell,
      { low = low, high = 1, over = over, alpha = .7 }) }
  end
  parts[1].title = (B == 1 and "image" or "images") .. "; the frame is " .. patch_name(at, grid)
  parts[B + 1].title = "similarity to the framed patch"
  mark(parts[1][1], at, grid, cell)
  mark(parts[B + 1][1], at, grid, cell)
  local figure = heading(o, B, "Similarity of one patch to all" .. layer_name(encoder, o.layer),
    "The cosine of the features of two patches: 1 is the same direction.")
  figure.bar = { low = low, high = 1, unit = "cosine" }
  local c = panel.rows(parts, figure)
  if o.file then return layout.finish(c, o.file) end
  return c, values
end

-- ---- loss ---------------------------------------------------------------------------------------

--- Mean smooth L1 (beta 1) between D values of p from offset i * D and of q from j * D.
---@param p ffi.cdata* float *
---@param i integer
---@param q ffi.cdata* float *
---@param j integer
---@param D integer
---@return number
function plot.distance(p, i, q, j, D)
  local sum = 0
  for d = 0, D - 1 do
    local off = math.abs(p[i * D + d] - q[j * D + d])
    sum = sum + (off < 1 and off * off / 2 or off - .5)
  end
  return sum / D
end

--- The loss of each predicted patch: smooth L1, a mean over the features' dimensions and over
--- contexts.
---@param z ijepa.tensor predictions f32 (M * C * B, T, D), order [target][context][image]
---@param h ijepa.tensor target features f32 (M * B, T, D)
---@param B integer images
---@return number[] losses (M * B * T), order [target][image][patch], from 1
function plot.patch_losses(z, h, B)
  local rows, T, D = h:size(1), h:size(2), h:size(3)
  local contexts = z:size(1) / rows
  local p, q, list = z:read(), h:read(), {}
  for r = 0, rows - 1 do
    local m, b = math.floor(r / B), r % B
    for t = 0, T - 1 do
      local sum = 0
      for c = 0, contexts - 1 do
        sum = sum + plot.distance(p, ((m * contexts + c) * B + b) * T + t, q, r * T + t, D)
      end
      list[#list + 1] = sum / contexts
    end
  end
  return list
end

--- The loss of each patch position, a mean over images and masks of the model's policy.
---@param model table as ijepa.model or ijepa.pretrain gives it
---@param images any default: 64 of those that it was trained on
---@param o { rounds: integer?, first: integer?, side: integer?, title: (string|false)?, file: string? }? rounds: masks drawn for each image, 8;
--- first: number of the first mask, from 0
---@return ijepa.canvas|boolean? done, number[] losses by patch, row-major from 1; nil where it was
--- never a target
function plot.loss(model, images, o)
  o = o or {}
  need(type(model) == "table" and model.predictor and model.policy and (images or model.config),
    "plot.loss: the first argument is no model with a mask policy: see ijepa.model")
  local x = plot.batch(images or model.config.data.root, model.target, { count = 64 })
  local grid = grid_of(x, model.target)
  local B, N, sum, count = x:size(1), grid[1] * grid[2], {}, {}
  local features, first = plot.features(model.target, x), o.first or 0
  local policy = seeing(model.policy, function() return x end, model.target, first, "plot.loss")
  for round = 0, (o.rounds or 8) - 1 do
    device.step(function() device.no_grad(function()
      local context, target = policy:sample(B, first + round * B)
      local losses = plot.patch_losses(model.predictor(model.encoder(x, context), context, target,
        grid),
        features:gather(target), B)
      local index = target:read()
      for i = 0, #losses - 1 do
        local at = index[i] + 1
        sum[at], count[at] = (sum[at] or 0) + losses[i + 1], (count[at] or 0) + 1
      end
    end) end)
  end
  local values, low, high, total, n, never = {}, math.huge, 0, 0, 0, false
  for i = 1, N do
    values[i] = count[i] and sum[i] / count[i]
    never = never or not values[i]
    if values[i] then
      low, high, total, n = math.min(low, values[i]), math.max(high, values[i]), total + sum[i],
        n + count[i]
    end
  end
  local cell = panel.cell(grid, o.side or 256)
  local heat = panel.heat(values, grid, cell, { low = low, high = high })
  local figure = heading(o, 1, "Loss by position",
    ("The mean loss of each patch position. Mean of all: %.4f.%s"):format(total / n,
      never and " Grey: never a target." or ""))
  figure.bar = { low = low, high = high, format = "%.3f", unit = "smooth L1" }
  local c = panel.rows({ { heat } }, figure)
  if o.file then return layout.finish(c, o.file) end
  return c, values
end

return plot

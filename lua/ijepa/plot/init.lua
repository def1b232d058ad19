-- Figures of what a model sees: masks, principal components of features, attention, similarity, loss by position, curves.
-- An image is a file's name, a list of names, a canvas, or a tensor u8 (B, H, W, 3) of the encoder's size; names are
-- loaded as the loader does it for evaluation. Features are the encoder's outputs after a layer norm: what is predicted.
-- `encoder` may be a model (ijepa.model): its target encoder.
-- Uses: base, tensor, draw, data, optim, model, run, probe.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local linalg = require "ijepa.tensor.linalg"
local canvas = require "ijepa.draw.canvas"
local draw = require "ijepa.draw"
local panel = require "ijepa.plot.panel"
local Run = require "ijepa.run"
local C = F.C

local plot = {}

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end
local function finish(c, file) return file and c:save(file) or (not file and c) end

-- An encoder, or a model's target encoder.
local function encoder_of(v, name)
  local e = type(v) == "table" and (v.predictor and v.target or v)
  need(type(e) == "table" and e.grid and e.patch, "%s: the first argument is a %s, expected an encoder or a model", name, type(v))
  return e
end

-- ---- images in -------------------------------------------------------------------------------------------------

local function centred(c, o)
  local h, w = pair(o.crop or 224)
  local out = F.new("uint8_t[?]", h * w * 3)
  F.check(C.ij_image_centre(c.pixels, c.height, c.width, o.resize or math.floor(h * 8 / 7 + .5), h, w, out))
  return tensor.from_pointer(out, { 1, h, w, 3 }, "u8", true)
end

--- An image as the loader gives it for evaluation: its short side resized, the crop cut from the middle.
---@param path string|ijepa.canvas
---@param o { crop: integer|integer[]|nil, resize: integer? }? crop: side or { height, width }, 224; resize: crop * 8 / 7
---@return ijepa.tensor? pixels u8 (1, H, W, 3), string? message, integer? code
function plot.load(path, o)
  if canvas.is(path) then return centred(path, o or {}) end
  local c, message, code = canvas.load(path)
  if not c then return nil, message, code end
  return centred(c, o or {})
end

--- Images as a tensor for an encoder: see the top of this module; a folder or a tar gives `count` (16),
--- drawn from all of it, the same in each call.
---@param images string|string[]|ijepa.canvas|ijepa.tensor
---@param encoder ijepa.encoder
---@param o { resize: integer?, count: integer? }?
---@return ijepa.tensor pixels u8 (B, H, W, 3)
function plot.batch(images, encoder, o)
  o = o or {}
  if tensor.is(images) then return images end
  local crop = { encoder.grid[1] * encoder.patch, encoder.grid[2] * encoder.patch }
  local first = type(images) == "table" and not canvas.is(images) and images[1] or images
  local many = type(first) == "string" and (C.ij_path_kind(first) == 2 or first:find "%.tar$")
  if many then
    local set, message = data.open { root = images, crop = crop, resize = o.resize, batch = o.count or 16, workers = 0,
      shuffle = true }
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
    need(type(one) == "string" or canvas.is(one), "images: number %d is a %s, expected a file's name or a canvas", i, type(one))
    local x, message = plot.load(one, { crop = crop, resize = o.resize })
    if not x then F.raise(message) end
    F.copy(all + (i - 1) * size, x:read(), size)
  end
  return tensor.from_pointer(all, { #images, crop[1], crop[2], 3 }, "u8", true)
end

-- The patches' rows and columns in an image of this size.
local function grid_of(x, encoder) return { x:size(2) / encoder.patch, x:size(3) / encoder.patch } end

--- Features of images, some at a time: the encoder's outputs after a layer norm.
---@param encoder ijepa.encoder
---@param x ijepa.tensor u8 (B, H, W, 3)
---@return ijepa.tensor f32 (B, N, D)
function plot.features(encoder, x)
  local B, out, chunk = x:size(1), nil, 16
  for from = 1, B, chunk do
    local n = math.min(chunk, B - from + 1)
    device.no_grad(function()
      local y = encoder(x:narrow(1, from, n):contiguous()):layer_norm()
      out = out or tensor.empty({ B, y:size(2), y:size(3) }, "f32", true)
      out:narrow(1, from, n):copy_(y)
    end)
  end
  return out
end

local function position(o, grid, name)
  local row, col = pair(o)
  need(type(row) == "number" and type(col) == "number" and row % 1 == 0 and col % 1 == 0 and row >= 0 and col >= 0
    and row < grid[1] and col < grid[2], "%s: patch must be { row, column } from 0 in a grid of %d x %d", name, grid[1], grid[2])
  return row * grid[2] + col
end

-- The images as they are shown: from files and canvases, cropped as for the encoder but at the size that is drawn.
local function sharp(images, x, grid, cell)
  if tensor.is(images) then return x end
  return plot.batch(images, { grid = grid, patch = cell }, { count = x:size(1) })
end

-- Title and caption of a figure; title = false: neither.
local function heading(o, title, note)
  if o.title == false then return { columns = o.columns } end
  return { columns = o.columns, title = o.title or title, note = note }
end

local function mark(c, at, grid, cell)
  local x, y = at % grid[2] * cell, math.floor(at / grid[2]) * cell
  return c:frame(x, y, cell, cell, 0xffffff, 2):frame(x - 1, y - 1, cell + 2, cell + 2, 0xd00000, 1)
end

-- ---- masks and curves --------------------------------------------------------------------------------------------

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
--- images: see the top of this module, nil: a plain board, or, where the model's policy reads images, some that it was
--- trained on; target: the target encoder, for policies that read it (default: the model's); draws: how many (4);
--- first: number of the first, from 0
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
    return images and plot.batch(images, { grid = grid, patch = target and target.patch or cell }, { count = n })
  end, target, first, "plot.masks")
  if images then
    local x = images
    if not tensor.is(x) then   -- whole patches of the policy's grid, at about the size that is drawn
      x = plot.batch(x, { grid = grid, patch = cell }, { count = n })
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
  local log, message = Run.read_log(out, type(run) == "table" and run.config and run.config.tag or nil)
  if not log then F.raise(message) end
  if message then io.stderr:write("warning: ", message, "\n") end
  local x, y = draw.smooth(log.loss, 200)
  return draw.curves(o.file, { { name = "loss", x = x, y = y } }, { title = o.title or out, x = "step", y = "smooth L1",
    log = o.log, width = o.width, height = o.height })
end

-- ---- principal components ----------------------------------------------------------------------------------------

local Basis = { __tostring = function(b)
  return ("principal components: %.0f, %.0f, %.0f %% of the variance"):format(100 * b.share[1], 100 * b.share[2], 100 * b.share[3])
end }

---@class ijepa.basis
---@field mean ijepa.tensor f32 (D)
---@field vectors ijepa.tensor f32 (3, D): unit directions, the one of most variance first
---@field deviation number[] standard deviation along each
---@field share number[] part of the variance

--- The three directions in which features of these patches differ most: fitted once, usable for all images. A
--- direction's sign is the one in which the sum of its cubed numbers is positive.
---@param encoder ijepa.encoder
---@param images any
---@return ijepa.basis
function plot.basis(encoder, images)
  encoder = encoder_of(encoder, "plot.basis")
  local h = plot.features(encoder, plot.batch(images, encoder, { count = 64 }))
  local D = h:size(3)
  need(D >= 3, "plot.basis: features have %d numbers, three are needed", D)
  local covariance, mean = linalg.covariance(h:reshape(-1, D))
  local values, vectors = linalg.eigh(covariance, true)
  local v, total = vectors:read(), 0
  for _, value in ipairs(values) do total = total + math.max(value, 0) end
  local deviation, share = {}, {}
  for i = 0, 2 do
    local cubes = 0
    for j = 0, D - 1 do cubes = cubes + v[i * D + j] ^ 3 end
    for j = 0, D - 1 do v[i * D + j] = cubes < 0 and -v[i * D + j] or v[i * D + j] end
    deviation[i + 1] = math.sqrt(math.max(values[i + 1], 1e-12))
    share[i + 1] = total > 0 and values[i + 1] / total or 0
  end
  return setmetatable({ mean = mean:clone(true), vectors = tensor.from_pointer(v, { 3, D }, "f32", true), deviation = deviation,
    share = share }, Basis)
end

--- Features as colours: red, green and blue are the first three principal components, from -2.5 standard deviations
--- (dark) to 2.5. With the same basis the same colour means the same everywhere.
---@param encoder ijepa.encoder
---@param images any
---@param o { basis: ijepa.basis?, side: integer?, title: (string|false)?, file: string? }? basis: default: of these images
---@return ijepa.canvas|boolean? done, ijepa.basis|string basis_or_message
function plot.pca(encoder, images, o)
  encoder = encoder_of(encoder, "plot.pca")
  o = o or {}
  local x = plot.batch(images, encoder)
  local basis = o.basis or plot.basis(encoder, x)
  local grid = grid_of(x, encoder)
  local B, N, cell = x:size(1), grid[1] * grid[2], panel.cell(grid, o.side)
  local h = plot.features(encoder, x)
  local D = h:size(3)
  local y = (h:reshape(B * N, D) - basis.mean):linear(basis.vectors):read()   -- (B * N, 3)
  local parts = {}
  local original = sharp(images, x, grid, cell)
  for b = 1, B do parts[b] = { panel.image(original, b, grid, cell), title = o.title ~= false and "image " .. b or nil } end
  for b = 1, B do
    local c = canvas.new(grid[2] * cell, grid[1] * cell)
    for i = 0, N - 1 do
      local rgb = {}
      for k = 1, 3 do
        local v = y[((b - 1) * N + i) * 3 + k - 1] / (2.5 * basis.deviation[k])
        rgb[k] = math.floor(255 * math.max(0, math.min(1, .5 + v / 2)) + .5)
      end
      c:rect(i % grid[2] * cell, math.floor(i / grid[2]) * cell, cell, cell, canvas.rgb(rgb[1], rgb[2], rgb[3]))
    end
    parts[B + b] = { c, title = o.title ~= false and "components" or nil }
  end
  local c = panel.rows(parts, heading({ title = o.title, columns = B }, "Principal components of the patch features",
    "Red, green, blue: " .. tostring(basis):match "%d.*"))
  if o.file then return c:save(o.file) end
  return c, basis
end

-- ---- attention and similarity ------------------------------------------------------------------------------------

--- Where a block looks: for each head and for their mean, the attention of one patch to all, or, without `patch`, of all
--- patches on average. The numbers are multiples of even attention.
---@param encoder ijepa.encoder
---@param one any one image
---@param o { block: integer?, patch: integer[]?, side: integer?, title: (string|false)?, file: string? }? block: 1 the first, -1 the last (the
--- default); patch: { row, column } from 0
---@return ijepa.canvas|boolean? done
function plot.attention(encoder, one, o)
  encoder = encoder_of(encoder, "plot.attention")
  o = o or {}
  local x = plot.batch(one, encoder):narrow(1, 1, 1):contiguous()
  local grid = grid_of(x, encoder)
  local N, A, cell = grid[1] * grid[2], encoder.heads, panel.cell(grid, o.side)
  local at = o.patch and position(o.patch, grid, "plot.attention")
  local p = device.no_grad(function() return encoder:attention(x, o.block or -1) end):read()   -- (1, A, N, N)
  local original = panel.image(sharp(one, x, grid, cell), 1, grid, cell)
  local shown = canvas.new(original.width, original.height):blit(original, 0, 0)
  local parts, mean = { { at and mark(shown, at, grid, cell) or shown, title = "image" } }, {}
  local function add(values, title)
    local high = math.max(unpack(values))
    parts[#parts + 1] = { panel.heat(values, grid, cell, { low = 0, high = high, over = original, alpha = .6 }), title = title,
      below = panel.bar(grid[2] * cell, 0, high, "%.1fx") }
    if at then mark(parts[#parts][1], at, grid, cell) end
  end
  for j = 1, N do mean[j] = 0 end
  for a = 0, A - 1 do
    local values = {}
    for j = 0, N - 1 do
      local sum = 0
      for i = at or 0, at or N - 1 do sum = sum + p[(a * N + i) * N + j] end
      values[j + 1] = sum / (at and 1 or N) * N
      mean[j + 1] = mean[j + 1] + values[j + 1] / A
    end
    add(values, "head " .. a + 1)
  end
  if A > 1 then add(mean, "mean of heads") end
  return finish(panel.rows(parts, heading({ title = o.title, columns = math.min(#parts, 5) },
    at and ("Attention of patch (%d, %d)"):format(math.floor(at / grid[2]), at % grid[2]) or "Attention, mean of all patches",
    "1x: even attention to all patches" .. (at and "; the frame marks the patch" or ""))), o.file)
end

--- How alike one patch of the first image is to all patches of all images: cosine of their features.
---@param encoder ijepa.encoder
---@param images any
---@param o { patch: integer[]?, side: integer?, title: (string|false)?, file: string? }? patch: { row, column } from 0; default: the middle
---@return ijepa.canvas|boolean? done, number[][] values
function plot.similarity(encoder, images, o)
  encoder = encoder_of(encoder, "plot.similarity")
  o = o or {}
  local x = plot.batch(images, encoder)
  local grid = grid_of(x, encoder)
  local B, N, cell = x:size(1), grid[1] * grid[2], panel.cell(grid, o.side)
  local at = position(o.patch or { math.floor(grid[1] / 2), math.floor(grid[2] / 2) }, grid, "plot.similarity")
  local t = plot.features(encoder, x)
  local h, D = t:read(), t:size(3)
  local function norm(i)
    local sum = 0
    for d = 0, D - 1 do sum = sum + h[i * D + d] ^ 2 end
    return math.sqrt(sum) + 1e-12
  end
  local of, values, low = norm(at), {}, 1
  for b = 1, B do
    values[b] = {}
    for j = 0, N - 1 do
      local i, sum = (b - 1) * N + j, 0
      for d = 0, D - 1 do sum = sum + h[i * D + d] * h[at * D + d] end
      values[b][j + 1] = sum / (of * norm(i))
      low = math.min(low, values[b][j + 1])
    end
  end
  local parts = {}
  local shown = sharp(images, x, grid, cell)
  for b = 1, B do parts[b] = { panel.image(shown, b, grid, cell), title = o.title ~= false and "image " .. b or nil } end
  for b = 1, B do
    local over = panel.image(shown, b, grid, cell)
    parts[B + b] = { panel.heat(values[b], grid, cell, { low = low, high = 1, over = over, alpha = .6 }),
      title = o.title ~= false and "cosine" or nil }
  end
  parts[B + 1].below = panel.bar(grid[2] * cell, low, 1, "%.2f")
  mark(parts[1][1], at, grid, cell)
  mark(parts[B + 1][1], at, grid, cell)
  return finish(panel.rows(parts, heading({ title = o.title, columns = B },
    ("Similarity to patch (%d, %d) of image 1"):format(math.floor(at / grid[2]), at % grid[2]),
    "Cosine of the features; the frame marks the patch")), o.file), values
end

-- ---- loss --------------------------------------------------------------------------------------------------------

--- Mean smooth L1 (beta 1) between D numbers of p from place i * D and of q from j * D.
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

--- The loss of each predicted patch: smooth L1, a mean over the features' numbers and over contexts.
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
---@return ijepa.canvas|boolean? done, number[] losses by patch, row-major from 1; nil where it was never a target
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
      local losses = plot.patch_losses(model.predictor(model.encoder(x, context), context, target, grid),
        features:gather(target), B)
      local index = target:read()
      for i = 0, #losses - 1 do
        local at = index[i] + 1
        sum[at], count[at] = (sum[at] or 0) + losses[i + 1], (count[at] or 0) + 1
      end
    end) end)
  end
  local values, low, high, total, n = {}, math.huge, 0, 0, 0
  for i = 1, N do
    values[i] = count[i] and sum[i] / count[i]
    if values[i] then
      low, high, total, n = math.min(low, values[i]), math.max(high, values[i]), total + sum[i], n + count[i]
    end
  end
  local cell = panel.cell(grid, o.side or 256)
  local heat = panel.heat(values, grid, cell, { low = low, high = high })
  local c = panel.rows({ { heat, title = o.title == false and ("mean %.4f"):format(total / n) or nil,
    below = panel.bar(heat.width, low, high, "%.3f") } },
    heading(o, "Loss by position", ("Smooth L1, mean %.4f; grey: never a target"):format(total / n)))
  return finish(c, o.file), values
end

return plot

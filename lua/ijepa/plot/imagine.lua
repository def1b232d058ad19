--- What does the predictor predict? `ijepa.imagine(model, image)`: for each target patch the
--- distance between predicted
-- and actual features, and the real patch of other images whose features are nearest to the
-- prediction. Energy is smooth L1 between the prediction and the layer-normed features of the
-- target encoder, as in training; relative energy is energy over that of always predicting the mean
-- feature: 1 is no better than knowing nothing of the image.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local plot = require "ijepa.plot"
local layout = require "ijepa.draw.layout"
local panel = require "ijepa.plot.panel"
local text = require "ijepa.base.text"

local imagine = {}

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

-- ---- the bank -----------------------------------------------------------------------------------

---@class ijepa.bank
---@field x ijepa.tensor f32 (R, D): layer-normed features of the target encoder, a row a patch
---@field mean ijepa.tensor f32 (D)
---@field pixels ffi.cdata* u8 (R, P, P, 3)
---@field rows integer R
---@field patches integer patches of an image: row r is patch r % patches of image r / patches, both
--- from 0
local Bank = {}
Bank.__index = Bank

--- Features of the patches of many images, with their pixels: `imagine` finds the patches most
--- similar to a prediction in it.
---@param model table as ijepa.model or ijepa.pretrain gives it
---@param data any images as for ijepa.plot, or a folder or tar; default: what the model was trained
--- on
---@param o { images: integer?, resize: integer? }? images: at most so many; default: as many as
--- hold 16384 patches
---@return ijepa.bank
function imagine.bank(model, data, o)
  o = o or {}
  need(type(model) == "table" and model.predictor and (data or model.config),
    "bank: the first argument is no model: see ijepa.model")
  local encoder = model.target
  local N = encoder.grid[1] * encoder.grid[2]
  local x = plot.batch(data or model.config.data.root, encoder,
    { count = o.images or math.max(1, math.floor(16384 / N)),
    resize = o.resize })
  local h = plot.features(encoder, x)
  local D = h:size(3)
  N = h:size(2)
  local rows = x:size(1) * N
  local flat = h:reshape(rows, D)
  local source = data or model.config.data.root
  local name = type(source) == "string" and source:match "[^/]+/*$" or nil
  return setmetatable({ name = name, x = flat, mean = flat:mean(1):clone(true),
    pixels = panel.cut(x, encoder.patch),
    patch = encoder.patch, rows = rows, patches = N, width = D }, Bank)
end

function Bank:__tostring()
  return ("bank of %s of %s, features of %s"):format(text.count(self.rows, "patch", "patches"),
    text.count(self.rows / self.patches, "image"), text.count(self.width, "dimension"))
end

--- The rows (from 0) of the bank that are nearest to each feature, the nearest first.
---@param features ijepa.tensor f32 (T, D)
---@param k integer? 1
---@return integer[][]
function Bank:nearest(features, k)
  need(features:dim() == 2 and features:size(2) == self.width,
    "bank: features of %d dimensions, expected a matrix with %d",
    features:size(-1), self.width)
  k = math.min(k or 1, self.rows)
  local T, R, list = features:size(1), self.rows, {}
  -- layer-normed rows are all of one length: the nearest has the largest product
  local score = device.no_grad(function() return features:linear(self.x) end):read()   -- (T, R)
  for t = 0, T - 1 do
    local best, value = {}, {}
    for r = 0, R - 1 do
      local s = score[t * R + r]
      if #best < k or s > value[k] then
        local at = math.min(#best + 1, k)
        while at > 1 and s > value[at - 1] do
          best[at], value[at] = best[at - 1], value[at - 1]
          at = at - 1
        end
        best[at], value[at] = r, s
      end
    end
    list[t + 1] = best
  end
  return list
end

-- ---- masks --------------------------------------------------------------------------------------

local function is_region(v) return type(v) == "table" and type(v.patches) == "function" end

-- Patches (from 0) as i32 (n, 1, K): a tensor, a region of a mask grid, a list of patches, or a
-- list of such.
local function index_of(v, patches, what)
  if tensor.is(v) then
    need(v:dim() == 3 and v:size(2) == 1, "imagine: the %s tensor must be i32 (masks, 1, patches)",
      what)
    return v
  end
  need(type(v) == "table", "imagine: the %s is a %s, expected patches", what, type(v))
  if is_region(v) or type(v[1]) == "number" then v = { v } end
  local rows = {}
  for i, mask in ipairs(v) do
    local row = is_region(mask) and mask:patches() or mask
    need(type(row) == "table" and #row > 0 and (i == 1 or #row == #rows[1][1]),
      "imagine: %s %d: expected a list of patches as long as the first", what, i)
    for _, p in ipairs(row) do
      need(type(p) == "number" and p % 1 == 0 and p >= 0 and p < patches,
        "imagine: %s %d: %s is no patch of 0 to %d", what, i, tostring(p), patches - 1)
    end
    rows[i] = { row }
  end
  need(#rows > 0, "imagine: there is no %s", what)
  return tensor.new(rows, "i32")
end

-- ---- imagine ------------------------------------------------------------------------------------

--- Predictions and target features of one image's target patches; a patch that several targets (or
--- contexts) predict has the mean of its predictions.
---@param model table
---@param x ijepa.tensor u8 (1, H, W, 3)
---@param context any see imagine
---@param target any
---@return integer[] patches from 0, rising
---@return ijepa.tensor z f32 (n, D), predictions
---@return ijepa.tensor h f32 (n, D), layer-normed features of the target encoder
function imagine.predict(model, x, context, target)
  local P = model.target.patch
  local grid = { x:size(2) / P, x:size(3) / P }
  local N = grid[1] * grid[2]
  context, target = index_of(context, N, "context"), index_of(target, N, "target")
  return device.no_grad(function()
    local h = model.target(x):layer_norm()                                            -- (1, N, D)
    -- (M * C, T, D)
    local predicted = model.predictor(model.encoder(x, context), context, target, grid)
    local D, index, T, C = h:size(3), target:read(), target:size(3), context:size(1)
    local sum, count, from = F.new("float[?]", N * D), {}, predicted:read()
    for i = 0, predicted:size(1) * T - 1 do
      local at = index[math.floor(i / (C * T)) * T + i % T]
      count[at] = (count[at] or 0) + 1
      for d = 0, D - 1 do sum[at * D + d] = sum[at * D + d] + from[i * D + d] end
    end
    local patches = {}
    for at = 0, N - 1 do
      if count[at] then
        local n = #patches
        -- n <= at: nothing is lost
        for d = 0, D - 1 do sum[n * D + d] = sum[at * D + d] / count[at] end
        patches[n + 1] = at
      end
    end
    local rows = h:gather(tensor.new({ { patches } }, "i32")):reshape(#patches, D)
    return patches, tensor.from_pointer(sum, { #patches, D }, "f32"), rows
  end)
end

local About = { __tostring = function(a)
  return ("%s: energy %.4f, %.2f of that of predicting the mean"):format(
    text.count(#a.patches, "patch", "patches"), a.energy_mean, a.relative_mean)
end }

--- Shows what a model predicts for one image: the image, its context, in the positions of the
--- targets the nearest real patches to the predictions and to the actual features, energy, and
--- energy against predicting the mean. A patch that several targets hold counts with the mean of
--- its predictions. Returns the canvas and the values, or writes a file.
---@param model table as ijepa.model or ijepa.pretrain gives it
---@param one any one image, see ijepa.plot
---@param context any? patches that are seen: a region of a mask grid, a list of patch indices from
--- 0, or i32 (C, 1, K); default: as
--- the model's own mask policy draws it
---@param target any? the same, or a list of such: patches to predict
---@param o { bank: ijepa.bank?, first: integer?, k: integer?, side: integer?, file: string? }?
--- bank: default: made once a model;
--- first: number of the drawn mask, from 0; k: neighbours in the result
---@return ijepa.canvas|boolean done, table|string about by patch number (from 0): energy, relative,
--- base, nearest
--- (bank rows); means: energy_mean, relative_mean
function imagine.imagine(model, one, context, target, o)
  need(type(model) == "table" and model.predictor and model.target,
    "imagine: the first argument is no model: see ijepa.model")
  o = o or {}
  local x = plot.batch(one, model.target):narrow(1, 1, 1):contiguous()
  local P = model.target.patch
  local grid = { x:size(2) / P, x:size(3) / P }
  local N = grid[1] * grid[2]
  need((context == nil) == (target == nil), "imagine: give both a context and targets, or neither")
  if context == nil then
    local policy = model.policy:for_images(x, model.target, o.first)
    context, target = policy:sample(1, o.first or 0)
  end
  context, target = index_of(context, N, "context"), index_of(target, N, "target")
  if not o.bank and not model.bank then model.bank = imagine.bank(model) end
  local bank = o.bank or model.bank

  local patches, z, h = imagine.predict(model, x, context, target)
  local D, predicted, actual, mean = z:size(2), z:read(), h:read(), bank.mean:read()
  local about = setmetatable({ energy = {}, base = {}, relative = {}, nearest = {},
    patches = patches }, About)
  local energies, relatives, total, base, most = {}, {}, 0, 0, 0
  for i, p in ipairs(patches) do
    local e, b = plot.distance(predicted, i - 1, actual, i - 1, D),
      plot.distance(mean, 0, actual, i - 1, D)
    about.energy[p], about.base[p], about.relative[p] = e, b, e / math.max(b, 1e-12)
    energies[p + 1], relatives[p + 1] = e, about.relative[p]
    total, base, most = total + e, base + b, math.max(most, e)
  end
  about.energy_mean, about.relative_mean = total / #patches, total / math.max(base, 1e-12)

  local cell = panel.cell(grid, o.side)
  local shown = plot.sharp(one, x, grid, cell)
  local size = P * P * 3
  local function painted(features)
    -- the context, and the nearest patches of the bank in the targets' positions
    local c = panel.context(shown, context, grid, cell)
    local near = bank:nearest(features, o.k)
    for i, p in ipairs(patches) do
      panel.paste(c, bank.pixels + near[i][1] * size, P, p, grid, cell)
    end
    return c, near
  end
  local by_prediction, near = painted(z)
  for i, p in ipairs(patches) do about.nearest[p] = near[i] end
  local c = panel.rows({
    { panel.image(shown, 1, grid, cell), title = "image" },
    { panel.context(shown, context, grid, cell), title = "context" },
    { panel.heat(energies, grid, cell, { low = 0, high = most }), title = "energy",
      bar = { low = 0, high = most, unit = "smooth L1" } },
    { by_prediction, title = "nearest to predictions" },
    { painted(h), title = "nearest to targets" },
    { panel.heat(relatives, grid, cell, { low = 0, high = 1 }), title = "relative energy",
      bar = { low = 0, high = 1, format = "%.0f", unit = "of the mean's loss" } },
  }, o.title == false and { columns = 3 } or {
    columns = 3, title = o.title or "What the predictor predicts",
    note = ("Targets are replaced by the patches of %s with the nearest features. Energy: the loss of each "
      .. "prediction, mean %.3f; relative to predicting the mean feature: %.2f."):format(
      bank.name or "other images", about.energy_mean, about.relative_mean) })
  if o.file then return layout.finish(c, o.file) end
  return c, about
end

return imagine

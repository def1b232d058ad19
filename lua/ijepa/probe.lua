-- Probes: what a frozen encoder's features are worth. Features are average-pooled patches of the last layer, or of the
-- last blocks joined; a linear classifier is trained on them for every learning rate and weight decay of a sweep at once.
local F = require "ijepa._ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.device"
local data = require "ijepa.data"
local schedule = require "ijepa.schedule"
local optim = require "ijepa.optim"
local C = F.C

local probe = {}

---@class ijepa.features
---@field x ijepa.tensor f32 (R, W): a row a picture, kept
---@field y ijepa.tensor i32 (R): class numbers, kept
---@field classes string[]

--- A function from pixels u8 (B, H, W, 3) to features f32 (B, W). blocks: 0 for the last layer after its norm, n for the
--- last n blocks, each normalised and pooled, side by side.
---@param encoder ijepa.encoder
---@param blocks integer?
function probe.pooled(encoder, blocks)
  if (blocks or 0) == 0 then return function(x) return encoder(x):mean(2) end end
  return function(x)
    local list = {}
    for i, b in ipairs(encoder:blocks(x, blocks)) do list[i] = b:layer_norm():mean(2) end
    return tensor.concat(list)
  end
end

--- Last layer and last n blocks in one pass: features (B, (1 + n) * D), the last layer's first D columns first.
function probe.pooled_both(encoder, blocks)
  local w, b = encoder.by_name["norm.weight"].tensor, encoder.by_name["norm.bias"].tensor
  return function(x)
    local outputs, list = encoder:blocks(x, blocks), {}
    list[1] = outputs[blocks]:layer_norm(w, b, 1e-6):mean(2)
    for _, o in ipairs(outputs) do list[#list + 1] = o:layer_norm():mean(2) end
    return tensor.concat(list)
  end
end

--- Some columns (from 1) of features, as features.
---@return ijepa.features
function probe.columns(features, from, count)
  return { x = features.x:narrow(2, from, count):clone(true), y = features.y, classes = features.classes }
end

--- Pixels themselves as features (B, H * W * 3), 0 to 1: what a probe must beat.
function probe.pixels(x)
  return tensor.normalise(x, { 0, 0, 0 }, { 1, 1, 1 }):reshape(x:size(1), x:size(2) * x:size(3) * 3)
end

--- The features of all pictures of a folder or tar, in order. f: function of pixels; o as data.open, plus limit.
---@return ijepa.features? features, string? message
function probe.features(f, o)
  local images, message = data.open { root = o.root, subset = o.subset, crop = o.crop, resize = o.resize, batch = o.batch or 128,
    workers = o.workers, shuffle = o.limit ~= nil, seed = o.seed, max_bad = o.max_bad }
  if not images then return nil, message end
  local n = math.min(images:count(), o.limit or math.huge)
  local classes = images:classes()
  if #classes < 2 then return nil, ("'%s' has no classes: a probe needs folders of classes"):format(o.root) end
  local labels, rows, at = F.new("int32_t[?]", n), nil, 0
  while at < n do
    local b
    b, message = images:next()
    if not b then
      if message then return nil, message end
      break
    end
    local take = math.min(b.count, n - at)
    local t = device.step(function()
      return device.no_grad(function()
        local y = f(tensor.from_pointer(b.pixels, { b.count, images.height, images.width, 3 }, "u8"))
        rows = rows or tensor.empty({ n, y:size(2) }, "f32", true)
        rows:narrow(1, at + 1, take):copy_(y:narrow(1, 1, take))
        return take
      end)
    end)
    for i = 0, t - 1 do labels[at + i] = b.labels[i] end
    at = at + t
  end
  images:close()
  if at == 0 then return nil, ("'%s' gave no pictures"):format(o.root) end
  return { x = rows:narrow(1, 1, at), y = tensor.from_pointer(labels, { at }, "i32", true), classes = classes }
end

-- Columns of x (R, W) with mean 0 and variance 1 as those of `like`: batch norm without its affine part.
local function standardise(x, mean, var) return tensor.batch_norm(x, mean, var, false, 0, 1e-6) end

-- Share of rows whose class is right, for each of G heads side by side: logits (R, G * n).
local function right(logits, labels, from, groups, classes)
  local best = logits:reshape(logits:size(1) * groups, classes):argmax():read()
  local hits = {}
  for g = 1, groups do hits[g] = 0 end
  for r = 0, logits:size(1) - 1 do
    for g = 1, groups do
      if best[r * groups + g - 1] == labels[from + r] then hits[g] = hits[g] + 1 end
    end
  end
  return hits
end

--- Trains a linear classifier on features for every pair of lr and wd at once and returns the top-1 of the pair that is
--- best on a tenth of the training rows held out, in percent, with all pairs.
---@param train ijepa.features
---@param test ijepa.features
---@param o { lr: number[]?, wd: number[]?, epochs: integer?, batch: integer?, seed: integer? }?
---@return { top1: number, lr: number, wd: number, heads: table[] }
function probe.classifier(train, test, o)
  o = o or {}
  local lrs, wds = o.lr or { 3e-4, 1e-3, 3e-3, 1e-2 }, o.wd or { 1e-2, 1e-1, 1 }
  local epochs, batch, n, W = o.epochs or 30, o.batch or 256, #train.classes, train.x:size(2)
  local R = train.x:size(1)
  local held = math.max(1, math.floor(R / 10))
  local G = #lrs * #wds
  if R - held < 2 then F.raise("probe: too few training pictures") end
  batch = math.min(batch, R - held)

  local order, rng = F.new("uint32_t[?]", R), F.new "ij_rng"
  for i = 0, R - 1 do order[i] = i end
  C.ij_rng_init(rng, o.seed or 0, C.IJ_RNG_PROBE, 0, 0)
  C.ij_rng_shuffle(rng, order, R)   -- the first `held` are for choosing
  local labels, test_labels = train.y:read(), test.y:read()

  local mean, var = tensor.zeros({ W }, "f32", true), tensor.zeros({ W }, "f32", true)
  device.step(function() device.no_grad(function() tensor.batch_norm(train.x, mean, var, true, 1, 1e-6) end) end)
  local train_x = standardise(train.x, mean, var)   -- a second copy of the features, for the classifier's time alone
  local function pick(from, count)   -- rows of the shuffled order
    local index = F.new("int32_t[?]", count)
    for i = 0, count - 1 do index[i] = order[from + i] end
    return train_x:reshape(1, R, W):gather(tensor.from_pointer(index, { 1, 1, count }, "i32")):reshape(count, W)
  end

  local w, b = tensor.zeros({ G * n, W }, "f32", true):requires_grad_(), tensor.zeros({ G * n }, "f32", true):requires_grad_()
  local opt, heads = optim.adamw {}, {}
  for _, lr in ipairs(lrs) do
    for _, wd in ipairs(wds) do
      local g = #heads
      heads[g + 1] = { lr = lr, wd = wd }
      opt:add_part(w, g * n * W + 1, n * W, lr, wd)
      opt:add_part(b, g * n + 1, n, lr, 0)
    end
  end
  local steps = math.floor((R - held) / batch)
  local decay = schedule.cosine { from = 1, to = 0, total = epochs * steps }
  local row_labels = F.new("int32_t[?]", batch * G)
  local sub, at = F.new("uint32_t[?]", R - held), 0
  for epoch = 1, epochs do
    F.copy(sub, order + held, (R - held) * 4)
    C.ij_rng_init(rng, o.seed or 0, C.IJ_RNG_PROBE, epoch, 0)
    C.ij_rng_shuffle(rng, sub, R - held)
    F.copy(order + held, sub, (R - held) * 4)
    for s = 0, steps - 1 do
      at = at + 1
      device.step(function()
        for i = 0, batch - 1 do
          for g = 0, G - 1 do row_labels[i * G + g] = labels[order[held + s * batch + i]] end
        end
        local logits = pick(held + s * batch, batch):linear(w, b):reshape(batch * G, n)
        tensor.cross_entropy(logits, tensor.from_pointer(row_labels, { batch * G }, "i32")):backward()
        opt:step { lr = decay(at), wd = 1, scale = G }   -- the mean is over G heads
      end)
    end
  end

  local function score(rows, count, y, what)
    local hits = {}
    for g = 1, G do hits[g] = 0 end
    for from = 0, count - 1, 1024 do
      local m = math.min(1024, count - from)
      device.step(function() device.no_grad(function()
        for g, h in ipairs(right(rows(from, m):linear(w, b), y, from, G, n)) do hits[g] = hits[g] + h end
      end) end)
    end
    for g = 1, G do heads[g][what] = 100 * hits[g] / count end
  end
  local held_labels = F.new("int32_t[?]", held)
  for i = 0, held - 1 do held_labels[i] = labels[order[i]] end
  score(pick, held, held_labels, "held")
  score(function(from, m) return standardise(test.x:narrow(1, from + 1, m), mean, var) end, test.x:size(1), test_labels, "top1")
  local best = heads[1]
  for _, h in ipairs(heads) do
    if h.held > best.held then best = h end
  end
  return { top1 = best.top1, lr = best.lr, wd = best.wd, held = best.held, heads = heads, width = W }
end

--- Features of two folders (or tars) with the same classes. o: train, test, crop, resize, feature_batch, workers, limit.
---@return ijepa.features? train, ijepa.features|string test_or_message
function probe.pair(f, o)
  local function load(root, limit)
    return probe.features(f, { root = root, crop = o.crop, resize = o.resize, batch = o.feature_batch, workers = o.workers,
      limit = limit, seed = o.seed })
  end
  local train, message = load(o.train, o.limit)
  if not train then return nil, message end
  local test
  test, message = load(o.test)
  if not test then return nil, message end
  if table.concat(train.classes, "\n") ~= table.concat(test.classes, "\n") then
    return nil, ("'%s' and '%s' hold other classes: %d and %d"):format(o.train, o.test, #train.classes, #test.classes)
  end
  return train, test
end

--- The linear probe of an encoder: features of two folders (or tars) of class folders, then the sweep.
--- o: as probe.pair; blocks (0: last layer; 4: last four); and as classifier.
---@return { top1: number, lr: number, wd: number, heads: table[] }? result, string? message
function probe.linear(encoder, o)
  local f = type(encoder) == "function" and encoder or probe.pooled(encoder, o.blocks)
  local train, test = probe.pair(f, o)
  if not train then return nil, test end
  return probe.classifier(train, test, o)
end

return probe

--- Fine-tuning: encoder and a linear head on its average-pooled patches, trained together on
--- labelled images, with layer decay, drop path, label smoothing, mixup and cutmix.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local schedule = require "ijepa.optim.schedule"
local optim = require "ijepa.optim"
local mix = require "ijepa.data.mix"
local score = require "ijepa.probe.score"
local features = require "ijepa.probe.features"
local C = F.C

local finetune = {}

--- The factor of the learning rate of each parameter: decay ^ (number of layers above it). The
--- patch embedding is layer 0, block i (from 0) layer i + 1; norm and head are the last layer, with
--- factor 1.
---@param encoder ijepa.encoder
---@param decay number 1: none
---@return table<string, number>
function finetune.layer_scales(encoder, decay)
  local scales = {}
  for _, p in ipairs(encoder:params()) do
    local block = p.name:match "^blocks%.(%d+)%."
    local layer = block and block + 1 or p.name:find "^norm%." and encoder.depth + 1 or 0
    scales[p.name] = decay ^ (encoder.depth + 1 - layer)
  end
  return scales
end

local function optimizer(encoder, head, o)
  local opt, scales = optim.adamw {}, finetune.layer_scales(encoder, o.layer_decay)
  for _, p in ipairs(encoder:params()) do
    if p.trained then
      opt:add_part(p.tensor, 1, p.tensor:numel(), scales[p.name], p.decayed and 1 or 0)
    end
  end
  opt:add_part(head.w, 1, head.w:numel(), 1, 1)
  opt:add_part(head.b, 1, head.b:numel(), 1, 0)
  return opt
end

local function logits_of(encoder, head, x) return encoder(x):mean(2):linear(head.w, head.b) end

local function test_of(encoder, head, images, classes, per_class)
  local s = score.new(classes, per_class)
  while true do
    local b, message = images:next()
    if not b then
      if message then return nil, message end
      return s:result()
    end
    device.step(function() device.no_grad(function()
      s:add(logits_of(encoder, head,
        tensor.from_pointer(b.pixels, { b.count, images.height, images.width, 3 }, "u8")), b.labels)
    end) end)
  end
end

-- A temporary file of these names, for the option subset of data.open.
local function subset_of(names)
  local path = os.tmpname()
  local ok, message = F.try(C.ij_file_replace(path, table.concat(names, "\n") .. "\n",
    #table.concat(names, "\n") + 1))
  if not ok then return nil, message end
  return path
end

local function open_both(encoder, o)
  local subset, message
  if o.names then
    subset, message = subset_of(o.names)
    if not subset then return nil, message end
  end
  local as = data.decoding(o, encoder.settings)
  local crop = o.crop or encoder.grid[1] * encoder.patch
  local train
  train, message = data.open { root = o.train, subset = subset, train = true, crop = crop,
    batch = o.batch, scale = o.scale, flip = o.flip,
    jitter = o.jitter, workers = o.workers, seed = o.seed, drop_last = true,
    orient = as.orient, damaged = as.damaged, range = as.range }
  if subset then os.remove(subset) end
  if not train then return nil, message end
  local test
  test, message = data.open { root = o.test, crop = crop, resize = o.resize, batch = o.batch,
    workers = o.workers,
    orient = as.orient, damaged = as.damaged, range = as.range }
  if not test then return nil, message end
  if not o.names and train:stamp() == test:stamp() then features.warn_same(o.train, o.test) end
  local classes, others = train:classes(), test:classes()
  if #others < 2 then
    return nil, ("'%s' has no classes: fine-tuning needs folders of classes, two or more"):format(
      o.test)
  end
  if table.concat(classes, "\n") ~= table.concat(others, "\n") then
    return nil, ("'%s' and '%s' hold other classes: %d and %d"):format(o.train, o.test, #classes,
      #others)
  end
  return train, test, classes
end

--- Trains an encoder (in place) and a head on o.train and scores both on o.test.
---@param encoder ijepa.encoder
---@param given table train, test: folders or tars of class folders; names: only these training
--- images; crop, resize;
--- epochs (50), warmup (5), batch (64), lr (1e-3), wd (.05), layer_decay (.75), drop_path (.1),
--- smoothing (.1), mixup (0), cutmix (0), scale ({.35, 1}: area of the random crops as a fraction
--- of the image), flip (.5), jitter (0), workers, seed, per_class, say: function(text) called after
--- each epoch
---@return table? result of score, with losses (mean of each epoch), head { w (n, D), b (n) },
--- string? message
function finetune.run(encoder, given)
  local o = { epochs = 50, warmup = 5, batch = 64, lr = 1e-3, wd = .05, layer_decay = .75,
    drop_path = .1, smoothing = .1, mixup = 0,
    cutmix = 0, scale = { .35, 1 }, flip = .5, jitter = 0, workers = 2, seed = 0 }
  for k, v in pairs(given) do o[k] = v end
  local images, test, classes = open_both(encoder, o)
  if not images then return nil, test end
  local D, n, rng = encoder.width, #classes, F.new "ij_rng"
  local head = { w = tensor.zeros({ n, D }, "f32", true):requires_grad_(),
    b = tensor.zeros({ n }, "f32", true):requires_grad_() }
  encoder:requires_grad_(true)
  local opt, steps = optimizer(encoder, head, o), images:epoch_steps()
  local rate = schedule.lr { start = 0, ref = o.lr, final = 0,
    warmup = math.min(o.warmup, o.epochs) * steps, total = o.epochs * steps }

  local function train_step(step, b)
    -- a stream that no epoch of the loader uses
    C.ij_rng_init(rng, o.seed, C.IJ_RNG_AUGMENT, 2 ^ 31, step)
    encoder:drop_path(o.drop_path, o.seed, step)
    local x = tensor.normalise(
      tensor.from_pointer(b.pixels, { b.count, images.height, images.width, 3 }, "u8"))
    local labels = tensor.from_pointer(b.labels, { b.count }, "i32")
    local mixed, partners, lambda = mix.batch(x, b.labels, o, rng)
    local logits = logits_of(encoder, head, mixed)
    local loss = tensor.cross_entropy(logits, labels, o.smoothing) * lambda
    if lambda < 1 then
      loss = loss + tensor.cross_entropy(logits, partners, o.smoothing) * (1 - lambda)
    end
    loss:backward()
    opt:step { lr = rate(step), wd = o.wd }
    return loss:item()
  end
  local losses, step, message = {}, 0, nil
  for epoch = 1, o.epochs do
    local sum = 0
    for _ = 1, steps do
      local b
      b, message = images:next()
      if not b then break end
      step = step + 1
      local loss = device.step(train_step, step, b)
      if loss ~= loss then
        message = ("step %d: the loss is not finite: try a lower lr than %g"):format(step, o.lr)
      end
      if message then break end
      sum = sum + loss
    end
    if message then break end
    losses[epoch] = sum / steps
    if o.say then o.say(("epoch %d of %d: loss %.4f"):format(epoch, o.epochs, losses[epoch])) end
  end
  encoder:drop_path(0)
  encoder:requires_grad_(false)
  images:close()
  local result
  if not message then result, message = test_of(encoder, head, test, classes, o.per_class) end
  test:close()
  if not result then return nil, message end
  result.losses, result.head = losses, head
  return result
end

return finetune

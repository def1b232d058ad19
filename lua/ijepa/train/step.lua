-- One training step of I-JEPA, in the order of the paper: masks, features of the target encoder,
-- features of the context, predictions, loss, backward pass, AdamW, and the EMA of the target
-- encoder. The functions are methods of the trainer (trainer.lua).
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local schedule = require "ijepa.optim.schedule"

local step = {}

-- An error for the user: one line, without a position in these sources.
local function fail(fmt, ...) error(fmt:format(...), 0) end

--- Raises an error when the loss of step n is not finite.
---@param loss number
---@param n integer
function step.check_loss(loss, n)
  if loss ~= loss or math.abs(loss) == math.huge then
    fail("step %d: the loss is %s: stopped before the update; try a lower optim.lr or optim.clip=1",
      n, tostring(loss))
  end
end

-- Masks of a batch whose first image is number `first` of the run.
---@param t ijepa.trainer
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param first integer
---@return ijepa.tensor context i32 (C, B, K), ijepa.tensor targets i32 (M, B, T)
local function draw_masks(t, x, first)
  local m = t.policy:sample_raw(x:size(1), first, t.step, { images = x, target = t.target })
  return tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32"),
    tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
end

--- Predictions and targets for images with masks.
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param context ijepa.tensor i32 (C, B, K)
---@param targets ijepa.tensor i32 (M, B, T)
---@return ijepa.tensor z (M * C * B, T, D) predictions
---@return ijepa.tensor h (M * B, T, D) normalised features of the target encoder
function step.predict(t, x, context, targets)
  local h
  if t.config.model.stop_gradient then
    h = device.no_grad(function() return t.target(x):layer_norm():gather(targets) end)
  else   -- for experiments: one encoder gives context and targets, and gradients flow through both
    h = t.encoder(x):layer_norm():gather(targets)
  end
  return t.predictor(t.encoder(x, context), context, targets), h
end

--- Forward and backward pass of one (micro-)batch.
---@param number integer of the batch, from 0, counted over the run and all processes
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param before_backward fun() called when the loss is finite
---@return number|ijepa.reading loss
---@return { contexts: integer, k: integer, targets: integer, t: integer } masks counts and lengths
function step.batch(t, number, x, before_backward)
  local context, targets = draw_masks(t, x, number * t.config.data.batch)
  local z, h = t:predict(x, context, targets)
  local loss = tensor.smooth_l1(z, h, 1, targets:size(1))
  local value
  if t.ahead then
    t.gate:add_(loss)
    value = loss:item_later()
  else
    value = loss:item()
    step.check_loss(value, t.step + 1)
  end
  before_backward()
  loss:backward()
  return value, { contexts = context:size(1), k = context:size(3), targets = targets:size(1),
    t = targets:size(3) }
end

-- Norms of the encoder's qkv gradients at this step: of the first and the last block, smallest and
-- largest; nil without blocks.
local function qkv_norms(t)
  local g = {}
  for _, i in ipairs(t.qkv) do
    local n = t.opt:grad_norm(i)
    if n ~= n or n == math.huge then
      fail("step %d: a gradient is not finite: stopped; try a lower optim.lr or optim.clip=1",
        t.step)
    end
    g.first, g.last = g.first or n, n
    g.min, g.max = math.min(g.min or n, n), math.max(g.max or n, n)
  end
  return g.first and g
end

-- The factor of all gradients when their norm is limited to optim.clip; `scale` is the factor
-- without the limit.
local function clipped(t, scale)
  local norm, finite = t.opt:norm()
  if not finite then
    fail("step %d: a gradient is not finite: stopped before the update; try a lower optim.lr",
      t.step + 1)
  end
  return scale * math.min(1, t.config.optim.clip / (norm * scale + 1e-6))
end

-- What the optimizer and the EMA get at step n: learning rate, weight decay, momentum, and the
-- factor of the gradients.
local function scheduled(t, n)
  local s = schedule.step_of(t.config, n, t.seconds)
  local info = schedule.info(t.config, n, { steps = t.last, ipe = t.ipe, seconds = t.seconds,
    processes = t.dist.size })
  if t.sgd_momentum then t.opt:set_momentum(t.sgd_momentum(s, info)) end
  return { lr = t.lr(s, info) * t.scale.lr, wd = t.wd(s, info) * t.scale.wd,
    momentum = t.momentum(s, info),
    scale = 1 / (t.config.optim.accumulate * t.dist.size) }
end

local function next_batch(t)
  local b, message = t.images:next()
  if not b then error(message, 0) end
  return data.tensors(b)
end

--- One step: forward and backward pass of all its micro-batches, then the update by AdamW, which
--- also moves the target encoder (EMA).
---@return table values of the log; losses: of the micro-batches, on a GPU to be read later
function step.update(t)
  local o, n = t.config.optim, t.step + 1
  local numbers = scheduled(t, n)
  local logged = n % t.config.log.every == 0 or n == 1
  for _, i in ipairs(t.qkv) do t.opt:watch(i, logged) end
  -- each tensor can be updated as soon as its gradient is complete
  local eager = o.accumulate == 1 and o.clip == 0
  local losses, masks, k, length = {}, nil, 0, 0
  for micro = 1, o.accumulate do
    device.step(function()
      local number = ((n - 1) * o.accumulate + micro - 1) * t.dist.size + t.dist.rank
      losses[micro], masks = t:batch(number, next_batch(t), function()
        if eager then
          t.torn = true   -- from here to the end of the update the state is between two steps
          t.opt:eager(numbers)
        end
      end)
      if eager then t.opt:step(numbers) end
    end)
    k, length = k + masks.k / o.accumulate, length + masks.t / o.accumulate
  end
  if not eager then
    if o.clip > 0 then numbers.scale = clipped(t, numbers.scale) end
    t.torn = true
    t.opt:step(numbers)
  end
  t.torn, t.step = false, n
  if t.ahead and logged then t.memory = device.info().top end
  return { step = n, losses = losses, k = k, t = length, contexts = masks.contexts,
    targets = masks.targets, lr = numbers.lr,
    wd = numbers.wd, momentum = numbers.momentum, grads = logged and qkv_norms(t) or nil,
    memory = t.memory,
    images = t.config.data.batch * o.accumulate * t.dist.size,
    epoch = math.floor((n - 1) / t.ipe) + 1, itr = (n - 1) % t.ipe }
end

return step

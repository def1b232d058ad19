-- One training step: masks, the objective's loss (recipes/objectives/ijepa.lua is the paper's),
-- backward pass, AdamW, and the EMA of the target encoder. The functions are methods of the trainer
-- (trainer.lua).
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local code = require "ijepa.base.code"
local buffers = require "ijepa.train.buffers"
local objective = require "ijepa.model.objective"
local data = require "ijepa.data"
local schedule = require "ijepa.optim.schedule"

local step = {}
local NO_MASKS, NO_VALUES = { contexts = 0, k = 0, targets = 0, t = 0 }, {}

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

---@class ijepa.batch what an objective gets
---@field images ijepa.tensor u8 (B, H, W, 3)
---@field views ijepa.tensor[] of each group of views u8 (n * B, h, w, 3), order [view][image]
---@field context ijepa.tensor? i32 (C, B, K) patches that the context encoder sees; nil without
--- masks
---@field targets ijepa.tensor? i32 (M, B, T) patches to predict
---@field step integer of the run, from 1
---@field number integer of the batch, from 0, counted over the run and all processes
---@field first integer number of its first image, from 0
---@field count integer images, B

-- The masks of a batch.
local function draw_masks(t, batch)
  local m = t.policy:sample_raw(batch.count, batch.first, t.step,
    { images = batch.images, target = t.target })
  batch.context = tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32")
  batch.targets = tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
  return { contexts = m.contexts, k = m.k, targets = m.targets, t = m.t }
end

--- Predictions and targets for images with masks, as the objective defines them; I-JEPA's where it
--- defines none.
---@param images ijepa.tensor u8 (B, H, W, 3)
---@param context ijepa.tensor i32 (C, B, K)
---@param targets ijepa.tensor i32 (M, B, T)
---@return ijepa.tensor z (M * C * B, T, D) predictions
---@return ijepa.tensor h (M * B, T, D) what they should be
function step.predict(t, images, context, targets)
  t.predicts = true
  local predict = t.objective.predict
  if not predict then
    t.default = t.default or objective.of {}
    predict = t.default.predict
  end
  return predict(t, images, context, targets)
end

--- The momentum of an objective whose target is a function of the step.
---@param t ijepa.trainer
---@return fun(): number of the step that comes
function step.momentum(t)
  local what = t.objective.title .. ": target"
  return function()
    local n = t.step + 1
    local v = code.call(what, t.objective.target, n)
    if type(v) ~= "number" or not (v >= 0 and v <= 1) then
      code.wrong(what, t.objective.target,
        "at step %d it returned %s, expected a number from 0 to 1", n, tostring(v))
    end
    return v
  end
end

-- The numbers that an objective returns beside the loss, to be read later on a GPU.
local function readings(t, values)
  local list = {}
  for name, v in pairs(values) do
    if type(v) == "number" then
      list[name] = v
    else
      v = v:dtype() == "f32" and v or v:to "f32"
      list[name] = t.ahead and v:item_later() or v:item()
    end
  end
  return list
end

--- Forward and backward pass of one (micro-)batch.
---@param batch ijepa.batch
---@param before_backward fun() called when the loss is finite
---@return number|ijepa.reading loss
---@return { contexts: integer, k: integer, targets: integer, t: integer } masks counts and lengths
---@return table<string, number|ijepa.reading> values of the objective beside the loss
function step.loss(t, batch, before_backward)
  local masks = t.policy and draw_masks(t, batch) or NO_MASKS
  local loss, values = objective.loss(t.objective, t, batch)
  local value
  if t.ahead then
    t.gate:add_(loss:detach())
    value = loss:item_later()
  else
    value = loss:item()
    step.check_loss(value, t.step + 1)
  end
  values = next(values) and readings(t, values) or NO_VALUES
  before_backward()
  loss:backward()
  return value, masks, values
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

---@param number integer of the batch, from 0, counted over the run and all processes
---@return ijepa.batch
local function next_batch(t, number)
  local b, message = t.images:next()
  if not b then error(message, 0) end
  local images, views = data.tensors(b)
  return { images = images, views = views, step = t.step + 1, number = number,
    first = number * t.config.data.batch, count = b.count }
end

--- One step: forward and backward pass of all its micro-batches, then the update by AdamW, which
--- also moves the target encoder (EMA).
---@return table values of the log; losses: of the micro-batches, on a GPU to be read later
function step.update(t)
  local o, n = t.config.optim, t.step + 1
  t.updating = true
  local numbers = scheduled(t, n)
  local logged = n % t.config.log.every == 0 or n == 1
  for _, i in ipairs(t.qkv) do t.opt:watch(i, logged) end
  -- each tensor can be updated as soon as its gradient is complete
  local eager = o.accumulate == 1 and o.clip == 0
  local losses, extra, masks, k, length = {}, {}, nil, 0, 0
  for micro = 1, o.accumulate do
    device.step(function()
      local number = ((n - 1) * o.accumulate + micro - 1) * t.dist.size + t.dist.rank
      losses[micro], masks, extra[micro] = t:loss(next_batch(t, number), function()
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
  if t.buffers then buffers.settle(t.buffers, t.dist) end
  t.torn, t.step, t.updating = false, n, false
  if t.ahead and logged then t.memory = device.info().top end
  return { step = n, losses = losses, extra = extra, k = k, t = length, contexts = masks.contexts,
    targets = masks.targets, lr = numbers.lr,
    wd = numbers.wd, momentum = numbers.momentum, grads = logged and qkv_norms(t) or nil,
    memory = t.memory,
    images = t.config.data.batch * o.accumulate * t.dist.size,
    epoch = math.floor((n - 1) / t.ipe) + 1, itr = (n - 1) % t.ipe }
end

return step

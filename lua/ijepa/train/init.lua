-- The training loop. `return ijepa.pretrain(ijepa.config { ... })` is a whole recipe; config/settings.lua lists its settings.
-- Uses: base, tensor, data, optim, model, run, save, dist, probe.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local jepa = require "ijepa.model"
local optim = require "ijepa.optim"
local data = require "ijepa.data"
local schedule = require "ijepa.optim.schedule"
local checkpoint = require "ijepa.save.checkpoint"
local state = require "ijepa.save.state"
local weights = require "ijepa.save.weights"
local diagnose = require "ijepa.train.diagnose"
local processes = require "ijepa.train.processes"
local Run = require "ijepa.run"
local C = F.C

-- An error for the user: one line, no place in our own sources.
local function stop(fmt, ...) error(fmt:format(...), 0) end
local function must(value, message)
  if not value then error(message, 0) end
  return value
end

-- Masks of images [first, first + count) of the run, for update `step` (from 0): context i32 (C, B, K), target i32 (M, B, T).
-- batch: what a policy that looks at the images is given, or false.
local function draw_masks(policy, count, first, step, batch)
  local m = policy:sample_raw(count, first, step, batch)
  return tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32"),
    tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
end

--- A run in progress, as hooks see it.
---@class ijepa.trainer
---@field config table the settings
---@field step integer whole steps done
---@field encoder ijepa.encoder that is trained
---@field predictor ijepa.predictor
---@field target ijepa.encoder the moving average
---@field opt ijepa.optim
---@field policy ijepa.mask_policy
---@field scale { lr: number, wd: number } factors on the schedules; a hook may set them (they are saved with the state)
---@field losses number[] of the steps done in this process
---@field run table the log: run:say(text)
---@field dist ijepa.dist the processes that train together
local Trainer = {}
Trainer.__index = Trainer

local function open_images(cfg, dist)
  local d, o = cfg.data, cfg.optim
  return must(data.open { train = true, root = d.root, subset = d.subset, crop = d.crop, batch = d.batch,
    rank = dist.rank, world = dist.size, multiple = o.accumulate,
    scale = d.scale, ratio = d.ratio, flip = d.flip, jitter = d.jitter, jitter_p = d.jitter_p, grey = d.grey, blur = d.blur,
    workers = d.workers, prefetch = d.prefetch, seed = cfg.seed, max_bad = d.max_bad, max_pixels = d.max_pixels,
    max_bytes = d.max_bytes, untrusted_loaders = d.untrusted_loaders, weights = d.weights, copy = d.copy,
    manifest = dist.local_rank == 0 and d.manifest or nil, say = function(text) io.stderr:write(text, "\n") end })
end

-- images: in place of those of data.root, with the models' values left undrawn: for steps that only count.
local function new_trainer(cfg, hooks, dist, images)
  local o = cfg.optim
  local t = setmetatable({ config = cfg, hooks = hooks, dist = dist, step = 0, saved = 0, seconds = 0, losses = {},
    scale = { lr = 1, wd = 1 } }, Trainer)
  t.ahead = device.info().ahead
  t.images = images or dist:in_turn(function() return open_images(cfg, dist) end)
  t.ipe = math.floor(t.images:epoch_steps() / o.accumulate)   -- updates of an epoch
  t.encoder, t.predictor, t.target = jepa.models(cfg, images ~= nil)
  t.policy = jepa.policy(cfg, t.encoder.grid, dist.size)
  t.opt = optim.adamw { models = { t.encoder, t.predictor }, average = { [t.encoder] = t.target }, betas = o.betas,
    eps = o.eps, dist = dist, shard = o.shard, bucket = cfg.dist.bucket }
  if t.ahead then   -- the sum of all losses: where one is no number, no update does anything any more
    t.gate = tensor.zeros({ 1 }, "f32", true)
    t.opt:gate(t.gate)
  end
  t.whole = { encoder = t.encoder, predictor = t.predictor, target_encoder = t.target, opt = t.opt }
  t.qkv = {}   -- entries of the optimizer whose gradients the log shows
  for i, e in ipairs(t.opt.entries) do
    if e.param.model == t.encoder and e.param.name:find "attn%.qkv%.weight$" then t.qkv[#t.qkv + 1] = i end
  end
  local schedules = schedule.of(cfg, t.ipe)
  t.last, t.lr, t.wd, t.momentum = schedules.last, schedules.lr, schedules.wd, schedules.momentum
  return t
end

--- Takes over the state that a checkpoint holds, and resumes from there.
---@param path string
function Trainer:load(path)
  local meta = must(state.load(path, self.whole))
  local step = processes.step_of(meta, self)
  self.step, self.saved, self.seconds = step, step, meta.seconds
  self.scale = { lr = meta.lr_scale or 1, wd = meta.wd_scale or 1 }
  self.images:seek(math.floor(self.step / self.ipe), self.step % self.ipe * self.config.optim.accumulate)
end

--- Whether the run's time or steps are used up, or a hook has ended it.
---@return boolean
function Trainer:over()
  local minutes = self.config.optim.minutes
  return self.ended ~= nil or self.step >= self.last or minutes > 0 and self.seconds >= 60 * minutes
end

--- For hooks: the run ends after this step, saved, and says why.
---@param why string
function Trainer:stop(why) self.ended = tostring(why) end

--- For hooks: after this step the run goes back to a checkpoint (the newest one of the run) and on from there. Set
--- `scale` or change settings with it, or the same will happen again.
---@param path string?
function Trainer:rollback(path)
  must(self:finish_save())
  self.back = path or self.dist.rank > 0 and "where process 0 goes" or checkpoint.latest(self.config.out, self.config.tag)
  if not self.back then F.raise "rollback: this run has saved no checkpoint yet (log.save_steps)" end
end

local finished = { finish = function() return true end, done = function() return true end }   -- in place of a job

--- Waits for the save that a thread still writes; then the epoch's checkpoint is a second name of that file.
---@return boolean? ok, string? message
function Trainer:finish_save()
  local job, name = self.saving, self.saving_name
  self.saving, self.saving_name = nil, nil
  if not job then return true end
  local ok, message = job:finish()
  if ok and name then ok, message = F.try(C.ij_file_link(checkpoint.path(self.config.out, nil, self.config.tag), name)) end
  return ok, message
end

--- Saves the state of the last whole step. later: copies it and lets a thread write, until the next save or the run's end.
---@param later boolean?
---@return boolean? ok, string? message
function Trainer:save(later)
  local cfg, step = self.config, self.step
  local latest = checkpoint.path(cfg.out, nil, cfg.tag)
  local _, finite = tensor.norm(state.trained(self.whole))
  if not finite then
    return nil, ("step %d: a parameter is not finite: nothing saved, '%s' keeps the last good state"):format(step, latest)
  end
  local epoch = step / self.ipe
  local meta = { step = step, epoch = math.floor(epoch), seconds = self.seconds, lr_scale = self.scale.lr, wd_scale = self.scale.wd,
    ipe = self.ipe, world = self.dist.size, accumulate = cfg.optim.accumulate, batch = cfg.data.batch }
  local ok, message = self:finish_save()
  if not ok then return nil, message end
  ok, message = state.save(latest, self.whole, cfg, meta, cfg.log.save_background)
  if not ok then return nil, message end
  self.saving, self.saved = ok ~= true and ok or finished, step
  if self.dist.rank == 0 and epoch % 1 == 0 and epoch > 0 and epoch % cfg.log.save_epochs == 0 then
    self.saving_name = checkpoint.path(cfg.out, epoch, cfg.tag)
  end
  if later then return true end
  return self:finish_save()
end

--- Predictions and what they should be, for images and masks as policies give them.
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param ctx ijepa.tensor i32 (C, B, K)
---@param tgt ijepa.tensor i32 (M, B, T)
---@return ijepa.tensor z (M * C * B, T, D) predicted, ijepa.tensor h (M * B, T, D) features of the target encoder, normalised
function Trainer:predict(x, ctx, tgt)
  local h
  if self.config.model.stop_gradient then
    h = device.no_grad(function() return self.target(x):layer_norm():gather(tgt) end)
  else   -- for experiments: the same encoder on both sides, trained through both
    h = self.encoder(x):layer_norm():gather(tgt)
  end
  return self.predictor(self.encoder(x, ctx), ctx, tgt), h
end

local function refuse(loss, step)
  if loss ~= loss or math.abs(loss) == math.huge then
    stop("step %d: the loss is %s: stopped before the update; try a lower optim.lr or optim.clip=1", step, tostring(loss))
  end
end

--- One (micro-)batch, forwards and backwards; its number counts all batches of the run, in all processes, from 0. Calls
--- before_backward when the loss is a number.
---@param number integer
---@param x ijepa.tensor u8 (B, H, W, 3)
---@param before_backward fun()
---@return number|ijepa.reading loss, integer k, integer t
function Trainer:batch(number, x, before_backward)
  local ctx, tgt = draw_masks(self.policy, x:size(1), number * self.config.data.batch, self.step,
    { images = x, target = self.target })
  local z, h = self:predict(x, ctx, tgt)
  local loss = tensor.smooth_l1(z, h, 1, tgt:size(1))
  local value
  if self.ahead then
    self.gate:add_(loss)
    value = loss:item_later()
  else
    value = loss:item()
    refuse(value, self.step + 1)
  end
  before_backward()
  loss:backward()
  return value, ctx:size(3), tgt:size(3)
end

--- Norms of the encoder's qkv gradients at this update: first, last, smallest and largest.
---@return { first: number, last: number, min: number, max: number }
function Trainer:qkv_norms()
  local g = {}
  for _, i in ipairs(self.qkv) do
    local n = self.opt:grad_norm(i)
    if n ~= n or n == math.huge then
      stop("step %d: a gradient is not finite: stopped; try a lower optim.lr or optim.clip=1", self.step)
    end
    g.first, g.last = g.first or n, n
    g.min, g.max = math.min(g.min or n, n), math.max(g.max or n, n)
  end
  return g.first and g
end

--- What the gradients are multiplied by: the mean over micro-batches, and the limit of their norm.
---@param scale number
---@return number
function Trainer:clipped(scale)
  local norm, finite = self.opt:norm()
  if not finite then stop("step %d: a gradient is not finite: stopped before the update; try a lower optim.lr", self.step + 1) end
  return scale * math.min(1, self.config.optim.clip / (norm * scale + 1e-6))
end

--- One update: all its batches, the optimizer. Returns what the log shows.
---@return table
function Trainer:update()
  local o, step = self.config.optim, self.step + 1
  local s = schedule.step_of(self.config, step, self.seconds)
  local numbers = { lr = self.lr(s) * self.scale.lr, wd = self.wd(s) * self.scale.wd, momentum = self.momentum(s),
    scale = 1 / (o.accumulate * self.dist.size) }
  local logged = step % self.config.log.every == 0 or step == 1
  for _, i in ipairs(self.qkv) do self.opt:watch(i, logged) end
  local eager = o.accumulate == 1 and o.clip == 0   -- no need to have all gradients at once
  local losses, k, t = {}, 0, 0
  for micro = 1, o.accumulate do
    local b = must(self.images:next())
    local loss, bk, bt = device.step(function()
      local x = tensor.from_pointer(b.pixels, { b.count, self.images.height, self.images.width, 3 }, "u8")
      local number = ((step - 1) * o.accumulate + micro - 1) * self.dist.size + self.dist.rank
      local loss, bk, bt = self:batch(number, x, function()
        if eager then
          self.torn = true   -- from here to the end of the update there is no whole state
          self.opt:eager(numbers)
        end
      end)
      if eager then self.opt:step(numbers) end
      return loss, bk, bt
    end)
    losses[micro], k, t = loss, k + bk / o.accumulate, t + bt / o.accumulate
  end
  if not eager then
    if o.clip > 0 then numbers.scale = self:clipped(numbers.scale) end
    self.torn = true
    self.opt:step(numbers)
  end
  self.torn, self.step = false, step
  if self.ahead and logged then self.memory = device.info().top end
  return { step = step, losses = losses, k = k, t = t, lr = numbers.lr, wd = numbers.wd, momentum = numbers.momentum,
    grads = logged and self:qkv_norms() or nil, memory = self.memory,
    images = self.config.data.batch * o.accumulate * self.dist.size, epoch = math.floor((step - 1) / self.ipe) + 1, itr = (step - 1) % self.ipe }
end

--- Saves; an error where that fails.
---@param later boolean?
function Trainer:must_save(later)
  local ok, message = self:save(later)
  if not ok then
    self.run:close()
    error(message, 0)
  end
end

--- The loss of a step in this process, of which a device that works behind us has handed out nothing yet; stops the run
--- where it is no number: then the gate has kept the state as it was before that step.
---@param values table
---@return number
function Trainer:loss_of(values)
  local sum = 0
  for _, loss in ipairs(values.losses) do
    if self.ahead then loss = loss:get() end
    if loss ~= loss or math.abs(loss) == math.huge then
      self.opt:steps(self.opt:steps() - (self.step - values.step + 1))
      self.step = values.step - 1
    end
    refuse(loss, values.step)
    sum = sum + loss / #values.losses
  end
  return sum
end

--- What all processes need to know alike after a step, in one round between them: the time, whether one was interrupted or
--- asked to save, and the loss of a step (nil: none).
---@param values table?
function Trainer:agree(values)
  processes.agree(self, values, values and self:loss_of(values))
  if not values then return end
  local minutes = self.config.optim.minutes
  values.total = minutes > 0 and math.ceil(self.step * 60 * minutes / self.seconds) or self.last
  self.losses[#self.losses + 1] = values.loss
  self.run:log(values.step, values)
end

--- What follows this step beside its row of the log: "last", "save", "look" (a hook or a diagnosis), or nothing.
---@return "last"|"save"|"look"|nil
function Trainer:due()
  local cfg, step = self.config, self.step
  if self.interrupt or self:over() then return "last" end
  local epoch_end = step % self.ipe == 0 and (cfg.optim.minutes == 0 or step - self.saved > 1000)
  if self.asked or epoch_end or cfg.log.save_steps > 0 and step % cfg.log.save_steps == 0 then return "save" end
  return (self.hooks.step or self.back or self.diagnosis and self.diagnosis:is_due(step)) and "look" or nil
end

--- After a step: what hooks want, and saving where it is due.
---@param values table
function Trainer:after(values)
  local cfg, step = self.config, self.step
  if self.diagnosis then self.diagnosis:after_step(self) end
  if self.hooks.step then self.hooks.step(self, values) end
  if self.hooks.step or self.diagnosis and self.diagnosis:is_due(step) then processes.follow(self) end
  if self.back then
    local path = self.back
    self.back = nil
    self.run:say("step %d: back to %s", step, path)
    self:load(path)
    self.run:close()
    self:open_log(true)
    if self.diagnosis then self.diagnosis:reopen(self.step) end
    return
  end
  local due, asked = self:due(), self.asked
  if due == "last" or due == "save" then
    self.asked = false
    self:must_save(due == "save")
    if asked then self.run:say("step %d: saved in '%s', as SIGUSR1 asked", step, cfg.out) end
  elseif self.saving and self.saving:done() then
    must(self:finish_save())   -- a full disk is heard of now, not at the next save
  end
  if self.interrupt then self:interrupted(self.interrupt) end
end

---@param code integer?
function Trainer:interrupted(code)
  self.run:say("interrupted: step %d is saved in '%s'; the same command resumes from there", self.step, self.config.out)
  self.run:close()
  ijepa.exit(code or 130)
end

-- One step and all that follows it. A device that works behind us is kept busy: a step's loss is read after the next step
-- was asked for, unless something needs the state as it is now.
function Trainer:advance()
  local started = C.ij_time()
  local values = self:update()
  for _, complaint in ipairs(self.images:complaints()) do
    if self.dist.rank == 0 then self.run:say("skipped %s", complaint)
    else io.stderr:write(("process %d: skipped %s\n"):format(self.dist.rank, complaint)) end
  end
  self.seconds = self.seconds + C.ij_time() - started
  values.ms = 1000 * (C.ij_time() - started)
  local before = self.waiting
  self.waiting = nil
  self:agree(not self.ahead and values or before)
  local due = not self.ahead or self:due()
  self.waiting = not due and values or nil
  if not due then return end
  if self.ahead then self:agree(values) end
  self:after(values)
end

-- Ends what the run holds: threads, the log, the lock.
function Trainer:close()
  if self.saving then self:finish_save() end
  self.run:close()
  self.images:close()
  if self.lock then C.ij_lock_drop(F.gc(self.lock, nil)) end
  self.lock = nil
end

--- A step failed: what is whole is saved before anyone hears of it, so that no broken policy, hook or image costs a run.
---@param e any
function Trainer:failed(e)
  local left, lost = type(e) == "table" and e.exit, self.dist:lost()
  for i, complaint in ipairs(self.images:complaints()) do   -- perhaps why
    if i <= 3 then self.run:say("skipped %s", complaint) end
  end
  if left and e.interrupted then self.run:say("%s", tostring(e)) end   -- in a mask policy: where
  local others = self.dist.size > 1 and not (left and self.interrupt)   -- who must hear of it, before anything that takes time
  if others and not lost then self.dist:fail(tostring(e)) end
  local alone = self.dist.size == 1 or self.dist.rank == 0 and not self.config.optim.shard   -- who can save without the others
  if alone and not self.torn and self.step > self.saved and not (left and self.run._closed) then
    local ok, message = self:save()
    self.run:say(ok and "step %d is saved in '%s'" or "step %d could not be saved in '%s': %s", self.step, self.config.out, message)
  end
  if left and not self.run._closed then
    self.run:say("interrupted: step %d is saved in '%s'; the same command resumes from there", self.saved, self.config.out)
  end
  if others and type(e) == "string" then
    e = self.saved == 0 and e .. "; nothing is saved yet"
      or ("%s; step %d is saved in '%s': the same command resumes from there"):format(e, self.saved, self.config.out)
  end
  self:close()
  error(e, 0)
end

--- Opens the log: a new one, or the rows up to the step where the run goes on.
---@param resume boolean?
function Trainer:open_log(resume)
  local cfg = self.config
  self.run = must(Run.open(cfg.out, { rank = self.dist.rank, silent = self.dist.rank > 0, resume = resume and self.step or nil,
    tag = cfg.tag, config = cfg, ipe = self.ipe, logs = cfg.log, total = self.last < math.huge and self.last or nil }))
end

-- The folder's lock, which no other run may have.
local function lock_of(cfg)
  must(F.try(C.ij_mkdirs(cfg.out)))
  local lock = F.new "ij_lock *[1]"
  local free, holder = F.try(C.ij_lock_take(("%s/%s.lock"):format(cfg.out, cfg.tag), lock))
  if not free then stop("another run works in '%s': %s; give this one another out=FOLDER", cfg.out, holder) end
  return F.gc(lock[0], C.ij_lock_drop)
end

--- The state of an earlier run (the checkpoint `from`, or nil), the log, and what it says first.
---@param from string?
---@param note string?
function Trainer:open(from, note)
  local cfg, o, d = self.config, self.config.optim, self.config.data
  local init
  if from then self:load(from)
  else
    if cfg.init ~= "" then init = must(must(weights.open(cfg.init)):fill(self.whole)) end
    self.images:seek(0, 0)
  end
  self:open_log(from ~= nil)
  if note then self.run:say(note) end
  if init then self.run:say("starts from %s: %s", cfg.init, init) end
  self.run:say("%s%s, %d + %d parameters, %s %s%s; %d images, %s of %d a step%s", from and ("resumes from %s: "):format(from) or "",
    cfg.model.width and "vit" or cfg.model.arch, self.encoder:size(), self.predictor:size(), device.name(),
    self.ahead and ("%s (%s)"):format(device.info().name, device.info().arch) or F.string(C.ij_cpu_isa()),
    self.dist.size > 1 and (" x %d processes (%s)"):format(self.dist.size, self.dist.transport) or "", self.images:count(),
    o.minutes > 0 and ("%g minutes"):format(o.minutes) or ("%d steps"):format(self.last), d.batch * o.accumulate * self.dist.size,
    cfg.model.dtype == "bf16" and C.ij_device_bf16(device.get()) == 0
      and "; products in f32: this processor has no fast bf16" or "")
end

--- A trainer alone, of images that are none, with models whose values are not drawn: for steps that only count.
---@param cfg table
---@param images table with height, width, epoch_steps and next, as ijepa.data has them
---@param dist ijepa.dist? default: one process
---@return ijepa.trainer
function jepa.trainer(cfg, images, dist)
  return new_trainer(cfg, {}, dist or must(require "ijepa.dist".open { transport = "none" }), images)
end

-- What a GPU's memory was too little for, with what would fit.
local function advised(e, cfg, dist)
  if type(e) ~= "string" or not e:find "out of memory on the GPU" then return e end
  local ok, advice = pcall(require "ijepa.train.memory".advice, cfg, device.info().memory, { processes = dist.size, shard = cfg.optim.shard })
  return ok and ("%s; %s"):format(e, advice) or e
end

--- Trains an encoder on images without labels. Returns the context encoder, the predictor, the target encoder (the one
--- to use), the losses of the steps done here, and the run's folder. Goes on from the newest checkpoint in cfg.out.
---@param cfg table as ijepa.config gives it
---@param hooks { step: fun(t: ijepa.trainer, values: table)?, diagnosis: fun(t: ijepa.trainer, d: ijepa.diagnosis)? }?
--- called after every step (values: what the log shows of it) and after every diagnosis; they may read all of t, set
--- t.scale, and call t:stop(why), t:rollback(path) and t:save()
---@return { encoder: ijepa.encoder, predictor: ijepa.predictor, target: ijepa.encoder, losses: number[], out: string }
local function pretrain(cfg, hooks)
  local dist = processes.open(cfg)
  local t
  local ok, e = pcall(function()
    processes.compare(dist, cfg)
    local lock = dist.rank == 0 and lock_of(cfg) or nil
    local from, note = processes.origin(dist, cfg)
    t = new_trainer(cfg, hooks or {}, dist)
    t.lock = lock
    dist:same { { "set of images (names, sizes, times of change)", t.images:stamp() } }
    t:open(from, note)
    ijepa.interrupted()   -- from here on Ctrl-C ends a step before it ends the run
    local fine, why = pcall(function()
      if cfg.diagnose.every > 0 then t.diagnosis = must(diagnose.new(t)) end
      while not t:over() do t:advance() end
    end)
    if not fine then t:failed(why) end
    if t.ended then t.run:say("stopped at step %d: %s", t.step, t.ended) end
    t:close()
  end)
  if not ok then processes.failed(dist, advised(e, cfg, dist), t and t.interrupt) end
  processes.finished(dist, cfg)
  return { encoder = t.encoder, predictor = t.predictor, target = t.target, losses = t.losses, out = cfg.out, config = cfg,
    policy = t.policy, step = t.step, stopped = t.ended, diagnoses = t.diagnosis and t.diagnosis.list or {} }
end

return pretrain

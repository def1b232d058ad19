-- What follows a step: its loss is read, the processes agree, the log gets a row, and diagnosis,
-- hooks and saves take place where they are due. The functions are methods of the trainer
-- (trainer.lua).
local F = require "ijepa.base.ffi"
local processes = require "ijepa.train.processes"
local check_loss = require "ijepa.train.step".check_loss
local text = require "ijepa.base.text"
local C = F.C

local after = {}

-- The mean loss of a step in this process. Where it is not finite, the run stops: on a GPU the gate
-- has kept the state of the step before.
local function loss_of(t, values)
  local sum = 0
  for _, loss in ipairs(values.losses) do
    if t.ahead then loss = loss:get() end
    if loss ~= loss or math.abs(loss) == math.huge then
      t.opt:steps(t.opt:steps() - (t.step - values.step + 1))
      t.step = values.step - 1
    end
    check_loss(loss, values.step)
    sum = sum + loss / #values.losses
  end
  return sum
end

-- The means of what the objective returned beside the losses of a step, by name; nil where that is
-- nothing.
local function extra_of(values)
  local sums
  for _, one in ipairs(values.extra or {}) do
    for name, v in pairs(one) do
      if type(v) ~= "number" then v = v:get() end
      sums = sums or {}
      sums[name] = (sums[name] or 0) + v / #values.extra
    end
  end
  return sums
end

-- The masks of a batch in words.
local function masks_text(t, v)
  if not t.policy then return "first batch: no masks" end
  local function blocks(n, length, noun)
    return n == 1 and ("%s %s"):format(noun, text.count(length, "patch", "patches"))
      or ("%ss %d x %s"):format(noun, n, text.count(length, "patch", "patches"))
  end
  return ("first batch: %s, %s; grid %d x %d"):format(blocks(v.contexts, v.k, "context"),
    blocks(v.targets, v.t, "target"), t.encoder.grid[1], t.encoder.grid[2])
end

-- One round of all processes after a step: they agree on the time, on interrupts and saves that
-- were asked for, and on the mean loss of a step (values; nil: none). Then the log gets the step.
local function agree(t, values)
  local loss = values and loss_of(t, values)
  if values then values.values, values.extra = extra_of(values), nil end
  processes.agree(t, values, loss)
  if not values then return end
  local minutes = t.config.optim.minutes
  values.total = minutes > 0 and math.ceil(t.step * 60 * minutes / t.seconds) or t.last
  values.last = values.step == t.step and (t.interrupt ~= nil or t:over())
  if values.last and t:over() then values.total = t.step end   -- the clock's estimate is a step off
  t.losses[#t.losses + 1] = values.loss
  if #t.losses == 1 then t.run:say(masks_text(t, values)) end
  t.run:log(values.step, values)
end

--- What follows this step beside its row of the log: "last", "save", "check" (a hook or a
--- diagnosis), or nothing.
---@return "last"|"save"|"check"|nil
function after.due(t)
  local cfg, step = t.config, t.step
  if t.interrupt or t:over() then return "last" end
  local epoch_end = step % t.ipe == 0 and (cfg.optim.minutes == 0 or step - t.saved > 1000)
  if t.save_asked or epoch_end or cfg.log.save_steps > 0 and step % cfg.log.save_steps == 0 then
    return "save"
  end
  return (t.hooks.step or t.back or t.diagnosis and t.diagnosis:is_due(step)) and "check" or nil
end

-- Diagnosis and hooks. The end of a run has a diagnosis too, unless a signal ends it.
local function checks(t, values)
  local step = t.step
  local diagnosed = t.diagnosis and (t.diagnosis:is_due(step) or t:over() and not t.interrupt)
  if diagnosed then t.diagnosis:check(t) end
  if t.hooks.step then t.hooks.step(t, values) end
  if t.hooks.step or diagnosed then processes.follow(t) end
  -- a hook has ended the run
  if t.diagnosis and not diagnosed and not t.back and t:over() and not t.interrupt then
    t.diagnosis:check(t)
    processes.follow(t)
  end
end

-- Diagnosis, hooks, rollback and saves after a step.
local function follow_up(t, values)
  checks(t, values)
  if t.back then
    t:roll_back()
    if t.interrupt then t:interrupted(t.interrupt) end
    return
  end
  local due, asked = t:due(), t.save_asked
  if due == "last" or due == "save" then
    t.save_asked = false
    t:must_save(due == "save")
    if asked then t.run:say("step %d: saved in '%s', as SIGUSR1 asked", t.step, t.config.out) end
  elseif t.saving and t.saving:done() then   -- reports a full disk now, not at the next save
    local ok, message = t:finish_save()
    if not ok then error(message, 0) end
  end
  if t.interrupt then t:interrupted(t.interrupt) end
end

--- Logs a step and does what is due after it. To keep a GPU busy, the loss of a step is read after
--- the next step is queued, unless something needs the state as it is now.
---@param values table as update() gives it
---@param started number when the step started (C.ij_time)
function after.after(t, values, started)
  for _, complaint in ipairs(t.images:complaints()) do
    if t.dist.rank == 0 then t.run:say("%s", complaint)
    else text.say("process %d: %s", t.dist.rank, complaint) end
  end
  t.seconds = t.seconds + C.ij_time() - started
  values.ms = 1000 * (C.ij_time() - started)
  local before = t.waiting
  t.waiting = nil
  agree(t, not t.ahead and values or before)
  local due = not t.ahead or t:due()
  t.waiting = not due and values or nil
  if not due then return end
  if t.ahead then agree(t, values) end
  follow_up(t, values)
end

return after

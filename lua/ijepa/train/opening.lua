-- Start and end of a run: its lock, its log, the checkpoint it resumes from, and what it prints
-- first and last. The functions are methods of the trainer (trainer.lua).
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"
local weights = require "ijepa.save.weights"
local Run = require "ijepa.run"
local C = F.C

local opening = {}

local function must(value, message)
  if not value then error(message, 0) end
  return value
end

--- Locks the run's folder against other runs.
---@param cfg table
---@return ffi.cdata* lock, string? warning where the file system has no locks
function opening.lock_of(cfg)
  must(F.try(C.ij_mkdirs(cfg.out)))
  local lock = F.new "ij_lock *[1]"
  local free, why, code = F.try(C.ij_lock_take(("%s/%s.lock"):format(cfg.out, cfg.tag), lock))
  if not free then
    error((code == tonumber(C.IJ_EINVAL)
      and "another run works in '%s': %s; give this one another out=FOLDER"
      or "folder '%s' can't be locked for this run: %s"):format(cfg.out, why), 0)
  end
  local note = F.string(C.ij_lock_note(lock[0]))
  return F.gc(lock[0], C.ij_lock_drop), note ~= "" and note or nil
end

--- Opens the log: a new one, or the rows up to the step where the run resumes.
---@param resume boolean?
function opening.open_log(t, resume)
  local cfg = t.config
  t.run = must(Run.open(cfg.out, { rank = t.dist.rank, silent = t.dist.rank > 0,
    resume = resume and t.step or nil,
    tag = cfg.tag, config = cfg, ipe = t.ipe, logs = cfg.log, every = cfg.log.every,
    total = t.last < math.huge and t.last or nil }))
end

-- "21.5 M", "8.4 k"
local function short(n)
  return n >= 1e6 and ("%.1f M"):format(n / 1e6) or ("%.1f k"):format(n / 1e3)
end

-- The models, where they run and in which type.
local function model_line(t)
  local m = t.config.model
  return ("encoder %s, predictor %s parameters (%s, patches of %d)"):format(
    short(t.encoder:size()), short(t.predictor:size()), m.width and "vit" or m.arch, m.patch)
end

local function device_line(t)
  local dtype = t.encoder.options.dtype or "f32"
  local name = t.ahead and ("%s (%s)"):format(device.info().name, device.info().arch)
    or F.string(C.ij_cpu_isa())
  return ("%s on %s %s%s%s"):format(dtype, device.name(), name,
    t.dist.size > 1 and (" x %d processes (%s)"):format(t.dist.size, t.dist.transport) or "",
    dtype ~= t.config.model.dtype and "; this device has no fast bf16" or "")
end

local function length_line(t)
  local o = t.config.optim
  return ("%s, batch size %d, %s"):format(text.count(t.images:count(), "image"),
    t.config.data.batch * o.accumulate * t.dist.size,
    o.minutes > 0 and text.count(o.minutes, "minute")
      or ("%s (%d per epoch)"):format(text.count(t.last, "step"), t.ipe))
end

-- "12 of 12 steps; optim.epochs=... continues": how far a finished run came, and what makes it
-- longer.
local function finished_text(t)
  local o = t.config.optim
  if t.step < t.last then
    return ("%s; a larger optim.minutes continues"):format(text.count(o.minutes, "minute"))
  end
  local steps = o.steps > 0 and o.steps <= t.step
  return ("%d of %s; %s=... continues"):format(t.step, text.count(t.last, "step"),
    steps and "optim.steps" or "optim.epochs")
end

--- Takes over the state of an earlier run (from: a checkpoint, or nil) or initial weights, opens
--- the log, and prints what the run is.
---@param from string?
---@param note string?
function opening.open(t, from, note)
  local cfg, init = t.config, nil
  if from then t:load(from)
  else
    if cfg.init ~= "" then init = must(must(weights.open(cfg.init)):fill(t.whole)) end
    t.images:seek(0, 0)
  end
  t.finished = from ~= nil and t:over()
  t:open_log(from ~= nil)
  local run = t.run
  if note then run:say(run:paint(note:find "^warning" and "warning" or "plain", note)) end
  if t.finished then return run:say("already finished: %s", finished_text(t)) end
  if init then run:say("starts from %s: %s", cfg.init, init) end
  run:say(model_line(t))
  run:say(device_line(t))
  run:say(length_line(t))
  if t.predictor:size() > t.encoder:size() then
    run:say(run:paint("warning",
      "hint: the predictor is larger than the encoder; see model.pred_dim and model.pred_depth"))
  end
  if from then
    run:say("resumes from %s at step %d%s", from, t.step,
      cfg.init ~= "" and "; init is ignored" or "")
  end
end

local COLOURS = { watch = "warning", collapse = "error" }
local VERDICTS = { ok = "healthy", watch = "WATCH", collapse = "COLLAPSE" }

--- Prints how the run ended, and what comes next.
function opening.say_done(t)
  local run, first = t.run, t.first_step
  run:finish()
  if t.finished then return end
  if t.ended then run:say("stopped at step %d: %s", t.step, t.ended) end
  if t.step == first then return end
  local d = t.diagnosis and t.diagnosis.list[#t.diagnosis.list]
  local verdict = d and d.step == t.step and VERDICTS[d.level]
  run:say("done: %s in %s, saved in %s%s", text.count(t.step - first, "step"),
    Run.time_text(C.ij_time() - t.opened), t.config.out,
    verdict and "; diagnosis: " .. run:paint(COLOURS[d.level] or "plain", verdict) or "")
  local out = t.config.out
  run:say("next: ./ijepa report %s", out:find "^[%w_./-]+$" and out
    or "'" .. out:gsub("'", "'\\''") .. "'")
end

--- Frees what the run holds: threads, the log, the lock.
function opening.close(t)
  if t.saving then t:finish_save() end
  t.run:close()
  t.images:close()
  if t.lock then C.ij_lock_drop(F.gc(t.lock, nil)) end
  t.lock = nil
end

return opening

-- The state of a run on disk: saved, resumed, rolled back to, and rescued when a step fails. The
-- functions are methods of the trainer (trainer.lua).
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local checkpoint = require "ijepa.save.checkpoint"
local state = require "ijepa.save.state"
local buffers = require "ijepa.train.buffers"
local resuming = require "ijepa.train.resuming"
local C = F.C

local saving = {}
-- stands for a job that has ended
local DONE = { finish = function() return true end, done = function() return true end }

--- Loads the state of a checkpoint; the run resumes there.
---@param path string
---@return table meta as state.load gives it
function saving.load(t, path)
  local meta, message = state.load(path, t.whole)
  if not meta then error(message, 0) end
  if t.buffers then buffers.remember(t.buffers) end
  local n = resuming.step_of(meta, t)
  t.step, t.saved, t.seconds = n, n, meta.seconds
  t.images:seek(math.floor(n / t.ipe), n % t.ipe * t.config.optim.accumulate)
  return meta
end

--- For hooks: after this step the run returns to a checkpoint (default: its newest) and resumes
--- there; t.scale stays as it is. Change t.scale as well, or the same will happen again.
---@param path string?
function saving.rollback(t, path)
  local ok, message = t:finish_save()
  if not ok then error(message, 0) end
  t.back = path or t.dist.rank > 0 and "where process 0 returns to"
    or checkpoint.latest(t.config.out, t.config.tag)
  if not t.back then
    F.raise "rollback: this run has saved no checkpoint yet (setting log.save_steps)"
  end
  if path and C.ij_path_kind(path) == 0 then
    t.back = nil
    F.raise(("rollback: there is no checkpoint '%s'"):format(path))
  end
end

--- Returns to the checkpoint that rollback has chosen. The logs keep their rows; the state is
--- saved, so that a restart resumes from here.
function saving.roll_back(t)
  local path = t.back
  t.back = nil
  t.run:say("step %d: back to %s", t.step, path)
  t:load(path)
  t.run:rolled_back(t.step)
  if t.diagnosis then t.diagnosis:rolled_back(t.step) end
  t:must_save(false, true)
end

--- Waits until a save in the background is complete; then the epoch's numbered checkpoint becomes a
--- second name of the file.
---@return boolean? ok, string? message
function saving.finish_save(t)
  local job, name = t.saving, t.saving_name
  t.saving, t.saving_name = nil, nil
  if not job then return true end
  local ok, message = job:finish()
  if ok and name then
    ok, message = F.try(C.ij_file_link(checkpoint.path(t.config.out, nil, t.config.tag), name))
  end
  return ok, message
end

--- Saves the state after the last complete step. later: a thread writes a copy, until the next save
--- or the run's end.
---@param later boolean?
---@param rolled_back boolean? the numbered checkpoint of this epoch stays as it is
---@return boolean? ok, string? message
function saving.save(t, later, rolled_back)
  local cfg, step = t.config, t.step
  local latest = checkpoint.path(cfg.out, nil, cfg.tag)
  local _, finite = tensor.norm(state.trained(t.whole))
  if not finite then
    return nil, ("step %d: a parameter is not finite: nothing saved, '%s' keeps the last good state")
      :format(step, latest)
  end
  if t.lock then   -- another run may work in this folder by now: its state must stay
    local ours, why = F.try(C.ij_lock_check(t.lock))
    if not ours then return nil, ("step %d is not saved in '%s': %s"):format(step, cfg.out, why) end
  end
  local epoch = step / t.ipe
  local meta = { step = step, epoch = math.floor(epoch), seconds = t.seconds, lr_scale = t.scale.lr,
    wd_scale = t.scale.wd,
    ipe = t.ipe, world = t.dist.size, accumulate = cfg.optim.accumulate, batch = cfg.data.batch,
    accumulate_given = t.accumulate_given, count = t.images:count(), run = t.identity,
    save = t.saves + 1 }
  for name, rows in pairs(t.run:rows()) do meta["rows_" .. name] = rows end
  meta.rows_diagnoses = t.diagnosis and t.diagnosis.rows
  local ok, message = t:finish_save()
  if not ok then return nil, message end
  t:keep_code(true)
  ok, message = state.save(latest, t.whole, cfg, meta, cfg.log.save_background)
  if not ok then return nil, message end
  t.saving, t.saved, t.saves = ok ~= true and ok or DONE, step, t.saves + 1
  if t.dist.rank == 0 and not rolled_back and epoch % 1 == 0 and epoch > 0
      and epoch % cfg.log.save_epochs == 0 then
    t.saving_name = checkpoint.path(cfg.out, epoch, cfg.tag)
  end
  if later and t.saving ~= DONE then return true end
  return t:finish_save()
end

--- Saves; raises an error where that fails.
---@param later boolean?
---@param rolled_back boolean?
function saving.must_save(t, later, rolled_back)
  local ok, message = t:save(later, rolled_back)
  if not ok then
    t.run:close()
    error(message, 0)
  end
end

-- The message after Ctrl-C and the like.
local function say_interrupted(t, step)
  t.run:finish()
  t.run:say("interrupted: step %d is saved in '%s'; the same command resumes there", step,
    t.config.out)
end

--- Ends the run after a signal, of which `code` is the exit code. The state is saved.
---@param code integer?
function saving.interrupted(t, code)
  say_interrupted(t, t.step)
  t.run:close()
  ijepa.exit(code or 130)
end

--- A step failed: saves the last complete step before it raises the error again, so that no policy,
--- hook or image that fails costs a run.
---@param e any
function saving.failed(t, e)
  local exits, lost = type(e) == "table" and e.exit, t.dist:lost()
  for i, complaint in ipairs(t.images:complaints()) do   -- perhaps the reason
    if i <= 3 then t.run:say("%s", complaint) end
  end
  if exits and e.interrupted then t.run:say("%s", tostring(e)) end   -- in a mask policy: where
  -- they must hear of it before anything that takes time
  local others = t.dist.size > 1 and not (exits and t.interrupt)
  if others and not lost then t.dist:fail(tostring(e)) end
  if t.updating and t.buffers then buffers.restore(t.buffers) end
  -- can save without the others
  local alone = t.dist.size == 1 or t.dist.rank == 0 and not t.config.optim.shard
  if alone and not t.torn and t.step > t.saved and not (exits and t.run:is_closed()) then
    local ok, message = t:save()
    t.run:finish()
    t.run:say(ok and "step %d is saved in '%s'" or "step %d could not be saved in '%s': %s", t.step,
      t.config.out, message)
  end
  if exits and not t.run:is_closed() then say_interrupted(t, t.saved) end
  if others and type(e) == "string" then
    e = t.saved == 0 and e .. "; nothing is saved yet"
      or ("%s; step %d is saved in '%s': the same command resumes there"):format(e, t.saved,
      t.config.out)
  end
  t:close()
  error(e, 0)
end

return saving

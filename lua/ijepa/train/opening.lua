-- Start and end of a run: its lock, its log, the checkpoint it resumes from, and what it prints
-- first and last. The functions are methods of the trainer (trainer.lua).
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"
local changes = require "ijepa.train.changes"
local resuming = require "ijepa.train.resuming"
local checkpoint = require "ijepa.save.checkpoint"
local kept = require "ijepa.save.kept"
local weights = require "ijepa.save.weights"
local Run = require "ijepa.run"
local Rows = require "ijepa.base.rows"
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

-- The rows of each log when a checkpoint was saved: nil where it does not count them.
local function rows_of(meta)
  if not meta.rows_csv then return nil end
  return { csv = meta.rows_csv, json = meta.rows_json or math.huge }
end

--- Opens the log: a new one, or the rows that were there when the state was saved.
---@param meta table? of the checkpoint that the run resumes from
function opening.open_log(t, meta)
  local cfg = t.config
  t.run = must(Run.open(cfg.out, { rank = t.dist.rank, silent = t.dist.rank > 0,
    resume = meta and (meta.step or t.step), rows = meta and rows_of(meta),
    ipe = meta and meta.ipe or t.ipe, tag = cfg.tag,
    config = not t.finished and kept.settings(cfg) or nil,
    logs = cfg.log, every = cfg.log.every,
    total = t.last < math.huge and t.last or nil }))
  t.run:resumes_at(t.step, t.ipe)
end

--- Keeps the Lua code of the run in its folder, and says what has changed since it was kept. Called
--- again with each save: a function may load a file later.
---@param again boolean?
function opening.keep_code(t, again)
  if t.dist.rank > 0 then return end
  if not again then t.recipe = kept.recipe() end
  local pieces, count = { unpack(t.pieces) }, 0
  if t.recipe then table.insert(pieces, 1, t.recipe) end
  for _, piece in ipairs(pieces) do
    for _ in pairs(piece.files or {}) do count = count + 1 end
  end
  if again and count == t.kept_files then return end
  t.kept_files = count
  for _, line in ipairs(kept.write(t.config, pieces, t.step, again)) do t.run:say("%s", line) end
end

-- "21.5 M", "8.4 k"
local function short(n)
  return n >= 1e6 and ("%.1f M"):format(n / 1e6) or ("%.1f k"):format(n / 1e3)
end

-- The models, where they run and in which type.
local function model_line(t)
  local m = t.config.model
  local kind = m.encoder and m.encoder ~= "" and "of your own" or m.width and "vit" or m.arch
  local parts = { ("encoder %s"):format(short(t.encoder:size())) }
  if t.predictor then parts[2] = ("predictor %s"):format(short(t.predictor:size())) end
  for _, one in ipairs(t.whole.modules) do
    parts[#parts + 1] = ("%s %s"):format(one.name, short(one.model:size()))
  end
  return ("%s parameters (%s, patches of %d)"):format(table.concat(parts, ", "), kind, m.patch)
end

-- The objective where it is not the default; what it does without.
local function objective_line(t)
  local o, without = t.objective, {}
  if o.piece.name == "ijepa" then return nil end
  if t.target == t.encoder then without[1] = "target encoder" end
  if not t.predictor then without[#without + 1] = "predictor" end
  if not t.policy then without[#without + 1] = "masks" end
  return o.title .. (#without > 0 and ", without " .. table.concat(without, ", ") or "")
end

local function device_line(t)
  local m = t.config.model
  local own = m.encoder ~= nil and m.encoder ~= ""
  local dtype = own and m.dtype or t.encoder.options.dtype or "f32"
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

-- Of a finished run: what was asked for and is not done, as an error message; nil where that is
-- nothing.
local function undone(t, origin)
  local list = changes.of(origin.changes,
    { noted = true, step = true, start = true })
  local init = t.config.init
  if init ~= "" and init ~= origin.init then table.insert(list, 1, "init=" .. init) end
  if #list == 0 then return nil end
  return ("already finished: %s; without effect: %s"):format(finished_text(t),
    table.concat(list, ", "))
end

-- Moves the run that is in the folder out of the way of a new one (resume=false).
local function retire(cfg)
  local into, message = checkpoint.retire(cfg.out, cfg.tag)
  if message then error(message, 0) end
  if into then
    text.say("begins anew (resume=false): %s '%s'",
      "the checkpoints and logs of the earlier run are in", into)
  end
end

-- A folder whose checkpoints are gone, but not its log: a new run begins, and says so.
local function warn_of_lost_state(cfg)
  local log = ("%s/%s_r0.csv"):format(cfg.out, cfg.tag)
  local file = io.open(log, "rb")
  local _, rows = (file and file:read "*a" or ""):gsub("\n", "")
  if file then file:close() end
  if rows < 2 then return end
  text.say("warning: '%s' has the log of an earlier run, but no checkpoint: begins anew at step 0; "
    .. "the log is kept as '%s'", cfg.out, Rows.free_name(log:match "^(.*)%.csv$", ".old.csv"))
end

-- What the run is: model, device, data.
local function say_start(t)
  local run = t.run
  run:say(model_line(t))
  if objective_line(t) then run:say("%s", objective_line(t)) end
  run:say(device_line(t))
  run:say(length_line(t))
  if t.predictor and t.predictor:size() > t.encoder:size() then
    run:say(run:paint("warning",
      "hint: the predictor is larger than the encoder; see model.pred_dim and model.pred_depth"))
  end
end

-- A run that resumes: its state, its log, and what has changed.
local function resume(t, origin)
  local meta = t:load(origin.path)
  t.scale = { lr = meta.lr_scale or 1, wd = meta.wd_scale or 1 }
  if origin.own and meta.run then t.identity, t.saves = meta.run, meta.save or 0 end
  t.rows_diagnoses = meta.rows_diagnoses
  t.finished = t:over()
  t:open_log(meta)
  local run, note = t.run, origin.note
  if note then run:say(run:paint(note:find "^warning" and "warning" or "plain", note)) end
  if t.finished then
    t.undone = undone(t, origin)
    if not t.undone then run:say("already finished: %s", finished_text(t)) end
    return
  end
  t:keep_code()
  resuming.say(t, origin, meta)
  say_start(t)
  run:say("resumes from %s at step %d%s", origin.path, t.step,
    t.config.init ~= "" and "; init is ignored" or "")
end

--- Takes over the state of an earlier run or initial weights, opens the log, and prints what the
--- run is.
---@param origin ijepa.origin? nil: a new run
function opening.open(t, origin)
  local cfg = t.config
  t.identity = checkpoint.identity()
  if origin then return resume(t, origin) end
  local init = cfg.init ~= "" and must(must(weights.open(cfg.init)):fill(t.whole))
  t.images:seek(0, 0)
  if t.dist.rank == 0 then
    if cfg.resume then warn_of_lost_state(cfg) else retire(cfg) end
  end
  t:open_log()
  t:keep_code()
  if init then t.run:say("starts from %s: %s", cfg.init, init) end
  say_start(t)
end

local COLOURS = { watch = "warning", collapse = "error" }
local VERDICTS = { ok = "healthy", watch = "WATCH", collapse = "COLLAPSE" }

--- Prints how the run ended, and what comes next.
function opening.say_done(t)
  local run, steps = t.run, #t.losses
  run:finish()
  if t.finished then return end
  if t.ended then run:say("stopped at step %d: %s", t.step, t.ended) end
  if steps == 0 then return end
  local d = t.diagnosis and t.diagnosis.list[#t.diagnosis.list]
  local verdict = d and d.step == t.step and VERDICTS[d.level]
  run:say("done: %s in %s, saved in %s%s", text.count(steps, "step"),
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

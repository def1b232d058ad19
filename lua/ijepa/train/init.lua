-- The training loop. `return ijepa.pretrain(ijepa.config { ... })` is a complete recipe;
-- config/settings.lua lists the settings. A step as the paper has it is step.lua; trainer.lua holds
-- the run.
-- Uses: base, tensor, config, data, mask, optim, model, run, save, dist, probe.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"
local buffers = require "ijepa.train.buffers"
local diagnose = require "ijepa.train.diagnose"
local opening = require "ijepa.train.opening"
local processes = require "ijepa.train.processes"
local resuming = require "ijepa.train.resuming"
local trainer = require "ijepa.train.trainer"
local kept = require "ijepa.save.kept"
local C = F.C

-- The loop. update: masks, target features, context features, predictions, loss, backward pass,
-- AdamW, EMA. after: the log, diagnosis, hooks, saves.
local function loop(t)
  t.opened = C.ij_time()
  if t.buffers then buffers.remember(t.buffers) end
  if t.config.diagnose.every > 0 then diagnose.open(t) end
  if t.back then t:roll_back() end   -- by a hook of the first diagnosis
  while not t:over() do
    local started = C.ij_time()
    local values = t:update()
    t:after(values, started)
  end
end

-- Adds what would fit to an error of a GPU whose memory is too small.
local function advised(e, cfg, dist)
  if type(e) ~= "string" or not e:find "out of memory on the GPU" then return e end
  local ok, advice = pcall(require "ijepa.train.memory".advice, cfg, device.info().memory,
    { processes = dist.size, shard = cfg.optim.shard })
  return ok and ("%s; %s"):format(e, advice) or e
end

-- What a run's result prints: a few lines.
local Result = {}
function Result:__tostring()
  local out = { ("run in '%s': step %d%s"):format(text.shown(self.out), self.step,
    #self.losses > 0 and (", loss %.4f"):format(self.losses[#self.losses]) or "") }
  local last = self.diagnoses[#self.diagnoses]
  if last then out[2] = ("  diagnosis  step %d: %s"):format(last.step, last.text) end
  for _, name in ipairs { "encoder", "predictor", "policy" } do
    if self[name] then
      out[#out + 1] = ("  %-10s %s"):format(name, tostring(self[name]):match "[^\n]*")
    end
  end
  out[#out + 1] = "  also: target (the encoder to use), config, losses, diagnoses, stopped"
  return table.concat(out, "\n")
end

--- Trains an encoder on images without labels; resumes from the newest checkpoint in cfg.out.
---@param cfg table as ijepa.config gives it
---@param hooks { step: fun(t: ijepa.trainer, values: table)?, diagnosis: fun(t: ijepa.trainer, d: ijepa.diagnosis)? }?
--- called after every step (values: what the log shows of it) and after every diagnosis; they may
--- read all of t, set t.scale, and call t:stop(why), t:rollback(path) and t:save()
---@return { encoder: ijepa.encoder, predictor: ijepa.predictor, target: ijepa.encoder, losses: number[], out: string } run
--- target: the encoder to use; losses: of the steps of this process; out: the run's folder
local function pretrain(cfg, hooks)
  C.ij_pipe_ignore()   -- a reader of our output that goes away costs no run
  local dist = processes.open(cfg)
  local t
  local ok, e = pcall(function()
    local copies = cfg.resume and kept.apply(cfg, cfg.out, true) or {}
    if dist.rank == 0 and copies[1] then
      io.stderr:write(("%s: gone; the copy in %s/code is used\n"):format(
        table.concat(copies, ", "), cfg.out))
    end
    processes.compare(dist, cfg)
    local lock, lock_note
    if dist.rank == 0 then lock, lock_note = opening.lock_of(cfg) end
    local accumulate = cfg.optim.accumulate
    local origin = resuming.origin(dist, cfg)
    t = trainer.new(cfg, hooks or {}, dist)
    t.lock, t.accumulate_given = lock, accumulate
    dist:same { { "set of images (names, sizes, times of change)", t.images:stamp() } }
    t:open(origin)
    if lock_note then t.run:say(t.run:paint("warning", "warning: " .. lock_note)) end
    ijepa.interrupted()   -- from here on Ctrl-C ends a step before it ends the run
    local fine, why = pcall(loop, t)
    if not fine then t:failed(why) end
    t:say_done()
    t:close()
  end)
  if not ok then processes.failed(dist, advised(e, cfg, dist), t and t.interrupt) end
  processes.finished(dist, cfg)
  if t.undone then error(t.undone, 0) end
  return setmetatable({ encoder = t.encoder, predictor = t.predictor, target = t.target, losses = t.losses,
    out = cfg.out, config = cfg,
    policy = t.policy, step = t.step, stopped = t.ended, diagnoses = t.diagnosis
    and t.diagnosis.list or {} }, Result)
end

return pretrain

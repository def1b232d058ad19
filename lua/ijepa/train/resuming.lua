-- Where a run resumes: the checkpoint, the settings that have changed since it was saved, and the
-- step that it stands for under the settings of now.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local checkpoint = require "ijepa.save.checkpoint"
local kept = require "ijepa.save.kept"
local changes = require "ijepa.train.changes"
local Run = require "ijepa.run"
local config = require "ijepa.config"
local json = require "cjson.safe"
local C = F.C

local resuming = {}

local say = text.say

-- The newest state of the run's own folder. Damaged files are moved aside, so that no save replaces
-- them. A file that could not be read for another reason may be the newest: then the run stops.
local own_state
function own_state(cfg)
  local linked = checkpoint.unlink(cfg.out, cfg.tag)
  if linked then say("removed the link '%s', so that no save replaces '%s'", unpack(linked)) end
  local path, refused = checkpoint.latest(cfg.out, cfg.tag)
  if type(refused) == "string" then error(refused, 0) end
  local whole, message, code = true, nil, nil
  if path then whole, message, code = checkpoint.verify(path) end   -- the values too
  if not whole then table.insert(refused, { path = path, message = message, code = code }) end
  for i, one in ipairs(refused) do
    if one.code ~= tonumber(C.IJ_EFORMAT) then
      error(one.message .. "; make it readable, or move it away to resume from an older one", 0)
    end
    local name
    name, message = checkpoint.set_aside(one.path)
    if not name then error(message, 0) end
    local last = i == #refused and not (checkpoint.latest(cfg.out, cfg.tag))
    say("warning: %s; it is moved to '%s'%s", one.message, name,
      last and ", and the run begins anew" or "")
  end
  if not whole then return own_state(cfg) end
  return path
end

-- The settings of the run that saved a checkpoint: those of its folder; what the file itself holds
-- about its model counts more. Where the folder's settings can't be read, or are those of another
-- tag, only the model is compared.
local function saved_settings(path, file, cfg)
  local folder = path:match "^(.*)/[^/]*$" or "."
  local saved, message = Run.config(folder)
  if not saved and folder == cfg.out then
    say("warning: %s: which settings have changed is not known", message)
  end
  if not saved or folder == cfg.out and saved.tag ~= cfg.tag then saved = {} end
  local own = json.decode(file:meta "settings" or "")
  if type(own) == "table" and type(own.model) == "table" and type(own.data) == "table" then
    own = config.restored({ model = own.model, data = { crop = own.data.crop } }, "", false)
    if own and own.model and own.data then
      saved.model = own.model
      local now = saved.data or cfg.data   -- the same as now where it is not known
      saved.data = {}
      for name, value in pairs(now) do saved.data[name] = value end
      saved.data.crop = own.data.crop
    end
  end
  return saved
end

local function whole(v) return type(v) == "number" and v >= 1 and v % 1 == 0 end

-- With another number of processes than before, and otherwise the same settings, optim.accumulate
-- is set so that the batch size stays the same, where that is possible. Returns a note.
local function keep_batch_size(file, d, cfg)
  local o = cfg.optim
  local world, batch, accumulate = file:meta "world", file:meta "batch", file:meta "accumulate"
  -- of a file of an earlier version, or of anyone
  if not (whole(world) and whole(batch) and whole(accumulate)) then return nil end
  local given = file:meta "accumulate_given" or accumulate
  local all, now = world * accumulate * batch, d.size * o.accumulate * cfg.data.batch
  local same = o.accumulate == given and cfg.data.batch == batch
  if all == now or world == d.size and not same then return nil end
  local processes = world ~= d.size and ("%s instead of %d"):format(
    text.count(d.size, "process", "processes"), world) or text.count(d.size, "process", "processes")
  local fits = all / (d.size * cfg.data.batch)
  if fits % 1 == 0 then
    o.accumulate = fits
    return ("%s: optim.accumulate is %d, so that the batch size is %d as before"):format(
      processes, fits, all)
  end
  return ("warning: batch size %d instead of %d, %s: resumes at the same epoch"):format(now, all,
    processes)
end

---@class ijepa.origin where a run resumes, as process 0 finds it
---@field path string
---@field own boolean the checkpoint is of the run's own folder
---@field note string? about the number of processes
---@field changes table[] as changes.between gives it
---@field init string what `init` was then

--- The checkpoint to resume from, or nil. Raises an error where the settings are those of another
--- model.
---@param d ijepa.dist
---@param cfg table
---@return ijepa.origin?
function resuming.origin(d, cfg)
  local own = d.rank == 0 and cfg.resume and own_state(cfg)
  local path = d:broadcast(own or type(cfg.resume) == "string" and cfg.resume or "")
  if path == "" then return nil end
  local origin = { path = path, own = own and true or false, changes = {}, init = "" }
  local file = checkpoint.load(path)
  if not file then return origin end   -- loading it will report why
  if d.rank == 0 then
    local saved = saved_settings(path, file, cfg)
    if saved.optim then
      saved.optim.accumulate = file:meta "accumulate_given" or saved.optim.accumulate
    end
    origin.changes, origin.init = changes.between(saved, kept.settings(cfg)),
      saved.init or ""
    local refused = changes.of(origin.changes, { model = true })
    if #refused > 0 then
      file:close()
      local what = table.concat(refused, ", "):find "^optim%.name" and "optimizer" or "model"
      error(("%s: another %s than that of '%s'; %s"):format(table.concat(refused, ", "), what, path,
        "give another out=FOLDER, or resume=false to start anew"), 0)
    end
  end
  origin.note = keep_batch_size(file, d, cfg)
  file:close()
  return origin
end

--- The step at which a run resumes from a checkpoint with this metadata. Where a step has another
--- number of images than before, progress is counted in images: the complete epochs stay, and the
--- images seen of the current one are converted to steps.
---@param meta table
---@param t ijepa.trainer
---@return integer
function resuming.step_of(meta, t)
  if not meta.step then return meta.epoch * t.ipe end
  local o, ipe = t.config.optim, meta.ipe
  if not (meta.world and meta.batch and meta.accumulate and ipe and ipe > 0) then
    return meta.step
  end
  local before = meta.world * meta.batch * meta.accumulate
  local now = t.dist.size * t.config.data.batch * o.accumulate
  if before == now and ipe == t.ipe then return meta.step end
  local epochs, rest = math.floor(meta.step / ipe), meta.step % ipe
  return epochs * t.ipe + math.min(math.ceil(rest * before / now), t.ipe)
end

--- Prints what differs from the settings that the run was saved with, one line each.
---@param t ijepa.trainer
---@param origin ijepa.origin
---@param meta table of the checkpoint
function resuming.say(t, origin, meta)
  local run = t.run
  for _, one in ipairs(origin.changes) do
    run:say("%s%s", one.text, one.kind == "start" and " (without effect: for a new run only)" or "")
  end
  if meta.count and meta.count ~= t.images:count() then
    run:say("data.root: %s instead of %d", text.count(t.images:count(), "image"), meta.count)
  end
  if meta.step and meta.step ~= t.step then
    run:say("step %d (%d per epoch) becomes step %d (%d per epoch): progress is counted in images",
      meta.step, meta.ipe, t.step, t.ipe)
  end
end

return resuming

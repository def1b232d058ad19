--- The settings that all probe recipes share: ijepa.config({}, probe_settings { own settings }).
local load = require "ijepa.save.load"

local shared = {
  run = { type = "string", default = "runs/pretrain", doc = "a run's folder, or a checkpoint of any layout" },
  which = { type = "string", doc = "which encoder of the checkpoint; the target encoder, if there is one" },
  train = { type = "string", doc = "folder or tar of class folders" },
  test = { type = "string", doc = "the same classes, other images" },
  crop = { type = "integer", default = 0, doc = "side in pixels; 0: as trained" },
  resize = { type = "integer", default = 0, doc = "short side before the centre crop; 0: crop * 8 / 7" },
  device = { type = "string", default = "", doc = "cpu, cuda, cuda:N; empty: IJEPA_DEVICE, or cpu" },
  workers = { type = "integer", default = 2, doc = "threads that read" },
  seed = { type = "integer", default = 0, doc = "of everything that is drawn" },
  limit = { type = "integer", default = 0, doc = "at most so many training images; 0: all" },
  cache = { type = "string", default = "", doc = "folder of cached features, or false; empty: ~/.cache/ijepa" },
  per_class = { type = "boolean", default = false, doc = "also each class alone, the worst first" },
}

local probe_settings = {}

--- The encoder that the settings name, which are completed: crop, limit, cache. Raises in one line what is wrong.
---@param recipe string its name, for messages
---@param o table what ijepa.config gave
---@return ijepa.encoder
function probe_settings.encoder(recipe, o)
  if not o.train or not o.test then
    error(recipe .. ": set train=FOLDER and test=FOLDER, folders (or tars) of class folders", 0)
  end
  local encoder, message = load(o.run, { which = o.which })
  if not encoder then error(message, 0) end
  o.crop = o.crop > 0 and o.crop or encoder.settings.data.crop
  o.step, o.which = encoder.step, o.which or encoder.part   -- for probe.record
  o.limit = o.limit > 0 and o.limit or nil
  if o.cache == "false" then o.cache = false
  elseif o.cache == "" then o.cache = nil end
  io.stderr:write(("%s: %s\n"):format(recipe, encoder.source))
  return encoder
end

return setmetatable(probe_settings, { __call = function(_, own)
  local all = {}
  for k, v in pairs(shared) do all[k] = v end
  for k, v in pairs(own or {}) do all[k] = v end
  return all
end })

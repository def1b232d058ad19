--- The settings that all probe recipes share: ijepa.config({}, probe_settings { own settings }).
local F = require "ijepa.base.ffi"
local load = require "ijepa.save.load"
local text = require "ijepa.base.text"

local shared = {
  run = { type = "string", default = "runs/pretrain",
    doc = "Encoder to probe: a run's folder, or a checkpoint in any layout." },
  which = { type = "string",
    doc = "Encoder of the checkpoint: encoder or target_encoder; none: the target encoder if there is one." },
  heads = { type = "integer", default = 0,
    doc = "Number of attention heads of the encoder; 0: as its file or its width tells." },
  grid = { type = "numbers", default = {},
    doc = "Rows and columns of the encoder's patches, for a file that does not tell them." },
  train = { type = "string",
    doc = "Training images: a folder or tar with one folder per class. Required." },
  test = { type = "string", doc = "Test images, in folders of the same classes. Required." },
  crop = { type = "integer", default = 0,
    doc = "Side of the centre crop in pixels; 0: the crop of the training." },
  resize = { type = "integer", default = 0,
    doc = "Short side in pixels to which an image is resized before the crop; 0: crop * 8 / 7." },
  device = { type = "string", default = "",
    doc = "Device: cpu, cuda or cuda:N; empty: IJEPA_DEVICE, or cpu." },
  workers = { type = "integer", default = 2, doc = "Threads that read images, 0 or more." },
  seed = { type = "integer", default = 0,
    doc = "Seed of initial values, order and held-out images." },
  limit = { type = "integer", default = 0, doc = "Largest number of training images; 0: all." },
  cache = { type = "string", default = "",
    doc = "Folder of the cached features; false: no cache; empty: ~/.cache/ijepa." },
  per_class = { type = "boolean", default = false,
    doc = "true also prints the accuracy of each class, the worst first." },
}

local probe_settings = {}

--- Loads the encoder of the settings, and completes the settings crop, limit and cache. Raises an
--- error of one line where something is wrong.
---@param recipe string name of the recipe, for messages
---@param o table from ijepa.config
---@return ijepa.encoder
function probe_settings.encoder(recipe, o)
  if not o.train or not o.test then
    error(recipe .. ": set train=FOLDER and test=FOLDER, folders (or tars) of class folders", 0)
  end
  local encoder, message = load(o.run, { which = o.which, heads = o.heads > 0 and o.heads or nil,
    grid = #o.grid > 0 and o.grid or nil })
  if not encoder then error(message, 0) end
  o.crop = o.crop > 0 and o.crop or encoder.settings.data.crop
  o.step, o.which = encoder.step, o.which or encoder.part   -- for probe.record
  o.limit = o.limit > 0 and o.limit or nil
  if o.cache == "false" then o.cache = false
  elseif o.cache == "" then o.cache = nil end
  text.say("%s: %s", recipe, encoder.source)
  return encoder
end

return setmetatable(probe_settings, { __call = function(_, own)
  local all = {}
  for k, v in pairs(shared) do all[k] = v end
  for k, v in pairs(own or {}) do
    if shared[k] then
      F.raise(("probe_settings: '%s' is a setting of all probes: take another name"):format(k))
    end
    all[k] = v
  end
  return all
end })

-- What differs between a run's settings and those of the checkpoint that it resumes from, and what
-- follows from it: nothing, a line, another unit of progress, or a refusal.
local text = require "ijepa.base.text"
local model = require "ijepa.model"
local config = require "ijepa.config"

local changes = {}

-- The kind of each key, or of all keys of a section. Every other key is "noted": the change is
-- printed and applies from the next step on.
--   free   does not change what is computed: not printed
--   length the end of the run: printed
--   step   changes what a step is: printed; progress is counted in images (resuming.lua)
--   start  counts for a new run only: printed as without effect
--   model  makes it another model: refused
local KINDS = {
  out = "free", tag = "free", resume = "free", init = "free", device = "free", threads = "free",
  dist = "free", diagnose = "free", log = "free",
  ["data.workers"] = "free", ["data.prefetch"] = "free", ["data.copy"] = "free",
  ["data.manifest"] = "free", ["data.max_bad"] = "free", ["data.max_pixels"] = "free",
  ["data.max_bytes"] = "free", ["data.untrusted_loaders"] = "free",
  ["model.recompute"] = "free", ["optim.shard"] = "free",
  ["optim.name"] = "model", ["model.freeze"] = "model",
  ["optim.epochs"] = "length", ["optim.steps"] = "length", ["optim.minutes"] = "length",
  ["data.batch"] = "step", ["optim.accumulate"] = "step",
  ["model.init_gain"] = "start", ["model.patch_gain"] = "start",
  ["model.depth_scaled_init"] = "start",
  ["model.width"] = "model", ["model.depth"] = "model", ["model.heads"] = "model",
  ["model.mlp_ratio"] = "model", ["model.patch"] = "model", ["model.pred_depth"] = "model",
  ["model.pred_dim"] = "model", ["model.pred_heads"] = "model", ["data.crop"] = "model",
}

--- The kind of a change of this key.
---@param key string dotted
---@return "free"|"length"|"step"|"start"|"model"|"noted"
function changes.kind(key) return KINDS[key] or KINDS[key:match "^[^.]+"] or "noted" end

-- All values under their dotted keys; a list is one value.
local function flat(t, prefix, into)
  for name, value in pairs(t) do
    local key = prefix .. tostring(name)
    if type(value) == "table" and #value == 0 and next(value) ~= nil then
      flat(value, key .. ".", into)
    else
      into[key] = value
    end
  end
  return into
end

-- The settings by key, the model's sizes as they come out: model.arch is a name for them.
local function values_of(cfg)
  local all, named = flat(cfg, "", {}), {}
  if cfg.model and cfg.model.arch then named = model.size(cfg.model.arch) or {} end
  for _, name in ipairs { "width", "depth", "heads", "mlp_ratio" } do
    all["model." .. name] = all["model." .. name] or named[name]
  end
  all["model.pred_heads"] = all["model.pred_heads"] or all["model.heads"]
  local crop = all["data.crop"]
  if type(crop) == "table" and crop[1] == crop[2] then all["data.crop"] = crop[1] end
  all["model.arch"] = nil
  return all
end

local function shown(v)
  if type(v) == "number" then return ("%.14g"):format(v) end
  if type(v) == "table" then
    local list = {}
    for i, item in ipairs(v) do list[i] = shown(item) end
    for _, key in ipairs(text.keys(v)) do list[#list + 1] = key .. " = " .. shown(v[key]) end
    return "{" .. table.concat(list, ", ") .. "}"
  end
  if v == nil then return "none" end
  return v == "" and '""' or (tostring(v):gsub("%c", "?"))
end

--- What differs, sorted by key.
---@param saved table settings; only the sections that are there are compared
---@param cfg table settings
---@return { key: string, kind: string, text: string }[] list text: "optim.lr 0.001 -> 0.0005"
function changes.between(saved, cfg)
  local before, now, list = values_of(saved), values_of(cfg), {}
  local keys = {}
  for key in pairs(before) do keys[key] = true end
  for key in pairs(now) do keys[key] = keys[key] or saved[key:match "^[^.]+"] ~= nil end
  for key, compared in pairs(keys) do
    local had = before[key]
    if had == nil then   -- a setting that the version which saved them did not have
      local setting = config.describe(key)
      had = setting and setting.default
    end
    local old, new = shown(had), shown(now[key])
    if compared and old ~= new and changes.kind(key) ~= "free" and type(now[key]) ~= "function" then
      list[#list + 1] = { key = key, kind = changes.kind(key),
        text = ("%s %s -> %s"):format(key, old, new) }
    end
  end
  table.sort(list, function(a, b) return a.key < b.key end)
  return list
end

--- The texts of the changes of some kinds.
---@param list table[] as changes.between gives it
---@param kinds table<string, boolean>
---@return string[]
function changes.of(list, kinds)
  local texts = {}
  for _, one in ipairs(list) do
    if kinds[one.kind] then texts[#texts + 1] = one.text end
  end
  return texts
end

return changes

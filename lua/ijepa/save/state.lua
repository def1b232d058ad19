-- A run's whole state as a checkpoint, and back (ijepa.load gives an encoder alone). Names:
-- encoder.*, predictor.*, target_encoder.*, opt.m.*, opt.v.* (moments of the parameter of that
-- name); metadata: step, epoch, schedule lengths, settings as JSON.
local F = require "ijepa.base.ffi"
local checkpoint = require "ijepa.save.checkpoint"
local jepa = require "ijepa.model"
local published = require "ijepa.save.published"
local weights = require "ijepa.save.weights"
local json = require "cjson.safe"
local C = F.C

local state = {}
-- The numbers of a run in a checkpoint's metadata: whole ones, unless real; needed, or perhaps not
-- there.
local NUMBERS = { step = { needed = true }, seconds = { real = true, needed = true },
  lr_scale = { real = true },
  wd_scale = { real = true }, updates = {}, ipe = {}, world = {}, batch = {}, accumulate = {},
    count = {}, save = {},
  rows_csv = {}, rows_json = {}, rows_diagnoses = {} }
local PARTS = { "encoder", "predictor", "target_encoder" }

-- { name, tensor, shape } of everything, in a fixed order. Moments that another process has are
-- without a tensor; gather: process 0 gets them all, and all processes must come here.
local function everything(whole, gather)
  local list, name_of = {}, {}
  for _, part in ipairs(PARTS) do
    if whole[part] then
      for _, p in ipairs(whole[part]:params()) do
        list[#list + 1] = { name = part .. "." .. p.name, tensor = p.tensor }
        name_of[p] = part .. "." .. p.name
      end
    end
  end
  if whole.opt then
    for i, e in ipairs(whole.opt.entries) do
      local m, v
      if gather then m, v = whole.opt:whole_state(i) else m, v = whole.opt:state(i) end
      local shape = e.tensor:shape()
      for k, moment in ipairs { { "opt.m.", m }, { "opt.v.", v } } do
        if k <= whole.opt.moments then
          list[#list + 1] = { name = moment[1] .. name_of[e.param], tensor = moment[2], shape = shape }
        end
      end
    end
  end
  return list
end

--- The trained tensors of a run, to look whether they are finite.
---@param whole table
---@return ijepa.tensor[]
function state.trained(whole)
  local list = {}
  for _, part in ipairs(PARTS) do
    for _, p in ipairs(whole[part]:params()) do list[#list + 1] = p.trained and p.tensor or nil end
  end
  return list
end

--- Saves a run: whole = { encoder, predictor, target_encoder, opt }. later: a thread writes;
--- returns its job. Of several processes all must come here, and process 0 writes.
---@param path string
---@param whole table
---@param cfg table
---@param meta table<string, string|number>
---@param later boolean?
---@return boolean|ijepa.save_job|nil ok, string? message, integer? code
function state.save(path, whole, cfg, meta, later)
  local items, all = {}, everything(whole, true)
  if whole.opt.dist and whole.opt.dist.rank > 0 then return true end
  for i, e in ipairs(all) do items[i] = { name = e.name, tensor = e.tensor.h } end
  local m = { settings = json.encode { model = cfg.model, data = { crop = cfg.data.crop },
    seed = cfg.seed }, updates = whole.opt:steps(),
    ijepa = F.string(C.ij_version()) }
  for k, v in pairs(meta) do m[k] = v end
  return checkpoint.save(path, items, m, later)
end

-- Fills the tensors of a list from a file; prefix: of the file's names, that begin so (all of them
-- without it).
local function fill(file, list, prefix)
  local expected = {}
  for i, e in ipairs(list) do
    expected[i] = { name = e.name, shape = e.shape or e.tensor:shape(), dtype = "f32" }
  end
  local ok, message = checkpoint.match(expected, file, prefix)
  if not ok then return nil, message end
  for _, e in ipairs(list) do
    local pointer, bytes = file:data(e.name)
    if not pointer then return nil, bytes end
    if e.tensor then ok, message = F.try(C.ij_tensor_write(e.tensor.h, pointer, bytes)) end
    if not ok then return nil, message end
  end
  return true
end

-- Fills a model from the tensors "PART.NAME".
local function fill_part(file, part, model)
  local list = {}
  for i, p in ipairs(model:params()) do
    list[i] = { name = part .. "." .. p.name, tensor = p.tensor }
  end
  return fill(file, list, part .. ".")
end

--- Fills a run from a checkpoint: every tensor by name and shape, nothing more, nothing less.
--- Returns its numbers; a published checkpoint counts epochs, not steps.
---@param path string
---@param whole table
---@return { step: integer?, epoch: integer?, seconds: number, lr_scale: number?, wd_scale: number?,
---ipe: integer?, world: integer?, batch: integer?, accumulate: integer?, count: integer?, run: string?,
---save: integer? }? meta, string? message
function state.load(path, whole)
  local file, message = checkpoint.load(path)
  if not file then return nil, message end
  if published.is(file) then
    file:close()
    local meta
    meta, message = published.load(path, whole)
    if meta then meta.seconds = 0 end
    return meta, message
  end
  local ok
  ok, message = fill(file, everything(whole))
  local meta, wrong = {}, nil
  for k, kind in pairs(NUMBERS) do
    local v = file:meta(k)
    if type(v) == "number" and v >= 0 and v < 2 ^ 53 and (v % 1 == 0 or kind.real) then meta[k] = v
    elseif v ~= nil or kind.needed then wrong = k end
  end
  local run = file:meta "run"
  meta.run = type(run) == "string" and run or nil
  file:close()
  if not ok then
    return nil, message .. "; give another out=FOLDER, or resume=false to start anew"
  end
  if wrong then
    return nil, ("checkpoint '%s' is not of a run: it says no '%s', or not as a number"):format(
      path, wrong)
  end
  whole.opt:steps(meta.updates or meta.step)
  return meta
end

-- Whether settings describe the models of a checkpoint, by their sizes: else a line of a stranger's
-- config.lua makes us fill a model that no memory holds before a tensor is found to be missing.
local function fits(path, cfg)
  local w, message = weights.open(path)
  if not w then return nil, message end
  local m, crop, fine = cfg.model, cfg.data.crop, true
  local named = m.arch and jepa.size(m.arch) or {}
  local h, wide = crop, crop
  if type(crop) == "table" then h, wide = crop[1], crop[2] end
  local width, patches = m.width or named.width,
    math.floor(h / m.patch) * math.floor(wide / m.patch)
  local function same(label, size_of_settings)
    local part = w:part(label)
    local size = part and part:size()
    for key, value in pairs(size_of_settings) do fine = fine and size and (value == size[key]) end
    return size
  end
  local size = same("encoder", { width = width, depth = m.depth or named.depth, patch = m.patch,
    patches = patches })
  same("predictor", { width = m.pred_dim, depth = m.pred_depth, patches = patches })
  local ratio = m.mlp_ratio or named.mlp_ratio
  fine = fine and width and math.floor(width * (ratio or 4)) == math.floor(width * size.mlp_ratio)
  w:close()
  if fine then return true end
  return nil, ("checkpoint '%s' is of another architecture than the run's config.lua says"):format(
    path)
end

-- What a run's models print: one line each.
local Opened = {}
function Opened:__tostring()
  local predictor = tostring(self.predictor):gsub("^predictor ", "")
  return ("model of '%s'\n  encoder    %s\n  predictor  %s\n  target     the EMA of the encoder\n" ..
    "  policy     %s\n  config     the settings of the run, a table"):format(self.out,
      tostring(self.encoder), predictor,
    tostring(self.policy))
end

--- A run's models, its settings and its mask policy, to look at.
---@param path string a run's folder, or one of its checkpoints
---@return { encoder: ijepa.encoder, predictor: ijepa.predictor, target: ijepa.encoder, config: table, policy: ijepa.mask_policy,
---out: string }? model, string? message
function state.model(path)
  if type(path) ~= "string" then
    F.raise(("model: expected a run's folder or a checkpoint, not a %s"):format(type(path)))
  end
  local folder, kind = path, C.ij_path_kind(path)
  if kind == 0 then return nil, ("run '%s' is not there"):format(path) end
  if kind ~= 2 then folder = path:match "^(.*)/[^/]*$" or "." end
  local cfg, message = require "ijepa.run".config(folder)
  if not cfg then return nil, message end
  if folder == path then
    path, message = checkpoint.of_folder(folder, cfg.tag)
    if not path then return nil, message end
  end
  local file
  file, message = checkpoint.load(path)
  if not file then return nil, message end
  local ok
  ok, message = fits(path, cfg)
  if not ok then return nil, message end
  local m
  ok, m = pcall(function()
    local encoder, predictor, target = jepa.models(cfg)
    return setmetatable({ encoder = encoder, predictor = predictor, target = target, config = cfg,
      out = folder,
      policy = jepa.policy(cfg, encoder.grid) }, Opened)
  end)
  if not ok then return nil, ("run '%s': %s"):format(folder, tostring(m)) end
  local parts = { encoder = m.encoder, predictor = m.predictor, target_encoder = m.target }
  for _, part in ipairs(PARTS) do
    ok, message = fill_part(file, part, parts[part]:requires_grad_(false))
    if not ok then return nil, message end
  end
  file:close()
  return m
end

return state

-- A run's whole state as a checkpoint, and back (ijepa.load gives an encoder alone). Names:
-- encoder.*, predictor.*, target_encoder.*, MODULE.* (of the objective), opt.m.*, opt.v.* (moments
-- of the parameter of that name); metadata: step, epoch, schedule lengths, settings as JSON.
local F = require "ijepa.base.ffi"
local code = require "ijepa.base.code"
local checkpoint = require "ijepa.save.checkpoint"
local jepa = require "ijepa.model"
local kept = require "ijepa.save.kept"
local published = require "ijepa.save.published"
local weights = require "ijepa.save.weights"
local objective = require "ijepa.model.objective"
local text = require "ijepa.base.text"
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

-- The models of a run, { name, model }: its list, or the three of the paper.
local function parts_of(whole)
  if whole.parts then return whole.parts end
  local list = {}
  for _, name in ipairs { "encoder", "predictor", "target_encoder" } do
    if whole[name] then list[#list + 1] = { name = name, model = whole[name] } end
  end
  return list
end

-- { name, tensor, shape } of everything, in a fixed order. Moments that another process has are
-- without a tensor; gather: process 0 gets them all, and all processes must come here.
local function everything(whole, gather)
  local list, name_of = {}, {}
  for _, part in ipairs(parts_of(whole)) do
    for _, p in ipairs(part.model:params()) do
      list[#list + 1] = { name = part.name .. "." .. p.name, tensor = p.tensor }
      name_of[p] = part.name .. "." .. p.name
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

--- The tensors of a run that change, to look whether they are finite.
---@param whole table
---@return ijepa.tensor[]
function state.trained(whole)
  local list = {}
  for _, part in ipairs(parts_of(whole)) do
    for _, p in ipairs(part.model:params()) do
      if p.tensor:dtype() == "f32" then list[#list + 1] = p.tensor end
    end
  end
  return list
end

-- Settings of a section as text and numbers: a function is named by its line.
local function named(section)
  local t = {}
  for key, v in pairs(section) do
    t[key] = type(v) == "function" and "function at " .. code.place_of(v) or v
  end
  return t
end

-- The names of the objective's modules as the metadata holds them.
local function modules_text(whole)
  local names = {}
  for i, m in ipairs(whole.modules or {}) do names[i] = m.name end
  return table.concat(names, ",")
end

-- A message where a checkpoint has other modules than the objective, or nil.
local function other_modules(file, whole)
  local has, wants = {}, {}
  for name in tostring(file:meta "modules" or ""):gmatch "[^,]+" do has[name] = true end
  for _, m in ipairs(whole.modules or {}) do wants[m.name] = true end
  local parts = {}
  for _, name in ipairs(text.keys(has)) do
    if not wants[name] then
      parts[#parts + 1] = ("module '%s' of the checkpoint is unknown to the objective"):format(
        text.shown(name))
    end
  end
  for _, name in ipairs(text.keys(wants)) do
    if not has[name] then
      parts[#parts + 1] = ("module '%s' of the objective is missing in the checkpoint"):format(name)
    end
  end
  return parts[1] and ("checkpoint '%s': %s"):format(file.path, table.concat(parts, "; "))
end

--- Saves a run: whole = { parts, modules, opt }: parts: { name, model } in the order of the file;
--- modules: those of the objective. later: a thread writes; returns its job. Of several processes all must come here, and process 0 writes.
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
  local d = cfg.data
  local m = { settings = json.encode { model = named(cfg.model), data = { crop = d.crop,
    orient = d.orient, damaged = d.damaged, range = d.range }, seed = cfg.seed },
    updates = whole.opt:steps(),
    ijepa = F.string(C.ij_version()) }
  if whole.modules and whole.modules[1] then m.modules = modules_text(whole) end
  for k, v in pairs(meta) do m[k] = v end
  return checkpoint.save(path, items, m, later)
end

-- Fills the tensors of a list from a file; prefix: of the file's names, that begin so (all of them
-- without it).
local function fill(file, list, prefix)
  local expected = {}
  for i, e in ipairs(list) do
    expected[i] = { name = e.name, shape = e.shape or e.tensor:shape(),
      dtype = e.tensor and e.tensor:dtype() or "f32" }
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
    if #parts_of(whole) ~= 3 then
      return nil, ("checkpoint '%s' is a published one: it resumes the objective ijepa only"):format(
        path)
    end
    local meta
    meta, message = published.load(path, whole)
    if meta then meta.seconds = 0 end
    return meta, message
  end
  local ok
  message = other_modules(file, whole)
  if not message then ok, message = fill(file, everything(whole)) end
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
-- config.lua makes us fill a model that no memory holds before a tensor is found to be missing. The
-- sizes of models of the user's own are known once they are made.
local function fits(path, cfg, has_predictor)
  local m, crop, fine = cfg.model, cfg.data.crop, true
  if m.encoder and m.encoder ~= "" then return true end
  local w, message = weights.open(path)
  if not w then return nil, message end
  local named_size = m.arch and jepa.size(m.arch) or {}
  local h, wide = crop, crop
  if type(crop) == "table" then h, wide = crop[1], crop[2] end
  local width, patches = m.width or named_size.width,
    math.floor(h / m.patch) * math.floor(wide / m.patch)
  local function same(label, size_of_settings)
    local part = w:part(label)
    local size = part and part:size()
    for key, value in pairs(size_of_settings) do fine = fine and size and (value == size[key]) end
    return size
  end
  local size = same("encoder", { width = width, depth = m.depth or named_size.depth,
    patch = m.patch, patches = patches })
  if has_predictor and (m.predictor == nil or m.predictor == "") then
    same("predictor", { width = m.pred_dim, depth = m.pred_depth, patches = patches })
  end
  local ratio = m.mlp_ratio or named_size.mlp_ratio
  fine = fine and width and math.floor(width * (ratio or 4)) == math.floor(width * size.mlp_ratio)
  w:close()
  if fine then return true end
  return nil, ("checkpoint '%s' is of another architecture than the run's config.lua says"):format(
    path)
end

-- What a run's models print: one line each.
local Opened = {}
function Opened:__tostring()
  local lines = { ("model of '%s'"):format(self.out) }
  local function add(name, what) lines[#lines + 1] = ("  %-10s %s"):format(name, what) end
  local function shown(m)
    local meta = getmetatable(m)
    return meta and meta.__tostring and tostring(m) or text.count(m:size(), "parameter")
  end
  add("encoder", shown(self.encoder))
  if self.predictor then add("predictor", (shown(self.predictor):gsub("^predictor ", ""))) end
  add("target", self.target == self.encoder and "none: the encoder itself" or "the EMA of the encoder")
  for _, name in ipairs(text.keys(self.modules)) do add(name, shown(self.modules[name])) end
  if self.policy then add("policy", tostring(self.policy)) end
  add("config", "the settings of the run, a table")
  return table.concat(lines, "\n")
end

-- The models of a folder's run, not filled; nil and why where the settings are not the checkpoint's.
local function opened(path, folder, cfg)
  kept.apply(cfg, folder)
  local m = setmetatable({ config = cfg, out = folder, path = path, objective = objective.of(cfg) },
    Opened)
  local fine, message = fits(path, cfg, m.objective.predictor)
  if not fine then return nil, message end
  local models = jepa.models_of(cfg, m.objective)
  m.encoder, m.predictor, m.target = models.encoder, models.predictor, models.target
  for _, encoder in pairs { m.encoder, m.target } do   -- how its images are decoded: plot, probes
    if type(encoder) == "table" then rawset(encoder, "settings", cfg) end
  end
  m.parts = objective.parts(m, objective.modules(m.objective, m))
  if m.objective.masks then m.policy = jepa.policy(cfg, m.encoder.grid) end
  return m
end

local function fill_models(file, m)
  for _, part in ipairs(m.parts) do
    local ok, message = fill_part(file, part.name, part.model:requires_grad_(false))
    if not ok then return nil, message end
  end
  objective.use(m.parts)
  return true
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
  local ok, m
  ok, m, message = pcall(opened, path, folder, cfg)
  if not ok then m, message = nil, ("run '%s': %s"):format(folder, tostring(m)) end
  if m then ok, message = fill_models(file, m) end
  file:close()
  if not m or not ok then return nil, message end
  return m
end

return state

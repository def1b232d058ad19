--- Weights in a file, whatever its layout: runs of this program, published checkpoints (.pth.tar),
--- Hugging Face, timm. weights.open finds the encoders and predictors in it; each part fills a
--- model or gives its tensors under our names.
local F = require "ijepa.base.ffi"
local checkpoint = require "ijepa.save.checkpoint"
local config = require "ijepa.config"
local jepa = require "ijepa.model"
local sharded = require "ijepa.save.sharded"
local paths = require "ijepa.base.paths"
local text = require "ijepa.base.text"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local json = require "cjson.safe"
local C = F.C

local weights = {}

local BLOCK = { "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias",
  "attn.proj.weight", "attn.proj.bias",
  "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias" }
local FIRST = { encoder = { "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias" },
  predictor = { "mask_token", "predictor_pos_embed", "predictor_embed.weight",
    "predictor_embed.bias" } }
local LAST = { encoder = { "norm.weight", "norm.bias" },
  predictor = { "predictor_norm.weight", "predictor_norm.bias", "predictor_proj.weight",
    "predictor_proj.bias" } }
local BLOCKS = { encoder = "blocks", predictor = "predictor_blocks" }

--- The names of a model's tensors, in the order of the published checkpoints.
---@param kind "encoder"|"predictor"
---@param depth integer
---@return string[]
function weights.names(kind, depth)
  local list = {}
  for _, name in ipairs(FIRST[kind]) do list[#list + 1] = name end
  for i = 0, depth - 1 do
    for _, name in ipairs(BLOCK) do list[#list + 1] = ("%s.%d.%s"):format(BLOCKS[kind], i, name) end
  end
  for _, name in ipairs(LAST[kind]) do list[#list + 1] = name end
  return list
end

local HF = { ["norm1"] = { "layernorm_before" }, ["norm2"] = { "layernorm_after" },
  ["attn.proj"] = { "attention.output.dense" },
  ["attn.qkv"] = { "attention.attention.query", "attention.attention.key",
    "attention.attention.value" },
  ["mlp.fc1"] = { "intermediate.dense" }, ["mlp.fc2"] = { "output.dense" } }

--- The Hugging Face names (transformers' IJepaModel) of one of an encoder's tensors: one, or three
--- whose rows follow each other in ours.
---@param name string
---@return string[]
function weights.hf(name)
  if name == "pos_embed" then return { "embeddings.position_embeddings" } end
  local block, what, ending = name:match "^blocks%.(%d+)%.(.+)%.(%a+)$"
  if not block then
    return { (name:gsub("^patch_embed%.proj", "embeddings.patch_embeddings.projection"):gsub(
      "^norm", "layernorm")) }
  end
  local list = {}
  for i, word in ipairs(HF[what]) do
    list[i] = ("encoder.layer.%s.%s.%s"):format(block, word, ending)
  end
  return list
end

---@class ijepa.weights_part
---@field label string "encoder", "target_encoder", "predictor"; else what stands before the names
---@field kind "encoder"|"predictor"
local Part = {}
Part.__index = Part

--- The file's names of one of our tensors.
---@param name string
---@return string[]
function Part:sources(name)
  local list = self.layout == "hf" and weights.hf(name) or { name }
  for i, n in ipairs(list) do list[i] = self.prefix .. n end
  return list
end

--- The shape of one of our tensors as the file's parts make it up, or nil.
---@param name string
---@return integer[]? shape
function Part:shape(name)
  local shape
  for _, source in ipairs(self:sources(name)) do
    local info = self.file:info(source)
    if not info then return nil end
    if shape then shape[1] = shape[1] + info.shape[1] else shape = info.shape end
  end
  return shape
end

-- A token for the class stands before the patches in ViTs of classification, DINO, MAE and CLIP.
local CLASS_TOKENS = { cls_token = true, class_token = true, class_embedding = true }

-- The message that a file's model has a class token below this prefix, or nil.
local function class_token(file, prefix)
  for _, name in ipairs(file:names()) do
    if CLASS_TOKENS[name:match "[^.]*$"] and name:sub(1, #prefix) == prefix then
      return ("'%s' has a class token ('%s'), which I-JEPA's encoders do not have: %s"):format(
        file.path, name,
        "take a model without one, such as timm's with class_token=False, global_pool='avg'")
    end
  end
end

--- What the tensors say of the model: width, depth, mlp_ratio, patch (encoders), patches.
---@return { width: integer, depth: integer, mlp_ratio: number, patch: integer?, patches: integer }?
--- size, string? message
function Part:size()
  local token = self.kind == "encoder" and class_token(self.file, self.prefix)
  if token then return nil, token end
  local pos = self:shape(self.kind == "encoder" and "pos_embed" or "predictor_pos_embed")
  local depth = 0
  while self:shape(("%s.%d.norm1.weight"):format(BLOCKS[self.kind], depth)) do depth = depth + 1 end
  local fc1 = self:shape(BLOCKS[self.kind] .. ".0.mlp.fc1.weight")
  local patch = self.kind == "encoder" and self:shape "patch_embed.proj.weight"
  if not pos or #pos ~= 3 or pos[3] < 1 or not fc1 or #fc1 ~= 2 or patch == nil
      or patch and #patch ~= 4 then
    return nil, ("'%s': '%s' is no %s: its tensors have other names or shapes"):format(
      self.file.path, self.label, self.kind)
  end
  return { width = pos[3], depth = depth, mlp_ratio = (fc1[1] + .5) / pos[3],
    patch = patch and patch[4], patches = pos[2] }
end

--- What does not fit a list of { name, shape }: lists of lines, and how many there are.
---@param expected { name: string, shape: integer[] }[]
---@return table differences, integer count
function Part:differences(expected)
  local d, wanted = { missing = {}, unexpected = {}, misshapen = {} }, {}
  for _, want in ipairs(expected) do
    local complete = true
    for _, source in ipairs(self:sources(want.name)) do
      wanted[source] = true
      if not self.file:info(source) then
        complete = false
        d.missing[#d.missing + 1] = source
      end
    end
    local its, mine = complete and table.concat(self:shape(want.name), ", "),
      table.concat(want.shape, ", ")
    if complete and its ~= mine then
      d.misshapen[#d.misshapen + 1] = ("%s (%s), expected (%s)"):format(self:sources(want.name)[1],
        its, mine)
      wanted[want.name] = false
    end
  end
  for _, name in ipairs(self.file:names()) do
    if wanted[name] == nil and name:sub(1, #self.prefix) == self.prefix then
      d.unexpected[#d.unexpected + 1] = name
    end
  end
  return d, #d.missing + #d.unexpected + #d.misshapen
end

local function told(d)
  local parts = {}
  for _, what in ipairs { "misshapen", "missing", "unexpected" } do
    if #d[what] > 0 then
      parts[#parts + 1] = ("%d %s: %s"):format(#d[what], what, table.concat(d[what], ", "))
    end
  end
  return table.concat(parts, "; ")
end

-- "NaN in 3 of 96 values" of a tensor, or nil where all values are finite.
local function not_finite(t)
  local fine = device.step(function() return select(2, tensor.norm { t }) end)
  if fine then return nil end
  local values, n = t:read()
  local nans, infinite = 0, 0
  for i = 0, n - 1 do
    local v = values[i]
    if v ~= v then nans = nans + 1 elseif math.abs(v) == math.huge then infinite = infinite + 1 end
  end
  if nans + infinite == 0 then return nil end   -- the sum of squares alone is too large
  return ("%s in %d of %s"):format(
    nans == 0 and "inf" or infinite == 0 and "NaN" or "NaN and inf", nans + infinite,
    text.count(n, "value"))
end

--- Fills a model: every tensor by name and shape, converted to f32. Strict: nothing may be missing,
--- unexpected or of another shape, unless partial, which fills what fits. Values that are not
--- finite are an error.
---@param model ijepa.model
---@param partial boolean?
---@return { missing: string[], unexpected: string[], misshapen: string[] }? left, string? message
function Part:fill(model, partial)
  local expected = {}
  for i, p in ipairs(model:params()) do
    expected[i] = { name = p.name, shape = p.tensor:shape() }
  end
  local left, count = self:differences(expected)
  if count > 0 and not partial then
    return nil, ("checkpoint '%s' is of another architecture: '%s': %s"):format(self.file.path,
      self.label, told(left))
  end
  for i, p in ipairs(model:params()) do
    local shape = self:shape(p.name)
    if shape and table.concat(shape, ", ") == table.concat(expected[i].shape, ", ") then
      local row = 1
      for _, source in ipairs(self:sources(p.name)) do
        local rows = self.file:info(source).shape[1]
        local ok, message = self.file:load(source,
          rows == shape[1] and p.tensor or p.tensor:narrow(1, row, rows))
        if not ok then return nil, message end
        row = row + rows
      end
      local problem = not partial and not_finite(p.tensor)
      if problem then
        return nil, ("checkpoint '%s': tensor '%s' holds %s: take an earlier checkpoint"):format(
          self.file.path,
          table.concat(self:sources(p.name), "', '"), problem)
      end
    end
  end
  return left
end

--- One of our tensors as an item for tensors.save (f32): straight from the file where it can be.
---@param name string
---@return table? item, string? message
function Part:item(name)
  local shape, sources = self:shape(name), self:sources(name)
  if not shape then
    return nil, ("checkpoint '%s' has no '%s'"):format(self.file.path,
      table.concat(sources, "', '"))
  end
  return weights.item(self.file, name, sources, shape)
end

--- Tensors of a file whose rows follow each other, as one item of this name.
---@param file ijepa.checkpoint
---@param name string of the item
---@param sources string[] of the file
---@param shape integer[] of the item
---@return table? item, string? message
function weights.item(file, name, sources, shape)
  local n = 1
  for _, size in ipairs(shape) do n = n * size end
  if #sources == 1 and file:info(sources[1]).dtype == "f32" then
    local data, message = file:data(sources[1])
    if data == nil then return nil, message end
    return { name = name, dtype = "f32", shape = shape, data = data, bytes = 4 * n }
  end
  local data = F.new("float[?]", math.max(n, 1))
  for i, source in ipairs(sources) do
    local ok, message = file:read(source, data + (i - 1) * n / #sources, n / #sources)
    if not ok then return nil, message end
  end
  return { name = name, dtype = "f32", shape = shape, data = data, bytes = 4 * n }
end

local function find_parts(file)
  local parts = {}
  for _, name in ipairs(file:names()) do
    local layout, kind = "plain", "encoder"
    local prefix = name:match "^(.*)predictor_pos_embed$"
    if prefix then kind = "predictor"
    else prefix = name:match "^(.*)pos_embed$" end
    if not prefix then
      prefix, layout = name:match "^(.*)embeddings%.position_embeddings$", "hf"
    end
    if prefix and (prefix == "" or prefix:sub(-1) == ".") and not prefix:find "^opt%." then
      local label = prefix:match "^([^.]+)%.module%.$" or prefix:sub(1, -2)
      parts[#parts + 1] = setmetatable({ file = file, prefix = prefix, layout = layout, kind = kind,
        label = label }, Part)
    end
  end
  return parts
end

---@class ijepa.weights
---@field path string
---@field file ijepa.checkpoint
---@field parts ijepa.weights_part[]
---@field settings table? of the run that wrote it, or what a config.json beside it says
local Weights = {}
Weights.__index = Weights
function Weights:__tostring()
  local labels = {}
  for i, part in ipairs(self.parts) do labels[i] = part.label == "" and "one model" or part.label end
  return ("weights '%s': %s"):format(text.shown(self.path), table.concat(labels, ", "))
end

-- What a Hugging Face model's folder has, the first that is there.
local HF_FILES = { "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
  "pytorch_model.bin.index.json" }

-- A folder's file: of a Hugging Face model, or a run's newest checkpoint.
local function in_folder(path)
  for _, name in ipairs(HF_FILES) do
    if C.ij_path_kind(path .. "/" .. name) == 1 then return path .. "/" .. name end
  end
  return checkpoint.of_folder(path)
end

-- What stands beside or in the file about the model: settings (false and a message where they can't
-- be), heads.
local function settings_of(file, path)
  local settings = json.decode(file:meta "settings" or "")
  if type(settings) == "table" and type(settings.model) == "table"
      and type(settings.data) == "table" then
    local message
    local d = settings.data
    settings, message = config.restored({ model = settings.model,
      data = { crop = d.crop, orient = d.orient, damaged = d.damaged, range = d.range } },
      ("checkpoint '%s'"):format(path))
    if not settings then return false, message end
    local arch = settings.model.arch and jepa.size(settings.model.arch)
    return settings, settings.model.heads or arch and arch.heads
  end
  local beside = io.open((path:match "^(.*/)" or "") .. "config.json")
  if not beside then return nil end
  local its = json.decode(beside:read "*a" or "")
  beside:close()
  return nil, type(its) == "table" and tonumber(its.num_attention_heads) or nil
end

--- Opens a checkpoint of any layout.
---@param path string a file, a run's folder, or the folder of a Hugging Face model
---@return ijepa.weights? weights, string? message
function weights.open(path)
  local message
  local kind = C.ij_path_kind(path)
  if kind == 0 then
    return nil, ("checkpoint '%s' does not exist%s"):format(path, paths.hint(path))
  end
  if kind == 2 then
    path, message = in_folder(path)
    if not path then return nil, message end
  end
  local file
  if sharded.is(path) then file, message = sharded.open(path)
  else file, message = checkpoint.load(path) end
  if not file then return nil, message end
  local self = setmetatable({ path = path, file = file, parts = find_parts(file) }, Weights)
  self.settings, self.heads = settings_of(file, path)
  if self.settings == false then
    file:close()
    return nil, self.heads
  end
  if #self.parts == 0 then
    local token = class_token(file, "")
    file:close()
    return nil, token or (
      "'%s' holds no encoder that is known: no tensor is called pos_embed or embeddings.position_embeddings"):format(path)
  end
  return self
end

--- Closes the file.
function Weights:close() self.file:close() end

--- The part called so. Without a name the target encoder, or else the only encoder.
---@param label string?
---@return ijepa.weights_part? part, string? message
function Weights:part(label)
  local names, encoders = {}, {}
  for _, part in ipairs(self.parts) do
    if part.label == (label or "target_encoder") then return part end
    names[#names + 1] = part.label == "" and "(one without a name)" or part.label
    if part.kind == "encoder" then encoders[#encoders + 1] = part end
  end
  if not label and #encoders == 1 then return encoders[1] end
  return nil, ("'%s' holds %s%s: give which=NAME"):format(self.path, table.concat(names, ", "),
    label and (", no '" .. label .. "'") or "")
end

--- What jepa.encoder needs for a part: the tensors' sizes; heads and grid as given, said by the
--- file, or as published.
---@param part ijepa.weights_part
---@param o { heads: integer?, grid: integer[]? }?
---@return table? options, string? message
function Weights:options(part, o)
  local size, message = part:size()
  if not size then return nil, message end
  local heads, grid = o and o.heads or self.heads, o and o.grid
  for _, name in ipairs(jepa.names) do
    local published = jepa.size(name)
    heads = heads or published.width == size.width and published.heads
  end
  if not heads then
    return nil, ("'%s' does not say how many heads a width of %d has: give heads=N, which divides %d"):format(self.path, size.width, size.width)
  end
  local crop = self.settings and self.settings.data.crop
  if not grid and crop then
    grid = type(crop) == "table" and { crop[1] / size.patch, crop[2] / size.patch } or {
      crop / size.patch, crop / size.patch }
  end
  if not grid then
    local side = math.floor(math.sqrt(size.patches) + .5)
    if side * side ~= size.patches then
      return nil,
        ("'%s' has %d positions, which is no square: give grid=ROWS,COLUMNS (in Lua: grid = { rows, columns })"):format(self.path, size.patches)
    end
    grid = { side, side }
  end
  if grid[1] * grid[2] ~= size.patches then
    return nil, ("'%s' has %d positions, not the %g x %g of %s"):format(self.path, size.patches,
      grid[1], grid[2],
      o and o.grid and "grid" or "its settings")
  end
  if heads < 1 or size.width % heads ~= 0 then
    return nil, ("'%s' has a width of %d, which %g heads do not divide: give another heads=N"):format(self.path, size.width,
      heads)
  end
  return { width = size.width, depth = size.depth, heads = heads, mlp_ratio = size.mlp_ratio,
    patch = size.patch, grid = grid,
    crop = { grid[1] * size.patch, grid[2] * size.patch } }
end

--- Fills a run's models with what the file holds: encoder, target encoder (each the other where it
--- is alone), predictor.
---@param whole { encoder: ijepa.encoder, target_encoder: ijepa.encoder, predictor: ijepa.predictor }
---@return string? what was taken, string? message
function Weights:fill(whole)
  local target, message = self:part()
  if not target then return nil, message end
  local taken = { encoder = self:part "encoder" or target, target_encoder = target,
    predictor = self:part "predictor" }
  for _, name in ipairs { "encoder", "target_encoder", "predictor" } do
    if taken[name] and whole[name] then
      local ok
      ok, message = taken[name]:fill(whole[name])
      if not ok then return nil, message end
    end
  end
  return taken.predictor and "encoder, target encoder, predictor"
    or "encoder and target encoder; the predictor is new"
end

return weights

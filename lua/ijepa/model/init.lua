-- The models: encoders of every published size, the predictor, their parameters by name; the models
-- and the mask policy of a configuration. adopt.lua takes in models that the user has written,
-- objective.lua the loss and its modules.
-- Uses: base, tensor, mask.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"
local tensor = require "ijepa.tensor"
local mask = require "ijepa.mask"
local code = require "ijepa.base.code"
local adopt = require "ijepa.model.adopt"
local objective_of = require "ijepa.model.objective"
local C = F.C

local jepa = {}

--- The names of the published sizes.
jepa.names = { "vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant" }

--- A published size, or nil for an unknown name.
---@param name string
---@return { width: integer, depth: integer, heads: integer, mlp_ratio: number }?
function jepa.size(name)
  local c = F.new "ij_vit_config"
  if C.ij_vit_size(tostring(name), c) ~= 0 then return nil end
  return { width = c.width, depth = c.depth, heads = c.heads, mlp_ratio = c.mlp_ratio }
end

-- A model object: h (handle), params (list of { name, tensor, trained, decayed }).
local function collect(self, list)
  self.list, self.by_name = {}, {}
  for i = 0, C.ij_params_count(list) - 1 do
    local t = C.ij_params_tensor(list, i)
    C.ij_tensor_ref(t)
    local p = { name = F.string(C.ij_params_name(list, i)), tensor = tensor.wrap(t), model = self,
      trained = C.ij_params_trained(list, i) ~= 0, decayed = C.ij_params_decayed(list, i) ~= 0 }
    self.list[i + 1], self.by_name[p.name] = p, p
  end
  return self
end

---@class ijepa.model
local Model = {}
Model.__index = Model
--- The parameters: a list of { name, tensor, trained, decayed }.
---@return table[]
function Model:params() return self.list end
--- Whether gradients are computed for the parameters.
---@param on boolean?
---@return ijepa.model
function Model:requires_grad_(on)
  for _, p in ipairs(self.list) do
    if p.trained then p.tensor:requires_grad_(on) end
  end
  return self
end
--- The number of parameters, position embeddings included.
---@return integer
function Model:size()
  local n = 0
  for _, p in ipairs(self.list) do n = n + p.tensor:numel() end
  return n
end

-- 1234567 -> "1,234,567"
local function grouped(n)
  local s = tostring(n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return s
end

---@class ijepa.encoder: ijepa.model
-- ends_with_norm: its output is norm.weight, norm.bias of the last block's
local Encoder = setmetatable({ ends_with_norm = true }, { __index = Model })
Encoder.__index = Encoder
---@class ijepa.predictor: ijepa.model
local Predictor = setmetatable({}, { __index = Model })
Predictor.__index = Predictor

-- "ViT 4 x 64, 2 heads, patch 8, grid 8 x 8, 216,512 parameters"
function Encoder:__tostring()
  return ("ViT %d x %d, %s, patch %d, grid %d x %d, %s parameters"):format(self.depth, self.width,
    text.count(self.heads, "head"), self.patch,
    self.grid[1], self.grid[2], grouped(self:size()))
end
function Predictor:__tostring()
  local o = self.options
  return ("predictor %s x %s, %s, %s parameters"):format(o.depth or "default", o.width or "default",
    text.count(o.heads or self.encoder.heads or 1, "head"), grouped(self:size()))
end

local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

local function vit_config(o, what)
  local c = F.new "ij_vit_config"
  c.mlp_ratio = 4
  if o.arch then
    local ok, message = F.try(C.ij_vit_size(tostring(o.arch), c))
    if not ok then F.raise(what .. ": " .. message) end
  end
  c.width, c.depth, c.heads = o.width or c.width, o.depth or c.depth, o.heads or c.heads
  c.mlp_ratio = o.mlp_ratio or c.mlp_ratio
  c.patch, c.channels = o.patch or 16, 3
  local h, w = pair(o.crop or 224)
  c.grid_h, c.grid_w = math.floor(h / c.patch), math.floor(w / c.patch)
  if o.grid then c.grid_h, c.grid_w = pair(o.grid) end
  if h % c.patch ~= 0 or w % c.patch ~= 0 then
    F.raise(("%s: an image of %d x %d does not divide into patches of %d"):format(
      what, h, w, c.patch))
  end
  if o.dtype and o.dtype ~= "f32" and o.dtype ~= "bf16" then
    F.raise(what .. ": dtype is f32 or bf16")
  end
  c.dtype = o.dtype == "bf16" and 1 or 0
  c.recompute, c.seed = o.recompute and 1 or 0, o.seed or 0
  c.init_gain, c.patch_gain = o.init_gain or 0, o.patch_gain or 0
  c.depth_scaled_init, c.blank = o.depth_scaled_init and 1 or 0, o.blank and 1 or 0
  c.qk_norm, c.swiglu = o.qk_norm and 1 or 0, o.swiglu and 1 or 0
  c.layer_scale, c.rope = o.layer_scale or 0, o.rope or 0
  return c
end

--- A new encoder. o: arch or width, depth, heads, mlp_ratio; patch, crop (side or {h, w}), dtype,
--- recompute, seed, init_gain, patch_gain, blank (without initial values, for a checkpoint to
--- fill); qk_norm, swiglu, layer_scale (its first value), rope (its base). Called as e(images) or
--- e(images, context).
---@param o table
---@return ijepa.encoder
function jepa.encoder(o)
  local out, c = F.new "ij_encoder *[1]", vit_config(o, "encoder")
  F.check(C.ij_encoder_new(device.get(), c, out))
  local self = setmetatable({ h = F.gc(out[0], C.ij_encoder_free), width = c.width, depth = c.depth,
    heads = c.heads,
    patch = c.patch, grid = { c.grid_h, c.grid_w }, options = o }, Encoder)
  return collect(self, C.ij_encoder_params(self.h))
end

--- images f32 (B, 3, H, W) normalised or u8 (B, H, W, 3); context i32 (C, B, K) or nil -> (C * B,
--- K, D) or (B, N, D)
function Encoder:__call(images, context)
  return tensor.call(C.ij_encoder_forward, self.h, tensor.want(images, "images", "encoder"),
    context and tensor.want(context, "context", "encoder"))
end
--- The outputs of the last n blocks, before the final norm: a list of (B, N, D).
---@param images ijepa.tensor
---@param n integer
---@return ijepa.tensor[]
function Encoder:blocks(images, n)
  local out = F.new("ij_tensor *[?]", math.max(n, 1))
  F.check(C.ij_encoder_blocks(self.h, tensor.want(images, "images", "encoder"), n, out))
  local list = {}
  for i = 1, n do list[i] = tensor.wrap(out[i - 1]) end
  return list
end
--- Attention probabilities of a block (1 the first, -1 the last): (B, A, N, N), one row per query,
--- which sums to 1.
---@param images ijepa.tensor
---@param block integer?
---@return ijepa.tensor
function Encoder:attention(images, block)
  block = block or -1
  return tensor.call(C.ij_encoder_attention, self.h, tensor.want(images, "images", "encoder"),
    block < 0 and self.depth + block or block - 1)
end
--- Copies all values of another encoder of the same configuration.
---@param src ijepa.encoder
---@return ijepa.encoder
function Encoder:copy_(src)
  F.check(C.ij_encoder_copy(self.h, src.h))
  return self
end
--- Stochastic depth in forward passes that are recorded for gradients: each branch of block i is
--- dropped, for each image separately, with probability rate * i / (depth - 1). A function of
--- (seed, step, block, branch, image); rate 0: off.
---@param rate number
---@param seed integer?
---@param step integer?
function Encoder:drop_path(rate, seed, step)
  F.check(C.ij_encoder_drop_path(self.h, rate, seed or 0, step or 0))
end
--- A target encoder: a new encoder with the same values, which is not trained.
---@return ijepa.encoder
function Encoder:target() return jepa.encoder(self.options):copy_(self):requires_grad_(false) end

--- A new predictor for an encoder. o: depth, width (E), heads (default: the encoder's), mlp_ratio
--- (default 4).
---@param encoder ijepa.encoder
---@param o table
---@return ijepa.predictor
function jepa.predictor(encoder, o)
  local c, out = F.new "ij_predictor_config", F.new "ij_predictor *[1]"
  local e = encoder.options or o   -- an encoder of the user's own has none
  local heads = o.heads or encoder.heads
  if not heads then
    F.raise "predictor: the encoder has no field heads: set model.pred_heads (in Lua: heads)"
  end
  c.vit = vit_config({ width = o.width, depth = o.depth, heads = heads,
    mlp_ratio = o.mlp_ratio or 4, patch = encoder.patch, grid = encoder.grid, crop = encoder.patch,
    dtype = e.dtype, recompute = e.recompute,
    seed = (e.seed or 0) + 1, init_gain = e.init_gain, depth_scaled_init = e.depth_scaled_init,
    blank = e.blank }, "predictor")
  c.encoder_width = encoder.width
  F.check(C.ij_predictor_new(device.get(), c, out))
  local self = setmetatable({ h = F.gc(out[0], C.ij_predictor_free), encoder = encoder,
    options = o }, Predictor)
  return collect(self, C.ij_predictor_params(self.h))
end

--- x (C * B, K, D), context i32 (C, B, K), target i32 (M, B, T) -> (M * C * B, T, D), order
--- [target][context][image]
function Predictor:__call(x, context, target, grid)
  return tensor.call(C.ij_predictor_forward, self.h, tensor.want(x, "x", "predictor"),
    tensor.want(context, "context", "predictor"), tensor.want(target, "target", "predictor"),
    grid and grid[1] or 0, grid and grid[2] or 0)
end

-- Rows and columns of patches that the images of a configuration have.
local function grid_of(cfg)
  local h, w = pair(cfg.data.crop)
  return { math.floor(h / cfg.model.patch), math.floor(w / cfg.model.patch) }
end

-- The type of the values in matrix products on this device.
local function dtype_of(cfg)
  return cfg.model.dtype == "bf16" and C.ij_device_bf16(device.get()) ~= 0 and "bf16" or "f32"
end

--- The sizes that a configuration asks of an encoder, for encoders of one's own.
---@param cfg table
---@return { width: integer, depth: integer, heads: integer, mlp_ratio: number, patch: integer,
---grid: integer[], dtype: string, recompute: boolean }
function jepa.sizes(cfg)
  local m = cfg.model
  local named = m.arch and jepa.size(m.arch) or {}
  return { width = m.width or named.width, depth = m.depth or named.depth,
    heads = m.heads or named.heads, mlp_ratio = m.mlp_ratio or named.mlp_ratio or 4,
    patch = m.patch, grid = grid_of(cfg), dtype = dtype_of(cfg), recompute = m.recompute }
end

local function encoder_of(cfg, blank)
  local m = cfg.model
  local dtype = dtype_of(cfg)
  if m.encoder == nil or m.encoder == "" then
    return jepa.encoder { arch = m.arch, width = m.width, depth = m.depth, heads = m.heads,
      mlp_ratio = m.mlp_ratio,
      patch = m.patch, crop = cfg.data.crop, dtype = dtype, recompute = m.recompute,
      seed = cfg.seed, init_gain = m.init_gain,
      patch_gain = m.patch_gain, depth_scaled_init = m.depth_scaled_init, blank = blank }
  end
  local piece = code.load("encoder", m.encoder, "models",
    (cfg.kept or {}).encoder)
  local what = "encoder " .. (piece.name or piece.title)
  if type(piece.value) ~= "function" then
    error(("%s: it is a %s, expected a function(cfg) that returns an encoder"):format(what,
      type(piece.value)), 0)
  end
  local function make()
    return adopt.encoder(code.call(what, piece.value, cfg), what, grid_of(cfg))
  end
  return make(), piece, make
end

-- A copy of an encoder that an EMA moves: by its method target, or another one of the same
-- function.
local function target_of(encoder, make)
  if type(encoder.target) == "function" then
    return adopt.encoder(encoder:target(), "encoder: the copy of target()", encoder.grid)
  end
  return adopt.copy(encoder, make(), "model.encoder"):requires_grad_(false)
end

local function predictor_of(cfg, encoder, blank)
  local m = cfg.model
  if m.predictor == nil or m.predictor == "" then
    local o = { depth = m.pred_depth, width = m.pred_dim, heads = m.pred_heads }
    if encoder.options == nil then
      o.dtype, o.recompute, o.seed, o.init_gain = dtype_of(cfg), m.recompute, cfg.seed, m.init_gain
      o.depth_scaled_init, o.blank = m.depth_scaled_init, blank
    end
    return jepa.predictor(encoder, o)
  end
  local piece = code.load("predictor", m.predictor, "models",
    (cfg.kept or {}).predictor)
  local what = "predictor " .. (piece.name or piece.title)
  if type(piece.value) ~= "function" then
    error(("%s: it is a %s, expected a function(cfg, encoder) that returns a predictor"):format(
      what, type(piece.value)), 0)
  end
  return adopt.predictor(code.call(what, piece.value, cfg, encoder), what), piece
end

---@class ijepa.models
---@field encoder ijepa.encoder the context encoder
---@field predictor ijepa.predictor? nil: the objective has no use for one
---@field target ijepa.encoder the target encoder; without one, the encoder itself
---@field pieces ijepa.code[] the user's code that made them

--- The models that a configuration and its objective ask for.
---@param cfg table
---@param objective ijepa.objective
---@param blank boolean? without initial values
---@return ijepa.models
function jepa.models_of(cfg, objective, blank)
  objective_of.seed(cfg)
  local encoder, encoder_code, make = encoder_of(cfg, blank)
  local predictor, predictor_code
  if objective.predictor then predictor, predictor_code = predictor_of(cfg, encoder, blank) end
  local models = { encoder = encoder, predictor = predictor, pieces = {},
    target = objective.target == "none" and encoder or target_of(encoder, make) }
  table.insert(models.pieces, encoder_code)
  table.insert(models.pieces, predictor_code)
  return models
end

--- The models of a configuration: context encoder, predictor, target encoder. blank: without
--- initial values.
---@param cfg table
---@param blank boolean?
---@return ijepa.encoder context, ijepa.predictor predictor, ijepa.encoder target
function jepa.models(cfg, blank)
  local m = jepa.models_of(cfg, { predictor = true, target = "ema" }, blank)
  return m.encoder, m.predictor, m.target
end

--- The mask policy of a configuration, for a grid {h, w} and `world` processes (1).
---@param cfg table
---@param grid integer[]
---@param world integer?
---@return ijepa.mask_policy
function jepa.policy(cfg, grid, world)
  local settings = mask.settings_of(cfg, grid)
  settings.batch = settings.batch and settings.batch * (world or 1)
  local copy = cfg.kept and cfg.kept.policy
  if copy then settings.policy, settings.origin = copy.path, copy.origin end
  return mask.new(settings)
end

return jepa

--- A vision transformer of modules, with the interface that training, probes and plots use: to be
-- used as it is, or as the parent of a class that changes a part of it.
local F = require "ijepa.base.ffi"
local module = require "ijepa.nn.module"
local embed = require "ijepa.nn.embed"
local Blocks = require "ijepa.nn.blocks".Blocks

local OPTIONS = module.known("patch", "width", "depth", "heads", "mlp_ratio", "crop", "grid",
  "positions", "stem", "overlap", "class_token", "registers", "dtype", "recompute", "drop_path",
  "init_gain", "patch_gain", "depth_scaled_init", "qk_norm", "swiglu", "layer_scale", "rope")

local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

--- nn.Encoder { patch, width, depth, heads, crop or grid, mlp_ratio = 4, positions = "sincos", stem
--- = "linear", overlap = 0, class_token = false, registers = 0, dtype, recompute, drop_path,
--- init_gain, patch_gain, depth_scaled_init }. crop: of the images, in pixels; grid: { rows,
--- columns } of patches. positions: sincos, learned or none. stem: linear (nn.PatchEmbed) or conv
--- (nn.ConvStem). class_token, registers: trained tokens in front, which are not part of the
--- output. Without options beyond the sizes it has the names, the values and the results of the
--- built-in encoder. e(images, context) -> (C * B, K, width), or (B, N, width) without a context.
local Encoder = module.class("nn.Encoder", function(self, o)
  if type(o) ~= "table" then
    F.raise("nn.Encoder: the options are missing: nn.Encoder { patch = 16, width = 384, "
      .. "depth = 12, heads = 6, crop = 224 }")
  end
  module.options_of(o, "nn.Encoder", OPTIONS)
  self.patch, self.width, self.depth, self.heads = o.patch, o.width, o.depth, o.heads
  local h, w = pair(o.grid or o.crop)
  if not h or not o.patch then F.raise "nn.Encoder: set patch, and crop or grid" end
  self.grid = o.grid and { h, w } or { math.floor(h / o.patch), math.floor(w / o.patch) }
  local positions = o.positions or "sincos"
  if positions == "sincos" then
    self.pos_embed = embed.SinCos { grid = self.grid, width = o.width }
  elseif positions == "learned" then
    self.pos_embed = embed.Learned { grid = self.grid, width = o.width }
  elseif positions ~= "none" then
    F.raise(("nn.Encoder: positions '%s': sincos, learned or none"):format(tostring(positions)))
  end
  local std = (o.patch_gain or 0) > 0 and o.patch_gain / math.sqrt(3 * o.patch * o.patch) or nil
  local stem = o.stem or "linear"
  if stem == "linear" then
    self.patch_embed = embed.PatchEmbed { patch = o.patch, width = o.width, dtype = o.dtype,
      overlap = o.overlap, std = std }
  elseif stem == "conv" then
    self.patch_embed = embed.ConvStem { patch = o.patch, width = o.width }
  else
    F.raise(("nn.Encoder: stem '%s': linear or conv"):format(tostring(stem)))
  end
  if o.class_token then self.cls_token = embed.Tokens { count = 1, width = o.width } end
  if (o.registers or 0) > 0 then
    self.register_tokens = embed.Tokens { count = o.registers, width = o.width }
  end
  self.extra_tokens = (o.class_token and 1 or 0) + (o.registers or 0)
  self.blocks = Blocks { width = o.width, depth = o.depth, heads = o.heads, mlp_ratio = o.mlp_ratio,
    dtype = o.dtype, recompute = o.recompute, drop_path = o.drop_path, init_gain = o.init_gain,
    depth_scaled_init = o.depth_scaled_init, qk_norm = o.qk_norm, swiglu = o.swiglu,
    layer_scale = o.layer_scale, rope = o.rope, grid = self.grid }
  self.ends_with_norm = true   -- its output is norm.weight, norm.bias of the last block's
end)

--- What the blocks get: patches with positions, behind the class token and the registers.
---@param images ijepa.tensor
---@param context ijepa.tensor?
---@return ijepa.tensor (C * B, extra + K, D)
function Encoder:tokens(images, context)
  local x = self.patch_embed(images, context, self.pos_embed)
  if self.register_tokens then x = self.register_tokens(x) end
  return self.cls_token and self.cls_token(x) or x
end

-- Rows and columns of the patches of images, which may have another size than the configured one.
local function grid_of(self, images)
  local first = images:dtype() == "u8" and 2 or 3
  return { images:size(first) / self.patch, images:size(first + 1) / self.patch }
end

function Encoder:forward(images, context)
  return self.blocks(self:tokens(images, context), self.extra_tokens, context,
    grid_of(self, images))
end

--- The outputs of the last n blocks, before the norm, of patches alone: a list of (B, N, D).
--- e:blocks(images, n) is the same.
---@param images ijepa.tensor
---@param n integer
---@return ijepa.tensor[]
function Encoder:outputs(images, n)
  local list, extra = self.blocks:outputs(self:tokens(images), n, grid_of(self, images)),
    self.extra_tokens
  for i, y in ipairs(list) do
    if extra > 0 then list[i] = y:narrow(2, extra + 1, y:size(2) - extra):contiguous() end
  end
  return list
end

--- Attention probabilities of a block (1 the first, -1 the last) between patches: (B, A, N, N).
--- With tokens in front, rows sum to less than 1.
---@param images ijepa.tensor
---@param block integer?
---@return ijepa.tensor
function Encoder:attention(images, block)
  local p, extra = self.blocks:attention(self:tokens(images), block, grid_of(self, images)),
    self.extra_tokens
  if extra == 0 then return p end
  local n = p:size(3) - extra
  return p:narrow(3, extra + 1, n):narrow(4, extra + 1, n):contiguous()
end

--- Stochastic depth, as a function of (seed, step): see nn.Blocks.
---@param rate number
---@param seed integer?
---@param step integer?
function Encoder:drop_path(rate, seed, step) self.blocks:drop_path(rate, seed, step) end

return { Encoder = Encoder }

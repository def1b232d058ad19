--- The C library's transformer blocks as one module, for sequences of any kind: as fast as the
-- built-in encoder, which is made of them too.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local module = require "ijepa.nn.module"
local random = require "ijepa.nn.random"
local C = F.C

local OPTIONS = module.known("width", "depth", "heads", "mlp_ratio", "dtype", "recompute",
  "init_gain", "depth_scaled_init", "drop_path", "blank", "qk_norm", "swiglu", "layer_scale",
  "rope", "grid")

local function config_of(o, seed)
  local c = F.new "ij_vit_config"
  c.width, c.depth, c.heads, c.mlp_ratio = o.width, o.depth, o.heads, o.mlp_ratio
  c.dtype, c.recompute = o.dtype == "bf16" and 1 or 0, o.recompute and 1 or 0
  c.init_gain, c.depth_scaled_init = o.init_gain, o.depth_scaled_init and 1 or 0
  c.blank, c.seed = o.blank and 1 or 0, seed
  c.qk_norm, c.swiglu = o.qk_norm and 1 or 0, o.swiglu and 1 or 0
  c.layer_scale, c.rope = o.layer_scale or 0, o.rope or 0
  c.grid_h, c.grid_w = o.grid[1], o.grid[2]
  return c
end

-- Makes the C object of self.options. Its parameters: a list of { name, tensor, trained, decayed }.
local function make(self, seed)
  local out = F.new "ij_vit_blocks *[1]"
  F.check(C.ij_vit_blocks_new(device.get(), config_of(self.options, seed), out))
  rawset(self, "h", F.gc(out[0], C.ij_vit_blocks_free))
  local list, params = {}, C.ij_vit_blocks_params(self.h)
  for i = 0, C.ij_params_count(params) - 1 do
    local t = C.ij_params_tensor(params, i)
    C.ij_tensor_ref(t)
    list[i + 1] = { name = F.string(C.ij_params_name(params, i)), tensor = tensor.wrap(t),
      decayed = C.ij_params_decayed(params, i) ~= 0 }
  end
  rawset(self, "_made", list)
end

--- nn.Blocks { width, depth, heads, mlp_ratio = 4, dtype = "f32" or "bf16", recompute = false,
--- drop_path = 0, init_gain = 0, depth_scaled_init = false }: `depth` blocks x +=
--- attention(norm1(x)); x += mlp(norm2(x)), and a norm after the last one. x (Q, N, width) -> (Q,
--- N, width). dtype: of the matrix products; bf16 where the device is faster in it. recompute:
--- blocks keep their input alone for the backward pass. Initial values as the built-in encoder's:
--- normal with std .02, or init_gain / sqrt(inputs). As the field NAME of a module its parameters
--- are NAME.0.norm1.weight and so on; the norm of a field `blocks` is norm.weight, of any
--- NAME_blocks it is NAME_norm.weight, else NAME.norm.weight.
local Blocks = module.class("nn.Blocks", function(self, o)
  if type(o) ~= "table" then
    F.raise "nn.Blocks: the options are missing: nn.Blocks { width = 384, depth = 12, heads = 6 }"
  end
  module.options_of(o, "nn.Blocks", OPTIONS)
  for _, name in ipairs { "width", "depth", "heads" } do
    if type(o[name]) ~= "number" then
      F.raise(("nn.Blocks: %s is %s, expected a number"):format(name, tostring(o[name])))
    end
  end
  self.width, self.depth, self.heads = o.width, o.depth, o.heads
  self.rate = o.drop_path or 0
  self.options = { width = o.width, depth = o.depth, heads = o.heads, mlp_ratio = o.mlp_ratio or 4,
    dtype = random.dtype(o.dtype), recompute = o.recompute, init_gain = o.init_gain or 0,
    depth_scaled_init = o.depth_scaled_init, blank = o.blank, qk_norm = o.qk_norm,
    swiglu = o.swiglu, layer_scale = o.layer_scale, rope = o.rope,
    grid = type(o.grid) == "number" and { o.grid, o.grid } or o.grid or { 1, 1 } }
  if o.rope and not o.grid then F.raise "nn.Blocks: rope needs grid = { rows, columns }" end
  make(self, random.seed())
end)

-- The names of the C library below a prefix; see the description of nn.Blocks.
function Blocks:_collect(prefix, f)
  for _, p in ipairs(self._made) do
    local name = p.name
    if prefix ~= "" then
      local block, of_norm = name:match "^blocks%.(.*)", name:match "^norm(.*)"
      local norm, found = prefix:gsub("blocks$", "norm")
      if found == 0 then norm = prefix .. ".norm" end
      name = block and prefix .. "." .. block or norm .. of_norm
    end
    f(name, p.tensor, true, p.decayed)
  end
end

-- After a copy of the Lua object: C parts of its own.
function Blocks:_copied(from)
  local options = self.options
  options.blank = true
  make(self, 0)
  options.blank = from.options.blank
  device.no_grad(function()
    for i, p in ipairs(self._made) do
      p.tensor:copy_(from._made[i].tensor):requires_grad_(from._made[i].tensor:requires_grad())
    end
  end)
end
function Blocks:_moved()
  local values = {}
  for i, p in ipairs(self._made) do values[i] = { p.tensor:read(), p.tensor } end
  make(self, 0)
  for i, p in ipairs(self._made) do
    F.check(C.ij_tensor_write(p.tensor.h, values[i][1], p.tensor:bytes()))
    p.tensor:requires_grad_(values[i][2]:requires_grad())
  end
end

-- Which patches the tokens of the next call are.
function Blocks:places(context, grid)
  if not self.options.rope then return end
  F.check(C.ij_vit_blocks_places(self.h, context and tensor.want(context, "context", "nn.Blocks"),
    grid and grid[1] or 0, grid and grid[2] or 0))
end

local function input(x)
  return tensor.want(tensor.is(x) and x:contiguous() or x, "x", "nn.Blocks")
end

--- x (Q, N, D) f32 -> (Q, N - first, D) after the norm. first: rows before it are only attended to
--- in the last block, such as the context tokens of a predictor; default 0.
--- With rope: context i32 (C, B, K), the patches that the last K tokens of each sequence are; nil:
--- all of them; grid: of the images, where it is not that of the options.
---@param x ijepa.tensor
---@param first integer?
---@param context ijepa.tensor?
---@param grid integer[]?
---@return ijepa.tensor
function Blocks:forward(x, first, context, grid)
  if module.is(x) then   -- e:blocks(images, n) of an encoder e, whose field has the method's name
    if type(x.outputs) ~= "function" then
      F.raise(("%s has no method outputs(images, n), the outputs of its last n blocks"):format(
        getmetatable(x)._name))
    end
    return x:outputs(first, context)
  end
  if self.rate > 0 then
    local on = self.training and self._made[1].tensor:requires_grad()
    self:drop_path(on and self.rate or 0, on and random.seed() or 0)
  end
  self:places(context, grid)
  return tensor.call(C.ij_vit_blocks_forward, self.h, input(x), first or 0)
end
--- The outputs of the last n blocks, before the norm: a list of (Q, N, D); no gradient.
---@param x ijepa.tensor
---@param n integer
---@param grid integer[]? of the images, with rope
---@return ijepa.tensor[]
function Blocks:outputs(x, n, grid)
  self:places(nil, grid)
  local out = F.new("ij_tensor *[?]", math.max(n, 1))
  F.check(C.ij_vit_blocks_outputs(self.h, input(x), n, out))
  local list = {}
  for i = 1, n do list[i] = tensor.wrap(out[i - 1]) end
  return list
end
--- Attention probabilities of a block (1 the first, -1 the last): (Q, A, N, N), one row per query.
---@param x ijepa.tensor
---@param block integer?
---@param grid integer[]? of the images, with rope
---@return ijepa.tensor
function Blocks:attention(x, block, grid)
  self:places(nil, grid)
  block = block or -1
  return tensor.call(C.ij_vit_blocks_attention, self.h, input(x),
    block < 0 and self.depth + block or block - 1)
end
--- Stochastic depth in forward passes that are recorded for gradients, as a function of (seed,
--- step): block i loses each branch with probability rate * i / (depth - 1). The option drop_path
--- does it by itself.
---@param rate number
---@param seed integer?
---@param step integer?
function Blocks:drop_path(rate, seed, step)
  F.check(C.ij_vit_blocks_drop_path(self.h, rate, seed or 0, step or 0))
end
function Blocks:extra()
  local o, extra = self.options, {}
  for _, name in ipairs { "recompute", "qk_norm", "swiglu", "layer_scale", "rope" } do
    if o[name] then extra[#extra + 1] = ", " .. name end
  end
  return ("%d x %d, %d heads, mlp ratio %g, %s%s"):format(o.depth, o.width, o.heads, o.mlp_ratio,
    o.dtype, table.concat(extra))
end

return { Blocks = Blocks }

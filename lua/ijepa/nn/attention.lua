--- Attention and transformer blocks made of tensor ops, for changes that nn.Blocks has no option
-- for; and the parts of them: 2-D RoPE, layer scale, SwiGLU.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local module = require "ijepa.nn.module"
local layers = require "ijepa.nn.layers"

local attention = {}
local class, known, options_of, count = module.class, module.known, module.options_of, layers.count
local cat = tensor.cat

-- ---- positions by rotation
local ROPE = known("grid", "width", "base")
--- nn.Rope { grid, width, base = 100 }: 2-D rotary positions for heads of `width` values, a
--- multiple of 4. Values i and i + width / 2 of a head are a pair; the first width / 4 pairs turn
--- with the row, the others with the column, by position * base ^ (-i / (width / 4)). r(context, N)
--- -> { cos, sin } for sequences of N tokens, whose last ones are the patches of context i32 (C, B,
--- K), or all; tokens before them have no position.
local Rope = class("nn.Rope", function(self, o)
  o = options_of(o, "nn.Rope", ROPE)
  local grid = type(o.grid) == "number" and { o.grid, o.grid } or o.grid
  if type(grid) ~= "table" then
    F.raise(("nn.Rope: the grid is %s, expected { rows, columns }"):format(tostring(grid)))
  end
  self.grid = { count(grid[1], "nn.Rope", "grid[1]"), count(grid[2], "nn.Rope", "grid[2]") }
  self.width, self.base = count(o.width, "nn.Rope", "width"), o.base or 100
  if o.width % 4 ~= 0 then
    F.raise(("nn.Rope: width %d is not a multiple of 4"):format(o.width))
  end
end)
Rope._layer = true
attention.Rope = Rope
function Rope:extra()
  return ("grid %d x %d, %d, base %g"):format(self.grid[1], self.grid[2], self.width, self.base)
end

-- Tables (1, N, width / 2) of cosines and sines.
local function tables(self)
  local made = rawget(self, "made")
  if made then return made end
  local h, w, half, quarter = self.grid[1], self.grid[2], self.width / 2, self.width / 4
  local cos, sin = F.new("float[?]", h * w * half), F.new("float[?]", h * w * half)
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      for i = 0, half - 1 do
        local position = i < quarter and y or x
        local angle = position * self.base ^ (-(i % quarter) / quarter)
        cos[(y * w + x) * half + i], sin[(y * w + x) * half + i] = math.cos(angle), math.sin(angle)
      end
    end
  end
  made = { tensor.from_pointer(cos, { 1, h * w, half }, "f32", true),
    tensor.from_pointer(sin, { 1, h * w, half }, "f32", true) }
  rawset(self, "made", made)
  return made
end

function Rope:forward(context, N)
  local list, half = {}, self.width / 2
  for i, t in ipairs(tables(self)) do
    if context then
      t = t:gather(context:reshape(context:size(1) * context:size(2), 1, context:size(3)))
    end
    local extra = (N or t:size(2)) - t:size(2)
    if extra < 0 then
      F.raise(("nn.Rope: sequences of %d tokens, but %d patches"):format(N, t:size(2)))
    elseif extra > 0 then
      t = cat({ tensor.zeros({ t:size(1), extra, half }):fill_(i == 1 and 1 or 0), t }, 2)
    end
    list[i] = t:reshape(t:size(1), t:size(2), 1, half)
  end
  return { cos = list[1], sin = list[2] }
end

-- x (Q, N, A, S), turned.
local function rotate(x, rope)
  local half = x:size(4) / 2
  local a, b = x:narrow(4, 1, half), x:narrow(4, half + 1, half)
  return cat({ a * rope.cos - b * rope.sin, a * rope.sin + b * rope.cos }, 4)
end

-- ---- attention
local ATTENTION = known("bias", "qk_norm", "std")
--- nn.Attention(width, heads, { bias = true, qk_norm = false, std = .02 }): self-attention, with
--- the parameters qkv and proj; qk_norm: a layer norm of each head's queries and keys. a(x, rope):
--- x (Q, N, width); rope: what nn.Rope returned, or nil.
local Attention = class("nn.Attention", function(self, width, heads, o)
  o = options_of(o, "nn.Attention", ATTENTION)
  self.heads = count(heads, "nn.Attention", "heads")
  if count(width, "nn.Attention", "width") % heads ~= 0 then
    F.raise(("nn.Attention: width %d does not divide by %d heads"):format(width, heads))
  end
  self.qkv = layers.Linear(width, 3 * width, { std = o.std or .02, bias = o.bias })
  if o.qk_norm then
    self.q_norm = layers.LayerNorm(width / heads, { eps = 1e-6 })
    self.k_norm = layers.LayerNorm(width / heads, { eps = 1e-6 })
  end
  self.proj = layers.Linear(width, width, { std = o.std or .02 })
end)
attention.Attention = Attention
function Attention:extra() return ("%d heads"):format(self.heads) end
function Attention:forward(x, rope)
  local qkv = self.qkv(x)
  if self.q_norm or rope then
    local Q, N, A = x:size(1), x:size(2), self.heads
    local parts, each = {}, qkv:reshape(Q, N, 3, A, x:size(3) / A)
    for i = 1, 3 do parts[i] = each:select(3, i) end   -- (Q, N, A, S)
    if self.q_norm then parts[1], parts[2] = self.q_norm(parts[1]), self.k_norm(parts[2]) end
    if rope then parts[1], parts[2] = rotate(parts[1], rope), rotate(parts[2], rope) end
    for i = 1, 3 do parts[i] = parts[i]:contiguous():reshape(Q, N, x:size(3)) end
    qkv = cat(parts, 3)
  end
  return self.proj(qkv:attention(self.heads))
end

-- ---- the rest of a block nn.LayerScale(width, value = 1e-5): x times a trained factor (gamma)
--- for each of its width values.
local LayerScale = class("nn.LayerScale", function(self, width, value)
  local ones = tensor.zeros({ count(width, "nn.LayerScale", "width") }, "f32", true)
  self.gamma = module.parameter(ones:fill_(value or 1e-5))
end)
LayerScale._layer = true
attention.LayerScale = LayerScale
function LayerScale:forward(x) return x * self.gamma end
function LayerScale:extra() return tostring(self.gamma:size(1)) end

local SWIGLU = known("std")
--- nn.SwiGLU(inputs, hidden, outputs, { std = .02 }): fc2(silu(a) * b), where a and b are the first
--- and the second half of fc1(x), hidden values each. outputs: default inputs.
local SwiGLU = class("nn.SwiGLU", function(self, inputs, hidden, outputs, o)
  o = options_of(o, "nn.SwiGLU", SWIGLU)
  self.hidden = count(hidden, "nn.SwiGLU", "hidden")
  self.fc1 = layers.Linear(inputs, 2 * hidden, { std = o.std or .02 })
  self.act = layers.SiLU()
  self.fc2 = layers.Linear(hidden, outputs or inputs, { std = o.std or .02 })
end)
attention.SwiGLU = SwiGLU
function SwiGLU:forward(x)
  local y, n = self.fc1(x), self.hidden
  return self.fc2(self.act(y:narrow(-1, 1, n)) * y:narrow(-1, n + 1, n))
end

local BLOCK = known("mlp_ratio", "qk_norm", "layer_scale", "swiglu", "drop_path", "std")
--- nn.Block(width, heads, { mlp_ratio = 4, qk_norm = false, layer_scale = nil, swiglu = false,
--- drop_path = 0, std = .02 }): one transformer block of tensor ops, in f32, with the names and
--- values of a block of nn.Blocks. b(x, rope). layer_scale: the initial factor.
local Block = class("nn.Block", function(self, width, heads, o)
  o = options_of(o, "nn.Block", BLOCK)
  local hidden = math.floor(width * (o.mlp_ratio or 4))
  self.norm1 = layers.LayerNorm(width, { eps = 1e-6 })
  self.attn = Attention(width, heads, { qk_norm = o.qk_norm, std = o.std })
  if o.layer_scale then self.ls1 = LayerScale(width, o.layer_scale) end
  self.norm2 = layers.LayerNorm(width, { eps = 1e-6 })
  self.mlp = (o.swiglu and SwiGLU or layers.Mlp)(width, hidden, width, { std = o.std })
  if o.layer_scale then self.ls2 = LayerScale(width, o.layer_scale) end
  if (o.drop_path or 0) > 0 then self.drop_path = layers.DropPath(o.drop_path) end
end)
attention.Block = Block
local function branch(self, y, scale)
  if scale then y = scale(y) end
  return self.drop_path and self.drop_path(y) or y
end
function Block:forward(x, rope)
  x = x + branch(self, self.attn(self.norm1(x), rope), self.ls1)
  return x + branch(self, self.mlp(self.norm2(x)), self.ls2)
end

return attention

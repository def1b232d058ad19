--- Layers of one op: linear, norms, activations, dropout; and modules one after the other.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local module = require "ijepa.nn.module"
local random = require "ijepa.nn.random"

local layers = {}
local class, parameter, buffer = module.class, module.parameter, module.buffer
local known, options_of = module.known, module.options_of

-- A size as an argument.
local function count(v, what, name)
  if type(v) ~= "number" or v < 1 or v % 1 ~= 0 then
    F.raise(("%s: %s is %s, expected a whole number above 0"):format(what, name, tostring(v)))
  end
  return v
end
layers.count = count

local function layer(name, init)
  local K = class("nn." .. name, init)
  K._layer = true
  layers[name] = K
  return K
end

-- ---- linear
local LINEAR = known("bias", "std")
--- nn.Linear(inputs, outputs, { bias = true, std = nil }): x (..., inputs) -> (..., outputs).
--- Initial values as PyTorch's: uniform, up to 1 / sqrt(inputs); with std: normal, cut at +-2, bias
--- 0, as timm's.
local Linear = layer("Linear", function(self, inputs, outputs, o)
  o = options_of(o, "nn.Linear", LINEAR)
  self.inputs, self.outputs = count(inputs, "nn.Linear", "inputs"), count(outputs, "nn.Linear",
    "outputs")
  local limit = 1 / math.sqrt(inputs)
  self.weight = parameter(o.std and random.truncated({ outputs, inputs }, o.std)
    or random.uniform({ outputs, inputs }, limit))
  if o.bias ~= false then
    self.bias = parameter(o.std and tensor.zeros({ outputs }, "f32", true)
      or random.uniform({ outputs }, limit))
  end
end)
function Linear:forward(x)
  tensor.want(x, "x", "nn.Linear")
  if x:size(-1) ~= self.inputs then
    F.raise(("nn.Linear(%d, %d): 'x' is (%s), expected %d values per row"):format(self.inputs,
      self.outputs, table.concat(x:shape(), ", "), self.inputs))
  end
  return x:contiguous():linear(self.weight, self.bias)
end
function Linear:extra()
  return ("%d -> %d%s"):format(self.inputs, self.outputs, self.bias and "" or ", no bias")
end

-- ---- norms
local LAYER_NORM = known("eps", "affine", "bias")
--- nn.LayerNorm(width, { eps = 1e-5, affine = true, bias = true }): over the last dimension.
local LayerNorm = layer("LayerNorm", function(self, width, o)
  o = options_of(o, "nn.LayerNorm", LAYER_NORM)
  self.width, self.eps = count(width, "nn.LayerNorm", "width"), o.eps or 1e-5
  if o.affine ~= false then
    self.weight = parameter(tensor.zeros({ width }, "f32", true):fill_(1))
    local shift = tensor.zeros({ width }, "f32", true)
    if o.bias == false then self.shift = shift else self.bias = parameter(shift) end
  end
end)
function LayerNorm:forward(x)
  return x:contiguous():layer_norm(self.weight, self.bias or self.shift, self.eps)
end
function LayerNorm:extra()
  return ("%d, eps %g%s"):format(self.width, self.eps, self.weight and "" or ", not affine")
end

local BATCH_NORM = known("eps", "momentum", "affine")
--- nn.BatchNorm1d(width, { eps = 1e-5, momentum = .1, affine = true }): over all rows of x (...,
--- width); with the batch's mean and variance in training, with the running ones in evaluation.
local BatchNorm1d = layer("BatchNorm1d", function(self, width, o)
  o = options_of(o, "nn.BatchNorm1d", BATCH_NORM)
  self.width, self.eps, self.momentum = count(width, "nn.BatchNorm1d", "width"), o.eps or 1e-5,
    o.momentum or .1
  if o.affine ~= false then
    self.weight = parameter(tensor.zeros({ width }, "f32", true):fill_(1))
    self.bias = parameter(tensor.zeros({ width }, "f32", true))
  end
  self.running_mean = buffer(tensor.zeros({ width }, "f32", true))
  self.running_var = buffer(tensor.zeros({ width }, "f32", true):fill_(1))
end)
function BatchNorm1d:forward(x)
  local shape = x:shape()
  local y = tensor.batch_norm(x:contiguous():reshape(-1, self.width), self.running_mean,
    self.running_var, self.training, self.momentum, self.eps)
  if self.weight then y = y * self.weight + self.bias end
  return y:reshape(shape)
end
function BatchNorm1d:extra()
  return ("%d, eps %g, momentum %g%s"):format(self.width, self.eps, self.momentum,
    self.weight and "" or ", not affine")
end

-- ---- activations
-- Of one method of tensors.
local function activation(name, op)
  local K = layer(name)
  function K.forward(_, x)
    tensor.want(x, "x", "nn." .. name)
    return x[op](x)
  end
end
activation("GELU", "gelu")         -- x * Phi(x), the exact form
activation("ReLU", "relu")         -- max(x, 0)
activation("SiLU", "silu")         -- x * sigmoid(x)
activation("Tanh", "tanh")
activation("Sigmoid", "sigmoid")
--- nn.Identity(): x itself.
local Identity = layer "Identity"
function Identity.forward(_, x) return x end

-- ---- dropout
local function chance(p, what)
  p = p or (what == "nn.Dropout" and .5 or 0)
  if type(p) ~= "number" or not (p >= 0 and p < 1) then
    F.raise(("%s: the probability is %s, expected 0 up to 1"):format(what, tostring(p)))
  end
  return p
end
--- nn.Dropout(p = .5): in training each value becomes 0 with probability p, and the others grow by
--- 1 / (1 - p).
local Dropout = layer("Dropout", function(self, p) self.p = chance(p, "nn.Dropout") end)
function Dropout:forward(x)
  return x:dropout(self.p, self.training)
end
function Dropout:extra() return ("p %g"):format(self.p) end

--- nn.DropPath(p = 0): the same for each sequence of x (Q, ...) as a whole: stochastic depth.
local DropPath = layer("DropPath", function(self, p) self.p = chance(p, "nn.DropPath") end)
function DropPath:forward(x)
  if not self.training or self.p == 0 then return x end
  local shape = x:shape()
  for i = 2, #shape do shape[i] = 1 end
  return x * tensor.full(shape, 1):dropout(self.p)
end
DropPath.extra = Dropout.extra

-- ---- several
local function fill(self, what, ...)
  local list = { ... }
  if #list == 1 and type(list[1]) == "table" and not module.is(list[1]) then list = list[1] end
  for i, m in ipairs(list) do
    if not module.is(m) then
      F.raise(("%s: number %d is a %s, expected a module"):format(what, i, type(m)))
    end
    self[i] = m
  end
end

--- nn.List { a, b, ... }: modules at 1, 2, ...; for ipairs. PyTorch's ModuleList: names "0", "1",
--- ...
layers.List = class("nn.List", function(self, ...) fill(self, "nn.List", ...) end)

--- nn.Sequential(a, b, ...): each module gets what the one before it returned.
local Sequential = class("nn.Sequential", function(self, ...) fill(self, "nn.Sequential", ...) end)
layers.Sequential = Sequential
function Sequential:forward(x)
  for _, m in ipairs(self) do x = m(x) end
  return x
end

local MLP = known("activation", "drop", "std", "bias")
local ACTIVATIONS = { gelu = "GELU", relu = "ReLU", silu = "SiLU", tanh = "Tanh" }
--- nn.Mlp(inputs, hidden, outputs, { activation = "gelu", drop = 0, std = .02, bias = true }): two
--- linear layers, fc1 and fc2, with an activation between them. outputs: default inputs. Initial
--- values as timm's: normal with this std, biases 0.
local Mlp = class("nn.Mlp", function(self, inputs, hidden, outputs, o)
  o = options_of(o, "nn.Mlp", MLP)
  local name = ACTIVATIONS[o.activation or "gelu"]
  if not name then
    F.raise(("nn.Mlp: activation '%s': gelu, relu, silu or tanh"):format(tostring(o.activation)))
  end
  local linear = { std = o.std or .02, bias = o.bias }
  self.fc1 = Linear(inputs, hidden, linear)
  self.act = layers[name]()
  self.fc2 = Linear(hidden, outputs or inputs, linear)
  if (o.drop or 0) > 0 then self.drop = layers.Dropout(o.drop) end
end)
layers.Mlp = Mlp
function Mlp:forward(x)
  x = self.act(self.fc1(x))
  if self.drop then x = self.drop(x) end
  x = self.fc2(x)
  if self.drop then x = self.drop(x) end
  return x
end

local EMBEDDING = known("std")
--- nn.Embedding(entries, width, { std = 1 }): rows by number: index i32, from 0 -> (..., width).
--- Initial values as PyTorch's: normal.
local Embedding = layer("Embedding", function(self, entries, width, o)
  o = options_of(o, "nn.Embedding", EMBEDDING)
  self.entries, self.width = count(entries, "nn.Embedding", "entries"), count(width, "nn.Embedding",
    "width")
  self.weight = parameter(random.normal({ entries, width }, o.std or 1))
end)
layers.Embedding = Embedding
function Embedding:forward(index)
  local shape = index:shape()
  shape[#shape + 1] = self.width
  return self.weight:rows(index:reshape(-1)):reshape(shape)
end
function Embedding:extra() return ("%d x %d"):format(self.entries, self.width) end

-- ---- convolution
local function two(v, what, name)
  if type(v) ~= "table" then v = { v, v } end
  return { count(v[1], what, name), count(v[2], what, name) }
end
local CONV = known("stride", "padding", "bias", "std")
--- nn.Conv2d(inputs, outputs, size, { stride = 1, padding = 0, bias = true, std = nil }): x (B,
--- inputs, H, W) -> (B, outputs, oh, ow), by patches and a matrix product. Initial values as
--- nn.Linear's, with inputs * size * size inputs.
local Conv2d = layer("Conv2d", function(self, inputs, outputs, size, o)
  local what = "nn.Conv2d"
  o = options_of(o, what, CONV)
  self.inputs, self.outputs = count(inputs, what, "inputs"), count(outputs, what, "outputs")
  self.kernel, self.stride = two(size, what, "size"), count(o.stride or 1, what, "stride")
  self.padding = o.padding or 0
  if type(self.padding) ~= "number" or self.padding < 0 or self.padding % 1 ~= 0 then
    F.raise(("%s: padding is %s, expected a whole number"):format(what, tostring(self.padding)))
  end
  local shape = { outputs, inputs, self.kernel[1], self.kernel[2] }
  local limit = 1 / math.sqrt(inputs * self.kernel[1] * self.kernel[2])
  self.weight = parameter(o.std and random.truncated(shape, o.std) or random.uniform(shape, limit))
  if o.bias ~= false then
    self.bias = parameter(o.std and tensor.zeros({ outputs }, "f32", true)
      or random.uniform({ outputs }, limit))
  end
end)
function Conv2d:forward(x)
  tensor.want(x, "x", "nn.Conv2d")
  if x:dim() ~= 4 or x:size(2) ~= self.inputs then
    F.raise(("nn.Conv2d: 'x' is (%s), expected (B, %d, H, W)"):format(table.concat(x:shape(), ", "),
      self.inputs))
  end
  local y, h, w = self:rows(x)   -- (B, oh * ow, outputs)
  return y:transpose(2, 3):contiguous():reshape(x:size(1), self.outputs, h, w)
end
-- The same as (B, oh * ow, outputs), and oh, ow: tokens.
function Conv2d:rows(x)
  local kh, kw = self.kernel[1], self.kernel[2]
  local cols = tensor.call(F.C.ij_im2col, x:contiguous().h, kh, kw, self.stride, self.padding)
  local weight = self.weight:reshape(self.outputs, self.inputs * kh * kw)
  return cols:linear(weight, self.bias),
    math.floor((x:size(3) + 2 * self.padding - kh) / self.stride) + 1,
    math.floor((x:size(4) + 2 * self.padding - kw) / self.stride) + 1
end
function Conv2d:extra()
  return ("%d -> %d, %d x %d, stride %d%s%s"):format(self.inputs, self.outputs, self.kernel[1],
    self.kernel[2], self.stride, self.padding > 0 and ", padding " .. self.padding or "",
    self.bias and "" or ", no bias")
end

return layers

-- New tensors: of a shape, of values, of a pattern.
local F = require "ijepa.base.ffi"
local core = require "ijepa.tensor.core"
local device = require "ijepa.tensor.device"
local tensor, T, C = core.tensor, core.methods, F.C

--- A new tensor with undefined values.
---@torch empty | -
---@param shape integer[]
---@param dtype string?  "f32" (default), "bf16", "i32", "i64", "u8"
---@param kept boolean?  stays valid after the step in which it is made
---@return ijepa.tensor
function tensor.empty(shape, dtype, kept)
  local s, n = core.shape_of(shape, "empty")
  return core.call(kept and C.ij_tensor_new_kept or C.ij_tensor_new, device.get(),
    core.dtype_of(dtype, "empty"), n, s)
end

-- Shape and the rest (`most` of them at most) of zeros(2, 3, "f32") or zeros({ 2, 3 }, "f32").
local function sizes(op, most, first, ...)
  local shape, rest, n = first, { ... }, select("#", ...)
  if type(first) == "number" then
    shape = { first }
    while type(rest[1]) == "number" do
      shape[#shape + 1] = table.remove(rest, 1)
      n = n - 1
    end
  end
  if n > most then F.raise(op .. ": more arguments than it takes: try ? tensor." .. op) end
  return shape, rest[1], rest[2]
end
core.sizes = sizes

--- A new tensor of zeros: zeros({ 2, 3 }) or zeros(2, 3).
---@torch zeros | -
---@param shape integer[]|integer
---@param ... any dtype (string), kept (boolean); or more sizes and these
---@return ijepa.tensor
function tensor.zeros(shape, ...)
  local dtype, kept
  shape, dtype, kept = sizes("zeros", 2, shape, ...)
  local t = tensor.empty(shape, dtype, kept)
  local n = t:bytes()
  local zero = F.new("uint8_t[?]", math.max(n, 1))
  F.check(C.ij_tensor_write(t.h, zero, n))
  return t
end

-- The values that an integer type holds (i64: as far as a number of Lua is exact).
local RANGE = { u8 = { 0, 255 }, i32 = { -2 ^ 31, 2 ^ 31 - 1 }, i64 = { -2 ^ 53, 2 ^ 53 } }
local function in_range(value, dtype, op)
  local range = RANGE[dtype]
  if range and not (value >= range[1] and value <= range[2]) then
    F.raise(("%s: %.15g is not a value of %s, which holds %.0f to %.0f"):format(op, value, dtype,
      range[1], range[2]))
  end
  return value
end

--- A new tensor of one value.
---@torch full | -
---@param shape integer[]
---@param value number
---@param dtype string?
---@return ijepa.tensor
function tensor.full(shape, value, dtype)
  core.check(value, "number", "tensor.full(shape, value, dtype)", "value")
  dtype = dtype or "f32"
  if dtype == "f32" then return tensor.empty(shape):fill_(value) end
  if dtype == "bf16" then return tensor.full(shape, value):to "bf16" end
  local n = 1
  for _, size in ipairs(shape) do n = n * size end
  local ctype = core.CTYPE[dtype] or core.dtype_of(dtype, "full")
  local buffer = F.new(ctype .. "[?]", math.max(n, 1))
  in_range(value, dtype, "full")
  for i = 0, n - 1 do buffer[i] = value end
  return tensor.from_pointer(buffer, shape, dtype)
end

--- A new tensor of ones: ones({ 2, 3 }) or ones(2, 3).
---@torch ones | -
---@param shape integer[]|integer
---@param ... any dtype; or more sizes and dtype
---@return ijepa.tensor
function tensor.ones(shape, ...)
  local dtype
  shape, dtype = sizes("ones", 1, shape, ...)
  return tensor.full(shape, 1, dtype)
end

--- Zeros of this tensor's shape and type.
---@torch zeros_like | -
---@return ijepa.tensor
function T:zeros_like() return tensor.zeros(self:shape(), self:dtype()) end

--- Ones of this tensor's shape and type.
---@torch ones_like | -
---@return ijepa.tensor
function T:ones_like() return tensor.full(self:shape(), 1, self:dtype()) end

--- A new tensor with the bytes at pointer, laid out row-major.
---@param pointer ffi.cdata*
---@param shape integer[]
---@param dtype string?
---@param kept boolean?
---@return ijepa.tensor
function tensor.from_pointer(pointer, shape, dtype, kept)
  local t = tensor.empty(shape, dtype, kept)
  F.check(C.ij_tensor_write(t.h, pointer, t:bytes()))
  return t
end

--- A tensor from nested lists of numbers: tensor.new {{1, 2}, {3, 4}}; numbers alone give one
--- element.
---@torch tensor | -
---@param values number|table
---@param dtype string?
---@return ijepa.tensor
function tensor.new(values, dtype)
  dtype = dtype or "f32"
  if not core.CTYPE[dtype] or dtype == "bf16" then
    F.raise("tensor: a list gives f32, i32, i64 or u8")
  end
  local shape, v = {}, values
  while type(v) == "table" do
    shape[#shape + 1] = #v
    v = v[1]
  end
  if #shape == 0 then shape[1] = 1 end
  local n = 1
  for _, s in ipairs(shape) do n = n * s end
  local buffer, offset = F.new(core.CTYPE[dtype] .. "[?]", math.max(n, 1)), 0
  local function fill(x, depth)
    if depth > #shape or type(x) == "number" then
      if type(x) ~= "number" then F.raise("tensor: the lists differ in depth") end
      if offset >= n then F.raise "tensor: the lists differ in length" end
      buffer[offset], offset = in_range(x, dtype, "tensor"), offset + 1
    else
      if type(x) ~= "table" or #x ~= shape[depth] then
        F.raise "tensor: the lists differ in length"
      end
      for i = 1, #x do fill(x[i], depth + 1) end
    end
  end
  fill(values, 1)
  if offset < n then F.raise "tensor: the lists differ in length" end
  return tensor.from_pointer(buffer, shape, dtype)
end

-- n values of f(i), i from 0.
local function filled(n, dtype, f)
  local ctype = core.CTYPE[dtype]
  if not ctype or dtype == "bf16" then F.raise("arange: dtype is f32, i32, i64 or u8") end
  local buffer = F.new(ctype .. "[?]", math.max(n, 1))
  for i = 0, n - 1 do buffer[i] = in_range(f(i), dtype, "arange") end
  return tensor.from_pointer(buffer, { n }, dtype)
end

--- Values from `first` in steps of `step` below `limit`: arange(5) is 0 to 4, arange(2, 5) is 2 to
--- 4.
---@torch arange | - | f32 unless a dtype says otherwise
---@param first number or the limit, where it is alone
---@param limit number?
---@param step number?
---@param dtype string?
---@return ijepa.tensor
function tensor.arange(first, limit, step, dtype)
  local signature = "tensor.arange([first,] limit [, step [, dtype]])"
  if type(limit) == "string" then limit, dtype = nil, limit end
  if limit == nil then first, limit = 0, first end
  if type(step) == "string" then step, dtype = nil, step end
  step = step or 1
  core.check(first, "number", signature, "first")
  core.check(limit, "number", signature, "limit")
  if core.check(step, "number", signature, "step") == 0 then F.raise "arange: the step is 0" end
  if (limit - first) * step < 0 then
    F.raise(("arange: a step of %g does not lead from %g to %g"):format(step, first, limit))
  end
  return filled(math.max(0, math.ceil((limit - first) / step)), dtype or "f32",
    function(i) return first + i * step end)
end

--- n values from first to last, both included, at equal distances.
---@torch linspace | -
---@param first number
---@param last number
---@param n integer
---@return ijepa.tensor
function tensor.linspace(first, last, n)
  local signature = "tensor.linspace(first, last, n)"
  core.check(first, "number", signature, "first")
  core.check(last, "number", signature, "last")
  core.check(n, "number", signature, "n")
  return filled(n, "f32", function(i)
    return n == 1 and first or first + (last - first) * i / (n - 1)
  end)
end

--- The identity matrix (n, m), square without m.
---@torch eye | -
---@param n integer
---@param m integer?
---@return ijepa.tensor
function tensor.eye(n, m)
  core.check(n, "number", "tensor.eye(n, m)", "n")
  m = m or n
  local buffer = F.new("float[?]", math.max(n * m, 1))
  for i = 0, math.min(n, m) - 1 do buffer[i * m + i] = 1 end
  return tensor.from_pointer(buffer, { n, m })
end

--- One row for each value of an integer tensor (...): 1 at the value, which counts from 0, else 0:
--- (..., n) f32.
---@torch nn.functional.one_hot | - | gives f32
---@param n integer? number of classes; default: the largest value + 1
---@return ijepa.tensor
function T:one_hot(n)
  local index = self:to "i32"
  local shape, count = index:shape(), index:numel()
  local values = index:read()
  if not n then
    n = 0
    for i = 0, count - 1 do n = math.max(n, values[i] + 1) end
  end
  local buffer = F.new("float[?]", math.max(count * n, 1))
  for i = 0, count - 1 do
    if values[i] < 0 or values[i] >= n then
      F.raise(("one_hot: value %d is outside 0..%d"):format(values[i], n - 1))
    end
    buffer[i * n + values[i]] = 1
  end
  shape[#shape + 1] = n
  return tensor.from_pointer(buffer, shape)
end

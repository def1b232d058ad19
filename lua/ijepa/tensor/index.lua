-- Parts of tensors by number: x[i], x[{ {a, b}, i }], x[mask], assignments to them, gather and
-- scatter. Dimensions and positions count from 1; indices in tensors count from 0.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local device = require "ijepa.tensor.device"
local text = require "ijepa.base.text"
local T, tensor, C = core.methods, core.tensor, F.C
local call, is = core.call, core.is

local function index_tensor(index, op)
  if not is(index) then
    core.check(index, "table", op .. "(index)", "index")
    index = tensor.new(index, "i32")
  end
  local dtype = index:dtype()
  if dtype == "i32" then return index end
  if dtype ~= "i64" then
    F.raise(("%s: the index is %s, expected i32"):format(op, dtype))
  end
  return index:to "i32"
end

--- Entries of a dimension in any order, also repeated: index (T), from 0.
---@torch index_select | yes
---@param dim integer
---@param index ijepa.tensor|integer[]
---@return ijepa.tensor
function T:index_select(dim, index)
  return call(C.ij_index_select, self.h, core.dim_of(self, dim, "index_select"),
    index_tensor(index, "index_select").h)
end
--- gather(dim, index), as in PyTorch: y[i][j][k] = x[index[i][j][k]][j][k] for dim 1; index of as
--- many dimensions. gather(index): tokens by number, x (B, N, D) at index i32 (M, B, T) -> (M * B,
--- T, D).
---@torch gather | yes | without a dimension: tokens (index (M, B, T))
---@param dim integer|ijepa.tensor
---@param index ijepa.tensor?
---@return ijepa.tensor
function T:gather(dim, index)
  if is(dim) and index == nil then return call(C.ij_gather, self.h, dim.h) end
  local d = core.dim_of(self, dim, "gather")
  return call(C.ij_take, self.h, d, index_tensor(index, "gather").h)
end
--- x with the values of src added at index, as gather finds them: the inverse of gather.
---@torch scatter_add | yes
---@param dim integer
---@param index ijepa.tensor i32, of src's shape
---@param src ijepa.tensor
---@return ijepa.tensor
function T:scatter_add(dim, index, src)
  return call(C.ij_scatter_add, self.h, core.dim_of(self, dim, "scatter_add"),
    index_tensor(index, "scatter_add").h, core.want(src, "src", "scatter_add"))
end
--- Entries of the first dimension in any order, also repeated: x (R, ...) at index (T) -> (T, ...).
---@torch Tensor.__getitem__ | yes | with an index tensor
---@param index ijepa.tensor|integer[] i32, or a list, from 0
---@return ijepa.tensor
function T:rows(index) return self:index_select(1, index) end

-- The positions (from 0, row-major) where mask is not 0, as i32.
local function positions(mask)
  local values, n = mask:read()
  local list, count = F.new("int32_t[?]", math.max(n, 1)), 0
  for i = 0, n - 1 do
    if values[i] ~= 0 then list[count], count = i, count + 1 end
  end
  return list, count
end
local function same_shape(a, b)
  a, b = a:shape(), b:shape()
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end
local function shape_text(x) return "(" .. table.concat(x:shape(), ", ") .. ")" end

--- The values where mask is not 0, in row-major order: (n). The same as x[mask].
---@torch masked_select | yes
---@param mask ijepa.tensor u8, of the shape of x
---@return ijepa.tensor
function T:masked_select(mask)
  core.want(mask, "mask", "masked_select")
  if not same_shape(self, mask) then
    F.raise(("masked_select: a mask of %s does not fit %s"):format(shape_text(mask),
      shape_text(self)))
  end
  local list, n = positions(mask)
  return self:reshape(-1):index_select(1, tensor.from_pointer(list, { n }, "i32"))
end
--- Where the values are not 0: (n, dimensions) i32, from 0.
---@torch nonzero | - | i32
---@return ijepa.tensor
function T:nonzero()
  local list, n = positions(self)
  local shape = self:shape()
  local out = F.new("int32_t[?]", math.max(n * #shape, 1))
  for i = 0, n - 1 do
    local rest = list[i]
    for d = #shape, 1, -1 do
      out[i * #shape + d - 1] = rest % shape[d]
      rest = math.floor(rest / shape[d])
    end
  end
  return tensor.from_pointer(out, { n, #shape }, "i32")
end

-- ---- brackets

local function entry(x, dim, i)
  local n = x:size(dim)
  if type(i) ~= "number" or i % 1 ~= 0 or i == 0 or i > n or i < -n then
    F.raise(("index %s of dimension %d is not in 1..%d"):format(tostring(i), dim, n))
  end
  return i < 0 and n + i + 1 or i
end

-- x[{ ... }]: for each dimension a number (one entry), { a, b } (from a to b), { a } (one entry
-- that keeps its dimension) or {} (all).
local function part(x, key)
  if #key > x:dim() then
    F.raise(("%d indices for %d dimensions"):format(#key, x:dim()))
  end
  local dim = 1
  for _, k in ipairs(key) do
    if type(k) == "table" and not is(k) then
      if #k > 2 then
        F.raise "an index is a number, { first, last }, { one } or {}; a list: index_select"
      end
      if #k > 0 then
        local first = entry(x, dim, k[1])
        local last = k[2] and entry(x, dim, k[2]) or first
        if last < first then
          F.raise(("index { %d, %d }: the last is below the first"):format(first, last))
        end
        x = x:narrow(dim, first, last - first + 1)
      end
      dim = dim + 1
    else
      x = x:select(dim, entry(x, dim, k))
    end
  end
  return x
end

local function get(x, key)
  if type(key) == "number" then
    if x:dim() == 0 then F.raise "a tensor without dimensions has no entries: x:item()" end
    return x:select(1, entry(x, 1, key))
  end
  if is(key) then
    if key:dtype() == "u8" then return x:masked_select(key) end
    return x:rows(key)
  end
  if type(key) == "table" then return part(x, key) end
  F.raise(("an index is a number, a list or a tensor, not a %s"):format(type(key)))
end

-- x[key] = value. Not recorded for gradients: refused where one would be lost.
local function set(x, key, value)
  core.without_gradient(x, "x[i] = v", "compute a new tensor (tensor.where, masked_fill)")
  core.without_gradient(value, "x[i] = v", "compute a new tensor (tensor.where, cat, stack)")
  device.no_grad(function()
    if is(key) and key:dtype() == "u8" then
      if is(value) then
        if not same_shape(x, key) then
          F.raise(("a mask of %s does not fit %s"):format(shape_text(key), shape_text(x)))
        end
        local list, n = positions(key)
        if value:numel() ~= n then
          F.raise(("%d values for %d places of the mask"):format(value:numel(), n))
        end
        local index = tensor.from_pointer(list, { n }, "i32")
        local zero = x:reshape(-1):masked_fill(key:reshape(-1), 0)
        local filled = zero:scatter_add(1, index, value:reshape(-1):to(x:dtype()))
        return x:copy_(filled:reshape(x:shape()))
      end
      return x:copy_(x:masked_fill(key, core.check(value, "number", "x[mask] = (value)", "value"))
        :to(x:dtype()))
    end
    if is(key) then F.raise "x[index] = values: write x:scatter_add, or a loop over x[i]" end
    local target = get(x, key)
    if type(value) == "number" then return target:fill_(value) end
    if type(value) == "table" and not is(value) then
      value = tensor.new(value, x:dtype() == "bf16" and "f32" or x:dtype())
    end
    core.want(value, "value", "assignment")
    target:copy_(value:to(x:dtype()):expand(target:shape()):contiguous())
  end)
end

-- x.shape is a list that can also be called, since x:shape() is the method.
local SHAPE = {
  __call = function(list) return list end,
  __tostring = function(list) return "(" .. table.concat(list, ", ") .. ")" end,
}
local shape_of = T.shape
local function call_it() F.raise "grad is a method: the gradient is x:grad()" end
local GRAD = { __index = call_it, __add = call_it, __sub = call_it, __mul = call_it,
  __div = call_it,
  __unm = call_it, __pow = call_it, __tostring = function() return "x:grad() is the gradient" end }

T.__index = function(x, key)
  if key == "shape" then return setmetatable(shape_of(x), SHAPE) end
  local method = T[key]
  if method ~= nil then
    if key == "grad" then
      return setmetatable({}, { __call = function(_, owner) return method(owner) end,
        __index = GRAD.__index, __add = GRAD.__add, __sub = GRAD.__sub, __mul = GRAD.__mul,
        __div = GRAD.__div, __unm = GRAD.__unm, __pow = GRAD.__pow,
        __tostring = GRAD.__tostring })
    end
    return method
  end
  if type(key) == "string" then
    local names = {}
    for name in pairs(T) do names[#names + 1] = name end
    F.raise(("a tensor has no field '%s'%s"):format(key, text.hint(key, names)))
  end
  return get(x, key)
end
T.__newindex = function(x, key, value)
  if type(key) == "string" then
    F.raise(("a tensor has no field '%s'%s"):format(key, key == "requires_grad"
      and ": write x:requires_grad_()" or ": keep what belongs to it in a table of your own"))
  end
  set(x, key, value)
end

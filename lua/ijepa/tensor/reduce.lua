-- Reductions over one dimension, several, or all; sorting. `keepdim` keeps a reduced dimension with
-- size 1.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C

-- Sums of small integers would overflow: they are taken in i64.
local function wide(x)
  local dtype = x:dtype()
  if dtype == "u8" or dtype == "i32" then return x:to "i64" end
  return dtype == "bf16" and x:to "f32" or x
end
local function reduced(f, x, dim, keepdim, signature)
  if keepdim ~= nil then core.check(keepdim, "boolean", signature, "keepdim") end
  local dims, n = core.dims_of(x, dim, f)
  return core.call(C.ij_reduce, f, x.h, n, dims, keepdim and 1 or 0)
end

--- The sum over a dimension, a list of them, or all; of integers i64.
---@torch sum | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:sum(dim, keepdim)
  return reduced("sum", wide(self), dim, keepdim, "x:sum(dim, keepdim)")
end
--- The mean over a dimension, a list of them, or all.
---@torch mean | yes | integers give f32
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:mean(dim, keepdim)
  return reduced("mean", core.as_f32(self), dim, keepdim, "x:mean(dim, keepdim)")
end
--- The product over a dimension, a list of them, or all; of integers i64.
---@torch prod | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:prod(dim, keepdim)
  return reduced("prod", wide(self), dim, keepdim, "x:prod(dim, keepdim)")
end

-- x:max(), x:max(y), x:max(dim, keepdim) as in PyTorch.
local function extreme(f, x, dim, keepdim, signature)
  if core.is(dim) or dim == nil and keepdim == nil then
    if dim then return f == "max" and x:maximum(dim) or x:minimum(dim) end
    return reduced(f, x:dtype() == "bf16" and x:to "f32" or x)
  end
  core.check(dim, "number", signature, "dim")
  if keepdim ~= nil then core.check(keepdim, "boolean", signature, "keepdim") end
  local index = x["arg" .. f](x, dim, true)
  local values = x:gather(dim, index)
  if keepdim then return values, index end
  return values:squeeze(dim), index:squeeze(dim)
end

--- The largest value of all; with a dimension, the largest values along it and their indices (i32,
--- from 0); with a tensor or a number, the larger of each pair.
---@torch max | yes | the indices are i32
---@param dim integer|ijepa.tensor|nil
---@param keepdim boolean?
---@return ijepa.tensor values, ijepa.tensor? index
function T:max(dim, keepdim)
  return extreme("max", self, dim, keepdim, "x:max(dim, keepdim)")
end
--- The smallest value of all; arguments and results as of max.
---@torch min | yes | the indices are i32
---@param dim integer|ijepa.tensor|nil
---@param keepdim boolean?
---@return ijepa.tensor values, ijepa.tensor? index
function T:min(dim, keepdim)
  return extreme("min", self, dim, keepdim, "x:min(dim, keepdim)")
end
--- The largest values over a dimension, a list of them, or all.
---@torch amax | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:amax(dim, keepdim)
  return reduced("max", self, dim, keepdim, "x:amax(dim, keepdim)")
end
--- The smallest values over a dimension, a list of them, or all.
---@torch amin | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:amin(dim, keepdim)
  return reduced("min", self, dim, keepdim, "x:amin(dim, keepdim)")
end
--- The index (i32, from 0) of the largest value along a dimension, or of all values in row-major
--- order; the first of equals.
---@torch argmax | - | i32
---@param dim integer?
---@param keepdim boolean?
---@return ijepa.tensor
function T:argmax(dim, keepdim)
  return reduced("argmax", self, dim, keepdim, "x:argmax(dim, keepdim)")
end
--- The index (i32, from 0) of the smallest value; as argmax.
---@torch argmin | - | i32
---@param dim integer?
---@param keepdim boolean?
---@return ijepa.tensor
function T:argmin(dim, keepdim)
  return reduced("argmin", self, dim, keepdim, "x:argmin(dim, keepdim)")
end

-- The number of values that a reduction takes together.
local function count(x, dim)
  if dim == nil then return x:numel() end
  local n = 1
  for _, d in ipairs(type(dim) == "table" and dim or { dim }) do n = n * x:size(d) end
  return n
end

--- The variance over a dimension, a list of them, or all, with n - correction in the denominator.
---@torch var | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@param correction number? default 1: unbiased
---@return ijepa.tensor
function T:var(dim, keepdim, correction)
  local signature = "x:var(dim, keepdim, correction)"
  if correction ~= nil then core.check(correction, "number", signature, "correction") end
  local x = core.as_f32(self)
  local n = count(x, dim)
  local centred = x - x:mean(dim, dim ~= nil)
  return centred:square():sum(dim, keepdim) * (1 / (n - (correction or 1)))
end
-- s ^ power (default: the square root) of a sum of powers: its gradient at 0 is 0, as in PyTorch.
local function root(s, power)
  local zero = s:eq(0)
  local safe = tensor.where(zero, 1, s)
  return tensor.where(zero, 0, power and safe ^ power or safe:sqrt())
end

--- The standard deviation; arguments as of var.
---@torch std | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@param correction number? default 1: unbiased
---@return ijepa.tensor
function T:std(dim, keepdim, correction)
  return root(self:var(dim, keepdim, correction))
end
--- The p-norm over a dimension, a list of them, or all. p 0 counts what is not 0.
---@torch linalg.vector_norm | yes
---@param p number? default 2; math.huge: the largest absolute value
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:norm(p, dim, keepdim)
  local signature = "x:norm(p, dim, keepdim)"
  p = p == nil and 2 or core.check(p, "number", signature, "p")
  local x = core.as_f32(self)
  if p == 2 then return root(x:square():sum(dim, keepdim)) end
  if p == 1 then return x:abs():sum(dim, keepdim) end
  if p == math.huge then return x:abs():amax(dim, keepdim) end
  if p == -math.huge then return x:abs():amin(dim, keepdim) end
  if p == 0 then return core.as_f32(x:ne(0)):sum(dim, keepdim) end
  return root((x:abs() ^ p):sum(dim, keepdim), 1 / p)
end
--- log of the sum of e^x over a dimension, or all, without overflow.
---@torch logsumexp | yes
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:logsumexp(dim, keepdim)
  local x = core.as_f32(self)
  local top = x:detach():amax(dim, dim ~= nil)
  top = tensor.where(top:abs():eq(math.huge), 0, top)   -- infinities have no difference
  local y = (x - top):exp():sum(dim, dim ~= nil):log() + top
  if dim == nil or keepdim then return y end
  return y:squeeze(dim)
end
--- Sums along a dimension up to each value.
---@torch cumsum | yes
---@param dim integer
---@return ijepa.tensor
function T:cumsum(dim)
  return core.call(C.ij_cumsum, wide(self).h, core.dim_of(self, dim, "cumsum"))
end
--- 1 where any value is not 0, else 0: u8.
---@torch any | - | u8
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:any(dim, keepdim) return self:ne(0):amax(dim, keepdim) end
--- 1 where all values are not 0, else 0: u8.
---@torch all | - | u8
---@param dim integer|integer[]|nil
---@param keepdim boolean?
---@return ijepa.tensor
function T:all(dim, keepdim) return self:ne(0):amin(dim, keepdim) end

-- ---- order

--- The values in rising order along a dimension (default: the last), and their indices (i32, from
--- 0); of equals the first stays first; NaN is last.
---@torch sort | yes | the indices are i32; stable
---@param dim integer?
---@param descending boolean?
---@return ijepa.tensor values, ijepa.tensor index
function T:sort(dim, descending)
  local signature = "x:sort(dim, descending)"
  if descending ~= nil then core.check(descending, "boolean", signature, "descending") end
  local values, index = core.box(), core.box()
  F.check(C.ij_sort(self.h, core.dim_of(self, dim or -1, "sort"), descending and 1 or 0, values,
    index))
  return core.wrap(values[0]), core.wrap(index[0])
end
--- The indices (i32, from 0) that sort along a dimension.
---@torch argsort | - | i32; stable
---@param dim integer?
---@param descending boolean?
---@return ijepa.tensor
function T:argsort(dim, descending)
  local _, index = self:detach():sort(dim, descending)
  return index
end
--- The k largest values along a dimension (default: the last), the largest first, and their indices
--- (i32, from 0). largest = false: the smallest.
---@torch topk | yes | the indices are i32
---@param k integer
---@param dim integer?
---@param largest boolean?
---@return ijepa.tensor values, ijepa.tensor index
function T:topk(k, dim, largest)
  local signature = "x:topk(k, dim, largest)"
  core.check(k, "number", signature, "k")
  local d = core.dim_of(self, dim or -1, "topk") + 1
  if largest ~= false and d == self:dim() and not self:requires_grad() then
    local values, index = core.box(), core.box()
    F.check(C.ij_topk(core.as_f32(self).h, k, values, index))
    return core.wrap(values[0]), core.wrap(index[0])
  end
  if k < 1 or k > self:size(d) then
    F.raise(("topk: k is %s of %d values"):format(tostring(k), self:size(d)))
  end
  local index = self:argsort(d, largest ~= false):narrow(d, 1, k):contiguous()
  return self:gather(d, index), index
end
--- The different values, sorted: (n).
---@torch unique | -
---@return ijepa.tensor
function T:unique()
  local sorted = self:detach():reshape(-1):sort(1)
  local values, n, list = sorted:read(), sorted:numel(), {}
  for i = 0, n - 1 do
    if i == 0 or values[i] ~= values[i - 1] then list[#list + 1] = tonumber(values[i]) end
  end
  if #list == 0 then return tensor.zeros({ 0 }, self:dtype()) end
  return tensor.new(list, self:dtype())
end

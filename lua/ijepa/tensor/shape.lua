-- Properties, other shapes of the same values, copies and conversions.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C
local call = core.call

-- ---- properties

--- The number of dimensions.
---@torch Tensor.dim | -
---@return integer
function T:dim() return C.ij_tensor_ndim(self.h) end
--- The size of a dimension, or the list of all.
---@torch Tensor.size | -
---@param dim integer?
---@return integer|integer[]
function T:size(dim)
  if dim then return tonumber(C.ij_tensor_size(self.h, core.dim_of(self, dim, "size"))) end
  return self:shape()
end
--- The sizes of all dimensions: x:shape(); x.shape is the same list.
---@torch Tensor.shape | -
---@return integer[]
function T:shape()
  local s = {}
  for i = 1, self:dim() do s[i] = tonumber(C.ij_tensor_size(self.h, i - 1)) end
  return s
end
--- The type of the values: "f32", "bf16", "i32", "i64" or "u8".
---@torch Tensor.dtype | - | a method; texts
---@return string
function T:dtype() return core.NAME[tonumber(C.ij_tensor_dtype(self.h))] end
--- The number of values.
---@torch Tensor.numel | -
---@return integer
function T:numel() return tonumber(C.ij_tensor_count(self.h)) end
--- The size of the values in bytes.
---@torch Tensor.nbytes | - | a method
---@return integer
function T:bytes() return self:numel() * core.BYTES[self:dtype()] end

-- ---- views

--- A view of len entries of a dimension, from `start` (from 1) on.
---@torch narrow | yes | start counts from 1
---@param dim integer
---@param start integer
---@param len integer
---@return ijepa.tensor
function T:narrow(dim, start, len)
  local signature = "x:narrow(dim, start, len)"
  core.check(start, "number", signature, "start")
  core.check(len, "number", signature, "len")
  return call(C.ij_tensor_narrow, self.h, core.dim_of(self, dim, "narrow"), start - 1, len)
end
--- A view of one entry of a dimension; the result has one dimension less.
---@torch select | yes | the index counts from 1
---@param dim integer
---@param index integer from 1
---@return ijepa.tensor
function T:select(dim, index)
  core.check(index, "number", "x:select(dim, index)", "index")
  return call(C.ij_tensor_select, self.h, core.dim_of(self, dim, "select"), index - 1)
end
local function shaped(x, op, ...)
  local s, n = core.shape_of(core.list(op, ...), op)
  return call(C.ij_tensor_reshape, x.h, n, s)
end
--- The same values in another shape; one size may be -1. A view where the values lie row by row in
--- memory, else a copy.
---@torch reshape | yes
---@param ... integer|integer[]
---@return ijepa.tensor
function T:reshape(...) return shaped(self:contiguous(), "reshape", ...) end
--- A view in another shape; an error where the values don't lie row by row in memory.
---@torch Tensor.view | yes
---@param ... integer|integer[]
---@return ijepa.tensor
function T:view(...) return shaped(self, "view", ...) end
--- A view with dimensions a and b exchanged.
---@torch transpose | yes
---@param a integer
---@param b integer
---@return ijepa.tensor
function T:transpose(a, b)
  return call(C.ij_tensor_transpose, self.h, core.dim_of(self, a, "transpose"),
    core.dim_of(self, b, "transpose"))
end
--- A matrix transposed: a view.
---@torch t | yes
---@return ijepa.tensor
function T:t()
  if self:dim() ~= 2 then F.raise(("t: the tensor has %d dimensions, not 2"):format(self:dim())) end
  return self:transpose(1, 2)
end
--- A view with the dimensions in another order: x:permute(2, 1, 3).
---@torch permute | yes
---@param ... integer|integer[] every dimension once
---@return ijepa.tensor
function T:permute(...)
  local dims, n = core.dims_of(self, core.list("permute", ...), "permute")
  if n ~= self:dim() then
    F.raise(("permute: %d dimensions are given, the tensor has %d"):format(n, self:dim()))
  end
  return call(C.ij_permute, self.h, n, dims)
end
--- Without dimensions of size 1: without `dim` (one or a list), or without all of them.
---@torch squeeze | yes
---@param dim integer|integer[]|nil
---@return ijepa.tensor
function T:squeeze(dim)
  local shape, gone = {}, {}
  if dim then
    for _, d in ipairs(type(dim) == "table" and dim or { dim }) do
      gone[core.dim_of(self, d, "squeeze") + 1] = true
    end
  end
  for i, size in ipairs(self:shape()) do
    if size ~= 1 or dim and not gone[i] then shape[#shape + 1] = size end
  end
  return self:reshape(shape)
end
--- With one more dimension of size 1 in front of dimension dim; -1: after the last.
---@torch unsqueeze | yes
---@param dim integer
---@return ijepa.tensor
function T:unsqueeze(dim)
  local shape, n = self:shape(), self:dim()
  core.check(dim, "number", "x:unsqueeze(dim)", "dim")
  local position = dim < 0 and n + 2 + dim or dim
  if position < 1 or position > n + 1 then
    F.raise(("unsqueeze: no dimension %s of %d"):format(tostring(dim), n + 1))
  end
  table.insert(shape, position, 1)
  return self:reshape(shape)
end
--- Dimensions first to last as one.
---@torch flatten | yes
---@param first integer? default 1
---@param last integer? default -1
---@return ijepa.tensor
function T:flatten(first, last)
  local a = core.dim_of(self, first or 1, "flatten") + 1
  local b = core.dim_of(self, last or -1, "flatten") + 1
  local shape, n = {}, 1
  for i, size in ipairs(self:shape()) do
    if i < a or i > b then shape[#shape + 1] = size else
      n = n * size
      if i == b then shape[#shape + 1] = n end
    end
  end
  return self:reshape(shape)
end
--- A view in which dimensions of size 1, and new ones in front, have other sizes: -1 keeps a size.
---@torch Tensor.expand | yes
---@param ... integer|integer[]
---@return ijepa.tensor
function T:expand(...)
  local shape = {}
  for i, size in ipairs(core.list("expand", ...)) do shape[i] = size end
  local more = #shape - self:dim()
  for i, size in ipairs(self:shape()) do
    if shape[more + i] == -1 then shape[more + i] = size end
  end
  local s, n = core.shape_of(shape, "expand")
  return call(C.ij_expand, self.h, n, s)
end
--- A copy with the values repeated along each dimension: x:tile(2, 1). (`repeat` is a word of Lua.)
---@torch Tensor.repeat | yes | named tile
---@param ... integer|integer[] a number of times for each dimension
---@return ijepa.tensor
function T:tile(...)
  local times, x = core.list("tile", ...), self
  if #times < self:dim() then
    F.raise(("tile: %d numbers of times for %d dimensions"):format(#times, self:dim()))
  end
  while x:dim() < #times do x = x:unsqueeze(1) end
  local wide, tall = {}, {}
  for i, size in ipairs(x:shape()) do
    wide[2 * i - 1], wide[2 * i], tall[i] = times[i], size, times[i] * size
  end
  if #wide <= 6 then
    local single = {}
    for i, size in ipairs(x:shape()) do single[2 * i - 1], single[2 * i] = 1, size end
    return x:reshape(single):expand(wide):contiguous():reshape(tall)
  end
  for d, n in ipairs(times) do   -- too many dimensions for one view
    local list = {}
    for i = 1, n do list[i] = x end
    x = tensor.cat(list, d)
  end
  return x
end
--- A copy with the order of some dimensions reversed.
---@torch flip | yes
---@param ... integer|integer[] dimensions
---@return ijepa.tensor
function T:flip(...)
  local x, seen = self, {}
  for _, dim in ipairs(core.list("flip", ...)) do
    local d = core.dim_of(x, dim, "flip") + 1
    if seen[d] then F.raise(("flip: dimension %d is given twice"):format(d)) end
    seen[d] = true
    local n = x:size(d)
    x = x:index_select(d, tensor.arange(n - 1, -1, -1, "i32"))
  end
  return x
end
--- A copy with the values of a dimension moved on by `shift`, those beyond the end to the front.
---@torch roll | yes
---@param shift integer
---@param dim integer
---@return ijepa.tensor
function T:roll(shift, dim)
  core.check(shift, "number", "x:roll(shift, dim)", "shift")
  local n = self:size(core.dim_of(self, dim, "roll") + 1)
  shift = n > 0 and shift % n or 0
  if shift == 0 then return self:clone() end
  return tensor.cat({ self:narrow(dim, n - shift + 1, shift), self:narrow(dim, 1, n - shift) }, dim)
end
--- Windows of `size` entries of a dimension, `step` apart, as a new last dimension.
---@torch Tensor.unfold | yes | a copy
---@param dim integer
---@param size integer
---@param step integer
---@return ijepa.tensor
function T:unfold(dim, size, step)
  local signature = "x:unfold(dim, size, step)"
  core.check(size, "number", signature, "size")
  core.check(step, "number", signature, "step")
  local d = core.dim_of(self, dim, "unfold") + 1
  local n = self:size(d)
  if size < 1 or size > n or step < 1 then
    F.raise(("unfold: windows of %s, %s apart, in %d entries"):format(tostring(size),
      tostring(step), n))
  end
  local windows, list = math.floor((n - size) / step) + 1, {}
  for w = 0, windows - 1 do
    for i = 0, size - 1 do list[#list + 1] = w * step + i end
  end
  local shape, order = self:shape(), {}
  shape[d] = windows
  table.insert(shape, d + 1, size)
  for i = 1, #shape do
    if i ~= d + 1 then order[#order + 1] = i end
  end
  order[#order + 1] = d + 1
  return self:index_select(d, tensor.new(list, "i32")):reshape(shape):permute(order)
end

-- ---- copies

--- A copy with memory of its own; kept: it stays valid after the step in which it is made.
---@torch clone | yes
---@param kept boolean?
---@return ijepa.tensor
function T:clone(kept)
  return call(C.ij_tensor_clone, self.h, C.ij_tensor_dtype(self.h), kept and 1 or 0)
end
--- This tensor where its values lie row by row in memory, else a copy.
---@torch Tensor.contiguous | yes
---@return ijepa.tensor
function T:contiguous() return C.ij_tensor_contiguous(self.h) ~= 0 and self or self:clone() end
--- A copy in another type.
---@torch Tensor.to | yes | types only; a tensor lives on the device on which it was made
---@param dtype string
---@return ijepa.tensor
function T:to(dtype)
  if dtype == self:dtype() then return self end
  if not core.DTYPE[dtype] then F.raise(("to: unknown dtype '%s'"):format(tostring(dtype))) end
  if dtype == "bf16" then core.without_gradient(self, "to 'bf16'", "use detach()") end
  return call(C.ij_tensor_clone, self.h, core.DTYPE[dtype], 0)
end
--- Overwrites the values with those of a tensor of the same shape.
---@torch Tensor.copy_ | -
---@param src ijepa.tensor
---@return ijepa.tensor
function T:copy_(src)
  core.want(src, "src", "copy_")
  core.writable(self, "copy_")
  core.without_gradient(src, "copy_", "copy its detach()")
  F.check(C.ij_tensor_copy(self.h, src.h))
  return self
end
--- Adds scale * x in place.
---@torch Tensor.add_ | -
---@param x ijepa.tensor
---@param scale number?
---@return ijepa.tensor
function T:add_(x, scale)
  core.want(x, "x", "add_")
  core.writable(self, "add_")
  core.without_gradient(x, "add_", "add its detach()")
  F.check(C.ij_add_scaled(self.h, x.h, scale or 1))
  return self
end
--- Sets every value.
---@torch Tensor.fill_ | -
---@param value number
---@return ijepa.tensor
function T:fill_(value)
  core.writable(self, "fill_")
  if C.ij_tensor_contiguous(self.h) ~= 0 and self:dtype() == "f32" then
    F.check(C.ij_fill(self.h, value))
    return self
  end
  return self:copy_(tensor.full(self:shape(), value, self:dtype()))
end

-- ---- reading

--- The values in row-major order, as a C array of the tensor's type (bf16 as uint16_t), copied to
--- the host.
---@return ffi.cdata*
function T:read()
  local t = C.ij_tensor_contiguous(self.h) ~= 0 and self or self:clone()
  local n = t:numel()
  local buf = F.new(core.CTYPE[t:dtype()] .. "[?]", math.max(n, 1))
  F.check(C.ij_tensor_read(t.h, buf, t:bytes()))
  if t:dtype() == "f32" then C.ij_plain_nans(buf, n) end
  return buf, n
end
--- The value of a tensor of one element.
---@torch Tensor.item | -
---@return number
function T:item()
  if self:numel() ~= 1 then F.raise(("item: the tensor has %d elements"):format(self:numel())) end
  return tonumber((self:dtype() == "bf16" and self:to "f32" or self):read()[0])
end

---@class ijepa.reading
local Reading = {}
Reading.__index = Reading
--- Starts to read the value of a tensor of one element without waiting; get() of the result waits
--- for it.
---@return ijepa.reading
function T:item_later()
  local out = F.new "ij_reading *[1]"
  F.check(C.ij_reading_begin(self.h, out))
  return setmetatable({ h = F.gc(out[0], function(r) C.ij_reading_end(r, nil, 0) end) }, Reading)
end
--- The value at the time of item_later(). Can be called once.
---@return number
function Reading:get()
  local value, h = F.new "float[1]", F.gc(self.h, nil)
  self.h = nil
  F.check(C.ij_reading_end(h, value, 4))
  C.ij_plain_nans(value, 1)
  return value[0]
end
--- Nested lists of the values.
---@torch Tensor.tolist | -
---@return table|number
function T:totable()
  local buf = (self:dtype() == "bf16" and self:to "f32" or self):read()
  local shape, position = self:shape(), 0
  local function build(d)
    if d > #shape then
      position = position + 1
      return tonumber(buf[position - 1])
    end
    local list = {}
    for i = 1, shape[d] do list[i] = build(d + 1) end
    return list
  end
  return build(1)
end

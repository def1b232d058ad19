-- Tensors with the names of PyTorch; devices (`device`) and linear algebra (`linalg`). Dimensions
-- count from 1, or from -1 at the end. Values in tensors, such as patches and labels, count from 0
-- and are never converted.
-- Uses: base.
local F = require "ijepa.base.ffi"
local device = require "ijepa.tensor.device"
local C = F.C

---@class ijepa.tensor
local T = {}
local tensor = {}
local DTYPE = { f32 = 0, bf16 = 1, i32 = 2, i64 = 3, u8 = 4 }
local NAME = { [0] = "f32", "bf16", "i32", "i64", "u8" }
local CTYPE = { f32 = "float", bf16 = "uint16_t", i32 = "int32_t", i64 = "int64_t", u8 = "uint8_t" }
local BYTES = { f32 = 4, bf16 = 2, i32 = 4, i64 = 8, u8 = 1 }

-- Lua's collector does not see C memory: it runs here when that memory has grown by half, and by at
-- least SLACK bytes, since the last run. In a step there is no need: its end frees all tensors.
local SLACK, seen = 64 * 2 ^ 20, 0
local function collect_if_needed()
  if device.stepping then return end
  local live = tonumber(C.ij_mem_live())
  if live > seen + math.max(SLACK, seen / 2) then
    collectgarbage()
    seen = tonumber(C.ij_mem_live())
  elseif live < seen then
    seen = live
  end
end

local function wrap(h) return setmetatable({ h = F.gc(h, C.ij_tensor_free) }, T) end
local box = F.typeof "ij_tensor *[1]"
local function invoke(f, out, ...)
  local n = select("#", ...)
  local a, b, c, d, e, g = ...
  if n == 1 then return f(a, out)
  elseif n == 2 then return f(a, b, out)
  elseif n == 3 then return f(a, b, c, out)
  elseif n == 4 then return f(a, b, c, d, out)
  elseif n == 5 then return f(a, b, c, d, e, out) end
  return f(a, b, c, d, e, g, out)
end
local function call(f, ...)   -- f(..., out) -> tensor, or an error at the user's line
  collect_if_needed()
  local out = box()
  local st = invoke(f, out, ...)
  if st == C.IJ_ENOMEM then   -- unreachable tensors may still hold memory
    collectgarbage()
    st = invoke(f, out, ...)
  end
  F.check(st)
  return wrap(out[0])
end
tensor.wrap, tensor.call = wrap, call

local function is_tensor(x) return getmetatable(x) == T end
tensor.is = is_tensor
local function want(x, name, op)
  if not is_tensor(x) then
    F.raise(("%s: '%s' is %s, expected a tensor"):format(op, name, type(x)))
  end
  return x.h
end
tensor.want = want
local function opt(x, name, op) return x ~= nil and want(x, name, op) or nil end

-- Refuses arguments that an op would ignore: x:softmax(1) must not be a softmax over the last
-- dimension.
local function nothing_more(signature, ...)
  if select("#", ...) > 0 then
    F.raise(("%s: unexpected argument; the signature is %s"):format(signature:match "[%w_]+%f[(]",
      signature))
  end
end

local function shape_of(shape, op)
  if type(shape) ~= "table" then F.raise(op .. ": the shape is a list of sizes such as {2, 3}") end
  return F.new("int64_t[?]", math.max(#shape, 1), shape), #shape
end
local function dim_of(t, dim, op)
  local n = C.ij_tensor_ndim(t.h)
  local d = dim < 0 and n + dim or dim - 1
  if type(dim) ~= "number" or d < 0 or d >= n then
    F.raise(("%s: no dimension %s of %d"):format(op, tostring(dim), n))
  end
  return d
end

--- A new tensor with undefined values.
---@param shape integer[]
---@param dtype string?  "f32" (default), "bf16", "i32", "i64", "u8"
---@param kept boolean?  stays valid after the step in which it is made
---@return ijepa.tensor
function tensor.empty(shape, dtype, kept)
  local s, n = shape_of(shape, "empty")
  local t = DTYPE[dtype or "f32"]
  if not t then
    F.raise(("empty: unknown dtype '%s': f32, bf16, i32, i64 or u8"):format(tostring(dtype)))
  end
  return call(kept and C.ij_tensor_new_kept or C.ij_tensor_new, device.get(), t, n, s)
end

--- A new tensor of zeros.
---@param shape integer[]
---@param dtype string?
---@param kept boolean?
---@return ijepa.tensor
function tensor.zeros(shape, dtype, kept)
  local t = tensor.empty(shape, dtype, kept)
  local n = t:bytes()
  local zero = F.new("uint8_t[?]", math.max(n, 1))
  F.check(C.ij_tensor_write(t.h, zero, n))
  return t
end

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
---@param values number|table
---@param dtype string?
---@return ijepa.tensor
function tensor.new(values, dtype)
  dtype = dtype or "f32"
  if not CTYPE[dtype] or dtype == "bf16" then
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
  local buf, at = F.new(CTYPE[dtype] .. "[?]", math.max(n, 1)), 0
  local function fill(x, depth)
    if depth > #shape or type(x) == "number" then
      if type(x) ~= "number" then F.raise("tensor: the lists differ in depth") end
      if at >= n then F.raise "tensor: the lists differ in length" end
      buf[at], at = x, at + 1
    else
      if type(x) ~= "table" or #x ~= shape[depth] then
        F.raise "tensor: the lists differ in length"
      end
      for i = 1, #x do fill(x[i], depth + 1) end
    end
  end
  fill(values, 1)
  return tensor.from_pointer(buf, shape, dtype)
end

-- ---- properties
--- The number of dimensions.
---@return integer
function T:dim() return C.ij_tensor_ndim(self.h) end
--- The size of a dimension, or the list of all.
---@param dim integer?
---@return integer|integer[]
function T:size(dim)
  if dim then return tonumber(C.ij_tensor_size(self.h, dim_of(self, dim, "size"))) end
  return self:shape()
end
--- The sizes of all dimensions.
---@return integer[]
function T:shape()
  local s = {}
  for i = 1, self:dim() do s[i] = tonumber(C.ij_tensor_size(self.h, i - 1)) end
  return s
end
--- The type of the values: "f32", "bf16", "i32", "i64" or "u8".
---@return string
function T:dtype() return NAME[tonumber(C.ij_tensor_dtype(self.h))] end
--- The number of values.
---@return integer
function T:numel() return tonumber(C.ij_tensor_count(self.h)) end
--- The size of the values in bytes.
---@return integer
function T:bytes() return self:numel() * BYTES[self:dtype()] end

--- The values in row-major order, as a C array of the tensor's type (bf16 as uint16_t), copied to
--- the host.
---@return ffi.cdata*
function T:read()
  local t = C.ij_tensor_contiguous(self.h) ~= 0 and self or self:clone()
  local n = t:numel()
  local buf = F.new(CTYPE[t:dtype()] .. "[?]", math.max(n, 1))
  F.check(C.ij_tensor_read(t.h, buf, t:bytes()))
  if t:dtype() == "f32" then C.ij_plain_nans(buf, n) end
  return buf, n
end
--- The value of a tensor of one element.
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
---@return table|number
function T:totable()
  local buf = (self:dtype() == "bf16" and self:to "f32" or self):read()
  local shape, at = self:shape(), 0
  local function build(d)
    if d > #shape then
      at = at + 1
      return tonumber(buf[at - 1])
    end
    local list = {}
    for i = 1, shape[d] do list[i] = build(d + 1) end
    return list
  end
  return build(1)
end

local function row_text(buf, from, n)
  local parts = {}
  for i = 0, math.min(n, 8) - 1 do
    parts[#parts + 1] = ("%10.5g"):format(tonumber(buf[from + i]))
  end
  return table.concat(parts, " ") .. (n > 8 and "  ..." or "")
end
function T:__tostring()
  local shape = self:shape()
  local ok, buf = pcall(
    function() return (self:dtype() == "bf16" and self:to "f32" or self):read() end)
  local lines = { ("tensor %s (%s) on %s"):format(self:dtype(), table.concat(shape, ", "),
    F.string(C.ij_device_name(C.ij_tensor_device(self.h)))) }
  if not ok then return lines[1] .. ": its step has ended" end
  local cols = shape[#shape] or 1
  local rows = cols > 0 and self:numel() / cols or 0
  for r = 0, math.min(rows, 6) - 1 do lines[#lines + 1] = row_text(buf, r * cols, cols) end
  if rows > 6 then lines[#lines + 1] = ("       ... %d rows in all"):format(rows) end
  return table.concat(lines, "\n")
end

-- ---- views and copies
--- A view of len entries of a dimension, from `start` (from 1) on.
---@param dim integer
---@param start integer
---@param len integer
---@return ijepa.tensor
function T:narrow(dim, start, len)
  return call(C.ij_tensor_narrow, self.h, dim_of(self, dim, "narrow"), start - 1, len)
end
--- A view of one entry of a dimension; the result has one dimension less.
---@param dim integer
---@param index integer from 1
---@return ijepa.tensor
function T:select(dim, index)
  return call(C.ij_tensor_select, self.h, dim_of(self, dim, "select"), index - 1)
end
--- A view of the same values in another shape; one size may be -1.
---@param ... integer|integer[]
---@return ijepa.tensor
function T:reshape(...)
  local shape = type((...)) == "table" and (...) or { ... }
  local s, n = shape_of(shape, "reshape")
  return call(C.ij_tensor_reshape, self.h, n, s)
end
T.view = T.reshape
--- A view with dimensions a and b exchanged.
---@param a integer
---@param b integer
---@return ijepa.tensor
function T:transpose(a, b)
  return call(C.ij_tensor_transpose, self.h, dim_of(self, a, "transpose"),
    dim_of(self, b, "transpose"))
end
--- A copy with memory of its own; kept: it stays valid after the step in which it is made.
---@param kept boolean?
---@return ijepa.tensor
function T:clone(kept)
  return call(C.ij_tensor_clone, self.h, C.ij_tensor_dtype(self.h), kept and 1 or 0)
end
--- This tensor where its values lie row by row in memory, else a copy.
---@return ijepa.tensor
function T:contiguous() return C.ij_tensor_contiguous(self.h) ~= 0 and self or self:clone() end
--- A copy in another type.
---@param dtype string
---@return ijepa.tensor
function T:to(dtype)
  if dtype == self:dtype() then return self end
  if not DTYPE[dtype] then F.raise(("to: unknown dtype '%s'"):format(tostring(dtype))) end
  return call(C.ij_tensor_clone, self.h, DTYPE[dtype], 0)
end
--- Overwrites the values with those of a tensor of the same shape.
---@param src ijepa.tensor
---@return ijepa.tensor
function T:copy_(src)
  F.check(C.ij_tensor_copy(self.h, want(src, "src", "copy_")))
  return self
end

-- ---- gradients
--- Switches gradients for this tensor on (default) or off.
---@param on boolean?
---@return ijepa.tensor
function T:requires_grad_(on)
  C.ij_tensor_require_grad(self.h, on == false and 0 or 1)
  return self
end
--- Whether gradients are computed for this tensor.
---@return boolean
function T:requires_grad() return C.ij_tensor_requires_grad(self.h) ~= 0 end
--- The gradient after backward(), or nil.
---@return ijepa.tensor?
function T:grad()
  local g = C.ij_tensor_grad(self.h)
  if g == nil then return nil end
  C.ij_tensor_ref(g)
  return wrap(g)
end
--- Computes the gradients of everything that this loss depends on; the loss has one element.
function T:backward() F.check(C.ij_backward(self.h, 0)) end

-- ---- ops
--- x (..., K) times the transposed w (N, K), plus b (N): (..., N).
---@param w ijepa.tensor
---@param b ijepa.tensor?
---@return ijepa.tensor
function T:linear(w, b)
  return call(C.ij_linear, self.h, want(w, "w", "linear"), opt(b, "b", "linear"))
end
--- GELU of each value.
---@return ijepa.tensor
function T:gelu() return call(C.ij_gelu, self.h) end
--- max(x, 0) of each value.
---@return ijepa.tensor
function T:relu() return call(C.ij_relu, self.h) end
--- Layer norm over the last dimension, with scale w (D) and shift b (D) or without both; eps 1e-5.
---@param w ijepa.tensor?
---@param b ijepa.tensor?
---@param eps number?
---@return ijepa.tensor
function T:layer_norm(w, b, eps)
  return call(C.ij_layer_norm, self.h, opt(w, "w", "layer_norm"), opt(b, "b", "layer_norm"),
    eps or 1e-5)
end
--- Self-attention of packed queries, keys and values: qkv (B, N, 3 A S) as [3][A][S] -> (B, N, A
--- S).
---@param heads integer
---@return ijepa.tensor
function T:attention(heads) return call(C.ij_attention, self.h, heads) end
--- Tokens by number: x (B, N, D) at index i32 (M, B, T), from 0 -> (M * B, T, D).
---@param index ijepa.tensor
---@return ijepa.tensor
function T:gather(index) return call(C.ij_gather, self.h, want(index, "index", "gather")) end
--- The mean over a dimension, or over everything.
---@param dim integer?
---@param ... nil no further arguments
---@return ijepa.tensor
function T:mean(dim, ...)
  nothing_more("x:mean(dim)", ...)
  return call(C.ij_mean, self.h, dim and dim_of(self, dim, "mean") or -1)
end
--- The sum over a dimension, or over everything.
---@param dim integer?
---@param ... nil no further arguments
---@return ijepa.tensor
function T:sum(dim, ...)
  nothing_more("x:sum(dim)", ...)
  return self:mean(dim) * (dim and self:size(dim) or self:numel())
end
--- The index (from 0) of the largest along the last dimension, i32.
---@param ... nil no further arguments
---@return ijepa.tensor
function T:argmax(...)
  nothing_more("x:argmax(), over the last dimension", ...)
  return call(C.ij_argmax, self.h)
end
--- The k largest along the last dimension, the largest first: values (..., k) f32 and their indices
--- i32, from 0. No gradient.
---@param k integer
---@param ... nil no further arguments
---@return ijepa.tensor values, ijepa.tensor index
function T:topk(k, ...)
  nothing_more("x:topk(k), over the last dimension", ...)
  local values, index = box(), box()
  F.check(C.ij_topk(self.h, k, values, index))
  return wrap(values[0]), wrap(index[0])
end
--- Softmax over the last dimension.
---@param ... nil no further arguments
---@return ijepa.tensor
function T:softmax(...)
  nothing_more("x:softmax(), over the last dimension", ...)
  return call(C.ij_softmax, self.h)
end
--- Matrix product: (M, K) times (K, N) -> (M, N), or P of them: (P, M, K) times (P, K, N) -> (P, M,
--- N).
---@param b ijepa.tensor
---@param ta boolean? this tensor is stored transposed: (K, M)
---@param tb boolean? b is stored transposed: (N, K)
---@return ijepa.tensor
function T:matmul(b, ta, tb)
  return call(C.ij_matmul, self.h, want(b, "b", "matmul"), ta and 1 or 0, tb and 1 or 0)
end
--- Entries of the first dimension in any order, also repeated: x (R, ...) at index (T) -> (T, ...).
---@param index ijepa.tensor|integer[] i32, or a list, from 0
---@return ijepa.tensor
function T:rows(index)
  if not is_tensor(index) then index = tensor.new(index, "i32") end
  local shape, n, R = self:shape(), index:numel(), self:size(1)
  local y = self:reshape(1, R, self:numel() / math.max(R, 1)):gather(index:reshape(1, 1, n))
  shape[1] = n
  return y:reshape(shape)
end
--- Adds scale * x in place.
---@param x ijepa.tensor
---@param scale number?
---@return ijepa.tensor
function T:add_(x, scale)
  F.check(C.ij_add_scaled(self.h, want(x, "x", "add_"), scale or 1))
  return self
end
--- Sets every value.
---@param value number
---@return ijepa.tensor
function T:fill_(value)
  F.check(C.ij_fill(self.h, value))
  return self
end

local BINARY = { ["+"] = "add", ["-"] = "sub", ["*"] = "mul", ["/"] = "div" }
local function binary(op, x, y)
  if is_tensor(x) and is_tensor(y) then return call(C.ij_binary, BINARY[op], x.h, y.h) end
  if is_tensor(x) and type(y) == "number" then
    if op == "+" then return call(C.ij_affine, x.h, 1, y) end
    if op == "-" then return call(C.ij_affine, x.h, 1, -y) end
    return call(C.ij_affine, x.h, op == "*" and y or 1 / y, 0)
  end
  if type(x) == "number" and is_tensor(y) and op ~= "/" then
    if op == "+" then return call(C.ij_affine, y.h, 1, x) end
    return op == "-" and call(C.ij_affine, y.h, -1, x) or call(C.ij_affine, y.h, x, 0)
  end
  F.raise(("%s: a %s and a %s cannot be combined"):format(BINARY[op],
    is_tensor(x) and "tensor" or type(x),
    is_tensor(y) and "tensor" or type(y)))
end
T.__add = function(x, y) return binary("+", x, y) end
T.__sub = function(x, y) return binary("-", x, y) end
T.__mul = function(x, y) return binary("*", x, y) end
T.__div = function(x, y) return binary("/", x, y) end
T.__unm = function(x) return call(C.ij_affine, x.h, -1, 0) end
T.__index = function(t, key)
  if type(key) == "number" then return T.select(t, 1, key) end
  return T[key]
end

-- ---- ops of several tensors
--- Joins up to 8 tensors along the last dimension.
---@param list ijepa.tensor[]
---@return ijepa.tensor
function tensor.concat(list)
  local hs = F.new("ij_tensor *[?]", math.max(#list, 1))
  for i, t in ipairs(list) do hs[i - 1] = want(t, "list", "concat") end
  return call(C.ij_concat, hs, #list)
end
--- Mean smooth L1 loss (beta 1). y may repeat: x (outer, repeat, inner), y (outer, inner).
---@param x ijepa.tensor
---@param y ijepa.tensor
---@param beta number?
---@param outer integer?
---@return ijepa.tensor
function tensor.smooth_l1(x, y, beta, outer)
  return call(C.ij_smooth_l1, want(x, "x", "smooth_l1"), want(y, "y", "smooth_l1"), beta or 1,
    outer or 1)
end
--- Mean cross entropy of logits (R, n) and labels i32 (R), from 0; rows with a negative label are
--- ignored.
---@param logits ijepa.tensor
---@param label ijepa.tensor
---@param smoothing number?
---@return ijepa.tensor
function tensor.cross_entropy(logits, label, smoothing)
  return call(C.ij_cross_entropy, want(logits, "logits", "cross_entropy"),
    want(label, "label", "cross_entropy"),
    smoothing or 0)
end
--- Batch norm of x (R, D) per column; mean and var (D) are the running statistics.
---@param x ijepa.tensor
---@param mean ijepa.tensor
---@param var ijepa.tensor
---@param training boolean
---@param momentum number?
---@param eps number?
---@return ijepa.tensor
function tensor.batch_norm(x, mean, var, training, momentum, eps)
  return call(C.ij_batch_norm, want(x, "x", "batch_norm"), want(mean, "mean", "batch_norm"),
    want(var, "var", "batch_norm"),
    momentum or .1, eps or 1e-5, training and 1 or 0)
end
--- Bytes u8 (B, H, W, 3) -> f32 (B, 3, H, W): (p / 255 - mean) / std, per channel.
---@param pixels ijepa.tensor
---@param mean number[]
---@param std number[]
---@return ijepa.tensor
function tensor.normalise(pixels, mean, std)
  return call(C.ij_normalise, want(pixels, "pixels", "normalise"),
    F.new("double[3]", mean or { .485, .456, .406 }),
    F.new("double[3]", std or { .229, .224, .225 }))
end
--- The norm of all gradients together, and whether they are finite.
---@param list ijepa.tensor[]
---@return number norm, boolean finite
function tensor.norm(list)
  local hs, sum, finite = F.new("ij_tensor *[?]", math.max(#list, 1)), F.new "double[1]",
    F.new "int[1]"
  for i, t in ipairs(list) do hs[i - 1] = t.h end
  F.check(C.ij_sum_squares(hs, #list, sum, finite))
  return math.sqrt(sum[0]), finite[0] ~= 0
end

tensor.methods = T
return tensor

-- Functions of each value, arithmetic and comparisons of two tensors or a tensor and a number with
-- NumPy's broadcasting, and the operators.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C
local call, is = core.call, core.is

-- ---- types

-- Types by rank: of two tensors both take the higher one; bf16 computes as f32.
local RANK = { u8 = 1, i32 = 2, i64 = 3, bf16 = 4, f32 = 4 }
local KINDS = { "u8", "i32", "i64", "f32" }

-- x with a type that kernels compute with.
local function computable(x) return x:dtype() == "bf16" and x:to "f32" or x end
local function as_f32(x) return x:dtype() == "f32" and x or x:to "f32" end
core.as_f32 = as_f32

local function promoted(x, y)
  local a, b = x:dtype(), y:dtype()
  if a == b and a ~= "bf16" then return x, y end
  local kind = KINDS[math.max(RANK[a], RANK[b])]
  return x:to(kind), y:to(kind)
end

--- Tensors of one type: the highest of theirs.
---@param list ijepa.tensor[]
---@return ijepa.tensor[]
function core.promoted(list)
  local rank, same = 0, true
  for _, x in ipairs(list) do
    rank = math.max(rank, RANK[x:dtype()])
    same = same and x:dtype() == list[1]:dtype()
  end
  if same then return list end
  local out = {}
  for i, x in ipairs(list) do out[i] = x:to(KINDS[rank]) end
  return out
end

-- A number and a tensor of integers stay integers where the number is whole.
local function with_number(x, number)
  x = computable(x)
  return x:dtype() ~= "f32" and number % 1 ~= 0 and x:to "f32" or x
end

-- ---- one tensor
local function unary(f, x, a, b) return call(C.ij_unary, f, x.h, a or 0, b or 0) end
local INTEGER = { abs = true, sign = true, neg = true, square = true }
local function float_unary(f, x)
  core.want(x, "x", f)
  return unary(f, INTEGER[f] and computable(x) or as_f32(x))
end

--- e^x of each value.
---@torch exp | yes
---@return ijepa.tensor
function T:exp() return float_unary("exp", self) end

--- The natural logarithm of each value.
---@torch log | yes
---@return ijepa.tensor
function T:log() return float_unary("log", self) end

--- log(1 + x) of each value, exact near 0.
---@torch log1p | yes
---@return ijepa.tensor
function T:log1p() return float_unary("log1p", self) end

--- e^x - 1 of each value, exact near 0.
---@torch expm1 | yes
---@return ijepa.tensor
function T:expm1() return float_unary("expm1", self) end

--- The square root of each value.
---@torch sqrt | yes
---@return ijepa.tensor
function T:sqrt() return float_unary("sqrt", self) end

--- 1 / sqrt(x) of each value.
---@torch rsqrt | yes
---@return ijepa.tensor
function T:rsqrt() return float_unary("rsqrt", self) end

--- The absolute value of each value; integers too.
---@torch abs | yes
---@return ijepa.tensor
function T:abs() return float_unary("abs", self) end

--- -1, 0 or 1 of each value; its gradient is 0.
---@torch sign | yes
---@return ijepa.tensor
function T:sign() return float_unary("sign", self) end

--- The largest whole number not above each value; its gradient is 0.
---@torch floor | yes
---@return ijepa.tensor
function T:floor() return float_unary("floor", self) end

--- The smallest whole number not below each value; its gradient is 0.
---@torch ceil | yes
---@return ijepa.tensor
function T:ceil() return float_unary("ceil", self) end

--- The nearest whole number of each value, the even one of two; its gradient is 0.
---@torch round | yes
---@return ijepa.tensor
function T:round() return float_unary("round", self) end

--- The sine of each value.
---@torch sin | yes
---@return ijepa.tensor
function T:sin() return float_unary("sin", self) end

--- The cosine of each value.
---@torch cos | yes
---@return ijepa.tensor
function T:cos() return float_unary("cos", self) end

--- The hyperbolic tangent of each value.
---@torch tanh | yes
---@return ijepa.tensor
function T:tanh() return float_unary("tanh", self) end

--- 1 / (1 + e^-x) of each value.
---@torch sigmoid | yes
---@return ijepa.tensor
function T:sigmoid() return float_unary("sigmoid", self) end

--- x / (1 + e^-x) of each value.
---@torch nn.functional.silu | yes
---@return ijepa.tensor
function T:silu() return float_unary("silu", self) end

--- The error function of each value.
---@torch erf | yes
---@return ijepa.tensor
function T:erf() return float_unary("erf", self) end

--- -x of each value; integers too.
---@torch neg | yes
---@return ijepa.tensor
function T:neg() return float_unary("neg", self) end

--- 1 / x of each value.
---@torch reciprocal | yes
---@return ijepa.tensor
function T:reciprocal() return float_unary("reciprocal", self) end

--- x * x of each value; integers too.
---@torch square | yes
---@return ijepa.tensor
function T:square() return float_unary("square", self) end

--- Each value limited to low..high; nil: no limit on that side. Integers too.
---@torch clamp | yes
---@param low number?
---@param high number?
---@return ijepa.tensor
function T:clamp(low, high)
  local signature = "x:clamp(low, high)"
  if low ~= nil then core.check(low, "number", signature, "low") end
  if high ~= nil then core.check(high, "number", signature, "high") end
  if low == nil and high == nil then F.raise "clamp: give low, high or both" end
  return unary("clamp", computable(self), low or -math.huge, high or math.huge)
end

-- ---- two tensors, or a tensor and a number on either side
local FLOAT_ONLY = { div = true, pow = true }

local function binary(f, x, y)
  local a, b = is(x), is(y)
  if a and b then
    if FLOAT_ONLY[f] then x, y = as_f32(x), as_f32(y) else x, y = promoted(x, y) end
    return call(C.ij_binary, f, x.h, y.h)
  end
  if a and type(y) == "number" then
    x = FLOAT_ONLY[f] and as_f32(x) or with_number(x, y)
    return call(C.ij_scalar, f, x.h, y, 0)
  end
  if b and type(x) == "number" then
    y = FLOAT_ONLY[f] and as_f32(y) or with_number(y, x)
    return call(C.ij_scalar, f, y.h, x, 1)
  end
  local function kind(v) return is(v) and "tensor" or type(v) end
  F.raise(("%s: a %s and a %s cannot be combined"):format(f, kind(x), kind(y)))
end

--- x + y; y is a tensor or a number. Shapes broadcast.
---@torch add | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:add(y)
  return binary("add", self, y)
end

--- x - y; y is a tensor or a number. Shapes broadcast.
---@torch sub | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:sub(y)
  return binary("sub", self, y)
end

--- x * y; y is a tensor or a number. Shapes broadcast.
---@torch mul | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:mul(y)
  return binary("mul", self, y)
end

--- x / y, in f32; y is a tensor or a number. Shapes broadcast.
---@torch div | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:div(y)
  return binary("div", self, y)
end

--- x to the power of y, in f32; y is a tensor or a number. Shapes broadcast.
---@torch pow | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:pow(y)
  return binary("pow", self, y)
end

--- The smaller of x and y; y is a tensor or a number. Shapes broadcast.
---@torch minimum | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:minimum(y)
  return binary("min", self, y)
end

--- The larger of x and y; y is a tensor or a number. Shapes broadcast.
---@torch maximum | yes
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:maximum(y)
  return binary("max", self, y)
end

--- 1 where x equals y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch eq | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:eq(y)
  return binary("eq", self, y)
end

--- 1 where x differs from y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch ne | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:ne(y)
  return binary("ne", self, y)
end

--- 1 where x is below y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch lt | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:lt(y)
  return binary("lt", self, y)
end

--- 1 where x is at most y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch le | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:le(y)
  return binary("le", self, y)
end

--- 1 where x is above y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch gt | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:gt(y)
  return binary("gt", self, y)
end

--- 1 where x is at least y, else 0: u8. y is a tensor or a number. Shapes broadcast.
---@torch ge | - | u8, not bool
---@param y ijepa.tensor|number
---@return ijepa.tensor
function T:ge(y)
  return binary("ge", self, y)
end

--- x where cond is not 0, else y; x and y are tensors or numbers. Shapes broadcast.
---@torch where | yes
---@param cond ijepa.tensor u8 or another integer type
---@param x ijepa.tensor|number
---@param y ijepa.tensor|number
---@return ijepa.tensor
function tensor.where(cond, x, y)
  core.want(cond, "cond", "where")
  if cond:dtype() ~= "u8" then cond = cond:ne(0) end
  local function made(v, other)
    if is(v) then return v end
    core.check(v, "number", "tensor.where(cond, x, y)", "x or y")
    return tensor.full({ 1 }, v, is(other) and other:dtype() ~= "bf16" and v % 1 == 0
      and other:dtype() or "f32")
  end
  x, y = promoted(made(x, y), made(y, x))
  return call(C.ij_where, cond.h, x.h, y.h)
end

--- x with `value` where mask is not 0.
---@torch Tensor.masked_fill | yes
---@param mask ijepa.tensor u8 or another integer type, of a shape that broadcasts to x's
---@param value number
---@return ijepa.tensor
function T:masked_fill(mask, value)
  core.check(value, "number", "x:masked_fill(mask, value)", "value")
  return tensor.where(mask, value, self)
end

--- 1 where mask is 0, else 0: u8.
---@torch logical_not | -
---@return ijepa.tensor
function T:logical_not() return self:eq(0) end

T.__add = function(x, y) return binary("add", x, y) end
T.__sub = function(x, y) return binary("sub", x, y) end
T.__mul = function(x, y) return binary("mul", x, y) end
T.__div = function(x, y) return binary("div", x, y) end
T.__pow = function(x, y) return binary("pow", x, y) end
T.__unm = function(x) return x:neg() end
local function no_order()
  F.raise "tensors have no order: write x:lt(y), x:le(y), x:gt(y) or x:ge(y)"
end
T.__lt, T.__le = no_order, no_order
T.__concat = function()
  F.raise "tensors are joined by tensor.cat { x, y }, texts by tostring(x)"
end

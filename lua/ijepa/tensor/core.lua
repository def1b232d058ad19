-- What every family of tensor functions uses: the tensor's class, calls of the C library, and the
-- checks of arguments. The families add their methods to `methods` and their functions to `tensor`.
local F = require "ijepa.base.ffi"
local device = require "ijepa.tensor.device"
local C = F.C

---@class ijepa.tensor
local T = {}
local core = { methods = T, tensor = {} }
core.DTYPE = { f32 = 0, bf16 = 1, i32 = 2, i64 = 3, u8 = 4 }
core.NAME = { [0] = "f32", "bf16", "i32", "i64", "u8" }
core.CTYPE = { f32 = "float", bf16 = "uint16_t", i32 = "int32_t", i64 = "int64_t", u8 = "uint8_t" }
core.BYTES = { f32 = 4, bf16 = 2, i32 = 4, i64 = 8, u8 = 1 }

-- ---- calls

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

--- A tensor of a C handle, which it owns.
---@param h ffi.cdata* ij_tensor *
---@return ijepa.tensor
function core.wrap(h) return setmetatable({ h = F.gc(h, C.ij_tensor_free) }, T) end

local box = F.typeof "ij_tensor *[1]"
core.box = box
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

--- Calls f(..., out); returns the tensor, or raises the library's message at the user's line.
---@param f function of the C library
---@param ... any up to six arguments
---@return ijepa.tensor
function core.call(f, ...)
  collect_if_needed()
  local out = box()
  local st = invoke(f, out, ...)
  if st == C.IJ_ENOMEM then   -- unreachable tensors may still hold memory
    collectgarbage()
    st = invoke(f, out, ...)
  end
  F.check(st)
  return core.wrap(out[0])
end

--- Of a function that `strict` or the module put in another's place: that other one, which has the
--- documentation.
core.original = setmetatable({}, { __mode = "k" })

--- Makes the functions of a table refuse arguments that they would ignore: x:exp(1) must not be
--- x:exp(). The message shows the signature, from the comment above the function.
---@param functions table<string, function> methods, or the functions of a module
---@param names string in front of a name in the documentation: "tensor."
function core.strict(functions, names)
  local this = debug.getinfo(1, "S").source
  local function refuse(name, n)
    local ok, docs = pcall(require, "ijepa._docs")
    local entry = ok and docs.names[names .. name]
    F.raise(("%s: more arguments than it takes: %s"):format(name, entry and
      entry[1].signature:gsub("^:", "x:") or n .. " at most"))
  end
  for name, f in pairs(functions) do
    local info = type(f) == "function" and debug.getinfo(f, "u")
    if info and not info.isvararg and not name:find "^__" then
      local list = {}
      for i = 1, info.nparams do list[i] = "a" .. i end
      local given = table.concat(list, ", ")
      functions[name] = assert(loadstring(([[local f, refuse = ...
        return function(%s...)
          if select("#", ...) > 0 then refuse() end
          return f(%s)
        end]]):format(given .. (given ~= "" and ", " or ""), given), this))(f, function()
          refuse(name, info.nparams)
        end)
      core.original[functions[name]] = f
    end
  end
end

--- The numbers of f(2, 3) or f({ 2, 3 }), as a list.
---@param op string
---@param first integer|integer[]
---@param ... integer
---@return integer[]
function core.list(op, first, ...)
  if type(first) ~= "table" then return { first, ... } end
  if select("#", ...) > 0 then F.raise(op .. ": an argument after the list") end
  return first
end

-- ---- gradients

--- Refuses to lose a gradient silently: raises where x requires one and gradients are on.
---@param x any what is no tensor passes
---@param op string
---@param instead string what to write
function core.without_gradient(x, op, instead)
  if core.is(x) and C.ij_tensor_recording(x.h, 0) == 1 then
    F.raise(("%s: the gradient of %s would be lost: %s, or tensor.no_grad(f)"):format(op, tostring(
      x.shape), instead))
  end
end
--- Refuses to write to the result of a recorded op: its record would describe other values.
---@param x ijepa.tensor
---@param op string
function core.writable(x, op)
  if C.ij_tensor_recording(x.h, 1) == 1 then
    F.raise(op .. ": written in place, a result that has a gradient would lose it: compute a new " ..
      "tensor (tensor.where, masked_fill), write to a detach(), or use tensor.no_grad(f)")
  end
end

-- ---- arguments

--- Whether a value is a tensor.
---@param x any
---@return boolean
function core.is(x) return getmetatable(x) == T end

--- The handle of an argument that must be a tensor.
---@param x any
---@param name string of the argument
---@param op string
---@return ffi.cdata*
function core.want(x, name, op)
  if getmetatable(x) ~= T then
    F.raise(("%s: '%s' is %s, expected a tensor"):format(op, name,
      type(x) == "nil" and "missing" or "a " .. type(x)))
  end
  return x.h
end

--- The same of an argument that may be missing.
---@param x any
---@param name string
---@param op string
---@return ffi.cdata?
function core.opt(x, name, op) return x ~= nil and core.want(x, name, op) or nil end

--- Refuses an argument of the wrong type.
---@param value any
---@param expected string "number", "boolean", "table" ...
---@param signature string
---@param name string of the argument
---@return any value
function core.check(value, expected, signature, name)
  if type(value) ~= expected then
    F.raise(("%s: '%s' is a %s, expected a %s; the signature is %s"):format(
      signature:match "[%w_]+%f[(]", name, type(value), expected, signature))
  end
  return value
end

--- A dimension from 0, of one that counts from 1, or from -1 at the end.
---@param t ijepa.tensor
---@param dim integer
---@param op string
---@return integer
function core.dim_of(t, dim, op)
  local n = C.ij_tensor_ndim(t.h)
  local d = type(dim) == "number" and (dim < 0 and n + dim or dim - 1)
  if not d or d < 0 or d >= n or d % 1 ~= 0 then
    F.raise(("%s: no dimension %s of %d"):format(op, tostring(dim), n))
  end
  return d
end

--- Dimensions from 0 as a C array, of one dimension, a list, or nil (all).
---@param t ijepa.tensor
---@param dim integer|integer[]|nil
---@param op string
---@return ffi.cdata? dims, integer count
function core.dims_of(t, dim, op)
  if dim == nil then return nil, 0 end
  local list = type(dim) == "table" and dim or { dim }
  local dims = F.new("int[?]", math.max(#list, 1))
  for i, d in ipairs(list) do dims[i - 1] = core.dim_of(t, d, op) end
  return dims, #list
end

--- A shape as a C array.
---@param shape integer[]
---@param op string
---@return ffi.cdata* sizes, integer count
function core.shape_of(shape, op)
  if type(shape) ~= "table" then F.raise(op .. ": the shape is a list of sizes such as {2, 3}") end
  for i = 1, #shape do
    if type(shape[i]) ~= "number" then
      F.raise(("%s: size %d of the shape is a %s"):format(op, i, type(shape[i])))
    end
  end
  return F.new("int64_t[?]", math.max(#shape, 1), shape), #shape
end

--- The number of a dtype's name.
---@param dtype string?
---@param op string
---@return integer
function core.dtype_of(dtype, op)
  local t = core.DTYPE[dtype or "f32"]
  if not t then
    F.raise(("%s: unknown dtype '%s': f32, bf16, i32, i64 or u8"):format(op, tostring(dtype)))
  end
  return t
end

return core

--- The random numbers of modules: initial values, dropout. They are functions of a seed and of the
-- order in which modules ask for them.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"

local random = {}
local seed, made = 0, 0           -- initial values: streams given out so far
local step_seed, drawn = nil, 0   -- dropout

-- Streams below are those of the C library's own models.
local FIRST = 2 ^ 20

--- From now on modules get the initial values of this seed, the first one made the first stream.
--- Dropout begins anew too.
---@param s integer
function random.manual_seed(s)
  if type(s) ~= "number" then
    F.raise(("manual_seed: the seed is a %s, expected a number"):format(type(s)))
  end
  seed, made = s, 0
  random.step(s, 0)
end

--- What dropout and drop path draw from now on is a function of (seed, step) and of their order.
--- Training calls it before each batch, so that a resumed run draws what the run would have drawn.
---@param s integer
---@param step integer
function random.step(s, step)
  step_seed = F.cast("uint64_t", s) + F.cast("uint64_t", step) * 0x9E3779B97F4A7C15ULL
  drawn = 0
end

--- A seed of its own for a part of a model that the C library fills.
---@return integer
function random.next_seed()
  made = made + 1
  return F.cast("uint64_t", seed) + F.cast("uint64_t", made - 1) * 0xD1B54A32D192ED03ULL
end

local function init(t, kind, a, b, s, stream)
  F.check(F.C.ij_init(t.h, kind, a, b, s, stream))
  return t
end
local function fresh(shape, kind, a, b)
  made = made + 1
  return init(tensor.empty(shape, "f32", true), kind, a, b, F.cast("uint64_t", seed), FIRST + made)
end

--- A new tensor of values from a normal distribution cut at +-2, as timm's trunc_normal_ gives
--- them.
---@param shape integer[]
---@param std number
---@return ijepa.tensor
function random.truncated(shape, std) return fresh(shape, "normal", std, 2) end
--- A new tensor of values from a normal distribution.
---@param shape integer[]
---@param std number
---@return ijepa.tensor
function random.normal(shape, std) return fresh(shape, "normal", std, math.huge) end
--- A new tensor of values between -limit and limit.
---@param shape integer[]
---@param limit number
---@return ijepa.tensor
function random.uniform(shape, limit) return fresh(shape, "uniform", -limit, limit) end

--- A tensor of 1 / chance, with this probability, and of 0.
---@param shape integer[]
---@param chance number
---@return ijepa.tensor
function random.keep(shape, chance)
  if not step_seed then random.step(0, 0) end
  drawn = drawn + 1
  return init(tensor.empty(shape), "keep", chance, 0, step_seed, drawn)
end

--- Seed and number of the next draw, for drop path in the C library.
function random.next_draw()
  if not step_seed then random.step(0, 0) end
  drawn = drawn + 1
  return step_seed, drawn
end

--- The type of a model's matrix products on the current device: bf16 only where it is faster.
---@param name string? "f32" (default) or "bf16"
---@return string
function random.dtype(name)
  if name ~= nil and name ~= "f32" and name ~= "bf16" then
    F.raise(("dtype is '%s', expected f32 or bf16"):format(tostring(name)))
  end
  return name == "bf16" and F.C.ij_device_bf16(device.get()) ~= 0 and "bf16" or "f32"
end

return random

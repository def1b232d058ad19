--- The random values of modules: initial values, dropout. All come from the sequence of
-- tensor.manual_seed, in the order in which modules ask for them: training starts it for the
-- models, and anew for each batch.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"

local random = {}

--- A seed from the sequence, for a part of a model that the C library fills.
---@return integer below 2^48
function random.seed()
  local v = tensor.rand(2):read()
  return math.floor(v[0] * 2 ^ 24) * 2 ^ 24 + math.floor(v[1] * 2 ^ 24)
end

-- t that outlives a step.
local function kept(f) return device.no_grad(function() return f():clone(true) end) end

--- A new tensor of values from a normal distribution with this standard deviation.
---@param shape integer[]
---@param std number
---@return ijepa.tensor
function random.normal(shape, std) return kept(function() return tensor.randn(shape) * std end) end
--- The same cut at +-2, as timm's trunc_normal_ does; at its std of .02 no value reaches that.
---@param shape integer[]
---@param std number
---@return ijepa.tensor
function random.truncated(shape, std)
  return kept(function() return (tensor.randn(shape) * std):clamp(-2, 2) end)
end
--- A new tensor of values between -limit and limit.
---@param shape integer[]
---@param limit number
---@return ijepa.tensor
function random.uniform(shape, limit)
  return kept(function() return (tensor.rand(shape) * 2 - 1) * limit end)
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

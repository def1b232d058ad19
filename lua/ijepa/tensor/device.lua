-- The device on which tensors are made, opened at the first use: "cpu", or what IJEPA_DEVICE, the
-- setting `device` of a recipe or device.set name.
local F = require "ijepa.base.ffi"
local C = F.C

local device = {}
local current

--- Opens a device and makes it the one that new tensors and models live on.
---@param name string  "cpu", "cuda", "cuda:N" (from 0); for tests "ref", "guard" or "dry"
---@return ffi.cdata*
function device.set(name)
  local out = F.new "ij_device *[1]"
  F.check(C.ij_device_open(name, out))
  return device.use(out[0])
end

--- Makes an open device the current one and owns its handle from then on.
---@param handle ffi.cdata* ij_device *
---@return ffi.cdata*
function device.use(handle)
  current = F.gc(handle, C.ij_device_close)
  return current
end

--- The current device's handle.
---@return ffi.cdata*
function device.get() return current or device.set(os.getenv "IJEPA_DEVICE" or "cpu") end

--- Runs f with a new device of this name as the current one, then restores the previous one.
---@param name string
---@param f fun(...): ...
---@param ... any arguments of f
---@return any ... the results of f
function device.with(name, f, ...)
  local before = current
  local function done(ok, ...)
    current = before
    if not ok then error((...), 0) end
    return ...
  end
  device.set(name)
  return done(pcall(f, ...))
end

--- The name of the current device.
---@return string name
function device.name() return F.string(C.ij_device_name(device.get())) end

---@class ijepa.device_info
---@field name string
---@field arch string
---@field memory number bytes; 0: unknown
---@field free number bytes; 0: unknown
---@field used number bytes in tensors and scratch now
---@field top number the maximum of `used`
---@field weights number of `used`: copies of weights in bf16
---@field scratch number of `used`: workspace and scratch of kernels
---@field staging number besides `used`: buffers for copies to the device
---@field bf16 boolean whether matmuls are faster in bf16
---@field ahead boolean whether it works asynchronously, so that reading a tensor waits

--- Facts about a device.
---@param handle any? default: the current device
---@return ijepa.device_info
function device.info(handle)
  local i = F.new "ij_device_info"
  C.ij_device_look(handle or device.get(), i)
  return { name = F.string(i.name), arch = F.string(i.arch), memory = tonumber(i.memory),
    free = tonumber(i.memory_free),
    used = tonumber(i.memory_used), top = tonumber(i.memory_top),
      weights = tonumber(i.memory_weights),
    scratch = tonumber(i.memory_scratch), staging = tonumber(i.memory_staging), bf16 = i.bf16 ~= 0,
      ahead = i.ahead ~= 0 }
end

--- Waits until the device has finished all work.
function device.wait() F.check(C.ij_device_wait(device.get())) end

local at_end = {}
--- f is called whenever a step has ended.
---@param f fun()
function device.at_step_end(f) at_end[#at_end + 1] = f end

--- Runs f as a step: tensors made inside are freed at its end, also where variables still hold
--- them.
---@param f fun(...): ...
---@param ... any
---@return any
function device.step(f, ...)
  local dev, outer = device.get(), device.stepping
  C.ij_step_begin(dev)
  device.stepping = true
  local function done(ok, ...)
    C.ij_step_end(dev)
    device.stepping = outer
    for _, ended in ipairs(at_end) do ended() end
    if not ok then error((...), 0) end
    return ...
  end
  return done(pcall(f, ...))
end

--- Runs f without recording for gradients.
---@param f fun(...): ...
---@param ... any
---@return any
function device.no_grad(f, ...)
  local dev = device.get()
  local was = C.ij_grad_enable(dev, 0)
  local function done(ok, ...)
    C.ij_grad_enable(dev, was)
    if not ok then error((...), 0) end
    return ...
  end
  return done(pcall(f, ...))
end

return device

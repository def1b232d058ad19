-- The device that tensors are made on: opened at first use, IJEPA_DEVICE or device.set choose another than "cpu".
local F = require "ijepa._ffi"
local C = F.C

local device = {}
local current

--- Opens a device and makes it the one that new tensors and models live on.
---@param name string  "cpu", "ref" or "guard"
function device.set(name)
  local out = F.new "ij_device *[1]"
  F.check(C.ij_device_open(name, out))
  current = F.gc(out[0], C.ij_device_close)
  return current
end

--- The current device's handle.
function device.get() return current or device.set(os.getenv "IJEPA_DEVICE" or "cpu") end

---@return string name
function device.name() return F.string(C.ij_device_name(device.get())) end

--- Runs f as a step: tensors made inside lose their memory at its end, whoever still holds them.
---@param f fun(...): ...
function device.step(f, ...)
  local dev = device.get()
  C.ij_step_begin(dev)
  local function done(ok, ...)
    C.ij_step_end(dev)
    if not ok then error((...), 0) end
    return ...
  end
  return done(pcall(f, ...))
end

--- Runs f without recording for gradients.
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

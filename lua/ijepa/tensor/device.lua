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
---@field held number what the memory pool has taken from the driver; 0: no pool
---@field held_top number the maximum of `held`
---@field pool_top number the maximum of what was in use in the pool, by the driver; 0: unknown
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
    scratch = tonumber(i.memory_scratch), staging = tonumber(i.memory_staging),
    held = tonumber(i.memory_held), held_top = tonumber(i.memory_held_top),
    pool_top = tonumber(i.memory_pool_top), bf16 = i.bf16 ~= 0, ahead = i.ahead ~= 0 }
end

--- How many GPUs must be here: what would be skipped for want of one fails instead. From the
--- variable IJEPA_REQUIRE_CUDA; 0: none must.
---@return integer
function device.required()
  local wish = os.getenv "IJEPA_REQUIRE_CUDA"
  if not wish or wish == "" then return 0 end
  local n = tonumber(wish)
  if not n or n < 0 or n % 1 ~= 0 then
    error(("IJEPA_REQUIRE_CUDA=%s: the count of GPUs that must be here"):format(wish), 0)
  end
  return n
end

---@class ijepa.device_refusal a matmul that cuBLASLt has no algorithm for: a plain kernel computes
--- it, which is many times slower
---@field P integer count of matmuls (M, K) x (K, N)
---@field M integer
---@field N integer
---@field K integer
---@field types string of the factors and of the result: "bf16 f32"
---@field form string "tn+ 16,256,256": t for a transposed factor, + for a sum, the alignments
---@field calls integer
---@field refused integer

---@class ijepa.device_report
---@field libraries { name: string, version: string, path: string }[] that were loaded; version "":
--- path says why it was not
---@field allocator string? where a GPU's memory comes from
---@field refused ijepa.device_refusal[]
---@field shapes integer of matmuls so far
---@field calls integer of matmuls so far
---@field refusals integer of those calls

--- What a device says of itself besides: empty for a CPU. Loads a GPU's libraries that were not
--- needed so far.
---@param handle any? default: the current device
---@return ijepa.device_report
function device.report(handle)
  local out = F.new "char *[1]"
  F.check(C.ij_device_report(handle or device.get(), out))
  local lines = F.string(out[0])
  C.ij_bytes_free(out[0])
  local report = { libraries = {}, refused = {}, shapes = 0, calls = 0, refusals = 0 }
  for line in lines:gmatch "[^\n]+" do
    local f = {}
    for field in (line .. "\t"):gmatch "([^\t]*)\t" do f[#f + 1] = field end
    if f[1] == "library" then
      table.insert(report.libraries, { name = f[2], version = f[3], path = f[4] })
    elseif f[1] == "allocator" then
      report.allocator = f[2]
    elseif f[1] == "matmul" then
      table.insert(report.refused, { P = tonumber(f[2]), M = tonumber(f[3]), N = tonumber(f[4]),
        K = tonumber(f[5]), types = f[6], form = f[7], calls = tonumber(f[8]),
        refused = tonumber(f[9]) })
    elseif f[1] == "matmuls" then
      report.shapes, report.calls, report.refusals = tonumber(f[2]), tonumber(f[3]), tonumber(f[4])
    end
  end
  return report
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

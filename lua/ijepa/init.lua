--- ijepa: self-supervised pretraining with I-JEPA. `ijepa.NAME` loads a public module
--- (base/names.lua)
-- when it is first used.
local F = require "ijepa.base.ffi"
local C = F.C
local names = require "ijepa.base.names"

local ijepa = {
  version = F.string(C.ij_version()),
  -- the arguments after the script's name; ijepa.config reads key=value from here
  args = {},
}

-- OpenMP would start any number of threads, or abort when there can't be so many.
local threads, cpus = C.ij_threads_get(), C.ij_cpu_count()
if threads > cpus then
  C.ij_threads_set(cpus)
  io.stderr:write(("ijepa: OMP_NUM_THREADS=%d exceeds the number of CPUs: %d used\n"):format(
    threads, cpus))
end

-- Names that are fields of a module: ijepa.NAME is require("ijepa.MODULE").NAME.
local from = { smooth_l1 = "tensor", cross_entropy = "tensor", concat = "tensor",
  no_grad = "device",
  model = "state", imagine = "imagine", bank = "imagine" }

--- Exits with this code: raises an error that unwinds to the program's start (130: interrupted and
--- saved).
---@param code integer?
function ijepa.exit(code)
  error(setmetatable({ exit = code or 0 },
    { __tostring = function(e) return "exit " .. e.exit end }), 0)
end

local catching
--- True after Ctrl-C, SIGTERM or SIGHUP, with the exit code for it. From the first call on, these
--- signals no longer stop the program immediately: the caller must call this often, save, and exit
--- with ijepa.exit(code). A second Ctrl-C always stops the program; a second SIGTERM or SIGHUP does
--- not, because job systems and terminals repeat them while a run saves.
---@return boolean interrupted, integer code 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
function ijepa.interrupted()
  if not catching then
    catching = true
    C.ij_interrupt_install()
  end
  local signal = C.ij_interrupted()
  return signal ~= 0, 128 + signal
end

--- Bytes of C memory: held now, the maximum since the last call with `true`, and the process's
--- largest resident set.
---@param reset boolean? start the maximum anew
---@return number live, number peak, number resident
function ijepa.memory(reset)
  local live, peak, resident = tonumber(C.ij_mem_live()), tonumber(C.ij_mem_peak()),
    tonumber(C.ij_rss_peak())
  if reset then C.ij_mem_peak_reset() end
  return live, peak, resident
end

--- Prints help about a name or a function; without an argument, an overview.
---@param name any
---@return boolean?
function ijepa.help(name) return require "ijepa.host.help".show(name) end

-- A name whose path is another public name is an old name: it still works, and warns once.
local function warn(name)
  local path = names[name]
  if path and path ~= name and names[path] == path then
    require "ijepa.base.renamed"("ijepa." .. name, "ijepa." .. path)
  end
end

-- `require "ijepa.NAME"` gives the same modules, whatever room they live in.
for name, path in pairs(names) do
  if name ~= path then
    package.preload["ijepa." .. name] = function()
      warn(name)
      return require("ijepa." .. path)
    end
  end
end

return setmetatable(ijepa, {
  __index = function(t, name)
    local module = from[name] or name
    if not names[module] then return nil end
    warn(name)
    local value = require("ijepa." .. names[module])
    if from[name] then value = value[name] end
    rawset(t, name, value)
    return value
  end,
})

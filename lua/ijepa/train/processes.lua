-- What the processes of one training run do together, besides summing gradients: they compare
-- recipe and data, agree after each step, follow what hooks decide, and end together. For one
-- process alone, none of this costs anything.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local dist = require "ijepa.dist"
local is_file = require "ijepa.base.code".is_file
local kept = require "ijepa.save.kept"
local text = require "ijepa.base.text"
local bit = require "bit"
local C = F.C

local processes = {}
local SIGNALS = { 129, 130, 143 }   -- exit codes of the signals that end a run

--- Meets the other processes; each takes its part of the CPUs.
---@param cfg table
---@return ijepa.dist
function processes.open(cfg)
  local d, why = dist.open { timeout = cfg.dist.timeout }
  if not d then error(why, 0) end
  if cfg.threads > 0 then C.ij_threads_set(cfg.threads)
  elseif d.size > 1 then C.ij_threads_set(d.threads) end
  return d
end

local function flat(list, prefix, t)
  local names = {}
  for k in pairs(t) do names[#names + 1] = k end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(names) do
    local v, name = t[k], prefix .. tostring(k)
    if type(v) == "table" then flat(list, name .. ".", v)
    elseif type(v) ~= "function" then list[#list + 1] = { name, v } end
  end
  return list
end

-- A hash of a file's bytes; "" where there is none.
local function file_hash(path)
  local file = path and io.open(path, "rb")
  local bytes = file and file:read "*a" or ""
  if file then file:close() end
  return bytes == "" and "" or bit.tohex(C.ij_hash(0, bytes, #bytes), 16)
end

--- Stops where a process has another recipe, version or kind of CPU.
---@param d ijepa.dist
---@param cfg table
function processes.compare(d, cfg)
  if d.size == 1 then return end
  local list = flat({}, "", kept.settings(cfg))
  local script = arg and arg[0]
  list[#list + 1] = { "recipe (file)", file_hash(script) }
  for _, one in ipairs { { "objective", cfg.objective }, { "encoder", cfg.model.encoder },
    { "predictor", cfg.model.predictor }, { "mask policy", cfg.mask.policy } } do
    if type(one[2]) == "string" and is_file(one[2]) then
      list[#list + 1] = { one[1] .. " (file)", file_hash(one[2]) }
    end
  end
  list[#list + 1] = { "instruction set (IJEPA_ISA=base or avx2 for all)", F.string(C.ij_cpu_isa()) }
  list[#list + 1] = { "kind of matrix product (IJEPA_MATMUL=f32 for all)",
    F.string(C.ij_cpu_matmul()) }
  d:same(list)
end

-- The names of what the objective returns beside the loss, which all processes must agree on: those
-- of the first step.
local function names_of(t, values)
  if not t.value_names then
    t.value_names = text.keys(values.values or {})
    t.dist:same { { "set of values of the objective", table.concat(t.value_names, ",") } }
  end
  return t.value_names
end

--- One round after a step: sets t.seconds (process 0's), t.interrupt (an exit code) and
--- t.save_asked. With a loss of this process, values get the means of the loss and of the mask
--- lengths over the processes.
---@param t ijepa.trainer
---@param values table?
---@param loss number?
function processes.agree(t, values, loss)
  local interrupted, code = ijepa.interrupted()
  local asked = C.ij_save_asked() ~= 0
  if t.dist.size > 1 then
    local first, n = t.dist.rank == 0, t.dist.size
    local mine = { first and t.seconds or 0, asked and 1 or 0, loss or 0, values and values.k or 0,
      values and values.t or 0 }
    for i, c in ipairs(SIGNALS) do mine[5 + i] = interrupted and code == c and 1 or 0 end
    local names = values and names_of(t, values) or {}
    for i, name in ipairs(names) do
      mine[5 + #SIGNALS + i] = values.values and values.values[name] or 0 / 0
    end
    local all = t.dist:sum(mine)
    if #names > 0 then
      values.values = {}
      for i, name in ipairs(names) do values.values[name] = all[5 + #SIGNALS + i] / n end
    end
    t.seconds, asked, interrupted = all[1], all[2] > 0, false
    if values then loss, values.k, values.t = all[3] / n, all[4] / n, all[5] / n end
    for i, c in ipairs(SIGNALS) do
      if all[5 + i] > 0 then interrupted, code = true, c end
    end
  end
  t.save_asked = asked or t.save_asked
  t.interrupt = interrupted and (code or 130) or nil   -- the prompt gives no code
  if values then values.loss = loss end
end

--- After hooks and diagnoses, which run in each process: all take over what process 0 has decided.
---@param t ijepa.trainer
function processes.follow(t)
  if t.dist.size == 1 then return end
  local decided = t.dist:broadcast(("%s\1%s\1%.17g\1%.17g"):format(t.ended or "", t.back or "",
    t.scale.lr, t.scale.wd))
  local ended, back, lr, wd = decided:match "^([^\1]*)\1([^\1]*)\1([^\1]*)\1([^\1]*)$"
  t.ended, t.back = ended ~= "" and ended or nil, back ~= "" and back or nil
  t.scale.lr, t.scale.wd = tonumber(lr), tonumber(wd)
end

--- Something has failed here or in another process: all end. A failure of another process is
--- reported by process 0, or, where process 0 has failed, by one process of each machine.
---@param d ijepa.dist
---@param e any
---@param together boolean?
function processes.failed(d, e, together)
  local message, here = tostring(e), not d:lost()
  if d.size > 1 and here and not together then d:fail(message) end
  d:close()
  if d.rank == 0 or here or d.local_rank <= 1 and message:find "process 0 %(" then error(e, 0) end
  ijepa.exit(1)
end

--- The end of a training: the other processes exit, and process 0 continues with the recipe.
---@param d ijepa.dist
---@param cfg table
function processes.finished(d, cfg)
  d:close()
  if d.rank > 0 then ijepa.exit(0) end
  if d.size > 1 and cfg.threads == 0 then C.ij_threads_set(0) end
end

return processes

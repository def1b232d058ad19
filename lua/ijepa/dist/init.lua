-- Processes that train together: those that mpirun or srun has started, or this one alone
-- (docs/dist.md). submit.lua writes jobs for SLURM.
-- Uses: base.
local F = require "ijepa.base.ffi"
local json = require "cjson.safe"
local C = F.C

local dist = {}
---@class ijepa.dist
---@field rank integer this process's rank, from 0
---@field size integer
---@field local_rank integer its rank among those of its machine
---@field local_size integer
---@field threads integer the number of threads that it should use
---@field transport string "none", "mpi" or "tcp"
local Dist = {}
Dist.__index = Dist
local current, parted   -- processes meet only once per program

local function wrapped(handle)
  local h, info = F.gc(handle, C.ij_dist_close), F.new "ij_dist_info"
  C.ij_dist_look(h, info)
  return setmetatable({ h = h, rank = info.rank, size = info.size, local_rank = info.local_rank,
    local_size = info.local_size, threads = info.threads, transport = F.string(info.transport) },
      Dist)
end

--- Process `rank` of `size` whose others do not exist, for counting the memory of a run: sums and
--- broadcasts exchange nothing.
---@param rank integer from 0
---@param size integer
---@return ijepa.dist
function dist.imagine(rank, size)
  local out = F.new "ij_dist *[1]"
  F.check(C.ij_dist_imagine(rank, size, out))
  return wrapped(out[0])
end

--- Meets the other processes, each of which must call this; later calls return the same object.
--- Alone it costs nothing.
---@param o { timeout: number?, transport: string? }? seconds; "none", "mpi" or "tcp" (default: by
--- the environment)
---@return ijepa.dist? processes, string? message
function dist.open(o)
  o = o or {}
  if current then return current end
  if parted then
    return nil, "processes: they have already trained together: a recipe of several processes trains only once"
  end
  local out = F.new "ij_dist *[1]"
  local ok, message = F.try(C.ij_dist_open(o.transport, o.timeout or 0, out))
  if not ok then return nil, message end
  local d = wrapped(out[0])
  current = d.size > 1 and d or nil
  return d
end

--- Sums of a few values over the processes, the same in each.
---@param values number[]
---@return number[]
function Dist:sum(values)
  if self.size == 1 then return values end
  local x, list = F.new("double[?]", #values, values), {}
  F.check(C.ij_dist_sum(self.h, x, #values), 0)
  for i = 1, #values do list[i] = x[i - 1] end
  return list
end

--- A text of process 0, in each process.
---@param text string? in process 0
---@return string
function Dist:broadcast(text)
  if self.size == 1 then return text end
  local n = F.new("double[1]", text and #text or 0)
  F.check(C.ij_dist_broadcast(self.h, n, 8), 0)
  local count = tonumber(n[0])
  local bytes = F.new("char[?]", count + 1)
  if self.rank == 0 then F.copy(bytes, text, count) end
  F.check(C.ij_dist_broadcast(self.h, bytes, count), 0)
  return F.string(bytes, count)
end

--- Copies the values of a tensor (f32, contiguous) from process `root` to all.
---@param t ijepa.tensor
---@param root integer
function Dist:tensor(t, root) F.check(C.ij_dist_tensor(self.h, t.h, root), 0) end

--- Waits until all processes are here. patient: without a time limit.
---@param patient boolean?
function Dist:barrier(patient) F.check(C.ij_dist_barrier(self.h, patient and -1 or 0), 0) end

--- Runs f in process 0, then in the first process of each other machine, then in all others: each
--- finds the files that the earlier ones wrote. Returns what f returns.
---@param f fun(): ...
---@return any
function Dist:in_turn(f)
  if self.size == 1 then return f() end
  local round, result = self.rank == 0 and 0 or self.local_rank == 0 and 1 or 2, nil
  for now = 0, 2 do
    if round == now then result = { f() } end
    self:barrier(true)
  end
  return unpack(result)
end

--- Runs f in process 0 only, and returns its result (a value that JSON can hold) in each process.
--- For files that are made once.
---@param f fun(): any
---@return any
function Dist:once(f)
  if self.size == 1 then return f() end
  local ok, value = true, nil
  if self.rank == 0 then ok, value = pcall(f) end
  if not ok then
    self:fail(tostring(value))
    error(value, 0)
  end
  self:barrier(true)
  return json.decode(self:broadcast(json.encode { value }))[1]
end

--- Raises an error in a process that has other values than process 0; the error names the first
--- one.
---@param list { [1]: string, [2]: string }[] names and values
function Dist:same(list)
  if self.size == 1 then return end
  local lines = {}
  for i, e in ipairs(list) do lines[i] = ("%s\1%s"):format(e[1], tostring(e[2])):gsub("\n", " ") end
  local mine = table.concat(lines, "\n")
  local first = self:broadcast(mine)
  if first ~= mine then
    local theirs, known = {}, {}
    for name, value in first:gmatch "([^\n\1]*)\1([^\n]*)" do theirs[name] = value end
    for _, e in ipairs(list) do
      local value = tostring(e[2]):gsub("\n", " ")
      known[e[1]] = true
      if theirs[e[1]] ~= value then
        error(("process %d has another %s than process 0: %s, not %s; all need the same recipe and data"):format(self.rank, e[1],
          value, theirs[e[1]] or "nothing"), 0)
      end
    end
    for name in pairs(theirs) do
      if not known[name] then
        error(("process %d has no %s, which process 0 has"):format(self.rank, name), 0)
      end
    end
  end
  self:barrier()
end

--- Informs the other processes that this one has failed, and why.
---@param why string
function Dist:fail(why) C.ij_dist_fail(self.h, why) end

--- Whether a process is gone or has failed.
---@return boolean
function Dist:lost() return C.ij_dist_lost(self.h) ~= 0 end

--- Disconnects from the others; waits for them, where none has failed.
function Dist:close()
  if self == current then current, parted = nil, true end
  if self.h then C.ij_dist_close(F.gc(self.h, nil)) end
  self.h = nil
end

return dist

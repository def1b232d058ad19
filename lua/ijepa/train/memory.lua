-- What a training step needs of a GPU's memory, counted without one: updates of pretraining run on
-- the device "dry", which hands out addresses, computes nothing, and records what the CUDA plug-in
-- would take (kernels/cuda/costs.h). Here are two values that no kernel states: both are
-- assumptions, and the report marks them as such.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local dist = require "ijepa.dist"
local jepa = require "ijepa.model"
local objective = require "ijepa.model.objective"
local counting = require "ijepa.train.trainer".counting
local recipe = require "ijepa.train.recipe"

local memory = {}

local MIB, GIB = 2 ^ 20, 2 ^ 30
-- assumed: what driver, kernels and cuBLAS take before the first tensor
local CONTEXT = 600 * MIB
local NCCL = 200 * MIB         -- assumed: NCCL's own buffers, with several processes

local function copied(t)
  local out = {}
  for k, v in pairs(t) do out[k] = type(v) == "table" and copied(v) or v end
  return out
end

-- ---- lengths of masks
--- Counts of patches that contexts and targets of a configuration's batches have: the mean and the
--- maximum over `batches` of them.
---@param cfg table as ijepa.config gives it
---@param batches integer? 200
---@return { k: number, t: number, most_k: integer, most_t: integer, pairs: table }
function memory.lengths(cfg, batches)
  local n, m = batches or 200, cfg.model
  if not objective.of(cfg).masks then
    return { k = 0, t = 0, most_k = 0, most_t = 0, contexts = 0, targets = 0, pairs = {} }
  end
  local crop = cfg.data.crop
  local h, w = type(crop) == "table" and crop[1] or crop, type(crop) == "table" and crop[2] or crop
  local policy = jepa.policy(cfg, { math.floor(h / m.patch), math.floor(w / m.patch) })
  local out = { k = 0, t = 0, most_k = 0, most_t = 0, pairs = {} }
  for i = 0, n - 1 do
    local s = policy:sample_raw(cfg.data.batch, i * math.max(cfg.data.batch, cfg.mask.group), i,
      false)
    out.k, out.t = out.k + s.k / n, out.t + s.t / n
    out.most_k, out.most_t = math.max(out.most_k, s.k), math.max(out.most_t, s.t)
    out.contexts, out.targets = s.contexts, s.targets
    out.pairs[i + 1] = { s.k, s.t }
  end
  return out
end

-- ---- counting
-- A policy whose masks have these lengths; every patch is number 0.
local function fixed_policy(lengths, k, t)
  return { sample_raw = function(_, count)
    local c, g = lengths.contexts, lengths.targets
    return { count = count, contexts = c, targets = g, k = k, t = t,
      context = F.new("int32_t[?]", c * count * k),
      target = F.new("int32_t[?]", g * count * t) }
  end }
end

-- Black images of the configuration's size, in all views.
local function black_images(cfg)
  local n, sizes = cfg.data.batch, data.view_sizes(cfg.data)
  local batch = { count = n, view_groups = #sizes, views = {} }
  for g, s in ipairs(sizes) do
    batch.views[g - 1] = { n = s.n, height = s.height, width = s.width,
      pixels = F.new("uint8_t[?]", n * s.n * s.height * s.width * 3) }
  end
  return { height = sizes[1].height, width = sizes[1].width,
    epoch_steps = function() return 1000 * cfg.optim.accumulate end,
    next = function() return batch end }
end

-- Copies zeros to all parameters, as a checkpoint's or the first values are copied.
local function fill(parts)
  local largest = 0
  for _, part in ipairs(parts) do
    for _, p in ipairs(part.model:params()) do largest = math.max(largest, p.tensor:bytes()) end
  end
  local zeros = F.new("uint8_t[?]", largest)
  for _, part in ipairs(parts) do
    for _, p in ipairs(part.model:params()) do
      F.check(F.C.ij_tensor_write(p.tensor.h, zeros, p.tensor:bytes()))
    end
  end
end

-- The process whose moments take most memory, from 0; where the moments are not sharded all are
-- alike.
local function heaviest(opt, processes)
  local load, most = {}, 0
  for i, e in ipairs(opt.entries) do
    local owner = F.C.ij_optim_owner(opt.h, i - 1)
    if owner < 0 then return 0 end
    load[owner] = (load[owner] or 0) + e.tensor:bytes()
  end
  for r = 0, processes - 1 do
    if (load[r] or 0) > (load[most] or 0) then most = r end
  end
  return most
end

local function trainer_of(cfg, rank, processes)
  local t = counting(cfg, black_images(cfg), dist.imagine(rank, processes))
  local most = heaviest(t.opt, processes)
  if most == rank then return t end
  return trainer_of(cfg, most, processes)
end

-- Bytes of the models and the objective's modules, which are made and dropped for that.
local function params_of(cfg)
  local before, its = device.info().used, objective.of(cfg)
  local models = jepa.models_of(cfg, its, true)
  models.config = cfg
  objective.modules(its, models)
  local bytes = device.info().used - before
  models = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  return bytes
end

---@class ijepa.memory_parts bytes of a process's memory on a device, by what they are for
---@field params number parameters of the models, and of the objective's modules
---@field moments number AdamW's
---@field gradients number that stay from step to step, with buckets for their sums; 0 where each is
--- used as soon as it is complete
---@field copies number weights in bf16, kept for matmuls
---@field step number activations, and gradients in passing, at their maximum
---@field scratch number workspace and scratch of kernels
---@field staging number buffers for copies to the device
---@field trained integer trained parameters, elements

--- Runs two or more updates on a new device and reads what they take: gradients that stay are there
--- from the second one on. Tensors that nothing refers to any more count until the step's end,
--- since Lua's collector does not see a device's memory.
---@param name string "dry", or a GPU
---@param cfg table as ijepa.config gives it
---@param lengths { contexts: integer, targets: integer, k: integer, t: integer } counts of masks,
--- and their patches
---@param processes integer? 1
---@return ijepa.memory_parts
function memory.measure(name, cfg, lengths, processes)
  return device.with(name, function()
    local empty = device.info()
    local params = params_of(cfg)
    local trainer = trainer_of(cfg, 0, processes or 1)
    collectgarbage()   -- another process's trainer
    collectgarbage()
    if trainer.policy then trainer.policy = fixed_policy(lengths, lengths.k, lengths.t) end
    fill(trainer.whole.parts)
    local before = device.info()
    collectgarbage "stop"
    local ok, e = pcall(function()
      trainer:update()
      repeat   -- updates take turns with the staging buffers
        local staging = device.info().staging
        trainer:update()
      until device.info().staging == staging
    end)
    collectgarbage "restart"
    if not ok then error(e, 0) end
    local after, trained = device.info(), 0
    for _, entry in ipairs(trainer.opt.entries) do trained = trained + entry.tensor:numel() end
    local function tensors(info) return info.used - info.weights - info.scratch end
    return { params = params, moments = tensors(before) - tensors(empty) - params,
      gradients = tensors(after) - tensors(before), copies = after.weights,
        step = after.top - after.used,
      scratch = after.scratch, staging = after.staging, trained = trained }
  end)
end

---@class ijepa.memory_need: ijepa.memory_parts
---@field beside number workspace, scratch, staging buffers and NCCL's
---@field context number assumed: driver, kernels, cuBLAS
---@field total number

--- What one process of a run needs. o: processes (1), shard (moments divided among them), k and t
--- (lengths of masks; default: the maximum that memory.lengths meets).
---@param cfg table as ijepa.config gives it
---@param o { processes: integer?, shard: boolean?, k: integer?, t: integer?, lengths: table? }?
---@return ijepa.memory_need
function memory.need(cfg, o)
  o = o or {}
  local processes, lengths = o.processes or 1, o.lengths or memory.lengths(cfg)
  cfg = copied(cfg)
  cfg.device = ""
  if o.shard ~= nil then cfg.optim.shard = o.shard end
  local need = memory.measure("dry", cfg, { contexts = lengths.contexts, targets = lengths.targets,
    k = o.k or lengths.most_k, t = o.t or lengths.most_t }, processes)
  need.beside, need.context = need.scratch + need.staging + (processes > 1 and NCCL or 0), CONTEXT
  need.total = need.params + need.moments + need.gradients + need.copies + need.step + need.beside + need.context
  return need
end

--- Bytes of CPU memory for the pixels of the batches that a process's loader holds.
---@param cfg table as ijepa.config gives it
---@return number
function memory.loader(cfg)
  local d, pixels = cfg.data, 0
  for _, s in ipairs(data.view_sizes(d)) do pixels = pixels + s.n * s.height * s.width end
  return 3 * pixels * d.batch * ((d.workers > 0 and d.prefetch or 1) + 1)
end

-- ---- what would fit
-- Changes of settings from the cheapest to the dearest, each with its words. The update's images
-- stay the same.
local function candidates(cfg, processes, shard)
  local list, batch, acc = {}, cfg.data.batch, cfg.optim.accumulate
  local shards = processes > 1 and not shard and { false, true } or { shard or false }
  local recomputes = cfg.model.recompute and { true } or { false, true }
  for _, recompute in ipairs(recomputes) do
    for _, sharded in ipairs(shards) do
      local b = batch
      while true do
        local words = {}
        if b ~= batch then
          words[1] = ("data.batch=%d optim.accumulate=%d"):format(b, acc * batch / b)
        end
        if recompute ~= cfg.model.recompute then words[#words + 1] = "model.recompute=true" end
        if sharded ~= (shard or false) then words[#words + 1] = "optim.shard=true" end
        list[#list + 1] = { batch = b, accumulate = acc * batch / b, recompute = recompute,
          shard = sharded,
          words = table.concat(words, " ") }
        if b % 2 == 1 then break end
        b = b / 2
      end
    end
  end
  return list
end

--- Settings of a run with the same images an update that fit into so many bytes of a GPU: without
--- recomputation and with it, each with the largest batch; the run's own are words = "". An empty
--- list: none does.
---@param cfg table
---@param bytes number
---@param o { processes: integer?, shard: boolean? }?
---@return { words: string, need: ijepa.memory_need, batch: integer, recompute: boolean, shard: boolean }[]
function memory.fitting(cfg, bytes, o)
  o = o or {}
  local lengths, found, seen = memory.lengths(cfg), {}, {}
  local processes, shard = o.processes or 1, o.shard
  if shard == nil then shard = cfg.optim.shard or false end
  for _, c in ipairs(candidates(cfg, processes, shard)) do
    local kind = tostring(c.recompute) .. tostring(c.shard)
    if not seen[kind] then
      local other = copied(cfg)
      other.data.batch, other.optim.accumulate, other.model.recompute = c.batch, c.accumulate,
        c.recompute
      c.need = memory.need(other, { processes = processes, shard = c.shard, lengths = lengths })
      if c.need.total <= bytes then
        seen[kind] = true
        found[#found + 1] = c
        if c.words == "" then break end
      end
    end
  end
  return found
end

local function gib(n) return ("%.1f GiB"):format(n / GIB) end

--- One line for a run that does not fit: what it needs, what the GPU has, which settings would do.
---@param cfg table
---@param bytes_available number the GPU's memory
---@param o { processes: integer?, shard: boolean? }?
---@return string
function memory.advice(cfg, bytes_available, o)
  local need, list = memory.need(cfg, o), {}
  for _, c in ipairs(memory.fitting(cfg, bytes_available, o)) do
    if c.words ~= "" then list[#list + 1] = ("%s (%s)"):format(c.words, gib(c.need.total)) end
  end
  local needs = ("this run needs %s per GPU and the GPU has %s: "):format(gib(need.total),
    gib(bytes_available))
  if need.total <= bytes_available then
    return needs .. "it should fit if nothing else uses the GPU (nvidia-smi shows what does)"
  end
  return needs .. (#list > 0 and "these would fit: " .. table.concat(list, "; or ")
    or "no data.batch, model.recompute or optim.shard makes it fit; take a smaller model.arch")
end

-- ---- the command
local ROWS = { { "params", "parameters of the models" }, { "moments", "moments of AdamW" },
  { "gradients", "gradients, kept" },
  { "copies", "weights in bf16, for matmuls" }, { "step", "activations, at their maximum" },
  { "beside", "workspace, scratch, staging" }, { "context", "driver and libraries (assumed)" } }

--- What `ijepa memory` prints.
---@param cfg table
---@param o { processes: integer, shard: boolean?, GPU: number[] } GPU: sizes in GiB
---@return string
function memory.report(cfg, o)
  local m, lengths = cfg.model, memory.lengths(cfg)
  local typical = memory.need(cfg, { processes = o.processes, shard = o.shard, lengths = lengths,
    k = math.floor(lengths.k + .5),
    t = math.floor(lengths.t + .5) })
  local most = memory.need(cfg, { processes = o.processes, shard = o.shard, lengths = lengths })
  local crop = type(cfg.data.crop) == "table" and table.concat(cfg.data.crop, " x ")
    or tostring(cfg.data.crop)
  local lines = { ("%s/%d at %s, %s%s on each of %s, %s%s"):format(m.width and "vit" or m.arch,
    m.patch, crop,
    text.count(cfg.data.batch, "image"),
      cfg.optim.accumulate > 1 and (" x %d"):format(cfg.optim.accumulate) or "",
    text.count(o.processes, "GPU"), m.dtype, m.recompute and ", recomputing" or ""),
    ("%-34s %9s %9s"):format("GiB per GPU", "typical", "maximum"),
    ("%-34s %9.0f %9d"):format("  context patches", lengths.k, lengths.most_k),
    ("%-34s %9.0f %9d"):format("  patches of a target", lengths.t, lengths.most_t) }
  for _, row in ipairs(ROWS) do
    lines[#lines + 1] = ("%-34s %9.2f %9.2f"):format(row[2], typical[row[1]] / GIB,
      most[row[1]] / GIB)
  end
  lines[#lines + 1] = ("%-34s %9.2f %9.2f"):format("total", typical.total / GIB, most.total / GIB)
  local loader = memory.loader(cfg)
  lines[#lines + 1] = ("%-34s %9.2f %9.2f"):format("batches read ahead, CPU memory", loader / GIB,
    loader / GIB)
  for _, gpu in ipairs(o.gpu) do
    local list = {}
    for _, c in ipairs(memory.fitting(cfg, gpu * GIB, o)) do
      list[#list + 1] = c.words == "" and "fits as it is" or ("%s (%.1f)"):format(c.words,
        c.need.total / GIB)
    end
    lines[#lines + 1] = ("GPU of %g GiB: %s"):format(gpu, #list > 0 and table.concat(list, "; or ")
      or "nothing fits")
  end
  return table.concat(lines, "\n")
end

--- ijepa memory RECIPE [key=value ...] [processes=N] [gpu=GIB]: prints the report. False and why:
--- misused.
---@param words string[]
---@return boolean? ok, string? wrong
function memory.main(words)
  local o, rest = { processes = 1, gpu = { 24, 40, 80 } }, {}
  for i = 2, #words do
    local key, value = words[i]:match "^(%w+)=(.*)$"
    if key == "processes" or key == "gpu" then
      local n = tonumber(value)
      if not n or n <= 0 or key == "processes" and n % 1 ~= 0 then
        return nil, ("'%s': expected a number"):format(words[i])
      end
      o[key] = key == "gpu" and { n } or n
    else
      rest[#rest + 1] = words[i]
    end
  end
  if not words[1] then return nil, "which recipe?" end
  print(memory.report(recipe(words[1], rest, { "device=" }), o))
  return true
end

memory.GIB = GIB
return memory

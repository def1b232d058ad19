-- What a training step needs of a GPU's memory: counted, not guessed. The step of pretrain.lua runs on the device "dry",
-- which hands out addresses and computes nothing, with masks of chosen lengths and no images; what a GPU needs besides
-- its tensors is added from the plug-in's own rules. Nothing of it needs a GPU.
local F = require "ijepa.base.ffi"
local device = require "ijepa.tensor.device"
local jepa = require "ijepa.model"
local trainer_of = require "ijepa.train.trainer".counting

local memory = {}

local MIB, GIB = 2 ^ 20, 2 ^ 30
local WORKSPACE = 32 * MIB     -- of cuBLASLt's products: kernels/cuda/backend.cu
local RING, LEAST, MOST = 3, MIB, 64 * MIB   -- of copies to the GPU: kernels/cuda/memory.cu
local PARTS = 8 * MIB          -- a bound: kernels' partial sums, whose number follows the GPU's processors (kernels/cuda/stripes.cu)
local TILE, WIDEST = 32, 128   -- of attention: the least queries a block takes; wider heads are copied whole (attention/cuda.cu)
local CONTEXT = 600 * MIB      -- assumed: what driver, kernels and cuBLAS take before the first tensor
local NCCL = 200 * MIB         -- assumed: its own buffers, with several processes

local function rounded(n, unit) return math.ceil(n / unit) * unit end
local function copied(t)
  local out = {}
  for k, v in pairs(t) do out[k] = type(v) == "table" and copied(v) or v end
  return out
end

-- ---- lengths of masks
--- How many patches contexts and targets of a configuration's batches have: the mean and the most over `batches` of them.
---@param cfg table as ijepa.config gives it
---@param batches integer? 200
---@return { k: number, t: number, most_k: integer, most_t: integer, pairs: table }
function memory.lengths(cfg, batches)
  local n, m = batches or 200, cfg.model
  local crop = cfg.data.crop
  local h, w = type(crop) == "table" and crop[1] or crop, type(crop) == "table" and crop[2] or crop
  local policy = jepa.policy(cfg, { math.floor(h / m.patch), math.floor(w / m.patch) })
  local out = { k = 0, t = 0, most_k = 0, most_t = 0, pairs = {} }
  for i = 0, n - 1 do
    local s = policy:sample_raw(cfg.data.batch, i * math.max(cfg.data.batch, cfg.mask.group), i, false)
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
    return { count = count, contexts = c, targets = g, k = k, t = t, context = F.new("int32_t[?]", c * count * k),
      target = F.new("int32_t[?]", g * count * t) }
  end }
end

local function no_images(cfg)
  local crop, batch = cfg.data.crop, { count = cfg.data.batch }
  return { height = type(crop) == "table" and crop[1] or crop, width = type(crop) == "table" and crop[2] or crop,
    epoch_steps = function() return 1000 * cfg.optim.accumulate end, next = function() return batch end }
end

-- Elements of a model: all, trained, of products' weights (of which the GPU keeps a bf16 copy), and the largest tensor.
local function elements(model)
  local e = { all = 0, trained = 0, copies = 0, largest = 0 }
  for _, p in ipairs(model:params()) do
    local n = p.tensor:numel()
    e.all, e.largest = e.all + n, math.max(e.largest, n)
    if p.trained then
      e.trained = e.trained + n
      if p.decayed and not p.name:find "mask_token" then e.copies = e.copies + n end
    end
  end
  return e
end

-- Scratch memory that attention's backward pass takes of a GPU, which keeps an eighth more: copies of queries with their
-- bias, three numbers a query, sums of the bias's gradient. sequences: { their number, tokens, width, heads } of each model.
local function scratch(cfg, sequences)
  local slots, bytes = { 0, 0, 0 }, cfg.model.dtype == "bf16" and 2 or 4
  for _, s in ipairs(sequences) do
    local count, tokens, width, heads = s[1], s[2], s[3], s[4]
    slots[1] = math.max(slots[1], count * tokens * width * bytes * (width / heads > WIDEST and 3 or 1))
    slots[2] = math.max(slots[2], 12 * count * tokens * heads)
    slots[3] = math.max(slots[3], 8 * width * count * math.ceil(tokens / TILE))
  end
  return 9 / 8 * (slots[1] + slots[2] + slots[3]) + PARTS
end

-- What several processes need besides: buckets of all gradients and, sharded, zeros in place of the moments that others
-- have; and the largest share of the moments (core/optim/adamw.c hands tensors to whoever has least).
local function of_several(sizes, processes, shard)
  local buckets, largest, load = 0, 0, {}
  for i, bytes in ipairs(sizes) do
    buckets, largest = buckets + rounded(bytes, 256), math.max(largest, bytes)
    if shard then
      local least = 1
      for r = 2, math.min(processes, i) do   -- of those that have nothing yet the first
        if (load[r] or 0) < (load[least] or 0) then least = r end
      end
      load[least] = (load[least] or 0) + rounded(bytes, 512)
    end
  end
  return buckets + (shard and 2 * largest or 0), shard and 2 * math.max(unpack(load))
end

-- Two updates on the device that counts: gradients that are kept are there from the second one on. Tensors that nobody
-- holds any more count until the step's end, as on a GPU, whose memory Lua's collector does not see.
local function count(cfg, lengths, k, t)
  return device.with("dry", function()
    local trainer = trainer_of(cfg, no_images(cfg))
    trainer.policy = fixed_policy(lengths, k, t)
    local before, sizes, moments = device.info().used, {}, 0
    for i = 1, #trainer.opt.entries do
      sizes[i] = trainer.opt:state(i):bytes()
      moments = moments + 2 * rounded(sizes[i], 512)
    end
    collectgarbage()
    collectgarbage "stop"
    local ok, e = pcall(function() for _ = 1, 2 do trainer:update() end end)
    collectgarbage "restart"
    if not ok then error(e, 0) end
    local info, models, p = device.info(), { trainer.encoder, trainer.predictor, trainer.target }, trainer.predictor.options
    local images, width, heads = lengths.contexts * cfg.data.batch, trainer.encoder.width, trainer.encoder.heads
    local out = { params = before - moments, moments = moments, kept = info.used - before, step = info.top - info.used,
      scratch = scratch(cfg, { { images, k, width, heads }, { lengths.targets * images, k + t, p.width, p.heads or heads } }),
      copies = 0, trained = 0, largest = 0, sizes = sizes }
    for i, model in ipairs(models) do
      local n = elements(model)
      out.copies, out.largest = out.copies + n.copies, math.max(out.largest, n.largest)
      if i < 3 then out.trained = out.trained + n.trained end
    end
    return out
  end)
end

---@class ijepa.memory_need bytes by what they are for
---@field params number parameters of the three models
---@field moments number of AdamW, this process's share
---@field gradients number that live on between steps; 0 where each is used as soon as it is whole
---@field copies number weights in bf16, kept for the products
---@field step number activations, and gradients in passing, at their most
---@field beside number workspace, scratch memory, buffers of copies and of sums
---@field context number assumed: driver, kernels, cuBLAS
---@field total number

--- What one process of a run needs. o: processes (1), shard (moments shared among them), k and t (lengths of masks;
--- default: the most that memory.lengths meets).
---@param cfg table as ijepa.config gives it
---@param o { processes: integer?, shard: boolean?, k: integer?, t: integer?, lengths: table? }?
---@return ijepa.memory_need
function memory.need(cfg, o)
  o = o or {}
  local several, lengths = (o.processes or 1) > 1, o.lengths or memory.lengths(cfg)
  cfg = copied(cfg)
  cfg.device = ""
  local shard, once = o.shard, several and cfg.optim.accumulate == 1
  if shard == nil then shard = cfg.optim.shard end
  if once then cfg.optim.clip = 0 end   -- each gradient goes into its bucket, also where their norm is limited
  local n = count(cfg, lengths, o.k or lengths.most_k, o.t or lengths.most_t)
  local crop = cfg.data.crop
  local pixels = 3 * cfg.data.batch * (type(crop) == "table" and crop[1] * crop[2] or crop * crop)
  local twin = math.min(MOST, math.max(LEAST, pixels, 4 * n.largest))   -- a checkpoint's tensors go the same way
  local buckets, share
  if several then buckets, share = of_several(n.sizes, o.processes, shard) end
  local need = { params = n.params, moments = share or n.moments, gradients = n.kept + (buckets or 0),
    copies = cfg.model.dtype == "bf16" and 2 * n.copies or 0, step = n.step,
    beside = WORKSPACE + n.scratch + RING * twin + (several and NCCL or 0), context = CONTEXT, trained = n.trained }
  need.total = need.params + need.moments + need.gradients + need.copies + need.step + need.beside + need.context
  return need
end

-- ---- what would fit
-- Changes of settings from the cheapest to the dearest, each with its words. The update's images stay the same.
local function candidates(cfg, processes, shard)
  local list, batch, acc = {}, cfg.data.batch, cfg.optim.accumulate
  local shards = processes > 1 and not shard and { false, true } or { shard or false }
  local recomputes = cfg.model.recompute and { true } or { false, true }
  for _, recompute in ipairs(recomputes) do
    for _, share in ipairs(shards) do
      local b = batch
      while true do
        local words = {}
        if b ~= batch then words[1] = ("data.batch=%d optim.accumulate=%d"):format(b, acc * batch / b) end
        if recompute ~= cfg.model.recompute then words[#words + 1] = "model.recompute=true" end
        if share ~= (shard or false) then words[#words + 1] = "optim.shard=true" end
        list[#list + 1] = { batch = b, accumulate = acc * batch / b, recompute = recompute, shard = share,
          words = table.concat(words, " ") }
        if b % 2 == 1 then break end
        b = b / 2
      end
    end
  end
  return list
end

--- Settings of a run with the same images an update that fit into so many bytes of a GPU: without recomputation and
--- with it, each with the largest batch; the run's own are words = "". An empty list: none does.
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
      other.data.batch, other.optim.accumulate, other.model.recompute = c.batch, c.accumulate, c.recompute
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
---@param bytes_available number of the whole GPU
---@param o { processes: integer?, shard: boolean? }?
---@return string
function memory.advice(cfg, bytes_available, o)
  local need, list = memory.need(cfg, o), {}
  for _, c in ipairs(memory.fitting(cfg, bytes_available, o)) do
    if c.words ~= "" then list[#list + 1] = ("%s (%s)"):format(c.words, gib(c.need.total)) end
  end
  local text = ("this run needs %s a GPU and the GPU has %s: "):format(gib(need.total), gib(bytes_available))
  if need.total <= bytes_available then
    return text .. "it should fit if nothing else uses the GPU (nvidia-smi shows what does)"
  end
  return text .. (#list > 0 and "these would fit: " .. table.concat(list, "; or ")
    or "no data.batch, model.recompute or optim.shard makes it fit; take a smaller model.arch")
end

-- ---- the command
local stopped = {}   -- thrown in place of training

--- The configuration of a recipe, which is run up to its ijepa.pretrain.
---@param path string
---@param words string[] key=value
---@return table cfg
function memory.recipe(path, words)
  local ijepa = require "ijepa"
  local chunk, message = loadfile(path)
  if not chunk then error(message, 0) end
  local args, trained = ijepa.args, ijepa.pretrain
  ijepa.args = copied(words)
  ijepa.args[#words + 1] = "device="   -- none needs to be here
  local cfg
  ijepa.pretrain = function(c)
    cfg = c
    error(stopped, 0)
  end
  local ok, e = pcall(chunk)
  ijepa.args, ijepa.pretrain = args, trained
  if cfg then return cfg end
  error(ok and ("%s: trains nothing: expected a recipe that calls ijepa.pretrain"):format(path) or e, 0)
end

local ROWS = { { "params", "parameters of the three models" }, { "moments", "moments of AdamW" }, { "gradients", "gradients, kept" },
  { "copies", "weights in bf16, for products" }, { "step", "activations, at their most" },
  { "beside", "workspace, scratch, copies" }, { "context", "driver and libraries (assumed)" } }

--- What `ijepa memory` prints.
---@param cfg table
---@param o { processes: integer, shard: boolean?, GPU: number[] } GPU: sizes in GiB
---@return string
function memory.report(cfg, o)
  local m, lengths = cfg.model, memory.lengths(cfg)
  local usual = memory.need(cfg, { processes = o.processes, shard = o.shard, lengths = lengths, k = math.floor(lengths.k + .5),
    t = math.floor(lengths.t + .5) })
  local most = memory.need(cfg, { processes = o.processes, shard = o.shard, lengths = lengths })
  local crop = type(cfg.data.crop) == "table" and table.concat(cfg.data.crop, " x ") or tostring(cfg.data.crop)
  local lines = { ("%s/%d at %s, %d images%s on each of %d GPU%s, %s%s"):format(m.width and "vit" or m.arch, m.patch, crop,
    cfg.data.batch, cfg.optim.accumulate > 1 and (" x %d"):format(cfg.optim.accumulate) or "", o.processes,
    o.processes == 1 and "" or "s", m.dtype, m.recompute and ", recomputing" or ""),
    ("%-34s %9s %9s"):format("GiB a GPU", "usual", "most"),
    ("%-34s %9.0f %9d"):format("  context patches", lengths.k, lengths.most_k),
    ("%-34s %9.0f %9d"):format("  patches of a target", lengths.t, lengths.most_t) }
  for _, row in ipairs(ROWS) do
    lines[#lines + 1] = ("%-34s %9.2f %9.2f"):format(row[2], usual[row[1]] / GIB, most[row[1]] / GIB)
  end
  lines[#lines + 1] = ("%-34s %9.2f %9.2f"):format("all", usual.total / GIB, most.total / GIB)
  for _, gpu in ipairs(o.gpu) do
    local list = {}
    for _, c in ipairs(memory.fitting(cfg, gpu * GIB, o)) do
      list[#list + 1] = c.words == "" and "fits as it is" or ("%s (%.1f)"):format(c.words, c.need.total / GIB)
    end
    lines[#lines + 1] = ("GPU of %g GiB: %s"):format(gpu, #list > 0 and table.concat(list, "; or ") or "nothing fits")
  end
  return table.concat(lines, "\n")
end

--- ijepa memory RECIPE [key=value ...] [processes=N] [gpu=GIB]: prints the report. False and why: misused.
---@param words string[]
---@return boolean? ok, string? wrong
function memory.main(words)
  local o, rest = { processes = 1, gpu = { 24, 40, 80 } }, {}
  for i = 2, #words do
    local key, value = words[i]:match "^(%w+)=(.*)$"
    if key == "processes" or key == "gpu" then
      local n = tonumber(value)
      if not n or n <= 0 or key == "processes" and n % 1 ~= 0 then return nil, ("'%s': expected a number"):format(words[i]) end
      o[key] = key == "gpu" and { n } or n
    else
      rest[#rest + 1] = words[i]
    end
  end
  if not words[1] then return nil, "which recipe?" end
  print(memory.report(memory.recipe(words[1], rest), o))
  return true
end

memory.GIB = GIB
return memory

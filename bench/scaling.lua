-- The arithmetic of docs/scaling.md: memory, operations, time and traffic of the published recipes
-- on GPUs that are not here. build/ijepa bench/scaling.lua prints its tables; with write=1 they
-- replace those in docs/scaling.md.
--   counted: memory (the real step on the device "dry"), operations and bytes (below, op by op), lengths of masks (drawn)
--   from data sheets: GPUS; assumed: ASSUMED. Nothing here is measured.
local ijepa = require "ijepa"
local memory, jepa = require "ijepa.memory", ijepa.jepa

-- dense bf16 TFLOP/s, HBM TB/s, GB, NVLink GB/s of both directions: NVIDIA's data sheets, SXM/HGX
-- versions
local GPUS = {
  { name = "A100", flops = 312e12, memory = 2.039e12, bytes = 80e9, link = 600e9 },
  { name = "H100", flops = 989e12, memory = 3.35e12, bytes = 80e9, link = 900e9 },
  { name = "H200", flops = 989e12, memory = 4.8e12, bytes = 141e9, link = 900e9 },
  { name = "B200", flops = 2250e12, memory = 8e12, bytes = 180e9, link = 1800e9 },
}
-- fractions of the data sheet's rates
local ASSUMED = { product = .65, attention = .35, memory = .8, network = .8 }
local NETWORK = 50e9          -- 400 Gb/s in bytes, each direction
local NODE, BUCKET = 8, 25 * 2 ^ 20
local IMAGES = 1281167        -- of ImageNet-1k

local out = {}
local function say(fmt, ...) out[#out + 1] = select("#", ...) > 0 and fmt:format(...) or fmt end
local function row(...)
  local parts = { ... }
  for i, v in ipairs(parts) do parts[i] = tostring(v) end
  say("%s", "| " .. table.concat(parts, " | ") .. " |")
end
local function head(...)
  row(...)
  say("%s", ("|---"):rep(select("#", ...)) .. "|")
end
local function f(digits, x) return ("%." .. digits .. "f"):format(x) end

-- ---- the step, op by op: { kind, flops, bytes } each; kind: product, attention, memory
local function list_of_ops()
  local list = {}
  local function add(phase, kind, flops, bytes)
    list[#list + 1] = { phase = phase, kind = kind, flops = flops, bytes = bytes }
  end
  local ops = { list = list }
  -- rows times a matrix in bf16: y (R, N) = x (R, K) w (N, K)
  function ops.forward(phase, R, N, K)
    add(phase, "product", 2 * R * N * K, 2 * (R * K + N * K + R * N))
  end
  -- its gradients: dx and dw, which is added to in f32
  function ops.backward(phase, R, N, K, only_w)
    if not only_w then add(phase, "product", 2 * R * N * K, 2 * (R * K + N * K + R * N)) end
    add(phase, "product", 2 * R * N * K, 2 * (R * K + R * N) + 8 * N * K)
  end
  function ops.memory(phase, bytes) add(phase, "memory", 0, bytes) end
  function ops.attention(phase, flops, bytes) add(phase, "attention", flops, bytes) end
  return ops
end

-- Q sequences of n tokens through blocks of width D; queries after `first` alone in the last block.
local function stack(ops, phase, Q, n, first, depth, D, F, A, backward)
  for i = 1, depth do
    local R, q = Q * n, i == depth and n - first or n
    local r, pairs = Q * q, Q * q * n
    if not backward then
      -- add + norm: reads x f32 and add, writes sum and y
      ops.memory(phase, R * 12 * D)
      ops.forward(phase, R, 3 * D, D)
      ops.attention(phase, 4 * pairs * D, 8 * R * D + 4 * Q * A * n)
      ops.forward(phase, r, D, D)
      ops.memory(phase, r * 12 * D)
      ops.forward(phase, r, F, D)
      ops.memory(phase, r * 4 * F)                                   -- GELU
      ops.forward(phase, r, D, F)
    else
      ops.backward(phase, r, D, F)
      -- GELU's gradient, and GELU again
      ops.memory(phase, r * 8 * F)
      ops.backward(phase, r, F, D)
      ops.memory(phase, r * 6 * D + r * 16 * D)                      -- the norm again; its gradient
      ops.backward(phase, r, D, D)
      ops.attention(phase, 10 * pairs * D, 16 * R * D + 8 * Q * A * n)
      ops.backward(phase, R, 3 * D, D)
      ops.memory(phase, R * 6 * D + R * 16 * D)
    end
  end
  ops.memory(phase, Q * (n - first) * D * (backward and 16 or 12))
end

local function step_of(cfg, K, T, B)
  local m, c = cfg.model, cfg.mask
  local size = jepa.size(m.arch)
  local D, F, P = size.width, math.floor(size.width * size.mlp_ratio + .5), 3 * m.patch ^ 2
  local E, N, M, A = m.pred_dim, (cfg.data.crop / m.patch) ^ 2, c.target.n, size.heads
  local ops = list_of_ops()
  local function encoder(phase, n, backward)
    if not backward then
      ops.memory(phase, B * n * (P + 2 * P))
      ops.forward(phase, B * n, D, P)
      ops.memory(phase, B * n * 6 * D)
    else
      ops.backward(phase, B * n, D, P, true)
    end
    stack(ops, phase, B, n, 0, size.depth, D, F, A, backward)
  end
  local function predictor(phase, backward)
    local way = backward and ops.backward or ops.forward
    way(phase, B * K, E, D)
    ops.memory(phase, M * B * (K + T) * 6 * E)
    stack(ops, phase, M * B, K + T, K, m.pred_depth, E, 4 * E, A, backward)
    way(phase, M * B * T, D, E)
    ops.memory(phase, M * B * T * 8 * D)
  end
  encoder("target", N)
  ops.memory("target", B * N * 8 * D + M * B * T * 8 * D)            -- normalised, gathered
  encoder("context", K)
  predictor "predictor"
  ops.memory("predictor", 2 * M * B * T * 12 * D)                    -- the loss and its gradient
  predictor("backward", true)
  encoder("backward", K, true)
  if m.recompute then
    stack(ops, "again", B, K, 0, size.depth, D, F, A)
    stack(ops, "again", M * B, K + T, K, m.pred_depth, E, 4 * E, A)
  end
  return ops
end

-- p, m, v, g read and written (the gradient becomes 0), the average too; then the products' weights
-- of three models are converted to bf16 when they are first used.
local function optimizer_bytes(cfg, trained, share)
  local size = jepa.size(cfg.model.arch)
  local encoder = 12 * size.depth * size.width ^ 2
  return (32 * trained + 8 * encoder) * (share or 1) + 6 * (trained + encoder)
end

local function seconds(gpu, o)   -- of an op: what bounds it
  local rate = gpu.flops * (o.kind == "attention" and ASSUMED.attention or ASSUMED.product)
  return math.max(o.flops / rate, o.bytes / (gpu.memory * ASSUMED.memory))
end
local function time_of(gpu, ops)
  local t = { all = 0 }
  for _, o in ipairs(ops.list) do
    local s = seconds(gpu, o)
    t[o.phase], t.all = (t[o.phase] or 0) + s, t.all + s
    t[o.kind] = (t[o.kind] or 0) + s
  end
  return t
end
local function sum(ops, what, phase)
  local n = 0
  for _, o in ipairs(ops.list) do
    if not phase or o.phase == phase then n = n + o[what] end
  end
  return n
end

-- ---- recipes
local function recipe(name, words)
  local cfg = memory.recipe(("recipes/%s.lua"):format(name), words or {})
  cfg.name = name
  return cfg
end
local lengths = {}
local function lengths_of(cfg)
  lengths[cfg.name] = lengths[cfg.name] or memory.lengths(cfg, 1000)
  return lengths[cfg.name]
end
local function round(x) return math.floor(x + .5) end
local function gib(x) return f(1, x / 2 ^ 30) end

-- ---- sums between GPUs: seconds of one all-reduce of `bytes`, by ring in the node and between nodes
local function allreduce(gpu, bytes, W, shared)
  local link, nodes = gpu.link / 2 * ASSUMED.network, math.ceil(W / NODE)
  local inside = math.min(W, NODE)
  local t = 2 * (inside - 1) / inside * bytes / link
  if nodes > 1 then
    -- shared: one network adapter for the node's eight
    local per_gpu = shared and bytes or bytes / NODE
    t = t + 2 * (nodes - 1) / nodes * per_gpu / (NETWORK * ASSUMED.network)
  end
  return t
end
-- What a step waits for: sums begin when the first bucket's gradients are whole, and the last
-- bucket's come at the end.
local function exposed(gpu, bytes, W, shared, backward)
  local t, last = allreduce(gpu, bytes, W, shared), allreduce(gpu, BUCKET, W, shared)
  return t, math.max(last, t - backward)
end

-- ---- tables
local function table_memory(cfg0)
  say "### Memory of a GPU, GiB (counted)"
  head("ViT-H/14, 128 images per GPU", "parameters", "moments", "gradients", "bf16 copies",
    "activations", "other", "total, typical masks",
    "total, longest masks")
  for _, case in ipairs { { 1 }, { 1, true }, { 16 }, { 16, true }, { 16, false, true },
      { 16, true, true } } do
    local processes, recompute, shard = case[1], case[2] or false, case[3] or false
    local cfg = recipe(cfg0.name, { "model.recompute=" .. tostring(recompute) })
    local l = lengths_of(cfg)
    local o = { processes = processes, shard = shard, lengths = l, k = round(l.k), t = round(l.t) }
    local u = memory.need(cfg, o)
    o.k, o.t = l.most_k, l.most_t
    local most = memory.need(cfg, o)
    row(("%d GPU%s%s%s"):format(processes, processes > 1 and "s" or "",
      recompute and ", recompute" or "", shard and ", shard" or ""),
      gib(u.params), gib(u.moments), gib(u.gradients), gib(u.copies), gib(u.step),
        gib(u.beside + u.context), gib(u.total), gib(most.total))
  end
  say ""
end

local function table_flops(cfg)
  local l = lengths_of(cfg)
  local ops = step_of(cfg, l.k, l.t, cfg.data.batch)
  say("### Operations of a step (counted; means of 1000 drawn batches: %s context patches, %s patches per target)", f(1, l.k), f(1, l.t))
  head("part", "TFLOP", "fraction", "GB moved")
  local all = sum(ops, "flops")
  for _, phase in ipairs { "target", "context", "predictor", "backward" } do
    row(phase, f(2, sum(ops, "flops", phase) / 1e12), f(0, 100 * sum(ops, "flops", phase) / all)
      .. " %", f(0, sum(ops, "bytes", phase) / 1e9))
  end
  row("total", f(1, all / 1e12), "", f(0, sum(ops, "bytes") / 1e9))
  local again = sum(step_of(recipe(cfg.name, { "model.recompute=true" }), l.k, l.t, cfg.data.batch),
    "flops", "again")
  say ""
  -- proj, fc1, fc2, with their gradients
  local last = 3 * cfg.data.batch * cfg.mask.target.n * l.k * 18 * cfg.model.pred_dim ^ 2
  say("Recomputation adds %s TFLOP (%s %%). That the predictor's last block computes its targets alone saves %s TFLOP.",
    f(1, again / 1e12), f(0, 100 * again / all), f(2, last / 1e12))
  say ""
  return ops, all
end

local function trained_of(cfg)
  return memory.need(cfg, { k = 40, t = 20, lengths = lengths_of(cfg) }).trained
end

local function table_time(cfg)
  local l, trained = lengths_of(cfg), trained_of(cfg)
  local again = recipe(cfg.name, { "model.recompute=true" })
  local plain, more = step_of(cfg, l.k, l.t, cfg.data.batch),
    step_of(again, l.k, l.t, cfg.data.batch)
  say "### Time of a step on one GPU, ms (roofline with the assumed efficiencies)"
  head("GPU", "matmuls", "attention", "memory-bound", "optimizer", "step", "images/s",
    "fraction of peak", "with recompute", "300 epochs on 16, hours")
  for _, gpu in ipairs(GPUS) do
    local t, t2 = time_of(gpu, plain), time_of(gpu, more)
    local opt = optimizer_bytes(cfg, trained) / (gpu.memory * ASSUMED.memory)
    local step = t.all + opt
    row(gpu.name, f(0, 1e3 * t.product), f(0, 1e3 * t.attention), f(0, 1e3 * t.memory),
      f(0, 1e3 * opt), f(0, 1e3 * step),
      f(0, cfg.data.batch / step), f(0, 100 * sum(plain, "flops") / step / gpu.flops) .. " %",
        f(0, 1e3 * (t2.all + opt)),
      f(1, 300 * math.floor(IMAGES / (16 * cfg.data.batch)) * step / 3600))
  end
  say ""
end

local function table_growth(cfg)
  local trained = trained_of(cfg)
  local bytes = 4 * trained
  local l = lengths_of(cfg)
  say("### Weak scaling, 128 images per GPU (gradients in f32: %s GB)", f(2, bytes / 1e9))
  head("GPUs", "GPU", "step alone, ms", "backward, ms", "sums, own 400 Gb/s, ms",
    "exposed communication", "efficiency",
    "sums, 400 Gb/s a node, ms", "exposed communication", "efficiency")
  for _, W in ipairs { 16, 128, 1024 } do
    for _, gpu in ipairs { GPUS[1], GPUS[2], GPUS[4] } do
      local t = time_of(gpu, step_of(cfg, l.k, l.t, cfg.data.batch))
      local step = t.all + optimizer_bytes(cfg, trained) / (gpu.memory * ASSUMED.memory)
      local own, own_wait = exposed(gpu, bytes, W, false, t.backward)
      local shared, shared_wait = exposed(gpu, bytes, W, true, t.backward)
      row(W, gpu.name, f(0, 1e3 * step), f(0, 1e3 * t.backward), f(0, 1e3 * own),
        f(1, 1e3 * own_wait), f(1, 100 * step / (step + own_wait)) .. " %",
        f(0, 1e3 * shared), f(1, 1e3 * shared_wait), f(1, 100 * step / (step + shared_wait))
          .. " %")
    end
  end
  say ""
  say "### Strong scaling, 2048 images per step (H100)"
  head("GPUs", "images per GPU", "step alone, ms", "backward, ms", "sums, own 400 Gb/s, ms",
    "step with sums, ms", "efficiency",
    "sums, 400 Gb/s a node, ms", "efficiency")
  local h100, base = GPUS[2], nil
  for _, W in ipairs { 16, 32, 64, 128, 1024 } do
    local B = 2048 / W
    local t = time_of(h100, step_of(cfg, l.k, l.t, B))   -- masks are still cut in groups of 128
    local step = t.all + optimizer_bytes(cfg, trained) / (h100.memory * ASSUMED.memory)
    local own, wait = exposed(h100, bytes, W, false, t.backward)
    local shared, wait2 = exposed(h100, bytes, W, true, t.backward)
    base = base or (step + wait) * W
    row(W, B, f(0, 1e3 * step), f(0, 1e3 * t.backward), f(0, 1e3 * own), f(0, 1e3 * (step + wait)),
      f(0, 100 * base / W / (step + wait)) .. " %",
      f(0, 1e3 * shared), f(0, 100 * base / W / (step + wait2)) .. " %")
  end
  say ""
end

local function table_volume(cfg)
  local bytes = 4 * trained_of(cfg)
  say "### Bytes that a GPU sends per step, GB"
  head("GPUs", "all-reduce, 2 (W-1)/W x bytes", "shard: to the owner", "shard: parameters back",
    "shard: optimizer's bytes per GPU",
    "moments per GPU, GiB")
  for _, W in ipairs { 1, 16, 128, 1024 } do
    local part = (W - 1) / W * bytes / 1e9
    row(W, f(2, 2 * part), f(2, part), f(2, part),
      f(2, optimizer_bytes(cfg, bytes / 4, 1 / W) / 1e9), f(2, 2 * bytes / W / 2 ^ 30))
  end
  say ""
end

-- The published code's memory, by what autograd keeps under bf16 autocast, in bytes a token of a
-- block: inputs of both norms in f32 (8 D), their outputs in bf16 (4 D), qkv (6 D), the attention's
-- output (2 D), fc1's output and GELU's (4 F); and for each head and key the softmax in f32 and in
-- bf16 (6). Ours: 12 D + 2 F, and the sums again from them.
local function table_published(cfg)
  local l, trained = lengths_of(cfg), trained_of(cfg)
  local size, B, E = jepa.size(cfg.model.arch), cfg.data.batch, cfg.model.pred_dim
  local D, A, M, n = size.width, size.heads, cfg.mask.target.n, l.k + l.t
  local function theirs(rows, width, len, depth)
    return depth * rows * (20 * width + 16 * width + 6 * A * len)
  end
  local function squares(rows, len, depth) return depth * rows * 6 * A * len end
  local rows_c, rows_p, N = B * l.k, M * B * n, (cfg.data.crop / cfg.model.patch) ^ 2
  local enc, pre = theirs(rows_c, D, l.k, size.depth), theirs(rows_p, E, n, cfg.model.pred_depth)
  local ours = memory.need(cfg, { processes = 16, lengths = l, k = round(l.k), t = round(l.t) })
  local target = B * A * N * N * 8
  say "### Beside the published code, GiB on each of 16 GPUs (theirs: arithmetic on what autograd keeps; ours: counted)"
  head("", "published", "ours")
  row("parameters, f32, three models", gib(ours.params), gib(ours.params))
  row("AdamW's moments", gib(8 * trained), gib(ours.moments))
  row("gradients; the published code's DDP keeps them twice, as gradients and in 25 MB buckets",
    gib(8 * trained), gib(ours.gradients))
  row("bf16 copies of weights (theirs: autocast's cache, while a step runs)", gib(ours.copies),
    gib(ours.copies))
  row("activations of encoder and predictor", gib(enc + pre), gib(ours.step))
  row("of these N x N matrices",
    gib(squares(rows_c, l.k, size.depth) + squares(rows_p, n, cfg.model.pred_depth)), gib(0))
  row("target encoder, temporary: N x N matrices", gib(target), "with activations")
  row("total, without workspace and driver",
    gib(ours.params + 16 * trained + ours.copies + enc + pre),
    gib(ours.total - ours.beside - ours.context))
  say ""
  local a100 = GPUS[1]
  local t = time_of(a100, step_of(cfg, l.k, l.t, B))
  local step = t.all + optimizer_bytes(cfg, trained) / (a100.memory * ASSUMED.memory)
  local _, wait = exposed(a100, 4 * trained, 16, false, t.backward)
  local steps = 300 * math.floor(IMAGES / (16 * B))
  say("Paper: under 72 hours on 16 A100, that is under %s ms per step of 2048 images (%d steps). Roofline here: %s ms, %s hours,",
    f(0, 72 * 3600e3 / steps), steps, f(0, 1e3 * (step + wait)), f(1, steps * (step + wait) / 3600))
  say("%s A100 hours of the paper's (under) 1,200: a bound for a loader and launches that cost nothing, not a measurement.", f(0,
    16 * steps * (step + wait) / 3600))
  say ""
end

local function table_recipes()
  say "### The four recipes on the published GPUs' number (memory of 16 or more A100/H100; time on H100)"
  head("recipe", "images per GPU x GPUs", "K, T", "TFLOP a step", "memory, GiB", "sharded",
    "recompute too", "step, ms",
    "sums, own 400 Gb/s, ms", "waited for, ms", "all epochs, H100 hours")
  local images = { in1k_vith14 = IMAGES, in1k_vith16_448 = IMAGES, in22k_vith14 = 14197122,
    in22k_vitg16 = 14197122 }
  for _, r in ipairs { { "in1k_vith14", 16 }, { "in1k_vith16_448", 128 }, { "in22k_vith14", 64 },
      { "in22k_vitg16", 128 } } do
    local name, W = r[1], r[2]
    local cfg = recipe(name)
    local l, trained, h100 = lengths_of(cfg), trained_of(cfg), GPUS[2]
    local o = { processes = W, lengths = l }
    local plain = memory.need(cfg, o)
    o.shard = true
    local shard, again = memory.need(cfg, o),
      memory.need(recipe(name, { "model.recompute=true" }), o)
    local ops = step_of(cfg, l.k, l.t, cfg.data.batch)
    local t = time_of(h100, ops)
    local step = t.all + optimizer_bytes(cfg, trained) / (h100.memory * ASSUMED.memory)
    local sums, wait = exposed(h100, 4 * trained, W, false, t.backward)
    local steps = cfg.optim.epochs * math.floor(images[name] / (W * cfg.data.batch))
    row(name, ("%d x %d"):format(cfg.data.batch, W), ("%s, %s"):format(f(0, l.k), f(0, l.t)),
      f(1, sum(ops, "flops") / 1e12),
      gib(plain.total), gib(shard.total),
      gib(again.total), f(0, 1e3 * step), f(0, 1e3 * sums), f(1, 1e3 * wait),
        f(0, W * steps * (step + wait) / 3600))
  end
  say ""
end

local cfg = recipe "in1k_vith14"
table_memory(cfg)
table_flops(cfg)
table_time(cfg)
table_volume(cfg)
table_growth(cfg)
table_published(cfg)
table_recipes()

local text = table.concat(out, "\n")
if ijepa.args[1] ~= "write=1" then return print(text) end
local path = "docs/scaling.md"
local file = assert(io.open(path))
local page = file:read "*a"
file:close()
local before, after = page:match "^(.-<!%-%- tables %-%->\n).-(<!%-%- end of tables %-%->.*)$"
if not before then error(path .. ": the marks of the tables are missing", 0) end
file = assert(io.open(path, "w"))
file:write(before, "\n", text, "\n", after)
file:close()

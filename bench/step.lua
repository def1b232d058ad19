-- Times the training step on synthetic images: the counterpart of bench/peer/step.py. Prints one
-- line of JSON.
--   build/ijepa bench/step.lua arch=vit_small patch=16 crop=224 batch=16 pred_depth=6 pred_dim=192 dtype=bf16
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C
local tensor, jepa, optim, device, mask = ijepa.tensor, ijepa.jepa, ijepa.optim, ijepa.device,
  ijepa.mask

local o = { arch = "vit_tiny", patch = 8, crop = 64, batch = 64, pred_depth = 4, pred_dim = 96,
  dtype = "f32", steps = 20,
  warmup = 3, recompute = 0 }
for _, a in ipairs(ijepa.args) do
  local k, v = a:match "^([%w_]+)=(.*)$"
  if k == nil or (o[k] == nil and k ~= "min_keep" and k ~= "threads") then
    error("unknown option " .. a, 0)
  end
  o[k] = tonumber(v) or v
end
if o.threads then C.ij_threads_set(o.threads) end
local dtype = o.dtype == "bf16" and C.ij_device_bf16(device.get()) ~= 0 and "bf16" or "f32"

local grid = o.crop / o.patch
local context = jepa.encoder { arch = o.arch, patch = o.patch, crop = o.crop, dtype = dtype,
  recompute = o.recompute == 1 }
local predictor = jepa.predictor(context, { depth = o.pred_depth, width = o.pred_dim })
local target = context:target()
local opt = optim.adamw { models = { context, predictor }, average = { [context] = target } }
local masks = mask.new { grid = { grid, grid }, min_keep = o.min_keep or (grid <= 8 and 4 or 10),
  quirks = "reference" }

local bytes = o.batch * o.crop * o.crop * 3
local pixels, rng = F.new("uint8_t[?]", bytes), F.new "ij_rng"
C.ij_rng_init(rng, 0, 1000, 0, 0)
for i = 0, bytes - 1 do pixels[i] = C.ij_rng_below(rng, 256) end

local seconds, first, last, k_sum, t_sum = {}, nil, nil, 0, 0
for step = 1, o.warmup + o.steps do
  local begin = C.ij_time()
  device.step(function()
    local x = tensor.from_pointer(pixels, { o.batch, o.crop, o.crop, 3 }, "u8")
    local m = masks:sample_raw(o.batch, (step - 1) * 128)      -- one group a step, as the peer does
    local ctx = tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32")
    local tgt = tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
    k_sum, t_sum = k_sum + m.k, t_sum + m.t
    local h = device.no_grad(function() return target(x):layer_norm():gather(tgt) end)
    local z = predictor(context(x, ctx), ctx, tgt)
    local loss = tensor.smooth_l1(z, h)
    local numbers = { lr = 1e-3, wd = .04, momentum = .996 }
    opt:eager(numbers)
    loss:backward()
    opt:step(numbers)
    last = loss:item()
    first = first or last
  end)
  device.wait()   -- the update
  if step > o.warmup then seconds[#seconds + 1] = C.ij_time() - begin end
end
table.sort(seconds)
local median = seconds[math.floor(#seconds / 2) + 1]
local resident = tonumber(C.ij_rss_peak())   -- of the steps: what follows needs memory of its own

-- The machine's rate on large matmuls of the step's type, measured here and now: those of a block
-- 2048 wide on 2048 random tokens. The first runs choose oneDNN's kernels.
local dev, rate = device.get(), 0
local wide = jepa.encoder { width = 2048, depth = 1, heads = 16, patch = 8, crop = { 256, 512 },
  dtype = dtype }
local image = tensor.rand({ 1, 3, 256, 512 }, { seed = 1 })
for run = 1, 6 do
  F.check(C.ij_profile_begin(dev, 0))
  device.step(function() device.no_grad(function() wide(image) end) end)
  F.check(C.ij_profile_settle(dev))
  local n = tonumber(C.ij_profile_entries(dev, nil, 0))
  local entries = F.new("ij_profile_entry[?]", n)
  C.ij_profile_entries(dev, entries, n)
  for i = 0, n - 1 do
    local e = entries[i]
    if F.string(e.name) == "linear_fwd" and run > 2 then rate = math.max(rate, e.flops / e.seconds) end
  end
  C.ij_profile_end(dev)
end

-- A block costs 24 D^2 + 4 n D operations a token of a sequence of n (mlp ratio 4); a backward twice
-- its forward; in the predictor's last block only targets go on.
local K, T, N, D, E = k_sum / (o.warmup + o.steps), t_sum / (o.warmup + o.steps), grid * grid,
  context.width, o.pred_dim
local function blocks(tokens, width, depth)
  return depth * tokens * (24 * width ^ 2 + 4 * tokens * width)
end
local embed = 2 * 3 * o.patch ^ 2 * D
local predictor_flop =
  4 * (blocks(K + T, E, o.pred_depth) - K * 18 * E ^ 2 + 2 * T * E * D) + 2 * K * E * D
local flop = blocks(N, D, context.depth) + N * embed + 3 * (
  blocks(K, D, context.depth) + K * embed) + 3 * predictor_flop
local fields = {
  { "engine", '"ijepa"' }, { "arch", ('"%s"'):format(o.arch) }, { "patch", o.patch },
    { "crop", o.crop }, { "batch", o.batch },
  { "pred", ("[%d, %d]"):format(o.pred_depth, o.pred_dim) }, { "dtype", ('"%s"'):format(dtype) },
  { "matmul", ('"%s"'):format(F.string(C.ij_cpu_matmul())) },
    { "isa", ('"%s"'):format(F.string(C.ij_cpu_isa())) },
  { "threads", C.ij_threads_get() }, { "images_per_s", ("%.2f"):format(o.batch / median) },
  { "ms_per_step", ("%.1f"):format(1000 * median) },
    { "ms_fastest", ("%.1f"):format(1000 * seconds[1]) },
  { "mean_context", ("%.1f"):format(k_sum / (o.warmup + o.steps)) },
    { "mean_target", ("%.1f"):format(t_sum / (o.warmup + o.steps)) },
  { "peak_rss_mib", ("%.0f"):format(resident / 2 ^ 20) }, { "loss_first", ("%.5f"):format(first) },
  { "gflop_per_image", ("%.2f"):format(flop / 1e9) },
    { "gflop_s", ("%.1f"):format(flop * o.batch / median / 1e9) },
  { "matmul_gflop_s", ("%.1f"):format(rate / 1e9) },
    { "share", ("%.2f"):format(flop * o.batch / median / rate) },
  { "loss_last", ("%.5f"):format(last) },
}
local parts = {}
for i, f in ipairs(fields) do parts[i] = ('"%s": %s'):format(f[1], f[2]) end
print("{" .. table.concat(parts, ", ") .. "}")

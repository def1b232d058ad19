-- What a training step needs of a GPU: counted on the dry device, compared with arithmetic of its
-- own.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local memory, device, config = require "ijepa.memory", ijepa.device, ijepa.config

local tests = {}
TestMemory = tests -- luacheck: ignore

local function settings(words)
  local list = { "data.root=none", "data.batch=8", "data.crop=64", "model.patch=8",
    "model.width=64", "model.depth=6", "model.heads=4",
    "model.pred_depth=3", "model.pred_dim=32", "mask.min_keep=3", "mask.group=8" }
  for word in (words or ""):gmatch "%S+" do list[#list + 1] = word end
  return config({}, nil, list)
end

-- What the backward of a stack needs of its forward, by the list at the top of core/model/stack.c:
-- bytes.
local function stack(rows, width, depth, heads, mlp, last_rows)
  local half, full = 2, 4
  local function block(r, after) return r * (
    full * width + half * (3 * width + width) + full * (heads + 2)) +
    after * (full * width + half * mlp + full * 2) end
  return (depth - 1) * block(rows, rows) + block(rows, last_rows)
end

function tests.test_parts_are_what_arithmetic_says()
  local cfg = settings()
  local K, T, B, M, D, E = 30, 12, 8, 4, 64, 32
  local need = memory.need(cfg, { k = K, t = T })
  device.with("dry", function()
    local context, predictor = ijepa.jepa.models(cfg, true)
    local all = 2 * context:size() + predictor:size()
    lu.assertAlmostEquals(need.params, 4 * all, 16e3)   -- sizes are rounded up to 512 bytes
    lu.assertTrue(need.params >= 4 * all)
    local trained = context:size() + predictor:size() - 64 * (D + E)   -- positions are not
    lu.assertEquals(need.trained, trained)
    lu.assertTrue(need.moments >= 8 * trained and need.moments < 8 * trained + 2 * 512 * 200)
  end)
  lu.assertEquals(need.gradients, 0)
  -- activations: the encoder's and the predictor's; the rest of a step (one block's gradients,
  -- targets) is smaller
  local saved = stack(B * K, D, 6, 4, 4 * D, B * K) + stack(M * B * (K + T), E, 3, 4, 4 * E,
    M * B * T)
  lu.assertTrue(need.step > saved, ("%d of %d"):format(need.step, saved))
  lu.assertTrue(need.step < 1.6 * saved, ("%d of %d"):format(need.step, saved))
end

function tests.test_copies_are_of_products_weights()
  local n, D, E, F = 0, 64, 32, 4
  for _, s in ipairs { { D, 6 }, { E, 3 }, { D, 6 } } do n = n + s[2] * s[1] ^ 2 * (4 + 2 * F) end
  n = n + 2 * D * 3 * 64 + 2 * D * E
  lu.assertEquals(memory.need(settings(), { k = 20, t = 9 }).copies, 2 * n)
  lu.assertEquals(memory.need(settings "model.dtype=f32", { k = 20, t = 9 }).copies, 0)
end

-- Of the CUDA kernels, by their descriptions at kernels/cuda/costs.h: each slot holds the largest
-- need, an eighth and 256 bytes more, rounded up to 512. Here the predictor's blocks need most: 32
-- sequences of 42 tokens, 4 heads of 8.
function tests.test_scratch_and_staging()
  local need = memory.need(settings(), { k = 30, t = 12 })
  local function slot(bytes) return math.ceil((bytes + math.floor(bytes / 8) + 256) / 512) * 512 end
  -- copies; 3 per row and head; a row per tile
  local queries, stats, sums = 32 * 42 * 32 * 2, 3 * 4 * 32 * 42 * 4, 32 * 2 * 32 * 4
  lu.assertEquals(need.scratch, 2 ^ 25 + slot(queries) + slot(stats) + slot(sums))
  -- three of a batch of images, eight for what is at most 64 KiB
  lu.assertEquals(need.staging, 3 * 8 * 64 * 64 * 3 + 8 * 2 ^ 16)
end

function tests.test_what_settings_change()
  local o = { k = 30, t = 12 }
  local base = memory.need(settings(), o)
  local again = memory.need(settings(), o)
  lu.assertEquals(again, base)
  local recompute = memory.need(settings "model.recompute=true", o)
  lu.assertTrue(recompute.step < .7 * base.step)
  lu.assertEquals(recompute.params, base.params)
  local twice = memory.need(settings "data.batch=16", o)
  lu.assertTrue(twice.step > 1.8 * base.step and twice.step < 2.05 * base.step)
  local f32 = memory.need(settings "model.dtype=f32", o)
  lu.assertTrue(f32.step > 1.3 * base.step)
  local kept = memory.need(settings "optim.accumulate=2", o)
  lu.assertTrue(kept.gradients >= 4 * base.trained
    and kept.gradients < 4 * base.trained + 512 * 400)
  local four = memory.need(settings(), { k = 30, t = 12, processes = 4 })
  -- buckets
  lu.assertTrue(four.gradients >= 4 * base.trained
    and four.gradients < 4 * base.trained + 256 * 200)
  lu.assertAlmostEquals(
    memory.need(settings "optim.clip=1", { k = 30, t = 12, processes = 4 }).gradients,
    four.gradients, 512)
  local both = memory.need(settings "optim.accumulate=2", { k = 30, t = 12, processes = 4 })
  -- packing into buckets frees the sums over micro-batches
  lu.assertAlmostEquals(both.gradients, four.gradients, 512)
  -- while the backward runs, both are there
  lu.assertTrue(both.gradients + both.step > four.gradients + four.step)
  local shared = memory.need(settings(), { k = 30, t = 12, processes = 4, shard = true })
  lu.assertTrue(shared.moments >= base.moments / 4
    and shared.moments < base.moments / 4 + 2 * 64 * 256 * 4)
  lu.assertAlmostEquals(shared.gradients, four.gradients, 4 * 512)
  lu.assertTrue(shared.total < four.total)
end

function tests.test_longer_masks_need_more()
  local lengths = memory.lengths(settings(), 50)
  lu.assertTrue(lengths.k <= lengths.most_k and lengths.t <= lengths.most_t)
  lu.assertTrue(lengths.most_k > 3 and lengths.most_k <= 64)
  local short, long = memory.need(settings(), { k = 10, t = 8 }),
    memory.need(settings(), { k = 40, t = 8 })
  lu.assertTrue(long.step > 1.5 * short.step)
end

function tests.test_device_and_memory_stay_as_they_are()
  local name, before = device.name(), device.get()
  memory.need(settings(), { k = 10, t = 8 })
  lu.assertEquals(device.name(), name)
  lu.assertTrue(device.get() == before)
  collectgarbage()
  collectgarbage()
  local live = ijepa.memory()
  for _ = 1, 3 do memory.need(settings(), { k = 10, t = 8 }) end
  collectgarbage()
  collectgarbage()
  lu.assertTrue(ijepa.memory() <= live + 65536)
  local ok, e = pcall(device.with, "dry", function() error("inside", 0) end)
  lu.assertEquals({ ok, e, device.name() }, { false, "inside", name })
end

function tests.test_fitting()
  local cfg = settings "data.batch=12"
  local need = memory.need(cfg)
  local as_it_is = memory.fitting(cfg, need.total)
  lu.assertEquals({ #as_it_is, as_it_is[1].words }, { 1, "" })
  local less = memory.fitting(cfg, need.total - 2 ^ 20)
  lu.assertTrue(#less > 0)
  for _, c in ipairs(less) do
    lu.assertTrue(c.words ~= "" and c.need.total <= need.total - 2 ^ 20)
    local words = config({}, nil, { "data.root=none" })   -- what is advised are settings
    lu.assertNotNil(words)
  end
  lu.assertEquals(memory.fitting(cfg, 2 ^ 20), {})
end

function tests.test_advice()
  local cfg = settings "data.batch=64"
  local need = memory.need(cfg)
  local text = memory.advice(cfg, need.total - need.step / 2)
  lu.assertStrMatches(text,
    "this run needs [%d.]+ GiB per GPU and the GPU has [%d.]+ GiB: these would fit: .*data%.batch=%d+ " ..
    "optim%.accumulate=%d+ %([%d.]+ GiB%).*")
  lu.assertNil(text:find "\n")
  lu.assertStrContains(memory.advice(cfg, 2 ^ 20), "take a smaller model.arch")
  lu.assertStrContains(memory.advice(cfg, 2 ^ 40), "nvidia-smi")
end

local function shell(words)
  return support.run({ support.program, support.split(words) }, { merge = true })
end

function tests.test_command()
  local code, text = shell "memory recipes/in1k_vith14.lua data.batch=64 device=cuda gpu=40"
  lu.assertEquals(code, 0, text)
  lu.assertStrContains(text, "vit_huge/14 at 224, 64 images")
  lu.assertStrContains(text, "\nGPU of 40 GiB: fits as it is\n")
  local all = tonumber(text:match "\ntotal +([%d.]+)")
  lu.assertTrue(all > 15 and all < 30, text)
  code, text = shell "memory recipes/in1k_vith14.lua data.batch=512 gpu=24 processes=8"
  lu.assertEquals(code, 0, text)
  lu.assertStrContains(text, "model.recompute=true")
  lu.assertStrContains(text, "optim.shard=true")
end

function tests.test_command_misused()
  local code, text = shell "memory"
  lu.assertEquals(code, 2, text)
  code, text = shell "memory recipes/in1k_vith14.lua processes=x"
  lu.assertEquals(code, 2, text)
  code, text = shell "memory recipes/in1k_vith14.lua data.bach=3"
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "did you mean")
  code, text = shell "memory recipes/nothing.lua"
  lu.assertEquals(code, 1, text)
  code, text = shell "memory bench/list.c"
  lu.assertEquals(code, 1, text)
end


-- Whole training runs on a few drawn images: they learn, resume bit for bit, and don't depend on
-- the workers.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestTrain = tests -- luacheck: ignore

local program = support.program
local folder, images
function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 40, test = 20, size = 32 }
end

local function settings(over)
  local words = {
    out = folder .. "/" .. (over.out or "run"), ["data.root"] = images.train, ["data.batch"] = 8,
    ["data.crop"] = 32,
    ["data.workers"] = 1, ["model.width"] = 16, ["model.depth"] = 2, ["model.heads"] = 2,
    ["model.patch"] = 4,
    ["model.pred_depth"] = 1, ["model.pred_dim"] = 8, ["mask.min_keep"] = 3, ["mask.group"] = 8,
    ["optim.epochs"] = 3,
    ["optim.warmup"] = 1, ["model.init_gain"] = .7, ["model.patch_gain"] = 1.5,
  }
  for k, v in pairs(over) do
    if k ~= "out" then words[k] = v end
  end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return list
end
local function config(over) return ijepa.config({}, nil, settings(over)) end

-- A run in a process of its own; returns exit code and what it printed. o: of support.run.
local function spawn(over, o)
  local recipe = support.write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
  o = o or {}
  o.merge = true
  return support.run({ program, recipe, settings(over) }, o)
end

local function latest(run) return folder .. "/" .. run .. "/jepa-latest.safetensors" end

function tests.test_resume_equals_the_uninterrupted_run()
  lu.assertEquals((spawn { out = "whole" }), 0)
  -- in the middle of an epoch
  lu.assertEquals((spawn { out = "parts", ["optim.steps"] = 7 }), 0)
  local code, text = spawn { out = "parts", ["optim.steps"] = 11 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(text, "resumes from")
  lu.assertEquals((spawn { out = "parts" }), 0)
  lu.assertTrue(support.same_tensors(latest "whole", latest "parts"))
  local function losses(run)
    return (support.read(folder .. "/" .. run .. "/jepa_r0.csv"):gsub(",%d+\n", "\n"))
  end
  lu.assertEquals(losses "parts", losses "whole")
end

function tests.test_workers_change_nothing()
  for _, n in ipairs { 0, 1, 3 } do
    lu.assertEquals((spawn { out = "w" .. n, ["data.workers"] = n }), 0)
  end
  lu.assertTrue(support.same_tensors(latest "w0", latest "w1"))
  lu.assertTrue(support.same_tensors(latest "w0", latest "w3"))
end

-- unreadable but while an op or a copy runs
function tests.test_whole_run_and_probe_on_guarded_memory()
  local code, text = spawn({ out = "guard", ["optim.steps"] = 3 },
    { env = { IJEPA_DEVICE = "guard" } })
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  lu.assertEquals((spawn { out = "cpu", ["optim.steps"] = 3 }), 0)
  lu.assertTrue(support.same_tensors(latest "guard", latest "cpu"))
  code, text = support.run({ program, "recipes/probe_linear.lua", "run=" .. folder .. "/guard",
    "train=" .. images.train, "test=" .. images.test,
    support.split "resize=32 epochs=2 lr=1e-3 wd=0.1 blocks=2 cache=false" },
    { merge = true, env = { IJEPA_DEVICE = "guard" } })
  lu.assertEquals(code, 0, text)
  lu.assertStrContains(text, "best on the images held out: last 2 blocks, norm ")
end

function tests.test_accumulation_equals_a_larger_batch()
  -- one mask group of 8 images in both, so both see the same masks; sums in another order: not bit
  -- for bit
  local a = ijepa.pretrain(config { out = "a8", ["optim.steps"] = 2, ["data.batch"] = 8 })
  local b = ijepa.pretrain(config { out = "a4", ["optim.steps"] = 2, ["data.batch"] = 4,
    ["optim.accumulate"] = 2 })
  lu.assertAlmostEquals(a.losses[1], b.losses[1], 1e-5)
  lu.assertAlmostEquals(a.losses[2], b.losses[2], 1e-4)
end

function tests.test_recompute_changes_no_number()
  local a = ijepa.pretrain(config { out = "plain", ["optim.steps"] = 3 })
  local b = ijepa.pretrain(config { out = "again", ["optim.steps"] = 3,
    ["model.recompute"] = true })
  lu.assertEquals(a.losses, b.losses)
end

function tests.test_overfits_one_batch()
  local tensor, device = ijepa.tensor, ijepa.device
  local cfg = config { out = "over" }
  local context, predictor, target = ijepa.jepa.models(cfg)
  local set = assert(ijepa.data.open { train = true, root = images.train, crop = 32, batch = 8,
    workers = 0 })
  local x = tensor.from_pointer(set:next().pixels, { 8, 32, 32, 3 }, "u8", true)
  local ctx, tgt = ijepa.jepa.policy(cfg, context.grid):sample(8, 0)
  ctx, tgt = ctx:clone(true), tgt:clone(true)
  local opt = ijepa.optim.adamw { models = { context, predictor } }    -- the target stays as it is
  local first, last
  for _ = 1, 150 do
    last = device.step(function()
      local h = device.no_grad(function() return target(x):layer_norm():gather(tgt) end)
      local loss = tensor.smooth_l1(predictor(context(x, ctx), ctx, tgt), h)
      loss:backward()
      opt:step { lr = 3e-3 }
      return loss:item()
    end)
    first = first or last
  end
  lu.assertTrue(last < .25 * first, ("%g to %g"):format(first, last))
end

function tests.test_memory_is_flat_and_nothing_is_allocated_in_steady_state()
  local device, tensor = ijepa.device, ijepa.tensor
  local cfg = config { out = "flat" }
  local context, predictor, target = ijepa.jepa.models(cfg)
  local policy = ijepa.jepa.policy(cfg, context.grid)
  local opt = ijepa.optim.adamw { models = { context, predictor },
    average = { [context] = target } }
  local pixels = tensor.zeros({ 8, 32, 32, 3 }, "u8", true)
  local function step(i)
    device.step(function()
      local ctx, tgt = policy:sample(8, 8 * i)
      local h = device.no_grad(function() return target(pixels):layer_norm():gather(tgt) end)
      tensor.smooth_l1(predictor(context(pixels, ctx), ctx, tgt), h):backward()
      opt:step { lr = 1e-4, momentum = .99 }
    end)
  end
  for i = 1, 30 do step(i) end
  collectgarbage()
  local before = tonumber(C.ij_mem_live())
  for i = 31, 130 do step(i) end
  collectgarbage()
  collectgarbage()
  lu.assertTrue(math.abs(tonumber(C.ij_mem_live()) - before) < 2 ^ 20, "live memory grew")
end

function tests.test_clipping_bounds_the_update()
  local run = ijepa.pretrain(config { out = "clip", ["optim.steps"] = 2, ["optim.clip"] = 1e-3 })
  lu.assertEquals(#run.losses, 2)
end

-- A run whose predictions have infinite gradients from its fifth step on, though the loss stays a
-- number.
local function run_with_infinite_gradients(over)
  local function spoil(t)
    function t:predict(...)
      local z, h = getmetatable(self).predict(self, ...)
      local copy = ijepa.device.no_grad(function() return z:clone() end)
      return z + (z - copy) * 1e30 * 1e30, h
    end
  end
  return ijepa.pretrain(config(over), { step = function(t) if t.step == 4 then spoil(t) end end })
end
function tests.test_an_infinite_gradient_stops_and_is_not_saved()
  for _, over in ipairs { { out = "clipped", ["optim.clip"] = 1 }, { out = "eager" },
    { out = "summed", ["optim.accumulate"] = 2,
    ["optim.epochs"] = 6 } } do
    over["log.save_steps"] = 1
    local ok, message = pcall(run_with_infinite_gradients, over)
    lu.assertFalse(ok)
    lu.assertStrContains(message, "not finite")
    local saved = assert(ijepa.checkpoint.load(folder .. "/" .. over.out
      .. "/jepa-latest.safetensors"))
    lu.assertEquals(saved:meta "step", 4)
    for _, name in ipairs(saved:names()) do
      local p, n = saved:data(name)
      local v = F.cast("const float *", p)
      for i = 0, n / 4 - 1 do lu.assertTrue(v[i] - v[i] == 0) end
    end
  end
end

function tests.test_interrupt_saves_and_exits_130()
  -- without a diagnosis, whose line may come between the last step's and the end
  local code, text = spawn({ out = "long", ["optim.epochs"] = 100000, ["diagnose.every"] = 0 },
    { timeout = 5, signal = support.SIGINT })
  lu.assertEquals(code, 130)
  lu.assertStrMatches(text, ".*\n[^\n]*step (%d+)/%d+  loss [^\n]*\n"
    .. "interrupted: step %1 is saved in '[^']*'; the same command resumes there\n")
  lu.assertNotNil(assert(ijepa.checkpoint.load(latest "long")):meta "step")
end

function tests.test_what_a_run_prints()
  local code, text = spawn { out = "said", ["optim.steps"] = 12, ["log.every"] = 5,
    ["model.dtype"] = "f32", ["diagnose.images"] = 8 }
  lu.assertEquals(code, 0)
  local out = folder .. "/said"
  lu.assertStrContains(text,
    "encoder 8.4 k, predictor 1.7 k parameters (vit, patches of 4)\nf32 on cpu ")
  lu.assertStrContains(text,
    "\n40 images, batch size 8, 12 steps (5 per epoch)\nstep 0: before training: effective rank")
  lu.assertStrMatches(text,
    ".*\nfirst batch: context %d+ patches, targets 4 x %d+ patches; grid 8 x 8\nepoch 1  step 1/12 .*")
  local steps = {}
  for step in text:gmatch "\nepoch %d  step (%d+)/12  loss [^\n]*" do
    steps[#steps + 1] = tonumber(step)
  end
  lu.assertEquals(steps, { 1, 5, 10, 12 })
  local ending = ".*\nstep 12: [^\n]*effective rank[^\n]*\ndone: 12 steps in %d+ s, saved in OUT; "
    .. "diagnosis: %a+\nnext: %./ijepa report OUT\n.*"
  local pattern = out:gsub("%p", "%%%0"):gsub("%%", "%%%%")
  lu.assertStrMatches(text, (ending:gsub("OUT", pattern)))
  lu.assertNotStrContains(text, "hint")
  lu.assertNil(text:find("\27", 1, true))
  code, text = spawn { out = "said", ["model.dtype"] = "f32", ["optim.steps"] = 12 }
  lu.assertEquals(code, 0)
  lu.assertEquals(text, "already finished: 12 of 12 steps; optim.steps=... continues\n")
  code, text = spawn { out = "said", ["model.dtype"] = "f32", ["optim.steps"] = 13 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(text, ("resumes from %s/jepa-latest.safetensors at step 12\n"):format(out))
  lu.assertStrContains(text, "\ndone: 1 step in ")
end

function tests.test_a_predictor_larger_than_the_encoder_is_noticed()
  local _, text = spawn { out = "large", ["optim.steps"] = 1, ["model.pred_dim"] = 64,
    ["model.pred_depth"] = 4, ["diagnose.every"] = 0 }
  lu.assertStrContains(text,
    "hint: the predictor is larger than the encoder; see model.pred_dim and model.pred_depth\n")
end

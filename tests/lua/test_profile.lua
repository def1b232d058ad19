-- `ijepa profile`: phases add up to the step, ops are counted as arithmetic says, the training is
-- the same with and without it.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local profile, config = require "ijepa.train.profile", ijepa.config

local tests = {}
TestProfile = tests -- luacheck: ignore

local images
function tests.setUp() images = support.scenes { n = 40, test = 20, size = 32 } end

local SMALL = { "data.batch=8", "data.crop=32", "data.workers=1", "model.width=16", "model.depth=2",
  "model.heads=2", "model.patch=4", "model.pred_depth=1", "model.pred_dim=8", "mask.min_keep=3",
  "mask.group=8", "model.dtype=f32" }
local function words(more)
  local list = { "data.root=" .. images.train }
  for _, w in ipairs(SMALL) do list[#list + 1] = w end
  for _, w in ipairs(more or {}) do list[#list + 1] = w end
  return list
end

local function measured(more)
  return profile.measure(config({}, nil, words(more)), { steps = 3, before = 1, trace = true })
end
local function named(list, name)
  for _, x in ipairs(list) do if x.name == name then return x end end
end

function tests.test_phases_add_up_and_ops_are_counted()
  local r = measured()
  local sum, in_ops, of_ops = 0, 0, 0
  for _, p in ipairs(r.phases) do
    sum, in_ops = sum + p.seconds, in_ops + p.ops
    lu.assertTrue(p.ops <= p.seconds * 1.0001 + 1e-6, p.name)
  end
  for _, op in ipairs(r.ops) do of_ops = of_ops + op.seconds end
  lu.assertAlmostEquals(sum / r.seconds, 1, .02)
  lu.assertAlmostEquals(in_ops / of_ops, 1, 1e-6)
  for _, name in ipairs { "loader", "masks", "context encoder", "target encoder", "predictor",
    "backward", "update" } do
    lu.assertTrue(named(r.phases, name).seconds > 0, name)
  end
  lu.assertEquals(named(r.ops, "update").calls, 1)
  -- blocks of the target encoder, the context encoder, the predictor
  lu.assertEquals(named(r.ops, "attention_fwd").calls, 2 + 2 + 1)
  lu.assertEquals(named(r.ops, "attention_bwd").calls, 2 + 1)
  local whole = 2 * 8 * 64 * (48 * 16 + 2 * 16 * (3 * 16 + 16 + 4 * 16 + 4 * 16))   -- of the target
  lu.assertTrue(named(r.ops, "linear_fwd").flops > whole)
  lu.assertTrue(named(r.ops, "linear_fwd").flops < 2.2 * whole)
end

function tests.test_training_is_the_same()
  local function losses()
    local run = ijepa.pretrain(config({}, nil, words { "out=" .. support.folder(),
      "optim.steps=2", "diagnose.every=0", "optim.epochs=1", "optim.warmup=0" }))
    lu.assertEquals(#run.losses, 2)
    return run.losses
  end
  local before = losses()
  measured()
  lu.assertEquals(losses(), before)   -- nothing is left behind
end

-- On a device that works behind the host: events; the same ops as on the CPU.
function tests.test_on_a_gpu_or_its_emulator()
  support.need_gpus(1)
  local cpu, gpu = measured(), measured { "device=cuda" }
  ijepa.device.set "cpu"
  lu.assertTrue(named(gpu.phases, "waiting").seconds > 0)
  for _, name in ipairs { "linear_fwd", "attention_fwd", "attention_bwd", "update" } do
    lu.assertEquals(named(gpu.ops, name).calls, named(cpu.ops, name).calls, name)
    lu.assertTrue(named(gpu.ops, name).seconds > 0, name)
  end
  local last = 0
  for _, e in ipairs(gpu.events) do
    lu.assertTrue(e.start >= 0 and e.seconds >= 0, e.name)
    if not e.is_phase then last = math.max(last, e.start + e.seconds) end
  end
  lu.assertTrue(last > 0 and last < 2 * gpu.steps * gpu.seconds)
end

function tests.test_modules_of_an_objective_are_phases()
  local r = measured { "objective=recipes/objectives/vicreg.lua" }
  lu.assertNotNil(named(r.phases, "backward"))
  lu.assertNotNil(named(r.ops, "matmul") or named(r.ops, "linear_fwd"))
end

local function shell(list)
  return support.run({ support.program, "profile", list }, { merge = true })
end

function tests.test_command()
  local folder = support.folder()
  support.write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
  local args = words { "out=" .. folder .. "/run", "steps=2", "trace=" .. folder .. "/t.json" }
  table.insert(args, 1, folder .. "/recipe.lua")
  local code, text = shell(args)
  lu.assertEquals(code, 0, text)
  for _, part in ipairs { "2 steps: ", "target encoder", "outside of ops", "linear_fwd" } do
    lu.assertStrContains(text, part)
  end
  lu.assertNil(support.list(folder)["run"])
  local trace = support.read(folder .. "/t.json")
  lu.assertStrMatches(trace, '{"traceEvents":%[\n.*%]}\n')
  local n = 0
  for line in trace:gmatch "[^\n]+" do
    if line:find '^{"name"' then
      lu.assertStrMatches(line, '{"name":"[%w_ ]+",.*},?')
      n = n + 1
    end
  end
  lu.assertTrue(n > 100)
  for part, list in pairs { ["which recipe?"] = {}, ["expected a number of steps"] = { "x.lua",
    "steps=0" }, ["expected the name of a file"] = { "x.lua", "trace=" } } do
    code, text = shell(list)
    lu.assertEquals(code, 2)
    lu.assertStrContains(text, part)
  end
  code, text = shell { "nothing.lua" }
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "recipe 'nothing.lua' could not be opened")
end

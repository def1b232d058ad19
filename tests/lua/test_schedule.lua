-- lua/ijepa/optim/schedule.lua against the known answers of the ViT-H/14 recipe, and a published
-- run's own schedule.
local lu = require "luaunit"
local schedule = require "ijepa.schedule"
local tensors = require "ijepa.tensors"
local json = require "cjson.safe"

local tests = {}
TestSchedule = tests -- luacheck: ignore

local function recipe(reference)
  local total, warmup = schedule.steps { epochs = 300, warmup = 40, ipe = 625 }
  return schedule.lr { start = 2e-4, ref = 1e-3, final = 1e-6, warmup = warmup, total = total,
    reference = reference },
    schedule.wd { ref = .04, final = .4, total = total, reference = reference },
    schedule.ema { from = .996, to = 1, total = total, reference = reference }
end

function tests.test_known_answers()
  local lr, wd, ema = recipe()
  for _, known in ipairs {
    { 1, 2.00032e-4, .04, .996 },
    { 25000, 1e-3, .0555618176, .9965333120 },
    { 62500, 8.7438111871e-4, .13, .9973333120 },
    { 187500, 1e-6, .4, .9999999787 },
  } do
    local step = known[1]
    lu.assertAlmostEquals(lr(step), known[2], 6e-15)
    lu.assertAlmostEquals(wd(step), known[3], 6e-11)
    lu.assertAlmostEquals(ema(step), known[4], 6e-11)
  end
end

function tests.test_steps()
  lu.assertEquals({ schedule.steps { epochs = 300, warmup = 40, ipe = 625 } }, { 187500, 25000 })
  lu.assertEquals({ schedule.steps { epochs = 3, warmup = .5, ipe = 5, ipe_scale = 1.25 } }, { 18,
    2 })
end

function tests.test_past_the_end_it_stays()
  local lr, wd, ema = recipe()
  lu.assertEquals(lr(187501), 1e-6)
  lu.assertEquals(lr(300000), 1e-6)
  lu.assertEquals(wd(300000), .4)
  lu.assertEquals(ema(187501), 1)
  lu.assertEquals(ema(300000), 1)
end

function tests.test_the_published_one_rises_again()
  local lr, wd = recipe(true)
  lu.assertEquals(lr(187500), 1e-6)
  lu.assertTrue(lr(200000) > 1e-5)
  lu.assertTrue(wd(200000) < .399)
  local usual = recipe()
  for step = 1, 187500, 12345 do lu.assertEquals(lr(step), usual(step)) end
end

function tests.test_no_warmup()
  local lr = schedule.lr { start = 0, ref = 1, final = 0, warmup = 0, total = 10 }
  lu.assertEquals(lr(0), 1)
  lu.assertAlmostEquals(lr(5), .5, 1e-15)
  lu.assertEquals(lr(10), 0)
  local all_warmup = schedule.lr { start = 0, ref = 1, final = 0, warmup = 10, total = 10 }
  lu.assertEquals(all_warmup(9), .9)
  lu.assertEquals(all_warmup(10), 1)
end

function tests.test_helpers()
  lu.assertEquals(schedule.constant(3)(17), 3)
  local line, wave = schedule.linear { from = 1, to = 3, total = 4 }, schedule.cosine { from = 1,
    to = 3, total = 4 }
  lu.assertEquals({ line(0), line(1), line(4), line(9) }, { 1, 1.5, 3, 3 })
  lu.assertAlmostEquals(wave(2), 2, 1e-15)
  lu.assertEquals({ wave(0), wave(4), wave(9) }, { 1, 3, 3 })
end

function tests.test_misuse_is_told()
  lu.assertErrorMsgContains("unknown key 'strat' (did you mean 'start'?)", schedule.lr,
    { strat = 1 })
  lu.assertErrorMsgContains("schedule.wd: 'total' is a nil, expected a number", schedule.wd,
    { ref = 1, final = 2 })
  lu.assertErrorMsgContains("test_schedule.lua", function() schedule.ema(3) end)
  lu.assertErrorMsgContains("expected a number", schedule.constant, "x")
  lu.assertErrorMsgContains("'ipe_scale' is a string", schedule.steps, { ipe_scale = "x" })
end

-- The schedule that the published code printed for a whole run, to the last bit.
local function published(name)
  local folder = os.getenv "IJEPA_SHARED" or "../shared"
  local file = tensors.open(folder .. "/conformance/" .. name)
  lu.skipIf(not file, folder .. " is not there")
  local ipe = tonumber(file:meta "iterations_per_epoch")
  local total, warmup = schedule.steps { epochs = tonumber(file:meta "epochs"),
    warmup = tonumber(file:meta "warmup"),
    ipe = ipe, ipe_scale = tonumber(file:meta "ipe_scale") }
  local from, to = file:meta("ema"):match "%(([%d.]+), ([%d.]+)%)"
  local number = function(key) return tonumber(file:meta(key)) end
  local lr = schedule.lr { start = number "start_lr", ref = number "lr", final = number "final_lr",
    warmup = warmup,
    total = total, reference = true }
  local wd = schedule.wd { ref = number "weight_decay", final = number "final_weight_decay",
    total = total }
  local ema = schedule.ema { from = tonumber(from), to = tonumber(to), total = total }
  local steps = json.decode(file:meta "schedule")
  for step, want in ipairs(steps) do
    lu.assertEquals({ lr(step), wd(step), ema(step) }, { want.lr, want.wd, want.momentum })
  end
  lu.assertTrue(#steps > 0)
end

function tests.test_published_run_a() published "step_a.safetensors" end
function tests.test_published_run_b() published "step_b.safetensors" end

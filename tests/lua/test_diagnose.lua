-- The measures of features on known matrices, the verdicts, and runs that are healthy and made to
-- collapse.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local tensor, diagnose = ijepa.tensor, ijepa.diagnose
local C = F.C

local tests = {}
TestDiagnose = tests -- luacheck: ignore

local folder, images
function tests.setUp() folder = support.folder() end

-- rows x columns of independent normal numbers
local function noise(rows, columns)
  local r, values = F.new "ij_rng", {}
  C.ij_rng_init(r, 3, C.IJ_RNG_USER, 0, 0)
  for i = 1, rows * columns do values[i] = C.ij_rng_normal(r) end
  return tensor.new(values):reshape(rows, columns)
end

function tests.test_rank_of_known_matrices()
  local eye = {}
  for i = 1, 5 do
    eye[i] = {}
    for j = 1, 5 do eye[i][j] = i == j and 2 or 0 end
  end
  lu.assertAlmostEquals(diagnose.rank(tensor.new(eye)), 5, 1e-5)
  lu.assertAlmostEquals(diagnose.rank(tensor.new { { 1, 2, 3 }, { 2, 4, 6 }, { -1, -2, -3 } }), 1,
    1e-3)
  -- singular values 3 and 1: 3/4 and 1/4 of their sum
  local h = -(.75 * math.log(.75) + .25 * math.log(.25))
  lu.assertAlmostEquals(diagnose.rank(tensor.new { { 3, 0, 0 }, { 0, 1, 0 } }), math.exp(h), 1e-5)
  lu.assertEquals(diagnose.rank(tensor.zeros { 4, 3 }), 0)
  lu.assertTrue(diagnose.rank(noise(400, 10)) > 9.5)
end

function tests.test_lidar_counts_directions_that_views_share()
  -- P images on 3 directions, their views apart by little in all 8: 3; without any difference
  -- between images: about all
  local P, V, W = 40, 4, 8
  local means, jitter = noise(P, W):read(), noise(P * V, W):read()
  local rows = {}
  for i = 0, P * V - 1 do
    for j = 0, W - 1 do
      rows[#rows + 1] = (j < 3 and 10 * means[math.floor(i / V) * W + j]
        or 0) + .1 * jitter[i * W + j]
    end
  end
  local x = tensor.new(rows):reshape(P * V, W)
  lu.assertAlmostEquals(diagnose.lidar(x, V), 3, .2)
  lu.assertTrue(diagnose.lidar(noise(P * V, W), V) > 6.5)
  -- the same rows in a wider space: its own span is used
  local wide = {}
  for i = 0, P * V - 1 do
    for j = 0, 2 * P * V - 1 do wide[#wide + 1] = j < W and rows[i * W + j + 1] or 0 end
  end
  lu.assertAlmostEquals(diagnose.lidar(tensor.new(wide):reshape(P * V, 2 * P * V), V),
    diagnose.lidar(x, V), .05)
end

local function seen(over)
  local d = { step = 100, cosine_distance = .5, centred_rank = 30, rankme = 30, patch_rank = 40,
    max_rank = 64, max_patch_rank = 64,
    lidar = 20, position = .1, loss = .1, mean_loss = .3, ema_distance = .1 }
  for k, v in pairs(over or {}) do d[k] = v end
  return d
end
local function verdict(over, before) return diagnose.verdict { seen(before), seen(over) } end

-- of pairs of different rows, whatever their lengths
function tests.test_cosine_distance_of_known_rows()
  lu.assertAlmostEquals(diagnose.cosine_distance(tensor.new { { 2, 0 }, { 0, 5 } }), 1, 1e-6)
  lu.assertAlmostEquals(diagnose.cosine_distance(tensor.new { { 1, 0 }, { 3, 0 }, { 0, 1 } }),
    2 / 3, 1e-6)
  lu.assertAlmostEquals(diagnose.cosine_distance(tensor.new { { 1, 2 }, { 2, 4 } }), 0, 1e-6)
end

function tests.test_verdicts()
  lu.assertEquals({ verdict() }, { "ok",
    "effective rank of features 30 of 64; mean cosine distance 0.50; loss is 67 % below predicting the mean" })
  local level, text = verdict { rankme = 1.5 }
  lu.assertEquals(level, "collapse")
  lu.assertStrContains(text,
    "effective rank of features 2 of 64, falling: features vary in few directions only")
  level, text = verdict { cosine_distance = .004 }
  lu.assertEquals(level, "collapse")
  lu.assertStrContains(text, "mean cosine distance of images 0.0040, at most 0.5000 before")
  lu.assertEquals((verdict { mean_loss = .01, loss = .001 }), "collapse")
  -- getting better
  lu.assertEquals((verdict({ rankme = 1.9, cosine_distance = .02 }, { rankme = 1.2,
    cosine_distance = .01 })), "watch")
  level, text = verdict { position = .95 }
  lu.assertEquals(level, "watch")
  lu.assertStrContains(text, "hardly uses the image")
  lu.assertEquals((verdict { rankme = 12 }), "watch")
  lu.assertEquals((verdict { loss = .3 }), "watch")
  lu.assertEquals((verdict { rankme = 0 / 0 }), "collapse")
  level, text = diagnose.verdict { seen { step = 0, rankme = 1, loss = .45 } }
  lu.assertEquals({ level, text }, { "start",
    "before training: effective rank of features 1 of 64; mean cosine distance 0.50; loss is 50 % above predicting the mean" })
  -- also where it is the first diagnosis of a run
  lu.assertEquals((diagnose.verdict { seen { rankme = 1 } }), "collapse")
  lu.assertEquals((diagnose.verdict { seen() }), "ok")
end

-- A run of a few hundred steps on small scenes; returns what pretrain does.
local function train(over, hooks)
  images = support.scenes { n = 64, test = 2, size = 32 }
  local words = { out = folder .. "/run", ["data.root"] = images.train, ["data.batch"] = 16,
    ["data.crop"] = 32, ["data.workers"] = 0,
    ["model.width"] = 16, ["model.depth"] = 1, ["model.heads"] = 2, ["model.patch"] = 4,
    ["model.pred_depth"] = 1,
    ["model.pred_dim"] = 8, ["model.init_gain"] = .7, ["model.patch_gain"] = 1.5,
    ["mask.min_keep"] = 3, ["mask.group"] = 16,
    ["optim.epochs"] = 60, ["optim.warmup"] = 2, ["optim.lr"] = 3e-3, ["optim.ema"] = ".98,1",
    ["diagnose.every"] = 80,
    ["diagnose.images"] = 20, ["diagnose.views"] = 2, ["log.every"] = 1000 }
  for k, v in pairs(over or {}) do words[k] = v end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return ijepa.pretrain(ijepa.config({}, nil, list), hooks)
end

function tests.test_healthy_run()
  local run = train()
  lu.assertEquals(#run.diagnoses, 4)   -- before the first step, then after 80, 160 and 240
  for i, d in ipairs(run.diagnoses) do
    lu.assertEquals({ d.level, d.level ~= "ok" and i > 1 and d.text }, { i == 1 and "start" or "ok",
      false })
  end
  lu.assertTrue(run.diagnoses[4].loss < .7 * run.diagnoses[4].mean_loss)
  local read = diagnose.read(folder .. "/run/jepa-diagnoses.csv")
  lu.assertEquals(#read, 4)
  lu.assertEquals(read[4].text, run.diagnoses[4].text)
  lu.assertAlmostEquals(read[4].rankme, run.diagnoses[4].rankme, 1e-4)
end

function tests.test_collapse_is_found_and_ends_the_run()
  local run = train { ["model.stop_gradient"] = false, ["optim.ema"] = "0,0", ["optim.lr"] = 1e-2,
    ["diagnose.stop"] = true }
  lu.assertStrContains(run.stopped, "this looks like collapse")
  lu.assertEquals(run.diagnoses[#run.diagnoses].level, "collapse")
  lu.assertTrue(#run.losses < 240)
  lu.assertEquals(ijepa.checkpoint.load(folder .. "/run/jepa-latest.safetensors"):meta "step",
    #run.losses)
end

function tests.test_diagnoses_change_no_value_of_the_run()
  local with, without = train { ["optim.steps"] = 12, ["diagnose.every"] = 3 },
    train { ["optim.steps"] = 12, ["diagnose.every"] = 0, out = folder .. "/other" }
  lu.assertEquals(with.losses, without.losses)
  lu.assertEquals(#with.diagnoses, 5)
end

function tests.test_a_resumed_run_goes_on_with_its_list()
  train { ["optim.steps"] = 12, ["diagnose.every"] = 4 }
  local run = train { ["optim.steps"] = 20, ["diagnose.every"] = 4 }
  local steps = {}
  for i, d in ipairs(run.diagnoses) do steps[i] = d.step end
  lu.assertEquals(steps, { 0, 4, 8, 12, 16, 20 })
end

-- of the colour of scenes, which even raw pixels tell better than chance
function tests.test_a_probe_on_the_way()
  for _, kind in ipairs { "knn", "ridge" } do
    local run = train { ["optim.steps"] = 4, ["diagnose.every"] = 4, ["diagnose.probe"] = kind,
      ["diagnose.probe_images"] = 64,
      out = folder .. "/" .. kind }
    local top1 = run.diagnoses[2].probe
    lu.assertTrue(top1 > 0 and top1 <= 100)
  end
end

function tests.test_the_end_of_a_run_has_a_diagnosis()
  local function steps_of(run)
    local steps = {}
    for i, d in ipairs(run.diagnoses) do steps[i] = d.step end
    return steps
  end
  lu.assertEquals(steps_of(train { ["optim.steps"] = 5 }), { 0, 5 })
  lu.assertEquals(steps_of(train { ["optim.steps"] = 5 }), { 0, 5 })   -- finished: nothing new
  lu.assertEquals(steps_of(train({ out = folder .. "/hook" },
    { step = function(t) if t.step == 3 then t:stop "enough" end end })),
    { 0, 3 })
end

-- ---- hooks

function tests.test_hook_gets_every_diagnosis()
  local steps = {}
  train({ ["optim.steps"] = 5, ["diagnose.every"] = 2 }, { diagnosis = function(t, d)
    lu.assertEquals(t.step, d.step)
    steps[#steps + 1] = d.step
  end })
  lu.assertEquals(steps, { 0, 2, 4, 5 })
  local run = train({ out = folder .. "/none" },
    { diagnosis = function(t) t:stop "before it starts" end })
  lu.assertEquals({ #run.losses, run.stopped }, { 0, "before it starts" })
end

function tests.test_hook_stops_and_scales()
  local lrs = {}
  local run = train({}, { step = function(t, v)
    lrs[t.step] = v.lr
    if t.step == 5 then t.scale.lr = .5 end
    if t.step == 7 then t:stop "enough" end
  end })
  lu.assertEquals(run.stopped, "enough")
  lu.assertEquals(#run.losses, 7)
  -- half of a warm-up's next step
  lu.assertAlmostEquals(lrs[6] / lrs[5], .5 * (5 + .5) / (4 + .5), .06)
  train({ ["optim.steps"] = 8 }, { step = function(t, v) lrs.resumed = v.lr / t.lr(t.step) end })
  lu.assertAlmostEquals(lrs.resumed, .5, 1e-6)   -- it is part of the state
end

function tests.test_hook_rolls_back()
  local back, steps = 0, {}
  local run = train({ ["optim.steps"] = 12, ["log.save_steps"] = 4 }, { step = function(t)
    steps[#steps + 1] = t.step
    if t.step == 6 and back == 0 then
      back = 1
      t:rollback()
    end
  end })
  lu.assertEquals(steps, { 1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12 })
  lu.assertEquals(run.losses[7], run.losses[5])   -- bit for bit
  local rows = 0
  for _ in io.lines(folder .. "/run/jepa_r0.csv") do rows = rows + 1 end
  lu.assertEquals(rows, 1 + 14)   -- a rollback deletes no row
end

function tests.test_a_failing_hook_or_policy_loses_no_step()
  local whole = train { ["optim.steps"] = 12, out = folder .. "/whole" }
  local ok, message = pcall(train, { ["optim.steps"] = 12 },
    { step = function(t) if t.step == 7 then error "my hook" end end })
  lu.assertFalse(ok)
  lu.assertStrContains(message, "test_diagnose.lua")
  lu.assertStrContains(message, "my hook")
  lu.assertEquals(ijepa.checkpoint.load(folder .. "/run/jepa-latest.safetensors"):meta "step", 7)
  local rest = train { ["optim.steps"] = 12 }
  lu.assertEquals(rest.losses[5], whole.losses[12])
end

function tests.test_a_policy_that_breaks_loses_no_step()
  local path = folder .. "/breaks.lua"
  for how, message in pairs {
      ['error "mine"'] = "breaks.lua:2: mask policy, image 144, step 9: mine",
      ["return 5"] = "breaks.lua:1: " } do
    local file = assert(io.open(path, "w"))
    file:write(("return function(rng, grid, at)\n  if at.step == 9 then %s end\n%s\nend\n"):format(
      how,
      "  local t = grid:random_block(rng, 2, 3)\n  return grid:all() - t, { t }"))
    file:close()
    support.remove(folder .. "/run")
    local ok, why = pcall(train, { ["mask.policy"] = path, ["optim.steps"] = 12,
      ["diagnose.every"] = 0 })
    lu.assertFalse(ok)
    lu.assertStrContains(why, message)
    lu.assertEquals(ijepa.checkpoint.load(folder .. "/run/jepa-latest.safetensors"):meta "step", 9)
  end
end

function tests.test_a_policy_may_look_at_the_images()
  local run = train { ["mask.policy"] = "recipes/masks/attention.lua", ["optim.steps"] = 3,
    ["diagnose.every"] = 2 }
  lu.assertEquals(#run.losses, 3)
end

function tests.test_misuse_is_named()
  lu.assertErrorMsgContains("no checkpoint yet", train, {}, { step = function(t) t:rollback() end })
  lu.assertErrorMsgContains("diagnose.probe", train, { ["diagnose.probe"] = "knnn" })
end

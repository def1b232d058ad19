-- Objectives, models and mask policies of the user's own: trained, logged, saved, resumed bit for
-- bit, reopened with the code that the run kept; and one line for each mistake. IJEPA_KILLS=200:
-- how often the run of the random kills is killed (20).
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestObjectives = tests -- luacheck: ignore

local program, write, read = support.program, support.write, support.read
local folder, images
function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 40, test = 20, size = 32 }
  write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
end

-- The settings of a small run.
local function settings(name, over)
  local words = { out = folder .. "/" .. name, ["data.root"] = images.train, ["data.batch"] = 8,
    ["data.crop"] = 32, ["data.workers"] = 1, ["model.width"] = 16, ["model.depth"] = 2,
    ["model.heads"] = 2, ["model.patch"] = 4, ["model.pred_depth"] = 1, ["model.pred_dim"] = 8,
    ["mask.min_keep"] = 3, ["mask.group"] = 8, ["optim.epochs"] = 2, ["optim.warmup"] = 0,
    ["diagnose.every"] = 0, ["model.init_gain"] = .7, ["model.dtype"] = "f32" }
  for k, v in pairs(over or {}) do words[k] = v end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return list
end
-- A run in a process of its own; returns its exit code and what it printed.
local function start(name, over, o)
  o = o or {}
  return support.run({ o.before or {}, o.program or program, o.recipe or folder .. "/recipe.lua",
    settings(name, over) }, { merge = true, env = o.env, timeout = o.timeout })
end
local function fine(name, over, o)
  local code, text = start(name, over, o)
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  return text
end
local function latest(name) return folder .. "/" .. name .. "/jepa-latest.safetensors" end
-- The rows of a run's csv without their times.
local function rows(name)
  return (read(folder .. "/" .. name .. "/jepa_r0.csv"):gsub(
    "(%d+,%d+,[^,]+,[^,]+,[^,]+),%d+", "%1"))
end

-- ---- what the tests train with ------------------------------------------------------------------

-- A projector of one matrix, which its slow copy follows; its first values come from a file beside.
local OBJECTIVE = [[
local ijepa = require "ijepa"
local tensor = require "ijepa.tensor"
local values = require "values"
local Projector = {}
Projector.__index = Projector
local function new(rows)
  local w = tensor.new(rows):requires_grad_(true)
  local list = { { name = "fc.weight", tensor = w } }
  return setmetatable({ w = w, params = function() return list end }, Projector)
end
function Projector:target() return new(self.w:totable()) end
return {
  modules = function(t) return { projector = new(values(6, t.encoder.width)) },
    { slow = "projector" } end,
  loss = function(t, batch)
    local z, h = t:predict(batch.images, batch.context, batch.targets)
    local m = batch.targets:size(1)
    local features = tensor.smooth_l1(z, h, 1, m)
    local p = ijepa.no_grad(function() return h:linear(t.modules.slow.w) end)
    local projected = tensor.smooth_l1(z:linear(t.modules.projector.w), p, 1, m)
    return features + projected * .5, { features = features, projected = projected, three = 3 }
  end,
}
]]
local VALUES = [[
return function(n, width)
  local rows = {}
  for i = 1, n do
    rows[i] = {}
    for j = 1, width do rows[i][j] = math.sin(i * j) / 4 end
  end
  return rows
end
]]
-- An encoder without a method target: the copy for the EMA is made by a second call.
local ENCODER = [[
local jepa = require "ijepa.jepa"
return function(cfg)
  local inner = jepa.encoder { width = 16, depth = 1, heads = 2, patch = 4, crop = cfg.data.crop,
    seed = cfg.seed, init_gain = .7 }
  local list = {}
  for i, p in ipairs(inner:params()) do
    list[i] = { name = "inner." .. p.name, tensor = p.tensor, trained = p.trained,
      decayed = p.decayed }
  end
  local e = { width = 16, patch = 4, grid = inner.grid, heads = 2,
    params = function() return list end }
  return setmetatable(e, { __call = function(_, images, context)
    return inner(images, context) * 1.5
  end })
end
]]
local PREDICTOR = [[
local jepa = require "ijepa.jepa"
return function(cfg, encoder)
  return jepa.predictor({ width = encoder.width, patch = encoder.patch, grid = encoder.grid,
    heads = 2, options = { dtype = "f32", seed = cfg.seed } }, { depth = 1, width = 8 })
end
]]
local MASKS = [[
return function(rng, grid)
  local target = grid:random_block(rng, 3, 3)
  return -target, { target }
end
]]

-- Files of an objective, an encoder, a predictor and masks; returns settings that name them.
local function own(name)
  local at = folder .. "/" .. (name or "code")
  F.check(C.ij_mkdirs(at))
  write(at .. "/values.lua", VALUES)
  return { objective = write(at .. "/objective.lua", OBJECTIVE),
    ["model.encoder"] = write(at .. "/encoder.lua", ENCODER),
    ["model.predictor"] = write(at .. "/predictor.lua", PREDICTOR),
    ["mask.policy"] = write(at .. "/masks.lua", MASKS) }
end
local function over(base, more)
  local t = {}
  for k, v in pairs(base) do t[k] = v end
  for k, v in pairs(more) do t[k] = v end
  return t
end

-- ---- the default --------------------------------------------------------------------------------

function tests.test_the_default_is_the_file_and_needs_no_folder()
  fine "default"
  fine("named", { objective = "ijepa" })
  fine("file", { objective = "recipes/objectives/ijepa.lua" })
  local elsewhere = folder .. "/elsewhere"
  F.check(C.ij_mkdirs(elsewhere))
  local _, absolute = support.run { "readlink", "-f", program }
  fine("elsewhere", { objective = "ijepa" }, { before = { "env", "-C", elsewhere },
    program = absolute:match "[^\n]+" })
  for _, name in ipairs { "named", "file", "elsewhere" } do
    lu.assertTrue(support.same_tensors(latest "default", latest(name)), name)
  end
  lu.assertEquals(read(folder .. "/default/jepa_r0.csv"):match "[^\n]*",
    "epoch,itr,loss,mask-A,mask-B,time (ms)")
end

-- The default written out as a user's own loss: the same bits, by every way of an update.
function tests.test_a_loss_of_ones_own_trains_as_the_default_does()
  local same = write(folder .. "/same.lua", [[
    local ijepa = require "ijepa"
    return function(t, batch)
      local h = ijepa.no_grad(function()
        return t.target(batch.images):layer_norm():gather(batch.targets)
      end)
      local z = t.predictor(t.encoder(batch.images, batch.context), batch.context, batch.targets)
      return ijepa.smooth_l1(z, h, 1, batch.targets:size(1))
    end]])
  for i, more in ipairs { {}, { ["optim.clip"] = 1 }, { ["optim.accumulate"] = 2 } } do
    fine("a" .. i, more)
    fine("b" .. i, over(more, { objective = same }))
    lu.assertTrue(support.same_tensors(latest("a" .. i), latest("b" .. i)), i)
  end
end

-- A weight that another op uses too, before the encoder: an update must wait for both gradients.
function tests.test_a_penalty_on_a_weight_of_the_encoder()
  local file = write(folder .. "/penalty.lua", [[
    local ijepa = require "ijepa"
    return function(t, batch)
      local w = t.encoder.by_name["blocks.0.attn.qkv.weight"].tensor
      local penalty = (w * w):mean() * 100
      local z, h = t:predict(batch.images, batch.context, batch.targets)
      return ijepa.smooth_l1(z, h, 1, batch.targets:size(1)) + penalty
    end]])
  fine("eager", { objective = file })
  fine("late", { objective = file, ["optim.clip"] = 1e30 })
  lu.assertTrue(support.same_tensors(latest "eager", latest "late"))
end

-- ---- modules ------------------------------------------------------------------------------------

function tests.test_modules_are_trained_averaged_logged_and_saved()
  fine("mine", over(own(), { ["log.json"] = true }))
  local file = assert(ijepa.checkpoint.load(latest "mine"))
  for _, name in ipairs { "projector.fc.weight", "slow.fc.weight", "opt.m.projector.fc.weight",
    "opt.v.projector.fc.weight", "encoder.inner.pos_embed", "target_encoder.inner.pos_embed" } do
    lu.assertNotNil(file:info(name), name)
  end
  lu.assertNil(file:info "opt.m.slow.fc.weight")
  local first = assert(loadstring(VALUES))()(6, 16)
  local function distance(name)
    local p, sum = F.new "float[96]", 0
    assert(file:read(name, p, 96))
    for i = 0, 95 do sum = sum + math.abs(p[i] - first[math.floor(i / 16) + 1][i % 16 + 1]) end
    return sum
  end
  local moved, slow = distance "projector.fc.weight", distance "slow.fc.weight"
  lu.assertTrue(slow > 0 and slow < .2 * moved, ("%g %g"):format(moved, slow))
  local log = assert(ijepa.run.read_log(folder .. "/mine"))
  lu.assertEquals(#log.values.features, #log.loss)
  lu.assertEquals(log.unreadable, {})
  for i, loss in ipairs(log.loss) do
    lu.assertEquals(log.values.three[i], 3)
    lu.assertAlmostEquals(log.values.features[i] + log.values.projected[i] / 2, loss, 2e-5)
  end
  lu.assertStrMatches(read(folder .. "/mine/jepa.jsonl"):match "[^\n]*",
    '.*"values":{"features":[%d.]+,"projected":[%d.]+,"three":3}.*')
end

function tests.test_resumes_bit_for_bit()
  local mine = over(own(), { ["log.json"] = true })
  fine("whole", mine)
  fine("parts", over(mine, { ["optim.steps"] = 3 }))
  fine("parts", over(mine, { ["optim.steps"] = 7 }))
  fine("parts", mine)
  lu.assertTrue(support.same_tensors(latest "whole", latest "parts"))
  lu.assertEquals(rows "parts", rows "whole")
end

function tests.test_killed_at_random_moments()
  local mine = over(own(), { ["optim.epochs"] = 8, ["log.save_steps"] = 3,
    ["log.save_epochs"] = 3 })
  fine("whole", mine)
  local started = C.ij_time()
  fine("timed", mine)
  local length = C.ij_time() - started
  math.randomseed(11)
  local ends = 0
  for _ = 1, tonumber(os.getenv "IJEPA_KILLS" or "20") do
    start("run", mine, { timeout = length * (.1 + .9 * math.random()) })
    local file = C.ij_path_kind(latest "run") ~= 0 and assert(ijepa.checkpoint.load(latest "run"))
    if file and file:meta "step" == 40 then
      lu.assertTrue(support.same_tensors(latest "run", latest "whole"))
      support.remove(folder .. "/run")
      ends = ends + 1
    end
    if file then file:close() end
  end
  fine("run", mine)
  lu.assertTrue(support.same_tensors(latest "run", latest "whole"))
  lu.assertEquals(rows "run", rows "whole")
  lu.assertNotNil(ijepa.model(folder .. "/run"))
end

function tests.test_other_modules_at_resume_are_named()
  local mine = own()
  fine("mine", over(mine, { ["optim.steps"] = 2 }))
  local code, text = start("mine", over(mine, { objective = "ijepa" }))
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "module 'projector' of the checkpoint is unknown to the objective")
  write(mine.objective, (OBJECTIVE:gsub("projector =", "head ="):gsub('"projector"', '"head"')
    :gsub("modules.projector", "modules.head")))
  code, text = start("mine", mine)
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "module 'head' of the objective is missing in the checkpoint")
end

-- A tensor that the loss itself moves, and one that follows it; a step that fails afterwards leaves
-- no trace.
function tests.test_running_statistics()
  local file = write(folder .. "/running.lua", [[
    local ijepa = require "ijepa"
    local tensor = require "ijepa.tensor"
    local function new(weight, running)
      local w, m = tensor.new(weight):requires_grad_(true), tensor.new(running)
      local list = { { name = "w", tensor = w }, { name = "running", tensor = m, trained = false } }
      return { w = w, running = m, params = function() return list end,
        target = function() return new(w:totable(), m:totable()) end }
    end
    return { modules = function() return { head = new({ 1 }, { 0 }) }, { slow = "head" } end,
      loss = function(t, batch)
        local z, h = t:predict(batch.images, batch.context, batch.targets)
        local loss = ijepa.smooth_l1(z, h, 1, batch.targets:size(1))
        local head = t.modules.head
        ijepa.no_grad(function() head.running:add_(head.running, -.5):add_(z:mean(), 1) end)
        if batch.step == 7 and os.getenv "IJEPA_TEST_FAIL" then error "failed" end
        return loss + (head.w * head.w):mean() * head.running:item()
      end }]])
  fine("whole", { objective = file })
  local code, text = start("parts", { objective = file }, { env = { IJEPA_TEST_FAIL = "1" } })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "step 6 is saved")
  fine("parts", { objective = file })
  lu.assertTrue(support.same_tensors(latest "whole", latest "parts"))
  local saved, values = assert(ijepa.checkpoint.load(latest "whole")), F.new "float[2]"
  assert(saved:read("head.running", values, 1))
  assert(saved:read("slow.running", values + 1, 1))
  lu.assertTrue(values[0] ~= 0 and values[0] == values[1])
end

function tests.test_a_frozen_module_is_saved_and_not_trained()
  local file = write(folder .. "/frozen.lua", [[
    local tensor, jepa = require "ijepa.tensor", require "ijepa.jepa"
    return { target = "none", masks = false,
      modules = function(t)
        local e = jepa.encoder { width = 16, depth = 1, heads = 2, patch = 4, crop = 32, seed = 5 }
        local part = jepa.encoder { width = 16, depth = 1, heads = 2, patch = 4, crop = 32 }
        part.by_name["blocks.0.mlp.fc1.weight"].tensor:requires_grad_(false)
        return { teacher = e:requires_grad_(false), part = part }
      end,
      loss = function(t, batch)
        return tensor.smooth_l1(t.encoder(batch.images), t.modules.teacher(batch.images))
      end }]])
  fine("frozen", { objective = file })
  local saved = assert(ijepa.checkpoint.load(latest "frozen"))
  lu.assertNil(saved:info "opt.m.teacher.norm.weight")
  lu.assertNil(saved:info "opt.m.part.blocks.0.mlp.fc1.weight")
  lu.assertNotNil(saved:info "opt.m.part.blocks.0.mlp.fc2.weight")
  lu.assertNil(saved:info "predictor.predictor_norm.weight")
  lu.assertNil(saved:info "target_encoder.norm.weight")
  lu.assertNotNil(saved:info "teacher.norm.weight")
  local log = assert(ijepa.run.read_log(folder .. "/frozen"))
  lu.assertTrue(log.loss[#log.loss] < log.loss[1])
end

-- ---- targets, predictors and masks that are left out --------------------------------------------

local BARE = [[
local tensor = require "ijepa.tensor"
return { target = "none", masks = false, loss = function(t, batch)
  local h = t.encoder(batch.images)
  return tensor.smooth_l1(h, h * 0 + 1)
end }
]]

function tests.test_without_target_encoder_predictor_and_masks()
  local bare = { objective = write(folder .. "/bare.lua", BARE), ["diagnose.every"] = 4 }
  local text = fine("bare", bare)
  lu.assertStrContains(text, "without target encoder, predictor, masks")
  lu.assertNotStrContains(text, "predicting the mean")
  fine("parts", over(bare, { ["optim.steps"] = 3 }))
  fine("parts", bare)
  lu.assertTrue(support.same_tensors(latest "bare", latest "parts"))
  for _, d in ipairs(ijepa.diagnose.read(folder .. "/bare/jepa-diagnoses.csv")) do
    lu.assertEquals({ d.loss, d.mean_loss, d.ema_distance }, {})
    lu.assertTrue(d.rankme >= 1)
  end
  local m = assert(ijepa.model(folder .. "/bare"))
  lu.assertTrue(m.target == m.encoder)
  lu.assertNil(m.predictor)
  lu.assertNil(m.policy)
  lu.assertStrContains(tostring(m), "none: the encoder itself")
  lu.assertNotNil(ijepa.load(folder .. "/bare"))
  local code, said = support.run({ program, "report", folder .. "/bare" }, { merge = true })
  lu.assertEquals({ code, code ~= 0 and said }, { 0, false })
  code, said = support.run({ program, "recipes/probe_knn.lua", "run=" .. folder .. "/bare",
    "train=" .. images.train, "test=" .. images.test, "resize=32", "workers=0", "cache=false" },
    { merge = true })
  lu.assertEquals({ code, code ~= 0 and said }, { 0, false })
end

function tests.test_momentum_as_a_function_of_the_step()
  local loss = [[loss = function(t, batch)
    local z, h = t:predict(batch.images, batch.context, batch.targets)
    return require "ijepa".smooth_l1(z, h, 1, batch.targets:size(1))
  end]]
  local still = write(folder .. "/still.lua", "return { target = function() return 1 end, " .. loss
    .. " }")
  fine("still", { objective = still })
  fine("ema", { ["optim.ema"] = "1,1" })
  lu.assertTrue(support.same_tensors(latest "still", latest "ema"))
  local wrong = write(folder .. "/wrong.lua",
    "return { target = function(n)\n return n < 3 and .9 or 2 end, " .. loss .. " }")
  local code, text = start("wrong", { objective = wrong })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "at step 3 it returned 2, expected a number from 0 to 1")
end

-- ---- functions in a recipe ----------------------------------------------------------------------

local IN_LUA = [[
local ijepa = require "ijepa"
local tensor = require "ijepa.tensor"
local weight = .5
local function halves(rng, grid)
  local half = grid:block(0, 0, grid.h, math.ceil(grid.w / 2))
  if rng:below(2) == 0 then return half, { -half } end
  return -half, { half }
end
return ijepa.pretrain(ijepa.config { mask = { policy = halves },
  model = { encoder = function(cfg) return ijepa.jepa.encoder { width = 16, depth = 1, heads = 2,
    patch = 4, crop = cfg.data.crop, seed = cfg.seed } end },
  objective = function(t, batch)
    local z, h = t:predict(batch.images, batch.context, batch.targets)
    return tensor.smooth_l1(z, h, 1, batch.targets:size(1)) * weight
  end })
]]

function tests.test_functions_are_kept_and_reopened()
  local recipe = write(folder .. "/lua.lua", IN_LUA)
  fine("whole", {}, { recipe = recipe })
  fine("parts", { ["optim.steps"] = 4 }, { recipe = recipe })
  fine("parts", {}, { recipe = recipe })
  lu.assertTrue(support.same_tensors(latest "whole", latest "parts"))
  os.remove(recipe)
  local m = assert(ijepa.model(folder .. "/whole"))
  lu.assertEquals(m.encoder.depth, 1)
  lu.assertStrContains(tostring(m.policy), "code/policy/policy.lua")
  lu.assertStrContains(read(folder .. "/whole/code/objective/objective.lua"), "local weight = 0.5")
  -- and in one process
  local cfg = ijepa.config({ objective = function(t, batch)
    local z, h = t:predict(batch.images, batch.context, batch.targets)
    return ijepa.smooth_l1(z, h, 1, batch.targets:size(1))
  end, mask = { policy = function(rng, grid)
    local block = grid:random_block(rng, 3, 3)
    return -block, { block }
  end } }, nil, settings("here", { ["optim.steps"] = 2 }))
  lu.assertEquals(#ijepa.pretrain(cfg).losses, 2)
  lu.assertNotNil(ijepa.model(folder .. "/here"))
end

function tests.test_a_function_that_cannot_be_kept()
  local recipe = write(folder .. "/object.lua", [[
    local ijepa = require "ijepa"
    local state = setmetatable({}, {})
    return ijepa.pretrain(ijepa.config { objective = function(t, batch)
      state.seen = true
      local z, h = t:predict(batch.images, batch.context, batch.targets)
      return ijepa.smooth_l1(z, h, 1, batch.targets:size(1))
    end })]])
  local text = fine("object", { ["optim.steps"] = 2 }, { recipe = recipe })
  lu.assertStrContains(text, "can't be kept (state is an object)")
  local m, why = ijepa.model(folder .. "/object")
  lu.assertNil(m)
  lu.assertStrContains(why, "object.lua:3, which could not be kept: state is an object")
end

function tests.test_a_function_on_the_command_line_is_refused()
  for _, key in ipairs { "objective", "model.encoder", "model.predictor", "mask.policy" } do
    local ok, message = pcall(ijepa.config, {}, nil, { key .. "=function() end" })
    lu.assertFalse(ok)
    lu.assertStrContains(message, "a function can only be given in Lua")
  end
end

-- ---- the code of a run --------------------------------------------------------------------------

function tests.test_reopened_and_resumed_without_the_originals()
  local mine = own()
  fine("whole", mine)
  fine("run", over(mine, { ["optim.steps"] = 4 }))
  support.remove(folder .. "/code")
  local m = assert(ijepa.model(folder .. "/run"))
  lu.assertNotNil(m.modules.projector)
  lu.assertEquals(assert(ijepa.load(folder .. "/run")).width, 16)
  local text = fine("run", mine)
  lu.assertStrContains(text, "the copy in")
  lu.assertTrue(support.same_tensors(latest "whole", latest "run"))
  assert(os.rename(folder .. "/run", folder .. "/moved"))
  lu.assertNotNil(ijepa.model(folder .. "/moved"))
end

function tests.test_a_changed_file_is_named_and_both_are_kept()
  local mine = own()
  fine("run", over(mine, { ["optim.steps"] = 3 }))
  write(folder .. "/code/values.lua", VALUES .. "-- changed\n")
  local text = fine("run", over(mine, { ["optim.steps"] = 5 }))
  lu.assertStrContains(text, "objective.lua has changed since step 0: both versions are in")
  lu.assertEquals(read(folder .. "/run/code/objective/values.lua"), VALUES)
  lu.assertEquals(read(folder .. "/run/code/objective-2/values.lua"), VALUES .. "-- changed\n")
  lu.assertNotStrContains(fine("run", over(mine, { ["optim.steps"] = 7 })), "has changed")
end

function tests.test_an_index_of_a_stranger()
  fine("run", over(own(), { ["optim.steps"] = 2 }))
  local path = folder .. "/run/code/index.lua"
  local text = read(path)
  for _, folder_name in ipairs { "../x", "/tmp", "", "a/../../b" } do
    write(path, (text:gsub('folder = "objective"', ("folder = %q"):format(folder_name))))
    lu.assertNotNil(ijepa.model(folder .. "/run"))   -- the setting's own file
  end
  for _, bad in ipairs { "", "return 1", "return { 1, {}, { role = 1 } }", "os.exit(3)" } do
    write(path, bad)
    lu.assertNotNil(ijepa.model(folder .. "/run"))
  end
end

-- ---- processes and GPUs -------------------------------------------------------------------------

local jobs = 0
local function srun(n, name, more)
  jobs = jobs + 1
  local started, texts = {}, {}
  for i = 0, n - 1 do
    started[i + 1] = support.start({ program, folder .. "/recipe.lua", settings(name, more) },
      { merge = true, env = { SLURM_JOB_ID = C.getpid() + 200003 * jobs, SLURM_STEP_ID = 0,
        SLURM_STEP_NODELIST = "localhost", SLURM_STEP_NUM_TASKS = n, SLURM_PROCID = i } })
  end
  for i, process in ipairs(started) do
    local code
    code, texts[i] = process:wait(100)
    lu.assertEquals({ code, code ~= 0 and texts[i] }, { 0, false })
  end
end

function tests.test_several_processes_train_as_one_does()
  local mine = over(own(), { ["data.batch"] = 4, ["mask.group"] = 4 })
  fine("one", over(mine, { ["optim.accumulate"] = 2 }))
  srun(2, "two", mine)
  srun(2, "shard", over(mine, { ["optim.shard"] = true }))
  lu.assertTrue(support.same_tensors(latest "two", latest "shard"))
  local one, two = assert(ijepa.run.read_log(folder .. "/one")),
    assert(ijepa.run.read_log(folder .. "/two"))
  for i = 1, #one.loss do
    lu.assertAlmostEquals(one.loss[i], two.loss[i], 2e-5)
    lu.assertAlmostEquals(one.values.projected[i], two.values.projected[i], 2e-5)
  end
end

function tests.test_on_a_gpu_or_its_emulator()
  support.need_gpus(1)
  local mine = own()
  fine("cpu", mine)
  fine("gpu", over(mine, { device = "cuda" }))
  local cpu, gpu = assert(ijepa.run.read_log(folder .. "/cpu")),
    assert(ijepa.run.read_log(folder .. "/gpu"))
  for i = 1, #cpu.loss do
    lu.assertAlmostEquals(cpu.loss[i], gpu.loss[i], 2e-3)
    lu.assertAlmostEquals(cpu.values.projected[i], gpu.values.projected[i], 2e-3)
  end
  fine("parts", over(mine, { device = "cuda", ["optim.steps"] = 3 }))
  fine("parts", over(mine, { device = "cuda" }))
  lu.assertTrue(support.same_tensors(latest "gpu", latest "parts"))
end

function tests.test_modules_count_in_memory()
  local memory = require "ijepa.memory"
  local function need(more)
    local words = settings("memory", more)
    return memory.need(ijepa.config({}, nil, words), { k = 20, t = 9 })
  end
  local mine = own()
  local plain = need { ["mask.policy"] = mine["mask.policy"] }
  local with = need { ["mask.policy"] = mine["mask.policy"], objective = mine.objective }
  lu.assertEquals(with.trained - plain.trained, 96)
  lu.assertTrue(with.params >= plain.params + 2 * 4 * 96)
  lu.assertTrue(need { objective = write(folder .. "/bare.lua", BARE) }.params < plain.params)
end

-- ---- mistakes -----------------------------------------------------------------------------------

-- The one line that a run with this text of an objective ends with.
local function message_of(text, more)
  local path = write(folder .. "/bad.lua", text)
  local code, said = start("bad", over({ objective = path, resume = false }, more or {}))
  lu.assertEquals(code, 1, said)
  local last
  for line in said:gmatch "[^\n]+" do last = line:find "%S" and line or last end
  return (last:gsub(folder:gsub("%p", "%%%0"), "F")), said
end

function tests.test_mistakes_are_one_line_each()
  local cases = {
    { "return function() end",
      "bad.lua:1: objective F/bad.lua, step 1: it returned nothing, expected the loss" },
    { "return function(t, b) return 3 end", "it returned a number, expected the loss" },
    { "return function(t, b) return t.encoder(b.images) end",
      "the loss is a tensor f32 (8, 64, 16), expected one element: take its mean()" },
    { "return function(t, b) return t.target(b.images):mean() end",
      "the loss depends on no parameter that is trained" },
    { "return function(t, b) return t.encoder(b.images):mean() * (0 / 0) end",
      "step 1: the loss is nan: stopped before the update" },
    { "return function(t, b)\n  local x = nil\n  return x.y end",
      "bad.lua:3: objective F/bad.lua, step 1: attempt to index local 'x' (a nil value)" },
    { "return function(t, b) return t.encoder(b.images):mean(), { 1 } end",
      "a value is called '1'" },
    { "return function(t, b) return t.encoder(b.images):mean(), { a = 'x' } end",
      "value 'a' is a string, expected a number or a tensor of one element" },
    { "return function(t, b) return t.encoder(b.images):mean(), 4 end",
      "its second result is a number" },
    { "return 4", "objective F/bad.lua: it is a number, expected a function(t, batch) or a table" },
    { "return { los = function() end }", "unknown field 'los' (did you mean 'loss'?)" },
    { "return { target = 'emma', loss = function() end }", "'target' is 'emma', expected \"ema\"" },
    { "return {", "bad.lua:1: objective: unexpected symbol" },
    { "error 'no'", "bad.lua:1: objective: no" },
    { "return { loss = print, modules = function() return { encoder = 1 } end }",
      "a module is called 'encoder', which is taken" },
    { "return { loss = print, modules = function() return { a = 1 } end }",
      "module 'a': it is a number, expected a module" },
    { "return { loss = print, modules = function()\n"
      .. "  return { a = { params = function() return {} end } } end }",
      "module 'a' has no parameters" },
    { "return { loss = print, modules = function() return {}, { slow = 'fast' } end }",
      "'slow' shall follow 'fast', which is no trained module (modules: none)" },
    { "return { loss = print, modules = function() return { ['a b'] = 1 } end }",
      "a module is called 'a b'" },
    { "return { loss = print, modules = function() oops() end }",
      "bad.lua:1: objective F/bad.lua: modules: attempt to call global 'oops'" },
  }
  for _, case in ipairs(cases) do
    lu.assertStrContains(message_of(case[1]), case[2])
  end
  lu.assertStrContains(message_of("", { objective = folder .. "/none.lua" }),
    "objective: cannot read file")
  lu.assertStrContains(message_of("", { objective = "ijep" }),
    "objective 'ijep' is not known (did you mean 'ijepa'?)")
  for key, text in pairs {
    ["model.encoder"] = { "return 3", "it is a number, expected a function(cfg) that returns" },
    ["model.predictor"] = { "return function() return {} end", "it has no method params()" } } do
    local path = write(folder .. "/model.lua", text[1])
    lu.assertStrContains(message_of("return print", { [key] = path, objective = "ijepa" }), text[2])
  end
  local path = write(folder .. "/model.lua", (ENCODER:gsub("grid = inner.grid", "grid = { 2, 2 }")))
  local message = message_of("return print", { ["model.encoder"] = path, objective = "ijepa" })
  lu.assertStrContains(message, "its grid is 2 x 2, but images of data.crop have 8 x 8 patches of model.patch")
end

function tests.test_an_error_later_saves_the_last_step()
  local last, said = message_of([[
    return function(t, batch)
      if batch.step == 4 then error "enough" end
      local z, h = t:predict(batch.images, batch.context, batch.targets)
      return require "ijepa".smooth_l1(z, h, 1, batch.targets:size(1))
    end]])
  lu.assertStrContains(last, "bad.lua:2: objective F/bad.lua, step 4: enough")
  lu.assertStrContains(said, "step 3 is saved in")
end

function tests.test_the_hook_sees_the_diagnosis_before_the_first_step()
  local recipe = write(folder .. "/hook.lua", [[
    local ijepa = require "ijepa"
    return ijepa.pretrain(ijepa.config {},
      { diagnosis = function(t, d) print("seen", d.step) end })]])
  local text = fine("hook", { ["diagnose.every"] = 4, ["optim.steps"] = 5 }, { recipe = recipe })
  local steps = {}
  for step in text:gmatch "seen\t(%d+)" do steps[#steps + 1] = tonumber(step) end
  lu.assertEquals(steps, { 0, 4, 5 })
end

function tests.test_functions_typed_at_the_prompt_train_and_are_reopened()
  local words = {}
  for i, word in ipairs(settings("typed", { ["optim.steps"] = 2 })) do
    words[i] = ("%q"):format(word)
  end
  local session = ([[
halves = function(rng, grid)
  local half = grid:block(0, 0, grid.h, 4)
  return half, { -half }
end
scale, m = 2, setmetatable({}, {})
loss = function(t, batch)
  local m = batch.targets:size(1)
  local z, h = t:predict(batch.images, batch.context, batch.targets)
  return ijepa.smooth_l1(z, h, 1, m) * scale
end
cfg = ijepa.config({ mask = { policy = halves }, objective = loss }, nil, { %s })
r = ijepa.pretrain(cfg)
print(ijepa.model(cfg.out).policy)
]]):format(table.concat(words, ", "))
  local input = write(folder .. "/session", session)
  local code, text = support.run({ "sh", "-c", program .. " < " .. input }, { merge = true })
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  lu.assertStrContains(text, "typed/code/policy/policy.lua")
  local kept = read(folder .. "/typed/code/objective/objective.lua")
  lu.assertStrContains(kept, 'local ijepa = require "ijepa"')
  lu.assertStrContains(kept, "local scale = 2")
  lu.assertNotNil(ijepa.model(folder .. "/typed"))
end

-- Optimizers: recorded steps of PyTorch and of published formulas (tests/golden/optim.safetensors),
-- groups, layer decay, frozen layers, schedules of one's own, and runs that resume and are sharded.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local json = require "cjson.safe"
local support = require "support"
local tensor, device, optim = ijepa.tensor, ijepa.device, ijepa.optim

local tests = {}
TestOptim = tests -- luacheck: ignore

local folder, images
function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 40, test = 20, size = 32 }
end

local golden = assert(ijepa.checkpoint.load "tests/golden/optim.safetensors")
local function recorded(name)
  local shape = golden:info(name).shape
  return tensor.from_pointer((golden:data(name)), shape)
end
local function bytes(t) return F.string(t:read(), 4 * t:numel()) end
local function values(t)
  local p, n = t:read()
  local list = {}
  for i = 0, n - 1 do list[i + 1] = p[i] end
  return list
end
local function close(t, name, tolerance)
  local got, want = values(t), values(recorded(name))
  local worst, top = 0, 0
  for i = 1, #want do
    worst, top = math.max(worst, math.abs(got[i] - want[i])), math.max(top, math.abs(want[i]))
  end
  lu.assertTrue(worst <= tolerance * top, ("%s: off by %g of %g"):format(name, worst, top))
end

-- ---- values
local MADE = {
  adamw = { name = "adamw", betas = { .9, .95 }, eps = 1e-6 },
  sgd = { name = "sgd", momentum = .9 },
  sgd_plain = { name = "sgd", momentum = 0 },
  sgd_nesterov = { name = "sgd", momentum = .8, nesterov = true },
  sgd_scheduled = { name = "sgd" },
  lars = { name = "lars", trust = .02 },
  lion = { name = "lion" },
}
local MOMENTS = { adamw = 2, sgd_plain = 0 }

function tests.test_recorded_steps()
  local plan, momenta = json.decode(golden:meta "plan"), json.decode(golden:meta "momenta")
  for _, where in ipairs { "cpu", "ref" } do
    device.with(where, function()
      for case, o in pairs(MADE) do
        local opt = optim.new(o)
        local w, b = recorded(case .. ".w.p0"):clone(true), recorded(case .. ".b.p0"):clone(true)
        local average = w:clone(true)
        opt:add(w, true, average)
        opt:add(b, false)
        w:requires_grad_()
        b:requires_grad_()
        for i, step in ipairs(plan) do
          (w * recorded(("%s.w.g%d"):format(case, i))):sum():backward();
          (b * recorded(("%s.b.g%d"):format(case, i))):sum():backward()
          if case == "sgd_scheduled" then opt:set_momentum(momenta[i]) end
          local moved = values(average)
          opt:step { lr = step.lr, wd = step.wd, momentum = .75 }
          close(w, ("%s.w.p%d"):format(case, i), 3e-7)
          close(b, ("%s.b.p%d"):format(case, i), 3e-7)
          for k, v in ipairs(values(w)) do moved[k] = .75 * moved[k] + .25 * v end
          for k, v in ipairs(values(average)) do lu.assertAlmostEquals(v, moved[k], 1e-6) end
          lu.assertEquals(values(w:grad()), values(w:grad() * 0))
        end
        lu.assertEquals(opt.moments, MOMENTS[case] or 1, case)
        for i, name in ipairs { "w", "b" } do
          local m, v = opt:state(i)
          lu.assertEquals({ m ~= nil, v ~= nil }, { opt.moments > 0, opt.moments > 1 })
          if m then close(m, ("%s.%s.m"):format(case, name), 2e-6) end
          if v then close(v, ("%s.%s.v"):format(case, name), 2e-6) end
        end
      end
    end)
  end
end

-- ---- models
local B, K, T = 2, 6, 4
local function models(o)
  o = o or {}
  local e = ijepa.jepa.encoder { width = 16, depth = o.depth or 3, heads = 2, patch = 4, crop = 16,
    dtype = o.dtype or "f32", seed = 3, recompute = o.recompute }
  local p = ijepa.jepa.predictor(e, { width = 8, depth = 1, heads = 2 })
  return e:requires_grad_(true), p:requires_grad_(true), e:target()
end
local rng = F.new "ij_rng"
local function batch()
  F.C.ij_rng_init(rng, 5, F.C.IJ_RNG_USER, 0, 0)
  local x = F.new("uint8_t[?]", B * 16 * 16 * 3)
  for i = 0, B * 16 * 16 * 3 - 1 do x[i] = F.C.ij_rng_below(rng, 256) end
  local function indices(n, from)
    local list = F.new("int32_t[?]", B * n)
    for i = 0, B * n - 1 do list[i] = from + i % n end
    return tensor.from_pointer(list, { 1, B, n }, "i32", true)
  end
  return tensor.from_pointer(x, { B, 16, 16, 3 }, "u8", true), indices(K, 0), indices(T, 8)
end
local function train(e, p, target, opt, o)
  local x, context, targets = batch()
  for i = 1, o.steps or 3 do
    device.step(function()
      local h = device.no_grad(function() return target(x):layer_norm():gather(targets) end)
      local loss = tensor.smooth_l1(p(e(x, context), context, targets), h, 1)
      local numbers = { lr = .01 / i, wd = .1, momentum = .9, scale = .5 }
      if o.eager then opt:eager(numbers) end
      loss:backward()
      opt:step(numbers)
    end)
  end
end
local function all_bytes(...)
  local list = {}
  for _, model in ipairs { ... } do
    for _, p in ipairs(model:params()) do list[#list + 1] = bytes(p.tensor) end
  end
  return list
end

function tests.test_eager_updates_have_the_same_bits()
  for name, o in pairs(MADE) do
    local results = {}
    for _, eager in ipairs { false, true } do
      local e, p, target = models()
      local own = { models = { e, p }, average = { [e] = target } }
      for key, v in pairs(o) do own[key] = v end
      train(e, p, target, optim.new(own), { eager = eager })
      results[#results + 1] = all_bytes(e, p, target)
    end
    lu.assertEquals(results[1], results[2], name)
  end
end

-- ---- groups
local function grouped(groups, o)
  local e, p = models()
  local own = { name = "sgd", momentum = 0, models = { e, p },
    names = { [e] = "encoder", [p] = "predictor" }, groups = groups }
  for key, v in pairs(o or {}) do own[key] = v end
  local opt, factors = optim.new(own), {}
  for _, entry in ipairs(opt.entries) do
    local model = entry.param.model == e and "encoder." or "predictor."
    factors[model .. entry.param.name] = { entry.lr, entry.wd }
  end
  return opt, factors, e
end

function tests.test_groups_by_pattern()
  local opt, factors = grouped { { match = "%.bias$", lr = .5 },
    { match = "^encoder%.patch_embed", lr = 0 }, { match = "norm1", wd = 2 },
    { match = "^predictor%.", lr = 3, wd = 0 } }
  lu.assertEquals(factors["encoder.blocks.0.attn.qkv.weight"], { 1, 1 })
  lu.assertEquals(factors["encoder.blocks.0.attn.qkv.bias"], { .5, 0 })
  lu.assertEquals(factors["encoder.patch_embed.proj.weight"], { 0, 1 })
  lu.assertEquals(factors["encoder.patch_embed.proj.bias"], { .5, 0 })   -- the first match
  lu.assertEquals(factors["encoder.blocks.1.norm1.weight"], { 1, 2 })
  lu.assertEquals(factors["predictor.predictor_embed.weight"], { 3, 0 })
  -- what an update does with them: p -= lr f (g + wd f2 p)
  for _, e in ipairs(opt.entries) do
    local t = e.tensor
    local before, lr, wd = values(t), .1 * e.lr, .01 * e.wd
    e.want = {}
    for i, v in ipairs(before) do e.want[i] = v - lr * (2 + wd * v) end
    (t * (tensor.zeros(t:shape()) + 2)):sum():backward()
  end
  opt:step { lr = .1, wd = .01 }
  for _, e in ipairs(opt.entries) do
    for i, v in ipairs(values(e.tensor)) do lu.assertAlmostEquals(v, e.want[i], 1e-6) end
  end
end

function tests.test_wrong_groups_and_options()
  local function refused(why, f, ...) lu.assertErrorMsgContains(why, f, ...) end
  refused("optim.groups: group 2: 'bais' matches no parameter; there are such as encoder.patch_embed.proj.weight, ",
    grouped, { { match = "bias" }, { match = "bais", wd = 0 } })
  refused("group 2: all that 'norm1%.bias$' matches belongs to groups before it; the first one counts",
    grouped, { { match = "%.bias$" }, { match = "norm1%.bias$", wd = 0 } })
  refused("group 1: match is '[': expected a Lua pattern of parameter names",
    grouped, { { match = "[" } })
  refused("group 1: unknown key 'decay'", grouped, { { match = "x", decay = 1 } })
  refused("group 1: lr is -1: expected 0 or more", grouped, { { match = "x", lr = -1 } })
  refused("group 1 lacks 'match'", grouped, { { wd = 0 } })
  refused("optim.new: name is 'adam', expected adamw, sgd, lars or lion (did you mean 'adamw'?)",
    optim.new, { name = "adam" })
  refused("optim.new: 'trust' is an option of lars, not of sgd", optim.new,
    { name = "sgd", trust = 1 })
  refused("optim.new: unknown setting 'beta' (did you mean 'betas'?)", optim.new,
    { name = "lion", beta = 1 })
  refused("nesterov is for sgd and lars with a momentum", optim.new,
    { name = "sgd", momentum = 0, nesterov = true })
  refused("optimizer: momentum 1: expected it in [0, 1)", optim.new, { name = "sgd", momentum = 1 })
  refused("lion: betas 1 and 0.99", optim.new, { name = "lion", betas = { 1, .99 } })
  refused("adamw: a momentum can be set for sgd and lars that began with one",
    function() optim.adamw({}):set_momentum(.5) end)
  refused("model.freeze is 4, and the encoder has 3 blocks", grouped, {}, { freeze = 4 })
end

function tests.test_layer_decay()
  local _, factors = grouped({ { match = "^predictor", lr = 2 }, { match = "blocks%.1", lr = 3 } },
    { layer_decay = .5 })
  lu.assertEquals(factors["encoder.patch_embed.proj.weight"][1], 1 / 16)
  lu.assertEquals(factors["encoder.blocks.0.norm1.weight"][1], 1 / 8)
  lu.assertEquals(factors["encoder.blocks.1.mlp.fc1.weight"][1], 3 / 4)
  lu.assertEquals(factors["encoder.blocks.2.mlp.fc1.weight"][1], 1 / 2)
  lu.assertEquals(factors["encoder.norm.weight"][1], 1)
  lu.assertEquals(factors["predictor.predictor_blocks.0.attn.qkv.weight"][1], 2)
end

-- ---- frozen layers
function tests.test_frozen_layers_stay_and_the_others_learn_as_before()
  for _, recompute in ipairs { false, true } do
    -- gradients of one step, with and without frozen layers
    local grads, names, counts = {}, {}, {}
    for k, freeze in ipairs { 0, 2 } do
      local e, p, target = models { recompute = recompute }
      local opt = optim.new { name = "sgd", models = { e, p }, average = { [e] = target },
        freeze = freeze }
      counts[k] = #opt.entries
      local x, context, targets = batch()
      grads[k] = {}
      local h = device.no_grad(function() return target(x):layer_norm():gather(targets) end)
      tensor.smooth_l1(p(e(x, context), context, targets), h, 1):backward()
      for _, param in ipairs(e:params()) do
        local g = param.tensor:grad()
        grads[k][param.name] = g and bytes(g)
        if k == 2 and param.trained then names[#names + 1] = param.name end
      end
    end
    lu.assertEquals(counts[1] - counts[2], 2 + 2 * 12)
    local still, learns = 0, 0
    for _, name in ipairs(names) do
      if name:find "^patch_embed" or name:find "^blocks%.[01]%." then
        lu.assertNil(grads[2][name], name)
        still = still + 1
      else
        lu.assertEquals(grads[2][name], grads[1][name], name)
        learns = learns + 1
      end
    end
    lu.assertEquals({ still, learns }, { 2 + 2 * 12, 12 + 2 })
  end
end

function tests.test_the_average_follows_frozen_layers_too()
  for _, eager in ipairs { false, true } do
    local e, p, target = models()
    local embed, block = e.by_name["patch_embed.proj.weight"].tensor,
      e.by_name["blocks.1.mlp.fc1.weight"].tensor
    device.no_grad(function()
      for _, t in ipairs { embed, block } do t:add_(tensor.zeros(t:shape()) + 1) end
    end)
    local before, start = bytes(embed), values(target.by_name["patch_embed.proj.weight"].tensor)
    local opt = optim.new { name = "lion", models = { e, p }, average = { [e] = target },
      freeze = 2 }
    train(e, p, target, opt, { steps = 2, eager = eager })
    lu.assertEquals(bytes(embed), before)
    for i, v in ipairs(values(target.by_name["patch_embed.proj.weight"].tensor)) do
      lu.assertAlmostEquals(v, start[i] + 1 - .9 ^ 2, 2e-6)
    end
  end
end

-- ---- runs
local function words_of(out, over)
  local words = { "out=" .. folder .. "/" .. out, "data.root=" .. images.train, "data.batch=8",
    "data.crop=32", "data.workers=0", "model.width=16", "model.depth=2", "model.heads=2",
    "model.patch=4", "model.pred_depth=1", "model.pred_dim=8", "mask.min_keep=3", "mask.group=8",
    "optim.epochs=1", "optim.warmup=.5", "diagnose.every=0" }
  for _, word in ipairs(over or {}) do words[#words + 1] = word end
  return words
end
local function config(out, given, over)
  return ijepa.config(given or {}, nil, words_of(out, over))
end
local function latest(out) return folder .. "/" .. out .. "/jepa-latest.safetensors" end

local RUNS_TEXT = [[
return {
  adamw = { optim = { groups = { { match = "%.bias$", lr = .1 } } } },
  sgd = { optim = { name = "sgd", lr = .1, momentum = function(n) return 1 - 1 / (n + 1) end } },
  plain = { optim = { name = "sgd", lr = .1, momentum = 0 } },
  lars = { optim = { name = "lars", lr = 1, nesterov = true }, model = { freeze = 1 } },
  lion = { optim = { name = "lion", lr = 1e-4, layer_decay = .7, accumulate = 2 } },
}
]]
local RUNS = assert(loadstring(RUNS_TEXT))()

function tests.test_every_optimizer_resumes_bit_for_bit()
  for name, given in pairs(RUNS) do
    local whole = ijepa.pretrain(config(name .. "-whole", given))
    ijepa.pretrain(config(name .. "-parts", given, { "optim.steps=1" }))
    local parts = ijepa.pretrain(config(name .. "-parts", given))
    lu.assertEquals(#whole.losses, name == "lion" and 2 or 5)
    lu.assertEquals(parts.losses, { unpack(whole.losses, 2) }, name)
    lu.assertTrue(support.same_tensors(latest(name .. "-whole"), latest(name .. "-parts")), name)
    local file, moments = assert(ijepa.checkpoint.load(latest(name .. "-whole"))), {}
    for _, tensor_name in ipairs(file:names()) do
      local m = tensor_name:match "^opt%.(%a)%."
      if m then moments[m] = (moments[m] or 0) + 1 end
    end
    file:close()
    lu.assertEquals({ moments.m ~= nil, moments.v ~= nil },
      { name ~= "plain", name == "adamw" }, name)
  end
  lu.assertErrorMsgContains("optim.name sgd -> lion: another optimizer than that of",
    function() ijepa.pretrain(config("sgd-whole", RUNS.lion, { "optim.accumulate=1" })) end)
end

-- What a run of two processes writes with sharded moments is what it writes without.
function tests.test_every_optimizer_may_be_sharded()
  for k, name in ipairs { "adamw", "sgd", "plain", "lars", "lion" } do
    local recipe = support.write(folder .. "/" .. name .. ".lua", ([[
local ijepa = require "ijepa"
local RUNS = (function() %s end)()
return ijepa.pretrain(ijepa.config(RUNS.%s))
]]):format(RUNS_TEXT, name))
    for i, shard in ipairs { "false", "true" } do
      local jobs = {}
      for rank = 0, 1 do
        jobs[rank + 1] = support.start({ support.program, recipe,
          words_of(name .. shard, { "data.batch=4", "mask.group=4", "optim.steps=2",
            "model.dtype=f32", "dist.bucket=.01", "optim.shard=" .. shard }) },
          { merge = true, env = { SLURM_JOB_ID = F.C.getpid() + 100003 * (2 * k + i),
            SLURM_STEP_ID = 0, SLURM_STEP_NODELIST = "localhost", SLURM_STEP_NUM_TASKS = 2,
            SLURM_PROCID = rank } })
      end
      for _, job in ipairs(jobs) do
        local code, text = job:wait(100)
        lu.assertEquals(code, 0, text)
      end
    end
    lu.assertTrue(support.same_tensors(latest(name .. "false"), latest(name .. "true")), name)
  end
end

-- ---- schedules
function tests.test_schedules_are_functions_of_the_step()
  local seen = {}
  local given = { optim = {
    lr = function(step, info)
      seen[#seen + 1] = { step, info.step, info.steps, info.epoch, info.images }
      lu.assertTrue(info.seconds >= 0)
      return 1e-3 * step
    end,
    wd = function(step) return step / 100 end,
    ema = function(step, info) return step / info.steps end } }
  local logged = {}
  ijepa.pretrain(config("functions", given, { "optim.steps=3" }), { step = function(_, v)
    logged[#logged + 1] = { v.lr, v.wd, v.momentum }
  end })
  lu.assertEquals(seen, { { 1, 1, 3, 0, 0 }, { 2, 2, 3, .2, 8 }, { 3, 3, 3, .4, 16 } })
  lu.assertEquals(logged, { { 1e-3, .01, 1 / 3 }, { 2e-3, .02, 2 / 3 }, { 3e-3, .03, 1 } })
  lu.assertErrorMsgMatches("optim%.lr: the function at .*test_optim%.lua:%d+ returned nil at step 1, expected a number of 0 or more",
    function() ijepa.pretrain(config("none", { optim = { lr = function() end } })) end)
  lu.assertErrorMsgMatches("optim%.ema: the function at .*returned 2 at step 1, expected a number from 0 to 1",
    function() ijepa.pretrain(config("two", { optim = { ema = function() return 2 end } })) end)
  lu.assertErrorMsgContains("'optim.lr' is 'x', expected a number",
    function() config("word", {}, { "optim.lr=x" }) end)
  lu.assertErrorMsgContains("optim.nesterov is for sgd and lars, not for optim.name = 'adamw'",
    function() ijepa.pretrain(config("nesterov", {}, { "optim.nesterov=true" })) end)
end

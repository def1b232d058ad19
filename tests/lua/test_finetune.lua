-- Fine-tuning's parts: stochastic depth against encoders with scaled branches and by differences,
-- layer decay's scales, the label mass of mixup and cutmix; and that it learns.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor, jepa, finetune, mix = ijepa.tensor, ijepa.jepa, ijepa.finetune, ijepa.mix
local C = F.C

local tests = {}
TestFinetune = tests -- luacheck: ignore

local DEPTH = 3
local function encoder(over)
  local o = { width = 8, depth = DEPTH, heads = 2, patch = 4, crop = 8, seed = 5, init_gain = 1 }
  for k, v in pairs(over or {}) do o[k] = v end
  return jepa.encoder(o):requires_grad_(true)
end
local function noise(shape, seed)
  local n, rng = 1, F.new "ij_rng"
  for _, s in ipairs(shape) do n = n * s end
  local v = F.new("float[?]", n)
  C.ij_rng_init(rng, seed or 0, C.IJ_RNG_USER, 0, 0)
  for i = 0, n - 1 do v[i] = C.ij_rng_normal(rng) end
  return tensor.from_pointer(v, shape, "f32", true)
end
local function close(a, b, tolerance)
  local x, y, worst = a:read(), b:read(), 0
  for i = 0, a:numel() - 1 do worst = math.max(worst, math.abs(x[i] - y[i])) end
  return worst <= tolerance, worst
end
-- The branch of a block times k: its last layer's weights and bias.
local function scale(e, block, branch, k)
  for _, what in ipairs { "weight", "bias" } do
    local t = e.by_name[("blocks.%d.%s.%s"):format(block, branch, what)].tensor
    t:add_(t:detach(), k - 1)
  end
end

function tests.test_drop_path_leaves_out_branches_of_some_images()
  -- depth 2: only the last block drops, with the whole rate; four outcomes, each an encoder with
  -- scaled branches
  local rate, B, steps, e = .4, 16, 60, encoder { depth = 2 }
  for _, name in ipairs { "blocks.1.attn.proj.bias", "blocks.1.mlp.fc2.bias" } do
    e.by_name[name].tensor:fill_(.3)
  end
  local x, outcomes, count = noise { B, 3, 8, 8 }, {}, {}
  for i, keep in ipairs { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } } do
    local other = encoder { depth = 2 }
    other:copy_(e)
    scale(other, 1, "attn.proj", keep[1] / (1 - rate))
    scale(other, 1, "mlp.fc2", keep[2] / (1 - rate))
    outcomes[i], count[i] = ijepa.no_grad(function() return other(x) end), 0
  end
  local first
  for step = 1, steps do
    e:drop_path(rate, 7, step)
    local y = e(x):clone()
    first = first or y
    for b = 1, B do
      local met = 0
      for i, o in ipairs(outcomes) do
        if close(y:select(1, b), o:select(1, b), 2e-5) then
          met = met + 1
          count[i] = count[i] + 1
        end
      end
      lu.assertEquals(met, 1)
    end
  end
  local n = B * steps
  for i, p in ipairs { rate * rate, rate * (1 - rate), (1 - rate) * rate, (1 - rate) ^ 2 } do
    local off = math.abs(count[i] - n * p) / math.sqrt(n * p * (1 - p))
    -- 1 in 15,000
    lu.assertTrue(off < 4, ("outcome %d: %d of %d, %.1f deviations off"):format(i, count[i], n,
      off))
  end
  -- the factors' means are 1
  local attention, mlp = (count[3] + count[4]) / n, (count[2] + count[4]) / n
  lu.assertAlmostEquals(attention / (1 - rate), 1, .12)
  lu.assertAlmostEquals(mlp / (1 - rate), 1, .12)
  e:drop_path(rate, 7, 1)
  lu.assertTrue(close(e(x), first, 0))           -- the same seed and step: the same
  e:drop_path(rate, 8, 1)
  lu.assertFalse((close(e(x), first, 1e-3)))
end

function tests.test_drop_path_is_off_outside_of_training()
  local e, x = encoder(), noise { 4, 3, 8, 8 }
  local plain = e(x):clone()
  e:drop_path(.9, 1, 1)
  lu.assertTrue(close(ijepa.no_grad(function() return e(x) end), plain, 0))
  lu.assertFalse((close(e(x), plain, 1e-3)))
  e:drop_path(0)
  lu.assertTrue(close(e(x), plain, 0))
  lu.assertErrorMsgContains("rate is 1, expected 0 up to 1", e.drop_path, e, 1)
end

function tests.test_gradient_through_drop_path()
  for _, recompute in ipairs { false, true } do
    local e, x, weight = encoder { recompute = recompute }, noise { 5, 3, 8, 8 },
      noise({ 5, 4, 8 }, 1)
    e:drop_path(.5, 3, 2)
    local function loss() return (e(x) * weight):sum() end
    loss():backward()
    for _, name in ipairs { "patch_embed.proj.weight", "blocks.0.attn.qkv.weight",
        "blocks.1.attn.proj.weight", "blocks.1.mlp.fc1.weight",
      "blocks.2.mlp.fc2.bias", "blocks.2.attn.proj.bias", "blocks.2.norm2.weight" } do
      local p = e.by_name[name].tensor
      local g, v, slope = p:grad():read(), noise(p:shape(), 2), 0
      local at = p:detach():clone()
      local direction = v:read()
      for i = 0, p:numel() - 1 do slope = slope + g[i] * direction[i] end
      local h, side = 2e-3, {}
      for s = -1, 1, 2 do
        p:copy_(at):add_(v, s * h)
        side[s] = loss():item()   -- recorded, so that branches are dropped
      end
      p:copy_(at)
      local difference = (side[1] - side[-1]) / (2 * h)
      -- a sum of 160 terms to 1e-5, over 2h: .003; and h^2 of the third derivative
      lu.assertTrue(math.abs(slope - difference) <= 1e-2 * math.max(1, math.abs(slope)),
        ("%s: %g, by differences %g"):format(name, slope, difference))
    end
  end
end

function tests.test_layer_decay()
  local scales = finetune.layer_scales(encoder(), .5)
  lu.assertEquals(scales["patch_embed.proj.weight"], .5 ^ 4)
  lu.assertEquals(scales["blocks.0.attn.qkv.weight"], .5 ^ 3)
  lu.assertEquals(scales["blocks.2.mlp.fc2.bias"], .5)
  lu.assertEquals(scales["norm.weight"], 1)
  for _, s in pairs(finetune.layer_scales(encoder(), 1)) do lu.assertEquals(s, 1) end
end

function tests.test_mixing_keeps_the_label_mass()
  local B, side, rng = 6, 8, F.new "ij_rng"
  local x, v, labels = tensor.zeros { B, 3, side, side }, F.new("float[?]", B * 3 * side * side),
    F.new("int32_t[?]", B)
  for b = 0, B - 1 do   -- image b is 2^b everywhere: what is in a mixture can be read off
    labels[b] = b
    for i = 0, 3 * side * side - 1 do v[b * 3 * side * side + i] = 2 ^ b end
  end
  x = x:copy_(tensor.from_pointer(v, x:shape()))
  local seen, kinds, lambdas = {}, 0, 0
  for draw = 1, 60 do
    for _, o in ipairs { { mixup = .8 }, { cutmix = 1 }, { mixup = .8, cutmix = 1 }, {} } do
      C.ij_rng_init(rng, draw, C.IJ_RNG_USER, 0, 0)
      local y, partners, lambda = mix.batch(x, labels, o, rng)
      local of, got = partners:read(), y:read()
      lu.assertTrue(lambda >= 0 and lambda <= 1)
      for b = 0, B - 1 do
        local sum, whole = 0, 0
        for i = 0, 3 * side * side - 1 do
          local value = got[b * 3 * side * side + i]
          sum = sum + value
          whole = whole + ((value == 2 ^ b or value == 2 ^ of[b]) and 1 or 0)
        end
        local mean = sum / (3 * side * side)
        -- the labels' shares are the pixels'
        lu.assertAlmostEquals(mean, lambda * 2 ^ b + (1 - lambda) * 2 ^ of[b], 1e-4)
        if o.cutmix and not o.mixup then lu.assertEquals(whole, 3 * side * side) end
      end
      if o.mixup and not o.cutmix then lambdas = lambdas + lambda end
      if not o.mixup and not o.cutmix then lu.assertEquals(lambda, 1) end
      kinds = kinds + (seen[lambda] and 0 or 1)
      seen[lambda] = true
    end
  end
  lu.assertTrue(kinds > 60)
  -- Beta(.8, .8): mean .5, deviation .31 / sqrt(60), four of them
  lu.assertAlmostEquals(lambdas / 60, .5, .16)
end

function tests.test_beta_has_its_moments()
  local rng = F.new "ij_rng"
  C.ij_rng_init(rng, 1, C.IJ_RNG_USER, 0, 0)
  for _, ab in ipairs { { .8, .8 }, { 1, 1 }, { 2, 5 }, { .3, 2 } } do
    local a, b, n, sum, squares = ab[1], ab[2], 20000, 0, 0
    for _ = 1, n do
      local v = mix.beta(rng, a, b)
      sum, squares = sum + v, squares + v * v
    end
    local mean, var = sum / n, squares / n - (sum / n) ^ 2
    local want = a * b / ((a + b) ^ 2 * (a + b + 1))
    lu.assertAlmostEquals(mean, a / (a + b), 4 * math.sqrt(want / n))
    lu.assertAlmostEquals(var, want, .05 * want)
  end
end

function tests.test_it_learns_and_decays_by_layer()
  local made = require "support".scenes { n = 160, test = 64, size = 16, label = "colour" }
  local e = jepa.encoder { width = 24, depth = 2, heads = 2, patch = 4, crop = 16, seed = 1,
    init_gain = .7, patch_gain = 1.5 }
  local before = e:target()
  local o = { train = made.train, test = made.test, crop = 16, resize = 16, epochs = 16, warmup = 2,
    batch = 16, lr = 4e-3, drop_path = .1,
    layer_decay = .5, workers = 0, scale = { .6, 1 } }
  local r = assert(finetune.run(e, o))
  lu.assertEquals(#r.losses, 16)
  lu.assertTrue(r.losses[16] < r.losses[1])
  lu.assertTrue(r.top1 > 40, r.top1)   -- 8 colours: chance is 12.5
  local function moved(name)
    return math.sqrt(select(2, ijepa.no_grad(function()
      local d = e.by_name[name].tensor - before.by_name[name].tensor
      return d, (d * d):mean():item()
    end)))
  end
  -- a quarter of the rate
  lu.assertTrue(moved "patch_embed.proj.weight" < .5 * moved "blocks.1.mlp.fc1.weight")
  o.mixup, o.cutmix, o.epochs = .8, 1, 2
  r = assert(finetune.run(before:target(), o))
  -- a function of the seed
  lu.assertEquals(assert(finetune.run(before:target(), o)).losses, r.losses)
  o.batch = 500
  local none, message = finetune.run(e, o)
  lu.assertNil(none)
  lu.assertStrContains(message, "do not fill a batch of 500")
  none, message = finetune.run(e, { train = made.train, test = made.test .. "/nowhere" })
  lu.assertNil(none)
  lu.assertStrContains(message, "nowhere")
end

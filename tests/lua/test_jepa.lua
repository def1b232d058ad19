-- Models: published sizes, every head width, grids of other shapes, context as a subset.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor, jepa, device = ijepa.tensor, ijepa.jepa, ijepa.device

local tests = {}
TestJepa = tests -- luacheck: ignore

function tests.test_published_sizes()   -- positions included, /16 at 224
  for arch, n in pairs { vit_tiny = 5524032, vit_small = 21664896, vit_base = 85797120 } do
    lu.assertEquals(jepa.encoder({ arch = arch, patch = 16, crop = 224 }):size(), n)
  end
  -- the larger ones by the same arithmetic, without their memory: D, depth, F, patch, positions
  local function count(D, depth, mlp, P, N)
    local f = math.floor(D * mlp)
    return N * D + 3 * P * P * D + D + depth * (4 * D * D + 2 * D * f + f + 9 * D) + 2 * D
  end
  local function published(arch, P, N)
    local c = F.new "ij_vit_config"
    F.check(F.C.ij_vit_size(arch, c))
    return count(c.width, c.depth, c.mlp_ratio, P, N)
  end
  lu.assertEquals(count(192, 12, 4, 16, 196), 5524032)
  lu.assertEquals(published("vit_large", 16, 196), 303299584)
  lu.assertEquals(published("vit_huge", 14, 256), 630762240)
  lu.assertEquals(published("vit_huge", 16, 784), 631668480)
  lu.assertEquals(published("vit_giant", 16, 196), 1011368576)
  lu.assertErrorMsgContains("encoder: unknown arch 'vit_hug': one of vit_tiny",
    function() jepa.encoder { arch = "vit_hug" } end)
end

local function image(h, w, b)
  local t = tensor.zeros({ b or 1, h, w, 3 }, "u8")
  return t
end

function tests.test_head_widths_train()
  for _, s in ipairs { 24, 32, 64, 80, 88, 128 } do
    device.step(function()
      local e = jepa.encoder { width = 2 * s, depth = 1, heads = 2, patch = 8, crop = 32 }
      local p = jepa.predictor(e, { width = 32, depth = 1, heads = 2 })
      local ctx = tensor.new({ { { 0, 3, 5 } } }, "i32")
      local tgt = tensor.new({ { { 8, 9 } }, { { 1, 2 } } }, "i32")
      local z = p(e(image(32, 32), ctx), ctx, tgt)
      lu.assertEquals(z:shape(), { 2, 2, 2 * s })
      z:mean():backward()
      local norm, finite = tensor.norm { e.by_name["blocks.0.attn.qkv.weight"].tensor:grad() }
      lu.assertTrue(finite and norm > 0)
    end)
  end
end

-- Values of all trained tensors after 3 updates of a small pair; the encoder is used twice a step.
local function trained(eager, recompute)
  local e = jepa.encoder { width = 16, depth = 2, heads = 2, patch = 8, crop = 32,
    recompute = recompute }
  local p, target = jepa.predictor(e, { width = 8, depth = 2, heads = 2 }), e:target()
  local opt = ijepa.optim.adamw { models = { e, p }, average = { [e] = target } }
  local ctx, tgt = tensor.new({ { { 0, 3, 5 } } }, "i32"), tensor.new({ { { 8, 9 } }, { { 1,
    2 } } }, "i32")
  local norms, held = {}, 0
  for step = 1, 3 do
    local numbers = { lr = 1e-2 * step, wd = .1, momentum = .9, scale = .5 }
    device.step(function()
      local values = {}
      for i = 1, 32 * 32 * 3 do values[i] = (i * 37 * step) % 256 end
      local x = tensor.new(values, "u8"):reshape(1, 32, 32, 3)
      local h = e(x):layer_norm():gather(tgt)
      local loss = tensor.smooth_l1(p(e(x, ctx), ctx, tgt), h)
      opt:watch(1, true)
      if eager then opt:eager(numbers) end
      loss:backward()
      held = #opt:grads()
      norms[step] = not eager and tensor.norm { opt.entries[1].tensor:grad() }
      opt:step(numbers)
      norms[step] = norms[step] or opt:grad_norm(1)
    end)
  end
  local bytes = {}
  for _, model in ipairs { e, p, target } do
    for _, t in ipairs(model:params()) do
      bytes[#bytes + 1] = F.string(t.tensor:read(), t.tensor:bytes())
    end
  end
  return table.concat(bytes), norms, held
end

function tests.test_updating_on_the_way_back_is_the_same_to_the_bit()
  for _, recompute in ipairs { false, true } do
    local plain, norms, all = trained(false, recompute)
    local eager, eager_norms, held = trained(true, recompute)
    lu.assertTrue(plain == eager)
    lu.assertEquals(eager_norms, norms)
    lu.assertTrue(all > 40)
    lu.assertEquals(held, 0)   -- every gradient was taken and its memory is free
  end
end

function tests.test_an_update_that_began_otherwise_is_refused()
  local opt = ijepa.optim.adamw { params = { tensor.new({ 1, 2 }):requires_grad_() } }
  opt:eager { lr = 1 }
  lu.assertErrorMsgContains("is not what ij_optim_eager got", function() opt:step { lr = 2 } end)
  opt:step { lr = 1 }   -- a tensor that no model used: plain, with a gradient of zeros
  lu.assertNil(opt:grads()[1])
  lu.assertEquals(opt:steps(), 1)
end

function tests.test_other_sizes_and_shapes_than_trained()
  local e = jepa.encoder { width = 32, depth = 2, heads = 2, patch = 8, crop = 32 }
  lu.assertEquals(e(image(48, 16, 2)):shape(), { 2, 12, 32 })
  local wide = jepa.encoder { width = 32, depth = 2, heads = 2, patch = 8, crop = { 48, 16 } }
  wide:requires_grad_(false)
  for i, p in ipairs(wide:params()) do   -- same weights; positions of that grid are its own
    if p.trained then p.tensor:copy_(e:params()[i].tensor:detach()) end
  end
  local a, b = e(image(48, 16)):read(), wide(image(48, 16)):read()
  for i = 0, 12 * 32 - 1 do lu.assertAlmostEquals(a[i], b[i], 1e-6) end
end

function tests.test_the_whole_image_as_context_is_the_whole_image()
  local e = jepa.encoder { width = 32, depth = 2, heads = 2, patch = 8, crop = 32, init_gain = 1 }
  local all = {}
  for i = 1, 16 do all[i] = i - 1 end
  local a, n = e(image(32, 32)):read()
  local b = e(image(32, 32), tensor.new({ { all } }, "i32")):read()
  for i = 0, n - 1 do lu.assertAlmostEquals(a[i], b[i], 1e-6) end
end

function tests.test_bytes_and_floats_are_the_same_image()
  local e = jepa.encoder { width = 32, depth = 1, heads = 2, patch = 8, crop = 16 }
  local px = image(16, 16)
  local a, n = e(px):read()
  local b = e(tensor.normalise(px)):read()
  for i = 0, n - 1 do lu.assertAlmostEquals(a[i], b[i], 1e-5) end
end

function tests.test_bf16_is_near_f32()   -- 8 bits of mantissa through two blocks, outputs of size 1
  local o = { width = 64, depth = 2, heads = 2, patch = 8, crop = 32, init_gain = 1,
    patch_gain = 1 }
  local a, n = jepa.encoder(o)(image(32, 32)):read()
  o.dtype = "bf16"
  local b = jepa.encoder(o)(image(32, 32)):read()
  for i = 0, n - 1 do lu.assertAlmostEquals(a[i], b[i], .1) end
end

function tests.test_misuse()
  local e = jepa.encoder { width = 32, depth = 1, heads = 2, patch = 8, crop = 32 }
  lu.assertErrorMsgContains("not whole patches of 8", e, image(30, 32))
  lu.assertErrorMsgContains("outside 0..15", e, image(32, 32), tensor.new({ { { 16 } } }, "i32"))
  lu.assertErrorMsgContains("unknown arch 'vit_huger'", jepa.encoder, { arch = "vit_huger" })
  lu.assertErrorMsgContains("does not divide", jepa.encoder, { width = 32, depth = 1, heads = 3,
    patch = 8, crop = 32 })
end

-- the tape may be all that is left of them
function tests.test_a_recorded_forward_keeps_its_models()
  local x = ijepa.tensor.zeros({ 2, 3, 8, 8 }):fill_(.5)
  local context, target = ijepa.tensor.new({ { { 0, 1 }, { 2, 3 } } }, "i32"),
    ijepa.tensor.new({ { { 2 }, { 1 } } }, "i32")
  local function forward()
    local e = ijepa.jepa.encoder({ width = 16, depth = 2, heads = 2, patch = 4, crop = 8,
      seed = 1 }):requires_grad_(true)
    local p = ijepa.jepa.predictor(e, { width = 8, depth = 1 }):requires_grad_(true)
    return p(e(x, context), context, target):mean(), e.by_name["patch_embed.proj.weight"].tensor
  end
  local left = forward()   -- never asked for its gradient
  local loss, weight = forward()
  collectgarbage()
  collectgarbage()
  loss:backward()
  lu.assertTrue(ijepa.tensor.norm { weight:grad() } > 0)
  lu.assertEquals(left:numel(), 1)
end

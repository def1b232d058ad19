-- Images of features: what they show is compared with plain computations, and with models whose
-- answers are known.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor, jepa, canvas, plot, panel = ijepa.tensor, ijepa.jepa, ijepa.canvas, ijepa.plot,
  ijepa.panel

local tests = {}
TestPlot = tests -- luacheck: ignore
local oracle   -- a model whose answers are known, below

-- B images of 16 x 24 pixels, no two patches alike.
local function images(B, seed)
  local n = B * 16 * 24 * 3
  local p, rng = F.new("uint8_t[?]", n), F.new "ij_rng"
  F.C.ij_rng_init(rng, seed or 1, F.C.IJ_RNG_USER, 0, 0)
  for i = 0, n - 1 do p[i] = F.C.ij_rng_below(rng, 256) end
  return tensor.from_pointer(p, { B, 16, 24, 3 }, "u8", true)
end

-- Biases and norms are not at their initial 0 and 1, so that a forgotten one is seen.
local function encoder()
  local e = jepa.encoder { width = 32, depth = 2, heads = 2, patch = 8, crop = { 16, 24 },
    init_gain = 1, patch_gain = 1 }
  local rng = F.new "ij_rng"
  F.C.ij_rng_init(rng, 7, F.C.IJ_RNG_USER, 1, 0)
  for _, p in ipairs(e:requires_grad_(false):params()) do
    if p.tensor:dim() == 1 then
      local v, n = p.tensor:read()
      for i = 0, n - 1 do v[i] = v[i] + F.C.ij_rng_normal(rng) / 2 end
      p.tensor:copy_(tensor.from_pointer(v, { n }))
    end
  end
  return e
end

local function worst(a, b)
  local x, y, most = a:read(), b:read(), 0
  lu.assertEquals(a:shape(), b:shape())
  for i = 0, a:numel() - 1 do most = math.max(most, math.abs(x[i] - y[i])) end
  return most
end

local function same(a, b)
  lu.assertEquals({ a.width, a.height }, { b.width, b.height })
  return F.string(a.pixels, a.width * a.height * 3) == F.string(b.pixels, b.width * b.height * 3)
end

-- ---- attention

function tests.test_attention_is_the_softmax()
  local e, x = encoder(), images(2)
  for block = 1, 2 do
    local p = e:attention(x, block)
    lu.assertEquals(p:shape(), { 2, 2, 6, 6 })
    local v = p:read()
    for row = 0, 2 * 2 * 6 - 1 do
      local sum = 0
      for j = 0, 5 do sum = sum + v[row * 6 + j] end
      lu.assertAlmostEquals(sum, 1, 1e-6)
    end
  end
  -- block 2 by hand, from the output of block 1
  local function param(name) return e.by_name["blocks.1." .. name].tensor end
  local h = e:blocks(x, 2)[1]:layer_norm(param "norm1.weight", param "norm1.bias", 1e-6)
  -- [b][n][3 * 2 * 16]
  local qkv = h:linear(param "attn.qkv.weight", param "attn.qkv.bias"):totable()
  local p = e:attention(x, -1):totable()
  for b = 1, 2 do
    for a = 0, 1 do
      for i = 1, 6 do
        local logits, total = {}, 0
        for j = 1, 6 do
          local dot = 0
          for s = 1, 16 do dot = dot + qkv[b][i][a * 16 + s] * qkv[b][j][32 + a * 16 + s] end
          logits[j] = math.exp(dot / 4)
          total = total + logits[j]
        end
        for j = 1, 6 do lu.assertAlmostEquals(p[b][a + 1][i][j], logits[j] / total, 1e-5) end
      end
    end
  end
  lu.assertErrorMsgContains("no block 3 of 2", e.attention, e, x, 3)
  lu.assertErrorMsgContains("no block 0 of 2", e.attention, e, x, -3)
  lu.assertErrorMsgContains("not whole patches", e.attention, e,
    tensor.zeros({ 1, 15, 24, 3 }, "u8"))
end

function tests.test_attention_without_memory()
  local e, x, failed = encoder(), images(1), 0
  collectgarbage()
  local live = ijepa.memory()
  for n = 1, 1000 do
    -- not by e:attention, which tries once more where memory ran out
    local out = F.new "ij_tensor *[1]"
    F.C.ij_mem_fail_at(n)
    local st = F.C.ij_encoder_attention(e.h, x.h, 1, out)
    F.C.ij_mem_fail_at(0)
    if st == 0 then
      F.C.ij_tensor_free(out[0])
      break
    end
    failed = n
  end
  lu.assertTrue(failed > 3 and failed < 999)
  collectgarbage()
  collectgarbage()
  -- no tensor of it is left; the device may keep some scratch
  lu.assertTrue(ijepa.memory() - live < 2 ^ 16)
end

-- ---- images in

function tests.test_load_is_what_the_loader_gives()
  local folder = require "support".folder()
  for i, size in ipairs { { 50, 70 }, { 90, 40 }, { 20, 20 } } do
    local c = canvas.new(size[1], size[2])
    for at = 0, size[1] * size[2] * 3 - 1 do c.pixels[at] = (at * at * 31 + at) % 253 end
    assert(c:save(("%s/%d.png"):format(folder, i)))
  end
  for _, o in ipairs { { crop = 32 }, { crop = { 24, 40 }, resize = 48 } } do
    local set = assert(ijepa.data.open { root = folder, crop = o.crop, resize = o.resize,
      batch = 3 })
    local all = set:read()
    for i = 1, 3 do
      lu.assertEquals(worst(all:narrow(1, i, 1),
        assert(plot.load(("%s/%d.png"):format(folder, i), o))), 0)
    end
    set:close()
  end
  local e = encoder()
  local one, other = folder .. "/1.png", folder .. "/3.png"
  lu.assertEquals(plot.batch({ one, other, one }, e):shape(), { 3, 16, 24, 3 })
  lu.assertEquals(plot.batch(folder, e, { count = 2 }):shape(), { 2, 16, 24, 3 })
  local x, message = plot.load(folder .. "/4.png")
  lu.assertNil(x)
  lu.assertStrContains(message, "4.png")
  lu.assertErrorMsgContains("4.png", plot.batch, folder .. "/4.png", e)
  lu.assertErrorMsgContains("number 1 is a number", plot.batch, { 5 }, e)
end

-- ---- principal components

local function reversed(x)
  local y = tensor.empty(x:shape(), x:dtype(), true)
  for i = 1, x:size(1) do y:narrow(1, i, 1):copy_(x:narrow(1, x:size(1) + 1 - i, 1)) end
  return y
end

-- An image of more pixels than the encoder takes is shown at the size that is drawn, not blown up
-- from the crop.
function tests.test_the_image_is_shown_sharp()
  local e, fine = encoder(), canvas.new(240, 160)
  -- stripes that the crop of 16 x 24 pixels averages to grey
  for x = 0, 239, 4 do fine:rect(x, 0, 2, 160, 0) end
  local function contrast(c)
    local low, high = 255, 0
    for x = 90, 180 do   -- right of the mark
      local v = c:get(12 + x, c.height - 150) % 256
      low, high = math.min(low, v), math.max(high, v)
    end
    return high - low
  end
  local o = { side = 210, title = false, patch = { 0, 0 } }
  lu.assertTrue(contrast(plot.attention(e, fine, o)) > 2 * contrast(
    plot.attention(e, plot.batch(fine, e), o)) + 10)
end

function tests.test_a_title_of_ones_own_and_none()
  local e, x = encoder(), images(1)
  local own, none = plot.pca(e, x, { title = "mine" }), plot.pca(e, x, { title = false })
  lu.assertTrue(own.height >= none.height + 24 + 16)
  lu.assertEquals({ own.figure.title, none.figure.title }, { "mine" })
  lu.assertEquals(plot.pca(e, x).figure.title, "Principal components of the patch features")
end

function tests.test_a_file_gives_its_name()
  local e, x, path = encoder(), images(1), os.tmpname()
  os.remove(path)
  path = path .. ".png"
  for _, call in ipairs {
    function(file) return plot.pca(e, x, { file = file }) end,
    function(file) return plot.attention(e, x, { file = file }) end,
    function(file) return plot.similarity(e, x, { file = file }) end,
    function(file) return plot.masks(ijepa.mask.new { grid = { 8, 12 }, min_keep = 2 },
      { file = file }) end,
    function(file) return plot.loss(oracle(x), x, { rounds = 1, file = file }) end,
    function(file) return ijepa.imagine(oracle(x), x, nil, nil,
      { bank = ijepa.bank(oracle(x), x), file = file }) end,
  } do
    lu.assertEquals({ call(path) }, { path })
    assert(os.remove(path))
    local ok, message = call "/nowhere/x.png"
    lu.assertNil(ok)
    lu.assertStrContains(message, "/nowhere/x.png")
  end
end

function tests.test_features_of_a_layer()
  local e, x = encoder(), images(2)
  lu.assertEquals(worst(plot.features(e, x, 1), e:blocks(x, 2)[1]:layer_norm()), 0)
  lu.assertEquals(worst(plot.features(e, x, -2), plot.features(e, x, 1)), 0)
  lu.assertEquals(worst(plot.features(e, x, 2), e(x):layer_norm()), 0)
  lu.assertTrue(worst(plot.features(e, x, 1), plot.features(e, x)) > .01)
  local _, first = plot.similarity(e, x, { layer = 1 })
  local _, last = plot.similarity(e, x)
  lu.assertTrue(math.abs(first[1][1] - last[1][1]) > 1e-4)
  lu.assertStrContains(plot.pca(e, x, { layer = 1 }).figure.title, "after layer 1 of 2")
  for _, layer in ipairs { 0, 3, -3, 1.5 } do
    lu.assertErrorMsgContains("there is no layer " .. layer .. " of 2", plot.similarity, e, x,
      { layer = layer })
  end
end

-- Heat maps over an image are drawn over its greys, and all heads have one scale.
function tests.test_one_scale_for_all_heads()
  local e, x = encoder(), images(1)
  local figure = plot.attention(e, x, { patch = { 0, 1 } }).figure
  lu.assertEquals(#figure.parts, 4)
  lu.assertEquals({ figure.parts[2].title, figure.parts[4].title }, { "head 1", "mean" })
  local p, high = e:attention(x, -1):totable(), 0
  for a = 1, 2 do
    for j = 1, 6 do high = math.max(high, 6 * p[1][a][2][j]) end
  end
  lu.assertAlmostEquals(figure.bar.high, high, 1e-5)
  lu.assertStrContains(figure.title, "patch (0, 1)")
end

function tests.test_pca_is_stable()
  local e, x = encoder(), images(12)
  local basis = plot.basis(e, x)
  local again = plot.basis(e, reversed(x))
  -- sums of 72 terms in another order; neighbouring eigenvalues of noise lie some percent apart
  lu.assertTrue(worst(basis.vectors, again.vectors) < 1e-3)
  local v = basis.vectors:totable()
  for k = 1, 3 do
    local cubes, norm = 0, 0
    for _, n in ipairs(v[k]) do cubes, norm = cubes + n ^ 3, norm + n ^ 2 end
    lu.assertTrue(cubes > 0)
    lu.assertAlmostEquals(norm, 1, 1e-5)
  end
  lu.assertTrue(basis.fraction[1] >= basis.fraction[2] and basis.fraction[2] >= basis.fraction[3]
    and basis.fraction[3] > 0)
  local a, used = plot.pca(e, x, { basis = basis })
  lu.assertTrue(used == basis)
  lu.assertTrue(same(a, (plot.pca(e, x))))
  -- with a basis an image's colours do not depend on its company
  local alone = plot.pca(e, x:narrow(1, 2, 1):contiguous(),
    { basis = basis, side = 30, title = false })
  local both = plot.pca(e, x:narrow(1, 1, 2):contiguous(),
    { basis = basis, side = 30, title = false })
  local cell = panel.cell({ 2, 3 }, 30)
  local colours = {}
  for i = 0, 5 do
    local px, py = i % 3 * cell + cell / 2,
      math.floor(i / 3) * cell + cell / 2 + alone.height - 12 - 2 * cell
    colours[i] = alone:get(12 + px, py)
    lu.assertEquals(both:get(12 + 3 * cell + 12 + px, py), colours[i])
  end
  lu.assertNotEquals(colours[0], colours[5])
end

-- ---- similarity, attention, masks, loss as images

function tests.test_similarity()
  local e, x = encoder(), images(2)
  local c, cosines = plot.similarity(e, x, { patch = { 1, 2 } })
  lu.assertTrue(canvas.is(c))
  lu.assertAlmostEquals(cosines[1][6], 1, 1e-5)
  for b = 1, 2 do
    for i = 1, 6 do lu.assertTrue(cosines[b][i] <= 1 + 1e-5 and cosines[b][i] >= -1 - 1e-5) end
  end
  lu.assertErrorMsgContains("in a grid of 2 x 3", plot.similarity, e, x, { patch = { 2, 0 } })
  lu.assertTrue(canvas.is(plot.attention(e, x, { patch = { 0, 1 }, block = 1 })))
  lu.assertTrue(canvas.is((plot.attention(e, x))))
end

-- A model whose predictor knows the answer (or always says `answer`, f32 (D)).
function oracle(x, answer)
  local e = encoder()
  local policy = ijepa.mask.policy(function(rng, g)
    local target = g:random_block(rng, 1, 2)
    return g:all() - target, { target, target }
  end, { grid = { 2, 3 }, group = 4 })
  return { encoder = e, target = e, policy = policy, predictor = function(_, context, target)
    local h = e(x):layer_norm():gather(target)
    if answer then h = h * 0 + answer end
    if context:size(1) == 1 then return h end
    local M, B, T, C_ = target:size(1), target:size(2), target:size(3), context:size(1)
    local out = tensor.empty { M * C_ * B, T, h:size(3) }   -- each context gives the same
    for m = 0, M - 1 do
      for c = 0, C_ - 1 do
        out:narrow(1, (m * C_ + c) * B + 1, B):copy_(h:narrow(1, m * B + 1, B))
      end
    end
    return out
  end }
end

function tests.test_loss_by_position()
  local x = images(4)
  local c, values = plot.loss(oracle(x), x, { rounds = 6 })
  lu.assertTrue(canvas.is(c))
  for i = 1, 6 do lu.assertEquals(values[i] or 0, 0) end
  -- against the loss of training
  local m = oracle(x, tensor.zeros({ 32 }))
  values = select(2, plot.loss(m, x, { rounds = 1 }))
  local context, target = m.policy:sample(4, 0)
  local h = m.target(x):layer_norm():gather(target)
  local losses = plot.patch_losses(m.predictor(nil, context, target), h, 4)
  local mean = 0
  for _, v in ipairs(losses) do mean = mean + v / #losses end
  lu.assertAlmostEquals(mean, tensor.smooth_l1(h * 0, h):item(), 1e-5)
  local index, sum, n = target:read(), 0, 0
  for i = 0, #losses - 1 do
    if index[i] == 1 then sum, n = sum + losses[i + 1], n + 1 end
  end
  lu.assertTrue(n > 0)
  lu.assertAlmostEquals(values[2], sum / n, 1e-6)
end

function tests.test_loss_of_several_contexts()
  -- M 2, B 2, T 1
  local h = tensor.new { { { 0, 0 } }, { { 1, 1 } }, { { 2, 2 } }, { { 3, 3 } } }
  -- m 0: contexts 0, 1
  local z = tensor.new { { { 1, 1 } }, { { 1, 1 } }, { { 3, 3 } }, { { 1, 1 } },
    { { 2, 2 } }, { { 3, 3 } }, { { 2, 2 } }, { { 5, 5 } } }
  lu.assertEquals(plot.patch_losses(z, h, 2), { (.5 + 2.5) / 2, 0, 0, (0 + 1.5) / 2 })
end

function tests.test_masks_over_a_image()
  local policy = ijepa.mask.new { grid = { 8, 12 }, min_keep = 2 }
  lu.assertTrue(canvas.is(plot.masks(policy, { draws = 2 })))
  local c = canvas.new(100, 80, 0x33cc55)
  local over = plot.masks({ policy = policy }, { draws = 2, images = c, side = 96 })
  local found = false
  for i = 0, over.width * over.height * 3 - 1, 3 do
    found = found or (over.pixels[i] == 0x33 and over.pixels[i + 1] == 0xcc
      and over.pixels[i + 2] == 0x55)
  end
  lu.assertTrue(found)
  lu.assertErrorMsgContains("expected a mask policy or a model", plot.masks, {})
end

-- ---- the bank, and what is imagined

function tests.test_bank_finds_itself()
  local m, x = oracle(nil), images(3)
  local bank = ijepa.bank(m, x)
  lu.assertEquals({ bank.rows, bank.patches }, { 18, 6 })
  for i, near in ipairs(bank:nearest(bank.x, 4)) do
    lu.assertEquals(near[1], i - 1)
    lu.assertEquals(#near, 4)
    local h, last = bank.x:read(), -1
    for _, r in ipairs(near) do   -- farther and farther, and none that is left out is nearer
      local d = 0
      for k = 0, 31 do d = d + (h[(i - 1) * 32 + k] - h[r * 32 + k]) ^ 2 end
      lu.assertTrue(d >= last - 1e-3)
      last = d
    end
  end
  -- its pixels are the patches': row 7 is patch 1 of image 1, at pixels (8, 0)
  local p = x:read()
  for row = 0, 7 do
    for i = 0, 23 do
      lu.assertEquals(bank.pixels[(7 * 8 + row) * 24 + i], p[((16 + row) * 24 + 8) * 3 + i])
    end
  end
  lu.assertErrorMsgContains("features of 3 dimensions", bank.nearest, bank, tensor.zeros { 1, 3 })
end

function tests.test_imagine_of_a_perfect_predictor()
  local x = images(1)
  local m = oracle(x)
  local bank = ijepa.bank(m, x)
  local c, about = ijepa.imagine(m, x, nil, nil, { bank = bank })
  lu.assertTrue(canvas.is(c))
  lu.assertEquals({ about.energy_mean, about.relative_mean, #about.patches }, { 0, 0, 2 })
  -- the bank holds this image
  for _, p in ipairs(about.patches) do lu.assertEquals(about.nearest[p], { p }) end
  -- masks as lists, regions and tensors are the same; two contexts too
  local g = ijepa.mask.grid(2, 3)
  local list = ijepa.imagine(m, x, { 0, 1, 3, 4 }, { 2, 5 }, { bank = bank })
  lu.assertTrue(same(list,
    (ijepa.imagine(m, x, g:block(0, 0, 2, 2), g:block(0, 2, 2, 1), { bank = bank }))))
  lu.assertTrue(same(list,
    (ijepa.imagine(m, x, tensor.new({ { { 0, 1, 3, 4 } } }, "i32"), { { 2 }, { 5 } },
    { bank = bank }))))
  local _, two = ijepa.imagine(m, x, { { 0, 1 }, { 3, 4 } }, { { 2, 5 }, { 5, 1 } },
    { bank = bank })
  lu.assertEquals({ two.energy_mean, two.patches }, { 0, { 1, 2, 5 } })
end

function tests.test_imagine_of_the_mean()
  local x = images(1)
  local m = oracle(x)
  local bank = ijepa.bank(m, images(3, 2))
  local _, about = ijepa.imagine(oracle(x, bank.mean), x, nil, nil, { bank = bank })
  lu.assertAlmostEquals(about.relative_mean, 1, 1e-5)
  lu.assertTrue(about.energy_mean > .1)
end

function tests.test_imagine_misuse()
  local x = images(1)
  local m = oracle(x)
  m.bank = ijepa.bank(m, x)
  for want, call in pairs {
    ["is no model"] = function() ijepa.imagine({}, x) end,
    ["neither"] = function() ijepa.imagine(m, x, { 1 }) end,
    ["6 is no patch of 0 to 5"] = function() ijepa.imagine(m, x, { 1 }, { 6 }) end,
    ["as long as the first"] = function() ijepa.imagine(m, x, { 1 }, { { 1, 2 }, { 3 } }) end,
    ["the context is a number"] = function() ijepa.imagine(m, x, 5, { 1 }) end,
    ["there is no target"] = function() ijepa.imagine(m, x, { 1 }, {}) end,
  } do
    lu.assertErrorMsgContains(want, call)
    lu.assertErrorMsgContains("test_plot.lua:", call)
  end
end

-- ---- the decoder

function tests.test_decoder_learns_what_features_tell()
  local e, x = encoder(), images(8)
  local p = x:read()   -- patches of one grey each, told by their features
  for b = 0, 7 do
    for y = 0, 15 do
      for i = 0, 71 do
        p[(b * 16 + y) * 72 + i] =
          (b * 83 + math.floor(y / 8) * 131 + math.floor(i / 24) * 57) % 256
      end
    end
  end
  x = tensor.from_pointer(p, x:shape(), "u8", true)
  local h, wanted = plot.features(e, x), panel.cut(x, 8)
  local patches = {}
  for i = 1, 48 do patches[i] = (i - 1) % 6 end
  local d = ijepa.decoder.new(e, { hidden = 64 })
  local function off()
    local painted, sum = d:paint(h:reshape(48, 32), patches), 0
    for i = 0, 48 * 192 - 1 do sum = sum + math.abs(painted[i] - wanted[i]) / (48 * 192) end
    return sum
  end
  local before = off()
  d:train(h, wanted, { steps = 300, batch = 32, lr = 3e-3 })
  lu.assertTrue(before > 40)
  lu.assertTrue(off() < 15)
  -- without features, positions are all it has: six greys, the same in each image
  for i = 0, 8 * 6 * 192 - 1 do wanted[i] = math.floor(i / 192) % 6 * 40 end
  h, d = h * 0, ijepa.decoder.new(e, { hidden = 64 })
  d:train(h, wanted, { steps = 300, batch = 32, lr = 3e-3 })
  lu.assertTrue(off() < 15)
end

-- ---- a run

function tests.test_model_of_a_run()
  local support = require "support"
  local folder, made = support.folder(), support.scenes { n = 16, test = 4, size = 32 }
  local run = ijepa.pretrain(
    ijepa.config({}, nil, { "out=" .. folder .. "/run", "data.root=" .. made.train, "data.batch=8",
    "data.crop=32", "data.workers=0", "model.width=16", "model.depth=1", "model.heads=2",
      "model.patch=8", "model.pred_depth=1",
    "model.pred_dim=8", "mask.min_keep=0", "optim.epochs=1", "optim.warmup=0" }))
  local m = assert(ijepa.model(folder .. "/run"))
  for _, part in ipairs { "encoder", "predictor", "target" } do
    for i, p in ipairs(run[part]:params()) do
      lu.assertEquals(worst(p.tensor, m[part]:params()[i].tensor), 0)
    end
  end
  lu.assertEquals(worst((m.policy:sample(4, 0)), (run.policy:sample(4, 0))), 0)
  lu.assertTrue(canvas.is((ijepa.imagine(m, plot.batch(made.test, m.target, { count = 1 })))))
  lu.assertTrue(canvas.is(plot.curves(m)))
  lu.assertTrue(canvas.is((plot.loss(m, nil, { rounds = 1 }))))
  lu.assertNotNil(ijepa.model(folder .. "/run/jepa-latest.safetensors"))
  -- a model's target encoder
  lu.assertTrue(canvas.is((plot.pca(m, plot.batch(made.train, m.target)))))
  for want, call in pairs {
    ["expected an encoder or a model"] = function() plot.pca({}, "x.png") end,
    ["no model with a mask policy"] = function() plot.loss(m.target) end,
    ["bank: the first argument is no model"] = function() ijepa.bank(m.target) end,
    ["not a nil"] = function() ijepa.model() end,
    ["the list is empty"] = function() plot.batch(nil, m.target) end,
    ["jepa_r0.csv' could not be read"] = function() plot.curves "nowhere" end,
  } do
    lu.assertErrorMsgContains(want, call)
    lu.assertErrorMsgContains("test_plot.lua:", call)
  end
  lu.assertEquals({ ijepa.model "nowhere" }, { nil, "run 'nowhere' is not there" })
  local none, message = ijepa.model(folder)
  lu.assertNil(none)
  lu.assertStrContains(message, "config.lua")
end

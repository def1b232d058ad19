-- Modules: names, copies, files, layers against formulae, and the C blocks against tensor ops.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local nn, tensor, jepa, device = ijepa.nn, ijepa.tensor, ijepa.jepa, ijepa.device

local tests = {}
TestNn = tests -- luacheck: ignore

local function worst(a, b)
  lu.assertEquals(a:shape(), b:shape())
  return (a - b):abs():max():item()
end
local function names(m)
  local list = {}
  for i, p in ipairs(m:params()) do list[i] = p.name end
  return table.concat(list, " ")
end
local function fails(message, f, ...)
  local ok, e = pcall(f, ...)
  lu.assertFalse(ok, message)
  lu.assertStrContains(tostring(e), message)
  lu.assertStrContains(tostring(e), "test_nn.lua:")   -- the user's line
end

local SIZE = { width = 32, depth = 2, heads = 2, patch = 8, crop = 32, grid = { 4, 4 } }
local Encoder = nn.class("Encoder", function(self, o)
  self.patch, self.width, self.grid = o.patch, o.width, o.grid
  self.depth, self.heads = o.depth, o.heads
  self.pos_embed = nn.SinCos { grid = o.grid, width = o.width }
  self.patch_embed = nn.PatchEmbed { patch = o.patch, width = o.width, dtype = o.dtype }
  self.blocks = nn.Blocks { width = o.width, depth = o.depth, heads = o.heads, dtype = o.dtype,
    recompute = o.recompute }
end)
function Encoder:forward(images, context)
  return self.blocks(self.patch_embed(images, context, self.pos_embed))
end

local function images_of(n)
  local t = (tensor.rand({ n, 32, 32, 3 }, { seed = 5 }) * 255):floor()
  return t:to "u8"
end
local CONTEXT = { { { 0, 3, 5 }, { 1, 2, 9 } } }
local TARGETS = { { { 8, 9 }, { 3, 4 } }, { { 1, 2 }, { 14, 15 } } }

-- Weights after three steps, with a target encoder, of an encoder with the predictor's values.
local function trained(encoder, eager)
  local predictor = jepa.predictor(jepa.encoder(SIZE), { width = 16, depth = 2, heads = 2 })
  local target = encoder:target()
  local opt = ijepa.optim.adamw { models = { encoder, predictor },
    average = { [encoder] = target } }
  local images, losses = images_of(2), {}
  local context, targets = tensor.new(CONTEXT, "i32"), tensor.new(TARGETS, "i32")
  local numbers = { lr = 1e-2, wd = .05, momentum = .9 }
  for step = 1, 3 do
    device.step(function()
      local h = device.no_grad(function() return target(images):layer_norm():gather(targets) end)
      local loss = tensor.smooth_l1(predictor(encoder(images, context), context, targets), h, 1, 2)
      losses[step] = loss:item()
      if eager then opt:eager(numbers) end
      loss:backward()
      opt:step(numbers)
    end)
  end
  return target, losses
end

function tests.test_an_encoder_of_modules_is_the_built_in_one()
  for _, dtype in ipairs { "f32", "bf16" } do
    local small = nn.Blocks { width = 8, depth = 1, heads = 1, dtype = dtype }
    local o = { dtype = small.options.dtype }
    for k, v in pairs(SIZE) do o[k] = v end
    local built_in = jepa.encoder(o)
    local own = Encoder(o):copy_(built_in)
    lu.assertEquals(names(own), names(built_in))
    for i, p in ipairs(built_in:params()) do
      local q = own:params()[i]
      lu.assertEquals({ q.trained, q.decayed }, { p.trained, p.decayed }, p.name)
    end
    local images, context = images_of(2), tensor.new(CONTEXT, "i32")
    lu.assertEquals(worst(own(images), built_in(images)), 0)
    lu.assertEquals(worst(own(images, context), built_in(images, context)), 0)
    local recompute = Encoder(setmetatable({ recompute = true }, { __index = o })):copy_(built_in)
    local a, losses = trained(built_in)
    for i, other in ipairs { own, recompute } do
      local b, again = trained(other, i == 1)   -- one of them updates eagerly
      lu.assertEquals(again, losses)
      for k, p in ipairs(a:params()) do
        lu.assertEquals(worst(p.tensor, b:params()[k].tensor), 0)
      end
    end
  end
end

local Plain = nn.class("Plain", function(self, o)
  self.blocks = nn.List()
  for i = 1, 2 do self.blocks[i] = nn.Block(32, 2, o) end
  self.norm = nn.LayerNorm(32, { eps = 1e-6 })
end)
function Plain:forward(x)
  for _, block in ipairs(self.blocks) do x = block(x) end
  return self.norm(x)
end

-- Output and gradients of m for a loss of random weights; rows from `first` count.
local function run(m, x, first)
  x = x:clone(true):requires_grad_(true)
  m:zero_grad()
  local y = m.depth and m(x, first) or m(x):narrow(2, first + 1, x:size(2) - first)
  local weights = tensor.randn({ 3, 5, 32 }, { seed = 9 }):narrow(2, first + 1, 5 - first)
  ;(y * weights):sum():backward()
  local g = { x = x:grad() }
  for name, t in m:named_parameters() do g[name] = t:grad() end
  return y, g
end

function tests.test_blocks_are_those_of_tensor_ops()
  tensor.manual_seed(2)
  for _, first in ipairs { 0, 2 } do
    local blocks = nn.Blocks { width = 32, depth = 2, heads = 2 }
    for _, t in blocks:named_parameters() do   -- none at its initial value
      device.no_grad(function() t:add_(tensor.randn(t:shape()), .1) end)
    end
    local plain = Plain():copy_(blocks)
    local x = tensor.randn { 3, 5, 32 }
    local y, g = run(blocks, x, first)
    local z, h = run(plain, x, first)
    lu.assertTrue(worst(y, z) < 2e-5)
    for name, grad in pairs(g) do
      local scale = math.max(1, h[name]:abs():max():item())
      lu.assertTrue(worst(grad, h[name]) < 2e-5 * scale, name)
    end
  end
end

-- Blocks of tensor ops with rope, whose last tokens are patches of a context.
local Options = nn.class("Options", function(self, o)
  self.blocks = nn.List()
  for i = 1, 2 do
    self.blocks[i] = nn.Block(32, 2, { qk_norm = o.qk_norm, swiglu = o.swiglu,
      layer_scale = o.layer_scale })
  end
  self.norm = nn.LayerNorm(32, { eps = 1e-6 })
  if o.rope then self.rope = nn.Rope { grid = { 3, 4 }, width = 16, base = o.rope } end
end)
function Options:forward(x, first, context)
  local angles = self.rope and self.rope(context, x:size(2))
  for _, block in ipairs(self.blocks) do x = block(x, angles) end
  return self.norm(x):narrow(2, first + 1, x:size(2) - first)
end

function tests.test_options_of_blocks_are_those_of_tensor_ops()
  tensor.manual_seed(6)
  local context = tensor.new({ { { 3, 0, 11 }, { 5, 6, 7 }, { 1, 9, 2 } } }, "i32")
  local cases = { { rope = 50 }, { qk_norm = true }, { swiglu = true }, { layer_scale = .3 },
    { rope = 100, qk_norm = true, swiglu = true, layer_scale = .2 } }
  for k, o in ipairs(cases) do
    for _, recompute in ipairs { false, true } do
      local given = { width = 32, depth = 2, heads = 2, mlp_ratio = 4, recompute = recompute,
        grid = { 3, 4 } }
      for name, value in pairs(o) do given[name] = value end
      local blocks = nn.Blocks(given)
      for _, t in blocks:named_parameters() do
        device.no_grad(function() t:add_(tensor.randn(t:shape()), .1) end)
      end
      local plain, first = Options(o):copy_(blocks), k % 3
      local x, weights = tensor.randn { 3, 5, 32 }, tensor.randn { 3, 5 - first, 32 }
      local results = {}
      for i, m in ipairs { blocks, plain } do
        local v = x:clone(true):requires_grad_(true)
        local y = m(v, first, context)
        ;(y * weights):sum():backward()
        results[i] = { y = y, x = v:grad() }
        for name, t in m:named_parameters() do results[i][name] = t:grad() end
      end
      for name, value in pairs(results[1]) do
        local other = results[2][name]
        -- a shift of all keys changes nothing without norm and rotation: its gradient is noise
        if not (name:find "qkv.bias" and not o.rope and not o.qk_norm) then
          lu.assertTrue(worst(value, other) < 4e-5 * math.max(1, other:abs():max():item()),
            ("%s of case %d"):format(name, k))
        end
      end
      local p = blocks:attention(tensor.randn { 2, 12, 32 })
      lu.assertAlmostEquals(p:sum(4):min():item(), 1, 1e-5)
      lu.assertEquals(worst(blocks:clone()(x, first, context), results[1].y), 0)
    end
  end
  -- the built-in encoder has them too
  local o = { rope = 100, qk_norm = true, swiglu = true, layer_scale = .1 }
  for name, value in pairs(SIZE) do o[name] = value end
  local built_in = jepa.encoder(o)
  o.grid = nil
  local own = nn.Encoder(o):copy_(built_in)
  local images, context2 = images_of(2), tensor.new(CONTEXT, "i32")
  lu.assertEquals(worst(own(images, context2), built_in(images, context2)), 0)
  lu.assertEquals(worst(own(images), built_in(images)), 0)
  lu.assertEquals(worst(own:blocks(images, 1)[1], built_in:blocks(images, 1)[1]), 0)
  lu.assertEquals(worst(own:attention(images), built_in:attention(images)), 0)
  fails("rope: heads are 6 wide, which does not divide by 4", function()
    nn.Blocks { width = 12, depth = 1, heads = 2, rope = 100, grid = 4 } end)
end

function tests.test_an_encoder_with_tokens()
  local e = nn.Encoder { width = 32, depth = 2, heads = 2, patch = 8, crop = 32, registers = 3,
    class_token = true, positions = "learned", stem = "conv" }
  local images, context = images_of(2), tensor.new(CONTEXT, "i32")
  lu.assertEquals(e(images):shape(), { 2, 16, 32 })
  lu.assertEquals(e(images, context):shape(), { 2, 3, 32 })
  lu.assertEquals(e:blocks(images, 2)[1]:shape(), { 2, 16, 32 })
  lu.assertEquals(e:attention(images, 1):shape(), { 2, 2, 16, 16 })
  lu.assertEquals(e.by_name.cls_token.tensor:shape(), { 1, 1, 32 })
  lu.assertEquals(e.by_name.register_tokens.tensor:shape(), { 1, 3, 32 })
  e(images, context):square():sum():backward()
  for name, t in e:named_parameters() do lu.assertNotNil(t:grad(), name) end
end

function tests.test_frozen_blocks_pass_gradients_on()
  local blocks = nn.Blocks { width = 16, depth = 1, heads = 2 }
  local x = tensor.randn { 2, 3, 16 }
  local _, free = (function()
    local v = x:clone(true):requires_grad_(true)
    blocks(v):square():sum():backward()
    return nil, v:grad():clone(true)
  end)()
  blocks:zero_grad()
  blocks:requires_grad_(false)
  local frozen = nn.Blocks({ width = 16, depth = 1, heads = 2 }):copy_(blocks):requires_grad_(false)
  local v = x:clone(true):requires_grad_(true)
  frozen(v):square():sum():backward()
  lu.assertEquals(worst(v:grad(), free), 0)
  for _, t in frozen:named_parameters() do lu.assertNil(t:grad()) end
end

function tests.test_names_and_kinds()
  local Net = nn.class("Net", function(self)
    self.cls_token = nn.parameter(tensor.zeros { 1, 1, 4 }, { decayed = false })
    self.body = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.BatchNorm1d(8))
    self.head = nn.Mlp(8, 16, 4)
    self.table = nn.buffer(tensor.new({ 1, 2 }, "i32"))
    self.plain = { 1, 2 }
  end)
  local net = Net()
  lu.assertEquals(names(net), "cls_token body.0.weight body.0.bias body.2.weight body.2.bias "
    .. "body.2.running_mean body.2.running_var head.fc1.weight head.fc1.bias head.fc2.weight "
    .. "head.fc2.bias table")
  lu.assertEquals(net.cls_token:shape(), { 1, 1, 4 })
  lu.assertEquals(net.table:totable(), { 1, 2 })
  local function kind(name) return { net.by_name[name].trained, net.by_name[name].decayed } end
  lu.assertEquals(kind "cls_token", { true, false })
  lu.assertEquals(kind "body.0.weight", { true, true })
  lu.assertEquals(kind "body.0.bias", { true, false })
  lu.assertEquals(kind "body.2.weight", { true, false })
  lu.assertEquals(kind "table", { false, false })
  lu.assertEquals(#net:parameters(), 9)
  lu.assertEquals(net:size(), 4 + 32 + 8 + 4 * 8 + 8 * 16 + 16 + 16 * 4 + 4 + 2)
  lu.assertIs(net:params(), net:params())
  local before = net:params()[1]
  net.more = nn.Linear(2, 2)
  lu.assertIs(net:params()[1], before)   -- optimizers know a parameter by its entry
  lu.assertEquals(#net:params(), 14)
  net.more = nil
  lu.assertEquals(#net:params(), 12)
  -- blocks below other names
  local Pred = nn.class("Pred", function(self)
    self.predictor_blocks = nn.Blocks { width = 8, depth = 1, heads = 1 }
    self.decoder = nn.Blocks { width = 8, depth = 1, heads = 1 }
  end)
  local pred = Pred()
  lu.assertNotNil(pred.by_name["predictor_blocks.0.mlp.fc2.bias"])
  lu.assertNotNil(pred.by_name["predictor_norm.weight"])
  lu.assertNotNil(pred.by_name["decoder.0.mlp.fc2.bias"])
  lu.assertNotNil(pred.by_name["decoder.norm.weight"])
  -- one tensor in two fields counts once, as in PyTorch
  local Tied = nn.class("Tied", function(self)
    self.a = nn.Linear(3, 3)
    self.b = self.a
  end)
  lu.assertEquals(names(Tied()), "a.weight a.bias")
end

function tests.test_what_is_wrong_is_said()
  local Net = nn.class("Net", function(self) self.fc = nn.Linear(3, 2) end)
  local net = Net()
  fails("Net has no method forward: write function Net:forward(x)", function() net(1) end)
  fails("nn.Linear(3, 2): 'x' is (4, 5), expected 3 values per row", function()
    net.fc(tensor.zeros { 4, 5 }) end)
  fails("nn.Linear: unknown option 'biass'; there are: bias, std", function()
    nn.Linear(3, 2, { biass = false }) end)
  fails("nn.Linear: outputs is nil, expected a whole number above 0", function() nn.Linear(3) end)
  fails("parameter: it is a number, expected a tensor", function() nn.parameter(3) end)
  fails("parameter: the tensor is i32, expected f32", function()
    nn.parameter(tensor.new({ 1 }, "i32")) end)
  fails("Net.fc is a module: assign", function() net.fc = 3 end)
  fails("Net.size: every module has a method of that name", function() net.size = 3 end)
  fails("load_state_dict: 'fc.bias' is (3), expected (2); missing: fc.weight; unexpected: fc.b",
    function()
      net:load_state_dict { ["fc.bias"] = tensor.zeros { 3 }, ["fc.b"] = tensor.zeros { 1 } }
    end)
  fails("nn.Blocks: width is nil, expected a number", function() nn.Blocks {} end)
  fails("blocks: width 12 does not divide by 5 heads", function()
    nn.Blocks { width = 12, depth = 1, heads = 5 } end)
end

function tests.test_copies_and_files()
  local folder = support.folder()
  local e = Encoder(SIZE)
  local copy = e:clone()
  lu.assertEquals(names(copy), names(e))
  copy.patch_embed.proj.bias:fill_(3)
  copy.by_name["blocks.1.mlp.fc1.bias"].tensor:fill_(3)
  lu.assertEquals(e.patch_embed.proj.bias:max():item(), 0)
  lu.assertEquals(e.by_name["blocks.1.mlp.fc1.bias"].tensor:max():item(), 0)
  local target = e:target()
  lu.assertFalse(target.training)
  lu.assertFalse(target.blocks.training)
  lu.assertEquals(worst(target(images_of(1)), e(images_of(1))), 0)
  for _, t in target:named_parameters() do lu.assertFalse(t:requires_grad()) end
  for _, t in e:named_parameters() do lu.assertTrue(t:requires_grad()) end

  local path = folder .. "/e.safetensors"
  lu.assertTrue(copy:save(path))
  lu.assertEquals(e:load(path), e)
  lu.assertEquals(e.patch_embed.proj.bias:max():item(), 3)
  local other = nn.Linear(2, 2)
  local none, message = other:load(path)
  lu.assertNil(none)
  lu.assertStrContains(message, "missing: bias, weight; unexpected: ")
  none, message = other:load(folder .. "/nothing")
  lu.assertNil(none)
  lu.assertStrContains(message, "nothing")
  local proj = nn.Conv2d(3, 32, 8)
  lu.assertIs(proj:load(path, { prefix = "patch_embed.proj." }), proj)
  lu.assertEquals(proj.bias:max():item(), 3)
  local values = e:state_dict()
  e:clone():load_state_dict(values)
  values["norm.bias"] = nil
  e:load_state_dict(values, false)
end

function tests.test_text()
  local net = nn.Sequential(nn.Linear(3, 10), nn.GELU(), nn.Dropout(.1))
  lu.assertEquals(tostring(net), "nn.Sequential(\n  (0): nn.Linear(3 -> 10)\n  (1): nn.GELU()\n"
    .. "  (2): nn.Dropout(p 0.1)\n), 40 parameters")
end

function tests.test_initial_values()
  tensor.manual_seed(4)
  local a, b = nn.Linear(64, 64), nn.Blocks { width = 64, depth = 1, heads = 1 }
  tensor.manual_seed(4)
  local c, d = nn.Linear(64, 64), nn.Blocks { width = 64, depth = 1, heads = 1 }
  lu.assertEquals(worst(a.weight, c.weight), 0)
  for i, p in ipairs(b:params()) do
    lu.assertEquals(worst(p.tensor, d:params()[i].tensor), 0)
  end
  local again = nn.Linear(64, 64)
  lu.assertTrue(worst(again.weight, a.weight) > .01)
  -- PyTorch's Linear: uniform up to 1 / sqrt(inputs), for the bias too
  for _, t in ipairs { a.weight, a.bias } do
    local top = t:abs():max():item()
    lu.assertTrue(top <= .125 and top > .11, tostring(top))
  end
  lu.assertAlmostEquals(a.weight:square():mean():sqrt():item(), .125 / math.sqrt(3), .002)
  -- timm's: normal, .02, biases 0
  local mlp = nn.Mlp(64, 256)
  lu.assertAlmostEquals(mlp.fc1.weight:square():mean():sqrt():item(), .02, .001)
  lu.assertEquals(mlp.fc1.bias:abs():max():item(), 0)
  lu.assertAlmostEquals(nn.Embedding(500, 20).weight:square():mean():item(), 1, .1)
end

function tests.test_layers()
  local x = tensor.randn({ 6, 3 }, { seed = 1 })
  local bn = nn.BatchNorm1d(3)
  local y = bn(x)
  lu.assertTrue(y:mean(1):abs():max():item() < 1e-6)
  lu.assertAlmostEquals(y:square():mean():item(), 1, 1e-3)
  lu.assertTrue(worst(bn.running_mean, x:mean(1) * .1) < 1e-6)
  bn:eval()
  local mean = bn.running_mean:clone()
  bn(x)
  lu.assertEquals(worst(mean, bn.running_mean), 0)
  lu.assertTrue(worst(nn.SiLU()(x), x * x:sigmoid()) < 1e-6)

  -- convolution by hand
  local conv = nn.Conv2d(2, 3, 3, { stride = 2, padding = 1 })
  local image = tensor.randn({ 1, 2, 5, 5 }, { seed = 2 })
  local out = conv(image)
  lu.assertEquals(out:shape(), { 1, 3, 3, 3 })
  local v, w, sum = image:totable(), conv.weight:totable(), conv.bias:totable()[2]
  for c = 1, 2 do
    for i = 1, 3 do
      for j = 1, 3 do   -- output row 1, column 2 (from 1): rows 0..2, columns 2..4
        local row = (v[1][c] or {})[i - 1]
        if row then sum = sum + w[2][c][i][j] * row[1 + j] end
      end
    end
  end
  lu.assertAlmostEquals(out:totable()[1][2][1][2], sum, 1e-5)

  local rows = nn.Embedding(5, 4)
  lu.assertEquals(rows(tensor.new({ { 1, 3 } }, "i32")):totable(),
    { { rows.weight:totable()[2], rows.weight:totable()[4] } })

  tensor.manual_seed(7, 3)
  local drop, path = nn.Dropout(.25), nn.DropPath(.5)
  local ones = tensor.ones { 40, 50 }
  local a, b = drop(ones), path(ones)
  lu.assertAlmostEquals(a:mean():item(), 1, .1)
  lu.assertAlmostEquals(a:max():item(), 1 / .75, 1e-6)
  for _, row in ipairs(b:totable()) do   -- a sequence as a whole
    for _, value in ipairs(row) do lu.assertEquals(value, row[1]) end
  end
  tensor.manual_seed(7, 3)
  lu.assertEquals(worst(drop(ones), a), 0)
  lu.assertEquals(worst(path(ones), b), 0)
  lu.assertIs(drop:eval()(ones), ones)
  lu.assertIs(path:eval()(ones), ones)
end

function tests.test_drop_path_of_blocks()
  local blocks = nn.Blocks { width = 8, depth = 3, heads = 1, drop_path = .9 }
  local x = tensor.randn({ 20, 2, 8 }, { seed = 1 })
  tensor.manual_seed(1)
  local a, b = blocks(x), blocks(x)
  lu.assertTrue(worst(a, b) > 0)
  tensor.manual_seed(1)
  lu.assertEquals(worst(blocks(x), a), 0)
  blocks:eval()
  lu.assertEquals(worst(blocks(x), blocks(x)), 0)
end

function tests.test_patches_positions_tokens()
  local images, context = images_of(2), tensor.new(CONTEXT, "i32")
  local o = { grid = 4, width = 16 }
  for _, embed in ipairs { nn.PatchEmbed { patch = 8, width = 16 },
      nn.PatchEmbed { patch = 8, width = 16, overlap = 2 },
      nn.ConvStem { patch = 8, width = 16 } } do
    for _, pos in ipairs { nn.SinCos(o), nn.Learned(o) } do
      local all, some = embed(images, nil, pos), embed(images, context, pos)
      lu.assertEquals(all:shape(), { 2, 16, 16 })
      lu.assertTrue(worst(all:gather(context), some) < 1e-5)
      lu.assertTrue(worst(all - embed(images), pos():expand(2, 16, 16)) < 1e-5)
      some:square():sum():backward()
      for name, t in embed:named_parameters() do lu.assertNotNil(t:grad(), name) end
      for _, t in pos:named_parameters() do
        local g = t:grad():abs():sum(3):totable()[1]
        for patch = 0, 15 do   -- only patches of a context have a gradient
          local used = ({ [0] = 1, 1, 1, 1, [5] = 1, [9] = 1 })[patch] == 1
          lu.assertEquals(g[patch + 1] > 0, used)
        end
      end
    end
  end
  -- an overlapping window at the border sees zeros, one of no overlap is the plain embedding
  local plain = nn.PatchEmbed { patch = 8, width = 16 }
  local conv = nn.Conv2d(3, 16, 8, { stride = 8 }):copy_(plain.proj)
  local y = conv(tensor.normalise(images)):reshape(2, 16, 16):transpose(2, 3)
  lu.assertTrue(worst(plain(images), y) < 1e-5)
  -- positions of another grid
  local pos = nn.SinCos { grid = 4, width = 16 }
  lu.assertTrue(worst(pos(3, 5), nn.SinCos({ grid = { 3, 5 }, width = 16 })()) == 0)
  fails("nn.Learned: images of 2 x 4 patches, but positions of 4 x 4", function()
    nn.Learned({ grid = 4, width = 16 })(2, 4) end)
  fails("nn.PatchEmbed: images of 30 x 32 are not whole patches of 8", function()
    plain(tensor.zeros({ 1, 30, 32, 3 }, "u8")) end)
  local tokens = nn.Tokens { count = 3, width = 16 }
  local z = tokens(y)
  lu.assertEquals(z:shape(), { 2, 19, 16 })
  lu.assertEquals(worst(z:narrow(2, 4, 16), y), 0)
  lu.assertEquals(worst(z:narrow(2, 1, 3), tokens:parameters()[1]:expand(2, 3, 16)), 0)
end

function tests.test_rope_turns_by_distance()
  -- products of turned queries and keys depend on the distance of their patches alone
  local rope = nn.Rope { grid = { 3, 4 }, width = 8 }
  local attention = nn.Attention(8, 1, { std = .3 })
  local r = rope()
  lu.assertEquals(r.cos:shape(), { 1, 12, 1, 4 })
  local x = tensor.randn({ 1, 1, 8 }, { seed = 3 }):expand(1, 12, 8):contiguous()
  -- equal values: any weights give them
  lu.assertTrue(worst(attention(x, r), attention(x)) < 1e-5)
  local q = tensor.randn({ 8 }, { seed = 4 }):totable()
  local k = tensor.randn({ 8 }, { seed = 5 }):totable()
  local cos, sin = r.cos:reshape(12, 4):totable(), r.sin:reshape(12, 4):totable()
  local function turned(v, patch)
    local t = {}
    for i = 1, 4 do
      local c, s = cos[patch + 1][i], sin[patch + 1][i]
      t[i], t[i + 4] = v[i] * c - v[i + 4] * s, v[i] * s + v[i + 4] * c
    end
    return t
  end
  local function dot(a, b)
    local sum = 0
    for i = 1, 8 do sum = sum + turned(q, a)[i] * turned(k, b)[i] end
    return sum
  end
  lu.assertAlmostEquals(dot(0, 5), dot(2, 7), 1e-5)    -- one row down, one column right
  lu.assertAlmostEquals(dot(4, 2), dot(8, 6), 1e-5)
  lu.assertTrue(math.abs(dot(0, 5) - dot(0, 6)) > 1e-3)
  -- tokens in front have no position; contexts choose rows
  local c = rope(tensor.new({ { { 5, 2 } } }, "i32"), 3)
  lu.assertEquals(c.cos:reshape(3, 4):totable(), { { 1, 1, 1, 1 }, cos[6], cos[3] })
  lu.assertEquals(c.sin:reshape(3, 4):totable(), { { 0, 0, 0, 0 }, sin[6], sin[3] })
end

-- Every ```lua of docs/nn.md runs by itself and says what the text block behind it says.
function tests.test_the_document()
  local file = assert(io.open "docs/nn.md")
  local text, count, folder = file:read "*a", 0, support.folder()
  file:close()
  for code, after in text:gmatch "\n```lua\n(.-)\n```\n()" do
    count = count + 1
    local path = ("%s/doc%d.lua"):format(folder, count)
    support.write(path, code .. "\n")
    local exit, said = support.run({ os.getenv "IJEPA_PROGRAM" or "build/ijepa", path },
      { merge = true, env = { NO_COLOR = 1 } })
    lu.assertEquals(exit, 0, said)
    lu.assertEquals((said:gsub("%s*$", "")), text:match("^\n```text\n(.-)\n```\n", after))
  end
  lu.assertEquals(count, 3)
end

-- Tensors in Lua: values and gradients of the ops against recorded ones
-- (tests/golden/ops.safetensors, made from PyTorch in double precision) and against differences,
-- views, and what misuse says.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local json = require "cjson.safe"
local tensor, device, optim = ijepa.tensor, ijepa.device, ijepa.optim
local C = F.C

local tests = {}
TestTensor = tests -- luacheck: ignore

local golden = assert(ijepa.checkpoint.load "tests/golden/ops.safetensors")
local function load(name)
  local shape = golden:info(name).shape
  return tensor.from_pointer((golden:data(name)), #shape > 0 and shape or { 1 })
end
local function close(t, name, tolerance)
  local want, n = load(name):read()
  local got = t:read()
  local worst, top = 0, 0
  for i = 0, n - 1 do
    worst, top = math.max(worst, math.abs(got[i] - want[i])), math.max(top, math.abs(want[i]))
  end
  lu.assertTrue(worst <= tolerance * math.max(top, 1), ("%s: off by %g"):format(name, worst))
end
-- y = f(inputs), compared, then its gradients for the recorded dy: float32 rounding of sums of a
-- few dozen terms, 2e-6
local function recorded(op, names, f)
  local inputs = {}
  for i, name in ipairs(names) do inputs[i] = load(op .. "." .. name):requires_grad_() end
  local y = f(unpack(inputs))
  close(y, op .. ".y", 2e-6)
  local loss = (y * load(op .. ".dy")):sum()
  loss:backward()
  for i, name in ipairs(names) do close(inputs[i]:grad(), op .. ".d" .. name, 2e-6) end
end

function tests.test_recorded_layer_norm()
  recorded("layernorm", { "x", "weight", "bias" },
    function(x, w, b) return x:layer_norm(w, b, 1e-6) end)
  recorded("layernorm_plain", { "x" }, function(x) return x:layer_norm(nil, nil, 1e-5) end)
end
function tests.test_recorded_gelu() recorded("gelu", { "x" }, function(x) return x:gelu() end) end
function tests.test_recorded_linear() recorded("linear", { "x", "weight", "bias" },
  function(x, w, b) return x:linear(w, b) end) end
function tests.test_recorded_attention() recorded("attention", { "qkv" },
  function(x) return x:attention(3) end) end
function tests.test_recorded_smooth_l1()
  recorded("smooth_l1", { "x", "target" }, function(x, y) return tensor.smooth_l1(x, y) end)
end
function tests.test_recorded_adamw()
  local settings = json.decode(golden:meta "adamw")
  local p = load("adamw.p0"):clone(true)
  local opt = optim.adamw {}
  opt:add(p, true)
  p:requires_grad_()
  for i, plan in ipairs(settings.plan) do
    (p * load("adamw.g" .. i)):sum():backward()    -- its gradient is g
    opt:step(plan)
    close(p, "adamw.p" .. i, 2e-7)
  end
  local m, v = opt:state(1)
  close(m, "adamw.m3", 1e-6)
  close(v, "adamw.v3", 1e-6)
end

function tests.test_matmul_topk_softmax_rows()
  local a, b = tensor.new { { 1, 2 }, { 3, 4 } }, tensor.new { { 5, 6 }, { 7, 8 } }
  lu.assertEquals(a:matmul(b):totable(), { { 19, 22 }, { 43, 50 } })
  lu.assertEquals(a:matmul(b, true):totable(), { { 26, 30 }, { 38, 44 } })
  lu.assertEquals(a:matmul(b, false, true):totable(), { { 17, 23 }, { 39, 53 } })
  lu.assertErrorMsgContains("matmul: (2, 2) and (3, 1) do not fit", a.matmul, a, tensor.zeros { 3 })
  local v, at = tensor.new { { 1, 5, 5, 2 }, { 9, 0 / 0, 7, 8 } }:topk(3)
  lu.assertEquals(v:totable(), { { 5, 5, 2 }, { 9, 8, 7 } })
  lu.assertEquals(at:totable(), { { 1, 2, 3 }, { 0, 3, 2 } })
  lu.assertErrorMsgContains("the 5 largest of 2", a.topk, a, 5)
  lu.assertEquals(tensor.new { { 0, 0 }, { -1e30, 0 } }:softmax():totable(),
    { { .5, .5 }, { 0, 1 } })
  lu.assertEquals(a:rows { 1, 0, 1 }:totable(), { { 3, 4 }, { 1, 2 }, { 3, 4 } })
  lu.assertErrorMsgContains("outside 0..1", a.rows, a, { 2 })
end

function tests.test_generator_is_pytorchs()
  local file = assert(io.open "tests/golden/rng.json")
  local all = json.decode(file:read "*a")
  file:close()
  local g = F.new "ij_mt"
  for _, s in ipairs(all) do
    C.ij_mt_init(g, s.seed)
    for _, v in ipairs(s.floats) do lu.assertEquals(tonumber(C.ij_mt_uniform(g)), v) end
    for _, r in ipairs(s.randint) do
      C.ij_mt_init(g, s.seed)
      for _, v in ipairs(r.values) do
        lu.assertEquals(tonumber(C.ij_mt_randint(g, r.low, r.high)), v)
      end
    end
  end
end

-- d f / d x along a random direction against a difference of f: 1e-2 of its size, as float32 loses
-- half its digits there
local function check_gradient(f, shape)
  local n, rng = 1, F.new "ij_rng"
  C.ij_rng_init(rng, 5, 1000, 0, n)
  for _, s in ipairs(shape) do n = n * s end
  local x0, v, buf = {}, {}, F.new("float[?]", n)
  for i = 1, n do x0[i], v[i] = C.ij_rng_normal(rng), C.ij_rng_normal(rng) end
  local function at(h)
    for i = 1, n do buf[i - 1] = x0[i] + h * v[i] end
    return tensor.from_pointer(buf, shape)
  end
  local x = at(0):requires_grad_()
  f(x):backward()
  local g, slope = x:grad():read(), 0
  for i = 1, n do slope = slope + g[i - 1] * v[i] end
  local h = 1e-2
  local difference = (f(at(h)):item() - f(at(-h)):item()) / (2 * h)
  lu.assertTrue(math.abs(slope - difference) <= 1e-2 * math.max(math.abs(slope), .1),
    ("%g against %g"):format(slope, difference))
end
function tests.test_gradients_of_the_rest()
  local other = tensor.new { { 1, -2, .5 }, { .3, 2, -1 } }
  local row, one = tensor.new { 2, -1, .7 }, tensor.new { 3 }
  for _, y in ipairs { other, row, one } do
    for _, op in ipairs { "__add", "__sub", "__mul", "__div" } do
      local f = getmetatable(y)[op]
      check_gradient(function(x) return (f(x, y) * f(x, y)):mean() end, { 2, 3 })
    end
  end
  check_gradient(function(x) return (x:mean(1) * x:mean(1)):sum() end, { 3, 4 })
  check_gradient(function(x) return (x:mean(2) * x:mean(2)):sum() end, { 3, 4, 2 })
  check_gradient(function(x) return (tensor.concat { x, x * 2 }:gelu()):sum() end, { 3, 4 })
  check_gradient(function(x) return tensor.cross_entropy(x, tensor.new({ 2, 0, -1 }, "i32"),
    .1) end, { 3, 4 })
  check_gradient(function(x) return (x:narrow(2, 2, 2):contiguous():gelu()):sum() end, { 3, 4 })
  check_gradient(function(x) return (
    x:transpose(1, 2):contiguous():reshape(6, 2) * 3):gelu():sum() end, { 3, 4 })
  check_gradient(function(x) return x:select(1, 2):gelu():sum() end, { 3, 4 })
  check_gradient(function(x)
    return (x:reshape(1, 3, 4):gather(tensor.new({ { { 2, 0, 2 } } }, "i32")):gelu()):sum()
  end, { 3, 4 })
  check_gradient(function(x) return (x:softmax() * tensor.new { 1, -2, 3, .5 }):sum() end, { 3, 4 })
  check_gradient(function(x) return (x:rows { 2, 0, 2 }:gelu()):sum() end, { 3, 4 })
  for form = 0, 3 do   -- each factor, as it is or stored transposed, alone and many at a time
    local ta, tb = form % 2 == 1, form >= 2
    local a, b = tensor.new { { 1, -2, .5 }, { .3, 2, -1 } },
      tensor.new { { 1, -1 }, { 2, .5 }, { -.7, 1 } }
    if ta then a = a:transpose(1, 2):contiguous() end
    if tb then b = b:transpose(1, 2):contiguous() end
    check_gradient(function(x) return x:matmul(b, ta, tb):gelu():sum() end, a:shape())
    check_gradient(function(x) return a:matmul(x, ta, tb):gelu():sum() end, b:shape())
    local many = tensor.new { 1, -2, .5, .3, 2, -1, 1, 1, .2, -.4, 2, 3 }:reshape(2, ta and 3 or 2,
      ta and 2 or 3)
    check_gradient(function(x) return many:matmul(x, ta, tb):gelu():sum() end,
      tb and { 2, 2, 3 } or { 2, 3, 2 })
  end
  check_gradient(function(x)
    local y = tensor.batch_norm(x, tensor.zeros { 4 }, tensor.zeros { 4 }, true)
    return (y * y * y):sum()
  end, { 5, 4 })
end

function tests.test_values_and_views()
  local t = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
  lu.assertEquals((t * 2 + 1):totable(), { { 3, 5, 7 }, { 9, 11, 13 } })
  lu.assertEquals((1 - t):select(1, 1):totable(), { 0, -1, -2 })
  lu.assertEquals(t[2]:totable(), { 4, 5, 6 })
  lu.assertEquals(t:transpose(1, 2):contiguous():totable(), { { 1, 4 }, { 2, 5 }, { 3, 6 } })
  lu.assertEquals(t:argmax(2):totable(), { 2, 2 })
  lu.assertEquals(t:argmax():totable(), { 5 })
  lu.assertEquals(t:to "bf16":to "f32":totable(), t:totable())
  local v = t:narrow(2, 2, 1)
  v:copy_(tensor.new { { 9 }, { 8 } })
  lu.assertEquals(t:totable(), { { 1, 9, 3 }, { 4, 8, 6 } })
end

function tests.test_misuse_is_said_at_the_callers_line()
  local t = tensor.new { { 1, 2 }, { 3, 4 } }
  local function says(text, f, ...)
    local ok, message = pcall(f, ...)
    lu.assertFalse(ok)
    lu.assertStrContains(message, text)
    lu.assertStrContains(message, "test_tensor.lua")
  end
  says("'w' is (1, 3), expected (any, 2)",
    function() return t:linear(tensor.new { { 1, 2, 3 } }) end)
  says("'index' is f32, expected i32",
    function() return t:reshape(1, 2, 2):gather(t:reshape(1, 2, 2)) end)
  says("patch 7 at position 1 is outside 0..1",
    function() return t:reshape(1, 2, 2):gather(tensor.new({ { { 7 } } }, "i32")) end)
  says("add: (2, 2) and (3) do not fit",
    function() return t + tensor.new { 1, 2, 3 } end)
  says("no dimension 3", function() return t:size(3) end)
  says("the loss has 4 elements", function() t:backward() end)
  says("reshape: (2, 2) does not fit (3)", function() return t:reshape(3) end)
  says("unknown dtype 'f64'", function() return tensor.empty({ 2 }, "f64") end)
end

function tests.test_tensors_of_two_devices_are_refused()
  local x = tensor.new { { 1, 2 }, { 3, 4 } }
  local w = ijepa.device.with("dry", function() return tensor.zeros { 2, 2 } end)
  for op, f in pairs { linear = function() return x:linear(w) end,
      add = function() return x + w end } do
    local ok, message = pcall(f)
    lu.assertFalse(ok)
    lu.assertStrContains(message, op .. ": '" .. (op == "linear" and "w" or "y")
      .. "' is on device 'dry', but 'x' is on '"
      .. ijepa.device.name() .. "': use tensors of one device")
    lu.assertStrContains(message, "test_tensor.lua")
  end
end

function tests.test_a_step_ends_its_tensors()
  local kept
  device.step(function() kept = tensor.new { 1, 2 } + 1 end)
  local ok, message = pcall(function() return kept + 1 end)
  lu.assertFalse(ok)
  lu.assertStrContains(message, "clone() it to keep it")
  lu.assertStrContains(tostring(kept), "its step has ended")
  device.step(function() kept = (tensor.new { 1, 2 } + 1):clone(true) end)
  lu.assertEquals(kept:totable(), { 2, 3 })
end

function tests.test_what_nobody_holds_is_freed_under_pressure()
  -- though Lua's collector sees small handles alone
  collectgarbage()
  C.ij_mem_peak_reset()
  local before = tonumber(C.ij_mem_live())
  local x = tensor.zeros { 256, 1024 }   -- 1 MiB
  for _ = 1, 1000 do x:gelu() end
  lu.assertTrue(tonumber(C.ij_mem_peak()) - before < 128 * 2 ^ 20)
end

function tests.test_no_gradient_where_none_is_wanted()
  local x = tensor.new({ 1, 2 }):requires_grad_()
  local y = device.no_grad(function() return (x * 2):sum() end)
  lu.assertFalse(y:requires_grad())
end

function tests.test_arguments_that_would_be_ignored_are_errors()
  local x = tensor.new { { 1, 2 }, { 3, 4 } }
  local function refused(part, f)
    local ok, message = pcall(f)
    lu.assertFalse(ok)
    lu.assertStrContains(message, part)
    lu.assertStrContains(message, "test_tensor.lua")
  end
  refused("exp: more arguments than it takes: x:exp()", function() return x:exp(1), 1 end)
  refused("softmax: more arguments than it takes: x:softmax(dim)",
    function() return x:softmax(1, 2), 1 end)
  refused("sum: more arguments than it takes: x:sum(dim, keepdim)",
    function() return x:sum(1, true, 3), 1 end)
  refused("sum: 'keepdim' is a number, expected a boolean",
    function() return x:sum(1, 1), 1 end)
  refused("cat: more arguments than it takes: cat(list, dim)",
    function() return tensor.cat({ x }, 1, 2), 1 end)
  refused("reshape: an argument after the list", function() return x:reshape({ 4 }, 1), 1 end)
  refused("zeros: more arguments than it takes", function()
    return tensor.zeros({ 2 }, "f32", true, 1), 1 end)
  refused("mse_loss: more arguments", function() return tensor.mse_loss(x, x, "sum"), 1 end)
  refused("flip: dimension 1 is given twice", function() return x:flip(1, -2), 1 end)
  refused("add: a tensor and a string cannot be combined", function() return x + "1", 1 end)
  refused("index 3 of dimension 1 is not in 1..2", function() return x[3], 1 end)
  refused("sum: no dimension 3 of 2", function() return x:sum(3), 1 end)
  refused("write x:lt(y)", function() return x < x, 1 end)
  refused("the gradient is x:grad()", function() return x.grad * 2, 1 end)
  lu.assertTrue((x:softmax(1):sum(1) - 1):abs():max():item() < 1e-6)
  lu.assertEquals(x:sum(1):totable(), { 4, 6 })
  lu.assertEquals(x:sum(1, true):totable(), { { 4, 6 } })
end

-- As in PyTorch: what a backward needs must be as it was, and no gradient is lost silently.
function tests.test_changes_in_place_and_lost_gradients_are_refused()
  local function refused(part, f)
    local ok, message = pcall(f)
    lu.assertFalse(ok)
    lu.assertStrContains(message, part)
    lu.assertStrContains(message, "test_tensor.lua")
  end
  local function leaf() return tensor.new({ 1, 2, 3 }):requires_grad_() end
  local function changed(f, change)
    local a, c = leaf(), leaf()
    local y = f(a, c)
    tensor.no_grad(function() change(a, c, y) end)
    y:sum():backward()
    return a:grad()
  end
  local function fill(x) return function(...) return (select(x, ...)):fill_(0) end end
  for op, f in pairs { mul = function(a, c) return a * c end, log = function(a) return a:log() end,
      max = function(a) return a:max() end, where = function(a, c)
        return tensor.where(a:gt(1), a, c) * a end } do
    refused("was changed in place", function() return changed(f, fill(1)), op end)
  end
  refused("'exp' needs was changed in place", function()
    return changed(function(a) return a:exp() end, fill(3)), 1 end)
  refused("'mul' needs was changed in place", function()
    return changed(function(a, c) return a * c end, function(_, c) c[1] = 100 end), 1 end)
  refused("'tensor.fn' needs was changed in place", function()
    local double = tensor.fn { forward = function(ctx, x) ctx.x = x return x * 2 end,
      backward = function(ctx, dy) return dy * ctx.x end }
    return changed(function(a) return double(a) end, fill(1)), 1 end)
  -- what backward does not read may change
  lu.assertEquals(changed(function(a, c) return a + c end, fill(1)):totable(), { 1, 1, 1 })
  lu.assertEquals(changed(function(a) return a * 3 end, fill(1)):totable(), { 3, 3, 3 })
  lu.assertEquals(changed(function(a) return a:sum() end, fill(1)):totable(), { 1, 1, 1 })
  lu.assertEquals(changed(function(a) return a:exp() end, fill(1)):totable(),
    leaf():exp():totable())
  local a, b = leaf(), tensor.zeros(3)
  refused("a result that has a gradient", function() (a * 2):fill_(0) end)
  refused("a result that has a gradient", function() (a * 2):copy_(b) end)
  refused("the gradient of (1) would be lost", function() b[1] = a:sum() end)
  refused("the gradient of (2) would be lost", function() b[b:eq(0)] = a[{ { 1, 2 } }] end)
  refused("the gradient of (3) would be lost", function() b:copy_(a) end)
  refused("the gradient of (3) would be lost", function() b:add_(a) end)
  refused("to 'bf16': the gradient", function() return a:to "bf16", 1 end)
  local square = (a:reshape(3, 1) * a:reshape(1, 3))
  for _, name in ipairs { "svd", "eigh", "qr" } do
    refused(name .. ": the gradient", function() return ijepa.linalg[name](square), 1 end)
  end
  tensor.no_grad(function() b:copy_(a) end)
  lu.assertEquals(b:totable(), { 1, 2, 3 })
end

-- Values as PyTorch 2.9 gives them.
function tests.test_values_at_the_edge()
  local inf = math.huge
  lu.assertEquals(tensor.new({ { -inf, -inf }, { inf, 1 } }):logsumexp(2):totable(), { -inf, inf })
  local function slope(x, f)
    x:requires_grad_()
    f(x):sum():backward()
    return x:grad():totable()
  end
  local zero = { 0, 0, 0 }
  lu.assertEquals(slope(tensor.zeros(3), function(x) return x:norm() end), zero)
  lu.assertEquals(slope(tensor.zeros(3), function(x) return x:norm(3) end), zero)
  lu.assertEquals(slope(tensor.ones(3), function(x) return x:std() end), zero)
  lu.assertEquals(slope(tensor.ones(2, 3), function(x) return x:std(2, true) end), { zero, zero })
  lu.assertEquals(slope(tensor.new { 3, 4 }, function(x) return x:norm() end),
    tensor.new({ .6, .8 }):totable())
  lu.assertEquals(tensor.new({ 0, 2, -3 }):norm(0):item(), 2)
  lu.assertEquals(tensor.new({ 1, 2, -3 }):norm(-inf):item(), 1)
  local both = tensor.cat { tensor.new({ 1, 2 }, "i32"), tensor.new { .5 } }
  lu.assertEquals({ both:dtype(), both:totable() }, { "f32", { 1, 2, .5 } })
  for part, f in pairs {
    ["did you mean 'shape'?"] = function() return both.sahpe, 1 end,
    ["write x:requires_grad_()"] = function() both.requires_grad = true end,
    ["not a boolean"] = function() return both[true], 1 end,
    ["a step of -1 does not lead from 0 to 5"] = function() return tensor.arange(0, 5, -1), 1 end,
    ["300 is not a value of u8"] = function() return tensor.new({ 300 }, "u8"), 1 end,
    ["nan is not a value of i32"] = function() return tensor.full({ 1 }, 0 / 0, "i32"), 1 end,
    ["'smoothing' is a string"] = function() return tensor.cross_entropy(both, both, "x"), 1 end,
    ["'beta' is a string"] = function() return tensor.smooth_l1(both, both, "x"), 1 end } do
    local ok, message = pcall(f)
    lu.assertFalse(ok)
    lu.assertStrContains(message, part)
    lu.assertStrContains(message, "test_tensor.lua")
  end
end

function tests.test_backwards_one_after_another()
  local function refused(f)
    local ok, message = pcall(f)
    lu.assertFalse(ok)
    lu.assertStrContains(message, "retain = true")
    lu.assertStrContains(message, "test_tensor.lua")
  end
  local a = tensor.new({ 1, 2 }):requires_grad_()
  local y = (a * a):sum()
  y:backward()
  refused(function() y:backward() end)
  local h = a * 2
  local one, two = h:sum(), (h * h):sum()
  one:backward()
  refused(function() two:backward() end)
  -- losses that share no op have backwards of their own, also through functions of one's own
  local double = tensor.fn { forward = function(_, x) return x * 2 end,
    backward = function(_, dy) return dy * 2 end }
  local b, c = tensor.new({ 1, 2 }):requires_grad_(), tensor.new({ 3, 4 }):requires_grad_()
  local first, second = (double(b) * b):sum(), (double(c) * c):sum()
  second:backward()
  first:backward()
  lu.assertEquals(b:grad():totable(), { 4, 8 })
  lu.assertEquals(c:grad():totable(), { 12, 16 })
  local kept = (a * a):sum()
  a:grad():fill_(0)
  kept:backward { retain = true }
  kept:backward()
  lu.assertEquals(a:grad():totable(), { 4, 8 })
  refused(function() kept:backward() end)
end

-- Bits that LuaJIT would take for a value of another type.
function tests.test_every_nan_reads_as_a_number()
  local x = tensor.zeros { 2 }
  local bits = F.new("uint32_t[2]", { 0xffffffff, 0xfffa0000 })
  F.check(C.ij_tensor_write(x.h, bits, 8))
  local function is_nan(v) return type(v) == "number" and v ~= v end
  local values = x:read()
  lu.assertTrue(is_nan(values[0]) and is_nan(values[1]))
  lu.assertTrue(is_nan(x:narrow(1, 1, 1):item()))
  lu.assertTrue(is_nan(x:totable()[2]))
  lu.assertTrue(is_nan(x:narrow(1, 2, 1):clone():item_later():get()))
  local norm, finite = tensor.norm { x }
  lu.assertTrue(is_nan(norm))
  lu.assertFalse(finite)
end

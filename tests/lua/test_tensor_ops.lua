-- Every op with a gradient under its PyTorch name: values and gradients against PyTorch's
-- (tests/golden/tensor.safetensors, made by tensor.py, which lists the same cases).
local lu = require "luaunit"
local ijepa = require "ijepa"
local tensor = ijepa.tensor

local tests = {}
TestTensorOps = tests -- luacheck: ignore

local golden = assert(ijepa.tensors.open "tests/golden/tensor.safetensors")
local function recorded(name)
  local info = assert(golden:info(name), name)
  local t = tensor.zeros(#info.shape > 0 and info.shape or { 1 })
  assert(golden:load(name, t))
  return t
end

-- Of float32 arithmetic on values near 1; products and powers lose a little more.
local TOLERANCE = 3e-6

local index = tensor.new({ { 0, 2, 1, 1 }, { 2, 2, 0, 1 } }, "i32")
local long = tensor.new({ 2, 0, 0 }, "i32")
local target = tensor.new({ 1, 3, 0 }, "i32")
local mask = recorded "in.x":gt(.1)

local CASES = {   -- name -> { inputs, f }
  pow_number = { "p", function(x) return x ^ 1.7 end },
  number_pow = { "x", function(x) return 2.5 ^ x end },
  pow = { "p y", function(x, y) return x ^ y end },
  clamp = { "x", function(x) return x:clamp(-.5, .7) end },
  add_row = { "x r", function(x, r) return x + r end },
  sub_column = { "x c", function(x, c) return x - c end },
  mul_3d = { "b c", function(b, c) return b * c end },
  div = { "x c", function(x, c) return x / c end },
  number_minus = { "x", function(x) return 3 - x end },
  number_over = { "p", function(x) return 2 / x end },
  minimum = { "x y", function(x, y) return x:minimum(y) end },
  maximum = { "x r", function(x, r) return x:max(r) end },
  where = { "x y", function(x, y) return tensor.where(mask, x, y) end },
  masked_fill = { "x", function(x) return x:masked_fill(mask, .25) end },
  masked_select = { "x", function(x) return x[mask] end },
  sum_13 = { "b", function(x) return x:sum { 1, 3 } end },
  var_biased = { "b", function(x) return x:var(-1, true, 0) end },
  norm = { "x", function(x) return x:norm() end },
  norm_1 = { "x", function(x) return x:norm(1, 2) end },
  norm_3 = { "x", function(x) return x:norm(3, 1) end },
  max = { "x", function(x) return x:max() end },
  min_2 = { "x", function(x) return (x:min(2)) end },
  amax_keep = { "b", function(x) return x:amax({ 1, 3 }, true) end },
  cumsum_1 = { "x", function(x) return x:cumsum(1) end },
  cumsum_2 = { "b", function(x) return x:cumsum(2) end },
  logsumexp = { "x", function(x) return x:logsumexp(2) end },
  logsumexp_keep = { "b", function(x) return x:logsumexp(1, true) end },
  sort_1 = { "x", function(x) return (x:sort(1)) end },
  sort_desc = { "b", function(x) return (x:sort(2, true)) end },
  topk = { "x", function(x) return (x:topk(2)) end },
  topk_smallest = { "b", function(x) return (x:topk(2, 2, false)) end },
  cat_1 = { "x r", function(x, r) return tensor.cat { x, r:unsqueeze(1), x } end },
  cat_2 = { "x c", function(x, c) return tensor.cat({ x, c }, 2) end },
  stack_2 = { "x y", function(x, y) return tensor.stack({ x, y }, 2) end },
  split = { "b", function(b) return b:split(2, 2)[2] end },
  chunk = { "x", function(x) return x:chunk(2, 2)[2] end },
  permute = { "b", function(b) return b:permute(3, 1, 2) * 1 end },
  t = { "x", function(x) return x:t() * 1 end },
  squeeze = { "c", function(c) return c:squeeze(2) end },
  unsqueeze = { "x", function(x) return x:unsqueeze(2) end },
  flatten = { "b", function(b) return b:flatten(2) end },
  expand = { "c", function(c) return c:expand(2, 3, 4) * 1 end },
  tile = { "x", function(x) return x:tile(2, 1, 2) end },
  flip = { "b", function(b) return b:flip(2, 3) end },
  roll = { "x", function(x) return x:roll(1, 2) end },
  unfold = { "x", function(x) return x:unfold(2, 2, 1) end },
  narrow = { "b", function(b) return b:narrow(2, 2, 2) * 1 end },
  select = { "b", function(b) return b:select(2, 2) * 1 end },
  bracket = { "b", function(b) return b[{ 2, { 1, 2 } }] * 1 end },
  index_select = { "x", function(x) return x:index_select(2, long) end },
  gather = { "x", function(x) return x:gather(1, index) end },
  scatter_add = { "x y", function(x, y) return x:scatter_add(1, index, y:narrow(1, 1, 2)) end },
  matmul = { "x m", function(x, m) return x:matmul(m) end },
  matmul_batch = { "b m", function(b, m) return b:matmul(m) end },
  matmul_vector = { "x v", function(x, v) return x:matmul(v) end },
  dot = { "r v", function(r, v) return r:dot(v) end },
  outer = { "r v", function(r, v) return r:outer(v) end },
  einsum = { "b x", function(b, x) return tensor.einsum("aij,kj->ika", b, x) end },
  einsum_batch = { "b x", function(b, x) return tensor.einsum("aij,ij->ai", b, x) end },
  linear = { "x m", function(x, m) return x:linear(m:t():contiguous()) end },
  conv2d = { "i w", function(i, w) return i:conv2d(w, nil, 2, 1) end },
  avg_pool2d = { "i", function(i) return i:avg_pool2d(2) end },
  interpolate = { "i", function(i) return i:interpolate { 9, 4 } end },
  interpolate_bicubic = { "i", function(i) return i:interpolate({ 4, 8 }, "bicubic") end },
  interpolate_nearest = { "i", function(i) return i:interpolate({ 3, 9 }, "nearest") end },
  softmax = { "x", function(x) return x:softmax(2) end },
  softmax_1 = { "b", function(x) return x:softmax(1) end },
  log_softmax = { "b", function(x) return x:log_softmax(2) end },
  layer_norm = { "x", function(x) return x:layer_norm() end },
  normalize = { "x", function(x) return x:normalize(2) end },
  cosine_similarity = { "x y", function(x, y) return x:cosine_similarity(y, 2) end },
  mse_loss = { "x y", tensor.mse_loss }, l1_loss = { "x y", tensor.l1_loss },
  smooth_l1 = { "x y", tensor.smooth_l1 },
  cross_entropy = { "x", function(x) return tensor.cross_entropy(x, target) end },
  bce = { "q", function(q) return tensor.bce(q, mask:to "f32") end },
  bce_logits = { "x", function(x) return tensor.bce_logits(x, mask:to "f32") end },
  kl_div = { "x q", function(x, q) return tensor.kl_div(x:log_softmax(2), q / q:sum(2, true)) end },
}
for name in ("exp sin cos tanh sigmoid erf abs neg square expm1 silu gelu relu sign floor round "
    .. "ceil"):gmatch "%a+[%w]*" do
  CASES[name] = { "x", function(x) return x[name](x) end }
end
for name in ("log sqrt rsqrt log1p reciprocal"):gmatch "%w+" do
  CASES[name] = { "p", function(x) return x[name](x) end }
end
for name in ("sum mean prod"):gmatch "%w+" do
  CASES[name] = { "x", function(x) return x[name](x) end }
  CASES[name .. "_1"] = { "b", function(x) return x[name](x, 1) end }
  CASES[name .. "_2_keep"] = { "b", function(x) return x[name](x, 2, true) end }
end
for name in ("var std"):gmatch "%w+" do
  CASES[name] = { "x", function(x) return x[name](x) end }
  CASES[name .. "_2"] = { "b", function(x) return x[name](x, 2) end }
end

-- The largest difference, relative to the largest recorded value where that is above 1.
local function difference(a, b)
  lu.assertEquals(a:shape(), b:shape())
  local x, n = a:read()
  local y, most, scale = b:read(), 0, 1
  for i = 0, n - 1 do
    most, scale = math.max(most, math.abs(x[i] - y[i])), math.max(scale, math.abs(y[i]))
  end
  return most / scale
end

function tests.test_values_and_gradients_are_those_of_pytorch()
  local seen = {}
  for _, name in ipairs(golden:names()) do
    local case = name:match "^(.*)%.y$"
    if case and not name:find "^in%." then seen[#seen + 1] = case end
  end
  table.sort(seen)
  lu.assertTrue(#seen > 90)
  local wrong = {}
  for _, name in ipairs(seen) do
    local case, inputs = CASES[name], {}
    lu.assertNotNil(case, name)
    for input in case[1]:gmatch "%a+" do
      inputs[#inputs + 1] = recorded("in." .. input):requires_grad_()
    end
    local ok, why = pcall(function()
      local y = case[2](unpack(inputs))
      local worst = difference(y, recorded(name .. ".y"))
      if worst > TOLERANCE then
        wrong[#wrong + 1] = ("%s: value off by %.2g"):format(name, worst)
      end
      local weight = {}
      for i = 1, y:numel() do weight[i] = math.cos(i - 1) end
      if not y:requires_grad() then return end   -- of floor and the like nothing depends on x
      (y * tensor.new(weight):reshape(y:shape())):sum():backward()
      for i, x in ipairs(inputs) do
        local expected = recorded(("%s.d%d"):format(name, i - 1))
        local g = x:grad() or x:zeros_like()
        worst = difference(g, expected)
        if worst > TOLERANCE then
          wrong[#wrong + 1] = ("%s: gradient %d off by %.2g"):format(name, i, worst)
        end
      end
    end)
    if not ok then
      why = type(why) == "table" and (why.msg or "shape") or why
      wrong[#wrong + 1] = ("%s: %s"):format(name, why)
    end
  end
  lu.assertEquals(wrong, {})
end

-- Eigenvalues, solutions and covariances against what defines them.
local lu = require "luaunit"
local ijepa = require "ijepa"
local tensor, linalg = ijepa.tensor, ijepa.linalg

local tests = {}
TestLinalg = tests -- luacheck: ignore

-- A tall matrix of uncorrelated noise, scaled by column.
local function tall(rows, columns)
  local values, seed = {}, 1
  for i = 1, rows * columns do
    seed = seed * 16807 % 2147483647
    values[i] = (seed / 2147483647 - .5) * (1 + (i - 1) % columns)
  end
  return tensor.new(values):reshape(rows, columns)
end
local function worst(a, b)
  local x, y, most = a:read(), b:read(), 0
  for i = 0, a:numel() - 1 do most = math.max(most, math.abs(x[i] - y[i])) end
  return most
end

function tests.test_eigh_rebuilds_the_matrix()
  local c = linalg.covariance(tall(50, 7))
  local values, vectors = linalg.eigh(c, true)
  for i = 2, 7 do lu.assertTrue(values[i] <= values[i - 1]) end
  local scaled = vectors:transpose(1, 2):clone() * tensor.new(values)   -- V diag(w)
  -- float32 vectors of a matrix of size 5: rounding 6e-8 * 5 * a few terms
  lu.assertTrue(worst(scaled:linear(vectors:transpose(1, 2):clone()), c) < 3e-6)
  -- another algorithm
  for i, v in ipairs(linalg.eigh(c)) do lu.assertAlmostEquals(v, values[i], 1e-12) end
end

function tests.test_covariance_of_known_rows()
  local c, mean = linalg.covariance(tensor.new({ 1, 2, 3, 6, 5, 4 }):reshape(3, 2))
  lu.assertEquals(mean:totable(), { 3, 4 })
  lu.assertTrue(worst(c, tensor.new({ 8 / 3, 4 / 3, 4 / 3, 8 / 3 }):reshape(2, 2)) < 1e-6)
end

function tests.test_solve()
  local a, want = linalg.gram(tall(40, 6)), tall(6, 3)
  local b = a:linear(want:transpose(1, 2):clone())
  -- condition below 100, sums of 40 terms in float32
  lu.assertTrue(worst(linalg.cholesky_solve(a, b), want) < 1e-4)
  local x, message = linalg.cholesky_solve(tensor.new({ 1, 2, 2, 1 }):reshape(2, 2),
    tensor.new({ 1, 1 }):reshape(2, 1))
  lu.assertNil(x)
  lu.assertStrContains(message, "not positive definite (row 2)")
end

function tests.test_misuse_is_named()
  lu.assertErrorMsgContains("2 x 3 is not square", linalg.eigh, tall(2, 3))
  lu.assertErrorMsgContains("a is 3 x 3 and b is 2 x 1", linalg.solve, tall(3, 3), tall(2, 1))
  lu.assertErrorMsgContains("not finite", linalg.eigh, tensor.new { 1 / 0 }:reshape(1, 1))
  lu.assertErrorMsgContains("expected a matrix", linalg.eigh, tensor.new { 1, 2 })
end

local function near(a, b, tolerance)
  lu.assertEquals(a:shape(), b:shape())
  lu.assertTrue((a - b):abs():max():item() < (tolerance or 1e-5))
end

function tests.test_factors_give_the_matrix_again()
  tensor.manual_seed(3)
  for _, shape in ipairs { { 5, 3 }, { 3, 5 }, { 4, 4 } } do
    local x = tensor.randn(shape)
    local k = math.min(shape[1], shape[2])
    local q, r = linalg.qr(x)
    near(q:matmul(r), x)
    near(q:t():matmul(q), tensor.eye(k))
    lu.assertEquals(r[{ k, 1 }]:item(), k > 1 and 0 or r[{ 1, 1 }]:item())
    local u, s, vh = linalg.svd(x)
    near((u * s):matmul(vh), x)
    near(vh:matmul(vh:t()), tensor.eye(k))
    lu.assertTrue(s[1]:item() >= s[k]:item())
  end
  local x = tensor.randn(4, 4)
  local spd = x:matmul(x:t()) + tensor.eye(4)
  local l = linalg.cholesky(spd)
  near(l:matmul(l:t()), spd, 1e-4)
  lu.assertEquals(l[{ 1, 4 }]:item(), 0)
  local b = tensor.randn(4, 2)
  near(x:matmul(assert(linalg.solve(x, b))), b, 1e-4)
  local none, why = linalg.solve(tensor.zeros(2, 2), tensor.zeros(2, 1))
  lu.assertNil(none)
  lu.assertStrContains(why, "singular")
  none, why = linalg.cholesky(tensor.new { { 1, 2 }, { 2, 1 } })
  lu.assertNil(none)
  lu.assertStrContains(why, "not positive definite")
end

-- Gradients as PyTorch 2.15 gives them, to the four digits that it prints.
function tests.test_gradients()
  local a = tensor.new { { 4, 1, .5 }, { .3, 5, -1 }, { 1, -.2, 3 } }
  local s = tensor.new { { 4, 1, .5 }, { 1, 5, -1 }, { .5, -1, 3 } }
  local w = tensor.new { { .3, -1 }, { 2, .7 }, { -.4, 1 } }
  local square = tensor.new { { .3, -1, 2 }, { 2, .7, 1 }, { -.4, 1, .2 } }
  local function grads(f, weights, ...)
    local list = {}
    for i = 1, select("#", ...) do list[i] = (select(i, ...)):clone():requires_grad_() end
    (f(unpack(list)) * weights):sum():backward()
    for i, t in ipairs(list) do list[i] = t:grad() end
    return unpack(list)
  end
  local b = tensor.new { { 1, 2 }, { -1, .5 }, { 2, 1 } }
  local da, db = grads(linalg.solve, w, a, b)
  near(da, tensor.new { { .1637, .0476, .0451 }, { -.1836, .0100, -.2768 },
    { -.2114, -.0542, -.0844 } }, 6e-5)
  near(db, tensor.new { { .0486, -.3869 }, { .3898, .2364 }, { -.0115, .4766 } }, 6e-5)
  da, db = grads(linalg.cholesky_solve, w, s, b)
  near(da, tensor.new { { .1819, -.1024, -.0507 }, { -.1024, .0288, -.1815 },
    { -.0507, -.1815, -.1460 } }, 6e-5)
  near(db, tensor.new { { -.0276, -.3931 }, { .4069, .3197 }, { .0069, .5054 } }, 6e-5)
  near(grads(linalg.cholesky, square, s), tensor.new { { -.0077, .4149, -.1686 },
    { .4149, .2184, .2439 }, { -.1686, .2439, .0612 } }, 6e-5)
end

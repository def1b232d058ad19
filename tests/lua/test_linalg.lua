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
  lu.assertTrue(worst(linalg.solve(a, b), want) < 1e-4)
  local x, message = linalg.solve(tensor.new({ 1, 2, 2, 1 }):reshape(2, 2),
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

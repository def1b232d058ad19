--- Ridge regression on one-hot classes, in closed form: no learning rate, no epochs, the same
--- result every time. One Gram matrix and one eigendecomposition serve every lambda.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local linalg = require "ijepa.tensor.linalg"
local features = require "ijepa.probe.features"
local score = require "ijepa.probe.score"

local ridge = {}

--- The decomposition of the rows of f that serves any lambda. After standardisation with mean and
--- var (W) the covariance is V^T diag(values) V; `turned` (W, n) is V times the mean rows of the
--- classes; `frequency` (n) holds the frequencies of the classes.
---@param f ijepa.features
---@return table
function ridge.decompose(f)
  local R, W, n = f.x:size(1), f.x:size(2), #f.classes
  local mean, var = tensor.zeros({ W }, "f32", true), tensor.zeros({ W }, "f32", true)
  local labels, sums, frequency = f.y:read(), F.new("double[?]", W * n), {}
  local values, vectors, turned
  device.step(function() device.no_grad(function()
    tensor.batch_norm(f.x, mean, var, true, 1, 1e-6)
    -- as in tests: with the unbiased variance
    local x = tensor.batch_norm(f.x, mean, var, false, 0, 1e-6)
    local v = x:read()
    for c = 1, n do frequency[c] = 0 end
    for r = 0, R - 1 do
      local c = labels[r]
      frequency[c + 1] = frequency[c + 1] + 1 / R
      for i = 0, W - 1 do sums[i * n + c] = sums[i * n + c] + v[r * W + i] end
    end
    local means = F.new("float[?]", W * n)
    for i = 0, W * n - 1 do means[i] = sums[i] / R end
    values, vectors = linalg.eigh(linalg.gram(x) * (1 / R), true)
    turned = vectors:matmul(tensor.from_pointer(means, { W, n })):clone(true)
  end) end)
  return { mean = mean, var = var, values = values, vectors = vectors, turned = turned,
    frequency = tensor.new(frequency) }
end

--- Predictions (R, n) for features x (R, W).
---@param fit table of ridge.decompose
---@param x ijepa.tensor
---@param lambda number
---@return ijepa.tensor
function ridge.predict(fit, x, lambda)
  local scale = {}
  for i, v in ipairs(fit.values) do scale[i] = 1 / (math.max(v, 0) + lambda) end
  local turned = tensor.batch_norm(x, fit.mean, fit.var, false, 0, 1e-6):linear(fit.vectors)
  return (turned * tensor.new(scale)):matmul(fit.turned) + fit.frequency
end

--- The ridge probe: a held-out tenth of the training rows chooses lambda (with too few rows: the
--- one in the middle of the list), then all rows are fitted with it.
---@param train ijepa.features
---@param test ijepa.features
---@param o { lambda: number[]?, seed: integer?, per_class: boolean? }? lambda: on features of
--- variance 1
---@return table result of score, with lambda, held (accuracy on the held-out rows, %) and sweep: {
--- lambda, held }[]
local function run(train, test, o)
  o = o or {}
  local ok, message = features.fit(train, test)
  if not ok then F.raise("ridge: " .. message) end
  local lambdas, R, held = o.lambda or { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 }, train.x:size(1),
    features.held(train)
  for _, l in ipairs(lambdas) do
    if not (l > 0) then F.raise(("ridge: lambda is %g, expected more than 0"):format(l)) end
  end
  local best, sweep = { lambda = lambdas[math.ceil(#lambdas / 2)] }, {}
  if held > 0 then
    local order = features.shuffled(R, o.seed)
    local function part(from, count)
      return features.rows(train, tensor.from_pointer(order + from, { count }, "i32"))
    end
    local fit, rest = ridge.decompose(part(held, R - held)), part(0, held)
    local labels = rest.y:read()
    for i, lambda in ipairs(lambdas) do
      local s = score.new(train.classes)
      device.step(function() device.no_grad(function() s:add(ridge.predict(fit, rest.x, lambda),
        labels) end) end)
      sweep[i] = { lambda = lambda, held = s:result().top1 }
      if not best.held or sweep[i].held > best.held then best = sweep[i] end
    end
  end
  local fit = ridge.decompose(train)
  local result = score.of(function(from, m) return ridge.predict(fit, test.x:narrow(1, from + 1, m),
    best.lambda) end, test, o)
  result.lambda, result.held, result.sweep = best.lambda, best.held, sweep
  return result
end

return setmetatable(ridge, { __call = function(_, train, test, o) return run(train, test, o) end })

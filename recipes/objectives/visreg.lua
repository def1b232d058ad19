-- VISReg (arXiv 2606.02572): views agree, each dimension of their embeddings spreads by 1, and the
-- standardised embeddings are near a normal distribution in the sliced Wasserstein distance. Its
-- gradient does not vanish where features have collapsed.
local ijepa = require "ijepa"
local nn, tensor = ijepa.nn, ijepa.tensor
local SLICES, HIDDEN, OUT = 256, 512, 64      -- directions per step; widths of the projector
local AGREEMENT, SPREAD, DISTANCE = 1, 1, 1   -- weights

-- Quantiles of the normal distribution at (i + .5) / N: (N, 1), by Newton's method on its integral,
-- a series.
local function quantiles(N)
  local list = {}
  for i = 0, N - 1 do
    local p, x = (i + .5) / N - .5, 0
    for _ = 1, 60 do
      local term, sum, k = x, x, 1
      while math.abs(term) > 1e-12 and k < 400 do
        term = term * x * x / (2 * k + 1)
        sum, k = sum + term, k + 1
      end
      local density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
      x = x - math.max(-.5, math.min(.5, (sum * density - p) / density))
    end
    list[i + 1] = { x }
  end
  return tensor.new(list)
end

--- Spread and distance of z (N, K) along the columns of a (K, S).
local function visreg(z, a)
  local centred = z - z:mean(1, true)
  local sigma = (centred:square():mean(1, true) + 1e-6):sqrt()                     -- (1, K)
  local x = (centred / sigma):matmul(a):sort(1)                                   -- (N, S)
  return (1 - sigma):square():mean(), (x - quantiles(z:size(1))):square():mean()
end

local function modules(t)
  return { projector = nn.Sequential { nn.Linear(t.encoder.width, HIDDEN),
    nn.BatchNorm1d(HIDDEN), nn.GELU(), nn.Linear(HIDDEN, OUT) } }
end

local function loss(t, batch)
  local views = {}
  for _, images in ipairs(batch.views) do
    local z = t.modules.projector(t.encoder(images):mean(2))
    for _, view in ipairs(z:split(batch.count, 1)) do views[#views + 1] = view end
  end
  local all = tensor.stack(views, 1)                                               -- (V, B, K)
  local agreement = (all - all:mean(1, true)):square():mean()
  local a = tensor.randn({ OUT, SLICES }, { seed = t.config.seed, step = batch.step }):normalize(1)
  local spread, distance = visreg(all:reshape(-1, OUT), a)
  return agreement * AGREEMENT + spread * SPREAD + distance * DISTANCE,
    { agreement = agreement, spread = spread, distance = distance }
end

return { modules = modules, loss = loss, target = "none", masks = false, predictor = false,
  functions = { visreg = visreg } }

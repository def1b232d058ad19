-- LeJEPA (Balestriero and LeCun, 2025, arXiv 2511.08544): views of an image agree, and SIGReg makes
-- the embeddings of each view normally distributed, so that they can't collapse. No masks, no
-- predictor, no target encoder. Best with several views: setting data.views.
local ijepa = require "ijepa"
local nn, tensor = ijepa.nn, ijepa.tensor
local WEIGHT, SLICES = .05, 256          -- of SIGReg; directions per step
local HIDDEN, OUT = 512, 64              -- widths of the projector

-- Points t_j = 3 j / 16 of the characteristic function (17, 1, 1), its value phi (17, 1) for a
-- normal distribution, and the weights of the integral times phi (17, 1).
local points, phi, weights = {}, {}, {}
for j = 0, 16 do
  local t, dt = 3 * j / 16, 3 / 16
  points[j + 1], phi[j + 1] = { { t } }, { math.exp(-t * t / 2) }
  weights[j + 1] = { (j % 16 == 0 and dt or 2 * dt) * phi[j + 1][1] }
end

--- The Epps-Pulley statistic of z (N, K) along the columns of a (K, S): N times their mean.
local function sigreg(z, a)
  local x = (z:matmul(a)):unsqueeze(1) * tensor.new(points)                       -- (17, N, S)
  local re, im = x:cos():mean(2) - tensor.new(phi), x:sin():mean(2)                -- (17, S)
  return ((re:square() + im:square()) * tensor.new(weights)):sum(1):mean() * z:size(1)
end

local function modules(t)
  return { projector = nn.Sequential { nn.Linear(t.encoder.width, HIDDEN),
    nn.BatchNorm1d(HIDDEN), nn.GELU(), nn.Linear(HIDDEN, OUT) } }
end

local function loss(t, batch)
  local views = {}                                   -- embeddings (B, K) of each view
  for _, images in ipairs(batch.views) do            -- (n * B, h, w, 3), [view][image]
    local z = t.modules.projector(t.encoder(images):mean(2))
    for _, view in ipairs(z:split(batch.count, 1)) do views[#views + 1] = view end
  end
  local all = tensor.stack(views, 1)                                               -- (V, B, K)
  local a = tensor.randn({ OUT, SLICES }, { seed = t.config.seed, step = batch.step }):normalize(1)
  local agreement, normality = (all - all:mean(1, true)):square():mean(), 0
  for _, z in ipairs(views) do normality = normality + sigreg(z, a) * (1 / #views) end
  return agreement * (1 - WEIGHT) + normality * WEIGHT,
    { agreement = agreement, sigreg = normality }
end

return { modules = modules, loss = loss, target = "none", masks = false, predictor = false,
  functions = { sigreg = sigreg } }

-- C-JEPA (Mo and Tong, 2024, arXiv 2410.19560): I-JEPA's loss plus VICReg (Bardes et al., 2021,
-- arXiv 2105.04906) on features averaged over patches, so that they can't collapse.
local ijepa = require "ijepa"
local tensor = ijepa.tensor
local WEIGHT = .001                                      -- of VICReg in the loss
local INVARIANCE, VARIANCE, COVARIANCE = 25, 25, 1       -- within VICReg

--- Mean over the columns of z (N, K) of what their standard deviation lacks of 1.
local function variance(z) return (1 - (z:var(1) + 1e-4):sqrt()):relu():mean() end

--- Sum of the squared covariances of different columns of z (N, K), divided by K.
local function covariance(z)
  local N, K = z:size(1), z:size(2)
  z = z - z:mean(1, true)
  local c = z:t():matmul(z) * (1 / (N - 1))                                        -- (K, K)
  return (c * (1 - tensor.eye(K))):square():sum() * (1 / K)
end

local function loss(t, batch)
  -- (M * C * B, T, D), (M * B, T, D)
  local z, h = t:predict(batch.images, batch.context, batch.targets)
  local ijepa_loss = tensor.smooth_l1(z, h, 1, batch.targets:size(1))
  local B = batch.count
  local predicted = z:mean(2):reshape(-1, B, z:size(3)):mean(1)                    -- (B, D)
  local target = h:mean(2):reshape(-1, B, h:size(3)):mean(1)                       -- (B, D)
  local v, c = variance(predicted), covariance(predicted)
  local vicreg = tensor.mse_loss(predicted, target) * INVARIANCE + v * VARIANCE + c * COVARIANCE
  return ijepa_loss + vicreg * WEIGHT, { ijepa = ijepa_loss, variance = v, covariance = c }
end

return { loss = loss, functions = { variance = variance, covariance = covariance } }

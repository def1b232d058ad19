-- Pixels instead of features, as in MAE (He et al., 2022, arXiv 2111.06377), with I-JEPA's masks:
-- the predictor's outputs become pixels by a linear layer. The baseline that features must beat.
local ijepa = require "ijepa"
local nn, tensor = ijepa.nn, ijepa.tensor

local function modules(t)
  return { pixels = nn.Linear(t.encoder.width, 3 * t.encoder.patch ^ 2) }
end

-- Patches of images u8 (B, H, W, 3), each with mean 0 and variance 1: (B, N, 3 P P).
local function patches(images, P)
  local B, H, W = images:size(1), images:size(2), images:size(3)
  local x = tensor.normalise(images):reshape(B, 3, H / P, P, W / P, P)
  return x:permute(1, 3, 5, 2, 4, 6):reshape(B, H * W / P ^ 2, 3 * P ^ 2):layer_norm(nil, nil, 1e-6)
end

local function loss(t, batch)
  local z = t.predictor(t.encoder(batch.images, batch.context), batch.context, batch.targets)
  -- (M * B, T, 3 P P)
  local x = patches(batch.images, t.encoder.patch):gather(batch.targets)
  local M, C = batch.targets:size(1), batch.context:size(1)
  local y = t.modules.pixels(z):reshape(M, C, -1)   -- [target][context]
  return (y - x:reshape(M, 1, -1)):square():mean()
end

return { modules = modules, loss = loss, target = "none" }

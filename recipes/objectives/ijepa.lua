-- I-JEPA (Assran et al., 2023): the features of hidden parts of an image, predicted from the part
-- that the context encoder sees. This is what a run without `objective` trains with.
local ijepa = require "ijepa"
local tensor = require "ijepa.tensor"

local objective = {}

-- Predictions (M * C * B, T, D) and targets (M * B, T, D) of images u8 (B, H, W, 3), with context
-- i32 (C, B, K) and targets i32 (M, B, T). The diagnosis measures the same.
function objective.predict(t, images, context, targets)
  local h
  if t.config.model.stop_gradient then
    h = ijepa.no_grad(function() return t.target(images):layer_norm():gather(targets) end)
  else   -- an experiment: one encoder gives context and targets, and gradients flow through both
    h = t.encoder(images):layer_norm():gather(targets)
  end
  return t.predictor(t.encoder(images, context), context, targets), h
end

function objective.loss(t, batch)
  local z, h = t:predict(batch.images, batch.context, batch.targets)
  return tensor.smooth_l1(z, h, 1, batch.targets:size(1))   -- targets repeat for each context
end

return objective

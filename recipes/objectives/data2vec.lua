-- data2vec (Baevski et al., 2022, arXiv 2202.03555) with I-JEPA's masks: the targets are the mean
-- of the target encoder's last blocks, each normalised, in place of its last layer.
local ijepa = require "ijepa"
local tensor, device = ijepa.tensor, ijepa.device
local BLOCKS, BETA = 4, 1          -- blocks that are averaged; where the smooth L1 loss bends

return function(t, batch)
  local h = device.no_grad(function()
    -- (B, N, D) each
    local layers = t.target:blocks(batch.images, math.min(BLOCKS, t.target.depth))
    local sum = layers[1]:layer_norm()
    for i = 2, #layers do sum = sum + layers[i]:layer_norm() end
    return (sum * (1 / #layers)):layer_norm():gather(batch.targets)   -- (M * B, T, D)
  end)
  local z = t.predictor(t.encoder(batch.images, batch.context), batch.context, batch.targets)
  return tensor.smooth_l1(z, h, BETA, batch.targets:size(1))
end

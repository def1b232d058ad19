-- A convolutional stem in place of the linear patch embedding (Xiao et al., 2021, arXiv
-- 2106.14881): 3 x 3 convolutions with stride 2. A token then has seen pixels of its neighbours, so
-- the context knows a border of the targets; a mask policy can leave a gap between them.
--   model.encoder=conv_stem
local ijepa = require "ijepa"

return function(cfg)
  local o = ijepa.jepa.sizes(cfg)
  o.stem = "conv"
  return ijepa.nn.Encoder(o)
end

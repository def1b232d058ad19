-- A ViT with registers (Darcet et al., 2023, arXiv 2309.16588): four trained tokens beside the
-- patches, for what belongs to the image as a whole. They are dropped after the last block.
--   model.encoder=registers
local ijepa = require "ijepa"

return function(cfg)
  local o = ijepa.jepa.sizes(cfg)
  o.registers = 4
  return ijepa.nn.Encoder(o)
end

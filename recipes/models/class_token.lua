-- A ViT with a class token in front of the patches, as in BERT and DINO: one trained token that the
-- blocks fill with what the image as a whole shows. The encoder gives patches, as I-JEPA needs
-- them; e:class(images) gives the class token (B, D), for probes and for objectives that use it.
--   model.encoder=class_token
local ijepa = require "ijepa"
local nn = ijepa.nn

local Encoder = nn.class("ViT with class token", nn.Encoder.init, nn.Encoder)

-- images u8 (B, H, W, 3) -> (B, D)
function Encoder:class(images) return self.blocks(self:tokens(images)):select(2, 1) end

return function(cfg)
  local o = ijepa.jepa.sizes(cfg)
  o.class_token = true
  return Encoder(o)
end

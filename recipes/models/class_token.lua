-- A ViT with a class token in front of the patches, as in BERT and DINO: one trained token that the
-- blocks fill with what the image as a whole shows. The encoder gives patches, as I-JEPA needs
-- them; e:class(images) gives the class token (B, D), for probes and for objectives that use it.
--   model.encoder=recipes/models/class_token.lua
local ijepa = require "ijepa"
local nn = ijepa.nn

local Encoder = nn.class("ViT with class token", function(self, o)
  self.width, self.depth, self.heads, self.patch, self.grid = o.width, o.depth, o.heads, o.patch,
    o.grid
  self.pos_embed = nn.SinCos { grid = o.grid, width = o.width }
  self.patch_embed = nn.PatchEmbed { patch = o.patch, width = o.width, dtype = o.dtype }
  self.cls_token = nn.Tokens { count = 1, width = o.width }
  self.blocks = nn.Blocks { width = o.width, depth = o.depth, heads = o.heads,
    mlp_ratio = o.mlp_ratio, dtype = o.dtype, recompute = o.recompute }
end)

-- All tokens, the class token first: (C * B, 1 + K, D).
function Encoder:tokens(images, context)
  return self.blocks(self.cls_token(self.patch_embed(images, context, self.pos_embed)))
end
-- images u8 (B, H, W, 3), context i32 (C, B, K) or nil -> (C * B, K, D) or (B, N, D)
function Encoder:forward(images, context)
  local x = self:tokens(images, context)
  return x:narrow(2, 2, x:size(2) - 1):contiguous()
end
function Encoder:class(images) return self:tokens(images):select(2, 1) end

return function(cfg) return Encoder(ijepa.jepa.sizes(cfg)) end

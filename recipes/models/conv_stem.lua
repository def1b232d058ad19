-- A convolutional stem in place of the linear patch embedding (Xiao et al., 2021, arXiv
-- 2106.14881): 3 x 3 convolutions with stride 2. A token then has seen pixels of its neighbours, so
-- the context knows a border of the targets; a mask policy can leave a gap between them.
--   model.encoder=recipes/models/conv_stem.lua
local ijepa = require "ijepa"
local nn = ijepa.nn

local Encoder = nn.class("ViT with convolutional stem", function(self, o)
  self.width, self.depth, self.heads, self.patch, self.grid = o.width, o.depth, o.heads, o.patch,
    o.grid
  self.pos_embed = nn.SinCos { grid = o.grid, width = o.width }
  self.patch_embed = nn.ConvStem { patch = o.patch, width = o.width }
  self.blocks = nn.Blocks { width = o.width, depth = o.depth, heads = o.heads,
    mlp_ratio = o.mlp_ratio, dtype = o.dtype, recompute = o.recompute }
end)

-- images u8 (B, H, W, 3), context i32 (C, B, K) or nil -> (C * B, K, D) or (B, N, D)
function Encoder:forward(images, context)
  return self.blocks(self.patch_embed(images, context, self.pos_embed))
end

return function(cfg) return Encoder(ijepa.jepa.sizes(cfg)) end

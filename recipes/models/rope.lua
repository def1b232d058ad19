-- 2-D rotary positions in every block in place of added ones (Su et al., 2021, arXiv 2104.09864;
-- for images: Heo et al., 2024, arXiv 2403.13298). Made of nn.Block, in f32, to be changed.
--   model.encoder=rope
local ijepa = require "ijepa"
local nn = ijepa.nn

local Encoder = nn.class("ViT with RoPE", function(self, o)
  self.width, self.depth, self.heads, self.patch, self.grid = o.width, o.depth, o.heads, o.patch,
    o.grid
  self.rope = nn.Rope { grid = o.grid, width = o.width / o.heads }
  self.patch_embed = nn.PatchEmbed { patch = o.patch, width = o.width, dtype = o.dtype }
  self.blocks = nn.List()
  for i = 1, o.depth do
    self.blocks[i] = nn.Block(o.width, o.heads, { mlp_ratio = o.mlp_ratio })
  end
  self.norm = nn.LayerNorm(o.width, { eps = 1e-6 })
end)

-- images u8 (B, H, W, 3), context i32 (C, B, K) or nil -> (C * B, K, D) or (B, N, D)
function Encoder:forward(images, context)
  local x = self.patch_embed(images, context)
  local angles = self.rope(context, x:size(2))
  for _, block in ipairs(self.blocks) do x = block(x, angles) end
  return self.norm(x)
end

return function(cfg) return Encoder(ijepa.jepa.sizes(cfg)) end

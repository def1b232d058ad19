-- A ViT with registers (Darcet et al., 2023, arXiv 2309.16588): trained tokens beside the patches,
-- for what belongs to the image as a whole. They are dropped after the last block.
--   model.encoder=recipes/models/registers.lua
local ijepa = require "ijepa"
local nn = ijepa.nn
local REGISTERS = 4

local Encoder = nn.class("ViT with registers", function(self, o)
  self.width, self.depth, self.heads, self.patch, self.grid = o.width, o.depth, o.heads, o.patch,
    o.grid
  self.pos_embed = nn.SinCos { grid = o.grid, width = o.width }
  self.patch_embed = nn.PatchEmbed { patch = o.patch, width = o.width, dtype = o.dtype }
  self.registers = nn.Tokens { count = REGISTERS, width = o.width }
  self.blocks = nn.Blocks { width = o.width, depth = o.depth, heads = o.heads,
    mlp_ratio = o.mlp_ratio, dtype = o.dtype, recompute = o.recompute }
end)

-- images u8 (B, H, W, 3), context i32 (C, B, K) or nil -> (C * B, K, D) or (B, N, D)
function Encoder:forward(images, context)
  local x = self.registers(self.patch_embed(images, context, self.pos_embed))
  return self.blocks(x):narrow(2, REGISTERS + 1, x:size(2) - REGISTERS):contiguous()
end
-- The outputs of the last n blocks: a list of (B, N, D).
function Encoder:blocks_of(images, n)
  local x = self.registers(self.patch_embed(images, nil, self.pos_embed))
  local list = self.blocks:outputs(x, n)
  for i, y in ipairs(list) do
    list[i] = y:narrow(2, REGISTERS + 1, y:size(2) - REGISTERS):contiguous()
  end
  return list
end

return function(cfg) return Encoder(ijepa.jepa.sizes(cfg)) end

-- Attention-guided targets: blocks land where the target encoder looks, the context is what is left of the grid.
--   mask.policy=recipes/masks/attention.lua mask.group=BATCH       the images decide (a group is a batch then)
--   ijepa.mask.new { policy = "recipes/masks/attention.lua", grid = { 14, 14 }, saliency = list_of_196_numbers }
--                                                                  a map made before, the same for all images
return {
  options = { targets = 4, share = 0.15, block = -1, sharp = 2 },   -- block: of the encoder, -1 the last; sharp: power

  -- batch: images u8 or f32 (B, ...), target (the target encoder). Gives (B, N) numbers.
  saliency = function(batch, grid, options)
    local block = options.block < 0 and batch.target.depth + options.block + 1 or options.block
    local a = batch.target:attention(batch.images, block)   -- (B, heads, N, N): from row to column
    local size, at, maps = a:size(), a:read(), {}
    local heads, n = size[2], size[4]
    for b = 0, size[1] - 1 do
      local map = {}
      for j = 1, n do map[j] = 0 end
      for row = b * heads * n, (b + 1) * heads * n - 1 do   -- what all patches look at, over all heads
        for j = 1, n do map[j] = map[j] + at[row * n + j - 1] end
      end
      for j = 1, n do map[j] = (map[j] / (heads * n) * grid.n) ^ options.sharp end
      maps[b + 1] = map
    end
    return maps
  end,

  policy = function(rng, grid, at, options)
    local h, w = grid:block_size(options.share * grid.n, 0.75 * 2 ^ rng.group:uniform())
    local map = at.saliency or grid:map(function() return 1 end)
    local context, targets = grid:all(), {}
    for i = 1, options.targets do
      targets[i] = grid:weighted_block(rng, map, h, w)
      context = context - targets[i]
    end
    return context, targets
  end,
}

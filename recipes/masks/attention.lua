-- Attention-guided targets: target blocks are likely where the target encoder attends; the context
-- is the rest of the grid. The maps come from the images, so mask.group must be the batch:
--   mask.policy=recipes/masks/attention.lua mask.group=BATCH
-- or one map serves all images:
--   ijepa.mask.new { policy = "recipes/masks/attention.lua", grid = { 14, 14 }, saliency = list_of_196_values }
return {
  -- block of the encoder, -1: the last; sharp: exponent
  options = { targets = 4, share = 0.15, block = -1, sharp = 2 },

  -- batch: images u8 or f32 (B, ...), target (the target encoder). Returns (B, N) values.
  saliency = function(batch, grid, options)
    local block = options.block < 0 and batch.target.depth + options.block + 1 or options.block
    local a = batch.target:attention(batch.images, block)   -- (B, heads, N, N): from row to column
    local size, at, maps = a:size(), a:read(), {}
    local heads, n = size[2], size[4]
    for b = 0, size[1] - 1 do
      local map = {}
      for j = 1, n do map[j] = 0 end
      for row = b * heads * n, (b + 1) * heads * n - 1 do   -- summed over queries and heads
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

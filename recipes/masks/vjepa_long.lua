-- V-JEPA's long-range mask on one image: the union of 2 blocks, each 70 % of the grid, is to be
-- predicted; the context is the little that is left. Blocks of 70 % can leave hardly anything on a
-- small grid: then they are drawn again.
return {
  options = { blocks = 2, share = 0.7, aspect = { 0.75, 1.5 }, tries = 20 },
  policy = function(rng, grid, _, options)
    local lo, hi = options.aspect[1], options.aspect[2]
    local h, w = grid:block_size(options.share * grid.n, lo * (hi / lo) ^ rng.group:uniform())
    for _ = 1, options.tries do
      local target = grid:none()
      for _ = 1, options.blocks do target = target + grid:random_block(rng, h, w) end
      if (-target):size() > options.mask.min_keep then return -target, { target } end
    end
    -- blocks apart from each other can fill the grid: one of them alone leaves 30 %
    local target = grid:random_block(rng, h, w)
    return -target, { target }, true
  end,
}

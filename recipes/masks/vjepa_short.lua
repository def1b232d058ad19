-- V-JEPA's short-range mask on one image: what is to be predicted is the union of 8 blocks, each 15
-- % of the grid; the context is all the rest.
return {
  options = { blocks = 8, share = 0.15, aspect = { 0.75, 1.5 }, tries = 20 },
  policy = function(rng, grid, _, options)
    local lo, hi = options.aspect[1], options.aspect[2]
    local h, w = grid:block_size(options.share * grid.n, lo * (hi / lo) ^ rng.group:uniform())
    for _ = 1, options.tries do
      local target = grid:none()
      for _ = 1, options.blocks do target = target + grid:random_block(rng, h, w) end
      if (-target):size() > options.mask.min_keep then return -target, { target } end
    end
    error(("%d blocks of %d x %d patches leave no context of more than %d: fewer blocks, or a lower share or mask.min_keep"):format(
      options.blocks, h, w, options.mask.min_keep))
  end,
}

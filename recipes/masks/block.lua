-- One large block to predict, everything around it as context (the paper's "block": 20.2 against
-- 54.2 with multi-block).
return {
  options = { share = 0.6 },   -- of the grid
  policy = function(rng, grid, _, options)
    local m = options.mask
    local aspect = m.target.aspect[1] * (
      m.target.aspect[2] / m.target.aspect[1]) ^ rng.group:uniform()
    local block = grid:random_block(rng, grid:block_size(options.share * grid.n, aspect))
    return -block, { block }
  end,
}

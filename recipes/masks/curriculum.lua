-- Targets that grow: from `from` to `to` of the grid over the first `over` steps, then they stay.
-- The step of an image follows from its number, so a resumed run draws what the uninterrupted one
-- would have drawn.
return {
  options = { from = 0.05, to = 0.2, over = 10000, targets = 4 },
  policy = function(rng, grid, at, options)
    local share = options.from + (options.to - options.from) * math.min(1, at.step / options.over)
    local h, w = grid:block_size(math.max(1, share * grid.n), 0.75 * 2 ^ rng.group:uniform())
    local context, targets = grid:all(), {}
    for i = 1, options.targets do
      targets[i] = grid:random_block(rng, h, w)
      context = context - targets[i]
    end
    return context, targets
  end,
}

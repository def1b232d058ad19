-- Random patches instead of blocks: the paper's weakest ablation but one (17.6 against 54.2 with
-- multi-block), because a patch is easily guessed from its neighbours. Draw by draw what
-- mask.policy=random gives.
return function(rng, grid, _, options)
  local m = options.mask
  local function patches(scale)
    return math.max(1, math.floor(grid.n * rng.group:uniform(scale[1], scale[2])))
  end
  local n = patches(m.target.scale)
  rng.group:uniform()   -- the aspect, which random patches have not: keeps the stream in step
  local size, targets = patches(m.context.scale), {}
  for i = 1, m.target.n do targets[i] = grid:random(rng, n) end
  local context = grid:random(rng, size)
  for i = 1, m.overlap and 0 or m.target.n do context = context - targets[i] end
  return context, targets
end

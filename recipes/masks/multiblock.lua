-- The default policy again, in Lua: 4 target blocks, and a large context block without them. Draw
-- by draw what mask.policy=multiblock gives (a test holds them equal), so it is the one to copy and
-- change.
local TRIES = 20   -- contexts that are too small before one more target may stay in it

return function(rng, grid, _, options)
  local m = options.mask   -- mask.context, mask.target, mask.min_keep, mask.overlap of the recipe
  local lo, hi = m.target.aspect[1], m.target.aspect[2]

  -- sizes: the same for all images of a group; drawn again while no place can make them valid
  local h, w, side_h, side_w
  for _ = 1, 1000 do
    local area = rng.group:uniform(m.target.scale[1], m.target.scale[2])
    local aspect = lo * (hi / lo) ^ rng.group:uniform()
    h, w = grid:block_size(grid.n * area, aspect)
    side_h, side_w = grid:block_size(grid.n * rng.group:uniform(m.context.scale[1],
      m.context.scale[2]))
    if h * w > m.min_keep and side_h * side_w > m.min_keep then break end
  end

  -- places: of this image
  local targets = {}
  for i = 1, m.target.n do targets[i] = grid:random_block(rng, h, w) end
  local contexts, gave_up = {}, false
  for i = 1, m.context.n do
    local kept_out, tries = m.overlap and 0 or m.target.n, 0
    repeat
      local context = grid:random_block(rng, side_h, side_w)
      for j = 1, kept_out do context = context - targets[j] end
      contexts[i], tries = context, tries + 1
      local enough = context:size() > m.min_keep
      if not enough and tries % TRIES == 0 then
        if kept_out == 0 then
          error(("blocks of %d x %d patches never exceed min_keep %d"):format(side_h, side_w,
            m.min_keep))
        end
        kept_out, gave_up = kept_out - 1, true
      end
    until enough
  end
  return contexts, targets, gave_up
end

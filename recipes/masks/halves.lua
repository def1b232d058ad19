-- One half of the image from the other: left and right, or with options vertical=false top and
-- bottom.
return {
  options = { vertical = true },   -- the cut runs from top to bottom
  policy = function(rng, grid, _, options)
    local half = options.vertical and grid:block(0, 0, grid.h, math.ceil(grid.w / 2))
      or grid:block(0, 0, math.ceil(grid.h / 2), grid.w)
    if rng:below(2) == 0 then return half, { -half } end
    return -half, { half }
  end,
}

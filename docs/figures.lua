-- Makes the images of docs/figures.md from the quickstart's run:
--   ijepa recipes/quickstart.lua
--   ijepa docs/figures.lua
--   ijepa recipes/decoder.lua rows=2 file=docs/decoder.png
-- docs/quickstart.png is the run's own summary.png.
local ijepa = require "ijepa"
local plot = ijepa.plot
local m = assert(ijepa.model "runs/quickstart")
local test = "runs/quickstart/scenes/test.tar"
local x = plot.batch(test, m.target, { count = 256, resize = 64 })   -- u8 (256, 64, 64, 3)
local few = x:narrow(1, 3, 4):contiguous()
local one = x:narrow(1, 4, 1):contiguous()

local function out(name) return "docs/" .. name .. ".png" end
assert(plot.masks(m, { images = few, draws = 4, side = 160, file = out "masks" }))
assert(plot.pca(m, few, { basis = plot.basis(m, x), side = 160, file = out "pca" }))
assert(plot.attention(m, one, { patch = { 3, 4 }, side = 160, file = out "attention" }))
assert(plot.similarity(m, few, { patch = { 3, 4 }, side = 160, file = out "similarity" }))
assert(plot.loss(m, x, { side = 256, file = out "loss" }))
assert(plot.curves(m, { width = 704, height = 320, file = out "curves" }))
assert(ijepa.imagine(m, one, nil, nil, { side = 208, file = out "imagine" }))
local g = ijepa.mask.grid(8, 8)
local right = g:block(0, 4, 8, 4)
assert(ijepa.imagine(m, one, g:all() - right, right, { side = 208, file = out "imagine_half" }))

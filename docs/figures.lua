-- Makes the images of docs/figures.md from the quickstart's run:
--   ijepa recipes/quickstart.lua optim.minutes=0.6
--   ijepa docs/figures.lua
--   ijepa recipes/decoder.lua rows=2 file=docs/decoder.png
local ijepa = require "ijepa"
local plot = ijepa.plot
local m = assert(ijepa.model "runs/quickstart")
local test = "runs/quickstart/scenes/test.tar"
local x = plot.batch(test, m.target, { count = 256, resize = 64 })   -- u8 (256, 64, 64, 3)
local few = x:narrow(1, 3, 4):contiguous()
local one = x:narrow(1, 4, 1):contiguous()

local function out(name) return "docs/" .. name .. ".png" end
assert(plot.masks(m, { images = few, draws = 3, side = 128, file = out "masks" }))
assert(plot.pca(m.target, few, { basis = plot.basis(m.target, x), side = 96, file = out "pca" }))
assert(plot.attention(m.target, one, { patch = { 3, 4 }, side = 144, file = out "attention" }))
assert(plot.similarity(m.target, few, { patch = { 3, 4 }, side = 96, file = out "similarity" }))
assert(plot.loss(m, x, { side = 192, file = out "loss" }))
assert(plot.curves(m, { width = 640, height = 280, file = out "curves" }))
assert(ijepa.imagine(m, one, nil, nil, { side = 160, file = out "imagine" }))
local g = ijepa.mask.grid(8, 8)
local right = g:block(0, 4, 8, 4)
assert(ijepa.imagine(m, one, g:all() - right, right, { side = 160, file = out "imagine_half" }))

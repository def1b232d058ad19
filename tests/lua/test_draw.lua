local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.canvas"
local draw = require "ijepa.draw"
local layout = require "ijepa.draw.layout"

local tests = {}
TestDraw = tests -- luacheck: ignore

-- Two images, a 4 x 4 grid, one context of 3 patches, two targets of 4.
local function masks()
  return { count = 2, contexts = 1, targets = 2, k = 3, t = 4,
    context = F.new("int32_t[6]", { 0, 1, 2, 13, 14, 15 }),
    target = F.new("int32_t[16]", { 5, 6, 9, 10, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5 }) }
end

local function holds(c, colour)
  for y = 0, c.height - 1 do
    for x = 0, c.width - 1 do
      if c:get(x, y) == colour then return true end
    end
  end
  return false
end

function tests.test_masks()
  local pixels = F.new("uint8_t[?]", 2 * 32 * 32 * 3, 200)
  local c = draw.masks(nil, masks(), { grid = { 4, 4 }, pixels = pixels, height = 32, width = 32,
    title = "masks" })
  lu.assertTrue(holds(c, draw.palette[1]))
  lu.assertTrue(holds(c, draw.palette[2]))
  lu.assertFalse(holds(c, draw.palette[3]))
  lu.assertTrue(holds(c, 0xc8c8c8))
  lu.assertTrue(holds(draw.masks(nil, masks(), { grid = { 4, 4 }, first = 1 }), draw.palette[1]))
end

function tests.test_parts_and_texts_of_masks()
  local pixels = F.new("uint8_t[?]", 2 * 32 * 32 * 3, 200)
  local o = { grid = { 4, 4 }, pixels = pixels, height = 32, width = 32 }
  local figure = draw.masks(nil, masks(), o).figure
  lu.assertEquals({ #figure.parts, figure.columns, figure.title }, { 6, 2, "Masks" })
  lu.assertEquals({ figure.parts[1].title, figure.parts[3].title, figure.parts[5].title },
    { "images", "context: 3 patches", "2 targets of 4 patches" })
  lu.assertNil(figure.parts[2].title)
  lu.assertEquals(figure.legend[2], { name = "target 1", colour = draw.palette[1] })
  local one, none = masks(), { grid = { 4, 4 }, images = 1, title = false }
  one.targets, one.t, one.k = 1, 1, 1
  figure = draw.masks(nil, one, none).figure   -- without pixels: no row of images
  lu.assertEquals({ figure.parts[1].title, figure.parts[2].title },
    { "context: 1 patch", "1 target of 1 patch" })
  lu.assertEquals({ figure.title, figure.note }, {})
  -- patch 3 is outside of the context of image 1, patch 0 is in it
  local context = draw.masks(nil, masks(), { grid = { 4, 4 } }).figure.parts[1][1]
  local cell = context.width / 4
  lu.assertNotEquals(context:get(3.5 * cell, cell / 2), context:get(cell / 2, cell / 2))
  lu.assertAlmostEquals(context:get(3.5 * cell, cell / 2) % 256,
    context:get(3.5 * cell, 3.5 * cell) % 256, 2)
end

function tests.test_rows_of_a_figure()
  local function square(side, colour) return canvas.new(side, side, colour) end
  local parts = { { square(40, 0xff0000), title = "all of the first row" },
    { square(40, 0x00ff00) },
    { square(60, 0x0000ff), title = "a", bar = { low = 0, high = 2, format = "%.0f", unit = "m" } },
    { square(20, 0), title = "b" } }
  local c = layout.rows(parts, { columns = 2, title = "t", note = "words of a caption" })
  local rows = layout.rows_of(c.figure)
  lu.assertEquals({ rows[1].heading, rows[2].heading, rows[1].height, rows[2].height },
    { "all of the first row", nil, 40, 60 })
  -- margin, title, caption, heading, half of it
  lu.assertEquals(c:get(16 + 20, 16 + 28 + 25 + 19 + 20), 0xff0000)
  -- the column of 60 pixels is left of it
  lu.assertEquals(c:get(16 + 60 + 12 + 20, 16 + 28 + 25 + 19 + 20), 0x00ff00)
  lu.assertTrue(holds(c, layout.colour(0)))
  lu.assertTrue(holds(c, layout.colour(1)))
  lu.assertEquals(layout.colour(0 / 0), 0x808080)
  lu.assertEquals({ layout.bar_texts { low = 0, high = 1.5 } }, { "0.00", "1.50", "" })
  for _, line in ipairs(layout.wrap("one two three four", 60)) do
    lu.assertTrue(canvas.text_size(line, 13) <= 60)
  end
  lu.assertEquals(table.concat(layout.wrap("one two three four", 60), " "),
    "one two three four")
  lu.assertEquals(layout.wrap("unbroken", 5), { "unbroken" })
end

-- The struct that the library fills, two contexts, a grid that is not square, images wider than
-- they are drawn.
function tests.test_masks_of_the_library()
  local m, memory = F.new "ij_masks", F.new("int32_t[24]")
  for i = 0, 23 do memory[i] = i % 6 end
  m.count, m.contexts, m.targets, m.k, m.t, m.context, m.target = 2, 2, 3, 2, 3, memory, memory
  local pixels = F.new("uint8_t[?]", 2 * 200 * 300 * 3)
  local c = draw.masks(nil, m, { grid = { 2, 3 }, pixels = pixels, height = 200, width = 300,
    images = 1, side = 96 })
  lu.assertTrue(holds(c, draw.palette[3]))
end

function tests.test_masks_misuse()
  local bad = masks()
  bad.target[3] = 16
  for _, call in ipairs {
    function() draw.masks(nil, bad, { grid = { 4, 4 } }) end,
      function() draw.masks(nil, masks(), {}) end,
    function() draw.masks(nil, {}, { grid = { 4, 4 } }) end,
      function() draw.masks(nil, masks()) end,
    function() draw.masks(nil, masks(), { grid = { 4, 4 }, first = 2 }) end,
    function() draw.masks(nil, masks(), { grid = { 4, 4 }, pixels = F.new "uint8_t[12]" }) end,
    function() draw.curves(nil, { { x = {} } }) end, function() draw.curves(nil, 5) end,
      function() draw.summary() end,
    function() draw.masks(nil, masks(), { grid = { 4, "x" } }) end,
  } do
    lu.assertErrorMsgContains("test_draw.lua:", call)
  end
end

function tests.test_curves()
  local y, z = {}, {}
  for i = 1, 5000 do y[i], z[i] = math.exp(-i / 900), i % 7 end
  y[40], y[41], y[42] = 0 / 0, 1 / 0, false
  local series = { { name = "loss", y = y }, { name = "other", y = z } }
  local c = draw.curves(nil, series, { title = "t", x = "step", y = "y" })
  lu.assertEquals({ c.width, c.height }, { 800, 400 })
  lu.assertTrue(holds(c, draw.palette[1]))
  lu.assertTrue(holds(c, draw.palette[2]))
end

function tests.test_curves_of_odd_values()
  local nan, inf = 0 / 0, 1 / 0
  for _, y in ipairs { {}, { 1 }, { 0, 0 }, { nan, inf }, { -1e300, 1e300 }, { 1e-300, 2e-300 },
      { -5, -5, nan },
    { 1e9, 1e9 + 1 }, { 0, 1e-9 }, { "a", 2 }, { -1.7e308, 1.7e308 } } do
    for _, log in ipairs { false, true } do
      lu.assertEquals(draw.curves(nil, { { y = y } }, { log = log }).width, 800)
    end
  end
  lu.assertEquals(draw.curves(nil, {}).width, 800)
  local series = { { x = { 5, 5 }, y = { 1, 2 } } }
  lu.assertEquals(draw.curves(nil, series, { marks = { { x = 5, name = "five" } } }).width, 800)
end

function tests.test_summary_is_written()
  local path = require "support".folder() .. "/x.png"
  lu.assertEquals(draw.summary(path,
    { title = "run", lines = { "one", "two" }, masks = { masks(), { grid = { 4, 4 } } },
    curves = { { { { name = "loss", y = { 3, 2, 1 } } }, { height = 200 } } } }), path)
  lu.assertTrue(assert(canvas.load(path)).height > 500)
  lu.assertTrue(draw.summary(nil, {}).width >= 640)
end

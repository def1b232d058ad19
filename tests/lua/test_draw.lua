local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.canvas"
local draw = require "ijepa.draw"

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
  local c = draw.masks(nil, masks(), { grid = { 4, 4 }, pixels = pixels, height = 32, width = 32, title = "masks" })
  lu.assertTrue(holds(c, draw.palette[1]))
  lu.assertTrue(holds(c, draw.palette[2]))
  lu.assertFalse(holds(c, draw.palette[3]))
  lu.assertTrue(holds(c, 0xc8c8c8))
  lu.assertTrue(holds(draw.masks(nil, masks(), { grid = { 4, 4 }, first = 1 }), draw.palette[1]))
end

-- The struct that the library fills, two contexts, a grid that is not square, images wider than they are drawn.
function tests.test_masks_of_the_library()
  local m, memory = F.new "ij_masks", F.new("int32_t[24]")
  for i = 0, 23 do memory[i] = i % 6 end
  m.count, m.contexts, m.targets, m.k, m.t, m.context, m.target = 2, 2, 3, 2, 3, memory, memory
  local pixels = F.new("uint8_t[?]", 2 * 200 * 300 * 3)
  local c = draw.masks(nil, m, { grid = { 2, 3 }, pixels = pixels, height = 200, width = 300, images = 1, side = 96 })
  lu.assertTrue(holds(c, draw.palette[3]))
end

function tests.test_masks_misuse()
  local bad = masks()
  bad.target[3] = 16
  for _, call in ipairs {
    function() draw.masks(nil, bad, { grid = { 4, 4 } }) end, function() draw.masks(nil, masks(), {}) end,
    function() draw.masks(nil, {}, { grid = { 4, 4 } }) end, function() draw.masks(nil, masks()) end,
    function() draw.masks(nil, masks(), { grid = { 4, 4 }, first = 2 }) end,
    function() draw.masks(nil, masks(), { grid = { 4, 4 }, pixels = F.new "uint8_t[12]" }) end,
    function() draw.curves(nil, { { x = {} } }) end, function() draw.curves(nil, 5) end, function() draw.summary() end,
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
  for _, y in ipairs { {}, { 1 }, { 0, 0 }, { nan, inf }, { -1e300, 1e300 }, { 1e-300, 2e-300 }, { -5, -5, nan },
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
  lu.assertTrue(draw.summary(path, { title = "run", lines = { "one", "two" }, masks = { masks(), { grid = { 4, 4 } } },
    curves = { { { { name = "loss", y = { 3, 2, 1 } } }, { height = 200 } } } }))
  lu.assertTrue(assert(canvas.load(path)).height > 500)
  lu.assertTrue(draw.summary(nil, {}).width >= 800)
end

if not ... then os.exit(lu.LuaUnit.run()) end

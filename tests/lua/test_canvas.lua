local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.canvas"

local tests = {}
TestCanvas = tests -- luacheck: ignore

local function count(c, colour)
  local n = 0
  for y = 0, c.height - 1 do
    for x = 0, c.width - 1 do
      if c:get(x, y) == colour then n = n + 1 end
    end
  end
  return n
end

-- How much of a white canvas is now black, in pixels.
local function area(c)
  local sum = 0
  for i = 0, c.width * c.height * 3 - 1, 3 do sum = sum + 1 - c.pixels[i] / 255 end
  return sum
end

function tests.test_new_is_filled()
  local c = canvas.new(5, 3, 0x102030)
  lu.assertEquals({ c.width, c.height, count(c, 0x102030) }, { 5, 3, 15 })
  lu.assertEquals({ c.pixels[0], c.pixels[1], c.pixels[2] }, { 16, 32, 48 })
  lu.assertNil(c:get(5, 0))
  lu.assertNil(c:get(0, -1))
end

function tests.test_colours()
  lu.assertEquals({ canvas.split(0xa1b2c3) }, { 0xa1, 0xb2, 0xc3 })
  lu.assertEquals(canvas.rgb(0xa1, 0xb2, 0xc3), 0xa1b2c3)
  lu.assertEquals(canvas.mix(0x000000, 0xff8000, 0.5), 0x804000)
end

function tests.test_areas_are_exact_or_close()
  local function black(draw)
    local c = canvas.new(40, 40)
    draw(c)
    return area(c)
  end
  lu.assertAlmostEquals(black(function(c) c:rect(3, 4, 10, 5, 0) end), 50, 0)
  lu.assertAlmostEquals(black(function(c) c:rect(3.5, 4.25, 10, 5, 0) end), 50, 0.2)
  lu.assertAlmostEquals(black(function(c) c:frame(3, 4, 10, 8, 0, 2) end), 80 - 24, 0)
  lu.assertAlmostEquals(black(function(c) c:circle(20, 20, 15, 0) end), math.pi * 225, 3)
  lu.assertAlmostEquals(black(function(c) c:circle(20, 20, 15, 0, 4) end), math.pi * (225 - 121), 5)
  lu.assertAlmostEquals(black(function(c) c:line(5, 20, 35, 20, 0, 4) end), 120 + math.pi * 4, 1.5)
  lu.assertAlmostEquals(black(function(c) c:polygon({ 5, 5, 35, 5, 5, 35 }, 0) end), 450, 1)
  lu.assertAlmostEquals(black(function(c) c:polygon({ 5, 5, 35, 35, 35, 5, 5, 35 }, 0) end), 450, 2)
end

function tests.test_blending()
  local c = canvas.new(1, 1, 0x000000):set(0, 0, 0xffffff, 0.5)
  lu.assertEquals(c:get(0, 0), 0x808080)
end

function tests.test_what_lies_outside_is_cut_off()
  local inf, nan = 1 / 0, 0 / 0
  local c = canvas.new(8, 8)
  c:circle(-100, 4, 50, 0):line(-1e6, -5, 1e6, -5, 0, 2):rect(9, 9, 5, 5, 0):set(-1, 99, 0)
  c:blit(canvas.new(4, 4, 0), -4, 0):blit(canvas.new(4, 4, 0), 8, 8, 3):text(-500, 3, "away", 0)
  lu.assertEquals(area(c), 0)
  c:rect(-inf, -inf, inf, inf, 0):circle(nan, nan, nan, 0):circle(4, 4, inf, 0):line(nan, 0, inf, 3,
    0)
  c:polygon({ nan, 0, inf, 5, 3, -inf }, 0):frame(nan, 1, 2, inf, 0):set(nan, inf, 0)
  c:rect(2, 2, 1e300, 1e300, 0)
  lu.assertEquals(c:get(5, 5), 0)
end

function tests.test_blit_scales_by_whole_numbers()
  local small = canvas.new(2, 1, 0xff0000):set(1, 0, 0x00ff00)
  local c = canvas.new(8, 6):blit(small, 1, 1, 3)
  lu.assertEquals(count(c, 0xff0000), 9)
  lu.assertEquals(count(c, 0x00ff00), 9)
  lu.assertEquals(c:get(3, 3), 0xff0000)
  lu.assertEquals(c:get(4, 1), 0x00ff00)
end

function tests.test_text()
  -- a bar as high as capitals, as wide as the pen
  local c = canvas.new(20, 20):text(4, 4, "I", 0, 15)
  lu.assertAlmostEquals(area(c), 11 * 15 * .085, 1)
  lu.assertEquals(select(2, canvas.text_size("abc", 15)), 11)
  lu.assertEquals({ canvas.text_size "" }, { 0, 8 })
  local a, b = canvas.text_size("a", 15), canvas.text_size("b", 15)
  lu.assertEquals((canvas.text_size("ab", 15)), a + b)
  -- one foreign letter is one box; a stray byte is nothing
  lu.assertEquals((canvas.text_size "\195\169\255"), (canvas.text_size "\195\169"))
  local up = canvas.new(20, 20):text(4, 15, "I", 0, 15, "left", true)
  lu.assertAlmostEquals(area(up), area(c), 0.05)
  lu.assertTrue(area(canvas.new(20, 20):text(4, 4, "I", 0, 15, nil, nil, true)) > 1.4 * area(c))
end

function tests.test_every_letter_differs()
  local seen = {}
  for code = 33, 126 do
    local c = canvas.new(20, 24):text(2, 4, string.char(code), 0, 15)
    local bytes = F.string(c.pixels, 20 * 24 * 3)
    lu.assertNil(seen[bytes], string.char(code))
    lu.assertTrue(area(c) > 0, string.char(code))
    seen[bytes] = true
  end
end

function tests.test_misuse_names_the_callers_line()
  for _, call in ipairs {
    function() canvas.new(0, 5) end, function() canvas.new(1e9, 1e9) end,
      function() canvas.new("a", 1) end,
    function() canvas.new(2, 2):rect(1, "b", 1, 1, 0) end,
      function() canvas.new(2, 2):polygon({ 1, 2 }, 0) end,
    function() canvas.new(2, 2):blit({}, 1, 1) end,
      function() canvas.new(2, 2):text(1, 1, 5, 0) end,
    function() canvas.load(5) end, function() canvas.new(2, 2):line(1, 2, 3, nil, 5) end,
    function() canvas.new(2, 2):polygon({ 1, 2, 3, 4, 5, "x" }, 0) end,
    function() canvas.new(2, 2):polygon({ 1, 2, 3, 4, 5, 6, 7, {} }, 0) end,
    function() canvas.new(2, 2):fill {} end, function() canvas.new(2, 2):circle(1, 1, 1, nil) end,
  } do
    lu.assertErrorMsgContains("test_canvas.lua:", call)
  end
end

local function temporary(ending) return require "support".folder() .. "/x" .. ending end

function tests.test_files()
  local c = canvas.new(33, 17, 0x336699):circle(10, 8, 6, 0xffcc00):text(2, 2, "ij", 0)
  local function same(path)
    local d = assert(canvas.load(path))
    lu.assertEquals({ d.width, d.height }, { 33, 17 })
    lu.assertTrue(F.string(d.pixels, 33 * 17 * 3) == F.string(c.pixels, 33 * 17 * 3))
    os.remove(path)
  end
  local path = temporary ".png"
  lu.assertTrue(c:save(path))
  same(path)
  local file = assert(io.open(path, "wb"))
  file:write(c:png())
  file:close()
  same(path)
  local none, message, code = canvas.load(path)
  lu.assertNil(none)
  lu.assertStrContains(message, path)
  lu.assertIsNumber(code)
  none, message = c:save "/nowhere/at/all.png"
  lu.assertNil(none)
  lu.assertIsString(message)
end

-- More than 64 KiB: several stored blocks.
function tests.test_png_of_a_large_canvas()
  local c, path = canvas.new(300, 200, 0x123456):line(0, 0, 300, 200, 0xffffff, 5), temporary ".png"
  local file = assert(io.open(path, "wb"))
  file:write(c:png())
  file:close()
  local d = assert(canvas.load(path))
  lu.assertTrue(F.string(d.pixels, 180000) == F.string(c.pixels, 180000))
  os.remove(path)
end

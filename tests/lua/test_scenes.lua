local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.canvas"
local scenes = require "ijepa.scenes"

local tests = {}
TestScenes = tests -- luacheck: ignore

local function draw(seed, part, index, size)
  local c = canvas.new(size or 64, size or 64)
  local truth = scenes.draw(c, seed, part, index)
  return F.string(c.pixels, c.width * c.height * 3), truth
end

local support = require "support"
local read = support.read

local function temporary_folder() return support.folder() .. "/scenes" end

function tests.test_a_image_depends_on_its_number_alone()
  local a, truth = draw(5, "train", 17)
  draw(5, "train", 3)
  local b, again = draw(5, "train", 17)
  lu.assertTrue(a == b)
  lu.assertEquals(truth, again)
  lu.assertFalse(a == (draw(6, "train", 17)))
  lu.assertFalse(a == (draw(5, "test", 17)))
  lu.assertFalse(a == (draw(5, "train", 18)))
end

function tests.test_labels_are_even_and_independent()
  local seen, n = { shape = {}, colour = {}, count = {} }, 4000
  local c = canvas.new(16, 16)
  local pairs_seen = 0
  for i = 0, n - 1 do
    local truth = scenes.draw(c, 1, "train", i)
    for kind, counts in pairs(seen) do counts[truth[kind]] = (counts[truth[kind]] or 0) + 1 end
    if truth.shape == "star" and truth.colour == "red" then pairs_seen = pairs_seen + 1 end
  end
  for kind, counts in pairs(seen) do
    local classes = scenes.labels[kind]
    for _, class in ipairs(classes) do -- five standard deviations
      lu.assertAlmostEquals(counts[class], n / #classes, 5 * math.sqrt(n / #classes),
        kind .. " " .. class)
      counts[class] = nil
    end
    lu.assertNil(next(counts))
  end
  lu.assertAlmostEquals(pairs_seen, n / 64, 5 * math.sqrt(n / 64))
end

function tests.test_the_shape_is_there_in_its_colour()
  local c = canvas.new(64, 64)
  for i = 0, 199 do
    local truth = scenes.draw(c, 2, "train", i)
    lu.assertTrue(truth.x > 0 and truth.x < 1 and truth.y > 0 and truth.y < 1)
    if truth.shape == "disc" and truth.colour == "green" and truth.count == "0" then
      local r, g, b = canvas.split(c:get(truth.x * 64, truth.y * 64))
      lu.assertTrue(g > r and g > b)
    end
  end
end

function tests.test_other_sizes()
  for _, size in ipairs { 16, 96, 224 } do
    lu.assertEquals(#(draw(1, "train", 0, size)), size * size * 3)
  end
end

-- Walks a tar file: names and contents, checking each header's sum.
local function untar(path)
  local all, at, names, contents = read(path), 1, {}, {}
  lu.assertEquals(#all % 512, 0)
  while all:byte(at) ~= 0 do
    local header = all:sub(at, at + 511)
    local sum = 8 * 32
    for i = 1, 512 do sum = sum + ((i < 149 or i > 156) and header:byte(i) or 0) end
    lu.assertEquals(tonumber(header:sub(149, 154), 8), sum)
    lu.assertEquals(header:sub(258, 262), "ustar")
    local size = tonumber(header:sub(125, 135), 8)
    names[#names + 1] = header:match "^%Z+"
    contents[#contents + 1] = all:sub(at + 512, at + 511 + size)
    at = at + 512 + math.ceil(size / 512) * 512
  end
  lu.assertEquals(#all - at + 1, 1024)
  return names, contents
end

function tests.test_tar()
  local out = temporary_folder()
  local calls = 0
  local made = assert(scenes.generate { out = out, n = 300, test = 10, seed = 9, size = 32,
    label = "count",
    progress = function() calls = calls + 1 end })
  lu.assertEquals(made.classes, { "0", "1", "2", "3", "4", "5" })
  lu.assertEquals(calls, 1)
  local names, contents = untar(made.train)
  lu.assertEquals(#names, 300)
  lu.assertEquals(#untar(made.test), 10)
  local rows = {}
  for line in io.lines(out .. "/train.tsv") do rows[#rows + 1] = line end
  lu.assertEquals(#rows, 301)
  local _, truth = draw(9, "train", 41, 32)
  lu.assertEquals(names[42], truth.count .. "/000041.png")
  lu.assertStrContains(rows[43], names[42] .. "\t" .. truth.shape .. "\t" .. truth.colour)
  local path = out .. "/one.png"
  assert(F.C.ij_file_replace(path, contents[42], #contents[42]) == 0)
  local c = assert(canvas.load(path))
  lu.assertTrue(F.string(c.pixels, 32 * 32 * 3) == (draw(9, "train", 41, 32)))
  local before = read(made.train)
  scenes.generate { out = out, n = 300, test = 0, seed = 9, size = 32, label = "count" }
  lu.assertTrue(read(made.train) == before)
  for _, name in ipairs { "one.png", "train.tar", "test.tar", "train.tsv", "test.tsv" } do
    lu.assertTrue(os.remove(out .. "/" .. name))
  end
  lu.assertTrue(os.remove(out)) -- nothing else was left behind
end

function tests.test_folder()
  local out = temporary_folder()
  local made = assert(scenes.generate { out = out, n = 5, test = 0, form = "folder", size = 16 })
  lu.assertNil(made.test)
  lu.assertEquals(made.train, out .. "/train")
  for i = 0, 4 do
    local pixels, truth = draw(0, "train", i, 16)
    local path = string.format("%s/train/%s/%06d.png", out, truth.shape, i)
    local c = assert(canvas.load(path))
    lu.assertTrue(F.string(c.pixels, 768) == pixels)
    os.remove(path)
  end
  os.remove(out .. "/train.tsv")
  for _, class in ipairs(made.classes) do os.remove(out .. "/train/" .. class) end
  os.remove(out .. "/train")
  lu.assertTrue(os.remove(out))
end

function tests.test_interrupt()
  local out = temporary_folder()
  F.C.ij_interrupt_set(1)
  local made, message, code = scenes.generate { out = out, n = 5, test = 5, size = 16 }
  F.C.ij_interrupt_set(0)
  lu.assertNil(made)
  lu.assertStrContains(message, "interrupted")
  lu.assertEquals(code, tonumber(F.C.IJ_EINTERRUPT))
  lu.assertTrue(os.remove(out)) -- no half file stays
end

function tests.test_misuse_and_the_world()
  for _, options in ipairs {
    { seeds = 1 }, { n = "many" }, { n = 1.5 }, { n = -1 }, { size = 8 }, { label = "taste" },
      { form = "zip" },
    { [1] = 2 },
  } do
    lu.assertErrorMsgContains("test_scenes.lua:", function() scenes.generate(options) end)
  end
  lu.assertErrorMsgContains("test_scenes.lua:", function() scenes.generate(5) end)
  lu.assertErrorMsgContains("test_scenes.lua:",
    function() scenes.draw(canvas.new(64, 64), 1, "exam", 0) end)
  lu.assertErrorMsgContains("test_scenes.lua:",
    function() scenes.draw(canvas.new(64, 64), 1, "test", -1) end)
  lu.assertErrorMsgContains("test_scenes.lua:", function() scenes.draw({}, 1, "test", 0) end)
  local made, message, code = scenes.generate { out = "/dev/null/here", n = 1, test = 0 }
  lu.assertNil(made)
  lu.assertIsString(message)
  lu.assertIsNumber(code)
end

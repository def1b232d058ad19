-- Features of drawn images: what they are, and their cache: hit, miss by weights and by images,
-- damage, off.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local features, tensor, jepa = ijepa.features, ijepa.tensor, ijepa.jepa
local C = F.C

local tests = {}
TestFeatures = tests -- luacheck: ignore

local folder, images, encoder
local function new_encoder(seed)
  return jepa.encoder({ width = 8, depth = 3, heads = 2, patch = 8, crop = 16, seed = seed,
    init_gain = 1 }):requires_grad_(false)
end
function tests.setUp()
  folder = support.folder()
  images = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 24, test = 16, size = 16,
    label = "colour", form = "folder" })
  encoder = new_encoder(1)
end

local function cached()
  if C.ij_path_kind(folder .. "/cache") ~= 2 then return {} end
  local list = support.list(folder .. "/cache")
  for i, name in ipairs(list) do list[i] = folder .. "/cache/" .. name end
  return list
end
-- Features, and whether they were computed, as the extractor's own count says.
local computed, said
local function counted(e, blocks)
  local f = features.pooled(e, blocks)
  return features.extractor(f.name, e, function(x)
    computed = computed + 1
    return f(x)
  end)
end
local function read(e, over)
  local o = { root = images.train, crop = 16, resize = 16, workers = 0, cache = folder .. "/cache",
    say = function(text) said = text end }
  for k, v in pairs(over or {}) do o[k] = v end
  computed = 0
  local f = assert(features.of(counted(e or encoder, o.blocks), o))
  return f, computed > 0
end
-- The first image of a data set with class folders.
local function first_image(root)
  local class = root .. "/" .. support.list(root)[1]
  return class .. "/" .. support.list(class)[1]
end
local function same(a, b) lu.assertEquals(a:totable(), b:totable()) end

function tests.test_pooled_features_are_what_the_encoder_gives()
  local f = read(nil, { cache = false })
  local set = assert(ijepa.data.open { root = images.train, crop = 16, resize = 16, batch = 24,
    workers = 0 })
  local x, labels = set:read()
  lu.assertEquals(labels:totable(), f.y:totable())
  same(ijepa.no_grad(function() return encoder(x):mean(2) end), f.x)
  local both = assert(features.of(features.pooled_both(encoder, 2),
    { root = images.train, crop = 16, resize = 16, workers = 0, cache = false }))
  lu.assertEquals(both.x:shape(), { 24, 24 })
  local last, want = features.columns(both, 1, 8).x:read(), f.x:read()
  for i = 0, 24 * 8 - 1 do lu.assertAlmostEquals(last[i], want[i], 1e-5) end
  local tokens = assert(
    features.of(features.tokens(encoder),
    { root = images.train, crop = 16, resize = 16, cache = false }))
  lu.assertEquals(tokens.x:shape(), { 24, 4, 8 })
  local part = features.rows(f, { 3, 0 })
  lu.assertEquals(part.y:totable(), { f.y:totable()[4], f.y:totable()[1] })
  lu.assertEquals(part.sample:totable(), { 3, 0 })
  set:close()
end

function tests.test_hit_and_miss()
  local first, fresh = read()
  lu.assertTrue(fresh)
  lu.assertStrContains(said, "24 x 8, cached in " .. cached()[1])
  lu.assertEquals(#cached(), 1)
  local second
  second, fresh = read()
  lu.assertFalse(fresh)
  same(first.x, second.x)
  same(first.y, second.y)
  same(first.sample, second.sample)
  lu.assertEquals(second.classes, first.classes)
  lu.assertFalse(select(2, read(new_encoder(1))))          -- the same weights in another object
  lu.assertTrue(select(2, read(new_encoder(2))))           -- others
  local w = encoder.by_name["blocks.1.mlp.fc1.bias"].tensor
  w:narrow(1, 3, 1):fill_(.25)                             -- one number
  lu.assertTrue(select(2, read()))
  lu.assertTrue(select(2, read(nil, { blocks = 2 })))
  lu.assertTrue(select(2, read(nil, { resize = 20 })))
  lu.assertTrue(select(2, read(nil, { limit = 10 })))
  lu.assertTrue(select(2, read(nil, { limit = 10, seed = 1 })))
  lu.assertFalse(select(2, read(nil, { limit = 10, seed = 1 })))
  lu.assertEquals(#cached(), 7)
  assert(os.rename(folder .. "/scenes", folder .. "/moved"))
  local moved = images.train:gsub("/scenes/", "/moved/")
  lu.assertFalse(select(2, read(nil, { root = moved })))   -- the same images elsewhere
  lu.assertEquals((support.run { "touch", "-d", "2001-01-01", first_image(moved) }), 0)
  lu.assertTrue(select(2, read(nil, { root = moved })))
end

function tests.test_off()
  read(nil, { cache = false })
  lu.assertTrue(select(2, read(nil, { cache = false })))
  local function plain(x) return encoder(x):mean(2) end
  assert(features.of(plain, { root = images.train, crop = 16, cache = folder .. "/cache" }))
  lu.assertEquals(cached(), {})   -- nobody knows what a plain function computes
end

local function damage(path, at, text)
  local file = assert(io.open(path, "r+b"))
  file:seek(at < 0 and "end" or "set", at)
  file:write(text)
  file:close()
end
function tests.test_damaged_files_are_computed_again()
  local good = read()
  local path = cached()[1]
  local function again()
    local complaint
    local f, fresh = read(nil, { say = function(text) complaint = complaint or text end })
    lu.assertTrue(fresh)
    lu.assertStrContains(complaint, "is not used: ")
    lu.assertStrContains(complaint, "; computed again")
    same(f.x, good.x)
    lu.assertFalse(select(2, read()))
  end
  damage(path, -40, "\1")              -- a value
  again()
  damage(path, 0, "\255\255\255\255")  -- the header
  again()
  local file = assert(io.open(path, "wb"))   -- empty
  file:close()
  again()
  assert(ijepa.tensors.save(path,
    { { name = "x", dtype = "f32", shape = { 1 }, data = F.new "float[1]" } }))
  again()
end

function tests.test_a_cache_that_cannot_be_written_is_no_error()
  local file = assert(io.open(folder .. "/file", "w"))
  file:close()
  lu.assertTrue(select(2, read(nil, { cache = folder .. "/file/cache" })))
  lu.assertStrContains(said, "features are not cached: ")
end

function tests.test_folder()
  lu.assertEquals(features.folder "here", "here")
  lu.assertEquals({ support.run(
    { support.program, "-e", "print(require[[ijepa.features]].folder())" },
    { env = { XDG_CACHE_HOME = "/x/y" } }) }, { 0, "/x/y/ijepa\n", "" })
end

function tests.test_bad_input_is_one_line()
  local function refused(text, o, f)
    local got, message = features.of(f or features.pooled(encoder), o)
    lu.assertNil(got)
    lu.assertStrContains(message, text)
    lu.assertNotStrContains(message, "\n")
  end
  refused("has no classes", { root = images.train .. "/" .. read().classes[1], crop = 16,
    cache = false })
  encoder.by_name["norm.bias"].tensor:fill_(0 / 0)
  refused("the features hold NaN or infinity",
    { root = images.train, crop = 16, cache = folder .. "/cache" })
  lu.assertEquals(#cached(), 1)   -- the good ones alone
  support.write(images.train .. "/loose.png", support.read(first_image(images.train)))
  refused("an image lies in no class folder", { root = images.train, crop = 16, cache = false },
    features.pixels)
  support.remove(images.test .. "/"
    .. read(new_encoder(1), { root = images.test, cache = false }).classes[1])
  os.remove(images.train .. "/loose.png")
  local a, message = features.pair(features.pixels,
    { train = images.test, test = images.train, crop = 16, cache = false })
  lu.assertNil(a)
  lu.assertStrContains(message, "has the class")
end

function tests.test_the_same_images_to_train_and_test_are_named()
  local lines = {}
  local o = { train = images.train, test = images.train, cache = false,
    say = function(line) lines[#lines + 1] = line end }
  assert(features.pair(features.pixels, o))
  lu.assertEquals(lines, { ("warning: train and test are the same images ('%s'): the score says "
    .. "nothing about other images"):format(images.train) })
  local link = folder .. "/link"
  support.run { "ln", "-s", images.train, link }
  o.test, lines[1] = link, nil
  assert(features.pair(features.pixels, o))
  lu.assertEquals(lines, { ("warning: train and test are the same images ('%s' and '%s'): the score "
    .. "says nothing about other images"):format(images.train, link) })
  o.test, lines[1] = images.test, nil
  assert(features.pair(features.pixels, o))
  lu.assertEquals(lines, {})
end

function tests.test_tensor_is_used()   -- pixels: 0 to 1, a row an image
  local f = assert(features.of(features.pixels,
    { root = images.train, crop = 16, resize = 16, cache = false }))
  lu.assertEquals(f.x:shape(), { 24, 768 })
  local v, n = f.x:read()
  for i = 0, n - 1 do lu.assertTrue(v[i] >= 0 and v[i] <= 1) end
  lu.assertTrue(tensor.is(f.x))
end

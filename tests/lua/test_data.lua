-- Several sources, copies and manifests from Lua, from settings and from the command line.
local lu = require "luaunit"
local ijepa = require "ijepa"
local data = require "ijepa.data"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestData = tests -- luacheck: ignore

local program = support.program
local folder, one, two
function tests.setUp()
  folder = support.folder()
  one = assert(ijepa.scenes.generate { out = folder .. "/one", n = 24, test = 8, size = 32,
    form = "folder" })
  two = assert(ijepa.scenes.generate { out = folder .. "/two", n = 8, test = 8, size = 32,
    seed = 5 })
end

local function run(...) return support.run({ ... }, { merge = true }) end

local function refused(message, o)
  local d, why = data.open(o)
  lu.assertNil(d)
  lu.assertStrContains(why, message)
end

function tests.test_sources_are_mixed_by_weights()
  local d = assert(data.open { root = { one.train, two.train }, weights = { 1, 3 }, train = true,
    crop = 16, batch = 8, workers = 0 })
  lu.assertEquals({ d:count(), d:sources(), d:source(0), d:source(31), d:epoch_steps() },
    { 32, 2, 0, 1, 4 })
  local of = { [0] = 0, [1] = 0 }
  for _ = 1, 4 do
    local _, _, b = assert(d:read())
    for i = 0, b.count - 1 do
      local s = d:source(b.samples[i])
      of[s] = of[s] + 1
    end
  end
  lu.assertEquals(of, { [0] = 8, [1] = 24 })
  d:close()
  refused("data.weights has 1 value for 2 sources",
    { root = { one.train, two.train }, weights = { 1 } })
  refused("expected a number above 0", { root = { one.train, two.train }, weights = { 1, -1 } })
  refused("data.root is not set", { root = {} })
  refused("data.root is not set", {})
  refused("nowhere' is not there", { root = { one.train, folder .. "/nowhere" } })
end

-- A catalogue alone knows its images, and shows single ones; it starts no threads and needs no
-- batch size.
function tests.test_a_catalogue_alone()
  local list = assert(data.catalogue { root = { one.train, two.train } })
  local d = assert(data.open { root = { one.train, two.train }, crop = 16, batch = 8, workers = 1 })
  lu.assertEquals(list:count(), 32)
  lu.assertEquals(list:classes(), d:classes())
  lu.assertEquals({ list:name(0), list:label(0), list:source(31), list:stamp() },
    { d:name(0), d:label(0), d:source(31), d:stamp() })
  local x = assert(list:image(3, 0, { crop = 16 }))
  lu.assertEquals(x:shape(), { 1, 16, 16, 3 })
  lu.assertTrue(F.string(x:read(), 768) == F.string(assert(d:image(3)):read(), 768))
  local batch = assert(d:read())
  lu.assertTrue(F.string(batch:select(1, 4):read(), 768) == F.string(x:read(), 768))
  local pixels = F.new "uint8_t[768]"
  lu.assertTrue(d:image_into(3, 0, pixels))
  lu.assertTrue(F.string(pixels, 768) == F.string(x:read(), 768))
  lu.assertStrContains(select(2, d:image(32)), "image 32 of 32")
  lu.assertErrorMsgContains("options such as { crop = 224 } are missing",
    function() list:image(3) end)
  lu.assertEquals(d:corrupt_count(), 0)
  list:close()
  d:close()
end

function tests.test_copies_and_manifests()
  local said = {}
  local function say(text) said[#said + 1] = text end
  local d = assert(data.open { root = { one.train, two.train }, crop = 16, batch = 8, workers = 1,
    copy = folder .. "/local", say = say })
  lu.assertStrContains(said[1], "copied to " .. folder .. "/local: ")
  lu.assertEquals(C.ij_path_kind(folder .. "/local" .. two.train), 1)
  local files = {}
  for i = 0, 1 do
    files[i + 1] = ("%s/%d.txt"):format(folder, i)
    local lines = {}
    for line in assert(d:manifest(i)) do lines[#lines + 1] = line .. "\n" end
    support.write(files[i + 1], table.concat(lines))
  end
  lu.assertTrue(assert(d:verify(files, say)))
  lu.assertStrContains(said[#said], "1 file matches")
  local ok, message = d:verify(files[1])
  lu.assertNil(ok)
  lu.assertStrContains(message, "has 1 file for 2 sources")
  d:close()
  local bytes = support.read(two.train)
  support.write(two.train, bytes:sub(1, 2000) .. "x" .. bytes:sub(2002))
  refused("1 file is wrong: train.tar: differs from the manifest",
    { root = { one.train, two.train }, manifest = files })
  refused("lies in the data itself", { root = one.train, copy = one.train .. "/x" })
end

function tests.test_the_command_line()
  local code, sums, text = support.run { program, "manifest", one.train }
  lu.assertEquals(code, 0)
  lu.assertStrContains(text, "24 files in")
  lu.assertEquals({ support.run({ "sha256sum", "-c", "--quiet", "-" },
    { cwd = one.train, input = sums }) }, { 0, "", "" })
  code, text = run(program, "manifest")
  lu.assertEquals(code, 2)
  lu.assertStrContains(text, "one folder of images")
  code, text = run(program, "manifest", folder .. "/nowhere")
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "is not there")
end

local tiny = "data.batch=8 data.crop=32 data.workers=1 model.width=16 model.depth=1 model.heads=2 model.patch=4 model.pred_depth=1 " ..
  "model.pred_dim=8 mask.min_keep=3 mask.group=8 diagnose.every=0 "

-- A run over two sources, read from a copy and checked, and the same run interrupted and resumed:
-- equal bit for bit.
function tests.test_a_run_of_two_sources_resumes()
  local words = { ("data.root={%s,%s}"):format(one.train, two.train), "data.weights=2,1",
    "optim.epochs=2", "optim.warmup=1", support.split(tiny) }
  local function losses(out)
    local list = {}
    for line in io.lines(("%s/%s/jepa_r0.csv"):format(folder, out)) do
      list[#list + 1] = line:match "^([^,]*,[^,]*,[^,]*)"
    end
    return list
  end
  local code, text = run(program, "recipes/pretrain.lua", "out=" .. folder .. "/a", words)
  lu.assertEquals(code, 0, text)
  for name, images in pairs { m1 = one, m2 = two } do
    local status, sums = support.run { program, "manifest", images.train }
    lu.assertEquals(status, 0)
    support.write(folder .. "/" .. name, sums)
  end
  words = { words, "data.copy=" .. folder .. "/local", "out=" .. folder .. "/b",
    ("data.manifest={%s/m1,%s/m2}"):format(folder, folder) }
  code, text = run(program, "recipes/pretrain.lua", words, "optim.steps=3")
  lu.assertEquals(code, 0, text)
  lu.assertStrContains(text, "24 files match")
  code, text = run(program, "recipes/pretrain.lua", words)
  lu.assertEquals(code, 0, text)
  lu.assertEquals(losses "b", losses "a")
  lu.assertTrue(#losses "a" >= 8)
end

-- What holds images and is not read is named.
function tests.test_archives_that_are_not_read_are_named()
  local image = support.read(two.train)
  for _, name in ipairs { "mixed", "inner", "outer" } do
    assert(F.try(C.ij_mkdirs(folder .. "/" .. name)))
  end
  support.write(folder .. "/mixed/a.tar", image)
  support.write(folder .. "/mixed/1.png", "")
  support.write(folder .. "/inner/a.tar", image)
  lu.assertEquals((run("tar", "-cf", folder .. "/outer/b.tar", "-C", folder .. "/inner",
    "a.tar")), 0)
  support.write(folder .. "/outer/c.tgz", "")
  lu.assertEquals((run("tar", "-cf", folder .. "/deep.tar", "-C", folder .. "/outer", "b.tar",
    "c.tgz", "-C", folder .. "/inner", "a.tar")), 0)
  support.write(folder .. "/cut.tar", image:gsub("%z+$", "") .. "")
  local function complaints(name)
    local d = assert(data.open { root = folder .. "/" .. name, crop = 16, batch = 1, workers = 0 })
    local list = d:complaints()
    d:close()
    return table.concat(list, "\n")
  end
  lu.assertStrContains(complaints "mixed", "a.tar: archives beside images are not read")
  lu.assertStrContains(complaints "deep.tar",
    "b/a.tar: an archive in the tar, which is not read: it lies too deep")
  lu.assertStrContains(complaints "deep.tar",
    "c.tgz: an archive in the tar, which is not read: it is no plain tar")
  lu.assertStrContains(complaints "cut.tar", "the tar is cut off")
end

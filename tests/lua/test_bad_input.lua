-- Bad input, each as a user meets it: one clear line on stderr, an exit code that is not 0, earlier
-- checkpoints whole.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestBadInput = tests -- luacheck: ignore

local program, slurp, write = support.program, support.read, support.write
local folder, images
local function make()   -- once for all tests of this file
  images = support.folder "file"
  local px = F.new("uint8_t[?]", 40 * 40 * 3)
  for i = 1, 24 do
    for k = 0, 40 * 40 * 3 - 1 do px[k] = (k * i) % 251 end
    assert(F.try(C.ij_image_save(("%s/p%02d.png"):format(images, i), px, 40, 40)))
  end
end
function tests.setUp()
  if not images then make() end
  folder = support.folder()
  F.check(C.ij_mkdirs(folder .. "/images"))
  F.check(C.ij_mkdirs(folder .. "/empty"))
  for _, name in ipairs(support.list(images)) do
    F.check(C.ij_file_link(images .. "/" .. name, folder .. "/images/" .. name))
  end
end

local TINY = "data.batch=4 data.crop=32 data.workers=1 model.width=16 model.depth=1 model.heads=2 model.patch=4 model.pred_depth=1 "
  .. "model.pred_dim=8 mask.min_keep=3 optim.epochs=1 optim.warmup=0 optim.steps=3 "

-- Exit code and output of the recipe for one's own images; before: a shell's commands ahead of it.
local function pretrain(words, before)
  local argv = { program, "recipes/pretrain.lua", support.split(TINY), "out=" .. folder .. "/run",
    support.split(words) }
  if before then argv = { "sh", "-c", before .. ' exec "$@"', "sh", argv } end
  return support.run(argv, { merge = true })
end

-- The last line of what was said has all of these in it; no traceback, no place in our own sources.
local function refused(words, ...)
  local code, text = pretrain(words)
  lu.assertEquals(code, 1, text)
  local last = text:match "([^\n]+)\n*$" or ""
  for _, part in ipairs { ... } do lu.assertStrContains(text, part) end
  lu.assertNotStrContains(text, "traceback")
  lu.assertNotStrContains(text, "lua/ijepa/")
  lu.assertTrue(#last < 400, last)
  return text
end

function tests.test_wrong_key_and_type()
  refused("data.bacth=4", "unknown key 'data.bacth'", "did you mean 'data.batch'")
  refused("data.batch=many", "'data.batch' is 'many', expected an integer")
  refused("data.batch=0", "'data.batch' is 0", "expected 1 or more")
  refused("model.dtype=fp16", "one of f32, bf16")
  -- data.root is looked at first: still one line
  refused("model.arch=vit_enormous model.width=16", "images")
end

function tests.test_folders()
  refused("", "data.root is not set")
  refused("data.root=" .. folder .. "/nowhere", folder .. "/nowhere")
  refused("data.root=" .. folder .. "/empty", folder .. "/empty", "no image")
  refused("data.batch=100 data.root=" .. folder .. "/images", "24 images", "data.batch")
end

function tests.test_masks_that_can_never_be_valid()
  refused("mask.min_keep=60 data.root=" .. folder .. "/images", "min_keep 60")
  refused("mask.target.scale=0.5,0.2 data.root=" .. folder .. "/images", "'mask.target.scale'")
end

function tests.test_sizes_that_do_not_fit()
  refused("model.patch=5 data.root=" .. folder .. "/images", "32", "patches of 5")
  refused("model.heads=3 data.root=" .. folder .. "/images", "width 16 does not divide by 3 heads")
end

local function trained()
  local code, text = pretrain("data.root=" .. folder .. "/images")
  lu.assertEquals(code, 0, text)
  return folder .. "/run/jepa-latest.safetensors"
end
function tests.test_checkpoint_of_another_architecture()
  local path = trained()
  local before = slurp(path)
  refused("optim.steps=5 model.width=32 data.root=" .. folder .. "/images",
    "model.width 16 -> 32: another model", "resume=false")
  lu.assertTrue(slurp(path) == before)
end

function tests.test_unreadable_checkpoint()
  local path = trained()
  local text = slurp(path)
  write(path, text:sub(1, #text / 2))
  local code, said = support.run({ program, "recipes/probe_linear.lua", "run=" .. path, "train=x",
    "test=y" }, { merge = true })
  lu.assertStrContains(said, path)
  lu.assertEquals(code, 1, said)
end

function tests.test_odd_images_are_read_and_broken_ones_named()
  local one = F.new("uint8_t[3]", 1, 2, 3)
  assert(F.try(C.ij_image_save(folder .. "/images/tiny.png", one, 1, 1)))
  local jpeg = slurp(folder .. "/images/p01.png")
  write(folder .. "/images/broken.png", jpeg:sub(1, 60))
  write(folder .. "/images/empty.jpg", "")
  -- 16 bit grey with alpha, as PAM and PPM: what libvips reads without help
  write(folder .. "/images/deep.ppm", "P6\n4 4\n65535\n" .. ("\1\2\3\4\5\6"):rep(16))
  local code, text = pretrain("data.max_bad=0.2 optim.steps=0 data.root=" .. folder .. "/images")
  lu.assertEquals(code, 0, text)
  lu.assertStrContains(text, "broken.png")
  lu.assertStrContains(text, "empty.jpg")
  lu.assertNotStrContains(text, "tiny.png")
  code, text = pretrain("data.max_bad=0 resume=false optim.steps=0 data.root=" .. folder
    .. "/images")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, " corrupt, a larger fraction than data.max_bad = 0")
end

-- A byte order mark in front: UTF-8's is skipped, UTF-16 is named (YAML is read in both).
function tests.test_byte_order_marks()
  local recipe = 'local ijepa = require "ijepa"\nprint("ran " .. ijepa.args[1])\n'
  local policy = "return function(rng, grid)\n  local t = grid:random_block(rng, 3, 3)\n" ..
    "  return -t, { t }\nend\n"
  local yaml = "data:\n  batch_size: 7\n"
  local function utf16(s, big)
    return (big and "\254\255" or "\255\254") ..
      s:gsub(".", function(c) return big and "\0" .. c or c .. "\0" end)
  end
  local function run(...) return support.run({ program, ... }, { merge = true }) end
  local code, said
  write(folder .. "/r.lua", "\239\187\191" .. recipe)
  lu.assertEquals({ run(folder .. "/r.lua", "here") }, { 0, "ran here\n", "" })
  write(folder .. "/p.lua", "\239\187\191" .. policy)
  write(folder .. "/names.txt", "\239\187\191p01.png\np02.png\np03.png\np04.png\n")
  code, said = pretrain("data.root=" .. folder .. "/images data.subset=" .. folder ..
    "/names.txt mask.policy=" .. folder .. "/p.lua")
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, "\n4 images, ")
  for _, big in ipairs { false, true } do
    write(folder .. "/r.lua", utf16(recipe, big))
    for _, words in ipairs { { folder .. "/r.lua" }, { "memory", folder .. "/r.lua" },
      { "help", folder .. "/r.lua" } } do
      code, said = run(words)
      lu.assertEquals(code, 1)
      lu.assertStrContains(said, folder .. "/r.lua:1: the file is UTF-16; save it as UTF-8\n")
    end
    write(folder .. "/p.lua", utf16(policy, big))
    local root = "data.root=" .. folder .. "/images "
    for words, want in pairs {
      [root .. "mask.policy=" .. folder .. "/p.lua"] =
        "p.lua:1: mask policy: the file is UTF-16; save it as UTF-8",
      ["data.root=" .. write(folder .. "/list.txt", utf16("a.tar\n", big))] =
        "list.txt' is UTF-16; save it as UTF-8",
      [root .. "data.subset=" .. write(folder .. "/names.txt", utf16("p01.png\n", big))] =
        "names.txt' is UTF-16; save it as UTF-8",
      [root .. "data.manifest=" .. write(folder .. "/sums", utf16("0  p01.png\n", big))] =
        "sums' is UTF-16; save it as UTF-8" } do
      code, said = pretrain(words)
      lu.assertEquals(code, 1)
      lu.assertStrContains(said, want)
    end
    write(folder .. "/c.yaml", utf16(yaml, big))
    code, said = run("import", folder .. "/c.yaml")
    lu.assertEquals(code, 0, said)
    lu.assertStrContains(said, "batch = 7")
  end
  write(folder .. "/c.yaml", "\239\187\191" .. yaml)
  code, said = run("import", folder .. "/c.yaml")
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, "batch = 7")
end

function tests.test_out_of_memory_is_one_line()
  local code, text = pretrain("model.width=8192 model.heads=8 model.depth=20 data.root=" .. folder
    .. "/images", "ulimit -v 1500000;")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "out of memory")
end

function tests.test_full_disk_leaves_the_old_checkpoint()
  local path = trained()
  local before = slurp(path)
  -- a limit on the size of written files stands for the full disk: the write fails in the same
  -- place
  local code, text = pretrain("optim.epochs=2 optim.steps=6 data.root=" .. folder .. "/images",
    "trap '' XFSZ; ulimit -f 8;")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "jepa-latest.safetensors")
  lu.assertTrue(slurp(path) == before)
end

function tests.test_two_classes_are_needed_to_probe()
  local path = trained()
  local code, said = support.run({ program, "recipes/probe_linear.lua", "run=" .. path,
    "train=" .. folder .. "/images", "test=" .. folder .. "/images", "resize=32" },
      { merge = true })
  lu.assertStrContains(said, "no classes")
  lu.assertEquals(code, 1, said)
end

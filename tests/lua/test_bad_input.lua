-- Bad input, each as a user meets it: one clear line on stderr, an exit code that is not 0, earlier checkpoints whole.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestBadInput = tests -- luacheck: ignore

local program = os.getenv "IJEPA_PROGRAM" or "build/ijepa"
local folder
function tests.setUp()
  folder = os.tmpname()
  os.remove(folder)
  assert(F.try(C.ij_mkdirs(folder .. "/images")))
  assert(F.try(C.ij_mkdirs(folder .. "/empty")))
  local px = F.new("uint8_t[?]", 40 * 40 * 3)
  for i = 1, 24 do
    for k = 0, 40 * 40 * 3 - 1 do px[k] = (k * i) % 251 end
    assert(F.try(C.ij_image_save(("%s/images/p%02d.png"):format(folder, i), px, 40, 40)))
  end
end
function tests.tearDown() os.execute("rm -rf " .. folder) end

local TINY = "data.batch=4 data.crop=32 data.workers=1 model.width=16 model.depth=1 model.heads=2 model.patch=4 model.pred_depth=1 "
  .. "model.pred_dim=8 mask.min_keep=3 optim.epochs=1 optim.warmup=0 optim.steps=3 "

-- Exit code, and what was said, of the recipe for one's own images.
local function pretrain(words, before)
  local pipe = io.popen(("cd %s && %s %s %s %s out=%s/run %s 2>&1; echo exit $?"):format(os.getenv "PWD", before or "", program,
    "recipes/pretrain.lua", TINY, folder, words))
  local text = pipe:read "*a"
  pipe:close()
  return tonumber(text:match "exit (%d+)%s*$"), (text:gsub("exit %d+%s*$", ""))
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
  refused("model.arch=vit_enormous model.width=16", "images")   -- data.root is looked at first: still one line
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
local function slurp(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end
local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

function tests.test_checkpoint_of_another_architecture()
  local path = trained()
  local before = slurp(path)
  refused("optim.steps=5 model.width=32 data.root=" .. folder .. "/images", "another architecture", "resume=false")
  lu.assertTrue(slurp(path) == before)
end

function tests.test_unreadable_checkpoint()
  local path = trained()
  local text = slurp(path)
  write(path, text:sub(1, #text / 2))
  local pipe = io.popen(("%s recipes/probe_linear.lua run=%s train=x test=y 2>&1; echo exit $?"):format(program, path))
  local said = pipe:read "*a"
  pipe:close()
  lu.assertStrContains(said, path)
  lu.assertStrContains(said, "exit 1")
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
  code, text = pretrain("data.max_bad=0 resume=false optim.steps=0 data.root=" .. folder .. "/images")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "images are corrupt")
end

function tests.test_out_of_memory_is_one_line()
  local code, text = pretrain("model.width=8192 model.heads=8 model.depth=20 data.root=" .. folder .. "/images", "ulimit -v 1500000;")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "out of memory")
end

function tests.test_full_disk_leaves_the_old_checkpoint()
  local path = trained()
  local before = slurp(path)
  -- a limit on the size of written files stands for the full disk: the write fails in the same place
  local code, text = pretrain("optim.epochs=2 optim.steps=6 data.root=" .. folder .. "/images", "trap '' XFSZ; ulimit -f 8;")
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "jepa-latest.safetensors")
  lu.assertTrue(slurp(path) == before)
end

function tests.test_two_classes_are_needed_to_probe()
  local path = trained()
  local pipe = io.popen(("%s recipes/probe_linear.lua run=%s train=%s test=%s resize=32 2>&1; echo exit $?"):format(program, path,
    folder .. "/images", folder .. "/images"))
  local said = pipe:read "*a"
  pipe:close()
  lu.assertStrContains(said, "no classes")
  lu.assertStrContains(said, "exit 1")
end

if not ... then os.exit(lu.LuaUnit.run()) end

-- The pixels of every format in docs/data.md: tests/golden/images holds small files of each kind,
-- made by Pillow (tests/golden/images.py), and expected.safetensors the RGB values they must give.
local lu = require "luaunit"
local data = require "ijepa.data"
local support = require "support"
local json = require "cjson"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestImages = tests -- luacheck: ignore

local golden = "tests/golden/images"
local folder

function tests.setUp()
  folder = os.tmpname()
  os.remove(folder)
  assert(F.try(C.ij_mkdirs(folder)))
end
function tests.tearDown() os.execute("rm -rf " .. folder) end

local function slurp(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read "*a"
  f:close()
  return bytes
end
local function spit(path, bytes)
  local f = assert(io.open(path, "wb"))
  f:write(bytes)
  f:close()
end

-- What the golden file holds: by key {height, width, bytes}; the ranges by file name.
local function expectations()
  local bytes = slurp(golden .. "/expected.safetensors")
  local n, base = 0, 256 ^ 8
  for i = 8, 1, -1 do
    base = base / 256
    n = n + bytes:byte(i) * base
  end
  local header, list = json.decode(bytes:sub(9, 8 + n)), {}
  for key, t in pairs(header) do
    if key ~= "__metadata__" then
      list[key] = { h = t.shape[1], w = t.shape[2],
        bytes = bytes:sub(9 + n + t.data_offsets[1], 8 + n + t.data_offsets[2]) }
    end
  end
  return list, json.decode(header.__metadata__.ranges)
end

-- One file as h x w pixels, without resampling: a string of RGB, or nil and a message.
local function decode(file, h, w, options)
  local one = folder .. "/one"
  os.execute(("rm -rf %s; mkdir %s; cp %s %s"):format(one, one, file, one))
  local o = { root = one }
  for k, v in pairs(options or {}) do o[k] = v end
  local c, why = data.catalogue(o)
  if not c then return nil, why end
  local pixels = F.new("uint8_t[?]", h * w * 3)
  local v = F.new "ij_view"
  v.height, v.width, v.resize = h, w, math.min(h, w)
  local ok, message = F.try(C.ij_catalogue_image(c.c, v, 0, 0, pixels))
  c:close()
  if not ok then return nil, message end
  return F.string(pixels, h * w * 3)
end

local function difference(a, b)
  local most = 0
  for i = 1, #a do most = math.max(most, math.abs(a:byte(i) - b:byte(i))) end
  return most
end

-- JPEG: libjpeg-turbo gives the same bytes for its accurate inverse DCT in all versions and on all
-- CPUs; only the smooth upsampling of colours (rgb420.jpg, whole.jpg) differs, by one level.
-- HEIC is without loss here.
local tolerance = { jpg = 1, ["jpeg.tif"] = 1, ["rgb.avif"] = 1, ["grey.heic"] = 1 }

function tests.test_every_golden_image_has_pillows_pixels()
  local expected, ranges = expectations()
  local count = 0
  for key, want in pairs(expected) do
    local name, variant = key:match "^([^@]+)@?(.*)$"
    local options = { range = variant == "range" and ranges[name] or nil,
      orient = (variant == "exif" or variant == "stored") and variant or nil }
    local got, why = decode(golden .. "/" .. name, want.h, want.w, options)
    if not got then error(key .. ": " .. why) end
    local allowed = tolerance[name] or tolerance[name:match "%.(%w+)$"] or 0
    lu.assertTrue(difference(got, want.bytes) <= allowed, key)
    count = count + 1
  end
  lu.assertTrue(count >= 85, count)
end

function tests.test_truncated_files_are_called_that()
  for file, kind in pairs { ["rgb.png"] = "PNG", ["rgb.tif"] = "TIFF", ["rgb.bmp"] = "BMP",
    ["rgb.ppm"] = "PNM", ["whole.jpg"] = "JPEG", ["rgb.webp"] = "WebP", ["rgb.gif"] = "GIF",
    ["rgb.heic"] = "HEIF", ["rgb.avif"] = "HEIF" } do
    local got, why = decode(golden .. "/truncated_" .. file, 16, 24)
    lu.assertTrue(got == nil, file)
    lu.assertEquals(why, "truncated " .. kind)
  end
end

-- Every shorter version of a file is truncated, or still has all pixels: never another kind.
function tests.test_any_cut_is_called_truncated()
  local expected = expectations()
  for _, name in ipairs { "rgb.png", "rgb.bmp", "rgb.ppm", "ascii.ppm", "bits.pbm", "rgb.gif",
    "rgb.webp", "rgb.tif",
    "lzw.tif", "palette.bmp", "runs4.bmp", "runs8.bmp",
    "ascii.pbm", "animation.gif", "rgb.heic", "rgb.avif" } do
    local bytes, want = slurp(golden .. "/" .. name), expected[name]
    for _, part in ipairs { .2, .4, .7, .9, .97 } do
      local file = folder .. "/cut." .. name:match "%w+$"
      spit(file, bytes:sub(1, math.floor(#bytes * part)))
      local got, why = decode(file, want.h, want.w)
      if got then lu.assertTrue(got == want.bytes, ("%s, %g of it"):format(name, part))
      else lu.assertStrContains(why, "truncated", false, ("%s, %g of it"):format(name, part)) end
    end
  end
end

-- A libvips without libheif is a fault of the machine: the run stops and says what to install.
-- VIPSHOME names the folder of libvips' modules; here it has none.
function tests.test_heic_without_libheif_says_what_to_install()
  local images = folder .. "/images"
  os.execute(("mkdir %s; cp %s/rgb.heic %s"):format(images, golden, images))
  local script = support.write(folder .. "/read.lua", ([[
    local d = assert(require "ijepa.data".open { root = "%s", crop = 16, batch = 1, workers = 0 })
    local batch, why = d:read()
    print(batch and "read" or why, d:corrupt_count())]]):format(images))
  local _, said = support.run { support.program, script }
  lu.assertEquals(said, "read\t0\n")
  _, said = support.run({ support.program, script }, { env = { VIPSHOME = folder } })
  if said == "read\t0\n" then lu.skip "this libvips has libheif built in" end
  lu.assertEquals(said, ("data '%s': image 'rgb.heic': HEIC and AVIF need libheif in libvips, " ..
    "which this one lacks (Debian's libvips42 and libheif1 have it); install them, or leave " ..
    "these images out\t0\n"):format(images))
end

function tests.test_bands_of_no_known_meaning_are_refused()
  local planar = "TIFF of several bands in separate planes that are not RGB or CMYK, " ..
    "which libvips reads wrongly"
  for name, want in pairs {
    ["bands4.tif"] = "4 bands of no known meaning; expected grey, RGB or CMYK",
    ["planar_grey.tif"] = planar,
    ["ycbcr.tif"] =
      "TIFF of YCbCr values without JPEG compression, which libvips reads wrongly",
    ["planar4.tif"] = planar } do
    local got, why = decode(golden .. "/" .. name, 16, 24)
    lu.assertEquals({ got ~= nil, why }, { false, want }, name)
  end
end

function tests.test_damaged_jpegs_are_decoded_or_skipped()
  local expected = expectations()
  for _, name in ipairs { "early_eoi.jpg", "stray_rst.jpg" } do
    local want = expected[name]
    local got = assert(decode(golden .. "/" .. name, want.h, want.w, { damaged = "decode" }))
    lu.assertTrue(difference(got, want.bytes) <= 1, name)
  end
  -- libjpeg warns of the first alone: a restart marker before the end of the file changes nothing
  local cut = expected["early_eoi.jpg"]
  local got, why = decode(golden .. "/early_eoi.jpg", cut.h, cut.w, { damaged = "skip" })
  lu.assertEquals({ got ~= nil, why }, { false, "damaged JPEG: its data ends too early" })
  local whole = expected["whole.jpg"] -- one that has nothing wrong is never skipped
  got = assert(decode(golden .. "/whole.jpg", whole.h, whole.w, { damaged = "skip" }))
  lu.assertTrue(difference(got, whole.bytes) <= 1)
end

-- 12 bits in 16 are nearly black without a range: one warning per data set, with the file and the
-- setting.
function tests.test_images_without_contrast_are_named_once()
  assert(F.try(C.ij_mkdirs(folder .. "/dark")))
  local dark = slurp(golden .. "/grey12in16.png")
  for i = 1, 4 do spit(("%s/dark/%d.png"):format(folder, i), dark) end
  spit(folder .. "/dark/5.png", slurp(golden .. "/grey16.png"))
  local function complaints(options)
    options.root, options.crop, options.resize = folder .. "/dark", { 16, 24 }, 16
    options.batch, options.workers = 5, 0
    local d = assert(data.open(options))
    local list = {}
    for _ = 1, 2 do
      assert(d:read())
      for _, line in ipairs(d:complaints()) do list[#list + 1] = line end
      d:seek(0, 0)
    end
    lu.assertEquals(d:corrupt_count(), 0)
    d:close()
    return list
  end
  lu.assertEquals(complaints {}, { "image 1.png: next to no contrast: " ..
    "data.range={low,high} sets the values that become black and white" })
  lu.assertEquals(complaints { range = { 0, 4095 } }, {})
end

-- Probes, figures and the report decode a data set as the run did: here with data.range.
function tests.test_readers_of_a_run_decode_as_it_was_trained()
  local ijepa = require "ijepa"
  local given = ijepa.args
  ijepa.args = {}
  local root, dark = folder .. "/set", slurp(golden .. "/grey12in16.png")
  for i = 1, 8 do
    local class = ("%s/%s"):format(root, i % 2 == 0 and "a" or "b")
    assert(F.try(C.ij_mkdirs(class)))
    spit(("%s/%d.png"):format(class, i), dark)
  end
  local run = folder .. "/run"
  ijepa.pretrain(ijepa.config { out = run,
    data = { root = root, batch = 8, crop = 16, workers = 0, range = { 0, 4095 } },
    model = { width = 16, depth = 1, heads = 2, patch = 2, pred_depth = 1, pred_dim = 8 },
    mask = { min_keep = 1, group = 8 }, optim = { steps = 1, warmup = 0 },
    diagnose = { every = 0 } })
  ijepa.args = given
  local function brightest(x)
    local p, most = x:read(), 0
    for i = 0, x:numel() - 1 do most = math.max(most, p[i]) end
    return most
  end
  local d = assert(data.open { root = root, crop = 16, batch = 1, workers = 0,
    range = { 0, 4095 } })
  local want = brightest(assert(d:read()))
  d:close()
  lu.assertTrue(want > 200)   -- without the range it is below 20
  local m = assert(ijepa.model(run))
  lu.assertEquals(brightest(ijepa.plot.batch(root, m.target)), want)
  local encoder = assert(ijepa.load(run))
  lu.assertEquals(encoder.settings.data.range, { 0, 4095 })
  local seen = 0
  local f = ijepa.features.extractor("own", encoder, function(x)
    seen = math.max(seen, brightest(x))
    return encoder(x):mean(2)
  end)
  assert(ijepa.features.of(f, { root = root, crop = 16, cache = false }))
  lu.assertEquals(seen, want)
end

function tests.test_wrong_settings_are_refused()
  for want, o in pairs {
    ["data.orient = 'up': expected torchvision, exif or stored"] = { orient = "up" },
    ["data.damaged = 'keep': expected decode or skip"] = { damaged = "keep" },
    ["data.range = '9,9': expected two numbers, low and high, rising"] = { range = { 9, 9 } } } do
    o.root = golden
    local c, why = data.catalogue(o)
    lu.assertNil(c)
    lu.assertEquals(why, want)
  end
end

return tests

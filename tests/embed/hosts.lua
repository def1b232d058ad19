-- ijepa tests/embed/hosts.lua HOST...: each program must print the features that Lua finds; and
-- refuse in words what is no checkpoint.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C
local folder = os.tmpname()
os.remove(folder)
F.check(C.ij_mkdirs(folder))
local checkpoint, image, broken = folder .. "/a.safetensors", folder .. "/a.png",
  folder .. "/b.safetensors"

local H, W = 40, 56
local pixels = F.new("uint8_t[?]", H * W * 3)
for i = 0, H * W * 3 - 1 do pixels[i] = (i * i / 7 + i) % 256 end
F.check(C.ij_image_save(image, pixels, H, W))

local cfg = { model = { arch = "vit_tiny", width = 48, depth = 2, heads = 3, patch = 8 },
  data = { crop = { 32, 48 } }, seed = 5 }
local encoder = ijepa.jepa.encoder { width = 48, depth = 2, heads = 3, patch = 8, crop = { 32, 48 },
  seed = 5 }
local target = ijepa.jepa.encoder { width = 48, depth = 2, heads = 3, patch = 8, crop = { 32, 48 },
  seed = 6 }
local predictor = ijepa.jepa.predictor(encoder, { depth = 1, width = 24 })
local whole = { encoder = encoder, predictor = predictor, target_encoder = target,
  opt = ijepa.optim.adamw { models = { encoder } } }
assert(ijepa.state.save(checkpoint, whole, cfg, { step = 1 }))
cfg.model.depth = 3
assert(ijepa.state.save(broken, whole, cfg, { step = 1 }))


-- A run of square images in every layout that the world has: the heads of a published width are
-- known, those of another stand in Hugging Face's config.json alone.
local function exported(name, width, heads, format)
  local model, path = { width = width, depth = 2, heads = heads, patch = 8, crop = 32, seed = 7 },
    folder .. "/" .. name
  local e = ijepa.jepa.encoder(model)
  assert(ijepa.state.save(folder .. "/square.safetensors",
    { encoder = e, target_encoder = e, opt = ijepa.optim.adamw { models = { e } },
    predictor = ijepa.jepa.predictor(e, { depth = 1, width = 24 }) },
      { model = model, data = { crop = 32 } }, { step = 1, epoch = 1 }))
  assert(require "ijepa.export".write(folder .. "/square.safetensors",
    { format = format, out = path }))
  return format == "hf" and path .. "/model.safetensors" or path, e
end
local layouts = { { exported("a.pth.tar", 192, 3, "pth") },
  { exported("timm.safetensors", 192, 3, "timm") }, { exported("hf", 48, 4, "hf") } }
local headless = exported("headless.safetensors", 48, 4, "timm")

local function features(e, h, w)
  local crop = F.new("uint8_t[?]", h * w * 3)
  F.check(C.ij_image_crop(pixels, H, W, 0, 0, H, W, h, w, crop))
  return e(ijepa.tensor.from_pointer(crop, { 1, h, w, 3 }, "u8")):mean(2):read()
end
local expected = features(target, 32, 48)

local function output(host, path)
  local pipe = assert(io.popen(("'%s' '%s' '%s' 2>&1; echo $?"):format(host, path, image)))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines, table.remove(lines)
end

local function same(host, path, wanted, width)
  local lines, code = output(host, path)
  assert(code == "0", table.concat(lines, "\n"))
  assert(#lines == width, ("%s: %d features, expected %d"):format(host, #lines, width))
  for i, line in ipairs(lines) do
    assert(math.abs(tonumber(line) - wanted[i - 1]) <= 1e-6,
      ("%s: feature %d is %s, expected %.9g"):format(host, i, line, wanted[i - 1]))
  end
end
local function refused(host, path, why)
  local lines, code = output(host, path)
  assert(code == "1" and lines[1]:find(why, 1, true), lines[1])
end

for _, host in ipairs(ijepa.args) do
  same(host, checkpoint, expected, 48)
  for _, layout in ipairs(layouts) do
    same(host, layout[1], features(layout[2], 32, 32), layout[2].width)
  end
  refused(host, broken, "lacks the tensor 'target_encoder.blocks.2")
  refused(host, image, "not a complete safetensors file")
  refused(host, headless, "does not describe its model: the count of heads")
  print(host .. ": the features that Lua finds")
end
os.execute("rm -r " .. folder)

-- ijepa tests/embed/hosts.lua HOST...: each program must print the features that Lua finds; and refuse in words what is no
-- checkpoint.
local ijepa = require "ijepa"
local F = require "ijepa._ffi"
local C = F.C
local folder = os.tmpname()
os.remove(folder)
F.check(C.ij_mkdirs(folder))
local checkpoint, picture, broken = folder .. "/a.safetensors", folder .. "/a.png", folder .. "/b.safetensors"

local H, W = 40, 56
local pixels = F.new("uint8_t[?]", H * W * 3)
for i = 0, H * W * 3 - 1 do pixels[i] = (i * i / 7 + i) % 256 end
F.check(C.ij_picture_save(picture, pixels, H, W))

local cfg = { model = { arch = "vit_tiny", width = 48, depth = 2, heads = 3, patch = 8 }, data = { crop = { 32, 48 } }, seed = 5 }
local encoder = ijepa.jepa.encoder { width = 48, depth = 2, heads = 3, patch = 8, crop = { 32, 48 }, seed = 5 }
local target = ijepa.jepa.encoder { width = 48, depth = 2, heads = 3, patch = 8, crop = { 32, 48 }, seed = 6 }
local predictor = ijepa.jepa.predictor(encoder, { depth = 1, width = 24 })
local whole = { encoder = encoder, predictor = predictor, target_encoder = target, opt = ijepa.optim.adamw { models = { encoder } } }
assert(ijepa.state.save(checkpoint, whole, cfg, { step = 1 }))
cfg.model.depth = 3
assert(ijepa.state.save(broken, whole, cfg, { step = 1 }))

local crop = F.new("uint8_t[?]", 32 * 48 * 3)
F.check(C.ij_picture_crop(pixels, H, W, 0, 0, H, W, 32, 48, crop))
local expected = target(ijepa.tensor.from_pointer(crop, { 1, 32, 48, 3 }, "u8")):mean(2):read()

local function output(host, path)
  local pipe = assert(io.popen(("'%s' '%s' '%s' 2>&1; echo $?"):format(host, path, picture)))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines, table.remove(lines)
end

for _, host in ipairs(ijepa.args) do
  local lines, code = output(host, checkpoint)
  assert(code == "0", table.concat(lines, "\n"))
  assert(#lines == 48, ("%s: %d features, expected 48"):format(host, #lines))
  for i, line in ipairs(lines) do
    assert(math.abs(tonumber(line) - expected[i - 1]) <= 1e-6, ("%s: feature %d is %s, expected %.9g"):format(host, i, line, expected[i - 1]))
  end
  lines, code = output(host, broken)
  assert(code == "1" and lines[1]:find "lacks the tensor 'target_encoder.blocks.2", lines[1])
  lines, code = output(host, picture)
  assert(code == "1" and lines[1]:find "not a whole safetensors file", lines[1])
  print(host .. ": the features that Lua finds")
end
for _, path in ipairs { checkpoint, broken, picture, folder } do os.remove(path) end

-- ijepa tests/python/make.lua FOLDER: a small run after three updates
-- (FOLDER/run/jepa-latest.safetensors), and an image with the features of its target encoder
-- (FOLDER/features.safetensors: images, features). ijepa tests/python/make.lua FOLDER CHECKPOINT:
-- the features of that image by CHECKPOINT's encoder (other.safetensors).
local ijepa = require "ijepa"
local state = require "ijepa.state"
local tensor, jepa, device = ijepa.tensor, ijepa.jepa, ijepa.device
local folder, path = ...

local function image()   -- f32 (2, 3, 32, 32), normalised
  local values = {}
  for i = 1, 2 * 3 * 32 * 32 do values[i] = math.sin(i * .37) + math.cos(i * i * .011) end
  return tensor.new(values):reshape(2, 3, 32, 32)
end

local function save(name, encoder)
  local x = image()
  local y = device.no_grad(function() return encoder(x) end)
  assert(ijepa.tensors.save(folder .. "/" .. name,
    { { name = "images", tensor = x.h }, { name = "features", tensor = y.h } }))
end

if path then
  return save("other.safetensors", assert(ijepa.load(path, { heads = 2, quiet = true })))
end

local e = jepa.encoder { width = 48, depth = 2, heads = 2, patch = 8, crop = 32, init_gain = 1,
  patch_gain = 1 }
local p, target = jepa.predictor(e, { width = 24, depth = 2, heads = 2 }), e:target()
local opt = ijepa.optim.adamw { models = { e, p }, average = { [e] = target } }
local ctx, tgt = tensor.new({ { { 0, 3, 5 }, { 1, 2, 4 } } }, "i32"),
  tensor.new({ { { 8, 9 }, { 10, 11 } } }, "i32")
for _ = 1, 3 do
  device.step(function()
    local x = image()
    local h = device.no_grad(function() return target(x):layer_norm():gather(tgt) end)
    tensor.smooth_l1(p(e(x, ctx), ctx, tgt), h):backward()
    opt:step { lr = 1e-3, wd = .04, momentum = .9 }
  end)
end
assert(ijepa.run)
require "ijepa.base.ffi".check(require "ijepa.base.ffi".C.ij_mkdirs(folder .. "/run"))
local cfg = { model = { width = 48, depth = 2, heads = 2, patch = 8 }, data = { crop = 32 },
  seed = 0 }
assert(state.save(folder .. "/run/jepa-latest.safetensors",
  { encoder = e, predictor = p, target_encoder = target, opt = opt }, cfg,
  { step = 3, epoch = 1, seconds = 0 }))
save("features.safetensors", target)

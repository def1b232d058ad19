-- What memory.lua counts without a GPU against what a GPU's own pool says after two real steps: run on the emulator of
-- CUDA (ctest label emu) or a GPU, whichever IJEPA_CUDA or the build offers. Exit 77: neither is here.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local memory, device, trainer = require "ijepa.memory", ijepa.device, require "ijepa.train.trainer"

local ALLOWED = .01   -- of the whole: the pools' rounding, the losses, and scratch memory, which is counted apart
local K, T, BATCH, SIDE = 20, 9, 4, 64

local function images_of()
  local batch = { count = BATCH, pixels = F.new("uint8_t[?]", BATCH * SIDE * SIDE * 3) }
  return { height = SIDE, width = SIDE, epoch_steps = function() return 1000 end, next = function() return batch end }
end

local function masks(_, count)
  return { count = count, contexts = 1, targets = 4, k = K, t = T, context = F.new("int32_t[?]", count * K),
    target = F.new("int32_t[?]", 4 * count * T) }
end

-- Bytes in tensors at their most in two steps, beyond what the device had before.
local function on_the_gpu(cfg)
  return device.with("cuda", function()
    local before = device.info().used
    local t = trainer.counting(cfg, images_of())
    t.policy = { sample_raw = masks }
    for _, model in ipairs { t.encoder, t.predictor, t.target } do
      for _, p in ipairs(model:params()) do p.tensor:fill_(.01) end
    end
    collectgarbage()
    collectgarbage "stop"   -- as memory.lua does: what nobody holds any more counts until the step's end
    for _ = 1, 2 do t:update() end
    collectgarbage "restart"
    return device.info().top - before
  end)
end

local ok, message = pcall(device.with, "cuda", function() return device.info().name end)
if not ok then
  print("skipped: " .. message:gsub("^[^ ]*lua:%d+: ", ""))
  ijepa.exit(77)
end
print(message)
local failed = false
for _, words in ipairs { {}, { "optim.accumulate=2" }, { "optim.clip=1" }, { "model.recompute=true" }, { "model.dtype=f32" } } do
  local list = { "data.root=none", "data.batch=" .. BATCH, "data.crop=" .. SIDE, "model.patch=8", "model.width=64", "model.depth=4",
    "model.heads=2", "model.pred_depth=2", "model.pred_dim=32", "mask.min_keep=3", "mask.group=8", unpack(words) }
  local cfg = ijepa.config({}, nil, list)
  local need, gpu = memory.need(cfg, { k = K, t = T }), on_the_gpu(cfg)
  local counted = need.params + need.moments + need.gradients + need.copies + need.step
  local off = math.abs(gpu - counted) / counted
  failed = failed or off > ALLOWED
  print(("%-22s counted %9d, on the GPU %9d bytes, %.2f %% off%s"):format(words[1] or "as it is", counted, gpu, 100 * off,
    off > ALLOWED and ": too far" or ""))
end
ijepa.exit(failed and 1 or 0)

-- What is counted on the device "dry" against what a GPU's own pool reports after the same updates:
-- run on the emulator of CUDA (ctest label emu) or a GPU, whichever IJEPA_CUDA or the build offers.
-- Exit 77: neither is here; where IJEPA_REQUIRE_CUDA asks for one, that fails. Beside our own
-- counts the driver's are printed: what its pool has held at most. It may hold more than is in use
-- (its blocks are of several MiB), but no more than HELD of it.
local ijepa = require "ijepa"
local memory, device = require "ijepa.memory", ijepa.device

local BATCH, SIDE = 4, 64
local LENGTHS = { contexts = 1, targets = 4, k = 20, t = 9 }
-- Parts must agree to the byte. Scratch may differ: partial sums grow with a GPU's count of SMs, of
-- which "dry" assumes 132 (the emulator has 4, and the sizes below are so small that it does not
-- matter).
local ALLOWED = { params = 0, moments = 0, gradients = 0, copies = 0, step = 0, staging = 0,
  scratch = .25 }
local WORKSPACE = device.with("dry", function() return device.info().scratch end)

local ok, message = pcall(device.with, "cuda", function() return device.info().name end)
if not ok then
  local must = device.required() > 0
  print((must and "FAIL " or "skipped: ") .. message:gsub("^[^ ]*lua:%d+: ", ""))
  ijepa.exit(must and 1 or 77)
end
print(message)
local failed = false
for _, setting in ipairs { "", "optim.accumulate=2", "optim.clip=1", "model.recompute=true",
    "model.dtype=f32",
  "model.heads=1 model.width=144", "processes=4", "processes=4 optim.shard=true optim.clip=1" } do
  local list = { "data.root=none", "data.batch=" .. BATCH, "data.crop=" .. SIDE, "model.patch=8",
    "model.width=64", "model.depth=4",
    "model.heads=2", "model.pred_depth=2", "model.pred_dim=32", "mask.min_keep=3", "mask.group=8" }
  local processes
  for word in setting:gmatch "%S+" do
    local n = word:match "^processes=(%d+)$"   -- the others do not exist, on the GPU either
    if n then processes = tonumber(n) else list[#list + 1] = word end
  end
  local cfg = ijepa.config({}, nil, list)
  local counted, gpu = memory.measure("dry", cfg, LENGTHS, processes),
    memory.measure("cuda", cfg, LENGTHS, processes)
  for part, allowed in pairs(ALLOWED) do
    local a, b = counted[part], gpu[part]
    if part == "scratch" then a, b = a - WORKSPACE, b - WORKSPACE end
    local off = a == b and 0 or math.abs(a - b) / math.max(b, 1)
    failed = failed or off > allowed
    print(("%-42s %-10s counted %9d, on the GPU %9d bytes, %.2f %% off%s"):format(setting, part, a,
      b, 100 * off,
      off > allowed and ": too far" or ""))
  end
end

-- Lengths that vary, as masks make them: what the allocator holds must not grow with their number.
local STEP, HELD = 2 ^ 20, 1.25
device.with("cuda", function()
  local before = device.info()
  for i = 1, 200 do
    device.step(function()
      for k = 1, 8 do ijepa.tensor.zeros({ STEP / 4 + (i * 7 + k * 13) % 97 * 128 }, "f32") end
    end)
  end
  device.wait()
  local i = device.info()
  local ours, held = i.top - before.used, i.held - before.held
  local bad = held > HELD * ours + 64 * STEP
  failed = failed or bad
  print(("memory: %s; at most %.1f MiB in use by our count, %.1f by the pool's; %.1f held%s"):format(
    device.report().allocator, i.top / STEP, i.pool_top / STEP, i.held / STEP,
    bad and ": too much" or ""))
end)
ijepa.exit(failed and 1 or 0)

-- build/ijepa bench/nn.lua [arch=vit_small] [batch=8] [rounds=12]: training steps of an encoder
-- made of nn.PatchEmbed and nn.Blocks against the built-in one, in turns, with equal weights and
-- masks. Prints the median times, the median ratio of neighbours and the smallest and largest.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local nn, jepa, tensor, device = ijepa.nn, ijepa.jepa, ijepa.tensor, ijepa.device

local o = { arch = "vit_small", batch = 8, rounds = 12 }
for _, a in ipairs(arg) do
  local k, v = a:match "^(%w+)=(.*)$"
  if k then o[k] = tonumber(v) or v end
end

local Encoder = nn.class("Encoder", function(self, e)
  self.patch, self.width, self.grid, self.heads = e.patch, e.width, e.grid, e.heads
  self.pos_embed = nn.SinCos { grid = e.grid, width = e.width }
  self.patch_embed = nn.PatchEmbed { patch = e.patch, width = e.width, dtype = "bf16" }
  self.blocks = nn.Blocks { width = e.width, depth = e.depth, heads = e.heads, dtype = "bf16" }
end)
function Encoder:forward(images, context)
  return self.blocks(self.patch_embed(images, context, self.pos_embed))
end

-- A side: models, optimizer, and one step.
local function side(encoder, built_in)
  local predictor = jepa.predictor(built_in, { width = 192, depth = 6 })
  local target = encoder:target()
  local opt = ijepa.optim.adamw { models = { encoder, predictor },
    average = { [encoder] = target } }
  local numbers = { lr = 1e-4, wd = .05, momentum = .996 }
  return function(images, context, targets)
    local value
    device.step(function()
      local h = device.no_grad(function() return target(images):layer_norm():gather(targets) end)
      local z = predictor(encoder(images, context), context, targets)
      local loss = tensor.smooth_l1(z, h, 1, targets:size(1))
      value = loss:item()
      opt:eager(numbers)
      loss:backward()
      opt:step(numbers)
    end)
    return value
  end
end

local dtype = F.C.ij_device_bf16(device.get()) ~= 0 and "bf16" or "f32"
local built_in = jepa.encoder { arch = o.arch, patch = 16, crop = 224, dtype = dtype }
local own = Encoder(built_in):copy_(built_in)
local steps = { side(built_in, built_in), side(own, built_in) }
local policy = ijepa.mask.new { grid = { 14, 14 } }
local images = tensor.zeros({ o.batch, 224, 224, 3 }, "u8")

local times, ratios, same = { {}, {} }, {}, true
for round = 0, o.rounds do
  local m = policy:sample_raw(o.batch, round * o.batch, round)
  local context = tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32")
  local targets = tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
  local t, loss = {}, {}
  for i = 1, 2 do
    local which = round % 2 == 0 and i or 3 - i
    local from = F.C.ij_time()
    loss[which] = steps[which](images, context, targets)
    t[which] = F.C.ij_time() - from
  end
  same = same and loss[1] == loss[2]
  if round > 0 then   -- the first one makes memory
    for i = 1, 2 do times[i][round] = t[i] end
    ratios[round] = t[2] / t[1]
  end
end
for _, list in ipairs { times[1], times[2], ratios } do table.sort(list) end
local function median(list) return list[math.ceil(#list / 2)] end
print(("%s, batch %d, %s, %d rounds: built-in %.3f s, Lua %.3f s"):format(o.arch, o.batch, dtype,
  o.rounds, median(times[1]), median(times[2])))
print(("ratio %.3f (%.3f to %.3f); losses %s"):format(median(ratios), ratios[1], ratios[#ratios],
  same and "equal" or "not equal"))

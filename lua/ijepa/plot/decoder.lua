--- A small decoder from features to pixels, to see what features know: a network of two hidden
-- layers for each patch, from the patch's layer-normed feature and its position to its pixels. The
-- encoder stays as it is.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local optim = require "ijepa.optim"
local schedule = require "ijepa.optim.schedule"
local C = F.C

local decoder = {}
---@class ijepa.decoder
local Decoder = {}
Decoder.__index = Decoder

local SCALE = 64   -- pixels count as (p - 128) / 64: about normal

-- A linear layer: weights f32 (outputs, inputs), normal with standard deviation 1 / sqrt(inputs),
-- and zeros (outputs).
local function layer(inputs, outputs, number, seed)
  local values, rng = F.new("float[?]", inputs * outputs), F.new "ij_rng"
  C.ij_rng_init(rng, seed, C.IJ_RNG_USER, number, 0)
  for i = 0, inputs * outputs - 1 do values[i] = C.ij_rng_normal(rng) / math.sqrt(inputs) end
  return { w = tensor.from_pointer(values, { outputs, inputs }, "f32", true):requires_grad_(),
    b = tensor.zeros({ outputs }, "f32", true):requires_grad_() }
end

--- A decoder for an encoder, not trained yet.
---@param encoder ijepa.encoder
---@param o { hidden: integer?, seed: integer? }? hidden: width of the hidden layers, 256
---@return ijepa.decoder
function decoder.new(encoder, o)
  o = o or {}
  local D, hidden, size = encoder.width, o.hidden or 256, encoder.patch ^ 2 * 3
  local seed = o.seed or 0
  return setmetatable({ position = encoder.by_name.pos_embed.tensor, patch = encoder.patch,
    size = size, seed = seed, layers = { layer(2 * D, hidden, 1, seed),
      layer(hidden, hidden, 2, seed), layer(hidden, size, 3, seed) } }, Decoder)
end

--- features (R, D) and the number of each one's patch, i32 (1, 1, R) -> (R, P * P * 3)
---@param features ijepa.tensor
---@param patches ijepa.tensor
---@return ijepa.tensor
function Decoder:forward(features, patches)
  local R = features:size(1)
  local x = tensor.concat { features, self.position:gather(patches):reshape(R, -1) }
  local a, b, c = unpack(self.layers)
  return x:linear(a.w, a.b):gelu():linear(b.w, b.b):gelu():linear(c.w, c.b)
end

--- Trains it on patches drawn at random.
---@param features ijepa.tensor f32 (B, N, D)
---@param pixels ffi.cdata* u8 (B, N, P, P, 3): see ijepa.panel.cut
---@param o { steps: integer?, batch: integer?, lr: number? }? 1500, 256 patches, 2e-3
---@return number loss mean smooth L1 of the last tenth of the steps, of pixels (p - 128) / 64
function Decoder:train(features, pixels, o)
  o = o or {}
  local steps, batch = o.steps or 1500, o.batch or 256
  local B, N, D = features:size(1), features:size(2), features:size(3)
  local rows = features:reshape(1, B * N, D)
  local params, rng = {}, F.new "ij_rng"
  for _, l in ipairs(self.layers) do
    params[#params + 1] = l.w
    params[#params + 1] = l.b
  end
  local opt = optim.adamw { params = params }
  local lr = schedule.lr { start = 0, ref = o.lr or 2e-3, final = 0,
    warmup = math.floor(steps / 20), total = steps }
  local index, position = F.new("int32_t[?]", batch), F.new("int32_t[?]", batch)
  local wanted = F.new("float[?]", batch * self.size)
  local last, counted = 0, 0
  for step = 1, steps do
    C.ij_rng_init(rng, self.seed, C.IJ_RNG_USER, 4, step)
    for i = 0, batch - 1 do
      index[i] = C.ij_rng_below(rng, B * N)
      position[i] = index[i] % N
      for j = 0, self.size - 1 do
        wanted[i * self.size + j] = (pixels[index[i] * self.size + j] - 128) / SCALE
      end
    end
    device.step(function()
      local x = rows:gather(tensor.from_pointer(index, { 1, 1, batch }, "i32")):reshape(batch, D)
      local y = self:forward(x, tensor.from_pointer(position, { 1, 1, batch }, "i32"))
      local loss = tensor.smooth_l1(y, tensor.from_pointer(wanted, { batch, self.size }))
      loss:backward()
      if step > .9 * steps then last, counted = last + loss:item(), counted + 1 end
      opt:step { lr = lr(step), wd = .01 }
    end)
  end
  return last / counted
end

--- The pixels of features.
---@param features ijepa.tensor f32 (R, D)
---@param patches integer[] the number of each one's patch, from 0
---@return ffi.cdata* pixels u8 (R, P, P, 3)
function Decoder:paint(features, patches)
  return device.no_grad(function()
    local y, n = self:forward(features, tensor.new({ { patches } }, "i32")):read()
    local out = F.new("uint8_t[?]", n)
    for i = 0, n - 1 do out[i] = math.max(0, math.min(255, y[i] * SCALE + 128.5)) end
    return out
  end)
end

return decoder

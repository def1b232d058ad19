-- Random tensors. The values follow from a seed and a position alone (Philox, counter-based): the
-- same on every device and for any number of threads. tensor.manual_seed starts a sequence anew;
-- training calls it at every step, so that a resumed run draws the same values.
local F = require "ijepa.base.ffi"
local core = require "ijepa.tensor.core"
local tensor, T, C = core.tensor, core.methods, F.C

-- Values between the beginnings of two steps of a sequence.
local PER_STEP = F.cast("uint64_t", 2 ^ 36)
local function first_of(step) return F.cast("uint64_t", step or 0) * PER_STEP end

-- The current sequence: a seed, the first value of its step, and how many were drawn since.
local sequence = { seed = 0, first = first_of(0), drawn = 0 }

--- Starts the sequence of random values anew. step: an independent sequence of the same seed.
---@torch manual_seed | -
---@param seed integer
---@param step integer? below 2^27
function tensor.manual_seed(seed, step)
  core.check(seed, "number", "tensor.manual_seed(seed, step)", "seed")
  sequence.seed, sequence.first, sequence.drawn = seed, first_of(step), 0
end

-- Fills t (f32) from the sequence, or from one of its own: o = { seed, step }.
local function draw(t, kind, o)
  local n = t:numel()
  local seed, offset = sequence.seed, sequence.first + sequence.drawn
  if o then
    -- another sequence than manual_seed's with the same numbers
    seed, offset = (o.seed or 0) + 2 ^ 52, first_of(o.step)
  else
    sequence.drawn = sequence.drawn + n
  end
  F.check(C.ij_random(t.h, kind, seed, offset))
  return t
end

-- rand(2, 3), rand({ 2, 3 }) or rand({ 2, 3 }, { seed = 1, step = 2 }).
local function drawn(op, kind, shape, ...)
  local o
  shape, o = core.sizes(op, 1, shape, ...)
  if o ~= nil then
    core.check(o, "table", "tensor." .. op .. "(shape, { seed, step })", "options")
    for key in pairs(o) do
      if key ~= "seed" and key ~= "step" then
        F.raise(("%s: unknown option '%s': seed or step"):format(op, tostring(key)))
      end
    end
  end
  return draw(tensor.empty(shape), kind, o)
end

--- Values from 0 to below 1: rand({ 2, 3 }) or rand(2, 3); { seed, step } gives a sequence of its
--- own.
---@torch rand | -
---@param shape integer[]|integer
---@param ... any more sizes, or { seed = integer, step = integer }
---@return ijepa.tensor
function tensor.rand(shape, ...) return drawn("rand", "uniform", shape, ...) end

--- Values of a normal distribution, mean 0, standard deviation 1; arguments as of rand.
---@torch randn | -
---@param shape integer[]|integer
---@param ... any more sizes, or { seed = integer, step = integer }
---@return ijepa.tensor
function tensor.randn(shape, ...) return drawn("randn", "normal", shape, ...) end

--- Whole numbers from low to below high, i32.
---@torch randint | - | i32
---@param low integer
---@param high integer
---@param shape integer[]
---@return ijepa.tensor
function tensor.randint(low, high, shape)
  local signature = "tensor.randint(low, high, shape)"
  core.check(low, "number", signature, "low")
  if core.check(high, "number", signature, "high") <= low then
    F.raise(("randint: no whole number from %g to below %g"):format(low, high))
  end
  local u = tensor.rand(core.check(shape, "table", signature, "shape")):read()
  local n = 1
  for _, size in ipairs(shape) do n = n * size end
  local buffer = F.new("int32_t[?]", math.max(n, 1))
  for i = 0, n - 1 do buffer[i] = low + math.floor(u[i] * (high - low)) end
  return tensor.from_pointer(buffer, shape, "i32")
end

--- The numbers from 0 to n - 1 in random order, i32.
---@torch randperm | - | i32
---@param n integer
---@return ijepa.tensor
function tensor.randperm(n)
  core.check(n, "number", "tensor.randperm(n)", "n")
  local _, index = tensor.rand(n):sort(1)
  return index
end

--- In training: each value is 0 with probability p, else divided by 1 - p. Otherwise x itself.
---@torch nn.functional.dropout | yes
---@param p number
---@param training boolean? default true
---@return ijepa.tensor
function T:dropout(p, training)
  core.check(p, "number", "x:dropout(p, training)", "p")
  if p < 0 or p >= 1 then F.raise(("dropout: p is %g, expected 0 to below 1"):format(p)) end
  if training == false or p == 0 then return self end
  return self * (tensor.rand(self:shape()):ge(p):to "f32" * (1 / (1 - p)))
end

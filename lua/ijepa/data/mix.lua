--- Mixup and cutmix: a batch blended with, or patched from, another order of itself. The label of
--- an image becomes lambda of its own and 1 - lambda of its partner's, lambda being exactly the
--- fraction of it that is left.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local C = F.C

local mix = {}

-- Gamma(a, 1) by Marsaglia and Tsang's rejection; for a < 1 by a power of a uniform number.
local function gamma(rng, a)
  if a < 1 then return gamma(rng, a + 1) * (1 - C.ij_rng_uniform(rng)) ^ (1 / a) end
  local d = a - 1 / 3
  local c = 1 / math.sqrt(9 * d)
  while true do
    local x = C.ij_rng_normal(rng)
    local v = (1 + c * x) ^ 3
    if v > 0 and math.log(1 - C.ij_rng_uniform(rng)) < x * x / 2 + d - d * v + d * math.log(v) then
      return d * v
    end
  end
end

--- A draw of Beta(a, b).
---@param rng ffi.cdata* ij_rng
---@param a number
---@param b number
---@return number
function mix.beta(rng, a, b)
  local x, y = gamma(rng, a), gamma(rng, b)
  return x + y > 0 and x / (x + y) or .5
end

--- A box of about `share` of H x W, its centre anywhere, cut at the edges: top, left (from 0),
--- height, width.
---@param rng ffi.cdata* ij_rng
---@param H integer
---@param W integer
---@param share number
---@return integer top, integer left, integer height, integer width
function mix.box(rng, H, W, share)
  local side = math.sqrt(share)
  local h, w = math.floor(H * side), math.floor(W * side)
  local y, x = C.ij_rng_below(rng, H), C.ij_rng_below(rng, W)
  local top, left = math.max(0, y - math.floor(h / 2)), math.max(0, x - math.floor(w / 2))
  local bottom = math.min(H, y + math.floor((h + 1) / 2))
  local right = math.min(W, x + math.floor((w + 1) / 2))
  return top, left, bottom - top, right - left
end

--- Mixes a batch: mixup with Beta(mixup, mixup), cutmix with Beta(cutmix, cutmix), one of the two
--- by a coin where both are on (0 is off). The loss is lambda * loss(labels) + (1 - lambda) *
--- loss(partners' labels).
---@param x ijepa.tensor f32 (B, 3, H, W)
---@param labels ffi.cdata* int32_t[B]
---@param o { mixup: number?, cutmix: number? }
---@param rng ffi.cdata* ij_rng
---@return ijepa.tensor x, ijepa.tensor partners i32 (B), number lambda
function mix.batch(x, labels, o, rng)
  local B, H, W = x:size(1), x:size(3), x:size(4)
  local mixup, cutmix = o.mixup or 0, o.cutmix or 0
  local order, other = F.new("uint32_t[?]", B), F.new("int32_t[?]", B)
  for i = 0, B - 1 do order[i] = i end
  C.ij_rng_shuffle(rng, order, B)
  for i = 0, B - 1 do other[i] = labels[order[i]] end
  local partners = tensor.from_pointer(other, { B }, "i32")
  if mixup <= 0 and cutmix <= 0 then return x, partners, 1 end
  local cut = cutmix > 0 and (mixup <= 0 or C.ij_rng_uniform(rng) < .5)
  local alpha = cut and cutmix or mixup
  local lambda = mix.beta(rng, alpha, alpha)
  local y = x:rows(tensor.from_pointer(F.cast("int32_t *", order), { B }, "i32"))
  if not cut then return x * lambda + y * (1 - lambda), partners, lambda end
  local top, left, h, w = mix.box(rng, H, W, 1 - lambda)
  local z = x:clone()
  if h > 0 and w > 0 then
    local partner = y:narrow(3, top + 1, h):narrow(4, left + 1, w)
    z:narrow(3, top + 1, h):narrow(4, left + 1, w):copy_(partner)
  end
  return z, partners, 1 - h * w / (H * W)
end

return mix

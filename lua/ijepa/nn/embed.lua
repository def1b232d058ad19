--- How an encoder begins: patches of images become tokens; positions; tokens of its own.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local module = require "ijepa.nn.module"
local random = require "ijepa.nn.random"
local layers = require "ijepa.nn.layers"
local C = F.C

local embed = {}
local class, parameter, buffer = module.class, module.parameter, module.buffer
local known, options_of, count = module.known, module.options_of, layers.count

local function grid_of(o, what)
  local grid = o.grid
  if type(grid) == "number" then grid = { grid, grid } end
  if type(grid) ~= "table" then
    F.raise(("%s: the grid is %s, expected { rows, columns }"):format(what, tostring(grid)))
  end
  return { count(grid[1], what, "grid[1]"), count(grid[2], what, "grid[2]") }
end

-- ---- positions
local function sincos(h, w, D)
  local v, quarter, at = F.new("float[?]", h * w * D), D / 4, 0
  for y = 0, h - 1 do
    for x = 0, w - 1 do
      for i = 0, quarter - 1 do
        local omega = 10000 ^ -(i / (D / 4))
        v[at + i], v[at + quarter + i] = math.sin(x * omega), math.cos(x * omega)
        v[at + 2 * quarter + i], v[at + 3 * quarter + i] = math.sin(y * omega), math.cos(y * omega)
      end
      at = at + D
    end
  end
  return tensor.from_pointer(v, { 1, h * w, D }, "f32", true)
end

-- Rows of a table (1, N, D): those of context i32 (C, B, K) -> (C * B, K, D), or all -> the table.
local function rows(pos, context)
  if not context then return pos end
  return pos:gather(context:reshape(context:size(1) * context:size(2), 1, context:size(3)))
end

-- Adds a table to x: (B, N, D) and all patches, or (C * B, K, D) and those of the context.
local function add(x, pos, context)
  if context then return x + rows(pos, context) end
  local B, N, D = x:size(1), x:size(2), x:size(3)
  return (x:reshape(B, N * D) + pos:reshape(N * D)):reshape(B, N, D)
end

local SINCOS = known("grid", "width")
--- nn.SinCos { grid, width }: the fixed 2-D sine-cosine positions of I-JEPA. Called with (rows,
--- columns) it gives the table (1, N, width) of any grid. As the field `pos_embed` it is the buffer
--- of that name.
local SinCos = class("nn.SinCos", function(self, o)
  o = options_of(o, "nn.SinCos", SINCOS)
  self.grid, self.width = grid_of(o, "nn.SinCos"), count(o.width, "nn.SinCos", "width")
  if o.width % 4 ~= 0 then
    F.raise(("nn.SinCos: width %d is not a multiple of 4"):format(o.width))
  end
  self[""] = buffer(sincos(self.grid[1], self.grid[2], o.width))
end)
SinCos._layer = true
embed.SinCos = SinCos
function SinCos:forward(h, w)
  if not h or h == self.grid[1] and w == self.grid[2] then return self[""] end
  local other = rawget(self, "other")
  if not other or other.h ~= h or other.w ~= w then
    other = { h = h, w = w, table = sincos(h, w, self.width) }
    rawset(self, "other", other)
  end
  return other.table
end
function SinCos:extra()
  return ("grid %d x %d, %d"):format(self.grid[1], self.grid[2], self.width)
end

local LEARNED = known("grid", "width", "std")
--- nn.Learned { grid, width, std = .02 }: positions that are trained, of this grid alone.
local Learned = class("nn.Learned", function(self, o)
  o = options_of(o, "nn.Learned", LEARNED)
  self.grid, self.width = grid_of(o, "nn.Learned"), count(o.width, "nn.Learned", "width")
  self[""] = parameter(random.truncated({ 1, self.grid[1] * self.grid[2], o.width }, o.std or .02),
    { decayed = false })
end)
Learned._layer = true
Learned.extra = SinCos.extra
embed.Learned = Learned
function Learned:forward(h, w)
  if h and (h ~= self.grid[1] or w ~= self.grid[2]) then
    F.raise(("nn.Learned: images of %d x %d patches, but positions of %d x %d"):format(h, w,
      self.grid[1], self.grid[2]))
  end
  return self[""]
end

-- ---- patches
-- The normalisation of bytes: ImageNet's mean and standard deviation.
local MEAN, STD = { .485, .456, .406 }, { .229, .224, .225 }
local function scale_of_bytes()
  local v = F.new "float[6]"
  for i = 1, 3 do v[2 * i - 2], v[2 * i - 1] = 1 / (255 * STD[i]), -MEAN[i] / STD[i] end
  return tensor.from_pointer(v, { 6 }, "f32", true)
end

local Proj = class("Conv2d", function(self, D, P, std)   -- its weights lie as a convolution's
  self.weight = parameter(random.truncated({ D, 3, P, P }, std))
  self.bias = parameter(tensor.zeros({ D }, "f32", true))
  self.text = ("3 -> %d, %d x %d, stride %d"):format(D, P, P, P)
end)
Proj._layer = true
function Proj:extra() return self.text end

local PATCH = known("patch", "width", "dtype", "std")
--- nn.PatchEmbed { patch, width, dtype = "f32" or "bf16", std = .02 }: e(images, context, pos).
--- images u8 (B, H, W, 3), normalised here, or f32 (B, 3, H, W); context i32 (C, B, K) or nil: only
--- these patches are computed; pos: nn.SinCos, nn.Learned or a table (1, N, width), which is added,
--- or nil. -> (C * B, K, width) or (B, N, width).
local PatchEmbed = class("nn.PatchEmbed", function(self, o)
  o = options_of(o, "nn.PatchEmbed", PATCH)
  self.patch, self.width = count(o.patch, "nn.PatchEmbed", "patch"), count(o.width, "nn.PatchEmbed",
    "width")
  self.dtype = random.dtype(o.dtype)
  self.proj = Proj(o.width, o.patch, o.std or .02)
  self.scale6 = scale_of_bytes()
end)
embed.PatchEmbed = PatchEmbed
function PatchEmbed:extra() return self.dtype end
function PatchEmbed:_moved() self.scale6 = scale_of_bytes() end

-- Rows and columns of patches of images.
local function grid_of_images(images, patch)
  local first = images:dtype() == "u8" and 2 or 3
  return math.floor(images:size(first) / patch), math.floor(images:size(first + 1) / patch)
end

-- A table of zeros for calls without positions.
local function no_positions(self, n)
  local zero = rawget(self, "zero")
  if not zero or zero:size(2) ~= n then
    zero = tensor.zeros({ 1, n, self.width }, "f32", true)
    rawset(self, "zero", zero)
  end
  return zero
end

function PatchEmbed:forward(images, context, pos)
  tensor.want(images, "images", "nn.PatchEmbed")
  if images:dim() ~= 4 then
    F.raise(("nn.PatchEmbed: 'images' is (%s), expected u8 (B, H, W, 3) or f32 (B, 3, H, W)")
      :format(table.concat(images:shape(), ", ")))
  end
  local h, w = grid_of_images(images, self.patch)
  if pos ~= nil and module.is(pos) then pos = pos(h, w) end
  -- the op adds fixed positions by itself; to trained ones a gradient must flow
  local later = pos ~= nil and pos:requires_grad() and pos
  local table_of = later and no_positions(self, h * w) or pos or no_positions(self, h * w)
  local w, b, scale6, bf16 = self.proj.weight.h, self.proj.bias.h, self.scale6.h,
    self.dtype == "bf16" and 1 or 0
  local x = tensor.call(function(i, c, p, out)
    return C.ij_patch_embed(i, c, w, b, p, scale6, bf16, out)
  end, images.h, context and tensor.want(context, "context", "nn.PatchEmbed"),
    tensor.want(table_of, "pos", "nn.PatchEmbed"))
  return later and add(x, later, context) or x
end

-- ---- tokens
local TOKENS = known("count", "width", "std")
--- nn.Tokens { count = 1, width, std = .02 }: trained tokens in front of each sequence (Q, N, D):
--- class tokens, registers. t(x) -> (Q, count + N, D); cut them off with y:narrow(2, count + 1, N).
--- As the field NAME it is the parameter NAME (1, count, D).
local Tokens = class("nn.Tokens", function(self, o)
  o = options_of(o, "nn.Tokens", TOKENS)
  self.count, self.width = count(o.count or 1, "nn.Tokens", "count"), count(o.width, "nn.Tokens",
    "width")
  self[""] = parameter(random.truncated({ 1, self.count, o.width }, o.std or .02),
    { decayed = false })
end)
Tokens._layer = true
embed.Tokens = Tokens
function Tokens:extra() return ("%d x %d"):format(self.count, self.width) end
function Tokens:forward(x)
  local Q, N, D = x:size(1), x:size(2), x:size(3)
  if D ~= self.width then
    F.raise(("nn.Tokens: 'x' has %d values per token, expected %d"):format(D, self.width))
  end
  local mine = self[""]:reshape(1, self.count * D)
  if Q > 1 then mine = mine:rows(tensor.zeros({ Q }, "i32")) end
  return tensor.concat { mine:reshape(Q, self.count * D), x:contiguous():reshape(Q, N * D) }
    :reshape(Q, self.count + N, D)
end

embed.add, embed.rows, embed.device = add, rows, device
return embed

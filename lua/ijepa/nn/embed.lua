--- How an encoder begins: patches of images become tokens; positions; tokens of its own.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
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

local PATCH = known("patch", "width", "dtype", "std", "overlap")
--- nn.PatchEmbed { patch, width, dtype = "f32" or "bf16", std = .02, overlap = 0 }: e(images,
--- context, pos). images u8 (B, H, W, 3), normalised here, or f32 (B, 3, H, W); context i32 (C, B,
--- K) or nil: only these patches are computed; pos: nn.SinCos, nn.Learned or a table (1, N, width),
--- which is added, or nil. -> (C * B, K, width) or (B, N, width). overlap: pixels by which a
--- patch's window is larger on each side.
local PatchEmbed = class("nn.PatchEmbed", function(self, o)
  o = options_of(o, "nn.PatchEmbed", PATCH)
  self.patch, self.width = count(o.patch, "nn.PatchEmbed", "patch"), count(o.width, "nn.PatchEmbed",
    "width")
  self.dtype = random.dtype(o.dtype)
  self.overlap = o.overlap or 0
  if type(self.overlap) ~= "number" or self.overlap < 0 or self.overlap % 1 ~= 0 then
    F.raise(("nn.PatchEmbed: overlap is %s, expected a whole number of pixels"):format(
      tostring(self.overlap)))
  end
  self.proj = self.overlap == 0 and Proj(o.width, o.patch, o.std or .02)
    or layers.Conv2d(3, o.width, o.patch + 2 * self.overlap, { stride = o.patch,
      padding = self.overlap, std = o.std or .02 })
  self.scale6 = scale_of_bytes()
end)
embed.PatchEmbed = PatchEmbed
function PatchEmbed:extra() return self.dtype end
function PatchEmbed:_moved() self.scale6 = scale_of_bytes() end

-- A table of zeros for calls without positions.
local function no_positions(self, n)
  local zero = rawget(self, "zero")
  if not zero or zero:size(2) ~= n then
    zero = tensor.zeros({ 1, n, self.width }, "f32", true)
    rawset(self, "zero", zero)
  end
  return zero
end

-- Checks images; returns rows and columns of patches.
local function measure(images, patch, what)
  tensor.want(images, "images", what)
  local u8 = images:dtype() == "u8"
  if images:dim() ~= 4 or images:size(u8 and 4 or 2) ~= 3 then
    F.raise(("%s: 'images' is %s (%s), expected u8 (B, H, W, 3) or f32 (B, 3, H, W)"):format(what,
      images:dtype(), table.concat(images:shape(), ", ")))
  end
  local height, width = images:size(u8 and 2 or 3), images:size(u8 and 3 or 4)
  if height < patch or width < patch or height % patch ~= 0 or width % patch ~= 0 then
    F.raise(("%s: images of %d x %d are not whole patches of %d"):format(what, height, width,
      patch))
  end
  return height / patch, width / patch
end

-- Images as values (B, 3, H, W).
local function values_of(images)
  return images:dtype() == "u8" and tensor.normalise(images, MEAN, STD) or images
end

-- The rows of x (B, N, D) that a context names -> (C * B, K, D).
local function chosen(x, context, what)
  if not context then return x end
  tensor.want(context, "context", what)
  return x:gather(context)
end

-- The windows of a convolution at the context's patches, times its weights.
local function overlapping(self, images, context)
  local proj, side = self.proj, self.patch + 2 * self.overlap
  local cols = tensor.call(C.ij_im2col, values_of(images).h, side, side, self.patch, self.overlap)
  return chosen(cols, context, "nn.PatchEmbed"):linear(proj.weight:reshape(self.width,
    3 * side * side), proj.bias)
end

function PatchEmbed:forward(images, context, pos)
  local h, w = measure(images, self.patch, "nn.PatchEmbed")
  if self.overlap > 0 then
    if module.is(pos) then pos = pos(h, w) end
    local x = overlapping(self, images, context)
    return pos and add(x, pos, context) or x
  end
  if pos ~= nil and module.is(pos) then pos = pos(h, w) end
  -- the op adds fixed positions by itself; to trained ones a gradient must flow
  local later = pos ~= nil and pos:requires_grad() and pos
  local table_of = later and no_positions(self, h * w) or pos or no_positions(self, h * w)
  local weight, bias, scale6, bf16 = self.proj.weight.h, self.proj.bias.h, self.scale6.h,
    self.dtype == "bf16" and 1 or 0
  local x = tensor.call(function(i, c, p, out)
    return C.ij_patch_embed(i, c, weight, bias, p, scale6, bf16, out)
  end, images.h, context and tensor.want(context, "context", "nn.PatchEmbed"),
    tensor.want(table_of, "pos", "nn.PatchEmbed"))
  return later and add(x, later, context) or x
end

local STEM = known("patch", "width", "channels", "std")
--- nn.ConvStem { patch, width, channels = nil }: as nn.PatchEmbed, by convolutions of 3 x 3 with
--- stride 2, each followed by a layer norm over channels and a ReLU, and one of 1 x 1 ("Early
--- convolutions help transformers see better", with layer norms instead of batch norms, so that an
--- EMA has no statistics to follow). patch: a power of 2. channels: of each convolution; default:
--- width, halved towards the image. All patches are computed, then those of the context are chosen:
--- a token has seen pixels of its neighbours too.
local ConvStem = class("nn.ConvStem", function(self, o)
  o = options_of(o, "nn.ConvStem", STEM)
  self.patch, self.width = count(o.patch, "nn.ConvStem", "patch"), count(o.width, "nn.ConvStem",
    "width")
  local n = math.floor(math.log(o.patch) / math.log(2) + .5)
  if n < 1 or 2 ^ n ~= o.patch then
    F.raise(("nn.ConvStem: patch %d is not a power of 2"):format(o.patch))
  end
  local channels = o.channels or {}
  for i = n, 1, -1 do
    channels[i] = channels[i] or math.max(8, math.floor(o.width / 2 ^ (n - i)))
  end
  self.convs = layers.List()
  self.norms = layers.List()
  for i = 1, n do
    self.convs[i] = layers.Conv2d(channels[i - 1] or 3, channels[i], 3, { stride = 2, padding = 1,
      bias = false })
    self.norms[i] = layers.LayerNorm(channels[i], { eps = 1e-6 })
  end
  self.proj = layers.Linear(channels[n], o.width, { std = o.std or .02 })
end)
embed.ConvStem = ConvStem
function ConvStem:forward(images, context, pos)
  local h, w = measure(images, self.patch, "nn.ConvStem")
  local x, B = values_of(images), images:size(1)
  for i, conv in ipairs(self.convs) do
    local y, oh, ow = conv:rows(x)
    y = self.norms[i](y):relu()   -- (B, oh * ow, channels)
    x = self.convs[i + 1] and y:transpose(2, 3):contiguous():reshape(B, conv.outputs, oh, ow) or y
  end
  x = self.proj(chosen(x, context, "nn.ConvStem"))
  if module.is(pos) then pos = pos(h, w) end
  return pos and add(x, pos, context) or x
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
  tensor.want(x, "x", "nn.Tokens")
  if x:dim() ~= 3 or x:size(3) ~= self.width then
    F.raise(("nn.Tokens: 'x' is (%s), expected (Q, N, %d)"):format(table.concat(x:shape(), ", "),
      self.width))
  end
  return tensor.cat({ self[""]:expand(x:size(1), self.count, self.width), x }, 2)
end

return embed

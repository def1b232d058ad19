--- Mask policies written in Lua: a function from random numbers and the grid to a context and its targets.
--
--   local function halves(rng, g)
--     local left = rng:uniform() < 0.5
--     return g:block(0, left and 0 or 8, 16, 8), { g:block(0, left and 8 or 0, 16, 8) }
--   end
--   local masks = mask.policy(halves, mask.grid(16, 16))
local F = require "ijepa._ffi"
local text = require "ijepa._text"
local bit = require "bit"
local C = F.C

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local function is_whole(v, least, most) return type(v) == "number" and v % 1 == 0 and v >= least and v <= most end

-- ---- random numbers -----------------------------------------------------------------------------------------------

---@class ijepa.mask_rng
---@field group ijepa.mask_rng the same numbers for every picture of a group: sizes that a group shares
local Rng = {}
Rng.__index = Rng

local function new_rng() return setmetatable({ r = F.new "ij_rng" }, Rng) end
local function start(rng, seed, purpose, number)
  C.ij_rng_init(rng.r, seed, purpose, math.floor(number / 2 ^ 32), number % 2 ^ 32)
  return rng
end

--- A number in [lo, hi); [0, 1) without arguments.
function Rng:uniform(lo, hi)
  local u = C.ij_rng_uniform(self.r)
  return lo and lo + u * (hi - lo) or u
end

--- A whole number from 0 to n - 1.
function Rng:below(n)
  if not is_whole(n, 1, 2 ^ 31) then F.raise(("rng:below: %s is no whole number from 1"):format(tostring(n))) end
  return C.ij_rng_below(self.r, n)
end

--- Normally distributed, mean 0, standard deviation 1.
function Rng:normal() return C.ij_rng_normal(self.r) end

-- ---- grid and regions ---------------------------------------------------------------------------------------------

---@class ijepa.mask_region  a set of patches; a + b joins, a - b takes out, a * b is what both hold
local Region = {}
Region.__index = Region
local bytes = F.typeof "uint8_t[?]"
local ints = F.typeof "int32_t[?]"

local function new_region(grid) return setmetatable({ grid = grid, set = bytes(grid.n) }, Region) end
local function is_region(v) return getmetatable(v) == Region end

local function result(name, a, b)
  if not (is_region(a) and is_region(b) and a.grid.h == b.grid.h and a.grid.w == b.grid.w) then
    F.raise(("mask region: '%s' needs two regions of one grid"):format(name))
  end
  local out = new_region(a.grid)
  return out, out.set, a.set, b.set
end
function Region.__add(a, b)
  local out, set, x, y = result("+", a, b)
  for i = 0, a.grid.n - 1 do set[i] = bit.bor(x[i], y[i]) end
  return out
end
function Region.__sub(a, b)
  local out, set, x, y = result("-", a, b)
  for i = 0, a.grid.n - 1 do set[i] = bit.band(x[i], 1 - y[i]) end
  return out
end
function Region.__mul(a, b)
  local out, set, x, y = result("*", a, b)
  for i = 0, a.grid.n - 1 do set[i] = bit.band(x[i], y[i]) end
  return out
end

--- How many patches it holds.
function Region:size()
  local n = 0
  for i = 0, self.grid.n - 1 do n = n + self.set[i] end
  return n
end

--- Whether it holds the patch in this row and column, from 0.
function Region:has(row, col)
  local g = self.grid
  return is_whole(row, 0, g.h - 1) and is_whole(col, 0, g.w - 1) and self.set[row * g.w + col] == 1
end

function Region:__tostring()
  local lines = {}
  for y = 0, self.grid.h - 1 do
    local line = {}
    for x = 0, self.grid.w - 1 do line[x + 1] = self.set[y * self.grid.w + x] == 1 and "#" or "." end
    lines[y + 1] = table.concat(line)
  end
  return table.concat(lines, "\n")
end

---@class ijepa.mask_grid
---@field h integer rows
---@field w integer columns
---@field n integer patches
local Grid = {}
Grid.__index = Grid

--- The rectangle of h rows and w columns whose first patch is in row top and column left, from 0; what lies outside of
--- the grid is left off.
function Grid:block(top, left, h, w)
  local least, most = -2 ^ 20, 2 ^ 20
  if not (is_whole(top, least, most) and is_whole(left, least, most) and is_whole(h, least, most)
    and is_whole(w, least, most)) then
    F.raise(("grid:block(top, left, h, w): (%s, %s, %s, %s) are not four whole numbers"):format(tostring(top),
      tostring(left), tostring(h), tostring(w)))
  end
  local region = new_region(self)
  for y = math.max(top, 0), math.min(top + h, self.h) - 1 do
    for x = math.max(left, 0), math.min(left + w, self.w) - 1 do region.set[y * self.w + x] = 1 end
  end
  return region
end

--- A rectangle of h rows and w columns (at most the grid's) at a random place within the grid.
function Grid:random_block(rng, h, w)
  need(getmetatable(rng) == Rng and is_whole(h, 1, 2 ^ 20) and is_whole(w, 1, 2 ^ 20),
    "grid:random_block(rng, h, w): expected the random source and two whole numbers from 1")
  h, w = math.min(h, self.h), math.min(w, self.w)
  return self:block(rng:below(self.h - h + 1), rng:below(self.w - w + 1), h, w)
end

-- Marks `keep` of n things, in their order (Knuth's selection sampling).
local function select_some(rng, n, keep, each)
  for i = 0, n - 1 do
    if C.ij_rng_uniform(rng.r) * (n - i) < keep then
      each(i)
      keep = keep - 1
    end
  end
end

--- n patches chosen at random.
function Grid:random(rng, n)
  need(getmetatable(rng) == Rng, "grid:random(rng, n): expected the random source")
  need(is_whole(n, 0, self.n), "grid:random(rng, n): n is %s, expected 0 to %d", tostring(n), self.n)
  local region = new_region(self)
  select_some(rng, self.n, n, function(i) region.set[i] = 1 end)
  return region
end

--- Every patch.
function Grid:all() return self:block(0, 0, self.h, self.w) end

local function new_grid(h, w)
  need(is_whole(h, 1, 4096) and is_whole(w, 1, 4096),
    "mask.grid(rows, columns): %s x %s is no grid of 1 to 4096 a side", tostring(h), tostring(w))
  return setmetatable({ h = h, w = w, n = h * w, [1] = h, [2] = w }, Grid)
end

-- ---- the policy ---------------------------------------------------------------------------------------------------

-- What holds the memory of an ij_masks lives as long as it.
local owner = setmetatable({}, { __mode = "k" })

local Custom = {}
Custom.__index = Custom

-- A region as its patches in ascending order.
local function patches_of(region, grid, what, picture)
  if not (is_region(region) and region.grid.h == grid.h and region.grid.w == grid.w) then
    F.raise(("mask policy: picture %d: the %s is %s, expected a region of the grid"):format(picture, what,
      is_region(region) and "of another grid" or type(region)))
  end
  local list, set, n = ints(region:size() + 1), region.set, 0
  for i = 0, grid.n - 1 do
    list[n] = i   -- stays if the patch is held
    n = n + set[i]
  end
  if n == 0 then F.raise(("mask policy: picture %d: the %s is empty"):format(picture, what)) end
  return { list = list, n = n }
end

-- One region or a list of them -> lists of patches, and the shortest length so far.
local function lists_of(v, grid, what, picture, shortest)
  local regions = is_region(v) and { v } or v
  need(type(regions) == "table" and #regions >= 1,
    "mask policy: picture %d: the function gave no %s: it must return a context and a list of targets", picture, what)
  local out = {}
  for i, region in ipairs(regions) do
    out[i] = patches_of(region, grid, what, picture)
    shortest = math.min(shortest, out[i].n)
  end
  return out, shortest
end

function Custom:draw_group(number)
  if self.drawn and self.drawn.number == number then return self.drawn end
  local g = { number = number, k = self.cells.n, t = self.cells.n }
  for i = 0, self.group - 1 do
    local picture = number * self.group + i
    start(self.rng, self.seed, C.IJ_RNG_MASK_POS, picture)
    start(self.rng.group, self.seed, C.IJ_RNG_MASK_SIZE, number)
    local context, targets = self.f(self.rng, self.cells, picture)
    local one = {}
    one.context, g.k = lists_of(context, self.cells, "context", picture, g.k)
    one.target, g.t = lists_of(targets, self.cells, "target", picture, g.t)
    self.contexts, self.targets = self.contexts or #one.context, self.targets or #one.target
    need(#one.context == self.contexts and #one.target == self.targets,
      "mask policy: picture %d: %d contexts and %d targets, %d and %d before", picture, #one.context, #one.target,
      self.contexts, self.targets)
    g[i] = one
  end
  self.drawn = g
  return g
end

local function cut(rng, from, keep, out, at)
  if keep == from.n then
    F.copy(out + at, from.list, keep * 4)
    return
  end
  select_some(rng, from.n, keep, function(i)
    out[at] = from.list[i]
    at = at + 1
  end)
end

function Custom:sample_raw(count, first)
  need(is_whole(count, 1, 2 ^ 20), "mask: 'count' is %s, expected a whole number from 1", tostring(count))
  if first == nil then first = self.next end
  first = tonumber(first)
  need(first and is_whole(first, 0, 2 ^ 52), "mask: 'first' is not a whole number from 0")
  local groups, k, t = {}, self.cells.n, self.cells.n
  for number = math.floor(first / self.group), math.floor((first + count - 1) / self.group) do
    local g = self:draw_group(number)
    groups[number], k, t = g, math.min(k, g.k), math.min(t, g.t)
  end
  local context, target = ints(self.contexts * count * k), ints(self.targets * count * t)
  local m = F.new "ij_masks"
  m.count, m.contexts, m.targets, m.k, m.t = count, self.contexts, self.targets, k, t
  m.context, m.target = context, target
  owner[m] = { context, target }
  for b = 0, count - 1 do
    local picture = first + b
    local one = groups[math.floor(picture / self.group)][picture % self.group]
    start(self.cutter, self.seed, C.IJ_RNG_MASK_CUT, picture)
    for j = 1, self.targets do cut(self.cutter, one.target[j], t, target, ((j - 1) * count + b) * t) end
    for j = 1, self.contexts do cut(self.cutter, one.context[j], k, context, ((j - 1) * count + b) * k) end
  end
  self.next = first + count
  return m
end

local function new_policy(base, f, o)
  need(type(f) == "function", "mask.policy: the first argument is %s, expected a function(rng, grid, picture)", type(f))
  need(type(o) == "table", "mask.policy: expected a grid, or settings such as { grid = { 16, 16 } }")
  if o[1] then o = { grid = o } end
  local names = { "grid", "group", "seed" }
  for key in pairs(o) do
    need(key == "grid" or key == "group" or key == "seed", "mask.policy: unknown setting '%s'%s", tostring(key),
      text.hint(tostring(key), names))
  end
  need(type(o.grid) == "table", "mask.policy: 'grid' is missing, such as {16, 16}")
  local group, seed = o.group or 128, o.seed or 0
  need(is_whole(group, 1, 65536), "mask.policy: 'group' is %s, expected 1 to 65536", tostring(group))
  need(is_whole(seed, 0, 2 ^ 53), "mask.policy: 'seed' is %s, expected a whole number from 0", tostring(seed))
  if getmetatable(Custom) == nil then setmetatable(Custom, { __index = base }) end
  Custom.__tostring = base.__tostring
  local grid = new_grid(o.grid[1], o.grid[2])
  local p = setmetatable({ name = "in Lua", f = f, cells = grid, grid = { grid.h, grid.w }, group = group, seed = seed,
    next = 0, rng = new_rng(), cutter = new_rng() }, Custom)
  p.rng.group = new_rng()
  p:draw_group(0)   -- how many contexts and targets there are, and whether it works at all
  return p
end

return { grid = new_grid, policy = new_policy }

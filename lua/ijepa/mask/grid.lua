--- What mask policies in Lua are made of: random numbers, regions of a grid, maps with a weight per
--- patch.
-- A region is a bit set: 8 words for a 16 x 16 grid, so that unions and differences are cheap.
local F = require "ijepa.base.ffi"
local bit = require "bit"
local C = F.C
local band, bor, bnot, lshift, rshift = bit.band, bit.bor, bit.bnot, bit.lshift, bit.rshift
local floor, min, max, sqrt = math.floor, math.min, math.max, math.sqrt

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local function is_whole(v, least, most)
  return type(v) == "number" and v % 1 == 0 and v >= least and v <= most
end
local words_type, doubles = F.typeof "int32_t[?]", F.typeof "double[?]"

-- ---- random numbers -----------------------------------------------------------------------------

---@class ijepa.mask_rng
---@field group ijepa.mask_rng the same numbers for every image of a group: sizes that a group
--- shares
local Rng = {}
Rng.__index = Rng

local function new_rng() return setmetatable({ r = F.new "ij_rng" }, Rng) end
-- The stream of (seed, purpose, number), from its start.
local function start(rng, seed, purpose, number)
  C.ij_rng_init(rng.r, seed, purpose, floor(number / 2 ^ 32), number % 2 ^ 32)
  return rng
end
local function want_rng(rng, where)
  need(getmetatable(rng) == Rng, "%s: expected rng as the first argument", where)
end

--- A number in [lo, hi); [0, 1) without arguments.
---@param lo number?
---@param hi number?
---@return number
function Rng:uniform(lo, hi)
  local u = C.ij_rng_uniform(self.r)
  if not lo then return u end
  need(type(lo) == "number" and type(hi) == "number", "rng:uniform(lo, hi): expected two numbers")
  local step = u * (hi - lo)   -- not fused: as core/mask computes it
  return lo + step
end

--- A whole number from 0 to n - 1.
---@param n integer
---@return integer
function Rng:below(n)
  need(is_whole(n, 1, 2 ^ 31), "rng:below(n): n is %s, expected a whole number from 1", tostring(n))
  return C.ij_rng_below(self.r, n)
end

--- Normally distributed, mean 0, standard deviation 1.
---@return number
function Rng:normal() return C.ij_rng_normal(self.r) end

-- ---- regions ------------------------------------------------------------------------------------

---@class ijepa.mask_region a set of patches; a + b: union, a - b: difference, a * b: intersection,
--- -a: all other patches
---@field grid ijepa.mask_grid
local Region = {}
Region.__index = Region

local function new_region(grid)
  return setmetatable({ grid = grid, words = words_type(grid.words) }, Region)
end
local function is_region(v) return getmetatable(v) == Region end

local function two(name, a, b)
  need(is_region(a) and is_region(b) and a.grid.h == b.grid.h and a.grid.w == b.grid.w,
    "mask region: '%s' needs two regions of one grid", name)
  local out = new_region(a.grid)
  return out, out.words, a.words, b.words, a.grid.words - 1
end
function Region.__add(a, b)
  local out, z, x, y, last = two("+", a, b)
  for i = 0, last do z[i] = bor(x[i], y[i]) end
  return out
end
function Region.__sub(a, b)
  local out, z, x, y, last = two("-", a, b)
  for i = 0, last do z[i] = band(x[i], bnot(y[i])) end
  return out
end
function Region.__mul(a, b)
  local out, z, x, y, last = two("*", a, b)
  for i = 0, last do z[i] = band(x[i], y[i]) end
  return out
end

--- The patches of either region (a + b).
---@param other ijepa.mask_region
---@return ijepa.mask_region
function Region:union(other) return self + other end
--- The patches that are not in the other region (a - b).
---@param other ijepa.mask_region
---@return ijepa.mask_region
function Region:minus(other) return self - other end
--- The patches of both regions (a * b).
---@param other ijepa.mask_region
---@return ijepa.mask_region
function Region:intersect(other) return self * other end
--- All patches that are not in the region (-a).
---@return ijepa.mask_region
function Region:complement()
  local out, g = new_region(self.grid), self.grid
  for i = 0, g.words - 1 do out.words[i] = bnot(self.words[i]) end
  if band(g.n, 31) ~= 0 then
    out.words[g.words - 1] = band(out.words[g.words - 1], lshift(1, band(g.n, 31)) - 1)
  end
  return out
end
function Region.__unm(a) return a:complement() end

local function ones(v)   -- set bits of a word
  v = v - band(rshift(v, 1), 0x55555555)
  v = band(v, 0x33333333) + band(rshift(v, 2), 0x33333333)
  v = band(v + rshift(v, 4), 0x0f0f0f0f)
  return rshift(v + lshift(v, 8) + lshift(v, 16) + lshift(v, 24), 24)
end
local function count_ones(words, first, n)
  local sum = 0
  for i = first, first + n - 1 do
    if words[i] ~= 0 then sum = sum + ones(words[i]) end
  end
  return sum
end

--- The number of its patches.
---@return integer
function Region:size() return count_ones(self.words, 0, self.grid.words) end

local function has(words, i) return band(rshift(words[rshift(i, 5)], band(i, 31)), 1) end
local function put(words, i)
  local word = rshift(i, 5)
  words[word] = bor(words[word], lshift(1, band(i, 31)))
end

--- Whether it contains the patch in this row and column, from 0.
---@param row integer
---@param col integer
---@return boolean
function Region:has(row, col)
  local g = self.grid
  return is_whole(row, 0, g.h - 1) and is_whole(col, 0, g.w - 1) and has(self.words,
    row * g.w + col) == 1
end

--- Its patches as a list of numbers from 0, row-major, ascending.
---@return integer[]
function Region:patches()
  local list = {}
  for i = 0, self.grid.n - 1 do
    if has(self.words, i) == 1 then list[#list + 1] = i end
  end
  return list
end

-- Marks r of the patches row[0 .. n - 1] (or of 0 .. n - 1), each choice as likely as any other
-- (Floyd's algorithm).
local function choose(words, rng, n, r, row)
  for j = n - r, n - 1 do
    local t, last = C.ij_rng_below(rng.r, j + 1), j
    if row then t, last = row[t], row[j] end
    put(words, has(words, t) == 1 and last or t)
  end
end

-- Writes the patches of a bit set to row, ascending; row has space for one more. Returns their
-- number.
local function list_bits(words, first, n, row)
  local found = 0
  for i = 0, n - 1 do
    row[found] = i   -- stays if the set contains it
    found = found + band(rshift(words[first + rshift(i, 5)], band(i, 31)), 1)
  end
  return found
end

--- n of its patches, chosen at random: holes in a block are block - block:random(rng, n).
---@param rng ijepa.mask_rng
---@param n integer 0 to the number of its patches
---@return ijepa.mask_region
function Region:random(rng, n)
  want_rng(rng, "region:random(rng, n)")
  local all = self:size()
  need(is_whole(n, 0, all), "region:random(rng, n): n is %s, expected 0 to %d, the region's patches",
    tostring(n), all)
  local out, row = new_region(self.grid), words_type(self.grid.n + 1)
  list_bits(self.words, 0, self.grid.n, row)
  choose(out.words, rng, all, n, row)
  return out
end

--- The region moved down by `rows` and right by `columns` (negative: up, left). What leaves the
--- grid is lost.
---@param rows integer
---@param columns integer
---@return ijepa.mask_region
function Region:shift(rows, columns)
  need(is_whole(rows, -4096, 4096) and is_whole(columns, -4096, 4096),
    "region:shift(rows, columns): (%s, %s), expected two whole numbers", tostring(rows),
    tostring(columns))
  local g, out = self.grid, new_region(self.grid)
  for y = max(0, -rows), min(g.h, g.h - rows) - 1 do
    for x = max(0, -columns), min(g.w, g.w - columns) - 1 do
      if has(self.words, y * g.w + x) == 1 then put(out.words, (y + rows) * g.w + x + columns) end
    end
  end
  return out
end

--- The region and all patches at most n (1) rows and columns away: a block grows by n on each side.
---@param n integer?
---@return ijepa.mask_region
function Region:dilate(n)
  n = n == nil and 1 or n
  need(is_whole(n, 0, 4096), "region:dilate(n): n is %s, expected a whole number from 0",
    tostring(n))
  local out = self
  for _ = 1, min(n, max(self.grid.h, self.grid.w)) do
    out = out + out:shift(1, 0) + out:shift(-1, 0)
    out = out + out:shift(0, 1) + out:shift(0, -1)
  end
  return out + self
end

--- The patches around it, at most n (1) rows and columns away, without its own.
---@param n integer?
---@return ijepa.mask_region
function Region:neighbours(n) return self:dilate(n) - self end

function Region.__eq(a, b)
  if a.grid.h ~= b.grid.h or a.grid.w ~= b.grid.w then return false end
  for i = 0, a.grid.words - 1 do
    if a.words[i] ~= b.words[i] then return false end
  end
  return true
end

function Region:__tostring()
  local lines, w = {}, self.grid.w
  for y = 0, self.grid.h - 1 do
    local line = {}
    for x = 0, w - 1 do line[x + 1] = has(self.words, y * w + x) == 1 and "#" or "." end
    lines[y + 1] = table.concat(line)
  end
  return table.concat(lines, "\n")
end

-- ---- grid ---------------------------------------------------------------------------------------

---@class ijepa.mask_grid
---@field h integer rows
---@field w integer columns
---@field n integer patches
local Grid = {}
Grid.__index = Grid

-- Sets n bits from bit `first` on.
local function fill(words, first, n)
  while n > 0 do
    local from = band(first, 31)
    local take = min(32 - from, n)
    local ones_of = take == 32 and -1 or lshift(1, take) - 1
    local i = rshift(first, 5)
    words[i] = bor(words[i], lshift(ones_of, from))
    first, n = first + take, n - take
  end
end

--- The rectangle of h rows and w columns whose first patch is in row top and column left, from 0.
--- It must lie in the grid; h or w may be 0.
---@param top integer
---@param left integer
---@param h integer
---@param w integer
---@return ijepa.mask_region
function Grid:block(top, left, h, w)
  if not (is_whole(top, 0, self.h) and is_whole(left, 0, self.w) and is_whole(h, 0, self.h - top)
    and is_whole(w, 0, self.w - left)) then
    local whole = is_whole(top, -1e9, 1e9) and is_whole(left, -1e9, 1e9) and is_whole(h, 0, 1e9)
      and is_whole(w, 0, 1e9)
    F.raise(("grid:block(top, left, h, w): (%s, %s, %s, %s) %s"):format(tostring(top),
      tostring(left), tostring(h), tostring(w),
      whole and ("is not inside the grid of %d x %d patches"):format(self.h, self.w)
        or "are not four whole numbers"))
  end
  local region = new_region(self)
  if w > 0 then
    for y = top, top + h - 1 do fill(region.words, y * self.w + left, w) end
  end
  return region
end

--- A rectangle of h rows and w columns (at most the grid's) at a random position inside the grid.
---@param rng ijepa.mask_rng
---@param h integer
---@param w integer
---@return ijepa.mask_region
function Grid:random_block(rng, h, w)
  need(getmetatable(rng) == Rng and is_whole(h, 1, 2 ^ 20) and is_whole(w, 1, 2 ^ 20),
    "grid:random_block(rng, h, w): expected rng and two whole numbers from 1")
  h, w = min(h, self.h), min(w, self.w)
  local top = rng:below(self.h - h + 1)
  return self:block(top, rng:below(self.w - w + 1), h, w)
end

-- x rounded to a whole number, ties to even, for 0 <= x < 2^51
local function rint(x)
  local big = 2 ^ 52
  return x + big - big
end

--- Rows and columns of a block of about `area` patches with rows / columns = aspect (1); a side
--- that is longer than the grid is cut to it and the other one grows, so that the area stays. The
--- default policy does the same.
---@param area number
---@param aspect number?
---@return integer h
---@return integer w
function Grid:block_size(area, aspect)
  aspect = aspect or 1
  need(type(area) == "number" and area >= 0 and area < 2 ^ 40 and type(aspect) == "number"
    and aspect >= 1e-6
    and aspect <= 1e6, "grid:block_size(area, aspect): (%s, %s), expected patches and rows / columns", tostring(area),
    tostring(aspect))
  area = floor(area)
  local h, w = rint(sqrt(area * aspect)), rint(sqrt(area / aspect))
  if h > self.h then
    h, w = self.h, min(self.w, rint(area / self.h))
  elseif w > self.w then
    h, w = min(self.h, rint(area / self.w)), self.w
  end
  return max(h, 1), max(w, 1)
end

--- n patches chosen at random.
---@param rng ijepa.mask_rng
---@param n integer
---@return ijepa.mask_region
function Grid:random(rng, n)
  want_rng(rng, "grid:random(rng, n)")
  need(is_whole(n, 0, self.n), "grid:random(rng, n): n is %s, expected 0 to %d", tostring(n),
    self.n)
  local region = new_region(self)
  if n <= floor(self.n / 2) then
    choose(region.words, rng, self.n, n)
    return region
  end
  choose(region.words, rng, self.n, self.n - n)   -- those left out
  return -region
end

--- Every patch.
---@return ijepa.mask_region
function Grid:all() return self:block(0, 0, self.h, self.w) end
--- No patch: the start of a union.
---@return ijepa.mask_region
function Grid:none() return new_region(self) end

--- The patches with these numbers, from 0, row-major.
---@param list integer[]
---@return ijepa.mask_region
function Grid:patches(list)
  need(type(list) == "table", "grid:patches: expected a list of patch numbers")
  local region = new_region(self)
  for _, i in ipairs(list) do
    need(is_whole(i, 0, self.n - 1), "grid:patches: %s is not a patch from 0 to %d", tostring(i),
      self.n - 1)
    put(region.words, i)
  end
  return region
end

--- The union of a list of regions.
---@param list ijepa.mask_region[]
---@return ijepa.mask_region
function Grid:union(list)
  need(type(list) == "table" and not is_region(list), "grid:union: expected a list of regions")
  local out = new_region(self)
  for _, region in ipairs(list) do out = out + region end
  return out
end

--- The frame of a block: its outermost patches, `thick` (1) deep.
---@param top integer
---@param left integer
---@param h integer
---@param w integer
---@param thick integer?
---@return ijepa.mask_region
function Grid:ring(top, left, h, w, thick)
  thick = thick or 1
  need(is_whole(thick, 1, 2 ^ 20),
    "grid:ring(top, left, h, w, thick): thick is %s, expected 1 or more", tostring(thick))
  local outer = self:block(top, left, h, w)
  if h <= 2 * thick or w <= 2 * thick then return outer end
  return outer - self:block(top + thick, left + thick, h - 2 * thick, w - 2 * thick)
end

--- Every other square of side x side patches; odd: the squares without the first corner.
---@param side integer?  1
---@param odd boolean?
---@return ijepa.mask_region
function Grid:checkerboard(side, odd)
  side = side or 1
  need(is_whole(side, 1, 2 ^ 20), "grid:checkerboard(side): side is %s, expected 1 or more",
    tostring(side))
  local region, rest = new_region(self), odd and 1 or 0
  for y = 0, self.h - 1 do
    for x = 0, self.w - 1 do
      if (floor(y / side) + floor(x / side)) % 2 == rest then put(region.words, y * self.w + x) end
    end
  end
  return region
end

-- ---- maps: a weight per patch -------------------------------------------------------------------

---@class ijepa.mask_map  a weight of 0 or more per patch, row-major
---@field grid ijepa.mask_grid
local Map = {}
Map.__index = Map
function Map:__tostring()
  local g, least, most = self.grid, math.huge, 0
  for i = 0, g.n - 1 do least, most = min(least, self.v[i]), max(most, self.v[i]) end
  return ("mask map of %d x %d weights, %.4g to %.4g"):format(g.h, g.w, least, most)
end

--- A map of weights: a list of n numbers, row-major, or a list of rows; or f(row, column), from 0.
---@param values number[]|number[][]|function|ijepa.mask_map
---@return ijepa.mask_map
function Grid:map(values)
  if getmetatable(values) == Map then
    need(values.grid.n == self.n and values.grid.w == self.w,
      "grid:map: the map is of another grid")
    return values
  end
  local m = setmetatable({ grid = self, v = doubles(self.n) }, Map)
  local of = type(values)
  need(of == "function" or of == "table"
    and (#values == self.n or #values == self.h and type(values[1]) == "table"),
    "grid:map: expected %d numbers, %d lists of %d, or a function of row and column", self.n,
      self.h, self.w)
  local sum = 0
  for i = 0, self.n - 1 do
    local y, x, v = floor(i / self.w), i % self.w
    if of == "function" then v = values(y, x)
    elseif type(values[1]) == "table" then v = type(values[y + 1]) == "table"
        and values[y + 1][x + 1]
    else v = values[i + 1] end
    need(type(v) == "number" and v >= 0 and v < math.huge,
      "grid:map: patch %d is %s, expected a number from 0", i,
      tostring(v))
    m.v[i], sum = v, sum + v
  end
  need(sum > 0 and sum < math.huge,
    "grid:map: all weights are 0 or their sum is infinite: no patch can be drawn")
  return m
end

--- The weight of the patch in this row and column, from 0.
---@param row integer
---@param col integer
---@return number?
function Map:at(row, col)
  local g = self.grid
  if is_whole(row, 0, g.h - 1) and is_whole(col, 0, g.w - 1) then return self.v[row * g.w + col] end
end

-- The k-th smallest (from 0) of key[0 .. n - 1], whose order is lost (quickselect).
local function kth(key, n, k)
  local lo, hi = 0, n - 1
  while lo < hi do
    local pivot, i, j = key[floor((lo + hi) / 2)], lo, hi
    while i <= j do
      while key[i] < pivot do i = i + 1 end
      while key[j] > pivot do j = j - 1 end
      if i <= j then
        key[i], key[j] = key[j], key[i]
        i, j = i + 1, j - 1
      end
    end
    if k <= j then hi = j elseif k >= i then lo = i else return key[k] end
  end
  return key[k]
end

-- The n patches with the smallest keys; of equal ones the first ones.
local function smallest(grid, key, n)
  local region = new_region(grid)
  if n == 0 then return region end
  local copy = grid.scratch
  F.copy(copy, key, grid.n * 8)
  local limit, below = kth(copy, grid.n, n - 1), 0
  for i = 0, grid.n - 1 do
    if key[i] < limit then
      put(region.words, i)
      below = below + 1
    end
  end
  for i = 0, grid.n - 1 do
    if key[i] == limit and below < n then
      put(region.words, i)
      below = below + 1
    end
  end
  return region
end

local function map_and_count(self, where, values, n)
  need(is_whole(n, 0, self.n), "%s: n is %s, expected 0 to %d", where, tostring(n), self.n)
  return self:map(values)
end

--- The n patches of largest weight; of equal ones the first ones.
---@param map ijepa.mask_map|number[]
---@param n integer
---@return ijepa.mask_region
function Grid:top(map, n)
  local v, key = map_and_count(self, "grid:top(map, n)", map, n).v, self.keys
  for i = 0, self.n - 1 do key[i] = -v[i] end
  return smallest(self, key, n)
end

--- n patches drawn without replacement, with probabilities that grow with their weights; those of
--- weight 0 come last.
---@param rng ijepa.mask_rng
---@param map ijepa.mask_map
---@param n integer
---@return ijepa.mask_region
function Grid:weighted(rng, map, n)
  want_rng(rng, "grid:weighted(rng, map, n)")
  local v, key = map_and_count(self, "grid:weighted(rng, map, n)", map, n).v, self.keys
  -- the smallest of exponential random numbers of rate v (Efraimidis and Spirakis, 2006); weight 0:
  -- after all others
  for i = 0, self.n - 1 do
    local e = -math.log(1 - C.ij_rng_uniform(rng.r))
    key[i] = v[i] > 0 and min(e / v[i], 1e300) or 1e301 * (1 + e)
  end
  return smallest(self, key, n)
end

-- Sums of all weights above and left of each corner, (h + 1, w + 1); made once for a map.
local function sums_of(map)
  if map.sums then return map.sums end
  local g, v = map.grid, map.v
  local W = g.w + 1
  local s = doubles((g.h + 1) * W)
  for y = 1, g.h do
    local row = 0
    for x = 1, g.w do
      row = row + v[(y - 1) * g.w + x - 1]
      s[y * W + x] = s[(y - 1) * W + x] + row
    end
  end
  map.sums = s
  return s
end

--- A block of h x w patches (at most the grid's), drawn with a probability proportional to the sum
--- of its weights.
---@param rng ijepa.mask_rng
---@param map ijepa.mask_map
---@param h integer
---@param w integer
---@return ijepa.mask_region
function Grid:weighted_block(rng, map, h, w)
  need(getmetatable(rng) == Rng and is_whole(h, 1, 2 ^ 20) and is_whole(w, 1, 2 ^ 20),
    "grid:weighted_block(rng, map, h, w): expected rng, a map and two whole numbers from 1")
  h, w = min(h, self.h), min(w, self.w)
  local s, W, upto = sums_of(self:map(map)), self.w + 1, self.keys
  local rows, cols, total = self.h - h + 1, self.w - w + 1, 0
  for y = 0, rows - 1 do
    for x = 0, cols - 1 do
      total = total + max(s[(y + h) * W + x + w] - s[y * W + x + w] - s[(
        y + h) * W + x] + s[y * W + x], 0)
      upto[y * cols + x] = total
    end
  end
  local u, lo, hi = rng:uniform() * total, 0, rows * cols - 1
  while lo < hi do   -- the first position whose cumulative sum exceeds u
    local mid = floor((lo + hi) / 2)
    if upto[mid] > u then hi = mid else lo = mid + 1 end
  end
  return self:block(floor(lo / cols), lo % cols, h, w)
end

function Grid:__tostring()
  return ("mask grid of %d x %d patches"):format(self.h, self.w)
end

local function new_grid(h, w)
  if type(h) == "table" and w == nil then h, w = h[1], h[2] end
  need(is_whole(h, 1, 4096) and is_whole(w, 1, 4096),
    "mask.grid(rows, columns): (%s, %s), expected two whole numbers from 1 to 4096", tostring(h),
      tostring(w))
  local n = h * w
  return setmetatable({ h = h, w = w, n = n, [1] = h, [2] = w, words = math.ceil(n / 32),
    keys = doubles(n),
    scratch = doubles(n) }, Grid)
end

-- chosen = the set without the chosen patches
local function remove(words, first, chosen, n)
  for i = 0, n - 1 do chosen[i] = band(words[first + i], bnot(chosen[i])) end
end

return { new = new_grid, is_whole = is_whole, remove = remove, is_region = is_region,
  new_rng = new_rng, start = start, choose = choose, list_bits = list_bits,
  count_ones = count_ones, is_map = function(v) return getmetatable(v) == Map end }

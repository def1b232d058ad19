--- Mask policies written in Lua: a function from random numbers and the grid to a context and its
--- targets.
--
--   local function halves(rng, grid)
--     local left = grid:block(0, 0, grid.h, grid.w / 2)
--     if rng:uniform() < 0.5 then return left, { -left } end
--     return -left, { left }
--   end
--   local masks = mask.policy(halves, mask.grid(16, 16))
--
-- guard.lua runs the user's functions.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local grids = require "ijepa.mask.grid"
local guard = require "ijepa.mask.guard"
local code = require "ijepa.base.code"
local C = F.C
local floor, min = math.floor, math.min

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end
local is_whole = grids.is_whole
local ints = F.typeof "int32_t[?]"
local guarded, raise, place_of = guard.run, guard.raise, guard.place_of

-- ---- the policy ---------------------------------------------------------------------------------

-- What holds the memory of an ij_masks lives as long as it.
local owner = setmetatable({}, { __mode = "k" })

local Custom = {}
Custom.__index = Custom

-- An error in what the function returned: its place is the function's own.
local function wrong(self, ...)
  error({ place = place_of(self.f), message = string.format(...) }, 0)
end

local function as_region(self, v, what)
  if grids.is_region(v) then
    if v.grid.h ~= self.cells.h or v.grid.w ~= self.cells.w then
      wrong(self, "the %s is a region of another grid: expected one of the grid that the function gets", what)
    end
    return v
  end
  if type(v) ~= "table" then
    wrong(self, "the %s is %s, expected a region of the grid", what, type(v))
  end
  for _, i in ipairs(v) do
    if not is_whole(i, 0, self.cells.n - 1) then
      wrong(self, "the %s holds %s, which is not a patch from 0 to %d", what, tostring(i),
        self.cells.n - 1)
    end
  end
  return self.cells:patches(v)
end

-- One region, a list of patch numbers or a list of either -> a list of regions.
local function as_list(v)
  return (grids.is_region(v) or type(v) == "table" and type(v[1]) == "number") and { v } or v
end

-- Copies the sets of image i to g, from its set `offset` on; returns the size of the smallest.
local function keep_sets(self, g, i, offset, list, what)
  local words, shortest = self.cells.words, self.cells.n
  for j = 1, #list do
    local region = as_region(self, list[j], what)
    local to = i * g.masks + offset + j - 1
    F.copy(g.bits + to * words, region.words, words * 4)
    local n = grids.count_ones(g.bits, to * words, words)
    if n == 0 then wrong(self, "the %s is empty", what) end
    g.length[to] = n
    shortest = min(shortest, n)
  end
  return shortest
end

local function draw_image(self, g, i, at)
  local context, targets, fallback = self.f(self.rng, self.cells, at, self.options)
  context, targets = as_list(context), as_list(targets)
  if type(context) ~= "table" or context[1] == nil then
    wrong(self, "the function returned no context: it must return a context and a list of targets")
  end
  if type(targets) ~= "table" or targets[1] == nil then
    wrong(self, "the function returned no target: it must return a context and a list of targets")
  end
  self.contexts, self.targets = self.contexts or #context, self.targets or #targets
  if #context ~= self.contexts or #targets ~= self.targets then
    wrong(self, "%s and %s, but %s and %s before: all images need the same number",
      text.count(#context, "context"),
      text.count(#targets, "target"), text.count(self.contexts, "context"),
        text.count(self.targets, "target"))
  end
  if not g.bits then
    g.masks = self.targets + self.contexts
    need(self.group * g.masks * self.cells.words < 2 ^ 28,
      "mask.policy: %d x %d masks of %d patches take over a GiB: lower 'group'",
      self.group, g.masks, self.cells.n)
    g.bits, g.length = ints(self.group * g.masks * self.cells.words), ints(self.group * g.masks)
  end
  g.t = min(g.t, keep_sets(self, g, i, 0, targets, "target"))
  g.k = min(g.k, keep_sets(self, g, i, self.targets, context, "context"))
  g.relaxed[i] = fallback and 1 or 0
end

local NEEDS_IMAGES = "this policy reads images: give images=..."

-- The maps that the saliency function returns for a batch: a list of maps of the grid, from 1.
local function maps_of(self, batch)
  local ok, v = guarded(self.saliency, batch, self.cells, self.options)
  if not ok then raise(v, self.saliency, "'s saliency") end
  local tensor = require "ijepa.tensor"
  local n, w, row = self.cells.n, self.cells.w, nil
  if tensor.is(v) and v:numel() == batch.count * n and v:size(-1) == n then
    local values = v:read()
    row = function(i)
      return function(y, x) return tonumber(values[(i - 1) * n + y * w + x]) end
    end
  elseif type(v) == "table" and #v == batch.count then
    row = function(i) return v[i] end
  else
    local got = tensor.is(v) and "a tensor (" .. table.concat(v:size(), ", ") .. ")" or type(v)
    raise({ message = ("%s, expected a tensor (%d, %d) or %d lists"):format(got, batch.count, n,
      batch.count) }, self.saliency, "'s saliency")
  end
  local maps = {}
  for i = 1, batch.count do
    local fine, map = guarded(self.cells.map, self.cells, row(i))
    if not fine then
      raise({ message = map.message }, self.saliency,
        (", image %d: its saliency"):format(batch.first + i - 1))
    end
    maps[i] = map
  end
  return maps
end

-- A function from an image of the group, from 0, to its saliency map; nil: one map for all.
local function saliencies(self, number, batch)
  if self.maps then
    local first = number * self.group - self.maps_first
    return function(i) return self.maps[(first + i) % #self.maps + 1] end
  end
  if type(self.saliency) ~= "function" then return nil end
  if batch == false then
    local flat = self.cells:map(function() return 1 end)
    return function() return flat end
  end
  need(type(batch) == "table", "mask: %s", NEEDS_IMAGES)
  need(batch.first == number * self.group and batch.count == self.group,
    "mask: this policy reads images, so a group must be one batch: set mask.group=%d (it is %d)",
    batch.count, self.group)
  local maps = maps_of(self, batch)
  return function(i) return maps[i + 1] end
end

--- As Policy:for_images.
---@param x ijepa.tensor|nil
---@param target ijepa.encoder|nil
---@param first integer?
---@return ijepa.mask_policy? policy, string? message
function Custom:for_images(x, target, first)
  if type(self.saliency) ~= "function" then return self end
  if x == nil then return nil, NEEDS_IMAGES end
  local tensor, device = require "ijepa.tensor", require "ijepa.tensor.device"
  need(tensor.is(x) and x:dim() == 4, "mask: 'images' is %s, expected a tensor (B, H, W, 3)",
    tensor.is(x) and "a tensor (" .. table.concat(x:size(), ", ") .. ")" or type(x))
  local absent = { __index = function(_, key)
    if key == "target" then
      error("this policy reads the target encoder: give a model, or target=...", 0)
    end
  end }
  local maps, count = {}, x:size(1)
  for from = 1, count, self.group do   -- in batches of a group, as in training
    local n = math.min(self.group, count - from + 1)
    local batch = setmetatable({ images = x:narrow(1, from, n):contiguous(), target = target,
      first = (first or 0) + from - 1, count = n }, absent)
    for _, map in ipairs(device.no_grad(maps_of, self, batch)) do maps[#maps + 1] = map end
  end
  local seen = {}
  for key, value in pairs(self) do seen[key] = value end
  seen.saliency, seen.drawn, seen.maps, seen.maps_first = nil, nil, maps, first or 0
  return setmetatable(seen, Custom)
end

--- Masks of a group before they are cut to one length. offset: difference of the step from that of
--- the image's number.
---@param number integer
---@param offset integer
---@param batch table|false|nil
---@return table
function Custom:draw_group(number, offset, batch)
  local drawn = self.drawn
  if drawn and drawn.number == number and drawn.offset == offset
      and (drawn.batch == batch or type(self.saliency) ~= "function") then
    return drawn
  end
  local g = { number = number, offset = offset, batch = batch, k = self.cells.n, t = self.cells.n,
    relaxed = F.new("uint8_t[?]", self.group) }
  local salient = saliencies(self, number, batch)
  local at = { group = number, saliency = self.map }
  local ok, e = guarded(function()
    for i = 0, self.group - 1 do
      at.image = number * self.group + i
      at.step = math.max(0, floor(at.image / self.batch) + offset)
      if salient then at.saliency = salient(i) end
      grids.start(self.rng, self.seed, C.IJ_RNG_MASK_POS, at.image)
      grids.start(self.rng.group, self.seed, C.IJ_RNG_MASK_SIZE, number)
      draw_image(self, g, i, at)
    end
  end)
  if not ok then
    raise(e, self.f, at.step and (", image %.0f, step %.0f"):format(at.image, at.step) or "")
  end
  self.drawn = g
  return g
end

-- Keeps `keep` of the n patches of a set, with the same draws as core/mask/pack.c.
local function cut(self, bits, at, n, keep, out, to)
  local row, chosen, words = self.row, self.chosen, self.cells.words
  if keep == n then
    grids.list_bits(bits, at, self.cells.n, row)
    F.copy(out + to, row, keep * 4)
    return
  end
  grids.list_bits(bits, at, self.cells.n, row)
  F.fill(chosen, words * 4)
  local fewer = min(keep, n - keep)   -- draw the smaller part
  grids.choose(chosen, self.cutter, n, fewer, row)
  if fewer ~= keep then grids.remove(bits, at, chosen, words) end
  grids.list_bits(chosen, 0, self.cells.n, row)
  F.copy(out + to, row, keep * 4)
end

--- As Policy:sample_raw. step: updates done before (default: from the number of the image); batch:
--- what the policy's saliency function gets, a table with `images` and `target`; false: only
--- lengths count, all patches weigh the same.
---@param count integer
---@param first integer?
---@param step integer?
---@param batch table|false|nil
---@return table
function Custom:sample_raw(count, first, step, batch)
  need(is_whole(count, 1, 2 ^ 20),
    "mask: 'count' is %s, expected a whole number from 1; ask for fewer", tostring(count))
  if first == nil then first = self.next end
  first = tonumber(first)
  need(first and is_whole(first, 0, 2 ^ 52), "mask: 'first' is not a whole number from 0")
  need(step == nil or is_whole(step, 0, 2 ^ 52),
    "mask: 'step' is %s, expected a whole number from 0", tostring(step))
  if batch and not batch.first then
    local whole = { first = first, count = count }
    for key, value in pairs(batch) do whole[key] = value end
    batch = whole
  end
  local offset = step and step - floor(first / self.batch) or 0
  local groups, k, t = {}, self.cells.n, self.cells.n
  for number = floor(first / self.group), floor((first + count - 1) / self.group) do
    local g = self:draw_group(number, offset, batch)
    groups[number], k, t = g, min(k, g.k), min(t, g.t)
  end
  local C_, M, words = self.contexts, self.targets, self.cells.words
  need(count * (C_ * k + M * t) < 2 ^ 31,
    "mask: masks of %d images take too much memory: ask for fewer", count)
  local context, target = ints(C_ * count * k), ints(M * count * t)
  local m = F.new "ij_masks"
  m.count, m.contexts, m.targets, m.k, m.t = count, C_, M, k, t
  m.context, m.target = context, target
  owner[m] = { context, target }
  for b = 0, count - 1 do
    local image = first + b
    local g, i = groups[floor(image / self.group)], image % self.group
    m.fallbacks = m.fallbacks + g.relaxed[i]
    grids.start(self.cutter, self.seed, C.IJ_RNG_MASK_CUT, image)
    for j = 0, M - 1 do
      local mine = i * g.masks + j
      cut(self, g.bits, mine * words, g.length[mine], t, target, (j * count + b) * t)
    end
    for j = 0, C_ - 1 do
      local mine = i * g.masks + M + j
      cut(self, g.bits, mine * words, g.length[mine], k, context, (j * count + b) * k)
    end
  end
  self.next = first + count
  return m
end

local NAMES = { "grid", "group", "seed", "batch", "options", "saliency" }

local function new_policy(base, f, o)
  need(type(f) == "function",
    "mask.policy: the first argument is %s, expected a function(rng, grid, at, options)", type(f))
  if o == nil then o = { grid = { 14, 14 } } end   -- 224 pixels in patches of 16
  need(type(o) == "table",
    "mask.policy: expected a grid, or settings such as { grid = { 16, 16 } }")
  if o[1] then o = { grid = o } end
  text.check_keys("mask.policy", o, NAMES)
  need(type(o.grid) == "table", "mask.policy: 'grid' is missing, such as {16, 16}")
  local group, seed = o.group or 128, o.seed or 0
  local batch = o.batch or group
  need(is_whole(group, 1, 65536), "mask.policy: 'group' is %s, expected 1 to 65536",
    tostring(group))
  need(is_whole(batch, 1, 2 ^ 31),
    "mask.policy: 'batch' is %s, expected a whole number from 1: images of a step", tostring(batch))
  need(type(seed) == "cdata" or is_whole(seed, 0, 2 ^ 53),
    "mask.policy: 'seed' is %s, expected a whole number from 0", tostring(seed))
  need(o.options == nil or type(o.options) == "table",
    "mask.policy: 'options' is %s, expected a table", tostring(o.options))
  need(o.saliency == nil or type(o.saliency) == "table" or type(o.saliency) == "function",
    "mask.policy: 'saliency' is %s, expected numbers per patch or a function(batch, grid, options)",
      tostring(o.saliency))
  if getmetatable(Custom) == nil then setmetatable(Custom, { __index = base }) end
  Custom.__tostring = base.__tostring
  local grid = grids.new(o.grid[1], o.grid[2])
  local p = setmetatable({ name = "in Lua", f = f, cells = grid, grid = { grid.h, grid.w },
    group = group, seed = seed,
    batch = batch, options = o.options or {}, saliency = o.saliency, next = 0,
      rng = grids.new_rng(), cutter = grids.new_rng(),
    row = ints(grid.n), chosen = ints(grid.words) }, Custom)
  p.rng.group = grids.new_rng()
  if type(o.saliency) == "table" then p.map = grid:map(o.saliency) end
  guard.watch(f, o.saliency)
  -- how many contexts and targets there are, and whether it works at all
  p:draw_group(0, 0, false)
  guard.watch(f, o.saliency)    -- with the modules that it has loaded by now
  p.drawn = nil
  return p
end

-- ---- policies in files --------------------------------------------------------------------------

-- "share=.5,over=100,scale={.1,.2}" -> a table
local function options_of(v)
  if v == nil then return {} end
  if type(v) == "table" then return v end
  need(type(v) == "string",
    "mask.options is %s, expected a table or text such as share=0.5,over=1000", tostring(v))
  local function value(word)
    if word == "true" or word == "false" then return word == "true" end
    return tonumber(word) or word
  end
  local t, at = {}, 1
  while at <= #v do
    local from, to, name, rest = v:find("^%s*([%a_][%w_]*)%s*=%s*(%b{})%s*,?", at)
    if from then
      t[name] = {}
      for word in rest:sub(2, -2):gmatch "[^%s,]+" do t[name][#t[name] + 1] = value(word) end
    else
      from, to, name, rest = v:find("^%s*([%a_][%w_]*)%s*=%s*([^,]-)%s*%f[,%z]", at)
      need(from, "mask.options: '%s' is not name=value,name=value", v)
      t[name] = value(rest)
      to = v:sub(to + 1, to + 1) == "," and to + 1 or to
    end
    at = to + 1
  end
  return t
end

-- The table { policy, options, saliency } that a file returns, and its code. origin: the folder
-- where a copy lay that a run has kept.
local function load_file(path, origin)
  local chunk, piece = code.chunk("policy", path, { origin = origin })
  if not chunk then
    local message = piece --[[@as string]]
    need(not message:find "^cannot", "mask.policy: %s", message)
    error(message, 0)
  end
  guard.watch(chunk)
  local ok, v = guarded(chunk)
  if not ok then raise(v, chunk, "") end
  if type(v) == "function" then v = { policy = v } end
  if type(v) ~= "table" or type(v.policy) ~= "function" then
    raise({ message = ("the file returned %s, expected a function(rng, grid, at, options) or { policy = a function, options = {...} }"):format(
      type(v) == "table" and "a table without the function 'policy'" or type(v)) }, chunk, "")
  end
  local names = { "policy", "options", "saliency" }
  for key in pairs(v) do
    if key ~= "policy" and key ~= "options" and key ~= "saliency" then
      raise({ message = ("unknown field '%s'%s"):format(tostring(key),
        text.hint(tostring(key), names)) }, chunk, "")
    end
  end
  if v.options ~= nil and type(v.options) ~= "table" then
    raise({ message = ("'options' is %s, expected a table of defaults"):format(type(v.options)) },
      chunk, "")
  end
  return v, piece
end

-- A policy from a file: o as for new_policy; the function gets o.mask as options.mask.
local function from_file(base, path, o)
  local made, piece = load_file(path, o.origin)
  local options, known = {}, made.options or {}
  for key, default in pairs(known) do options[key] = default end
  for key, value in pairs(options_of(o.options)) do
    need(known[key] ~= nil, "mask.options: '%s' has no option '%s'%s", path, tostring(key),
      text.hint(tostring(key), text.keys(known)))
    need(type(value) == type(known[key]),
      "mask.options: '%s' of '%s' is %s, expected a %s such as %s", tostring(key), path,
      tostring(value), type(known[key]), tostring(known[key]))
    options[key] = value
  end
  options.mask = o.mask
  local p = new_policy(base, made.policy,
    { grid = o.grid, group = o.group, seed = o.seed, batch = o.batch, options = options,
    saliency = o.saliency or made.saliency })
  p.name, p.piece, piece.kept = path, piece, o.origin ~= nil
  return p
end

return { policy = new_policy, from_file = from_file, options_of = options_of }

-- Masks: which patches of an image the context encoder sees (context) and which the predictor
-- predicts (targets). A policy is an endless sequence of masks, one set per image of a run, counted
-- from 0. grid.lua: regions of patches; policy.lua: policies written in Lua, which guard.lua runs;
-- lint.lua: checks of a policy; compare.lua: several side by side.
-- Uses: base, tensor, draw.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local bit = require "bit"
local C = F.C

local mask = {}

---@class ijepa.mask_policy
---@field name string "multiblock", "random" or "block"
---@field grid integer[] rows and columns of patches
---@field contexts integer context masks of an image
---@field targets integer target masks of an image
---@field group integer images whose masks are cut to one length
local Policy = {}
Policy.__index = Policy

-- What holds the memory of an ij_masks lives as long as it.
local owner = setmetatable({}, { __mode = "k" })

local KIND = { multiblock = C.IJ_MASK_MULTIBLOCK, random = C.IJ_MASK_RANDOM,
  block = C.IJ_MASK_BLOCK }

--- What the published sampler does differently, by name; quirks = "reference" turns all of them on.
mask.quirks = {
  -- one number sets a block's scale and aspect
  shared_draw = C.IJ_SHARED_DRAW,
  -- the last row and column are never in a mask
  exclusive_position = C.IJ_EXCLUSIVE_POSITION,
  -- a block's side is at most the grid's less 1
  block_below_grid = C.IJ_BLOCK_BELOW_GRID,
  raster_cut = C.IJ_RASTER_CUT,                         -- the cut keeps the top of the image
  batch_sizes_seeded_by_counter = C.IJ_SIZES_BY_COUNTER, -- sizes do not depend on the seed
  -- sizes that can never be valid are found only when they are drawn
  no_hang_guard = C.IJ_NO_HANG_GUARD,
}

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

local function known_keys(where, t, ...) text.check_keys(where, t, { ... }) end

local function integer(name, v, default, least)
  if v == nil then v = default end
  need(type(v) == "number" and v % 1 == 0 and v >= least and v <= 2 ^ 31 - 1,
    "mask: '%s' is %s, expected a whole number from %d", name, tostring(v), least)
  return v
end

-- {lo, hi}, or one number for both
local function range(name, v, default)
  if v == nil then v = default end
  if type(v) == "number" then v = { v, v } end
  need(type(v) == "table" and #v == 2 and type(v[1]) == "number" and type(v[2]) == "number",
    "mask: '%s' is %s, expected two numbers such as {%g, %g}", name,
      type(v) == "table" and "a table" or tostring(v),
    default[1], default[2])
  return v
end

local function section(name, v, ...)
  if v == nil then return {} end
  need(type(v) == "table", "mask: '%s' is %s, expected a table", name, tostring(v))
  known_keys("mask." .. name, v, ...)
  return v
end

-- nil, "reference", "a, b", a list of names, or a table name = true / false (also reference = true)
-- -> bits
local function quirk_bits(v)
  local bits, off = 0, 0
  local function set(name, on)
    local value = name == "reference" and C.IJ_REFERENCE_QUIRKS or mask.quirks[name]
    if not value then
      local names = text.keys(mask.quirks)
      names[#names + 1] = "reference"
      table.sort(names)
      F.raise(("mask: unknown quirk '%s'%s; known are %s"):format(tostring(name),
        text.hint(tostring(name), names), table.concat(names, ", ")))
    end
    if on then bits = bit.bor(bits, value) else off = bit.bor(off, value) end
  end
  if type(v) == "string" then
    for name in v:gmatch "[^%s,]+" do set(name, true) end
  elseif type(v) == "table" then
    for key, value in pairs(v) do
      if type(key) == "number" then set(value, true) else set(key, value) end
    end
  else
    need(v == nil, "mask: 'quirks' is %s, expected \"reference\" or a table of switches",
      tostring(v))
  end
  return bit.band(bits, bit.bnot(off))
end

-- A 64-bit number: whole, from 0, or cdata.
local function long(name, v)
  if type(v) == "cdata" then return v end
  need(type(v) == "number" and v % 1 == 0 and v >= 0 and v < 2 ^ 53,
    "%s is %s, expected a whole number from 0", name,
    tostring(v))
  return v
end

-- The settings that multiblock, random and block share with policies in files, with the published
-- values filled in.
local function sections(o, block)
  local context = section("context", o.context, "n", "scale")
  local target = section("target", o.target, "n", "scale", "aspect")
  need(o.overlap == nil or type(o.overlap) == "boolean",
    "mask: 'overlap' is %s, expected true or false",
    tostring(o.overlap))
  return {
    context = { n = integer("context.n", context.n, 1, 1),
      scale = range("context.scale", context.scale, { .85, 1 }) },
    target = { n = integer("target.n", target.n, block and 1 or 4, 1),
      aspect = range("target.aspect", target.aspect, { .75, 1.5 }),
      scale = range("target.scale", target.scale, block and { .6, .6 } or { .15, .2 }) },
    min_keep = integer("min_keep", o.min_keep, 10, 0), overlap = o.overlap or false,
  }
end

--- Whether a name is that of a policy's file rather than of a built-in policy.
---@param name string
---@return boolean
function mask.is_file(name) return name:find "%.lua$" ~= nil or name:find "/" ~= nil end

--- A new policy. `o.grid` is required; the rest has the published values as defaults, without the
--- published quirks. `o.policy` is "multiblock", "random", "block", the path of a file as in
--- recipes/masks/, or a function as mask.policy takes it. For the last two: options (what the
--- function gets as options.NAME), batch (images per step, for policies that follow the step;
--- default: the group) and saliency (a weight per patch, or a function: see mask.policy); context,
--- target, min_keep and overlap reach them as options.mask.
---@param o { policy: string|function|nil, grid: integer[], context: table?, target: table?, min_keep: integer?,
---overlap: boolean?, quirks: string|table|nil, group: integer?, seed: integer?, options: table|string|nil, batch: integer?,
---saliency: table|function|nil }
---context: { n = 1, scale = { .85, 1 } };
---target: { n = 4, scale = { .15, .2 }, aspect = { .75, 1.5 } } (policy "block": n = 1, scale = { .6, .6 })
---@return ijepa.mask_policy
function mask.new(o)
  need(type(o) == "table", "mask.new: expected a table of settings, such as { grid = { 16, 16 } }")
  known_keys("mask", o, "policy", "grid", "context", "target", "min_keep", "overlap", "quirks",
    "group", "seed", "options", "batch",
    "saliency", "origin")
  local name = o.policy == nil and "multiblock" or o.policy
  if type(name) == "function" or type(name) == "string" and not KIND[name]
      and mask.is_file(name) then
    local policies, with = require "ijepa.mask.policy",
      { grid = o.grid, group = o.group, seed = o.seed, batch = o.batch,
      saliency = o.saliency, options = o.options, mask = sections(o, false), origin = o.origin }
    if type(name) == "string" then return policies.from_file(Policy, name, with) end
    local options = { mask = with.mask }
    for key, value in pairs(policies.options_of(o.options)) do options[key] = value end
    with.mask, with.origin, with.options = nil, nil, options
    return policies.policy(Policy, name, with)
  end
  need(KIND[name], "mask: unknown policy '%s'%s", tostring(name),
    text.hint(tostring(name), text.keys(KIND)))
  need(type(o.grid) == "table" and #o.grid == 2,
    "mask: 'grid' is %s, expected rows and columns, such as {16, 16}",
    type(o.grid) == "table" and "a table of " .. #o.grid or tostring(o.grid))
  need(o.options == nil or o.options == "" or type(o.options) == "table" and next(o.options) == nil,
    "mask: 'options' is for policies in files; '%s' has none", name)
  need(o.saliency == nil, "mask: 'saliency' is for policies in Lua; '%s' does not look at it", name)

  local m, c = sections(o, name == "block"), F.new "ij_mask_config"
  c.kind = KIND[name]
  c.grid_h, c.grid_w = integer("grid height", o.grid[1], nil, 1),
    integer("grid width", o.grid[2], nil, 1)
  c.contexts, c.targets = m.context.n, m.target.n
  c.context_scale, c.target_scale, c.target_aspect = m.context.scale, m.target.scale,
    m.target.aspect
  c.min_keep, c.allow_overlap = m.min_keep, m.overlap and 1 or 0
  c.quirks = quirk_bits(o.quirks)
  c.group = integer("group", o.group, 128, 1)
  c.seed = long("mask: 'seed'", o.seed == nil and 0 or o.seed)

  local out = F.new "ij_mask_policy *[1]"
  F.check(C.ij_mask_new(c, out))
  return setmetatable({ h = F.gc(out[0], C.ij_mask_free), name = name,
    grid = { c.grid_h, c.grid_w },
    contexts = c.contexts, targets = c.targets, group = c.group, min_keep = c.min_keep,
      settings = o, next = 0 }, Policy)
end

--- The settings of a mask.new call that a recipe's configuration stands for, on a grid {rows,
--- columns}.
---@param cfg table as ijepa.config gives it
---@param grid integer[]
---@return table
function mask.settings_of(cfg, grid)
  local m = cfg.mask
  local steps = cfg.data and cfg.data.batch and cfg.data.batch * (cfg.optim and cfg.optim.accumulate
    or 1)
  return { policy = m.policy, grid = grid, context = m.context, target = m.target,
    min_keep = m.min_keep, overlap = m.overlap,
    group = m.group, seed = cfg.seed, quirks = cfg.quirks ~= "" and cfg.quirks or nil,
      options = m.options, batch = steps }
end

local function check_self(self)
  need(type(self) == "table" and self.sample_raw,
    "sample: call it with a colon, as in masks:sample(32)")
end

--- Masks of images [first, first + count) as the library's struct (see ijepa.h): its memory is the
--- policy's, valid until the policy's next call.
---@param count integer
---@param first integer?  number of the first image, from 0; default: continues after the last call
---@param step integer? updates done before, for policies that follow it; default: from the number
--- of the image
---@param batch { images: ijepa.tensor, target: ijepa.encoder }|false|nil for policies that read
--- images; false: only
---the lengths count (train/memory.lua): all patches weigh the same. What shows or measures masks asks for_images
---@return ffi.cdata* masks an ij_masks
function Policy:sample_raw(count, first, step, batch) -- luacheck: no unused
  check_self(self)
  count = integer("count", count, nil, 1)
  first = long("mask: 'first'", first == nil and self.next or first)
  local m = F.new "ij_masks"
  F.check(C.ij_mask_sample(self.h, first, count, m))
  owner[m] = self
  self.next = first + count
  return m
end

--- Masks of images [first, first + count): the context (C, B, K) and the targets (M, B, T), i32,
--- and a table with k, t, fallbacks (number of images whose context had to keep patches of a
--- target) and the block sizes target and context, {h, w}.
---@param count integer
---@param first integer?  number of the first image, from 0; default: continues after the last call
---@param step integer? update of the run, from 0, for policies that change with it
---@param batch table|false|nil for policies that read images: { images =, target = }
---@return ijepa.tensor context
---@return ijepa.tensor target
---@return table about
function Policy:sample(count, first, step, batch)
  check_self(self)
  local tensor = require "ijepa.tensor"
  local m = self:sample_raw(count, first, step, batch)
  return tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32"),
    tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32"),
    { k = m.k, t = m.t, fallbacks = m.fallbacks, target = { m.target_h, m.target_w },
      context = { m.context_h, m.context_w } }
end

--- This policy as it masks these images in training: every reader of masks asks it. A policy that
--- does not read images is returned as it is; one that does gets the maps of the images here, and
--- its masks follow them.
---@param x ijepa.tensor? u8 (B, H, W, 3); image number n of the policy is the one at (n - first)
--- modulo B, from 0
---@param target ijepa.encoder? the target encoder, for policies that read it
---@param first integer? number of the first image (0)
---@return ijepa.mask_policy? policy nil: it reads images, and there are none
---@return string? message
function Policy:for_images(x, target, first) -- luacheck: no unused
  return self
end

function Policy:__tostring()
  return ("mask policy %s: %dx%d grid, %s and %s per image, groups of %d"):format(self.name,
    self.grid[1], self.grid[2],
    text.count(self.contexts, "context"), text.count(self.targets, "target"), self.group)
end

--- A policy written in Lua. f(rng, grid, at, options) returns a context (or a list of them), a list
--- of targets and, optionally, true for a fallback: an image that could not get what the policy
--- wants. docs/masks.md explains one. rng: uniform(lo, hi), below(n), normal() of this image;
--- rng.group: the same for all images of a group. grid: makes regions (ijepa.mask_grid). at: image
--- (number from 0), group, step (updates done before), saliency (map). f must depend on these
--- alone, so that a run can be resumed; it runs interpreted, so that Ctrl-C stops it. o.saliency: a
--- weight per patch, or a function(batch, grid, options) that returns (B, N) weights of 0 or more
--- for the images of the batch; then a group must be one batch.
---@param f function
---@param o { grid: integer[], group: integer?, seed: integer?, batch: integer?, options: table?, saliency: table|function|nil }|integer[]|nil
---settings, or the grid alone (14 x 14); batch: images per step (default: the group)
---@return ijepa.mask_policy
function mask.policy(f, o) return require("ijepa.mask.policy").policy(Policy, f, o) end

--- A grid, which makes regions: mask.grid(8, 12) or mask.grid{8, 12}.
---@param rows integer|integer[] rows, or {rows, columns}
---@param columns integer?
---@return ijepa.mask_grid
function mask.grid(rows, columns) return require("ijepa.mask.grid").new(rows, columns) end

-- ---- drawing ------------------------------------------------------------------------------------

local function want_policy(policy, usage)
  need(type(policy) == "table" and policy.sample_raw and policy.grid,
    "%s: expected a policy first, as mask.new returns it",
    usage)
end
local function want_options(o, usage)
  need(o == nil or type(o) == "table", "%s: the second argument is %s, expected a table of options",
    usage, tostring(o))
  return o or {}
end

-- The images among the options of a reader of masks, or nil.
local function images_of(v) return require "ijepa.tensor".is(v) and v or nil end
local IMAGES_ARE = " a tensor u8 (B, H, W, 3), as ijepa.plot.batch reads it, and target=... where it reads the encoder"

-- What each patch of image b is: 0 nothing, 1.. a target, -1 context. A patch of several masks
-- shows its first target.
local function roles(m, b, patches)
  local role = {}
  for i = 0, patches - 1 do role[i] = 0 end
  for c = 0, m.contexts - 1 do
    for i = 0, m.k - 1 do role[m.context[(c * m.count + b) * m.k + i]] = -1 end
  end
  for j = m.targets - 1, 0, -1 do
    for i = 0, m.t - 1 do role[m.target[(j * m.count + b) * m.t + i]] = j + 1 end
  end
  return role
end

local DIGITS = "123456789abcdefghijklmnopqrstuvwxyz"
local function letter(role)
  if role == 0 then return "." elseif role < 0 then return "#" end
  return role <= #DIGITS and DIGITS:sub(role, role) or "+"
end

local PALETTE = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x7a5195 }
local function rgb(role)
  local colour = role == 0 and 0x303030 or role < 0 and 0xd8d8d8
    or PALETTE[(role - 1) % #PALETTE + 1]
  return ("%d;%d;%d"):format(bit.rshift(colour, 16), bit.band(bit.rshift(colour, 8), 255),
    bit.band(colour, 255))
end

-- The lines of one image: letters, or two rows of patches in a line of half blocks.
local function image_lines(role, h, w, color)
  local lines = {}
  for y = 0, h - 1, color and 2 or 1 do
    local line = {}
    for x = 0, w - 1 do
      local top = role[y * w + x]
      if color then
        local below = y + 1 < h and role[(y + 1) * w + x] or nil
        line[#line + 1] = below and ("\27[38;2;%s;48;2;%sm▀"):format(rgb(top), rgb(below))
          or ("\27[0;38;2;%sm▀"):format(rgb(top))
      else
        line[#line + 1] = letter(top)
      end
    end
    lines[#lines + 1] = table.concat(line) .. (color and "\27[0m" or "")
  end
  return lines
end

local function text_of(policy, o, usage)
  want_policy(policy, usage)
  o = want_options(o, usage)
  known_keys(usage:match "^[^(]+", o, "first", "images", "target", "step", "color")
  local first, x = long("mask: 'first'", o.first == nil and 0 or o.first), images_of(o.images)
  local images = x and x:size(1) or integer("images", o.images, 1, 1)
  local h, w = policy.grid[1], policy.grid[2]
  local seeing, message = policy:for_images(x, o.target, tonumber(first))
  if not seeing then return message .. IMAGES_ARE end
  local before = policy.next
  local m = seeing:sample_raw(images, first, o.step)
  policy.next = before
  local all, out = {}, {}
  for b = 0, images - 1 do all[b + 1] = image_lines(roles(m, b, h * w), h, w, o.color) end
  for y = 1, #all[1] do
    local parts = {}
    for b = 1, images do parts[b] = all[b][y] end
    out[y] = table.concat(parts, "  ")
  end
  out[#out + 1] = ("context %d, target %d of %s%s"):format(m.k, m.t, text.count(h * w, "patch", "patches"),
    m.fallbacks > 0 and (", %s with a target left in the context"):format(
      text.count(m.fallbacks, "image")) or "")
  return table.concat(out, "\n")
end

--- The masks of images side by side, as text: # context, 1 2 3 ... targets, . neither.
---@param policy ijepa.mask_policy
---@param o { images: integer|ijepa.tensor|nil, target: ijepa.encoder?, first: integer?, step: integer?, color: boolean? }?
---images: count (1), or the images themselves, u8 (B, H, W, 3), for policies that read them, with the target encoder;
---first: number of the first one, from 0 (0); step: of the training, for policies that follow it; color: half blocks in
---24-bit colours
---@return string text where the policy reads images and there are none, the line that states it
function mask.text(policy, o) return text_of(policy, o, "mask.text(policy, { images = 3 })") end

-- The masks of o as a figure (draw/masks.lua), in a file.
local function draw_file(policy, o, usage)
  want_policy(policy, usage)
  known_keys("mask.draw", o, "first", "images", "target", "step", "color", "file", "side", "title")
  need(type(o.file) == "string" and o.file ~= "",
    "mask.draw: 'file' is %s, expected a name such as masks.png", tostring(o.file))
  local first, x = long("mask: 'first'", o.first == nil and 0 or o.first), images_of(o.images)
  local count = x and x:size(1) or integer("images", o.images, 4, 1)
  local seeing, message = policy:for_images(x, o.target, tonumber(first))
  need(seeing, "mask.draw: %s%s", message, IMAGES_ARE)
  local before = policy.next
  local m = seeing:sample_raw(count, first, o.step)
  policy.next = before
  return require "ijepa.draw.masks" (o.file, m, { grid = policy.grid, images = count,
    side = o.side, title = o.title, pixels = x and x:read(), height = x and x:size(2),
    width = x and x:size(3) })
end

--- Prints what mask.text returns, in colour where standard output is a terminal; file: writes a
--- figure instead, as ijepa.plot.masks draws it, and returns the file's name.
---@param policy ijepa.mask_policy
---@param o { images: integer|ijepa.tensor|nil, target: ijepa.encoder?, first: integer?, step: integer?, color: boolean?,
---file: string?, side: integer?, title: (string|false)? }?
---as for mask.text; images of a figure: 4; file: its ending selects the format; side: pixels of an image in it (224);
---title: false: none
---@return string? file with `file` only; nil and a message where it could not be written
---@return string? message
---@return integer? code
function mask.draw(policy, o)
  local usage, with = "mask.draw(policy, { images = 3 })", {}
  for key, value in pairs(want_options(o, usage)) do with[key] = value end
  if with.file ~= nil then return draw_file(policy, with, usage) end
  if with.color == nil then with.color = C.ij_isatty(1) ~= 0 and os.getenv "NO_COLOR" == nil end
  io.write(text_of(policy, with, usage), "\n")
end

-- ---- statistics ---------------------------------------------------------------------------------

local function count_up(t, key) t[key] = (t[key] or 0) + 1 end

local function mean_of(counts, n)
  local sum, least, most = 0, math.huge, 0
  for value, times in pairs(counts) do
    sum, least, most = sum + value * times, math.min(least, value), math.max(most, value)
  end
  return sum / n, least, most
end

local Stats = {}
Stats.__index = Stats

-- Frequencies per patch as a figure of digits: . is never, 9 the most frequent patch. Returns its
-- lines and the maximum.
local function shade(frequency, h, w)
  local most = 0
  for i = 1, h * w do most = math.max(most, frequency[i]) end
  local lines = {}
  for y = 0, h - 1 do
    local line = {}
    for x = 1, w do
      local v = frequency[y * w + x]
      line[x] = v == 0 and "." or tostring(math.floor(v / most * 9 + .5))
    end
    lines[y + 1] = table.concat(line)
  end
  return lines, most
end

local function sizes_text(counts, n)
  local names = text.keys(counts)
  table.sort(names, function(a, b) return counts[a] > counts[b] or counts[a] == counts[b]
    and a < b end)
  local parts = {}
  for i = 1, math.min(#names, 8) do
    parts[i] = ("%s %.3f"):format(names[i], counts[names[i]] / n)
  end
  if #names > 8 then parts[#parts + 1] = ("and %d more"):format(#names - 8) end
  return table.concat(parts, ", ")
end

function Stats:__tostring()
  local h, w = self.grid[1], self.grid[2]
  local out = {
    ("%s of %s, %dx%d grid"):format(text.count(self.groups, "group"),
      text.count(self.group, "image"), h, w),
    ("context patches: mean %.1f, %d to %d"):format(self.k_mean, self.k_min, self.k_max),
    ("target patches:  mean %.1f, %d to %d"):format(self.t_mean, self.t_min, self.t_max),
  }
  if next(self.target_blocks) then
    out[#out + 1] = "target blocks:   " .. sizes_text(self.target_blocks, self.groups)
    out[#out + 1] = "context blocks:  " .. sizes_text(self.context_blocks, self.groups)
  end
  out[#out + 1] = ("images with a target left in the context: %d of %d"):format(self.fallbacks,
    self.images)
  local left, most_left = shade(self.coverage.context, h, w)
  local right, most_right = shade(self.coverage.target, h, w)
  out[#out + 1] = ("fraction of context masks that contain a patch (digit 9 is %.3f), of target masks (9 is %.3f):"):format(
    most_left, most_right)
  for y = 1, h do out[#out + 1] = left[y] .. "   " .. right[y] end
  return table.concat(out, "\n")
end

--- Checks a policy, settings as for mask.new, or the configuration of a recipe (whose grid follows
--- from data.crop and model.patch): what is wrong or unusual about its masks.
---@param what ijepa.mask_policy|table
---@param o { groups: integer?, step: integer?, images: ijepa.tensor?, target: ijepa.encoder? }?
--- groups: how many are drawn
---(20); step: of the training; images u8 (B, H, W, 3) and the target encoder: for policies that read them
---@return ijepa.mask_findings
function mask.lint(what, o) return require "ijepa.mask.lint" (what, o) end

--- Statistics of the masks of some groups: k and t (length -> number of groups), k_mean, k_min,
--- k_max, t_mean, t_min, t_max, target_blocks and context_blocks ("7x6" -> number of groups),
--- coverage.context and coverage.target (fraction of the masks that contain patch i - 1,
--- row-major), fallbacks, groups, images. Prints as a summary.
---@param policy ijepa.mask_policy
---@param o { groups: integer?, step: integer?, images: ijepa.tensor?, target: ijepa.encoder? }?
--- groups: how many (100);
---step: of the training, for policies that follow it; default: of each image; images u8 (B, H, W, 3) and the target
---encoder: for policies that read them
---@return table
function mask.stats(policy, o)
  local usage = "mask.stats(policy, { groups = 100 })"
  want_policy(policy, usage)
  o = want_options(o, usage)
  known_keys("mask.stats", o, "groups", "step", "images", "target")
  local seeing, message = policy:for_images(images_of(o.images), o.target)
  need(seeing, "mask.stats: %s%s", message, IMAGES_ARE)
  policy = seeing --[[@as ijepa.mask_policy]]
  local groups, step = integer("groups", o.groups, 100, 1), o.step
  local patches, group = policy.grid[1] * policy.grid[2], policy.group
  local s = setmetatable({ groups = groups, images = groups * group, group = group,
    grid = policy.grid, k = {},
    t = {}, target_blocks = {}, context_blocks = {}, fallbacks = 0,
      coverage = { context = {}, target = {} } }, Stats)
  local context, target = F.new("int64_t[?]", patches), F.new("int64_t[?]", patches)
  local before, contexts, targets = policy.next, 0, 0
  for number = 0, groups - 1 do
    local m = policy:sample_raw(group, number * group, step)
    count_up(s.k, m.k)
    count_up(s.t, m.t)
    if m.target_h > 0 then
      count_up(s.target_blocks, m.target_h .. "x" .. m.target_w)
      count_up(s.context_blocks, m.context_h .. "x" .. m.context_w)
    end
    s.fallbacks = s.fallbacks + m.fallbacks
    contexts, targets = contexts + m.contexts * m.count, targets + m.targets * m.count
    local patch = m.context
    for i = 0, m.contexts * m.count * m.k - 1 do context[patch[i]] = context[patch[i]] + 1 end
    patch = m.target
    for i = 0, m.targets * m.count * m.t - 1 do target[patch[i]] = target[patch[i]] + 1 end
  end
  policy.next = before
  for i = 1, patches do
    s.coverage.context[i] = tonumber(context[i - 1]) / contexts
    s.coverage.target[i] = tonumber(target[i - 1]) / targets
  end
  s.k_mean, s.k_min, s.k_max = mean_of(s.k, groups)
  s.t_mean, s.t_min, s.t_max = mean_of(s.t, groups)
  return s
end

--- Policies side by side: their masks, statistics and findings of the linter. Prints as text.
---@param policies (ijepa.mask_policy|table)[] two or more, each a policy or settings as for mask.new
---@param o { images: integer|ijepa.tensor|nil, target: ijepa.encoder?, groups: integer?, first: integer?, step: integer?,
---names: string[]?, file: string?, side: integer? }? images: masks that are drawn of each (2), or the images themselves for
---policies that read them; groups: that are counted (20); names: of the policies (a, b, ...); file: also writes a figure
---@return ijepa.mask_comparison
function mask.compare(policies, o) return require "ijepa.mask.compare" (policies, o) end

return mask

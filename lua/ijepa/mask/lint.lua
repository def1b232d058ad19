--- Finds what is wrong or unusual about a mask policy before a training run pays for it:
--- mask.lint(policy or settings).
-- Each check below is a function(add, about) that adds its findings; `about`: the policy, its
-- settings and statistics.
local F = require "ijepa.base.ffi"
local grids = require "ijepa.mask.grid"
local text = require "ijepa.base.text"
local floor, min, max = math.floor, math.min, math.max

local ASPECTS = 4096          -- aspects that the enumeration of sizes tries
local GROUPS = { 1, 8, 32, 128 }
local PUBLISHED = { context = { n = 1, scale = { .85, 1 } },
  target = { n = 4, scale = { .15, .2 }, aspect = { .75, 1.5 } },
  min_keep = 10, overlap = false, group = 128 }

local function percent(part)
  return (part < .0995 and part > 0 and "%.1f %%" or "%.0f %%"):format(100 * part)
end
local function pair(v) return ("%g to %g"):format(v[1], v[2]) end
local function two(v) return type(v) == "number" and { v, v } or v end

-- ---- sizes, enumerated --------------------------------------------------------------------------

local function quirk(s, name)
  local q = s.quirks
  if type(q) == "string" then return q:find "reference" ~= nil or q:find(name, 1, true) ~= nil end
  if type(q) ~= "table" then return false end
  if q[name] ~= nil then return q[name] end
  for _, v in ipairs(q) do
    if v == name or v == "reference" then return true end
  end
  return q.reference == true
end

-- Settings as mask.new takes them, with the published values filled in.
local function completed(s)
  local c, t, block = s.context or {}, s.target or {}, s.policy == "block"
  return { policy = s.policy or "multiblock", grid = s.grid, min_keep = s.min_keep or 10,
    overlap = s.overlap or false,
    group = s.group or 128, quirks = s.quirks,
    context = { n = c.n or 1, scale = two(c.scale or { .85, 1 }) },
    target = { n = t.n or block and 1 or 4,
      scale = two(t.scale or block and { .6, .6 } or { .15, .2 }),
      aspect = two(t.aspect or { .75, 1.5 }) } }
end

-- A list of { name = "7x6", h, w, fraction } of the target blocks that settings can draw: every
-- area with ASPECTS aspects, or the one curve of shared_draw. Exact but for the width of a step
-- between two aspects.
local function target_sizes(s)
  local grid, found, list = grids.new(s.grid[1], s.grid[2]), {}, {}
  local lo, hi = s.target.scale[1], s.target.scale[2]
  local a, z = s.target.aspect[1], s.target.aspect[2]
  local shared, below = quirk(s, "shared_draw"), quirk(s, "block_below_grid")
  local function count(area, aspect, fraction)
    local h, w = grid:block_size(area, aspect)
    if below then
      h, w = math.sqrt(floor(area) * aspect), math.sqrt(floor(area) / aspect)
      h, w = h + 2 ^ 52 - 2 ^ 52, w + 2 ^ 52 - 2 ^ 52
      h, w = max(1, min(h, grid.h - 1)), max(1, min(w, grid.w - 1))
    end
    local name = ("%dx%d"):format(h, w)
    if not found[name] then
      found[name] = { name = name, h = h, w = w, fraction = 0 }
      list[#list + 1] = found[name]
    end
    found[name].fraction = found[name].fraction + fraction
  end
  if shared then
    for i = 0, ASPECTS - 1 do
      local u = (i + .5) / ASPECTS
      count(grid.n * (lo + u * (hi - lo)), a + u * (z - a), 1 / ASPECTS)
    end
  else
    local steps = hi > lo and min(256, max(16, 4 * floor(grid.n * (hi - lo)) + 4)) or 1
    for j = 0, steps - 1 do
      for i = 0, ASPECTS - 1, 4 do
        count(grid.n * (lo + (j + .5) / steps * (hi - lo)), a * (z / a) ^ ((i + .5) / ASPECTS),
          4 / ASPECTS / steps)
      end
    end
  end
  table.sort(list, function(x, y) return x.fraction > y.fraction or x.fraction == y.fraction
    and x.name < y.name end)
  return list
end

local function sizes_text(list)
  local parts = {}
  for i = 1, min(#list, 6) do
    parts[i] = ("%s %s"):format(list[i].name, percent(list[i].fraction))
  end
  return table.concat(parts, ", ") .. (#list > 6 and (" and %d more"):format(#list - 6) or "")
end

-- ---- figures, sampled ---------------------------------------------------------------------------

-- A policy with the same rules and seed but another group.
local function regrouped(p, group)
  local o = {}
  if p.settings then
    for key, value in pairs(p.settings) do o[key] = value end
    o.group = group
    return require "ijepa.mask".new(o)
  end
  for key, value in pairs(p) do o[key] = value end
  o.group, o.drawn = group, nil
  return setmetatable(o, getmetatable(p))
end

-- Mean context patches of an image, by images per group; which patches were in a target in the
-- groups of one image, and their number: these draws are independent, whatever the policy draws
-- once per group.
local function context_by_group(p, step)
  local out, covered, draws = {}, {}, 0
  for _, group in ipairs(GROUPS) do
    local q, sum, n = regrouped(p, group), 0, max(32, floor(512 / group))
    for number = 0, n - 1 do
      local m = q:sample_raw(group, number * group, step)
      sum = sum + m.k
      if group == 1 then
        draws = draws + 1
        for i = 0, m.targets * m.t - 1 do covered[m.target[i] + 1] = true end
      end
    end
    out[group] = sum / n
  end
  return out, covered, draws
end

-- Over some groups, the fractions of an image's target patches that are in another target too, and
-- in the context.
local function overlaps(p, groups, step)
  local n, sum, again, seen = p.grid[1] * p.grid[2], 0, 0, 0
  local times = F.new("int32_t[?]", n)
  for number = 0, groups - 1 do
    local m = p:sample_raw(p.group, number * p.group, step)
    for b = 0, m.count - 1 do
      F.fill(times, n * 4)
      for j = 0, m.targets - 1 do
        for i = 0, m.t - 1 do
          local patch = m.target[(j * m.count + b) * m.t + i]
          times[patch] = times[patch] + 1
        end
      end
      sum = sum + m.targets * m.t
      for i = 0, n - 1 do again = again + max(0, times[i] - 1) end
      for c = 0, m.contexts - 1 do
        for i = 0, m.k - 1 do
          if times[m.context[(c * m.count + b) * m.k + i]] > 0 then seen = seen + 1 / m.contexts end
        end
      end
    end
  end
  return again / sum, seen / sum
end

-- Mean frequency per row (columns: per column) of a coverage list, from 1.
local function by_row(frequency, h, w, columns)
  local out = {}
  for y = 1, columns and w or h do
    out[y] = 0
    for x = 1, columns and h or w do
      out[y] = out[y] + (columns and frequency[(x - 1) * w + y] or frequency[(y - 1) * w + x]) / (
        columns and h or w)
    end
  end
  return out
end

-- ---- the checks ---------------------------------------------------------------------------------

local checks = {}

function checks.sizes(add, about)
  local s = about.settings
  if not s or s.policy == "random" then return end
  add("note", "target blocks: " .. sizes_text(about.sizes),
    ("enumerated: areas %s of %d patches, %d aspects%s"):format(
    pair(s.target.scale), s.grid[1] * s.grid[2], ASPECTS,
      quirk(s, "shared_draw") and ", one random number for both (shared_draw)" or ""))
end

function checks.hang(add, about)
  local s = about.settings
  if not s or s.policy == "random" then return end
  local bad, least, names = 0, nil, {}
  for _, size in ipairs(about.sizes) do
    local area = size.h * size.w
    if not least or area < least.h * least.w then least = size end
    if area <= s.min_keep then
      bad = bad + size.fraction
      names[#names + 1] = ("%s = %d"):format(size.name, area)
    end
  end
  local advice = ("lower mask.min_keep below %d, or raise mask.target.scale"):format(
    least.h * least.w)
  if bad > 0 then
    add("error", ("%s of the groups draw a block that is never valid"):format(percent(bad)),
      ("%s patches, but a mask must have more than min_keep = %d: %s"):format(
        table.concat(names, ", "), s.min_keep,
        quirk(s, "no_hang_guard")
          and "the published sampler would try forever; here the run stops when such a block is drawn"
        or "mask.new refuses it"), advice)
  elseif least.h * least.w <= s.min_keep + 2 then
    add("warn", "close to a setting that is refused",
      ("the smallest target block, %s = %s, is just above min_keep = %d"):format(
      least.name, text.count(least.h * least.w, "patch", "patches"), s.min_keep), advice)
  end
  local left = s.grid[1] * s.grid[2] * s.context.scale[1] - s.target.n * least.h * least.w
  if s.policy == "multiblock" and not s.overlap and left <= s.min_keep then
    add("warn", "targets can cover the context",
      ("the smallest context, %g of %d patches, less %s of %d patches "
      .. "that do not overlap, leaves %d, and min_keep is %d: after 20 tries a target stays in the context"):format(s.context.scale[1],
      s.grid[1] * s.grid[2], text.count(s.target.n, "target"), least.h * least.w, left, s.min_keep),
      "fewer or smaller targets (mask.target.n, mask.target.scale)")
  end
end

function checks.fallbacks(add, about)
  local st = about.stats
  if st.fallbacks == 0 then return end
  local part = st.fallbacks / st.images
  add(part > .01 and "warn" or "note", ("%s of the images needed a fallback"):format(percent(part)),
    "no context with more than min_keep patches was found, so patches of a target stay in it: the predictor sees them, and each "
    .. "such image costs 20 or more tries",
      "smaller or fewer targets, a larger mask.context.scale or a lower mask.min_keep")
end

function checks.context(add, about)
  local st, n = about.stats, about.n
  if st.k_min <= max(1, .02 * n) then
    add("error", ("contexts of %d of %d patches"):format(st.k_min, n),
      "nearly empty: the encoder learns little from them, and one such image cuts the contexts of its group to the same length",
      "raise mask.min_keep, make targets smaller or lower mask.group")
  elseif st.k_mean < .1 * n then
    add("warn", ("the context is %s of the grid on average (%d to %d patches)"):format(
      percent(st.k_mean / n), st.k_min, st.k_max),
      "the published settings leave 27 % with groups of 128",
        "smaller targets or a smaller mask.group")
  end
  local g, parts = about.by_group, {}
  for i, group in ipairs(GROUPS) do parts[i] = ("%.0f (%d)"):format(g[group], group) end
  local drop = 1 - g[128] / g[1]
  add(drop > .5 and "warn" or "note",
    ("mean context patches (images per group): %s"):format(table.concat(parts, ", ")),
    ("sampled; a group is cut to its shortest context: %s fewer patches with 128 images than with 1. This policy has %d"):format(
      percent(drop), about.policy.group),
        drop > .5 and "a smaller mask.group, or sizes that vary less" or nil)
end

function checks.coverage(add, about)
  local st, h, w = about.stats, about.policy.grid[1], about.policy.grid[2]
  local never, rows, columns = 0, by_row(st.coverage.target, h, w),
    by_row(st.coverage.target, h, w, true)
  for i = 1, h * w do
    never = never + (st.coverage.target[i] == 0 and not about.covered[i] and 1 or 0)
  end
  if never > 0 then
    local edge, quirky = rows[h] == 0 and columns[w] == 0,
      about.settings and quirk(about.settings, "exclusive_position")
    add("warn", ("%d of %d patches %s never in a target%s"):format(never, h * w,
      never == 1 and "is" or "are",
      edge and ": the last row and column" or ""),
      quirky and "exclusive_position: no block ever touches the last row or column"
      or ("in %d independent draws"):format(about.draws + st.groups),
        quirky and "turn off the quirk exclusive_position"
      or "draw positions over the complete grid")
  end
  local kept = by_row(st.coverage.context, h, w)
  local top, bottom, q = 0, 0, max(1, floor(h / 4))
  for y = 1, q do top, bottom = top + kept[y] / q, bottom + kept[h + 1 - y] / q end
  if h >= 4 and max(top, bottom) > 1.5 * min(top, bottom) then
    local cut = about.settings and quirk(about.settings, "raster_cut")
    add("warn", ("contexts contain the %s more often than the %s: %s of its patches against %s"):format(
      top > bottom and "top" or "bottom", top > bottom and "bottom" or "top",
        percent(max(top, bottom)), percent(min(top, bottom))),
      cut and "raster_cut: contexts are cut to the shortest of the group from the bottom, row by row"
      or "sampled, over a quarter of the rows at each end", cut and "turn off the quirk raster_cut"
        or nil)
  end
end

function checks.overlap(add, about)
  if about.policy.targets > 1 then
    add(about.again > .5 and "warn" or "note",
      ("%s of the target patches are in another target of the same image"):format(
      percent(about.again)), "sampled; the predictor predicts them twice")
  end
  if about.seen > .005 then
    add("warn", ("%s of the target patches are in the context"):format(percent(about.seen)),
      about.settings and about.settings.overlap and "overlap = true: the predictor may copy them"
        or "the predictor may copy them",
      about.settings and "mask.overlap=false"
        or "take the targets out of the context: context - target")
  end
end

-- A policy in Lua must be a function of its arguments: else a resumed run sees other masks.
function checks.repeats(add, about)
  local p = about.policy
  if not p.f then return end
  local function draw(first)
    p.drawn = nil
    local m = p:sample_raw(p.group, first)
    return F.string(m.context, 4 * m.contexts * m.count * m.k)
      .. F.string(m.target, 4 * m.targets * m.count * m.t)
  end
  local before = draw(0)
  draw(p.group)
  if draw(0) ~= before then
    add("error", "the same images get other masks when they are drawn again",
      "the function depends on more than its arguments (a variable that it changes, math.random, the time): a resumed run would "
      .. "get other masks", "draw from rng and rng.group, and use at.step")
  end
end

function checks.published(add, about)
  local s = about.settings
  if not s then return end
  if s.policy ~= "multiblock" then
    add("note", ("policy '%s' instead of multiblock"):format(s.policy),
      "the paper (ViT-B/16, 1 % of the labels): multi-block 54.2, block 20.2, random 17.6, rasterised 15.5")
    return
  end
  local function differs(what, ours, theirs, why)
    if ours ~= theirs then
      add("note", ("%s is %s, published %s"):format(what, ours, theirs), why)
    end
  end
  differs("mask.target.n", tostring(s.target.n), "4",
    "the paper, one to four targets: 9.0, 22.0, 48.5, 54.2")
  differs("mask.target.scale", pair(s.target.scale), pair(PUBLISHED.target.scale),
    "the paper: .15 to .2 54.2, .2 to .3 33.6, .075 to .2 19.2")
  differs("mask.target.aspect", pair(s.target.aspect), pair(PUBLISHED.target.aspect))
  differs("mask.context.n", tostring(s.context.n), "1")
  differs("mask.context.scale", pair(s.context.scale), pair(PUBLISHED.context.scale),
    "the paper: from .85 54.2, from .4 31.2")
  differs("mask.min_keep", tostring(s.min_keep), "10")
  differs("mask.overlap", tostring(s.overlap), "false")
  differs("mask.group", tostring(s.group), "128",
    "the published code masks each device's batch, 128, as one group")
  local off = {}
  for _, name in ipairs(text.keys(require "ijepa.mask".quirks)) do
    if not quirk(s, name) then off[#off + 1] = name end
  end
  if #off > 0 then
    add("note", ("the published sampler's quirks are %s"):format(#off == 6 and "off"
      or "partly off: " .. table.concat(off, ", ")),
      "it draws scale and aspect from one random number, never reaches the last row and column, and cuts contexts from the bottom",
      #off == 6 and "quirks=reference to repeat a published run" or nil)
  end
end

local ORDER = { "repeats", "hang", "fallbacks", "context", "coverage", "overlap", "sizes",
  "published" }

-- ---- the report ---------------------------------------------------------------------------------

---@class ijepa.mask_findings a list of { level = "error"|"warn"|"note", what, why, advice },
--- gravest first
---@field errors integer
---@field warnings integer
---@field stats table? as mask.stats gives it
---@field rows { context: number[], target: number[] }? per row, the mean fraction of masks that
--- contain a patch of it
---@field by_group table<integer, number>? mean context patches of an image, by images per group
local Findings = {}
Findings.__index = Findings

function Findings:__tostring()
  local out = {}
  for _, f in ipairs(self) do
    out[#out + 1] = ("%-5s  %s"):format(f.level, f.what)
    if f.why then out[#out + 1] = "       " .. f.why end
    if f.advice then out[#out + 1] = "       -> " .. f.advice end
  end
  out[#out + 1] = ("%s, %s"):format(text.count(self.errors, "error"),
    text.count(self.warnings, "warning"))
  return table.concat(out, "\n")
end

-- The settings of a mask.new call from a policy's, a recipe's or settings themselves; nil: a policy
-- in Lua.
local function settings_of(what)
  if what.sample_raw then return what.settings end
  if type(what.mask) ~= "table" then return what end
  local crop, patch = (what.data or {}).crop or 224, (what.model or {}).patch or 16
  crop = type(crop) == "table" and crop or { crop, crop }
  return require "ijepa.mask".settings_of(what, { floor(crop[1] / patch), floor(crop[2] / patch) })
end

local LEVEL = { error = 1, warn = 2, note = 3 }

---@param what ijepa.mask_policy|table a policy, settings as mask.new takes them, or a recipe's
--- whole configuration
---@param o { groups: integer?, step: integer?, images: ijepa.tensor?, target: ijepa.encoder? }?
--- images and target: for
--- policies that read them
---@return ijepa.mask_findings
local function lint(what, o)
  if type(what) ~= "table" then
    F.raise(("mask.lint: expected a policy or settings, not a %s"):format(type(what)))
  end
  local mask = require "ijepa.mask"
  local given = settings_of(what)
  local groups, step = o and o.groups or 20, o and o.step
  local findings, made = setmetatable({ errors = 0, warnings = 0 }, Findings), 0
  local function add(level, what_is, why, advice)
    made = made + 1
    findings[#findings + 1] = { level = level, what = what_is, why = why, advice = advice,
      number = made }
    if level == "error" then findings.errors = findings.errors + 1 end
    if level == "warn" then findings.warnings = findings.warnings + 1 end
  end
  local about = { policy = what }
  if not what.sample_raw then
    local ok, policy = pcall(mask.new, given)
    about.policy = ok and policy or nil
    if not ok then
      if type(policy) == "table" or F.C.ij_interrupted() ~= 0 then error(policy, 0) end   -- Ctrl-C
      add("error", "no policy can be made of these settings", (policy:gsub("^%S+:%d+: ", "", 1)))
    end
  end
  local builtin = given and type(given.policy or "") == "string"
    and not mask.is_file(given.policy or "")
  if builtin and type(given.grid) == "table" then
    local ok, settings = pcall(completed, given)
    if ok then
      -- settings that mask.new refuses may be anything
      local fine, sizes = pcall(target_sizes, settings)
      if fine then about.settings, about.sizes = settings, sizes end
    end
  end
  local p = about.policy
  if p then
    local ok, seeing, message = pcall(p.for_images, p, o and o.images, o and o.target)
    if not ok then
      if type(seeing) == "table" or F.C.ij_interrupted() ~= 0 then error(seeing, 0) end
      add("error", "the policy fails on these images", seeing)
    elseif not seeing then
      add("warn", "its masks were not checked", message,
        "images = a tensor u8 (B, H, W, 3), as ijepa.plot.batch "
        .. "reads it, and target = the target encoder where the policy reads it")
    end
    p = ok and seeing or nil
    about.policy = p
  end
  if p then
    local ok, e = pcall(function()
      local before = p.next
      about.n, about.stats = p.grid[1] * p.grid[2], mask.stats(p, { groups = groups, step = step })
      about.by_group, about.covered, about.draws = context_by_group(p, step)
      about.again, about.seen = overlaps(p, min(groups, 4), step)
      p.next = before
    end)
    if not ok then
      if type(e) == "table" or F.C.ij_interrupted() ~= 0 then error(e, 0) end
      add("error", "the policy fails while it draws", (e:gsub("^[^:]+:%d+: mask: ", "", 1)))
    end
  end
  for _, name in ipairs(ORDER) do
    if about.by_group and about.again or about.sizes and (name == "hang" or name == "sizes") then
      checks[name](add, about)
    end
  end
  if what.mask and what.data and p and p.group ~= (what.data.batch or 0) then
    add("note", ("mask.group is %d, data.batch is %d"):format(p.group, what.data.batch or 0),
      "contexts are cut to the shortest of a group, not of a batch; the published runs have groups of 128")
  end
  table.sort(findings, function(a, b)
    if a.level ~= b.level then return LEVEL[a.level] < LEVEL[b.level] end
    return a.number < b.number
  end)
  findings.stats, findings.by_group = about.stats, about.by_group
  if about.stats then
    local c, h, w = about.stats.coverage, p.grid[1], p.grid[2]
    findings.rows = { context = by_row(c.context, h, w), target = by_row(c.target, h, w) }
  end
  return findings
end

return lint

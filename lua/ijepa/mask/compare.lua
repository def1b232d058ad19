--- mask.compare: the masks, statistics and findings of several policies side by side.
local F = require "ijepa.base.ffi"
local terminal = require "ijepa.base.terminal"
local text = require "ijepa.base.text"
local lint = require "ijepa.mask.lint"
local max, min = math.max, math.min

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

---@class ijepa.mask_comparison
---@field names string[] of the policies
---@field policies ijepa.mask_policy[]
---@field stats table[] as mask.stats gives them, with `about`: see below
---@field lint ijepa.mask_findings[]
---@field drawings string[] as mask.text gives them
---@field file string? of the figure
local Comparison = {}
Comparison.__index = Comparison

-- How far the patches of targets are from the context: the mean over target patches of the rows or
-- columns (the larger) to the nearest context patch; and how many target patches are in another
-- target, or in the context. m: an ij_masks.
local function distances(m, h, w)
  local n, away = h * w, F.new("int32_t[?]", h * w)
  local times, sum, all, again, seen = F.new("int32_t[?]", n), 0, 0, 0, 0
  for b = 0, m.count - 1 do
    for i = 0, n - 1 do away[i], times[i] = n, 0 end
    for c = 0, m.contexts - 1 do
      for i = 0, m.k - 1 do away[m.context[(c * m.count + b) * m.k + i]] = 0 end
    end
    -- two passes over the grid, forth and back: the distance of each patch to the context
    local function near(i, y, x)
      if y >= 0 and y < h and x >= 0 and x < w then away[i] = min(away[i], away[y * w + x] + 1) end
    end
    for i = 0, n - 1 do
      local y, x = math.floor(i / w), i % w
      for dx = -1, 1 do near(i, y - 1, x + dx) end
      near(i, y, x - 1)
    end
    for i = n - 1, 0, -1 do
      local y, x = math.floor(i / w), i % w
      for dx = -1, 1 do near(i, y + 1, x + dx) end
      near(i, y, x + 1)
    end
    for j = 0, m.targets - 1 do
      for i = 0, m.t - 1 do
        local patch = m.target[(j * m.count + b) * m.t + i]
        sum, all = sum + away[patch], all + 1
        if away[patch] == 0 then seen = seen + 1 end
        if times[patch] > 0 then again = again + 1 end
        times[patch] = times[patch] + 1
      end
    end
  end
  return { distance = sum / all, again = again / all, seen = seen / all }
end

local function spread(list)
  local least, most, never = math.huge, 0, 0
  for _, v in ipairs(list) do
    least, most, never = min(least, v), max(most, v), never + (v == 0 and 1 or 0)
  end
  return least, most, never
end

local function percent(v) return ("%.0f %%"):format(100 * v) end

local function mean_text(mean, least, most)
  if least == most then return tostring(least) end
  return ("%.1f (%d to %d)"):format(mean, least, most)
end

-- The rows of the table: what, and its text for a policy with these statistics.
local ROWS = {
  { "grid", function(p)
    return ("%d x %d, groups of %d"):format(p.grid[1], p.grid[2], p.group)
  end },
  { "context patches", function(p, s)
    return ("%s, %s"):format(mean_text(s.k_mean, s.k_min, s.k_max),
      percent(s.k_mean / (p.grid[1] * p.grid[2])))
  end },
  { "targets of an image", function(p) return tostring(p.targets) end },
  { "patches of a target", function(_, s) return mean_text(s.t_mean, s.t_min, s.t_max) end },
  { "a patch is in a context", function(_, s)
    return ("%.2f to %.2f"):format(spread(s.coverage.context))
  end },
  { "a patch is in a target", function(_, s)
    return ("%.2f to %.2f"):format(spread(s.coverage.target))
  end },
  { "never in a target", function(_, s)
    return text.count(select(3, spread(s.coverage.target)), "patch", "patches")
  end },
  { "distance to the context", function(_, s) return ("%.2f"):format(s.about.distance) end },
  { "in another target too", function(_, s) return percent(s.about.again) end },
  { "in the context too", function(_, s) return percent(s.about.seen) end },
  { "fallbacks", function(_, s) return ("%d of %d"):format(s.fallbacks, s.images) end },
}

local function padded(s, width) return s .. (" "):rep(max(0, width - terminal.columns(s))) end

-- Texts of several lines side by side, each below its name, as many as fit in `width`.
local function beside(names, texts, width)
  local out, first = {}, 1
  while first <= #texts do
    local lines, wide, used, last = {}, {}, 0, first - 1
    for i = first, #texts do
      local own, most = { names[i] }, #names[i]
      for line in texts[i]:gmatch "[^\n]+" do own[#own + 1] = line end
      for _, line in ipairs(own) do most = max(most, terminal.columns(line)) end
      if i > first and used + 3 + most > width then break end
      lines[i], wide[i], used, last = own, most, used + 3 + most, i
    end
    local rows = 0
    for i = first, last do rows = max(rows, #lines[i]) end
    for y = 1, rows do
      local cells = {}
      for i = first, last do cells[#cells + 1] = padded(lines[i][y] or "", wide[i]) end
      out[#out + 1] = (table.concat(cells, "   "):gsub("%s+$", ""))
    end
    first = last + 1
  end
  return table.concat(out, "\n")
end

function Comparison:__tostring()
  local width = min(F.C.ij_terminal_width(), 120)
  local out, columns = { beside(self.names, self.drawings, width), "" }, {}
  for i, p in ipairs(self.policies) do
    local cells = {}
    for k, row in ipairs(ROWS) do cells[k] = row[2](p, self.stats[i]) end
    columns[i] = table.concat(cells, "\n")
  end
  local heads = {}
  for k, row in ipairs(ROWS) do heads[k] = row[1] end
  table.insert(columns, 1, table.concat(heads, "\n"))
  out[#out + 1] = beside({ "", unpack(self.names) }, columns, width)
  for i, findings in ipairs(self.lint) do
    out[#out + 1] = ("\n%s: %s, %s"):format(self.names[i], text.count(findings.errors, "error"),
      text.count(findings.warnings, "warning"))
    for _, f in ipairs(findings) do
      if f.level ~= "note" then
        out[#out + 1] = terminal.wrap(("  %-5s %s"):format(f.level, f.what), width)
        if f.advice then out[#out + 1] = terminal.wrap("        -> " .. f.advice, width) end
      end
    end
  end
  return table.concat(out, "\n")
end

-- A figure: a row for each policy, its contexts and targets.
local function figure(self, o, x)
  local layout, masks = require "ijepa.draw.layout", require "ijepa.draw.masks"
  local parts, most, rows = {}, 0, {}
  for i, p in ipairs(self.policies) do
    local m = self.drawn[i]
    local c = masks(nil, m, { grid = p.grid, images = m.count, side = o.side or 160, title = false,
      pixels = x and x:read(), height = x and x:size(2), width = x and x:size(3) })
    local row = {}
    for k, part in ipairs(c.figure.parts) do
      row[k] = { part[1], title = k == 1 and self.names[i] or nil }
    end
    rows[i], most = row, max(most, #row)
  end
  local canvas, style = require "ijepa.draw.canvas", require "ijepa.draw.style"
  for _, row in ipairs(rows) do
    for k = 1, most do parts[#parts + 1] = row[k] or { canvas.new(1, 1, style.paper) } end
  end
  return layout.finish(layout.rows(parts, { columns = most, title = "Masks of "
    .. table.concat(self.names, ", ") }), o.file)
end

local USAGE = "mask.compare({ a, b }, { images = 2 })"
local OPTIONS = { "images", "target", "groups", "first", "step", "names", "file", "side" }

---@param policies (ijepa.mask_policy|table)[]
---@param o table?
---@return ijepa.mask_comparison
return function(policies, o)
  local mask, tensor = require "ijepa.mask", require "ijepa.tensor"
  need(type(policies) == "table" and not policies.sample_raw and #policies >= 1,
    "%s: the first argument is %s, expected a list of policies", USAGE,
    type(policies) == "table" and "a table without policies" or type(policies))
  need(o == nil or type(o) == "table", "%s: the second argument is %s, expected a table of options",
    USAGE, tostring(o))
  o = o or {}
  text.check_keys("mask.compare", o, OPTIONS)
  local x = tensor.is(o.images) and o.images or nil
  local count, first, groups = x and x:size(1) or o.images or 2, o.first or 0, o.groups or 20
  local self = setmetatable({ names = {}, policies = {}, stats = {}, lint = {}, drawings = {},
    drawn = {} }, Comparison)
  for i, given in ipairs(policies) do
    need(type(given) == "table", "mask.compare: entry %d is a %s, expected a policy", i,
      type(given))
    local p = given.sample_raw and given or mask.new(given)
    local before = p.next
    self.names[i] = o.names and o.names[i] or ("abcdefghijklmnopqrstuvwxyz"):sub(i, i)
    self.policies[i] = p
    local with = { images = x, target = o.target, step = o.step, groups = groups }
    self.stats[i], self.lint[i] = mask.stats(p, with), lint(given, with)
    self.drawings[i] = mask.text(p, { images = x or count, target = o.target, first = first,
      step = o.step })
    local seeing = assert(p:for_images(x, o.target, first))
    self.stats[i].about = distances(seeing:sample_raw(min(p.group, 64), 0, o.step), p.grid[1],
      p.grid[2])
    self.drawn[i] = seeing:sample_raw(count, first, o.step)
    p.next = before
  end
  if o.file then
    local message
    self.file, message = figure(self, o, x)
    if not self.file then F.raise(message) end
  end
  return self
end

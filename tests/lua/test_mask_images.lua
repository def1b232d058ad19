-- Masks that are shown are the masks that train: every reader of masks gives a policy that reads
-- images the images, and its masks follow them.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local made = require "report_run"
local mask, plot, tensor = ijepa.mask, ijepa.plot, ijepa.tensor

local tests = {}
TestMaskImages = tests -- luacheck: ignore

local TOP, PATCH, ADVICE = 4, 4, "this policy reads images: give images="

-- Takes the brightest patches as the target.
local BRIGHTEST = [[
return {
  saliency = function(batch, grid)
    local x, maps = batch.images, {}
    local h, w, v = x:size(2), x:size(3), x:read()
    local P = h / grid.h
    for b = 0, x:size(1) - 1 do
      local map = {}
      for i = 1, grid.n do map[i] = 0 end
      for y = 0, h - 1 do
        for at = 0, w * 3 - 1 do
          local i = math.floor(y / P) * grid.w + math.floor(math.floor(at / 3) / P) + 1
          map[i] = map[i] + v[(b * h + y) * w * 3 + at]
        end
      end
      maps[b + 1] = map
    end
    return maps
  end,
  policy = function(_, grid, at)
    local target = grid:top(at.saliency, 4)
    return -target, { target }
  end,
}
]]

-- The sets of brightest patches of images u8 (B, H, W, 3), as texts, computed here once more.
local function brightest(x)
  local sets, h, w, v = {}, x:size(2), x:size(3), x:read()
  for b = 0, x:size(1) - 1 do
    local sums, order, columns = {}, {}, w / PATCH
    for i = 0, h / PATCH * columns - 1 do
      order[i + 1], sums[i] = i, 0
      for y = 0, PATCH - 1 do
        for at = 0, PATCH * 3 - 1 do
          local row, column = math.floor(i / columns) * PATCH + y, i % columns * PATCH * 3 + at
          sums[i] = sums[i] + v[(b * h + row) * w * 3 + column]
        end
      end
    end
    table.sort(order, function(p, q) return sums[p] > sums[q] or sums[p] == sums[q] and p < q end)
    local top = { unpack(order, 1, TOP) }
    table.sort(top)
    sets[b + 1] = table.concat(top, " ")
  end
  return sets
end

-- The target sets of masks, one per image, as texts.
local function targets_of(m)
  local sets = {}
  for b = 0, m.count - 1 do
    local list = {}
    for i = 0, m.t - 1 do list[i + 1] = m.target[b * m.t + i] end
    table.sort(list)
    sets[b + 1] = table.concat(list, " ")
  end
  return sets
end

-- f() while all masks that are drawn are recorded: a list of { sets, first, batch }.
local function recorded(policy, f)
  local class = getmetatable(policy)
  local own, list = class.sample_raw, {}
  class.sample_raw = function(self, count, first, step, batch)
    local m = own(self, count, first, step, batch)
    list[#list + 1] = { sets = targets_of(m), first = first, batch = batch, policy = self }
    return m
  end
  local ok, e = pcall(f)
  class.sample_raw = own
  if not ok then error(e, 0) end
  return list
end

-- Every recorded mask is that of its image: number n is image n modulo their count.
local function follow(list, x, first)
  local want = brightest(x)
  lu.assertTrue(#list > 0)
  for _, r in ipairs(list) do
    for i, set in ipairs(r.sets) do
      lu.assertEquals(set, want[(r.first - (first or 0) + i - 1) % #want + 1])
    end
  end
end

local folder, out, model, x, drawn, diagnosed
local function train()   -- once for all tests of this file
  if folder then return end
  folder = require "support".folder "file"
  local file = assert(io.open(folder .. "/brightest.lua", "wb"))
  file:write(BRIGHTEST)
  file:close()
  local diagnose = ijepa.diagnose
  local open = diagnose.open
  diagnose.open = function(t)   -- the images of the diagnosis, first views
    open(t)
    local d = t.diagnosis
    local size = d.height * d.width * 3
    local firsts = F.new("uint8_t[?]", d.count * size)
    for i = 0, d.count - 1 do F.copy(firsts + i * size, d.pixels + i * d.views * size, size) end
    diagnosed = tensor.from_pointer(firsts, { d.count, d.height, d.width, 3 }, "u8", true)
  end
  local any = mask.new { policy = folder .. "/brightest.lua", grid = { 8, 8 } }
  local seen = {}
  drawn = recorded(any, function()
    local own = getmetatable(any).sample_raw
    getmetatable(any).sample_raw = function(self, count, first, step, batch)
      if batch then   -- a batch of training lives for its step only
        seen[#seen + 1] = batch.images:clone(true)
        local p = self:for_images(batch.images, batch.target, first)
        local again = targets_of(p:sample_raw(count, first, step))
        seen[#seen] = { x = seen[#seen], again = again }
      end
      return own(self, count, first, step, batch)
    end
    out = made.train(folder, { ["mask.policy"] = folder .. "/brightest.lua" })
  end)
  diagnose.open = open
  drawn.seen = seen
  model = assert(ijepa.model(out))
  x = plot.batch(model.config.data.root, model.target, { count = 64 })
end
function tests.tearDownClass() os.execute("rm -rf " .. folder) end

function tests.test_training_masks_follow_its_images_and_for_images_repeats_them()
  train()
  local n = 0
  for _, r in ipairs(drawn) do
    if r.batch then
      n = n + 1
      lu.assertEquals(r.sets, brightest(drawn.seen[n].x))
      lu.assertEquals(r.sets, drawn.seen[n].again)
    end
  end
  lu.assertEquals(n, 24)   -- 4 epochs of 6 steps
end

function tests.test_diagnosis()
  train()
  local list = {}
  for _, r in ipairs(drawn) do
    -- 8 images of the diagnosis at a time, as of the step; the others are training's own
    if not r.batch and r.policy.maps_first == 0 and r.policy.maps and #r.sets == diagnosed:size(1)
      and r.sets[1] == brightest(diagnosed)[1] then list[#list + 1] = r end
  end
  follow(list, diagnosed)
  lu.assertEquals(#list, 4)   -- before training, after 8, 16 and 24 steps
end

function tests.test_drawing()
  train()
  follow(recorded(model.policy, function()
    assert(plot.masks(model, { images = x, draws = 5, first = 3 }))
  end), x, 3)
  local few = plot.batch(model.config.data.root, model.target, { count = 4 })
  follow(recorded(model.policy, function() assert(plot.masks(model)) end), few)   -- the run's data
  local text
  follow(recorded(model.policy, function()
    text = mask.text(model.policy, { images = few })
  end), few)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  local at = {}
  for y = 1, 8 do
    for c = 1, 8 do
      if lines[y]:sub(c, c) == "1" then at[#at + 1] = (y - 1) * 8 + c - 1 end
    end
  end
  lu.assertEquals(table.concat(at, " "), brightest(few)[1])
end

function tests.test_statistics_and_lint()
  train()
  local findings
  follow(recorded(model.policy, function()
    findings = mask.lint(model.config, { images = x, target = model.target })
  end), x)
  local want = {}   -- the fraction of the images that have a patch among their brightest
  for i = 1, 64 do want[i] = 0 end
  for n = 0, findings.stats.images - 1 do
    for patch in brightest(x:narrow(1, n % x:size(1) + 1, 1):contiguous())[1]:gmatch "%d+" do
      want[patch + 1] = want[patch + 1] + 1 / findings.stats.images
    end
  end
  for i = 1, 64 do lu.assertAlmostEquals(findings.stats.coverage.target[i], want[i], 1e-9) end
end

function tests.test_imagine_and_loss_by_position()
  train()
  local few = x:narrow(1, 1, 6):contiguous()
  local one = few:narrow(1, 1, 1):contiguous()
  follow(recorded(model.policy, function() ijepa.imagine(model, few) end), one)
  local list = recorded(model.policy, function()
    plot.loss(model, few, { rounds = 2, first = 6 })
  end)
  follow(list, few, 6)
  lu.assertEquals(#list, 2)
end

function tests.test_report()
  train()
  local path, known = nil, {}
  local list = recorded(model.policy, function() path = assert(ijepa.report(out)) end)
  local its = plot.batch(model.config.data.root, model.target, { count = 64, resize = 32 })
  for _, set in ipairs(brightest(its)) do known[set] = true end
  local kinds = {}
  for _, r in ipairs(list) do
    for _, set in ipairs(r.sets) do lu.assertTrue(known[set]) end
    kinds[#r.sets] = true
  end
  lu.assertEquals({ kinds[3], kinds[1] }, { true, true })   -- its figure of masks, its prediction
  local file = assert(io.open(path, "rb"))
  local html = file:read "*a"
  file:close()
  lu.assertStrContains(html, "masks of this run")
  lu.assertNil(html:find(ADVICE, 1, true))
  lu.assertNil(html:find("can't be drawn", 1, true))
end

function tests.test_without_images_it_prints_that()
  train()
  local policy = model.policy
  lu.assertStrContains(mask.text(policy), ADVICE)
  lu.assertNil(mask.text(policy):find "\n")
  lu.assertErrorMsgContains("plot.masks: " .. ADVICE, plot.masks, policy)
  lu.assertErrorMsgContains("mask.stats: " .. ADVICE, mask.stats, policy)
  lu.assertErrorMsgContains(ADVICE, policy.sample_raw, policy, 8)
  lu.assertErrorMsgContains(ADVICE, policy.sample, policy, 8)
  local findings = mask.lint(model.config)
  lu.assertEquals({ findings[1].level, findings[1].what, findings.stats },
    { "warn", "its masks were not checked", nil })
  lu.assertStrContains(findings[1].why, ADVICE)
end

function tests.test_policy_that_reads_the_target_encoder()
  train()
  local path = debug.getinfo(1, "S").source:match "^@(.*)tests/lua" .. "recipes/masks/attention.lua"
  local p = mask.new { policy = path, grid = { 8, 8 }, group = 6, seed = 3 }
  local few = x:narrow(1, 1, 6):contiguous()
  local want = targets_of(p:sample_raw(6, 0, nil, { images = few, target = model.target }))
  lu.assertEquals(targets_of(p:for_images(few, model.target):sample_raw(6, 0)), want)
  local uniform = targets_of(p:sample_raw(6, 0, nil, false))
  lu.assertNotEquals(want, uniform)
  local list = recorded(p, function()
    plot.masks(p, { images = few, target = model.target, draws = 6 })
  end)
  lu.assertEquals(list[1].sets, want)
  lu.assertErrorMsgContains("this policy reads the target encoder: give a model, or target=...",
    plot.masks, p, { images = few })
  local findings = mask.lint(p, { images = few })
  lu.assertEquals({ findings[1].level, findings.errors }, { "error", 1 })
  lu.assertStrContains(findings[1].why, "reads the target encoder")
end

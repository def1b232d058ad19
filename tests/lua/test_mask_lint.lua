-- mask.lint: each danger is found, healthy settings have none.
local lu = require "luaunit"
local mask = require "ijepa.mask"
local ijepa = require "ijepa"

local tests = {}
TestMaskLint = tests -- luacheck: ignore

-- The first finding whose text holds `part`.
local function found(findings, part)
  for _, f in ipairs(findings) do
    if (f.what .. " " .. (f.why or "") .. " " .. (f.advice or "")):find(part, 1, true) then
      return f
    end
  end
  lu.fail(("no finding says '%s':\n%s"):format(part, tostring(findings)))
end
local function silent(findings, part)
  for _, f in ipairs(findings) do lu.assertNil(f.what:find(part, 1, true), f.what) end
end

function tests.test_defaults_are_healthy()
  local l = mask.lint { grid = { 16, 16 } }
  lu.assertEquals({ l.errors, l.warnings }, { 0, 0 })
  found(l, "target blocks: ")
  local shrink = found(l, "mean context patches (images per group)")
  lu.assertEquals(shrink.level, "note")
  lu.assertTrue(l.by_group[1] > l.by_group[8] and l.by_group[8] > l.by_group[32]
    and l.by_group[32] > l.by_group[128])
  lu.assertEquals({ #l.rows.context, #l.rows.target }, { 16, 16 })
  silent(l, "published 4")
  found(l, "quirks are off")
end

-- The published implementation's sizes, recorded: they lie on a curve (spec).
function tests.test_reachable_sizes_are_the_published_ones()
  local l = mask.lint { grid = { 16, 16 }, quirks = "reference" }
  found(l, "target blocks: 8x6 30 %, 7x6 29 %, 6x7 28 %, 9x6 7.3 %, 5x7 4.7 %, 6x6 1.6 %")
  lu.assertAlmostEquals(l.by_group[8], 86, 3)
  lu.assertAlmostEquals(l.by_group[128], 69, 3)
end

function tests.test_quirks_are_seen()
  local l = mask.lint { grid = { 14, 14 }, quirks = "reference" }
  local edge = found(l, "27 of 196 patches are never in a target: the last row and column")
  lu.assertEquals(edge.level, "warn")
  lu.assertStrContains(edge.why, "exclusive_position")
  lu.assertStrContains(found(l, "contexts contain the top more often than the bottom").why,
    "raster_cut")
  lu.assertEquals(l.rows.target[14], 0)
  silent(l, "the published sampler's quirks")
  l = mask.lint { grid = { 14, 14 }, quirks = "raster_cut" }
  silent(l, "never in a target")
  found(l, "contexts contain the top")
end

function tests.test_hangs_with_the_arithmetic()
  local l = mask.lint { grid = { 8, 8 }, quirks = "reference" }
  local f = found(l, "of the groups draw a block that is never valid")
  lu.assertEquals(f.level, "error")
  lu.assertStrContains(f.what, "48 %")
  lu.assertStrContains(f.why, "3x3 = 9 patches, but a mask must have more than min_keep = 10")
  lu.assertStrContains(f.why, "forever")
  lu.assertStrContains(f.advice, "lower mask.min_keep below 9")
  l = mask.lint { grid = { 8, 8 }, min_keep = 12 }
  found(l, "no policy can be made of these settings")
  found(l, "100 % of the groups")
  l = mask.lint { grid = { 8, 8 }, min_keep = 7 }
  lu.assertEquals(found(l, "close to a setting that is refused").level, "warn")
  silent(mask.lint { grid = { 8, 8 }, min_keep = 3 }, "is refused")
  found(mask.lint { grid = { 6, 6 }, min_keep = 8, target = { scale = { .3, .4 } } },
    "targets can cover the context")
end

function tests.test_fallbacks_and_overlap()
  local l = mask.lint { grid = { 6, 6 }, min_keep = 8, group = 8, target = { scale = { .3, .4 } } }
  found(l, "of the images needed a fallback")
  l = mask.lint { grid = { 16, 16 }, overlap = true }
  found(l, "of the target patches are in the context")
  found(l, "mask.overlap is true, published false")
end

function tests.test_differences_in_words()
  local l = mask.lint { grid = { 16, 16 }, target = { n = 2, scale = { .2, .3 } },
    context = { scale = { .4, 1 } }, group = 8 }
  found(l, "mask.target.n is 2, published 4")
  found(l, "mask.target.scale is 0.2 to 0.3, published 0.15 to 0.2")
  found(l, "mask.context.scale is 0.4 to 1")
  found(l, "mask.group is 8")
  found(mask.lint { grid = { 16, 16 }, policy = "random" }, "policy 'random' instead of multiblock")
end

function tests.test_policies_in_lua()
  local n = 0
  local l = mask.lint(mask.policy(function(_, g)
    n = n + 1
    return g:block(0, 0, 1, 1 + n % 3), { g:block(0, 0, 4, 4) }
  end, { 8, 8 }))
  lu.assertEquals(found(l, "get other masks when they are drawn again").level, "error")
  lu.assertEquals(found(l, "contexts of 1 of 64 patches").level, "error")
  found(l, "48 of 64 patches are never in a target")
  found(l, "of the target patches are in the context")
  l = mask.lint(mask.policy(function(_, g, at)
    if at.image > 500 then error "tired" end
    return g:all(), { g:all() }
  end, { 8, 8 }))
  lu.assertStrContains(found(l, "the policy fails while it draws").why, "image 501, step 3: tired")
  for _, name in ipairs { "rasterised", "halves", "multiblock", "curriculum", "attention" } do
    lu.assertEquals(mask.lint({ grid = { 14, 14 }, policy = ("recipes/masks/%s.lua"):format(name) },
      { groups = 4 }).errors, 0, name)
  end
end

-- A policy that draws its targets once per group has 20 draws in 20 groups, not 2560: corners that
-- these miss are no finding.
function tests.test_draws_of_a_group_count_once()
  local l = mask.lint(mask.policy(function(rng, g)
    local block = g:random_block(rng.group, 3, 3)
    return -block, { block }
  end, { 8, 8 }))
  local missed = 0
  for _, v in ipairs(l.stats.coverage.target) do missed = missed + (v == 0 and 1 or 0) end
  lu.assertTrue(missed > 0)
  silent(l, "never in a target")
  l = mask.lint(mask.policy(function(rng, g)
    local block = g:block(rng.group:below(4), rng.group:below(6), 3, 3)
    return -block, { block }
  end, { 8, 8 }))
  lu.assertStrContains(found(l, "16 of 64 patches are never in a target").why,
    "in 532 independent draws")
  lu.assertStrContains(tostring(l), "0 errors, 1 warning")
end

function tests.test_a_whole_recipe()
  local cfg = ijepa.config({ data = { crop = { 64, 96 }, batch = 8 }, model = { patch = 8 } }, nil,
    {})
  local l = mask.lint(cfg)
  found(l, "mask.group is 128, data.batch is 8")
  lu.assertEquals({ #l.rows.context, l.errors }, { 8, 0 })
  found(mask.lint(ijepa.config({ mask = { policy = "recipes/masks/none.lua" } }, nil, {})),
    "cannot read file 'recipes/masks/none.lua'")
end

function tests.test_leaves_the_policy_where_it_was()
  local p = mask.new { grid = { 16, 16 } }
  p:sample_raw(5)
  mask.lint(p, { groups = 2 })
  lu.assertEquals(p.next, 5)
  lu.assertErrorMsgContains("expected a policy or settings", mask.lint, 3)
  lu.assertStrContains(tostring(mask.lint({}, { groups = 1 })),
    "error  no policy can be made of these settings")
end

-- Policies in Lua: regions and maps, files, options, steps, saliency, errors and Ctrl-C.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local mask = require "ijepa.mask"
local support = require "support"
local C = F.C

local tests = {}
TestMaskPolicy = tests -- luacheck: ignore

local program = support.program
local SHIPPED = { "multiblock", "random", "block", "rasterised", "halves", "vjepa_short",
  "vjepa_long", "curriculum", "attention" }
local function shipped(name) return ("recipes/masks/%s.lua"):format(name) end

local folder
function tests.setUp() folder = support.folder() end
function tests.tearDown() C.ij_interrupt_set(0) end

local function write(name, text) return support.write(folder .. "/" .. name, text) end

local function bytes(m)
  return table.concat({ m.count, m.contexts, m.targets, m.k, m.t, m.fallbacks }, " ")
    .. F.string(m.context, 4 * m.contexts * m.count * m.k)
      .. F.string(m.target, 4 * m.targets * m.count * m.t)
end

-- ---- regions and maps ---------------------------------------------------------------------------

function tests.test_regions_on_odd_grids()
  for _, side in ipairs { { 1, 1 }, { 3, 7 }, { 4, 8 }, { 5, 13 }, { 9, 32 }, { 2, 33 } } do
    local g = mask.grid(side[1], side[2])
    local a = g:block(0, 1, side[1], side[2] - 1)
    lu.assertEquals((-a):size(), g.n - a:size())
    lu.assertTrue(-(-a) == a)
    lu.assertTrue(a + (-a) == g:all())
    lu.assertEquals((a * -a):size(), 0)
    lu.assertEquals(g:all():size(), g.n)
    lu.assertEquals(g:none():size(), 0)
    lu.assertTrue(g:patches(a:patches()) == a)
    lu.assertTrue(a:union(-a):minus(a) == a:complement())
  end
end

function tests.test_grids_and_blocks_that_do_not_fit()
  lu.assertEquals({ mask.grid { 8, 12 }.h, mask.grid { 8, 12 }.w, mask.grid(8, 12).n },
    { 8, 12, 96 })
  lu.assertErrorMsgContains("mask.grid(rows, columns): (8, nil), expected two whole numbers",
    mask.grid, { 8 })
  lu.assertErrorMsgContains("(0, 3), expected two", mask.grid, 0, 3)
  local g = mask.grid(8, 8)
  lu.assertEquals(g:block(8, 0, 0, 3):size(), 0)
  lu.assertEquals(g:block(4, 4, 4, 4):size(), 16)
  lu.assertErrorMsgContains("(4, 4, 8, 8) is not inside the grid of 8 x 8 patches", g.block, g, 4,
    4, 8, 8)
  lu.assertErrorMsgContains("(-1, 0, 2, 2) is not inside", g.block, g, -1, 0, 2, 2)
  lu.assertErrorMsgContains("(0, 0, 1.5, 2) are not four whole numbers", g.block, g, 0, 0, 1.5, 2)
end

local function lines(...) return table.concat({ ... }, "\n") end

function tests.test_regions_grow_move_and_are_thinned()
  local g = mask.grid(4, 6)
  local a = g:block(1, 1, 1, 2)
  lu.assertEquals(tostring(a:dilate()), lines("####..", "####..", "####..", "......"))
  lu.assertEquals(tostring(a:dilate(2)), lines("#####.", "#####.", "#####.", "#####."))
  lu.assertTrue(a:dilate(0) == a)
  lu.assertTrue(a:dilate(4096) == g:all())
  lu.assertEquals(tostring(a:neighbours()), lines("####..", "#..#..", "####..", "......"))
  lu.assertEquals(g:none():dilate():size(), 0)
  lu.assertEquals(tostring(a:shift(2, -2)), lines("......", "......", "......", "#....."))
  lu.assertEquals(a:shift(0, 40):size(), 0)
  lu.assertTrue(a:shift(1, 3):shift(-1, -3) == a)
  for _, bad in ipairs { { "dilate", -1 }, { "dilate", 1.5 }, { "neighbours", "x" },
    { "shift", 1 } } do
    lu.assertErrorMsgContains("region:", a[bad[1]], a, bad[2])
  end
  -- n patches within a region, each of its patches as often as any other
  local b, counts = g:block(0, 1, 3, 4), {}
  mask.policy(function(rng, grid)
    local some = grid:block(0, 1, 3, 4):random(rng, 3)
    lu.assertEquals({ some:size(), (some - b):size() }, { 3, 0 })
    for _, i in ipairs(some:patches()) do counts[i] = (counts[i] or 0) + 1 end
    return -some, { some }
  end, { grid = { 4, 6 }, group = 64 }):sample_raw(1280, 0)
  local least, most = math.huge, 0
  for _, i in ipairs(b:patches()) do
    least, most = math.min(least, counts[i]), math.max(most, counts[i])
  end
  -- 1344 draws of 3 of 12: 336 each, deviation 16
  lu.assertTrue(least > 336 - 80 and most < 336 + 80, least .. " " .. most)
  lu.assertErrorMsgContains("region:random(rng, n): expected rng as the first argument", b.random,
    b, 3)
  mask.policy(function(rng, grid)
    lu.assertErrorMsgContains("n is 13, expected 0 to 12, the region's patches", b.random, b, rng,
      13)
    return grid:block(0, 0, 1, 1), { b:random(rng, 12) }
  end, { grid = { 4, 6 }, group = 1 })
end

function tests.test_comparison_of_policies()
  local function left(_, grid) return grid:block(0, 0, 4, 2), { grid:block(0, 4, 4, 2) } end
  local function both(_, grid)
    return grid:block(0, 0, 4, 3), { grid:block(0, 2, 4, 2), grid:block(0, 3, 4, 2) }
  end
  local a = mask.policy(left, { grid = { 4, 6 }, group = 8 })
  local b = mask.policy(both, { grid = { 4, 6 }, group = 8 })
  local c = mask.compare({ a, b }, { images = 1, names = { "left", "both" } })
  local function about(i)
    local s = c.stats[i].about
    return { s.distance, s.again, s.seen, c.stats[i].k_mean, c.stats[i].t_mean }
  end
  lu.assertEquals(about(1), { 3.5, 0, 0, 8, 8 })   -- columns 4 and 5, from column 1
  -- columns 2, 3 and 3, 4 from 0 to 2: distances 0, 1, 1, 2; 3 twice; 2 in the context
  lu.assertEquals(about(2), { 1, .25, .25, 12, 8 })
  local said = tostring(c)
  lu.assertStrMatches(said, "left +both\n##%.%.11 +##112%.\n.*")
  for _, line in ipairs { "distance to the context   3.50 +1.00",
    "in another target too     0 %% +25 %%", "patches of a target       8 +8",
    "never in a target         16 patches +12 patches" } do
    lu.assertStrMatches(said, ".*\n" .. line .. "\n.*")
  end
  lu.assertStrMatches(said, ".*\nboth: 0 errors, %d warnings?\n.*")
  for line in said:gmatch "[^\n]+" do lu.assertTrue(#line <= 80, line) end
  lu.assertEquals(mask.compare({ a, { grid = { 8, 8 }, min_keep = 1, group = 4 } }).names,
    { "a", "b" })
  lu.assertEquals(a.next, 0)
  local file = folder .. "/compared.png"
  lu.assertEquals(mask.compare({ a, b }, { file = file }).file, file)
  local drawn = assert(require "ijepa.canvas".load(file))
  lu.assertTrue(drawn.width > 600)
  lu.assertErrorMsgContains("mask.compare({ a, b }, { images = 2 }): the first argument is a table "
    .. "without policies", mask.compare, a)
  lu.assertErrorMsgContains("entry 2 is a number, expected a policy", mask.compare, { a, 3 })
  lu.assertErrorMsgContains("unknown setting 'image' (did you mean 'images'?)", mask.compare, { a },
    { image = 3 })
end

function tests.test_masks_are_drawn_into_a_file()
  local p = mask.new { grid = { 8, 16 }, min_keep = 3, group = 4 }
  local file = folder .. "/masks.png"
  lu.assertEquals(mask.draw(p, { file = file, images = 2, side = 128 }), file)
  local c = assert(require "ijepa.canvas".load(file))
  lu.assertTrue(c.width > 2 * 128 and c.width < 3 * 128 and c.height > 128)
  lu.assertEquals(p.next, 0)
  local done, message = mask.draw(p, { file = folder .. "/none/masks.png" })
  lu.assertNil(done)
  lu.assertStrContains(message, "could not be written")
  lu.assertErrorMsgContains("'file' is true, expected a name such as masks.png", mask.draw, p,
    { file = true })
end

function tests.test_shapes()
  local g = mask.grid(4, 5)
  lu.assertEquals(tostring(g:ring(0, 0, 4, 5)), "#####\n#...#\n#...#\n#####")
  lu.assertEquals(tostring(g:ring(1, 1, 2, 2, 3)), ".....\n.##..\n.##..\n.....")
  lu.assertEquals(tostring(g:checkerboard()), "#.#.#\n.#.#.\n#.#.#\n.#.#.")
  lu.assertTrue(g:checkerboard(1, true) == -g:checkerboard())
  lu.assertEquals(tostring(g:checkerboard(2)), "##..#\n##..#\n..##.\n..##.")
  lu.assertEquals(tostring(g:union { g:block(0, 0, 1, 1), g:block(3, 4, 1, 1) }),
    "#....\n.....\n.....\n....#")
  lu.assertEquals({ mask.grid(16, 16):block_size(40, 1.5) }, { 8, 5 })
  -- too high: the width makes up for it
  lu.assertEquals({ mask.grid(4, 16):block_size(32, 4) }, { 4, 8 })
  lu.assertEquals({ mask.grid(4, 4):block_size(0.2) }, { 1, 1 })
end

local function frequencies(g, draws, draw)
  local count = {}
  for i = 1, g.n do count[i] = 0 end
  local policy = mask.policy(function(rng, grid)
    local r = draw(rng, grid)
    return grid:all(), { r }
  end, { grid = { g.h, g.w }, group = draws })
  local m = policy:sample_raw(draws)
  for i = 0, m.count * m.t - 1 do count[m.target[i] + 1] = count[m.target[i] + 1] + 1 end
  for i = 1, g.n do count[i] = count[i] / draws end
  return count
end

function tests.test_maps()
  local g = mask.grid(2, 3)
  local values = { 1, 5, 0, 5, 2, 3 }
  lu.assertEquals(g:top(values, 2):patches(), { 1, 3 })
  lu.assertEquals(g:top(values, 1):patches(), { 1 })
  lu.assertEquals(g:top({ { 1, 5, 0 }, { 5, 2, 3 } }, 3):patches(), { 1, 3, 5 })
  lu.assertEquals(g:map(function(y, x) return y * 3 + x end):at(1, 2), 5)
  for n = 0, 6 do lu.assertEquals(g:top(values, n):size(), n) end
  -- one patch by weight: shares are those of the weights; weight 0 never comes before the others
  -- are used up
  local share = frequencies(g, 8000, function(rng, grid) return grid:weighted(rng, values, 1) end)
  for i, v in ipairs(values) do lu.assertAlmostEquals(share[i], v / 16, .025) end
  share = frequencies(g, 200, function(rng, grid) return grid:weighted(rng, values, 5) end)
  lu.assertEquals(share[3], 0)
  share = frequencies(g, 50, function(rng, grid) return grid:weighted(rng, values, 6) end)
  lu.assertEquals(share, { 1, 1, 1, 1, 1, 1 })
  -- places of 2 x 2: left has 13, right 10 of 23
  share = frequencies(g, 8000, function(rng, grid) return grid:weighted_block(rng, values, 2,
    2) end)
  lu.assertAlmostEquals(share[1], 13 / 23, .025)
  lu.assertAlmostEquals(share[3], 10 / 23, .025)
  lu.assertErrorMsgContains("expected 6 numbers", g.map, g, { 1, 2 })
  lu.assertErrorMsgContains("patch 2 is -1", g.map, g, { 1, 1, -1, 1, 1, 1 })
  lu.assertErrorMsgContains("patch 1 is nan", g.map, g, { 1, 0 / 0, 1, 1, 1, 1 })
  lu.assertErrorMsgContains("all weights are 0", g.map, g, { 0, 0, 0, 0, 0, 0 })
  lu.assertErrorMsgContains("is not a patch from 0 to 5", g.patches, g, { 6 })
end

-- ---- the shipped files --------------------------------------------------------------------------

local function same_as_built_in(name, cases)
  local fallbacks = 0
  for _, o in ipairs(cases) do
    o.policy = name
    local ours = mask.new(o)
    o.policy = shipped(name)
    local file = mask.new(o)
    for i = 0, 12 do   -- across the borders of groups, so cut to several lengths
      local m = file:sample_raw(37, i * 29)
      fallbacks = fallbacks + m.fallbacks
      lu.assertTrue(bytes(ours:sample_raw(37, i * 29)) == bytes(m),
        ("%s, case %dx%d, call %d"):format(name, o.grid[1], o.grid[2], i))
    end
  end
  return fallbacks
end

function tests.test_multiblock_in_lua_is_the_built_in_one()
  local fallbacks = same_as_built_in("multiblock",
    { { grid = { 16, 16 } }, { grid = { 14, 9 }, group = 8, seed = 7 },
    { grid = { 8, 8 }, min_keep = 5, group = 3, context = { n = 2, scale = { .5, .9 } } },
    { grid = { 6, 6 }, group = 8, min_keep = 8, target = { n = 4, scale = { .3, .4 } } },
    { grid = { 16, 16 }, group = 16, overlap = true, target = { n = 2, aspect = { .3, 3 } } },
    { grid = { 16, 16 }, group = 1, seed = 2 ^ 40 } })
  lu.assertTrue(fallbacks > 0)   -- that branch too
end

function tests.test_random_in_lua_is_the_built_in_one()
  same_as_built_in("random",
    { { grid = { 16, 16 } }, { grid = { 12, 9 }, group = 8, seed = 7, overlap = true },
    { grid = { 10, 10 }, group = 5, target = { n = 2 } } })
end

function tests.test_every_shipped_file()
  for _, name in ipairs(SHIPPED) do
    for _, grid in ipairs { { 16, 16 }, { 14, 14 }, { 9, 12 } } do
      local p = mask.new { policy = shipped(name), grid = grid, group = 16 }
      local m = p:sample_raw(32, 16, nil, false)
      for b = 0, 31 do   -- no target patch in the context
        local shown = {}
        for i = 0, m.k - 1 do shown[m.context[b * m.k + i]] = true end
        for j = 0, m.targets - 1 do
          for i = 0, m.t - 1 do
            local patch = m.target[(j * 32 + b) * m.t + i]
            lu.assertTrue(patch >= 0 and patch < p.grid[1] * p.grid[2]
              and (m.fallbacks > 0 or not shown[patch]), name)
          end
        end
      end
      lu.assertStrContains(tostring(p), shipped(name))
    end
  end
  -- published shares
  local m = mask.new { policy = shipped "rasterised", grid = { 16, 16 } }:sample_raw(8)
  lu.assertEquals({ m.k, m.t, m.targets }, { 64, 64, 3 })
  m = mask.new { policy = shipped "vjepa_short", grid = { 16, 16 }, group = 1 }:sample_raw(1)
  lu.assertEquals(m.k + m.t, 256)
  m = mask.new { policy = shipped "halves", grid = { 16, 16 },
    options = "vertical=false" }:sample_raw(1)
  lu.assertTrue(m.context[0] == 0 and m.context[127] == 127 or m.context[0] == 128)
end

-- ---- steps, options, saliency -------------------------------------------------------------------

function tests.test_steps()
  local seen = {}
  local function f(_, grid, at)
    seen[at.image] = at.step
    return grid:all(), { grid:block(0, 0, 1, 1 + math.min(at.step, 3)) }
  end
  local p = mask.policy(f, { grid = { 4, 4 }, group = 8, batch = 4 })
  p:sample_raw(8, 8)
  lu.assertEquals({ seen[8], seen[11], seen[12], seen[15] }, { 2, 2, 3, 3 })
  lu.assertEquals(p:sample_raw(4, 0, 0).t, 1)
  -- the first images again, as of step 5: a diagnosis does so
  lu.assertEquals(p:sample_raw(4, 0, 5).t, 4)
  lu.assertEquals({ seen[0], seen[4] }, { 5, 6 })
end

function tests.test_curriculum_resumes()
  local function policy()
    return mask.new { policy = shipped "curriculum", grid = { 12, 12 }, group = 32, batch = 8,
      options = { over = 10 } }
  end
  local p, all = policy(), {}
  for step = 0, 11 do all[step] = bytes(p:sample_raw(8, step * 8, step)) end
  for _, from in ipairs { 0, 3, 5, 11 } do
    local q = policy()   -- as a run that resumes from there
    for step = from, 11 do
      lu.assertTrue(bytes(q:sample_raw(8, step * 8, step)) == all[step],
        ("step %d from %d"):format(step, from))
    end
  end
  lu.assertTrue(p:sample_raw(8, 0).t < p:sample_raw(8, 88).t)
end

function tests.test_options()
  local path = write("o.lua", [[
return { options = { share = .5, name = "x", list = { 1, 2 }, on = true },
  policy = function(_, g, _, o)
    SEEN = o
    return g:all(), { g:block(0, 0, math.floor(g.h * o.share), g.w) }
  end }]])
  local function t_of(options)
    return mask.new { policy = path, grid = { 4, 4 }, options = options }:sample_raw(1).t
  end
  lu.assertEquals(t_of(), 8)
  lu.assertEquals(t_of { share = 1 }, 16)
  lu.assertEquals(t_of "share=.25, list={3, 4.5},on=false,name=a b", 4)
  local o = rawget(_G, "SEEN")
  rawset(_G, "SEEN", nil)
  lu.assertEquals({ o.share, o.name, o.list, o.on, o.mask.target.n, o.mask.min_keep },
    { .25, "a b", { 3, 4.5 }, false, 4, 10 })
  lu.assertErrorMsgContains("has no option 'shar' (did you mean 'share'?)", t_of, "shar=1")
  lu.assertErrorMsgContains("is many, expected a number such as 0.5", t_of, "share=many")
  lu.assertErrorMsgContains("is not name=value", t_of, "share")
  lu.assertErrorMsgContains("is for policies in files", mask.new,
    { grid = { 16, 16 }, options = { a = 1 } })
end

function tests.test_saliency()
  local tensor = require "ijepa.tensor"
  local function f(_, grid, at) return grid:all(), { grid:top(at.saliency, 2) } end
  local p = mask.policy(f, { grid = { 2, 2 }, group = 2, saliency = { 0, 1, 2, 0 } })
  local m = p:sample_raw(2)
  lu.assertEquals({ m.target[0], m.target[1] }, { 1, 2 })
  local function given(saliency, group)
    return mask.policy(f, { grid = { 2, 2 }, group = group or 2, saliency = saliency })
  end
  local rows = { { 9, 8, 0, 0 }, { 0, 0, 1, 2 } }
  for _, saliency in ipairs { function(b) return b.images and rows end,
      function() return tensor.new(rows) end } do
    local q = given(saliency)
    m = q:sample_raw(2, 0, nil, { images = true })
    lu.assertEquals({ m.target[0], m.target[1], m.target[2], m.target[3] }, { 0, 1, 2, 3 })
    lu.assertErrorMsgContains("this policy reads images: give images=", q.sample_raw, q, 2)
    lu.assertErrorMsgContains("set mask.group=1 (it is 2)", q.sample_raw, q, 1, 0, nil,
      { images = true })
    lu.assertStrContains(mask.text(q), "this policy reads images: give images=")
  end
  local q = given(function() return { { 1 }, { 2 } } end)
  lu.assertErrorMsgContains("image 0: its saliency", q.sample_raw, q, 2, 0, nil, { images = true })
  q = given(function() return 3 end)
  lu.assertErrorMsgContains("number, expected a tensor (2, 4)", q.sample_raw, q, 2, 0, nil,
    { images = true })
  q = given(function() error "no eyes" end)
  lu.assertErrorMsgContains("mask policy's saliency: no eyes", q.sample_raw, q, 2, 0, nil,
    { images = true })
end

function tests.test_attention_of_an_encoder()
  local tensor = require "ijepa.tensor"
  local n, looked = 16, 3
  local target = { depth = 12 }
  function target:attention(images, block)   -- (B, heads, N, N): all look at one patch
    lu.assertEquals({ images, block, self.depth }, { "images", 12, 12 })
    local values = {}
    for i = 1, 2 * 2 * n * n do values[i] = (i - 1) % n == looked and 1 or 0 end
    return tensor.new(values):reshape(2, 2, n, n)
  end
  local p = mask.new { policy = shipped "attention", grid = { 4, 4 }, group = 2 }
  local m = p:sample_raw(2, 0, 0, { images = "images", target = target })
  for row = 0, m.targets * m.count - 1 do
    local holds = false
    for i = 0, m.t - 1 do holds = holds or m.target[row * m.t + i] == looked end
    lu.assertTrue(holds)
  end
end

-- ---- errors -------------------------------------------------------------------------------------

local function message_of(f, ...)
  local ok, e = pcall(f, ...)
  lu.assertFalse(ok)
  return e
end

function tests.test_bad_files()
  local function wrong(name, content, pattern)
    local path = write(name, content)
    local e = message_of(mask.new, { policy = path, grid = { 4, 4 } })
    lu.assertEquals(type(e), "string")
    lu.assertEquals(e:sub(1, #path + 1), path .. ":")
    lu.assertNotNil(e:find(pattern), e)
    lu.assertNil(e:find "\n")
    lu.assertNil(e:find "mask_policy.lua")
  end
  wrong("syntax.lua", "local x = 1\nreturn function( end\n", ":2: mask policy: ")
  wrong("throws.lua", "local x\n\nx.y = 1\n", ":3: mask policy: attempt to index")
  wrong("number.lua", "return 3", "the file returned number, expected a function")
  wrong("nothing.lua", "local x = 1", "the file returned nil")
  wrong("notable.lua", "return { polcy = 1 }", "without the function 'policy'")
  wrong("field.lua", "return { policy = function() end, option = {} }",
    "unknown field 'option' %(did you mean 'options'")
  wrong("nil.lua", "\nreturn function(rng, grid)\nend",
    ":2: mask policy, image 0, step 0: the function returned no context")
  wrong("empty.lua", "return function(rng, grid) return grid:none(), { grid:all() } end",
    ":1: .*the context is empty")
  wrong("garbage.lua", "return function(rng, grid) return grid:all(), { { 1, 2, 99 } } end",
    "the target holds 99, which is not a patch")
  wrong("call.lua", "return function(rng, grid)\n  return grid:block(1), {}\nend",
    ":2: mask policy, image 0.*not four whole")
  wrong("object.lua", "return function() error({}) end",
    ":1: mask policy, .*error object is a table")
  wrong("deep.lua", "local function f(g) return f(g) + 1 end\nreturn f",
    ":1: mask policy.*stack overflow")
  wrong(("long"):rep(40) .. ".lua", "return function(r, g)\n return g.x.y end",
    ":2: mask policy, image 0, step 0: attempt to index")
  lu.assertErrorMsgContains("cannot read file", mask.new,
    { policy = folder .. "/none.lua", grid = { 4, 4 } })
  lu.assertErrorMsgContains("cannot read file", mask.new,
    { policy = folder .. "/", grid = { 4, 4 } })
end

function tests.test_error_late_in_a_run()
  local path = write("late.lua",
    "return function(rng, grid, at)\n  if at.step >= 1000 then\n    error 'tired'\n  end\n"
    .. "  return grid:all(), { grid:all() }\nend\n")
  local p = mask.new { policy = path, grid = { 4, 4 }, group = 8, batch = 4 }
  p:sample_raw(4, 4 * 997)
  local e = message_of(p.sample_raw, p, 4, 4 * 1000)
  lu.assertEquals(e, path .. ":3: mask policy, image 4000, step 1000: tired")
  local m = p:sample_raw(4, 8)   -- and the policy is whole
  lu.assertEquals(m.k, 16)
end

function tests.test_ctrl_c_stops_a_loop()
  local loops = {
    "while true do end",
    "local n = 0 repeat n = n + 1 until n < 0",
    "while true do rng:uniform() end",
    "while true do local r = grid:block(0, 0, 2, 2) + grid:all() end",
    "helper()",
    "list.of.helper()",
    "GLOBAL_HELPER()",
    "for i = 1, 1e18 do grid:random(rng, 3) end",
  }
  rawset(_G, "GLOBAL_HELPER", assert(loadstring "while true do end"))
  for i, loop in ipairs(loops) do
    local path = write(("loop%d.lua"):format(i),
      ("local function helper() while true do end end\nlocal list = { of = { helper = helper } }\n"
      .. "return function(rng, grid, at)\n  local a = 0\n  for i = 1, 1000 do a = a + i end\n  if at.image >= 4 then INTERRUPT() %s end\n"
      .. "  return grid:all(), { grid:all() }, list, helper\nend\n"):format(loop))
    rawset(_G, "INTERRUPT", function() C.ij_interrupt_set(1) end)
    local p = mask.new { policy = path, grid = { 4, 4 }, group = 4 }
    local e = message_of(p.sample_raw, p, 4, 4)
    C.ij_interrupt_set(0)
    lu.assertEquals({ type(e), e.exit, e.interrupted }, { "table", 130, true })
    lu.assertNotNil((e.place or ""):find(i == 7 and "while true" or path .. ":", 1, true),
      tostring(e))
    lu.assertStrContains(tostring(e), "interrupted in the mask policy at ")
    lu.assertNil(debug.gethook())
    lu.assertEquals(p:sample_raw(4, 0).k, 16)
  end
  rawset(_G, "GLOBAL_HELPER", nil)
  rawset(_G, "INTERRUPT", nil)
end

-- However a policy reaches a loop without end, it runs interpreted: compiled code would not notice
-- Ctrl-C.
function tests.test_ctrl_c_stops_loops_wherever_they_are()
  local function forever(n)
    local x = 0
    while x < (n or math.huge) do x = x + 1 end
    return x
  end
  write("hanging_module.lua",
    "local function loop() while true do end end\nreturn { go = function() loop() end }\n")
  local path = package.path
  package.path = folder .. "/?.lua;" .. path
  local deep, indexed = { { { { { { forever } } } } } },
    setmetatable({}, { __index = function() return forever() end })
  local reach = {
    deep = function(now) return now and deep[1][1][1][1][1][1]() end,
    metatable = function(now) return now and indexed.x end,
    module = function(now)
      local m = require "hanging_module"   -- loaded with the first group
      if now then m.go() end
    end,
    coroutine = function(now) return now and coroutine.wrap(function() forever() end)() end,
  }
  for name, hang in pairs(reach) do
    local p = mask.policy(function(_, grid, at)
      if at.image == 4 then C.ij_interrupt_set(1) end
      hang(at.image >= 4)
      return grid:all(), { grid:all() }
    end, { grid = { 4, 4 }, group = 4 })
    for _ = 1, 300 do forever(1000) end   -- it is not compiled outside of the policy either
    local e = message_of(p.sample_raw, p, 4, 4)
    C.ij_interrupt_set(0)
    lu.assertEquals({ type(e), type(e) == "table" and e.exit }, { "table", 130 }, name)
  end
  package.path = path
end

-- The limit: a function that comes into reach after the first group may be compiled; Ctrl-C then
-- waits until it returns.
function tests.test_ctrl_c_waits_for_functions_that_come_later()
  local late = "local time = ... local t = time() while time() - t < 1.5 do end"
  local p = mask.policy(function(_, grid, at)
    if at.image >= 4 then
      C.ij_interrupt_set(1)
      loadstring(late, "=late")(C.ij_time)
      while true do end
    end
    return grid:all(), { grid:all() }
  end, { grid = { 4, 4 }, group = 4 })
  local e = message_of(p.sample_raw, p, 4, 4)
  C.ij_interrupt_set(0)
  lu.assertEquals(e.exit, 130)
  -- not late:1, where an interpreted one would have been stopped
  lu.assertStrContains(e.place, "test_mask_policy.lua")
end

-- A healthy policy is not cut off by a Ctrl-C that comes while it runs: the step ends as always.
function tests.test_ctrl_c_leaves_a_healthy_policy_alone()
  C.ij_interrupt_set(1)
  lu.assertEquals(mask.new { policy = shipped "halves", grid = { 16, 16 } }:sample_raw(128).k, 128)
  C.ij_interrupt_set(0)
end

local function run(argv, o)
  o = o or {}
  o.merge = true
  return support.run({ program, argv }, o)
end

function tests.test_ctrl_c_from_outside()
  local script = write("script.lua", [[
local ijepa = require "ijepa"
ijepa.interrupted()
local masks = ijepa.mask.policy(function(_, grid, at)
  if at.image > 0 then while true do end end
  return grid:all(), { grid:all() }
end, { grid = { 4, 4 }, group = 1 })
local ok, e = pcall(masks.sample_raw, masks, 4)
print(ok, e.exit, tostring(e))
]])
  local _, text = run({ script }, { timeout = 1, signal = support.SIGINT })
  lu.assertStrContains(text, ("false\t130\tinterrupted in the mask policy at %s:4"):format(script))
end

-- ---- training -----------------------------------------------------------------------------------

local TINY = "data.batch=4 data.crop=32 data.workers=1 model.width=16 model.depth=1 model.heads=2 model.patch=4 model.pred_depth=1 "
  .. "model.pred_dim=8 mask.min_keep=3 optim.epochs=1 optim.warmup=0 optim.steps=3 "
local function pretrain(words)
  return run { "recipes/pretrain.lua", support.split(TINY), "data.root=" .. folder .. "/images",
    "out=" .. folder .. "/run", support.split(words) }
end

function tests.test_training_with_a_file()
  assert(F.try(C.ij_mkdirs(folder .. "/images")))
  local px = F.new("uint8_t[?]", 40 * 40 * 3)
  for i = 1, 16 do
    for k = 0, 40 * 40 * 3 - 1 do px[k] = (k * i) % 251 end
    assert(F.try(C.ij_image_save(("%s/images/p%02d.png"):format(folder, i), px, 40, 40)))
  end
  local code, text = pretrain "mask.policy=recipes/masks/curriculum.lua mask.options=over=3,targets=2"
  lu.assertEquals(code, 0, text)
  local config = assert(require "ijepa.run".config(folder .. "/run"))
  lu.assertEquals({ config.mask.policy, config.mask.options },
    { "recipes/masks/curriculum.lua", "over=3,targets=2" })
  local path = write("bad.lua",
    "return function(rng, grid, at)\n  if at.step == 2 then error 'tired' end\n  return grid:all(), { grid:all() }\nend")
  code, text = pretrain("resume=false mask.group=4 mask.policy=" .. path)
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, path .. ":2: mask policy, image 8, step 2: tired")
  code, text = pretrain "mask.policy=recipes/masks/none.lua"
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "cannot read file 'recipes/masks/none.lua'")
  code, text = pretrain "mask.policy=multiblok"
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "expected one of multiblock, random, block, or a Lua file")
end

-- ---- documents ----------------------------------------------------------------------------------

-- Every ```lua of docs/masks.md runs by itself, and says what the text block behind it says, if
-- there is one.
function tests.test_the_document()
  local file = assert(io.open "docs/masks.md")
  local text = file:read "*a"
  file:close()
  local count = 0
  for at, code, after in text:gmatch "()\n```lua\n(.-)\n```\n()" do
    count = count + 1
    local path = write(("doc%d.lua"):format(count), code .. "\n")
    local exit, said = run({ path }, { env = { NO_COLOR = 1 } })
    lu.assertEquals(exit, 0, ("snippet %d at %d: %s"):format(count, at, said))
    local shown = text:match("^\n*```\n(.-)\n```\n", after)
    if shown then lu.assertEquals((said:gsub("%s*$", "")), shown) end
  end
  lu.assertTrue(count >= 5)
end

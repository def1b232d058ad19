local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local mask = require "ijepa.mask"
local conform = require "ijepa.conform.masks"
local json = require "cjson.safe"

local tests = {}
TestMask = tests -- luacheck: ignore

local function rows_of(pointer, rows, length)
  local out = {}
  for r = 1, rows do
    out[r] = {}
    for i = 1, length do out[r][i] = pointer[(r - 1) * length + i - 1] end
  end
  return out
end

function tests.test_defaults_are_the_published_values()
  local p = mask.new { grid = { 16, 16 } }
  lu.assertEquals({ p.name, p.grid, p.contexts, p.targets, p.group, p.min_keep },
    { "multiblock", { 16, 16 }, 1, 4, 128, 10 })
  local m = p:sample_raw(32)
  lu.assertEquals({ m.count, m.contexts, m.targets }, { 32, 1, 4 })
  lu.assertEquals(m.t, m.target_h * m.target_w)
  for b, context in ipairs(rows_of(m.context, 32, m.k)) do
    local in_context = {}
    for i, patch in ipairs(context) do
      lu.assertTrue(patch >= 0 and patch < 256 and (i == 1 or patch > context[i - 1]))
      in_context[patch] = true
    end
    for j = 0, 3 do
      for i = 0, m.t - 1 do lu.assertNil(in_context[m.target[(j * 32 + b - 1) * m.t + i]]) end
    end
  end
end

function tests.test_sample_gives_tensors()
  local p = mask.new { grid = { 8, 12 }, min_keep = 2, context = { n = 2 }, target = { n = 3 } }
  local ctx, tgt, about = p:sample(5, 100)
  lu.assertEquals({ ctx:size(1), ctx:size(2), ctx:size(3) }, { 2, 5, about.k })
  lu.assertEquals({ tgt:size(1), tgt:size(2), tgt:size(3) }, { 3, 5, about.t })
  lu.assertEquals(about.t, about.target[1] * about.target[2])
end

function tests.test_goes_on_where_it_was()
  local p, q = mask.new { grid = { 16, 16 }, group = 8 }, mask.new { grid = { 16, 16 }, group = 8 }
  p:sample_raw(8)
  local m = p:sample_raw(4)   -- images 8..11
  local a = rows_of(m.context, 4, m.k)
  m = q:sample_raw(4, 8)
  lu.assertEquals(rows_of(m.context, 4, m.k), a)
  m = q:sample_raw(4, 8ULL)
  lu.assertEquals(rows_of(m.context, 4, m.k), a)
end

function tests.test_masks_outlive_their_policy()
  for _, policy in ipairs { "multiblock", function(_, g) return g:all(),
      { g:block(0, 0, 2, 2) } end } do
    local kept = {}
    for i = 1, 50 do
      kept[i] = mask.new { grid = { 16, 16 }, policy = policy, seed = i, group = 8 }:sample_raw(8)
    end
    collectgarbage()
    collectgarbage()
    for i = 1, 50 do
      local m = mask.new { grid = { 16, 16 }, policy = policy, seed = i, group = 8 }:sample_raw(8)
      lu.assertEquals(rows_of(kept[i].context, 8, m.k), rows_of(m.context, 8, m.k))
    end
  end
end

function tests.test_quirks()
  local function size_at(quirks, image)
    local m = mask.new { grid = { 16, 16 }, quirks = quirks, seed = 11, group = 4 }:sample_raw(1,
      image)
    return { m.target_h, m.target_w, m.context_h }
  end
  lu.assertEquals(size_at("reference", 0), { 7, 6, 15 })
  lu.assertEquals(size_at("reference", 12), { 5, 7, 15 })
  lu.assertEquals(size_at("shared_draw, batch_sizes_seeded_by_counter, block_below_grid", 12),
    { 5, 7, 15 })
  lu.assertEquals(size_at({ "shared_draw", "batch_sizes_seeded_by_counter", "block_below_grid" },
    12), { 5, 7, 15 })
  lu.assertEquals(size_at({ shared_draw = true, batch_sizes_seeded_by_counter = true,
    raster_cut = false }, 0)[2], 6)
  lu.assertEquals(size_at({ reference = true, raster_cut = false }, 0), { 7, 6, 15 })
  for name in pairs(mask.quirks) do lu.assertTrue(#size_at(name, 0) == 3) end
  lu.assertErrorMsgContains("unknown quirk 'raster_cuts' (did you mean 'raster_cut'?)", size_at,
    "raster_cuts", 0)
  lu.assertErrorMsgContains("unknown quirk", size_at, { [1] = {} }, 0)
  lu.assertErrorMsgContains("'quirks' is true", size_at, true, 0)
end

function tests.test_text()
  local p = mask.new { grid = { 6, 9 }, min_keep = 3, group = 1 }
  local lines = {}
  for line in mask.text(p, { first = 7 }):gmatch "[^\n]+" do lines[#lines + 1] = line end
  lu.assertEquals(#lines, 7)
  local m = p:sample_raw(1, 7)
  local count = 0
  for y = 1, 6 do
    lu.assertEquals(#lines[y], 9)
    lu.assertNil(lines[y]:find "[^#.1-4]")
    for _ in lines[y]:gmatch "#" do count = count + 1 end
  end
  lu.assertEquals(count, m.k)
  lu.assertEquals(lines[7], ("context %d, target %d of 54 patches"):format(m.k, m.t))
  for j = 0, m.t - 1 do   -- the first target lies on top
    local patch = m.target[j]
    lu.assertEquals(lines[math.floor(patch / 9) + 1]:sub(patch % 9 + 1, patch % 9 + 1), "1")
  end
  lu.assertEquals(mask.text(p, { first = 7, images = 1 }), mask.text(p, { first = 7 }))
  local colored = mask.text(p, { color = true, images = 2 })
  lu.assertStrContains(colored, "▀")
  lu.assertEquals(select(2, colored:gsub("\n", "")), 3)
  lu.assertErrorMsgContains("expected a policy", mask.text, {})
  lu.assertErrorMsgContains(
    "mask.draw(policy, { images = 3 }): the second argument is 3, expected a table", mask.draw, p,
    3)
  lu.assertErrorMsgContains("mask.stats(policy, { groups = 100 }): the second argument is 9",
    mask.stats, p, 9)
  lu.assertErrorMsgContains("did you mean 'color'", mask.text, p, { colour = true })
end

function tests.test_looking_does_not_disturb()
  local p = mask.new { grid = { 16, 16 } }
  p:sample_raw(3)
  mask.text(p, { first = 99 })
  mask.stats(p, { groups = 2 })
  lu.assertEquals(p.next, 3)
end

function tests.test_stats()
  local p = mask.new { grid = { 16, 16 }, quirks = "reference", group = 8 }
  local s = mask.stats(p, { groups = 200 })
  lu.assertEquals({ s.groups, s.images, s.fallbacks }, { 200, 1600, 0 })
  lu.assertAlmostEquals(s.k_mean, 86, 2)
  lu.assertEquals(s.context_blocks, { ["15x15"] = 200 })
  local sum = 0
  for _, n in pairs(s.k) do sum = sum + n end
  lu.assertEquals(sum, 200)
  sum = 0
  for i = 1, 256 do sum = sum + s.coverage.context[i] end
  lu.assertAlmostEquals(sum, s.k_mean, 1e-6)
  lu.assertEquals(s.coverage.target[256], 0)
  lu.assertStrContains(tostring(s), "200 groups of 8 images, 16x16 grid")
  lu.assertStrContains(tostring(s), "context blocks:  15x15 1.000")
  lu.assertEquals(mask.stats(mask.new { grid = { 10, 10 }, policy = "random" },
    { groups = 1 }).target_blocks, {})
end

function tests.test_other_policies()
  local m = mask.new { grid = { 16, 16 }, policy = "block", group = 1 }:sample_raw(1)
  lu.assertEquals(m.targets, 1)
  lu.assertEquals(m.k, 256 - m.t)
  m = mask.new { grid = { 10, 10 }, policy = "random", target = { scale = .2 } }:sample_raw(1)
  lu.assertEquals(m.t, 20)
end

-- ---- policies written in Lua --------------------------------------------------------------------

local function halves(rng, g)
  local left = rng:uniform() < 0.5
  return g:block(0, left and 0 or 8, 16, 8), { g:block(0, left and 8 or 0, 16, 8) }
end

function tests.test_policy_in_lua()
  local p = mask.policy(halves, mask.grid(16, 16))
  local m = p:sample_raw(64)
  lu.assertEquals({ m.contexts, m.targets, m.k, m.t, m.count }, { 1, 1, 128, 128, 64 })
  local left = 0
  for b = 0, 63 do
    local a, z = m.context[b * 128], m.target[b * 128]
    lu.assertTrue(a == 0 and z == 8 or a == 8 and z == 0)
    if a == 0 then left = left + 1 end
  end
  lu.assertTrue(left > 16 and left < 48)
  lu.assertStrContains(mask.text(p, { first = 3 }), "context 128, target 128 of 256 patches")
  lu.assertEquals(mask.stats(p, { groups = 2 }).k, { [128] = 2 })
  local ctx, tgt = p:sample(2)
  lu.assertEquals({ ctx:size(3), tgt:size(3) }, { 128, 128 })
  lu.assertEquals(p.next, 66)
end

-- The default policy's rules, written with regions.
local function multiblock(rng, g)
  local area = rng.group:uniform(.15, .2) * g.n
  local aspect = .75 * 2 ^ rng.group:uniform()
  local h, w = math.floor(math.sqrt(area * aspect) + .5), math.floor(math.sqrt(area / aspect) + .5)
  local side = math.floor(math.sqrt(rng.group:uniform(.85, 1) * g.n) + .5)
  local context, targets = g:random_block(rng, side, side), {}
  for i = 1, 4 do
    targets[i] = g:random_block(rng, h, w)
    context = context - targets[i]
  end
  return context, targets
end

function tests.test_policy_in_lua_like_the_default()
  local ours = mask.stats(mask.new { grid = { 16, 16 }, group = 16 }, { groups = 60 })
  local theirs = mask.stats(mask.policy(multiblock, { grid = { 16, 16 }, group = 16 }),
    { groups = 60 })
  lu.assertAlmostEquals(ours.k_mean, theirs.k_mean, 8)
  lu.assertAlmostEquals(ours.t_mean, theirs.t_mean, 2)
  for _, i in ipairs { 1, 16, 120, 256 } do
    lu.assertAlmostEquals(ours.coverage.context[i], theirs.coverage.context[i], .1)
  end
end

function tests.test_policy_in_lua_is_a_function_of_the_image()
  local p = mask.policy(multiblock, { grid = { 10, 10 }, group = 8, seed = 5 })
  local q = mask.policy(multiblock, { grid = { 10, 10 }, group = 8, seed = 5 })
  local m = p:sample_raw(8, 16)
  local k, all = m.k, rows_of(m.context, 8, m.k)
  q:sample_raw(3, 40)
  m = q:sample_raw(2, 19)
  lu.assertEquals(m.k, k)
  lu.assertEquals(rows_of(m.context, 2, k), { all[4], all[5] })
  m = q:sample_raw(20, 10)   -- over three groups: rows ascend and are of one length
  for _, row in ipairs(rows_of(m.context, 20, m.k)) do
    for i = 2, #row do lu.assertTrue(row[i] > row[i - 1]) end
  end
end

function tests.test_regions()
  local g = mask.grid(3, 4)
  local a, b = g:block(0, 0, 2, 2), g:block(0, 1, 2, 3)
  lu.assertEquals(tostring(a), "##..\n##..\n....")
  lu.assertEquals(tostring(a - b), "#...\n#...\n....")
  lu.assertEquals(tostring(a + b), "####\n####\n....")
  lu.assertEquals(tostring(a * b), ".#..\n.#..\n....")
  lu.assertEquals({ a:size(), b:size(), g:all():size() }, { 4, 6, 12 })
  lu.assertTrue(a:has(1, 1))
  lu.assertFalse(a:has(2, 1))
  lu.assertFalse(a:has(-1, 9))
end

function tests.test_policy_in_lua_misuse()
  local function wrong(text, f, o)
    lu.assertErrorMsgContains(text, mask.policy, f, o or { 4, 4 })
  end
  wrong("expected a function", 3)
  wrong("expected a grid", halves, 3)
  wrong("did you mean 'group'?", halves, { grid = { 4, 4 }, grup = 3 })
  wrong("(0, 4), expected two whole numbers", halves, { 0, 4 })
  wrong("returned no context", function() end)
  wrong("returned no target", function(_, g) return g:all() end)
  wrong("returned no target", function(_, g) return g:all(), {} end)
  wrong("the target is empty", function(_, g) return g:all(), { g:block(0, 0, 0, 1) } end)
  wrong("the context is string", function() return { "all" }, { 4 } end)
  wrong("the context holds 16, which is not a patch from 0 to 15", function() return { 3, 16 },
    { 4 } end)
  wrong("of another grid", function(_, g) return g:all(), { mask.grid(2, 2):all() } end)
  wrong("1 context and 2 targets, but 1 context and 1 target before", function(_, g, at)
    return g:all(), at.image == 0 and g:all() or { g:all(), g:all() }
  end)
  wrong("expected a whole number from 1", function(rng) rng:below(0) end)
  wrong("(1, 2, 3, nil) are not four", function(_, g) g:block(1, 2, 3) end)
  wrong("expected 0 to 16", function(rng, g) g:random(rng, 17) end)
  wrong("needs two regions of one grid", function(_, g) return g:all() - 3 end)
  wrong("my own", function() error "my own" end)
  lu.assertErrorMsgContains("'count' is 0",
    function() mask.policy(halves, { 16, 16 }):sample(0) end)
end

function tests.test_misuse_is_an_error_of_the_caller()
  local p = mask.new { grid = { 16, 16 } }
  local here = debug.getinfo(1, "S").short_src:gsub("%p", "%%%0")
  local function wrong(text, f, ...)
    local ok, message = pcall(f, ...)
    lu.assertFalse(ok)
    lu.assertStrContains(tostring(message), text)
    lu.assertNotNil(tostring(message):find("^" .. here .. ":%d+: "), message)
  end
  wrong("expected a table of settings", function() mask.new() end)
  wrong("'grid' is nil", function() mask.new {} end)
  wrong("'grid width' is x", function() mask.new { grid = { 16, "x" } } end)
  wrong("'grid height' is 1e+300", function() mask.new { grid = { 1e300, 0 / 0 } } end)
  wrong("did you mean 'grid'?", function() mask.new { grd = { 8, 8 } } end)
  wrong("mask.target: unknown setting 'scales'",
    function() mask.new { grid = { 8, 8 }, target = { scales = 1 } } end)
  wrong("3x3 = 9 patches never exceeds min_keep 10",
    function() mask.new { grid = { 8, 8 }, quirks = "shared_draw" } end)
  wrong("unknown policy 'multi'", function() mask.new { grid = { 8, 8 }, policy = "multi" } end)
  wrong("runs from 0.3 down to 0.1",
    function() mask.new { grid = { 8, 8 }, target = { scale = { .3, .1 } } } end)
  wrong("expected two numbers such as {0.85, 1}",
    function() mask.new { grid = { 8, 8 }, context = { scale = "x" } } end)
  wrong("'overlap' is 1", function() mask.new { grid = { 8, 8 }, overlap = 1 } end)
  wrong("'seed' is -1", function() mask.new { grid = { 8, 8 }, seed = -1 } end)
  wrong("'count' is 0", function() p:sample(0) end)
  wrong("'first' is -1", function() p:sample(1, -1) end)
  wrong("'first' is x", function() p:sample(1, "x") end)
  wrong("ask for fewer", function() p:sample(1e9) end)
  wrong("with a colon", function() p.sample(3) end)
  wrong("expected a policy", function() mask.stats {} end)
end

-- ---- conform ------------------------------------------------------------------------------------

-- A file as the published sampler's counts are written, drawn here with another seed.
local function made_file(batches)
  local p = mask.new { grid = { 14, 14 }, quirks = "reference", group = 4, seed = 123456 }
  local s = mask.stats(p, { groups = batches })
  local function named(t)
    local out = {}
    for key, n in pairs(t) do out[tostring(key)] = n end
    return out
  end
  local function rounded(t)
    local out = {}
    for i, v in ipairs(t) do out[i] = tonumber(("%.5f"):format(v)) end
    return out
  end
  return { batches = batches, pred_block_hxw_counts = s.target_blocks,
    enc_block_hxw_counts = s.context_blocks,
    enc_keep_counts = named(s.k), pred_keep_counts = named(s.t),
      enc_patch_frequency = rounded(s.coverage.context),
    pred_patch_frequency = rounded(s.coverage.target),
      config = { crop_size = 224, patch_size = 16, num_enc_masks = 1,
      num_pred_masks = 4, enc_mask_scale = { .85, 1 }, pred_mask_scale = { .15, .2 },
        aspect_ratio = { .75, 1.5 },
      min_keep = 10, allow_overlap = false, batch_size = 4 } }
end

local function check(content)
  local support = require "support"
  local items, message = conform(support.write(support.folder() .. "/x.json",
    type(content) == "string" and content or json.encode(content)))
  if not items then return nil, message end
  local wrong = {}
  for _, item in ipairs(items) do
    lu.assertEquals(item.ok, item.error <= item.tolerance)
    if not item.ok then wrong[#wrong + 1] = item.name end
  end
  return #wrong == 0, table.concat(wrong, "; ")
end

function tests.test_conform_accepts_its_own_kind()
  local ok, wrong = check(made_file(1500))
  lu.assertTrue(ok, wrong)
end

function tests.test_conform_finds_one_wrong_number()
  local file = made_file(600)
  lu.assertTrue(check(file))
  for key, t in pairs(file) do
    if type(t) == "table" and key ~= "config" then
      local names, moved = {}, {}
      for name in pairs(t) do names[#names + 1] = name end
      table.sort(names)
      local name = names[math.ceil(#names / 2)]
      local was = t[name]
      t[name] = key:find "frequency" and was + 2e-5 or was + 1
      lu.assertFalse(check(file), key)
      t[name] = was
      if not key:find "frequency" and names[2] then   -- the sum kept
        moved[1], moved[2] = t[names[1]], t[names[2]]
        t[names[1]], t[names[2]] = moved[1] + 1, moved[2] - 1
        lu.assertFalse(check(file), key)
        t[names[1]], t[names[2]] = moved[1], moved[2]
      end
    end
  end
  file.batches = 601
  lu.assertFalse(check(file))
  file.batches = 600
  for key, value in pairs { batch_size = 8, num_pred_masks = 3, enc_mask_scale = { .6, .7 },
      allow_overlap = true,
    pred_mask_scale = { .15, .21 }, min_keep = 60 } do
    local was = file.config[key]
    file.config[key] = value
    lu.assertNotEquals(check(file), true, key)
    file.config[key] = was
  end
  lu.assertTrue(check(file))
end

function tests.test_conform_refuses_what_it_cannot_read()
  for _, content in ipairs { "", "{", "[]", "3", '{"config": 3}',
      '{"config": {"crop_size": 64, "patch_size": 0}}' } do
    local ok, message = check(content)
    lu.assertNil(ok)
    lu.assertEquals(type(message), "string")
  end
  local function broken(change)
    local file = made_file(20)
    change(file)
    local ok, message = check(file)
    lu.assertNil(ok)
    lu.assertEquals(type(message), "string")
    lu.assertNil(message:find "\n")
  end
  broken(function(f) f.batches = 1e12 end)
  broken(function(f) f.batches = "many" end)
  broken(function(f) f.enc_keep_counts = nil end)
  broken(function(f) f.enc_keep_counts = { a = 1 } end)
  broken(function(f) f.enc_keep_counts = { ["40"] = -1 } end)
  broken(function(f) f.pred_block_hxw_counts = { ["4by3"] = 20 } end)
  broken(function(f) f.enc_patch_frequency[196] = nil end)
  broken(function(f) f.enc_patch_frequency[3] = "x" end)
  broken(function(f) f.config.aspect_ratio = { 1.5, .75 } end)
  broken(function(f) f.config.crop_size = 1e9 end)
  broken(function(f) f.config.batch_size = 2 ^ 40 end)
  lu.assertNil(conform "/nowhere/masks_x.json")
end

function tests.test_published_files()
  local here = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"
  local folder = here .. "../../../shared/conformance"
  if F.C.ij_path_kind(folder) ~= 2 then lu.skip("skipped: shared/conformance is not there") end
  for _, name in ipairs { "masks_64_8.json", "masks_vith14_224.json", "masks_vith16_448.json" } do
    local items, message = conform(folder .. "/" .. name)
    lu.assertNotNil(items, message)
    for _, item in ipairs(items) do lu.assertTrue(item.ok, name .. ": " .. item.name) end
  end
end

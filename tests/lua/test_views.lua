-- Several views of each image: from data.open, in settings, in a run and in the memory command. The
-- pixels themselves are checked in tests/c/test_views.c.
local lu = require "luaunit"
local ijepa = require "ijepa"
local data = require "ijepa.data"
local memory = require "ijepa.memory"
local F = require "ijepa.base.ffi"
local support = require "support"

local tests = {}
TestViews = tests -- luacheck: ignore

local folder, images
function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 40, test = 20, size = 32 }
end

local function bytes(t) return F.string(t:read(), t:numel()) end

-- ---- data.open
local VIEWS = { { n = 2, scale = { .3, 1 }, flip = .5 },
  { n = 3, crop = { 8, 12 }, scale = { .05, .3 }, jitter = .5 } }
local function open(o)
  local settings = { root = images.train, train = true, crop = 16, batch = 6, workers = 0,
    seed = 3 }
  for k, v in pairs(o) do settings[k] = v end
  return data.open(settings)
end

function tests.test_groups_are_tensors_in_the_order_view_image()
  local d = assert(open { views = VIEWS })
  local one = assert(open { flip = .5 })
  lu.assertEquals({ d.height, d.width }, { 16, 16 })
  for _ = 1, 8 do
    local x, labels, b, views = d:read()
    local y, same_labels = one:read()
    lu.assertEquals(#views, 2)
    lu.assertEquals({ b.view_groups, b.views[1].n, b.views[1].height, b.views[1].width },
      { 2, 3, 8, 12 })
    lu.assertEquals(views[1]:shape(), { 2 * b.count, 16, 16, 3 })
    lu.assertEquals(views[2]:shape(), { 3 * b.count, 8, 12, 3 })
    lu.assertEquals(x:shape(), { b.count, 16, 16, 3 })
    -- view 1 of group 1 is what a loader without views gives
    lu.assertEquals(bytes(x), bytes(y))
    lu.assertEquals(labels:totable(), same_labels:totable())
    lu.assertEquals(bytes(views[1]):sub(1, x:numel()), bytes(x))
    lu.assertNotEquals(bytes(views[1]):sub(x:numel() + 1), bytes(x))
  end
  -- the view of single images is that of group 1
  lu.assertEquals(assert(d:image(3)):shape(), { 1, 16, 16, 3 })
  d:close()
  one:close()
end

function tests.test_without_groups_there_is_one_view()
  local d = assert(open {})
  local x, _, b, views = d:read()
  lu.assertEquals({ b.view_groups, b.views[0].n, #views }, { 1, 1, 1 })
  lu.assertEquals(bytes(x), bytes(views[1]))
  d:close()
end

function tests.test_any_position_and_any_workers()
  local first = {}
  for _, workers in ipairs { 0, 1, 3 } do
    local d = assert(open { views = VIEWS, workers = workers })
    for i = 1, 10 do
      local _, _, _, views = d:read()
      local all = bytes(views[1]) .. bytes(views[2])
      first[i] = first[i] or all
      lu.assertTrue(first[i] == all)
    end
    d:seek(0, 3)
    local _, _, _, views = d:read()
    lu.assertTrue(first[4] == bytes(views[1]) .. bytes(views[2]))
    d:close()
  end
end

function tests.test_wrong_groups()
  local function refused(views, why)
    local d, message = open { views = views }
    lu.assertNil(d)
    lu.assertEquals(message, "data.views: " .. why)
  end
  local such = "such as { n = 6, crop = 96, scale = { .05, .3 } }"
  local list = "expected a list of groups such as { { n = 6, crop = 96, scale = { .05, .3 } } }"
  refused("2x224", list)
  refused({ n = 2 }, list)
  refused({ 2 }, "group 1 is a number, expected a table " .. such)
  refused({ { crop = 16 } }, "group 1 lacks 'n': expected " .. such)
  refused({ { n = 1 }, { n = 0 } }, "group 2: n is 0: expected a whole number from 1 to 64")
  refused({ { n = 2, corp = 16 } }, "group 1: unknown key 'corp' (did you mean 'crop'?)")
  refused({ { n = 2, crop = 1.5 } },
    "group 1: crop is 1.5: expected a side, or {height, width}, in pixels, 1 to 16384")
  refused({ { n = 2, scale = { .5, .2 } } },
    "group 1: scale is {0.5, 0.2}: expected two numbers above 0, up to 1, the smaller one first")
  refused({ { n = 2, flip = "yes" } }, "group 1: flip is 'yes': expected 0 to 1")
  local d, message = open { views = { { n = 1 } }, train = false }
  lu.assertNil(d)
  lu.assertEquals(message, "data.views: views are random crops: train is off")
end

-- ---- a run
local function config(out, views, over)
  local words = { "out=" .. folder .. "/" .. out, "data.root=" .. images.train, "data.batch=8",
    "data.crop=32", "data.workers=1", "model.width=16", "model.depth=1", "model.heads=2",
    "model.patch=4", "model.pred_depth=1", "model.pred_dim=8", "mask.min_keep=3", "mask.group=8",
    "optim.epochs=1", "optim.warmup=.5", "diagnose.every=0" }
  for _, word in ipairs(over or {}) do words[#words + 1] = word end
  return ijepa.config({ data = { views = views } }, nil, words)
end

-- The objective that uses view 1 alone trains as without views, in parts too.
function tests.test_a_run_with_views()
  local views = { { n = 2 }, { n = 2, crop = 16, scale = { .1, .3 } } }
  local plain = ijepa.pretrain(config("plain"))
  local parts = ijepa.pretrain(config("parts", views, { "optim.steps=2" }))
  lu.assertEquals(#parts.losses, 2)
  parts = ijepa.pretrain(config("parts", views))
  lu.assertEquals({ unpack(plain.losses, 3) }, parts.losses)
  lu.assertTrue(support.same_tensors(folder .. "/plain/jepa-latest.safetensors",
    folder .. "/parts/jepa-latest.safetensors"))
  lu.assertStrContains(support.read(folder .. "/parts/config.lua"), "n = 2,\n")
end

function tests.test_settings_of_views()
  lu.assertErrorMsgContains("'data.views' is a table: group 1: n is 65: expected a whole number from 1 to 64",
    function() config("wrong", { { n = 65 } }) end)
  lu.assertErrorMsgContains("command line: 'data.views' is a table: set it in a recipe",
    function() config("wrong", {}, { "data.views=2" }) end)
  lu.assertErrorMsgContains(
    "data.views: group 1 has images of 16 x 16 and data.crop is 32 x 32: give it data.crop",
    function() ijepa.pretrain(config("wrong", { { n = 2, crop = 16 } })) end)
end

function tests.test_changed_views_are_said()
  local changes = require "ijepa.train.changes"
  local list = changes.between({ data = { views = { { n = 2 } } } },
    { data = { views = { { n = 2, scale = { .1, .3 } }, { n = 4 } } } })
  lu.assertEquals(#list, 1)
  lu.assertEquals(list[1].text,
    "data.views {{n = 2}} -> {{n = 2, scale = {0.1, 0.3}}, {n = 4}}")
end

function tests.test_memory_counts_views()
  local views = { { n = 2 }, { n = 4, crop = 16 } }
  local one, several = config("m", nil), config("m", views)
  local o = { k = 20, t = 9 }
  local a, b = memory.need(one, o), memory.need(several, o)
  -- one more view of 32 x 32 and four of 16 x 16, for 8 images
  lu.assertTrue(b.step + b.staging - a.step - a.staging >= 8 * 3 * (32 * 32 + 4 * 16 * 16))
  lu.assertEquals(memory.loader(one), 5 * 8 * 3 * 32 * 32)
  lu.assertEquals(memory.loader(several), 5 * 8 * 3 * (2 * 32 * 32 + 4 * 16 * 16))
end

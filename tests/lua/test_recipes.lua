-- Every probe recipe, and every recipe in docs/probes.md, as a user runs it: on drawn scenes and a
-- short run.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"

local tests = {}
TestRecipes = tests -- luacheck: ignore

local program, write = support.program, support.write
local folder, made
local function make()   -- once for all tests of this file
  if folder then return end
  folder = support.folder "file"
  made = support.scenes { n = 160, test = 64, size = 16, label = "colour" }
  write(folder .. "/train.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
  local code, text = support.run({ program, folder .. "/train.lua", "out=" .. folder .. "/run",
    "data.root=" .. made.train, support.split [[data.batch=16 data.crop=16 data.workers=0
    model.width=16 model.depth=2 model.heads=2 model.patch=2 model.pred_depth=1 model.pred_dim=8
    mask.min_keep=3 mask.group=8 optim.epochs=1 optim.warmup=0 model.init_gain=.7
    model.patch_gain=1.5]] }, { merge = true })
  lu.assertEquals(code, 0, text)
end

local device
local function recipe(path, words)
  make()
  return support.run({ program, path, "run=" .. folder .. "/run", "train=" .. made.train,
    "test=" .. made.test, "resize=16", "workers=0", support.split(words) },
    { merge = true, env = { XDG_CACHE_HOME = folder .. "/cache", IJEPA_DEVICE = device } })
end
local function works(path, words, ...)
  local code, text = recipe(path, words)
  lu.assertEquals(code, 0, text)
  lu.assertTrue(tonumber(text:match "top%-1 ([%d.]+) %%") <= 100, text)
  for _, part in ipairs { ... } do lu.assertStrContains(text, part) end
  return text
end

function tests.test_linear()
  local text = works("recipes/probe_linear.lua", "epochs=4 blocks=0,2 per_class=true",
    "last layer, norm data", "last 2 blocks, norm none",
    "best on the images held out", "64 images")
  local lines = 0
  for _ in text:gmatch "\n +[%d.]+ %%  %a+" do lines = lines + 1 end
  lu.assertEquals(lines, 8)   -- the classes alone
  works("recipes/probe_linear.lua", "protocol=published batch=32", "norm batch")
end
function tests.test_attentive()
  works("recipes/probe_attentive.lua", "epochs=2 batch=16", "wd 0.1")
end
function tests.test_knn()
  works("recipes/probe_knn.lua", "k=5,1 blocks=1", "k 5 ", "k 1 ", "cached in")
  works("recipes/probe_knn.lua", "k=5,1 blocks=1", "from the cache")
  lu.assertNotStrContains(works("recipes/probe_knn.lua", "k=5,1 blocks=1 cache=false"), "cache")
end
function tests.test_results_are_kept()
  works("recipes/probe_knn.lua", "k=5")
  works("recipes/probe_ridge.lua", "")
  local list = ijepa.probe.recorded(folder .. "/run")
  local knn, ridge = list[#list - 1], list[#list]
  lu.assertEquals({ knn.name, knn.step, knn.k, knn.count }, { "kNN, k 5, last layer", 10, 5, 64 })
  lu.assertEquals({ ridge.name, ridge.encoder, #ridge.interval },
    { "ridge, last layer", "target_encoder", 2 })
  lu.assertEquals(ijepa.probe.recorded "nowhere", {})
end
function tests.test_an_opened_run_prints_as_a_few_lines()
  make()
  local lines = tostring(assert(ijepa.model(folder .. "/run")))
  lu.assertStrContains(lines, "encoder    ViT 2 x 16, 2 heads, patch 2, grid 8 x 8, ")
  lu.assertStrContains(lines, "predictor  1 x 8, 2 heads, ")
  lu.assertEquals(select(2, lines:gsub("\n", "")), 5)
end
function tests.test_ridge() works("recipes/probe_ridge.lua", "", "lambda 0.01", "top-5") end
function tests.test_lowshot()
  works("recipes/probe_lowshot.lua", "per_class_n=3 draws=2 epochs=3 tune=true batch=8", "draw 2",
    "frozen, 24 labels", "fine-tuned: top-1")
  -- a tenth of each of 8 classes, rounded
  works("recipes/probe_lowshot.lua", "share=.1 draws=1 epochs=2", "frozen, 17 labels")
end
function tests.test_finetune()
  works("recipes/finetune.lua", "epochs=2 batch=16 mixup=.8 cutmix=1", "epoch 2 of 2")
end

function tests.test_guarded_memory()   -- unreadable but while an op or a copy runs
  device = "guard"
  works("recipes/probe_linear.lua", "epochs=1 blocks=1 norm=batch cache=false")
  works("recipes/probe_attentive.lua", "epochs=1 batch=32 cache=false lr=1e-3 wd=.01")
  works("recipes/probe_knn.lua", "cache=false")
  works("recipes/probe_ridge.lua", "blocks=2")
  works("recipes/finetune.lua", "epochs=1 batch=32 mixup=.8 cutmix=1")
  device = nil
end

function tests.test_recipes_are_short()
  for _, name in ipairs { "probe_linear", "probe_attentive", "probe_knn", "probe_ridge",
      "probe_lowshot", "finetune" } do
    local lines = 0
    for _ in io.lines("recipes/" .. name .. ".lua") do lines = lines + 1 end
    lu.assertTrue(lines <= 60, name)
  end
end

function tests.test_the_document_runs()
  make()
  local file = assert(io.open "docs/probes.md")
  local text, count = file:read "*a", 0
  file:close()
  for block in text:gmatch "```lua\n(.-)```" do
    count = count + 1
    local path = ("%s/doc%d.lua"):format(folder, count)
    write(path, block)
    works(path, "", "64 images")
  end
  lu.assertEquals(count, 2)
end

function tests.test_bad_input_is_one_line()
  local function refused(path, words, part)
    local code, text = recipe(path, words)
    lu.assertEquals(code, 1, text)
    lu.assertStrContains(text, part)
    lu.assertNotStrContains(text, "traceback")
    lu.assertNotStrContains(text, "lua/ijepa/")
  end
  refused("recipes/probe_knn.lua", "k=500", "k is 500")
  refused("recipes/probe_knn.lua", "train=nowhere", "nowhere")
  refused("recipes/probe_ridge.lua", "run=nowhere", "nowhere")
  refused("recipes/probe_ridge.lua", "lambad=1", "did you mean 'lambda'")
  refused("recipes/probe_lowshot.lua", "per_class_n=1000", "not 1000")
  refused("recipes/finetune.lua", "drop_path=1 epochs=1 batch=16", "rate is 1")
  local code, text = support.run({ program, "recipes/probe_attentive.lua" }, { merge = true })
  lu.assertEquals(code, 1, text)
  lu.assertStrContains(text, "set train=FOLDER and test=FOLDER")
end

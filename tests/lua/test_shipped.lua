-- The objectives and models of recipes/: their formulae against PyTorch's values and gradients
-- (tests/golden/objectives.safetensors), and each trained for a few steps, stopped and resumed.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local tensor = ijepa.tensor

local tests = {}
TestShipped = tests -- luacheck: ignore

local golden = assert(ijepa.tensors.open "tests/golden/objectives.safetensors")
local function recorded(name)
  local t = tensor.zeros(golden:info(name).shape)
  assert(golden:load(name, t))
  return t
end

local function check(name, f)
  local z = recorded "z":requires_grad_()
  local loss = f(z, recorded "a")
  local expected = recorded(name)
  local off = math.abs(loss:item() - expected:item())
  lu.assertTrue(off <= 1e-5 * math.max(1, expected:item()), name)
  loss:backward()
  local grad = recorded(name .. ".grad")
  local worst = (z:grad() - grad):abs():max():item() / math.max(1, grad:abs():max():item())
  lu.assertTrue(worst <= 1e-5, ("%s: gradient off by %g"):format(name, worst))
end

function tests.test_formulae_agree_with_pytorch()
  local function of(name) return dofile("recipes/objectives/" .. name .. ".lua").functions end
  check("sigreg", of("sigreg").sigreg)
  check("variance", of("vicreg").variance)
  check("covariance", of("vicreg").covariance)
  check("spread", function(z, a) return (of("visreg").visreg(z, a)) end)
  check("distance", function(z, a) return (select(2, of("visreg").visreg(z, a))) end)
end

local images
local function settings(out, steps, extra)
  images = images or support.scenes { n = 80, test = 20, size = 32 }
  local list = { "out=" .. out, "data.root=" .. images.train, "data.batch=16", "data.crop=32",
    "data.workers=1", "model.width=32", "model.depth=2", "model.heads=2", "model.patch=4",
    "model.pred_depth=1", "model.pred_dim=16", "mask.min_keep=3", "optim.warmup=0", "optim.lr=2e-3",
    "optim.start_lr=2e-3", "optim.final_lr=2e-3", "optim.epochs=100", "diagnose.every=0",
    "optim.steps=" .. steps }
  for _, word in ipairs(extra) do list[#list + 1] = word end
  return list
end

local VIEWS = { { n = 2, crop = 32, scale = { .3, 1 } }, { n = 2, crop = 16, scale = { .1, .3 } } }
local function train(out, steps, extra, objective)
  local cfg = ijepa.config({ objective = objective.value, data = { views = objective.views } }, nil,
    settings(out, steps, extra))
  return ijepa.pretrain(cfg).losses
end

-- Twelve steps at once, and six and six in two runs: the same losses, and less at the end.
local function trains_and_resumes(extra, objective)
  objective = objective or {}
  local folder = support.folder()
  local whole = train(folder .. "/whole", 12, extra, objective)
  lu.assertEquals(#whole, 12)
  local first = train(folder .. "/parts", 6, extra, objective)
  local rest = train(folder .. "/parts", 12, extra, objective)
  for i = 1, 6 do
    lu.assertEquals(first[i], whole[i])
    lu.assertEquals(rest[i], whole[6 + i])
  end
  local early, late = 0, 0
  for i = 1, 3 do early, late = early + whole[i], late + whole[13 - i] end
  lu.assertTrue(late < early, ("the loss went from %g to %g"):format(early / 3, late / 3))
  return folder .. "/parts"
end

for _, name in ipairs { "ijepa", "vicreg", "data2vec", "mae" } do
  tests["test_objective_" .. name] = function()
    trains_and_resumes { "objective=recipes/objectives/" .. name .. ".lua" }
  end
end
for _, name in ipairs { "sigreg", "visreg", "dino" } do
  tests["test_objective_" .. name .. "_with_views"] = function()
    trains_and_resumes({ "objective=recipes/objectives/" .. name .. ".lua" }, { views = VIEWS })
  end
end

function tests.test_objective_frozen_teacher()
  local folder = trains_and_resumes {}
  local teacher = dofile "recipes/objectives/frozen_teacher.lua"
  trains_and_resumes({}, { value = teacher { teacher = folder } })
  local losses = train(support.folder() .. "/until", 8, {},
    { value = teacher { teacher = folder, ["until"] = .5 } })
  lu.assertEquals(#losses, 8)
end

for _, name in ipairs { "registers", "class_token", "conv_stem", "rope" } do
  tests["test_model_" .. name] = function()
    local out = trains_and_resumes { "model.encoder=recipes/models/" .. name .. ".lua",
      "model.dtype=f32" }
    local m = assert(ijepa.model(out))
    local x = tensor.zeros({ 2, 32, 32, 3 }, "u8")
    local all = m.encoder(x)
    lu.assertEquals(all:shape(), { 2, 64, 32 })
    -- a context of all patches gives what the whole image gives
    local context = tensor.cat { tensor.arange(64, "i32"):reshape(1, 1, 64),
      tensor.arange(64, "i32"):reshape(1, 1, 64) }:reshape(1, 2, 64)
    lu.assertTrue((m.encoder(x, context) - all):abs():max():item() < 1e-5)
  end
end

-- The Lua blocks of docs/objectives.md are objectives, those of docs/models.md encoders; README's
-- objective is mine.lua.
function tests.test_blocks_of_the_pages_train()
  for page, key in pairs { ["docs/objectives.md"] = "objective",
      ["docs/models.md"] = "model.encoder", ["README.md"] = "objective" } do
    local blocks = 0
    for block in support.read(page):gmatch "```lua\n(.-)```" do
      if page ~= "README.md" or block:find "mine.lua" then
        blocks = blocks + 1
        local folder = support.folder()
        local file = support.write(folder .. "/block.lua", block)
        local losses = train(folder .. "/run", 2, { key .. "=" .. file }, {})
        lu.assertEquals(#losses, 2)
        lu.assertTrue(losses[2] == losses[2])
      end
    end
    lu.assertTrue(blocks >= 1)
  end
end

function tests.test_lejepa_recipe()
  local _, lines = support.read "recipes/lejepa.lua":gsub("\n", "")
  lu.assertTrue(lines <= 40)
  local folder = support.folder()
  local small = support.scenes { n = 80, test = 20, size = 32 }
  local code, said = support.run({ support.program, "recipes/lejepa.lua",
    "out=" .. folder .. "/run", "data.root=" .. small.train, "data.batch=8", "data.crop=32",
    "model.width=16",
    "model.depth=1", "model.heads=2", "model.patch=8", "optim.steps=2", "optim.warmup=0",
    "data.workers=1", "diagnose.images=8" }, { merge = true, timeout = 120 })
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, "done: 2 steps")
end

function tests.test_recipes_are_short()
  for _, folder in ipairs { "recipes/objectives", "recipes/models" } do
    for _, file in ipairs(support.list(folder)) do
      local _, lines = support.read(folder .. "/" .. file):gsub("\n", "")
      lu.assertTrue(lines <= 70, ("%s/%s has %d lines"):format(folder, file, lines))
    end
  end
end

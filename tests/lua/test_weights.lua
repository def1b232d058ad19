-- Weights in and out: every layout that is written is read back the same; what does not fit is listed; runs start from and
-- go on with checkpoints of the published layout.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local state = require "ijepa.state"
local support = require "support"
local jepa, tensor = ijepa.jepa, ijepa.tensor

local tests = {}
TestWeights = tests -- luacheck: ignore

local folder
function tests.setUp() folder = support.folder() end

-- A small run's models, the target unlike the encoder, with an optimizer that has made an update.
local function models(width)
  local e = jepa.encoder { width = width or 48, depth = 2, heads = 2, patch = 8, crop = 32, init_gain = 1, seed = 1 }
  local target = jepa.encoder { width = width or 48, depth = 2, heads = 2, patch = 8, crop = 32, init_gain = 1, seed = 2 }
  local p = jepa.predictor(e, { width = 24, depth = 1, heads = 2 })
  return { encoder = e, predictor = p, target_encoder = target,
    opt = ijepa.optim.adamw { models = { e, p }, average = { [e] = target } } }
end

local function update(whole, seed)
  for i, e in ipairs(whole.opt.entries) do
    ijepa.device.step(function() (e.tensor * e.tensor * (i + seed)):mean():backward() end)
  end
  whole.opt:step { lr = .01 * seed, wd = .1, momentum = .9 }
end

local function save(path, whole, meta)
  local cfg = { model = { width = 48, depth = 2, heads = 2, patch = 8 }, data = { crop = 32 }, seed = 0 }
  assert(state.save(path, whole, cfg, meta or { step = 1, epoch = 1, seconds = 0 }))
end

local function bytes_of(list)
  local out = {}
  for i, t in ipairs(list) do out[i] = F.string(t:read(), t:bytes()) end
  return table.concat(out)
end

local function values(model)
  local list = {}
  for i, p in ipairs(model:params()) do list[i] = p.tensor end
  return bytes_of(list)
end

local function everything(whole)
  local list = { values(whole.encoder), values(whole.predictor), values(whole.target_encoder), tostring(whole.opt:steps()) }
  for i in ipairs(whole.opt.entries) do list[#list + 1] = bytes_of { whole.opt:state(i) } end
  return table.concat(list)
end

local function export(from, format, name, o)
  o = o or {}
  o.format, o.out = format, folder .. "/" .. name
  assert(ijepa.export.write(from, o))
  return o.out
end

local function load(path, o)
  o = o or {}
  o.quiet = true
  return ijepa.load(path, o)
end

function tests.test_every_layout_comes_back_the_same()
  local whole, own = models(), folder .. "/jepa-latest.safetensors"
  update(whole, 1)
  save(own, whole)
  local want = values(whole.target_encoder)
  local files = { own, folder, export(folder, "pth", "a.pth.tar"), export(own, "hf", "hf"), export(own, "timm", "timm.safetensors"),
    export(own, "safetensors", "plain.safetensors") }
  files[#files + 1] = export(folder .. "/hf", "pth", "from_hf.pth")   -- and from each to others
  files[#files + 1] = export(folder .. "/timm.safetensors", "hf", "hf2", { heads = 2 })
  files[#files + 1] = export(folder .. "/a.pth.tar", "safetensors", "from_pth.safetensors")
  for _, path in ipairs(files) do
    local e = assert(load(path, { heads = 2 }))
    lu.assertTrue(values(e) == want, path)
    lu.assertEquals(e.settings.data.crop, 32)
    lu.assertFalse(e:params()[2].tensor:requires_grad())
  end
  for _, path in ipairs { own, folder .. "/a.pth.tar", folder .. "/from_pth.safetensors" } do
    local e = assert(load(path, { which = "encoder", heads = 2 }))
    lu.assertTrue(values(e) == values(whole.encoder), path)
    lu.assertStrContains(e.source, "(encoder)")
    lu.assertStrContains(assert(load(path, { heads = 2 })).source, "(target_encoder)")
  end
end

-- Continuing from a published checkpoint, AdamW's state included, is continuing without the round trip.
function tests.test_going_on_after_the_round_trip()
  local whole, again = models(), models()
  update(whole, 1)
  update(whole, 2)
  save(folder .. "/own.safetensors", whole)
  local pth = export(folder .. "/own.safetensors", "pth", "a-ep1.pth.tar")
  local meta = assert(state.load(pth, again))
  lu.assertEquals(meta.epoch, 1)
  lu.assertTrue(everything(again) == everything(whole))
  update(whole, 3)
  lu.assertFalse(everything(again) == everything(whole))
  update(again, 3)
  lu.assertTrue(everything(again) == everything(whole))
  local twice = export(pth, "pth", "b-ep1.pth.tar")   -- the state too comes through an export of an export
  local third = models()
  assert(state.load(twice, third))
  update(third, 3)
  lu.assertTrue(everything(third) == everything(whole))
end

function tests.test_strict_lists_everything_partial_what_it_left()
  local w = folder .. "/w.safetensors"
  local e = models().encoder
  local items = {}
  for _, p in ipairs(e:params()) do
    if p.name ~= "blocks.1.norm1.bias" and p.name ~= "norm.bias" then items[#items + 1] = { name = p.name, tensor = p.tensor.h } end
  end
  items[#items + 1] = { name = "head.weight", tensor = e:params()[1].tensor.h }
  local odd = tensor.zeros { 7 }
  for _, item in ipairs(items) do
    if item.name == "blocks.0.mlp.fc1.bias" then item.tensor = odd.h end
  end
  assert(ijepa.tensors.save(w, items))
  local none, message = load(w, { heads = 2 })
  lu.assertNil(none)
  for _, word in ipairs { "2 missing: blocks.1.norm1.bias, norm.bias", "1 unexpected: head.weight",
    "1 misshapen: blocks.0.mlp.fc1.bias (7), expected (192)", w } do lu.assertStrContains(message, word) end
  local part = assert(load(w, { heads = 2, partial = true }))
  lu.assertEquals(part.left.missing, { "blocks.1.norm1.bias", "norm.bias" })
  lu.assertEquals(part.left.unexpected, { "head.weight" })
  lu.assertEquals(#part.left.misshapen, 1)
  lu.assertTrue(bytes_of { part.by_name["blocks.0.attn.qkv.weight"].tensor } == bytes_of { e.by_name["blocks.0.attn.qkv.weight"].tensor })
end

function tests.test_other_element_types()
  local e = models().encoder
  local items = {}
  for i, p in ipairs(e:params()) do
    local t = p.tensor:to "bf16"
    items[i] = { name = p.name, tensor = t.h, keep = t }
  end
  assert(ijepa.tensors.save(folder .. "/half.safetensors", items))
  local half = assert(load(folder .. "/half.safetensors", { heads = 2 }))
  local a, n = half:params()[2].tensor:read()
  local b = e:params()[2].tensor:read()
  for i = 0, n - 1 do lu.assertAlmostEquals(a[i], b[i], math.abs(b[i]) / 250 + 1e-9) end
end

function tests.test_what_is_not_said_is_asked_for()
  save(folder .. "/own.safetensors", models())
  local none, message = load(export(folder .. "/own.safetensors", "timm", "t.safetensors"))
  lu.assertNil(none)
  lu.assertStrContains(message, "heads=N")
  none, message = load(folder .. "/own.safetensors", { which = "teacher" })
  lu.assertNil(none)
  lu.assertStrContains(message, "holds encoder, predictor, target_encoder, no 'teacher'")
  none, message = load(folder .. "/own.safetensors", { which = "predictor" })
  lu.assertNil(none)
  lu.assertStrContains(message, "is a predictor")
  assert(ijepa.tensors.save(folder .. "/none.safetensors", {}))
  none, message = load(folder .. "/none.safetensors")
  lu.assertNil(none)
  lu.assertStrContains(message, "no encoder that is known")
  lu.assertNil((load "nowhere.pth.tar"))
  local ok
  ok, message = ijepa.export.write("nowhere.pth.tar", { format = "pth", out = folder .. "/x" })
  lu.assertNil(ok)
  lu.assertStrContains(message, "nowhere.pth.tar")
  lu.assertErrorMsgContains("format 'onnx'", ijepa.export.write, folder, { format = "onnx", out = "x" })
  lu.assertEquals(ijepa.export.main { folder }, 2)
  lu.assertEquals(ijepa.export.main { folder, "--format", "hf", "--out" }, 2)
  lu.assertEquals(ijepa.export.main { folder, "--colour", "hf" }, 2)
end

-- Whole runs: 2 epochs at once, and 1 epoch, through a published checkpoint, another one.
function tests.test_a_run_goes_on_from_a_published_checkpoint()
  local images = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 24, test = 8, size = 32 })
  local function run(over)
    local words = { "data.root=" .. images.train, "data.batch=8", "data.crop=32", "data.workers=0", "model.width=48", "model.depth=2",
      "model.heads=2", "model.patch=8", "model.pred_depth=1", "model.pred_dim=24", "mask.min_keep=0", "mask.group=8", "optim.epochs=2",
      "optim.warmup=1", "diagnose.every=0", "log.save_epochs=1", "model.dtype=f32" }
    for k, v in pairs(over) do words[#words + 1] = k .. "=" .. v end
    return ijepa.pretrain(ijepa.config({}, nil, words))
  end
  local whole = run { out = folder .. "/whole" }
  local pth = export(folder .. "/whole/jepa-ep1.safetensors", "pth", "x-ep1.pth.tar")
  local rest = run { out = folder .. "/rest", resume = pth }
  lu.assertEquals(#rest.losses, #whole.losses / 2)
  for _, part in ipairs { "encoder", "predictor", "target" } do lu.assertTrue(values(rest[part]) == values(whole[part]), part) end
  -- weights alone: the run begins anew
  local anew = run { out = folder .. "/anew", init = pth, ["optim.steps"] = 1, ["optim.lr"] = 0, ["optim.start_lr"] = 0, ["optim.final_lr"] = 0 }
  local w = assert(load(pth, { which = "encoder", heads = 2 }))
  lu.assertTrue(values(anew.encoder) == values(w))
  lu.assertEquals(#anew.losses, 1)
  lu.assertErrorMsgContains("of another architecture", run, { out = folder .. "/other", init = pth, ["model.depth"] = "3" })
end

if not ... then os.exit(lu.LuaUnit.run()) end

-- Weights in and out: every layout that is written is read back the same; what does not fit is
-- listed; runs start from and go on with checkpoints of the published layout.
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
  local e = jepa.encoder { width = width or 48, depth = 2, heads = 2, patch = 8, crop = 32,
    init_gain = 1, seed = 1 }
  local target = jepa.encoder { width = width or 48, depth = 2, heads = 2, patch = 8, crop = 32,
    init_gain = 1, seed = 2 }
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
  local cfg = { model = { width = 48, depth = 2, heads = 2, patch = 8 }, data = { crop = 32 },
    seed = 0 }
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
  local list = { values(whole.encoder), values(whole.predictor), values(whole.target_encoder),
    tostring(whole.opt:steps()) }
  for i in ipairs(whole.opt.entries) do list[#list + 1] = bytes_of { whole.opt:state(i) } end
  return table.concat(list)
end

local function write(path, content)
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
  return path
end

function tests.test_hugging_face_model_in_several_files()
  local whole = models()
  save(folder .. "/run.safetensors", whole)
  assert(ijepa.export.write(folder .. "/run.safetensors", { format = "hf", out = folder .. "/hf" }))
  local one = folder .. "/hf/model.safetensors"
  local f = assert(ijepa.tensors.open(one))
  local names, parts, map = f:names(), { {}, {} }, {}
  for i, name in ipairs(names) do
    local info, data = f:info(name), f:data(name)
    table.insert(parts[i % 2 + 1],
      { name = name, dtype = info.dtype, shape = info.shape, data = data })
    map[#map + 1] = ("%q: %q"):format(name, ("model-0000%d-of-00002.safetensors"):format(i % 2 + 1))
  end
  os.execute(("mkdir '%s/sharded' && cp '%s/hf/config.json' '%s/sharded'"):format(folder, folder,
    folder))
  for k, items in ipairs(parts) do
    assert(ijepa.tensors.save(("%s/sharded/model-0000%d-of-00002.safetensors"):format(folder, k),
      items))
  end
  f:close()
  local index = folder .. "/sharded/model.safetensors.index.json"
  write(index, '{ "metadata": {}, "weight_map": { ' .. table.concat(map, ", ") .. " } }")
  local want = values(assert(ijepa.load(folder .. "/hf")))
  lu.assertEquals(want, values(whole.target_encoder))
  for _, path in ipairs { folder .. "/sharded", index } do
    local e, message = ijepa.load(path)
    lu.assertNil(message)
    lu.assertTrue(values(e) == want)
    lu.assertEquals({ e.heads, e.source }, { 2, index })
  end
  local function refused(content, part)
    write(index, content)
    local e, message = ijepa.load(folder .. "/sharded")
    lu.assertNil(e)
    lu.assertStrContains(message, part)
    lu.assertStrContains(message, index)
  end
  refused("", "could not be read: it is empty")
  refused("[1]", "has no weight_map")
  refused('{ "weight_map": { "a": "../hf/model.safetensors" } }',
    "the file of 'a' is no name of a file beside it")
  refused('{ "weight_map": { "a": 3 } }', "the file of 'a' is no name of a file beside it")
  refused('{ "weight_map": { "a": "model-00003-of-00002.safetensors" } }', "could not be opened")
  refused('{ "weight_map": { "a": "model-00001-of-00002.safetensors" } }',
    "'model-00001-of-00002.safetensors' has no tensor 'a'")
end

function tests.test_files_that_are_not_weights_are_named()
  local formats = "ijepa reads safetensors and PyTorch's .pth: save the model in one of them"
  for content, expected in pairs {
    ["version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"] =
      "is a Git LFS pointer, not the weights themselves: "
      .. "fetch them with 'git lfs pull' in its repository, or download the file again",
    ["GGUF\3\0\0\0\0\0\0\0\0\0\0\0"] = "is a GGUF file of llama.cpp: " .. formats,
    ["PAR1\21\4\21\0\0\0\0\0"] = "is a Parquet file, which holds a table, not weights: " .. formats,
    ["\8\8\18\7pytorch\26\0052.1.0:\0\0\0"] = "is an ONNX model: " .. formats,
    ["\137HDF\r\n\26\n\0\0\0\0"] = "is an HDF5 file, as Keras writes it: " .. formats,
    ["\147NUMPY\1\0v\0{'descr'"] = "is a NumPy array: " .. formats,
    ["\31\139\8\0\0\0\0\0\0\3"] =
      "is compressed with gzip: unpack it and give the file of weights inside",
    ["<!DOCTYPE html><html></html>"] = "is a web page, not the weights: download the file itself",
  } do
    local path = write(folder .. "/x.pth", content)
    local e, message = ijepa.load(path)
    lu.assertNil(e)
    lu.assertStrContains(message, ("file '%s' "):format(path) .. expected)
  end
  -- a header of 0x8b1f bytes begins as gzip does
  local header = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
  local path = write(folder .. "/x.safetensors", "\31\139\0\0\0\0\0\0" .. header
    .. (" "):rep(0x8b1f - #header) .. "\0\0\128?")
  local f = assert(ijepa.tensors.open(path))
  lu.assertEquals(f:info "a", { dtype = "f32", shape = { 1 } })
  f:close()
  local e, message = ijepa.load "~/weights.pth"
  lu.assertNil(e)
  lu.assertStrContains(message,
    "checkpoint '~/weights.pth' does not exist: the shell did not expand '~'")
end

-- The tensors of an encoder as items; f may change each.
local function items_of(model, f)
  local items = {}
  for i, p in ipairs(model:params()) do
    local data, n = p.tensor:read()
    local own = F.new("float[?]", n)
    F.copy(own, data, 4 * n)
    items[i] = { name = p.name, dtype = "f32", shape = p.tensor:shape(), data = own }
    if f then f(items[i], n) end
  end
  return items
end

function tests.test_class_token()
  local e = models().encoder
  local path = folder .. "/x.safetensors"
  -- with a class token of this name (timm, Hugging Face), and alone where nothing else is known
  -- (torchvision, CLIP)
  for token, known in pairs { cls_token = true, ["visual.class_embedding"] = false,
      ["class_token"] = false,
    ["embeddings.cls_token"] = true } do
    local items = known and items_of(e) or {}
    items[#items + 1] = { name = token, dtype = "f32", shape = { 1, 1, 48 },
      data = F.new "float[48]" }
    assert(ijepa.tensors.save(path, items))
    local loaded, message = ijepa.load(path, { heads = 2 })
    lu.assertNil(loaded)
    lu.assertEquals(message,
      ("'%s' has a class token ('%s'), which I-JEPA's encoders do not have: "):format(path, token)
      .. "take a model without one, such as timm's with class_token=False, global_pool='avg'")
  end
end

function tests.test_values_that_are_not_finite_are_named()
  local path, whole = folder .. "/nan.safetensors", models()
  for kind, v in pairs { NaN = 0 / 0, inf = math.huge } do
    local items = items_of(whole.target_encoder, function(item)
      if item.name == "blocks.1.norm2.bias" then item.data[3], item.data[7] = v, v end
    end)
    assert(ijepa.tensors.save(path, items))
    local expected = ("checkpoint '%s': tensor 'blocks.1.norm2.bias' holds %s in 2 of 48 values: take an earlier checkpoint"):format(
      path, kind)
    local e, message = ijepa.load(path, { heads = 2 })
    lu.assertNil(e)
    lu.assertEquals(message, expected)
    local w = assert(ijepa.weights.open(path))   -- as init= of a run fills its models
    local taken
    taken, message = w:fill(models())
    lu.assertNil(taken)
    lu.assertEquals(message, expected)
    w:close()
    e = assert(ijepa.load(path, { heads = 2, partial = true }))   -- to look at
    lu.assertEquals(#e.left.missing, 0)
  end
  local items = items_of(whole.target_encoder, function(item)
    -- large, but finite: its squares are not
    if item.name == "blocks.1.norm2.bias" then item.data[3] = 3e38 end
  end)
  assert(ijepa.tensors.save(path, items))
  lu.assertNotNil(ijepa.load(path, { heads = 2 }))
end

-- Advice that a command gives, the command takes.
function tests.test_heads_and_grid_where_advice_names_them()
  local e = jepa.encoder { width = 96, depth = 1, heads = 4, patch = 8, crop = { 16, 48 },
    init_gain = 1 }
  local path = folder .. "/h4.safetensors"
  assert(ijepa.tensors.save(path, items_of(e)))
  local none, message = ijepa.load(path)
  lu.assertNil(none)
  lu.assertStrContains(message,
    "does not say how many heads a width of 96 has: give heads=N, which divides 96")
  none, message = ijepa.load(path, { heads = 4 })
  lu.assertNil(none)
  lu.assertStrContains(message, "has 12 positions, which is no square: give grid=ROWS,COLUMNS")
  none, message = ijepa.load(path, { heads = 7, grid = { 2, 6 } })
  lu.assertNil(none)
  lu.assertStrContains(message, "has a width of 96, which 7 heads do not divide")
  none, message = ijepa.load(path, { heads = 4, grid = { 3, 5 } })
  lu.assertNil(none)
  lu.assertStrContains(message, "has 12 positions, not the 3 x 5 of grid")
  local settings = ijepa.config({}, require "ijepa.probe.settings" {},
    { "run=" .. path, "heads=4", "grid=2,6",
    "train=a", "test=b" })
  local probed = require "ijepa.probe.settings".encoder("test", settings)
  lu.assertEquals({ probed.heads, probed.grid, values(probed) == values(e) }, { 4, { 2, 6 }, true })
  for i, arguments in ipairs { { "--heads", "4", "--grid", "2,6", "--which", "" },
      { "heads=4", "grid=2x6" } } do
    local all = { path, "--format", "timm", "--out", ("%s/out%d.safetensors"):format(folder, i),
      unpack(arguments, 1, 4) }
    lu.assertEquals(ijepa.export.main(all), 0)
    lu.assertTrue(values(assert(ijepa.load(all[5], { heads = 4, grid = { 2, 6 } }))) == values(e))
  end
  lu.assertEquals({ ijepa.export.main { path, "--format", "timm", "--out", "x", "--grid", "2" } },
    { 2, "--grid '2': expected ROWS,COLUMNS" })
  for file in assert(io.popen "ls recipes/*.lua"):lines() do
    -- every recipe that probes takes them
    local source = io.open(file):read "*a"
    if source:find "probe_settings" or source:find "probe%.settings" then
      lu.assertStrContains(source, "encoder(")
    end
    lu.assertNil(source:find "ijepa%.load")
  end
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
  local files = { own, folder, export(folder, "pth", "a.pth.tar"), export(own, "hf", "hf"),
    export(own, "timm", "timm.safetensors"),
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

-- What a format has no place for is said.
function tests.test_export_says_what_it_leaves_out()
  local whole, own = models(), folder .. "/jepa-latest.safetensors"
  save(own, whole)
  local function said(format)
    return assert(ijepa.export.write(own, { format = format, out = folder .. "/out." .. format }))
  end
  lu.assertStrMatches(said "hf", ".*; left out: encoder, predictor")
  lu.assertStrMatches(said "timm", ".*; left out: encoder, predictor; model: timm.*")
  lu.assertNotStrContains(said "pth", "left out")
  lu.assertNotStrContains(said "safetensors", "left out")
end

-- Continuing from a published checkpoint, AdamW's state included, is continuing without the round
-- trip.
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
  -- the state too comes through an export of an export
  local twice = export(pth, "pth", "b-ep1.pth.tar")
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
    if p.name ~= "blocks.1.norm1.bias" and p.name ~= "norm.bias" then
      items[#items + 1] = { name = p.name, tensor = p.tensor.h }
    end
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
    "1 misshapen: blocks.0.mlp.fc1.bias (7), expected (192)", w } do lu.assertStrContains(message,
      word) end
  local part = assert(load(w, { heads = 2, partial = true }))
  lu.assertEquals(part.left.missing, { "blocks.1.norm1.bias", "norm.bias" })
  lu.assertEquals(part.left.unexpected, { "head.weight" })
  lu.assertEquals(#part.left.misshapen, 1)
  lu.assertTrue(bytes_of { part.by_name["blocks.0.attn.qkv.weight"].tensor } == bytes_of {
    e.by_name["blocks.0.attn.qkv.weight"].tensor })
end

function tests.test_other_element_types()
  local e = models().encoder
  local items = {}
  for i, p in ipairs(e:params()) do
    local t = p.tensor:detach():to "bf16"
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
  lu.assertErrorMsgContains("format 'onnx'", ijepa.export.write, folder,
    { format = "onnx", out = "x" })
  lu.assertEquals(ijepa.export.main { folder }, 2)
  lu.assertEquals(ijepa.export.main { folder, "--format", "hf", "--out" }, 2)
  lu.assertEquals(ijepa.export.main { folder, "--colour", "hf" }, 2)
end

-- Whole runs: 2 epochs at once, and 1 epoch, through a published checkpoint, another one.
function tests.test_a_run_goes_on_from_a_published_checkpoint()
  local images = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 24, test = 8,
    size = 32 })
  local function run(over)
    local words = { "data.root=" .. images.train, "data.batch=8", "data.crop=32", "data.workers=0",
      "model.width=48", "model.depth=2",
      "model.heads=2", "model.patch=8", "model.pred_depth=1", "model.pred_dim=24",
        "mask.min_keep=0", "mask.group=8", "optim.epochs=2",
      "optim.warmup=1", "diagnose.every=0", "log.save_epochs=1", "model.dtype=f32" }
    for k, v in pairs(over) do words[#words + 1] = k .. "=" .. v end
    return ijepa.pretrain(ijepa.config({}, nil, words))
  end
  local whole = run { out = folder .. "/whole" }
  local pth = export(folder .. "/whole/jepa-ep1.safetensors", "pth", "x-ep1.pth.tar")
  local rest = run { out = folder .. "/rest", resume = pth }
  lu.assertEquals(#rest.losses, #whole.losses / 2)
  for _, part in ipairs { "encoder", "predictor", "target" } do
    lu.assertTrue(values(rest[part]) == values(whole[part]), part)
  end
  -- weights alone: the run begins anew
  local anew = run { out = folder .. "/anew", init = pth, ["optim.steps"] = 1, ["optim.lr"] = 0,
    ["optim.start_lr"] = 0, ["optim.final_lr"] = 0 }
  local w = assert(load(pth, { which = "encoder", heads = 2 }))
  lu.assertTrue(values(anew.encoder) == values(w))
  lu.assertEquals(#anew.losses, 1)
  lu.assertErrorMsgContains("of another architecture", run,
    { out = folder .. "/other", init = pth, ["model.depth"] = "3" })
end

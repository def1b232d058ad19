-- ijepa import: the published configurations give the published recipes; strange and hostile files
-- are refused in words.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local support = require "support"
local config = require "ijepa.config"
local import = require "ijepa.import"

local tests = {}
TestImport = tests -- luacheck: ignore

-- A configuration as the published ones are, from the values of a table; pairs in either of YAML's
-- forms.
local function yaml(v)
  local function pair(a, b)
    return v.flow and ("[%s, %s]"):format(a, b) or ("\n  - %s\n  - %s"):format(a, b)
  end
  return table.concat({ "data:", "  batch_size: " .. v.batch, "  color_jitter_strength: 0.0",
    "  crop_scale: " .. pair(.3, "1.0"),
    "  crop_size: " .. v.crop, "  image_folder: " .. v.folder, "  num_workers: 10",
      "  pin_mem: true", "  root_path: " .. v.root,
    "  use_color_distortion: false", "  use_gaussian_blur: false", "  use_horizontal_flip: false",
      "logging:",
    "  folder: runs/" .. v.name .. "/", "  write_tag: jepa", "mask:", "  allow_overlap: false",
    "  aspect_ratio: " .. pair(.75, 1.5), "  enc_mask_scale: " .. pair(.85, "1.0"),
      "  min_keep: 10", "  num_enc_masks: 1",
    "  num_pred_masks: 4", "  patch_size: " .. v.patch, "  pred_mask_scale: " .. pair(.15, .2),
      "meta:", "  copy_data: false",
    "  load_checkpoint: false", "  model_name: " .. v.model, "  pred_depth: " .. v.depth,
      "  pred_emb_dim: 384",
    "  read_checkpoint: null", "  use_bfloat16: true", "optimization:",
      "  ema: " .. pair(.996, "1.0"), "  epochs: " .. v.epochs,
    "  final_lr: " .. (v.flow and "1e-6" or "1.0e-06"), "  final_weight_decay: 0.4",
      "  ipe_scale: 1.0", "  lr: 0.001",
    "  start_lr: 0.0002", "  warmup: " .. v.warmup, "  weight_decay: 0.04" }, "\n") .. "\n"
end

local published = {   -- as ../shared/spec/reference-behaviour.md, section 7
  { name = "in1k_vith14", model = "vit_huge", patch = 14, crop = 224, batch = 128, depth = 12,
    epochs = 300, warmup = 40,
    root = "imagenet", folder = "./" },
  { name = "in1k_vith16_448", model = "vit_huge", patch = 16, crop = 448, batch = 16, depth = 12,
    epochs = 300, warmup = 40,
    root = "imagenet", folder = '""', flow = true },
  { name = "in22k_vith14", model = "vit_huge", patch = 14, crop = 224, batch = 32, depth = 12,
    epochs = 66, warmup = 3,
    root = '""', folder = "imagenet22k" },
  { name = "in22k_vitg16", model = "vit_giant", patch = 16, crop = 224, batch = 16, depth = 16,
    epochs = 44, warmup = 3,
    root = "imagenet22k", folder = "/", flow = true },
}
published[4].root, published[4].folder = "elsewhere", "imagenet22k"

-- The resolved configuration of a recipe's text.
local function resolved(source)
  local ijepa, seen = require "ijepa", nil
  local was, args = rawget(ijepa, "pretrain"), ijepa.args
  ijepa.args = {}
  rawset(ijepa, "pretrain", function(cfg) seen = cfg end)
  local ok, why = pcall(assert(loadstring(source)))
  rawset(ijepa, "pretrain", was)
  ijepa.args = args
  assert(ok, why)
  return seen
end

local spit = support.write

local function recipe_of(text)
  local path = spit(support.folder() .. "/x", text)
  local recipe, message = import.recipe(path)
  return recipe, message and message:gsub(path:gsub("%p", "%%%0"), "FILE")
end

function tests.test_published_configurations_give_the_recipes()
  for _, v in ipairs(published) do
    local file = assert(io.open("recipes/" .. v.name .. ".lua"))
    local theirs = resolved(file:read "*a")
    file:close()
    local mine = resolved(assert(recipe_of(yaml(v))))
    if v.root == "elsewhere" then
      lu.assertEquals(mine.data.root, "elsewhere/imagenet22k/train")
      mine.data.root = theirs.data.root
    end
    lu.assertEquals(config.dump(mine), config.dump(theirs), v.name)
  end
end

function tests.test_other_settings()
  local text = yaml(published[1]):gsub("use_%w+_%w+: false",
    { ["use_color_distortion: false"] = "use_color_distortion: yes",
    ["use_gaussian_blur: false"] = "use_gaussian_blur: on",
      ["use_horizontal_flip: false"] = "use_horizontal_flip: True" })
    :gsub("strength: 0.0", "strength: '0.5'"):gsub("num_enc_masks: 1", "num_enc_masks: +2"):gsub(
      "0.0002", "2e-4")
    :gsub("use_bfloat16: true", "use_bfloat16: false"):gsub("overlap: false", "overlap: true"):gsub(
      "imagenet", "/data")
    :gsub("./\n", "&a full\n"):gsub("folder: runs/[^\n]*", "folder: *a"):gsub(
      "read_checkpoint: null", "read_checkpoint: x.pth.tar")
    :gsub("copy_data: false", "copy_data: true")
  local recipe = assert(recipe_of(text))
  local cfg = resolved(recipe)
  lu.assertEquals({ cfg.data.jitter, cfg.data.jitter_p, cfg.data.grey, cfg.data.blur,
    cfg.data.flip }, { .5, .8, .2, .5, .5 })
  lu.assertEquals({ cfg.mask.context.n, cfg.mask.overlap, cfg.optim.start_lr, cfg.model.dtype },
    { 2, true, 2e-4, "f32" })
  lu.assertEquals({ cfg.data.root, cfg.out }, { "/data/full/train", "full" })
  lu.assertStrContains(recipe, "read_checkpoint: 'x.pth.tar' is not read")
  lu.assertStrContains(recipe, "copy_data: ")
end

function tests.test_keys_that_are_not_known_are_named_with_their_line()
  local text = yaml(published[1])
  local _, message = recipe_of(
    (text:gsub("  lr: 0.001", "  lrr: 0.001"):gsub("meta:", "extra:\n  a: 1\nmeta:")
    :gsub("min_keep: 10", "min_keep: ten")))
  local lines = {}
  for line in message:gmatch "[^\n]+" do lines[#lines + 1] = line end
  lu.assertEquals(#lines, 3)
  lu.assertStrMatches(lines[1], "FILE:%d+: 'mask.min_keep' is 'ten', expected an integer")
  lu.assertStrMatches(lines[2], "FILE:%d+: unknown section 'extra'")
  lu.assertEquals(lines[3]:gsub(":%d+:", ":"),
    "FILE: unknown key 'optimization.lrr' (did you mean 'lr'?)")
  local n = 0
  for line in (text:gsub("meta:", "extra:\n  a: 1\nmeta:")):gmatch "([^\n]*)\n" do
    n = n + 1
    if line == "  lr: 0.001" then lu.assertStrContains(lines[3], (":%d:"):format(n)) end
  end
end

function tests.test_missing_keys_take_defaults_and_are_named()
  local recipe = assert(recipe_of "data: {batch_size: 4}\nmask: {min_keep: 2}\n")
  lu.assertEquals(resolved(recipe).data.batch, 4)
  lu.assertStrContains(recipe, "data.crop_size is missing")
  lu.assertStrContains(recipe, "the section 'optimization' is missing")
end

function tests.test_empty_values_are_errors_with_their_line()
  local function problems(source)
    local recipe, message = recipe_of(source)
    lu.assertNil(recipe)
    return (message:gsub("%f[^%z\n]/[^:]*:", "FILE:"):gsub("^[^:]*:", "FILE:"))
  end
  for _, null in ipairs { "", " ~", " null", " NULL" } do
    lu.assertEquals(problems("data:\n  batch_size: 4\n  crop_size:" .. null .. "\n"),
      "FILE:3: 'data.crop_size' has no value: expected an integer; remove the line for the default")
  end
  lu.assertEquals(problems "data: {batch_size: 4}\nmask:\n",
    "FILE:2: the section 'mask' has no keys: remove it for the defaults")
  -- as in the published files
  lu.assertNotNil(recipe_of "data: {batch_size: 4}\nmeta: {read_checkpoint: null}\n")
end

function tests.test_yaml_given_as_a_recipe()
  local path = os.tmpname()
  for _, ending in ipairs { ".yaml", ".yml" } do
    local file = assert(io.open(path .. ending, "w"))
    file:write(yaml(published[1]))
    file:close()
    local program = os.getenv "IJEPA_PROGRAM" or "build/ijepa"
    local status = os.execute(("%s %s%s >%s 2>&1"):format(program, path, ending, path))
    lu.assertEquals(status, 256)   -- exit code 1
    local printed = assert(io.open(path)):read "*a"
    lu.assertEquals(printed,
      ("%s: this is a YAML configuration, not a recipe; make one of it: ijepa import %s > recipe.lua\n"):format(
      path .. ending, path .. ending))
    os.remove(path .. ending)
  end
  os.remove(path)
end

function tests.test_refused()
  local laughs = { "a0: &a0 [x, x]" }
  for i = 1, 40 do laughs[#laughs + 1] = ("a%d: &a%d [*a%d, *a%d]"):format(i, i, i - 1, i - 1) end
  local _, where
  for text, expected in pairs {
    [table.concat(laughs, "\n")] = "too much for settings",
    ["a: &a " .. ("x"):rep(2000) .. "\nb: [" .. ("*a,"):rep(2000) .. "]"] = "too much for settings",
    ["a: &a [*a]"] = "alias in itself",
    [("["):rep(200)] = ":",
    [("["):rep(100) .. ("]"):rep(100)] = "nested too deep",
    ["data: !!python/object/apply:os.system ['touch /tmp/never']"] =
      "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is refused",
    ["data: !x y"] = "the tag '!x' is refused",
    ["data:\n  crop_size: 1\n  crop_size: 2"] =
      "FILE:3: the key 'crop_size' stands there twice, first on line 2",
    ["a: 1\n---\nb: 2"] = "FILE:3: a second document",
    [""] = ":", ["\0\0"] = ":", ["a: \"x\\0y\""] = "a zero byte",
    ["[a, b]"] = "no sections", ["just words"] = "no sections",
      ["data: [1]"] = "'data' is not a section",
    ["data: {[a]: 1}"] = "a key that is not a word",
    ["data: {crop_size: 224, batch_size: -1}"] = "'data.batch' is -1",
    ["data: {crop_size: 010}"] = "expected an integer",
      ["data: {crop_size: 0x10}"] = "expected an integer",
    ["data: {crop_size: 1e999}"] = "expected an integer",
      ["data: {crop_scale: [.3]}"] = "is not a single value, expected two numbers",
    ["meta: {model_name: [a]}"] = "expected a text",
    [("a"):rep(300000)] = "too many for settings", ["a: \255\254"] = "FILE:",
    ["data: {\"crop_size\\n\\e[2J\": 1}"] = "unknown key",
  } do
    _, where = recipe_of(text)
    lu.assertNil(_, text:sub(1, 80))
    lu.assertStrContains(where, expected)
    lu.assertNil(where:find "%c%[", where)
  end
  lu.assertNil(io.open "/tmp/never")
  _, where = import.recipe "/nowhere/x.yaml"
  lu.assertStrContains(where, "file '/nowhere/x.yaml' could not be read")
  _, where = import.recipe "/tmp"
  lu.assertStrContains(where, "could not be read")
end

-- What stands in the file can't get out of its quotes or comments.
function tests.test_values_stay_values()
  local evil = [["]] .. "]] .. os.exit(3) --\\n os.exit(3)" .. [["]]
  local recipe = assert(recipe_of("data: {root_path: " .. evil .. "}\nmeta: {read_checkpoint: "
    .. evil .. "}\n"))
  lu.assertStrContains(resolved(recipe).data.root, "os.exit(3)")
end

-- Whatever the bytes: an answer, never a crash; what is accepted is a recipe that compiles.
function tests.test_random_changes()
  local r = F.new "ij_rng[1]"
  F.C.ij_rng_init(r, 7, F.C.IJ_RNG_USER, 0, 0)
  local text, taken = yaml(published[1]), 0
  for _ = 1, 400 do
    local bytes = text
    for _ = 1, F.C.ij_rng_below(r, 3) do
      local at, c = F.C.ij_rng_below(r, #bytes), string.char(F.C.ij_rng_below(r, 256))
      bytes = bytes:sub(1, at) .. c .. bytes:sub(at + 1 + F.C.ij_rng_below(r, 3))
    end
    local given, message = import.settings(bytes, "x.yaml")
    if given then
      taken = taken + 1
      lu.assertNotNil(loadstring(config.dump(given)))
    else
      lu.assertStrContains(message, "x.yaml")
    end
  end
  lu.assertTrue(taken > 100 and taken < 300, taken)
end

function tests.test_the_program()
  local path = spit(support.folder() .. "/x.yaml", yaml(published[1]))
  local code, out = support.run { support.program, "import", path }
  lu.assertEquals(code, 0)
  lu.assertStrContains(out, "return ijepa.pretrain(cfg)\n")
  spit(path, "zzz: 1\n")
  code, out = support.run({ support.program, "import", path }, { merge = true })
  lu.assertNotEquals(code, 0)
  lu.assertStrContains(out, ":1: unknown section 'zzz'")
end

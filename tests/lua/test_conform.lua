-- ijepa conform: recorded numbers pass on every device; one number changed fails.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestConform = tests -- luacheck: ignore

local golden = "tests/golden/step.safetensors"
local shared = (os.getenv "IJEPA_SHARED" or "../shared") .. "/conformance"

local function all_ok(path)
  local items, message = ijepa.conform.check(path)
  if not items then return false, message end
  for _, item in ipairs(items) do
    if not item.ok then return false, item.name end
  end
  return #items > 0
end

function tests.test_golden_step_on_every_device()
  for _, name in ipairs { "ref", "guard", "cpu" } do
    ijepa.device.set(name)
    lu.assertTrue(all_ok(golden), name)
  end
end

function tests.test_one_number_changed_fails()
  local text = support.read(golden)
  local f = assert(ijepa.checkpoint.load(golden))
  local path = support.folder() .. "/x.safetensors"
  for _, name in ipairs { "step0.predictions", "step0.grad.encoder.blocks.0.attn.qkv.weight", "final.target_encoder.norm.weight",
    "step1.loss", "init.predictor.mask_token", "step0.masks_pred.1" } do
    local p, n = f:data(name)
    local at = assert(text:find(F.string(p, math.min(n, 64)), 1, true))
    local changed = F.new("uint8_t[?]", #text + 1)
    F.copy(changed, text)
    local value = F.cast("float *", changed + at - 1)
    if name:find "masks" then F.cast("int64_t *", changed + at - 1)[0] = (F.cast("int64_t *", changed + at - 1)[0] + 1) % 36
    else value[0] = value[0] * 1.01 + 1e-3 end
    support.write(path, F.string(changed, #text))
    lu.assertFalse((all_ok(path)), name)
  end
  f:close()
end

function tests.test_recorded_by_the_published_implementation()
  lu.skipIf(C.ij_path_kind(shared) ~= 2, "no folder " .. shared)
  for _, name in ipairs { "step_a.safetensors", "step_b.safetensors", "step_a-ep3.pth.tar", "step_b-ep3.pth.tar",
    "masks_64_8.json", "masks_vith14_224.json", "masks_vith16_448.json", "crops" } do
    lu.assertTrue(all_ok(shared .. "/" .. name), name)
  end
end

-- A number of a checkpoint changed, of a model or of AdamW, is found.
function tests.test_one_number_of_a_checkpoint_changed_fails()
  lu.skipIf(C.ij_path_kind(shared) ~= 2, "no folder " .. shared)
  local folder = support.folder()
  support.write(folder .. "/step_a.safetensors", support.read(shared .. "/step_a.safetensors"))
  local whole = support.read(shared .. "/step_a-ep3.pth.tar")
  local f = assert(ijepa.checkpoint.load(shared .. "/step_a-ep3.pth.tar"))
  local path = folder .. "/step_a-ep3.pth.tar"
  for _, name in ipairs { "target_encoder.module.norm.weight", "encoder.module.blocks.0.attn.qkv.weight", "opt.state.3.exp_avg",
    "opt.state.72.exp_avg_sq" } do
    local p, n = f:data(name)
    local at = assert(whole:find(F.string(p, math.min(n, 64)), 1, true))
    local value = F.new("float[1]", F.cast("const float *", p)[0] * 1.1 + 1e-4)
    support.write(path, whole:sub(1, at - 1) .. F.string(value, 4) .. whole:sub(at + 4))
    lu.assertFalse((all_ok(path)), name)
  end
  f:close()
end

function tests.test_what_is_no_record_is_said_so()
  local items, message = ijepa.conform.check "packages.txt"
  lu.assertNil(items)
  lu.assertStrContains(message, "has an unknown form")
  items, message = ijepa.conform.check "nowhere.safetensors"
  lu.assertNil(items)
  lu.assertStrContains(message, "does not exist")
end

if not ... then os.exit(lu.LuaUnit.run()) end

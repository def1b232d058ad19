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
  for _, name in ipairs { "step0.predictions", "step0.grad.encoder.blocks.0.attn.qkv.weight",
      "final.target_encoder.norm.weight",
    "step1.loss", "init.predictor.mask_token", "step0.masks_pred.1" } do
    local p, n = f:data(name)
    local at = assert(text:find(F.string(p, math.min(n, 64)), 1, true))
    local changed = F.new("uint8_t[?]", #text + 1)
    F.copy(changed, text)
    local value = F.cast("float *", changed + at - 1)
    if name:find "masks" then
      F.cast("int64_t *", changed + at - 1)[0] = (F.cast("int64_t *", changed + at - 1)[0] + 1) % 36
    else value[0] = value[0] * 1.01 + 1e-3 end
    support.write(path, F.string(changed, #text))
    lu.assertFalse((all_ok(path)), name)
  end
  f:close()
end

-- Elements whose recorded gradient is rounding noise: counted apart, bounded in number and in size,
-- printed.
function tests.test_noise_gradients()
  local file = assert(io.open(golden, "rb"))
  local all = file:read "*a"
  file:close()
  local f = assert(ijepa.checkpoint.load(golden))
  local name = "encoder.blocks.0.attn.qkv.weight"   -- 768 elements: one of them may be noise
  local p, bytes = f:data("final." .. name)
  local at = assert(all:find(F.string(p, bytes), 1, true)) - 1
  local g, n, top = F.cast("const float *", (f:data("step0.grad." .. name))), bytes / 4, 0
  for i = 0, n - 1 do top = math.max(top, math.abs(g[i])) end
  local noise, sound = {}, nil
  for i = 0, n - 1 do
    if math.abs(g[i]) < 2 ^ -18 * top then noise[#noise + 1] = i
    elseif math.abs(g[i]) > 2 ^ -12 * top then sound = i end
  end
  lu.assertTrue(n == 768 and #noise >= 2 and sound ~= nil)
  local path = os.tmpname() .. ".safetensors"
  -- The item of this tensor with these elements moved by `by`, and what the command prints.
  local function planted(by, ...)
    local changed = F.new("uint8_t[?]", #all)
    F.copy(changed, all, #all)
    for _, i in ipairs { ... } do
      local value = F.cast("float *", changed + at + 4 * i)
      value[0] = value[0] + by
    end
    local out = assert(io.open(path, "wb"))
    out:write(F.string(changed, #all))
    out:close()
    local lines, print_ = {}, print
    _G.print = function(line) lines[#lines + 1] = line end   -- luacheck: ignore
    local fine = ijepa.conform.main { path }
    _G.print = print_   -- luacheck: ignore
    for _, item in ipairs(assert(ijepa.conform.check(path))) do
      if item.name == "final." .. name then return item, fine, table.concat(lines, "\n") end
    end
  end
  local item, fine, printed = planted(3.8e-5, noise[1])
  lu.assertEquals({ item.ok, fine, item.noise.count, item.noise.allowed, item.noise.elements },
    { true, true, 1, 1, 768 })
  lu.assertAlmostEquals(item.noise.error, 3.8e-5, 1e-6)
  lu.assertTrue(item.error < 1e-5)
  lu.assertStrContains(printed,
    "noise final." .. name .. ": error 3.8e-05, at most 0.00491, in\n" ..
    "          1 element of 768 (at most 1) with a recorded gradient of rounding noise")
  item, fine, printed = planted(3.8e-5, noise[1], noise[2])   -- too many
  lu.assertEquals({ item.ok, fine, item.noise.count }, { false, false, 2 })
  lu.assertStrMatches(printed, ".*WRONG final%." .. name:gsub("%p", "%%%0") ..
    ": error [^\n]*, in\n +2 elements of 768 %(at most 1%).*")
  item, fine = planted(.1, noise[1])   -- further than the learning rates reach
  lu.assertEquals({ item.ok, fine, item.noise.count }, { false, false, 1 })
  item, fine = planted(3.8e-5, sound)   -- its gradient determines it
  lu.assertEquals({ item.ok, fine, item.noise }, { false, false, nil })
  lu.assertAlmostEquals(item.error, 3.8e-5, 1e-6)
  f:close()
  os.remove(path)
end

function tests.test_recorded_by_the_published_implementation()
  lu.skipIf(C.ij_path_kind(shared) ~= 2, "no folder " .. shared)
  for _, name in ipairs { "step_a.safetensors", "step_b.safetensors", "step_a-ep3.pth.tar",
      "step_b-ep3.pth.tar",
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
  for _, name in ipairs { "target_encoder.module.norm.weight",
      "encoder.module.blocks.0.attn.qkv.weight", "opt.state.3.exp_avg",
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

-- `ijepa embed`: the files hold the encoder's features, in the order of the images; a run that was
-- stopped resumes and gives the same bytes.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local embed, features, data = require "ijepa.embed", ijepa.features, require "ijepa.data"
local tensor = ijepa.tensor

local tests = {}
TestEmbed = tests -- luacheck: ignore

local images, folder, encoder
function tests.setUp()
  images, folder = support.scenes { n = 40, test = 20, size = 32 }, support.folder()
  encoder = ijepa.jepa.encoder { width = 16, depth = 2, heads = 2, patch = 8, crop = 32, seed = 1 }
  encoder.settings = { data = { crop = 32 } }
end

-- The features that a file should have.
local function expected(f)
  local set = assert(data.open { root = images.test, crop = 32, batch = 64 })
  local x = assert(set:read())
  set:close()
  return ijepa.no_grad(function() return f(x) end)
end
local function run(name, o)
  o = o or {}
  o.out = folder .. "/" .. name
  return embed.run(encoder, images.test, o)
end
local function near(a, b, tolerance)
  lu.assertEquals(a:shape(), b:shape())
  lu.assertTrue((a - b):abs():max():item() <= tolerance)
end

function tests.test_files_hold_the_features()
  local last = expected(features.pooled(encoder, 0))
  lu.assertEquals(run "last.npy", { 20, 16 })
  near(assert(tensor.read_npy(folder .. "/last.npy")), last, 1e-6)
  lu.assertEquals(run("two.npy", { layers = "2" }), { 20, 32 })
  near(assert(tensor.read_npy(folder .. "/two.npy")), expected(features.pooled(encoder, 2)), 1e-6)
  lu.assertEquals(run("all.npy", { layers = "patches", batch = 7 }), { 20, 16, 16 })
  near(assert(tensor.read_npy(folder .. "/all.npy")), expected(features.tokens(encoder)), 1e-5)
  run("half.npy", { dtype = "f16" })
  near(assert(tensor.read_npy(folder .. "/half.npy")), last, last:abs():max():item() * 2 ^ -11)
  run "last.safetensors"
  local file = assert(ijepa.tensors.open(folder .. "/last.safetensors"))
  lu.assertEquals(file:info "features".shape, { 20, 16 })
  near(tensor.from_pointer((file:data "features"), { 20, 16 }, "f32"), last, 1e-6)
  file:close()
  run "last.csv"
  local n, set = 0, assert(data.catalogue { root = images.test })
  for line in io.lines(folder .. "/last.csv") do
    if n == 0 then
      lu.assertStrMatches(line, "name,class,f0,f1,.*,f15")
    else
      local name, class, first = line:match "^([^,]+),([^,]+),([^,]+),"
      lu.assertEquals({ name, class }, { set:name(n - 1), set:classes()[set:label(n - 1) + 1] })
      lu.assertAlmostEquals(tonumber(first), last[n][1]:item(), 1e-6)
    end
    n = n + 1
  end
  lu.assertEquals(n, 21)
  local names = support.read(folder .. "/last.npy.names.csv")
  lu.assertEquals(select(2, names:gsub("\n", "")), 21)
  lu.assertEquals(names:match "\n([^,]+),", set:name(0))
  for _, name in ipairs(support.list(folder)) do lu.assertNil(name:find "%.part") end
end

function tests.test_a_stopped_run_goes_on()
  local open = data.open
  for _, name in ipairs { "a.npy", "a.csv", "a.safetensors" } do
    run(name, { batch = 3 })
    data.open = function(o)   -- fails after two batches
      local set, n = open(o), 0
      rawset(set, "next", function(self)
        n = n + 1
        if n > 2 then return nil, "stopped" end
        return getmetatable(self).__index.next(self)
      end)
      return set
    end
    local ok, why = pcall(run, "b" .. name, { batch = 3 })
    data.open = open
    lu.assertEquals({ ok, why }, { false, "stopped" })
    local part = folder .. "/b" .. name .. ".part"
    support.write(part, support.read(part) .. "a torn batch")
    run("b" .. name, { batch = 3 })
    lu.assertTrue(support.read(folder .. "/b" .. name) == support.read(folder .. "/" .. name))
  end
  lu.assertEquals(support.read(folder .. "/ba.npy.names.csv"),
    support.read(folder .. "/a.npy.names.csv"))
end

-- Against the definition: sums of powers of two.
function tests.test_f16_is_rounded_to_even()
  for value, bits in pairs { [1] = 0x3c00, [-2] = 0xc000, [65504] = 0x7bff, [65519] = 0x7bff,
    [65520] = 0x7c00, [1e9] = 0x7c00, [2 ^ -14] = 0x0400, [2 ^ -24] = 0x0001, [2 ^ -25] = 0,
    [3 * 2 ^ -25] = 2, [2 ^ -15] = 0x0200, [1 + 2 ^ -11] = 0x3c00, [1 + 3 * 2 ^ -11] = 0x3c02,
    [1 + 2 ^ -11 + 2 ^ -20] = 0x3c01, [0] = 0, [-1e-9] = 0x8000 } do
    lu.assertEquals(embed.half(value), bits, tostring(value))
  end
end

function tests.test_command()
  local weights = folder .. "/e.safetensors"
  local items = {}
  for i, p in ipairs(encoder:params()) do items[i] = { name = p.name, tensor = p.tensor.h } end
  assert(ijepa.tensors.save(weights, items))
  local function shell(words, want)
    local code, text = support.run({ support.program, "embed", support.split(words) },
      { merge = true })
    lu.assertEquals(code, want, text)
    return text
  end
  local given = ("%s %s --crop 32 --heads 2 --out %s/c.npy"):format(weights, images.test, folder)
  lu.assertStrContains(shell(given, 0), "features of 20 images (20 x 16)")
  for words, part in pairs { [""] = "expected a model", [given .. " --layers 0"] = "--layers 0",
    [given .. " --dtype f8"] = "expected f32 or f16", [given .. " --nope 1"] = "unknown option",
    [given .. " --batch"] = "a value is missing", [given .. " --batch x"] = "a whole number",
    [weights .. " " .. images.test .. " --out x.txt"] = "expected .npy" } do
    lu.assertStrContains(shell(words, 2), part)
  end
  lu.assertStrContains(shell(given .. " --layers 9", 1), "the encoder has 2 blocks")
  lu.assertStrContains(shell(given:gsub("c%.npy", "no/c.npy"), 1), "No such file")
end

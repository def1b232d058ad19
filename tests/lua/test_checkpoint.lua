-- lua/ijepa/save/tensors.lua and checkpoint.lua: round trips, refusals, matching, the newest of a
-- folder.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local support = require "support"
local tensors = require "ijepa.tensors"
local checkpoint = require "ijepa.checkpoint"

local tests = {}
TestCheckpoint = tests -- luacheck: ignore

function tests:setUp()
  self.folder = support.folder()
  self.path = self.folder .. "/jepa-latest.safetensors"
end

local a, m = F.new("float[6]", { 1, 2, 3, 4, 5, 6 }), F.new("int64_t[1]", 77)

local function items()
  return {
    { name = "encoder.a", dtype = "f32", shape = { 2, 3 }, data = a, bytes = 24 },
    { name = "opt.steps", dtype = "i64", shape = {}, data = m },
  }
end

local slurp, spit = support.read, support.write

function tests:test_round_trip()
  local meta = { step = 1234, lr = .1 + .2, arch = "vit_tiny", digits = "007", seed = 2 ^ 53 }
  lu.assertTrue(checkpoint.save(self.path, items(), meta))
  local file = assert(checkpoint.load(self.path))
  lu.assertEquals(file:names(), { "opt.steps", "encoder.a" })
  lu.assertEquals(file:info "encoder.a", { dtype = "f32", shape = { 2, 3 } })
  lu.assertEquals(file:info "opt.steps", { dtype = "i64", shape = {} })
  lu.assertNil(file:info "b")
  local p, n = file:data "encoder.a"
  lu.assertEquals(n, 24)
  lu.assertEquals(F.cast("const float *", p)[5], 6)
  lu.assertEquals(tonumber(F.cast("const int64_t *", (file:data "opt.steps"))[0]), 77)
  for key, value in pairs(meta) do lu.assertTrue(file:meta(key) == value, key) end
  lu.assertNil(file:meta "nothing")
  local none, message = file:data "b"
  lu.assertNil(none)
  lu.assertStrContains(message, "has no tensor 'b'")
  file:close()
  file:close()
  lu.assertErrorMsgContains("is closed", file.names, file)
end

-- A model's tensors go from the device to the file and back without the script touching their
-- bytes.
function tests:test_tensors()
  local C, dev, t = F.C, F.new "ij_device *[1]", F.new "ij_tensor *[1]"
  F.check(C.ij_device_open("cpu", dev))
  F.check(C.ij_tensor_new(dev[0], C.IJ_F32, 2, F.new("int64_t[2]", { 3, 2 }), t))
  F.check(C.ij_tensor_write(t[0], a, 24))
  lu.assertTrue(checkpoint.save(self.path, { { name = "w", tensor = t[0] } }, { step = 1 }))
  local file = assert(checkpoint.load(self.path))
  lu.assertEquals(file:info "w", { dtype = "f32", shape = { 3, 2 } })
  F.check(C.ij_fill(t[0], 0))
  F.check(C.ij_tensor_write(t[0], file:data "w"))
  local back = F.new "float[6]"
  F.check(C.ij_tensor_read(t[0], back, 24))
  for i = 0, 5 do lu.assertEquals(back[i], a[i]) end
  C.ij_tensor_free(t[0])
  C.ij_device_close(dev[0])
end

function tests:test_meta_of_other_files()
  lu.assertTrue(tensors.save(self.path, {}, { step = "3", format = "pt" }))
  local file = assert(checkpoint.load(self.path))
  lu.assertEquals(file:meta "step", "3")
  lu.assertEquals(assert(tensors.open(self.path)):metas(), { step = "3", format = "pt" })
end

function tests:test_misuse_is_told()
  local function save(item) return function() checkpoint.save(self.path, { item }) end end
  lu.assertErrorMsgContains("expected f32",
    save { name = "x", dtype = "f16", shape = {}, data = a })
  lu.assertErrorMsgContains("name is a nil", save { dtype = "f32", shape = {}, data = a })
  lu.assertErrorMsgContains("its shape says 8",
    save { name = "x", dtype = "f32", shape = { 2 }, data = a, bytes = 4 })
  lu.assertErrorMsgContains("has the size -1",
    save { name = "x", dtype = "f32", shape = { -1 }, data = a })
  lu.assertErrorMsgContains("data is a nil", save { name = "x", dtype = "f32", shape = { 1 } })
  lu.assertErrorMsgContains("test_checkpoint.lua", save(3))
  lu.assertErrorMsgContains("metadata 't' is a table", checkpoint.save, self.path, {}, { t = {} })
  lu.assertErrorMsgContains("zero byte", checkpoint.save, self.path, {}, { t = "a\0b" })
  local ok, message = checkpoint.save(self.path, { items()[1], items()[1] })
  lu.assertNil(ok)
  lu.assertStrContains(message, "already added")
  lu.assertEquals(F.C.ij_path_kind(self.path), 0)
end

function tests:test_not_whole()
  lu.assertTrue(checkpoint.save(self.path, items(), { step = 1 }))
  local whole = slurp(self.path)
  for _, n in ipairs { 0, 4, 30, #whole - 1 } do
    spit(self.path, whole:sub(1, n))
    local file, message, code = checkpoint.load(self.path)
    lu.assertNil(file)
    lu.assertStrContains(message, self.path)
    lu.assertStrContains(message, "is not a complete safetensors file")
    lu.assertEquals(code, tonumber(F.C.IJ_EFORMAT))
  end
  local file, message = checkpoint.load(self.folder .. "/none")
  lu.assertNil(file)
  lu.assertStrContains(message, "No such file")
end

function tests:test_failed_save_keeps_the_old_one()
  lu.assertTrue(checkpoint.save(self.path, items(), { step = 1 }))
  local before = slurp(self.path)
  F.C.ij_mkdirs(self.path .. ".tmp")     -- in the way of the temporary
  local ok, message = checkpoint.save(self.path, items(), { step = 2 })
  lu.assertNil(ok)
  lu.assertStrContains(message, self.path)
  lu.assertEquals(slurp(self.path), before)
end

function tests:test_match()
  lu.assertTrue(checkpoint.save(self.path, items()))
  local file = assert(checkpoint.load(self.path))
  local exact = { { name = "encoder.a", shape = { 2, 3 } },
    { name = "opt.steps", shape = {}, dtype = "i64" } }
  lu.assertTrue(checkpoint.match(exact, file))
  lu.assertTrue(checkpoint.match({ exact[1] }, file, "encoder."))
  local other = { { name = "encoder.a", shape = { 3, 2 }, dtype = "f32" } }
  for i = 1, 7 do other[i + 1] = { name = "encoder.b" .. i, shape = { 1 } } end
  local ok, message = checkpoint.match(other, file)
  lu.assertNil(ok)
  lu.assertEquals(message, "checkpoint '" .. self.path
    .. "' is of another architecture: tensors: " ..
    "1 of another shape (encoder.a (2, 3), expected (3, 2)); " ..
    "7 missing (encoder.b1, encoder.b2, encoder.b3, ...); 1 unexpected (opt.steps)")
  ok, message = checkpoint.match({ { name = "encoder.a", shape = { 2, 3 }, dtype = "bf16" } }, file,
    "encoder.")
  lu.assertNil(ok)
  lu.assertStrContains(message, "f32 (2, 3), expected bf16 (2, 3)")
end

function tests.test_names()
  lu.assertEquals(checkpoint.path "runs/x", "runs/x/jepa-latest.safetensors")
  lu.assertEquals(checkpoint.path("runs/x", 50), "runs/x/jepa-ep50.safetensors")
  lu.assertEquals(checkpoint.path("runs/x", 50, "b-1"), "runs/x/b-1-ep50.safetensors")
end

-- Files of version 0.1.0: TAG-latest while it can be read, then the file that was changed last.
function tests:test_latest_of_files_without_identity()
  local best, refused = checkpoint.latest(self.folder)
  lu.assertNil(best)
  lu.assertEquals(refused, {})
  local function save(epochs, step)
    assert(checkpoint.save(checkpoint.path(self.folder, epochs), {}, { step = step }))
  end
  save(100, 1000)
  save(50, 500)
  os.execute(("touch -d @1000 '%s'; touch -d @2000 '%s'"):format(
    checkpoint.path(self.folder, 100), checkpoint.path(self.folder, 50)))
  lu.assertEquals(checkpoint.latest(self.folder), checkpoint.path(self.folder, 50))
  os.execute(("touch -d @2000 '%s'"):format(checkpoint.path(self.folder, 100)))
  lu.assertEquals(checkpoint.latest(self.folder), checkpoint.path(self.folder, 100))
  save(nil, 20)   -- not the highest step
  os.execute(("touch -d @10 '%s'"):format(self.path))
  lu.assertEquals(checkpoint.latest(self.folder), self.path)
  spit(self.path, slurp(self.path):sub(1, -2))
  best, refused = checkpoint.latest(self.folder)
  lu.assertEquals(best, checkpoint.path(self.folder, 100))
  lu.assertEquals({ #refused, refused[1].path, refused[1].code },
    { 1, self.path, tonumber(F.C.IJ_EFORMAT) })
  lu.assertStrContains(refused[1].message, "jepa-latest.safetensors")
  lu.assertNil((checkpoint.latest(self.folder, "other")))
  local none, message = checkpoint.latest(self.folder .. "/none")
  lu.assertNil(none)
  lu.assertStrContains(message, "could not be read")
end

function tests:test_latest_is_the_last_save_of_the_run_that_began_last()
  local older = checkpoint.identity()
  local newer = checkpoint.identity()
  lu.assertTrue(newer > older)
  local function save(epochs, meta)
    local path = checkpoint.path(self.folder, epochs)
    assert(checkpoint.save(path, {}, meta))
    return path
  end
  save(9, { step = 900 })
  local first = save(8, { step = 800, run = older, save = 8 })
  lu.assertEquals(checkpoint.latest(self.folder), first)
  local b = save(1, { step = 100, run = newer, save = 1 })
  lu.assertEquals(checkpoint.latest(self.folder), b)
  save(7, { step = 700, run = newer, save = 3 })
  local back = save(2, { step = 200, run = newer, save = 4 })   -- after a rollback
  lu.assertEquals(checkpoint.latest(self.folder), back)
  os.execute(("touch -d @1000 '%s'"):format(back))   -- a copy of the folder
  lu.assertEquals(checkpoint.latest(self.folder), back)
  save(nil, { step = 200, run = newer, save = 4 })   -- a link: the same state
  lu.assertEquals(checkpoint.latest(self.folder), self.path)
end

function tests:test_every_flipped_bit_of_the_metadata_is_found()
  local item = { name = "a", dtype = "f32", shape = { 1 }, data = "\0\0\0\0" }
  assert(checkpoint.save(self.path, { item }, { step = 7, run = checkpoint.identity(), save = 3 }))
  local bytes, found, total = slurp(self.path), 0, 0
  local from, to = bytes:find('"__metadata__":{', 1, true), bytes:find("}", 1, true)
  for at = from, to do
    for _, mask in ipairs { 1, 2, 4, 16, 64 } do
      local flipped = string.char(bit.bxor(bytes:byte(at), mask))
      spit(self.path, bytes:sub(1, at - 1) .. flipped .. bytes:sub(at + 1))
      local file = checkpoint.load(self.path)
      total = total + 1
      -- a name of no meaning is left where the flip hits the names "__metadata__" or "ijepa.seal"
      if not file or file:meta "save" == nil
          or (file:meta "save" == 3 and file:meta "step" == 7) then
        found = found + 1
      end
    end
  end
  lu.assertEquals(found, total)
end

function tests:test_the_tag_is_found()
  assert(checkpoint.save(checkpoint.path(self.folder, nil, "vits"), {}, { step = 1 }))
  lu.assertEquals(checkpoint.tag(self.folder), "vits")
  lu.assertEquals(checkpoint.latest(self.folder), checkpoint.path(self.folder, nil, "vits"))
  assert(checkpoint.save(self.path, {}, { step = 1 }))
  lu.assertEquals(checkpoint.latest(self.folder), self.path)
  spit(self.folder .. "/config.lua", 'return { tag = "vits" }')
  lu.assertEquals(checkpoint.latest(self.folder), checkpoint.path(self.folder, nil, "vits"))
end

function tests:test_retire_moves_one_run()
  for _, name in ipairs { "jepa_r0.csv", "jepa.jsonl", "jepa-diagnoses.csv", "config.lua",
    "other_r0.csv", "notes.txt" } do spit(self.folder .. "/" .. name, name) end
  lu.assertNil((checkpoint.retire(self.folder, "jepa")))   -- no checkpoint
  assert(checkpoint.save(self.path, {}, { step = 1 }))
  assert(checkpoint.save(checkpoint.path(self.folder, 3), {}, { step = 1 }))
  lu.assertEquals(checkpoint.retire(self.folder, "jepa"), self.folder .. "/older")
  local function list(folder)
    local pipe = io.popen(("ls '%s' | tr '\\n' ' '"):format(folder))
    local names = pipe:read "*a"
    pipe:close()
    return names
  end
  lu.assertEquals(list(self.folder .. "/older"),
    "config.lua jepa-diagnoses.csv jepa-ep3.safetensors "
    .. "jepa-latest.safetensors jepa.jsonl jepa_r0.csv ")
  assert(checkpoint.save(self.path, {}, { step = 1 }))
  lu.assertEquals(checkpoint.retire(self.folder, "jepa"), self.folder .. "/older-2")
  lu.assertEquals(list(self.folder), "notes.txt older older-2 other_r0.csv ")
end

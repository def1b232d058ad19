-- The tests' own helpers: processes, folders, comparison of tensor files.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local support = require "support"
local tensors = require "ijepa.tensors"

local tests = {}
TestSupport = tests -- luacheck: ignore

local function sh(text, o) return support.run({ "sh", "-c", text }, o) end

function tests.test_a_process()
  lu.assertEquals({ sh "echo out; echo err >&2; exit 3" }, { 3, "out\n", "err\n" })
  lu.assertEquals({ sh("echo a; echo b >&2; echo c", { merge = true }) }, { 0, "a\nb\nc\n", "" })
  lu.assertEquals({ sh("cat", { input = "given\0" }) }, { 0, "given\0", "" })
  lu.assertEquals({ sh "cat" }, { 0, "", "" })
  lu.assertEquals({ sh "kill -TERM $$" }, { 143, "", "" })
  lu.assertEquals({ sh("pwd", { cwd = "/usr" }) }, { 0, "/usr\n", "" })
  lu.assertEquals({ support.run { "printf", "%s.", "a b", { "'", { 7 }, support.split " x  y=z " },
    "$HOME" } }, { 0, "a b.'.7.x.y=z.$HOME.", "" })
end

function tests.test_environment()
  lu.assertEquals({ sh("echo $A; echo ${HOME-none}", { env = { A = 7, HOME = false } }) },
    { 0, "7\nnone\n", "" })
  local _, mine = sh "echo $PATH"
  lu.assertEquals(mine, os.getenv "PATH" .. "\n")
end

function tests.test_a_process_that_hangs_or_is_missing()
  lu.assertEquals((sh("exec sleep 60", { timeout = .1 })), 137)
  lu.assertEquals((sh("trap 'exit 5' INT; while :; do sleep .01; done",
    { timeout = .3, signal = 2 })), 5)
  local p = support.start { "sleep", "60" }
  lu.assertTrue(p:kill(15))
  lu.assertEquals({ p:wait() }, { 143, "", "" })
  lu.assertErrorMsgContains("cannot start '/nowhere/x': No such file", support.run,
    { "/nowhere/x" })
  lu.assertEquals({ support.run { support.which "sh", "-c", "exit 4" } }, { 4, "", "" })
  lu.assertNil(support.which "no-such-program")
end

function tests.test_folders()
  local path = support.folder()
  lu.assertEquals(support.list(path), {})
  lu.assertEquals((sh("mkdir -p 'a b/.c'; echo x > 'a b/.c/d'; ln -s / e; ln -s nowhere f",
    { cwd = path })), 0)
  lu.assertEquals(support.read(path .. "/a b/.c/d"), "x\n")
  lu.assertEquals(support.list(path), { "a b", "e", "f" })
  lu.assertEquals({ support.run { support.executable(path .. "/g", "#!/bin/sh\necho $0\n") } },
    { 0, path .. "/g\n", "" })
  local kept = support.folder "file"
  support.finish_test()
  lu.assertEquals(F.C.ij_path_kind(path), 0)
  lu.assertEquals(F.C.ij_path_kind(kept), 2)
  support.remove(path)   -- nothing there
end

function tests.test_same_tensors()
  local folder = support.folder()
  local function file(name, values, shape, dtype)
    local data = F.new(dtype == "i64" and "int64_t[?]" or "float[?]", #values, values)
    name, dtype = folder .. "/" .. name, dtype or "f32"
    assert(tensors.save(name, { { name = "w", dtype = dtype, shape = shape, data = data } }))
    return name
  end
  local a = file("a", { 1, 2, 3, 4 }, { 2, 2 })
  lu.assertEquals({ support.same_tensors(a, file("b", { 1, 2, 3, 4 }, { 2, 2 })) }, { true })
  lu.assertEquals({ support.same_tensors(a, file("c", { 1, 2, 3.5, 4 }, { 2, 2 })) },
    { false, "w[2]: 3 and 3.5" })
  lu.assertEquals({ support.same_tensors(a, file("d", { 1, 2, 3, 4 }, { 4 })) },
    { false, "w: f32 [2x2] and f32 [4]" })
  local e, f = file("e", { 5 }, {}, "i64"), file("f", { 6 }, {}, "i64")
  lu.assertEquals({ support.same_tensors(e, f) }, { false, "w[0]: 5LL and 6LL" })
  local none = folder .. "/none"
  assert(tensors.save(none, {}))
  lu.assertEquals({ support.same_tensors(a, none) }, { false, "tensor 1 is w and nil" })
end

function tests.test_scenes_are_made_once()
  local o = { n = 2, test = 2, size = 16 }
  local made = support.scenes(o)
  lu.assertTrue(support.scenes { size = 16, test = 2, n = 2 } == made)
  lu.assertTrue(support.scenes { size = 16, test = 2, n = 3 } ~= made)
  lu.assertNotEquals(F.C.ij_path_kind(made.train), 0)
end

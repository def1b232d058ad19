-- PyTorch checkpoints: honest ones are read, everything else is refused in a line that says why.
-- Nothing is run.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local tensors = require "ijepa.tensors"
local support = require "support"
local A = require "archive"

local tests = {}
TestPth = tests -- luacheck: ignore
local path
function tests.setUp() path = support.folder() .. "/x.pth" end

local function open(bytes) return tensors.open(support.write(path, bytes)) end

-- Opens and reads everything: true, or what was refused.
local function read_all(bytes)
  local file, message = open(bytes)
  if not file then return nil, message end
  for _, name in ipairs(file:names()) do
    local info, n = file:info(name), 1
    for _, s in ipairs(info.shape) do n = n * s end
    local ok, why = file:read(name, F.new("float[?]", n + 1), n)
    file:data(name)
    if not ok then return nil, why end
  end
  file:metas()
  file:close()
  return true
end

local function refused(bytes, word)
  local ok, message = read_all(bytes)
  lu.assertNil(ok, word)
  lu.assertStrContains(message, word)
  lu.assertStrContains(message, path)
  lu.assertNil(message:find "\n")
end

function tests.test_honest_ones()
  for _, o in ipairs { {}, { deflated = true }, { zip64 = true },
      { deflated = true, zip64 = true } } do
    local file = assert(open(A.honest(o)))
    lu.assertEquals(file:names(), { "encoder.module.w", "encoder.module.b" })
    lu.assertEquals(file:info "encoder.module.w", { dtype = "f32", shape = { 2, 3 } })
    lu.assertEquals(file:metas(), { epoch = "3", lr = "0.125", ["7"] = "seven" })
    local p, n = file:data "encoder.module.w"
    lu.assertEquals(n, 24)
    lu.assertEquals(F.cast("const float *", p)[5], 1)
    file:close()
  end
end

function tests.test_strides_are_followed()
  local numbers = F.new("float[6]", { 0, 1, 2, 3, 4, 5 })
  local file = assert(open(A.pth(A.dict(A.tensor("K\0", { "K\3", "K\2" }, { "K\1", "K\3" })),
    { storage = F.string(numbers, 24) })))
  local p = F.cast("const float *", (file:data "x"))
  local q = F.new "float[6]"
  assert(file:read("x", q, 6))
  for i, want in ipairs { 0, 3, 1, 4, 2, 5 } do
    lu.assertEquals(p[i - 1], want)
    lu.assertEquals(q[i - 1], want)
  end
  lu.assertNil((file:read("x", q, 5)))
end

function tests.test_a_tensor_in_no_dict_has_no_name()   -- found by the fuzzer
  local file = assert(open(A.pth("\128\2" .. A.tensor("K\0", { "K\6" }, { "K\1" }) .. ".")))
  lu.assertEquals(file:names(), { "" })
  lu.assertTrue(read_all(A.pth "\128\2K\1."))
end

function tests.test_a_list_in_place_of_an_entry()   -- of a safetensors header; found by the fuzzer
  refused(A.le(10, 8) .. '{"a":[1]} ', "entry 'a' of its header is malformed")
end

function tests.test_calls_are_refused_by_name()
  refused(A.pth "\128\2cos\nsystem\n(X\4\0\0\0true", "'os.system'")
  refused(A.pth("\128\2cos\nsystem\n" .. A.text "touch /tmp/owned" .. "\133R."), "'os.system'")
  -- STACK_GLOBAL
  refused(A.pth("\128\4\140\2os\140\6system\147" .. A.text "true" .. "\133R."), "'os.system'")
  refused(A.pth("\128\4\140\8builtins\140\4eval\147."), "'builtins.eval'")
  -- its module is a number
  refused(A.pth("\128\4K\1\140\6system\147."), "not a string")
  refused(A.pth("\128\4\147."), "empty stack")
  -- INST
  refused(A.pth "\128\2(ios\nsystem\n.", "'os.system'")
  -- OBJ
  refused(A.pth "\128\2(cos\nsystem\no.", "'os.system'")
  refused(A.pth "\128\2c__builtin__\ngetattr\n.", "'__builtin__.getattr'")
  refused(A.pth "\128\2ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "_rebuild_tensor_v2.__globals__")
  -- a word is not called
  refused(A.pth "\128\2ctorch\nFloatStorage\n)R.", "'torch.FloatStorage' in a way")
  refused(A.pth "\128\2ctorch\nSize\n)R.", "'torch.Size' in a way")
  -- NEWOBJ
  refused(A.pth "\128\2ccollections\nOrderedDict\n)\129.", "instruction 0x81")
  -- EXT1
  refused(A.pth "\128\2\130\1.", "instruction 0x82")
  refused(A.pth "\128\2X\1\0\0\0a)R.", "not a function")
  -- no terminal codes in messages
  refused(A.pth "\128\2ca\27[2J\nb\n.", "'a?[2J.b'")
end

function tests.test_malformed_pickles()
  for _, p in ipairs { "", "\128\2", "\128\2}", "\128\2}(", "0.", "t.", "(", "}u.", "e.", "a.",
      "s.", "]K\1s.", "}K\1K\2e.", "q\0.",
    "h\0.", "j\255\255\255\255.", "Nr\255\255\255\255.", "Q.", "NQ.", ")Q.", "X\255\255\255\255a.",
      "\141\255\255\255\255\255\255\255\255a.",
    "\138\9aaaaaaaaa.", "\139\255\255\255\127.", "G12.", "\149.", "(0.", "(1.", "2.", "b.", "Nb.",
      "c\n.", "cos\n.", "(u.", "}(K\1u.",
    "(K\1e." } do
    lu.assertNil((read_all(A.pth(p))), ("%q"):format(p))
  end
  refused(A.pth "\128\2}(}K\1u.", "a key that is neither")
  refused(A.pth(string.rep("(", 5e6) .. "."), "four million")
  refused(A.pth(string.rep("N", 5e6) .. "."), "four million")
  refused(A.pth(string.rep("]", 100) .. string.rep("a", 99) .. "."), "nested too deep")
  -- a dict inside of itself
  refused(A.pth "}q\0X\1\0\0\0ah\0s.", "nested too deep")
  -- and eight times
  refused(A.pth "]q\0(h\0h\0h\0h\0h\0h\0h\0h\0e.", "too ")
  -- each level twice the one before: 2^30
  local bomb = { "\128\2](K\1K\1e" }
  for i = 1, 30 do
    bomb[#bomb + 1] = "q" .. string.char(i) .. "](h" .. string.char(i) .. "h" .. string.char(i)
      .. "e"
  end
  refused(A.pth(table.concat(bomb) .. "."), "more than a million")
end

function tests.test_tensors_lie_in_their_storages()
  local big = "\138\8" .. A.le(2 ^ 62, 8)
  local function tensor(...) return A.pth(A.dict(A.tensor(...))) end
  lu.assertTrue(read_all(tensor("K\0", { "K\2", "K\3" }, { "K\3", "K\1" })))
  lu.assertTrue(read_all(tensor("K\5", { "K\1" }, { "K\1" })))
  lu.assertTrue(read_all(tensor("K\6", { "K\0" }, { "K\1" })))
  refused(tensor("K\6", { "K\1" }, { "K\1" }), "lies outside")
  refused(tensor("K\1", { "K\2", "K\3" }, { "K\3", "K\1" }), "lies outside")
  refused(tensor("K\0", { "K\2", "K\3" }, { "K\4", "K\1" }), "lies outside")
  refused(tensor("K\7", { "K\0" }, { "K\1" }), "lies outside")
  refused(tensor("J\255\255\255\255", { "K\1" }, { "K\1" }), "impossible shape")
  refused(tensor("K\0", { "J\255\255\255\255" }, { "K\1" }), "impossible shape")
  refused(tensor("K\5", { "K\2" }, { "J\255\255\255\255" }), "impossible shape")
  refused(tensor("K\0", { big, big }, { "K\1", "K\1" }), "impossible shape")
  refused(tensor("K\0", { "K\2" }, { big }), "lies outside")
  refused(tensor("K\0", { "K\3" }, { big }), "lies outside")
  refused(tensor(big, { "K\1" }, { "K\1" }), "lies outside")
  -- expanded without end
  refused(tensor("K\0", { "M\255\255" }, { "K\0" }), "larger than what it is stored in")
  refused(tensor("K\0", { "K\2" }, {}), "malformed tensor")
  refused(tensor("K\0", { "N" }, { "K\1" }), "impossible shape")
  local function stored(...)
    return A.pth(A.dict(A.tensor("K\0", { "K\1" }, { "K\1" }, A.storage(...))))
  end
  refused(stored "K\7", "differs from its pickle")
  refused(stored "J\255\255\255\255", "impossible size")
  refused(stored(big), "impossible size")
  refused(stored("K\6", "Double"), "differs from its pickle")
  refused(stored("K\6", "Float", "2"), "not in the archive")
  refused(stored("K\6", "Float", "../0"), "not in the archive")
  refused(stored("K\6", "Untyped"), "'torch.UntypedStorage'")
  refused(A.pth("\128\2}(X\1\0\0\0a}(X\1\0\0\0b" .. A.tensor("K\0", { "K\1" }, { "K\1" })
    .. "uX\3\0\0\0a.b" ..
    A.tensor("K\0", { "K\1" }, { "K\1" }) .. "u."), "'a.b' twice")
end

function tests.test_archives()
  local pkl = A.dict(A.tensor("K\0", { "K\6" }, { "K\1" }))
  local numbers = string.rep("\0\0\128\63", 6)
  local function zip(o)
    local member = { "a/data/0", o.bytes or numbers }
    for k, v in pairs(o) do member[k] = v end
    return A.zip { { "a/data.pkl", pkl }, member, o.more }
  end
  lu.assertTrue(read_all(zip {}))
  refused(zip { deflated = true, size = 2 ^ 31 }, "differs from its pickle")
  refused(zip { size = 2 ^ 31 }, "outside of the file")
  refused(zip { at = 2 ^ 31 }, "outside of the file")
  refused(zip { at = 7 }, "outside of the file")
  refused(zip { local_name = "a/data/x" }, "two names")
  refused(zip { flags = 1 }, "encrypted")
  refused(zip { method = 12 }, "a method that is not read")
  refused(zip { deflated = true, crc = 5 }, "checksum")
  -- says less than it holds
  refused(zip { deflated = true, bytes = numbers .. numbers, size = 24 }, "does not unpack")
  refused(zip { deflated = true, bytes = "", size = 24 }, "does not unpack")
  refused(zip { more = { "a/data/0", numbers } }, "a member twice")
  refused(zip { more = { "a/../../etc/x", numbers } }, "leads elsewhere")
  refused(zip { more = { "/etc/x", numbers } }, "leads elsewhere")
  refused(zip { more = { "b/data.pkl", pkl } }, "two pickles")
  refused(zip { more = { "a/byteorder", "big" } }, "big-endian")
  refused(A.zip { { "a/data.pkl", pkl, crc = 1 } }, "checksum")
  refused(A.zip { { "a/data/0", numbers } }, "no NAME/data.pkl")
  -- a bomb: a pickle of a small file that says it holds a gigabyte
  refused(A.zip { { "a/data.pkl", pkl, deflated = true, size = 2 ^ 30 } }, "more than 64 times")
  refused("PK\3\4" .. string.rep("\0", 100), "has no end")
  refused("\128\2\138\10\108\252\156\70\249\32\106\168\80\25." .. string.rep("\0", 100),
    "before 1.6")
end

-- Cut at every length, and with every byte changed: refused or read, never anything else.
function tests.test_damaged_files()
  for _, whole in ipairs { A.honest(), A.honest { deflated = true, zip64 = true } } do
    for n = 0, #whole - 1 do lu.assertNil((read_all(whole:sub(1, n))), n) end
    for i = 1, #whole do
      for _, c in ipairs { 0, 255, whole:byte(i) % 128 + 128 } do
        read_all(whole:sub(1, i - 1) .. string.char(c) .. whole:sub(i + 1))
      end
    end
  end
end

function tests.test_out_of_memory_anywhere()
  local whole = A.honest { deflated = true }
  assert(read_all(whole))
  local n = 0
  local function fails()
    n = n + 1
    F.C.ij_mem_fail_at(n)
    local ok, message = read_all(whole)
    F.C.ij_mem_fail_at(0)
    if not ok then lu.assertStrContains(message, "out of memory") end
    return not ok
  end
  while fails() do end
  lu.assertTrue(n > 10)
end

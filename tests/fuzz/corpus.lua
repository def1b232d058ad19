-- ijepa tests/fuzz/corpus.lua: writes the small files that the fuzzers of files of tensors and of
-- indexes begin with.
package.path = "tests/lua/?.lua;" .. package.path
local A = require "archive"
local tensors = require "ijepa.tensors"
local F = require "ijepa.base.ffi"
local folder

local function put(name, bytes)
  local f = assert(io.open(folder .. name, "wb"))
  f:write(bytes)
  f:close()
end

folder = "tests/fuzz/corpus/tensors/"
F.check(F.C.ij_mkdirs(folder))
put("honest.pth", A.honest())
put("deflated.pth", A.honest { deflated = true })
put("zip64.pth", A.honest { zip64 = true })
put("strided.pth", A.pth(A.dict(A.tensor("K\0", { "K\3", "K\2" }, { "K\1", "K\3" }))))
put("system.pth", A.pth "\128\2cos\nsystem\n(X\4\0\0\0trueuR.")
put("stack_global.pth", A.pth "\128\4\140\11collections\140\11OrderedDict\147\148)R\148.")
put("parameter.pth", A.pth(
  A.dict("ctorch._utils\n_rebuild_parameter\n(" .. A.tensor("K\0", { "K\6" }, { "K\1" })
  .. "\136Nt.R")))
put("numpy.pth", A.pth(
  A.dict("cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\2\0\0\0f8\137\136tRU\8\0\0\0\0\0\0\240?tR")))
local numbers = F.new("double[6]", { 1, 2, 3, 4, 5, 6 })
local items = {}
for i, t in ipairs { "f32", "bf16", "i32", "i64", "u8" } do
  items[i] = { name = t, dtype = t, shape = { 2, 3 }, data = numbers }
end
assert(tensors.save(folder .. "all.safetensors", items, { step = "3" }))
put("list.safetensors", A.le(10, 8) .. '{"a":[1]} ')

-- Indexes of tars (core/data/index.c): the fuzzer sets the tar's size and time and the hash, but
-- for those marked "r".
folder = "tests/fuzz/corpus/index/"
F.check(F.C.ij_mkdirs(folder))
local function index(name, members, count, mark)
  local bytes = { "ijtar 1\n", (mark or "-"):rep(16), A.le(count or #members, 8) }
  for _, m in ipairs(members) do
    bytes[#bytes + 1] = A.le(m[1], 8) .. A.le(m[2], 8) .. m[3] .. "\0"
  end
  put(name .. ".index", table.concat(bytes) .. ("-"):rep(8))
end
index("honest", { { 512, 1000, "a/one.jpg" }, { 2048, 0, "" }, { 4096, 40, "b/two.png" },
  { 8192, 9, "b/../three.webp" } })
index("raw", { { 512, 1000, "a/one.jpg" } }, nil, "r")
index("outside", { { 2 ^ 40, 1000, "one.jpg" }, { 512, 2 ^ 52, "two.jpg" } })
index("many", { { 512, 1000, "one.jpg" } }, 2 ^ 50)
index("names", { { 512, 9, "/etc/../one.jpg" }, { 512, 9, "./" .. ("x"):rep(5000) .. ".jpg" },
  { 512, 9, ".jpg" } })

-- Zip archives and pickles by hand, honest and hostile ones, for tests and the fuzzer's corpus.
local bit = require "bit"
local pickle = require "ijepa.save.pickle"
local archive = {}

local le = pickle.le
archive.le = le

local function crc32(s)
  local c = bit.bnot(0)
  for i = 1, #s do
    c = bit.bxor(c, s:byte(i))
    for _ = 1, 8 do c = bit.bxor(bit.rshift(c, 1), bit.band(0xedb88320, -bit.band(c, 1))) end
  end
  c = bit.bnot(c)
  return c < 0 and c + 2 ^ 32 or c
end

-- Deflate without compression: one block, as it is.
local function deflate(s) return "\1" .. le(#s, 2) .. le(65535 - #s, 2) .. s end

--- A zip of members { name, contents } with, each optional: deflated, size (claimed), local_name,
--- at (claimed place), crc, method, flags; zip64: the places and sizes stand in extra fields.
function archive.zip(members, zip64)
  local body, directory = {}, {}
  local at = 0
  for _, m in ipairs(members) do
    local bytes = m.deflated and deflate(m[2]) or m[2]
    local size, crc = m.size or #m[2], m.crc or crc32(m[2])
    local method = m.method or m.deflated and 8 or 0
    local head = "PK\3\4" .. le(20, 2) .. le(m.flags or 0, 2) .. le(method, 2) .. le(0, 4)
      .. le(crc, 4) .. le(#bytes, 4) ..
      le(size, 4) .. le(#(m.local_name or m[1]), 2) .. le(0, 2) .. (m.local_name or m[1])
    local extra = zip64 and le(1, 2) .. le(24, 2) .. le(size, 8) .. le(#bytes, 8)
      .. le(m.at or at, 8) or ""
    local big = 2 ^ 32 - 1
    directory[#directory + 1] = "PK\1\2" .. le(20, 2) .. le(20, 2) .. le(m.flags or 0, 2)
      .. le(method, 2) .. le(0, 4) ..
      le(crc, 4) .. le(zip64 and big or #bytes, 4) .. le(zip64 and big or size, 4) .. le(#m[1], 2)
        .. le(#extra, 2) .. le(0, 10) ..
      le(zip64 and big or m.at or at, 4) .. m[1] .. extra
    body[#body + 1] = head .. bytes
    at = at + #head + #bytes
  end
  local list = table.concat(directory)
  local tail = ""
  if zip64 then
    tail = "PK\6\6" .. le(44, 8) .. le(45, 2) .. le(45, 2) .. le(0, 8) .. le(#members, 8)
      .. le(#members, 8) .. le(#list, 8) ..
      le(at, 8) .. "PK\6\7" .. le(0, 4) .. le(at + #list, 8) .. le(1, 4)
  end
  return table.concat(body) .. list .. tail .. "PK\5\6" .. le(0, 4) .. le(#members, 2)
    .. le(#members, 2) .. le(#list, 4) ..
    le(at, 4) .. le(0, 2)
end

--- A checkpoint: this pickle, and storages of 4 * 6 numbers (bytes) under "0" and "1".
function archive.pth(pkl, o)
  o = o or {}
  local numbers = string.rep("\0\0\128\63", 6)   -- 1.0
  return archive.zip({ { "a/data.pkl", pkl, deflated = o.deflated },
    { "a/data/0", o.storage or numbers, deflated = o.deflated },
    { "a/data/1", numbers }, { "a/version", "3\n" }, o.more }, o.zip64)
end

local function text(s) return "X" .. le(#s, 4) .. s end
archive.text = text

--- The pickle of a storage: type "Float", key "0", n elements.
function archive.storage(n, kind, key)
  return "(" .. text "storage" .. "ctorch\n" .. (kind or "Float") .. "Storage\n" .. text(key or "0")
    .. text "cpu" .. n .. "tQ"
end

--- The pickle of a tensor; numbers are pickles themselves ("K\6"), lists of them.
function archive.tensor(offset, sizes, strides, storage)
  return "ctorch._utils\n_rebuild_tensor_v2\n(" .. (storage or archive.storage "K\6") .. offset
    .. "(" .. table.concat(sizes) .. "t(" ..
    table.concat(strides) .. "t\137ccollections\nOrderedDict\n)RtR"
end

--- A pickle of { x = what }.
function archive.dict(what) return "\128\2}(" .. text "x" .. what .. "u." end

--- An honest checkpoint of 2 tensors in nested dicts, and numbers.
function archive.honest(o)
  return archive.pth(pickle.dump(
    pickle.dict { { "encoder", pickle.dict { { "module.w", pickle.tensor(0, { 2, 3 }) },
    { "module.b", pickle.tensor(1, { 6 }) } } }, { "epoch", 3 }, { "lr", .125 }, { 7, "seven" } }),
      o)
end

return archive

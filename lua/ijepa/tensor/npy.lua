-- NumPy's .npy files. Of a large array only the rows that are asked for are read.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local tensor, T = core.tensor, core.methods

-- Of an element: its type in C, and the tensor's type.
local KINDS = {
  ["<f4"] = { "float", "f32" }, ["<f8"] = { "double", "f32" }, ["<f2"] = { "uint16_t", "f32" },
  ["<i4"] = { "int32_t", "i32" }, ["<i8"] = { "int64_t", "i64" }, ["<i2"] = { "int16_t", "i32" },
  ["<u2"] = { "uint16_t", "i32" }, ["|i1"] = { "int8_t", "i32" }, ["|u1"] = { "uint8_t", "u8" },
  ["|b1"] = { "uint8_t", "u8" },
}
local NAMES = { f32 = "<f4", i32 = "<i4", i64 = "<i8", u8 = "|u1" }

local function half(bits)   -- IEEE half precision
  local sign, e, m = bits >= 0x8000 and -1 or 1, math.floor(bits / 1024) % 32, bits % 1024
  if e == 31 then return m == 0 and sign * math.huge or 0 / 0 end
  if e == 0 then return sign * m * 2 ^ -24 end
  return sign * (1 + m / 1024) * 2 ^ (e - 15)
end

-- Position of the data, element kind and shape, from the file's header; or nil and a message.
local function header(file, path)
  local start = file:read(10)
  if not start or #start < 10 or start:sub(1, 6) ~= "\147NUMPY" then
    return nil, ("file '%s' is not an .npy file"):format(path)
  end
  local major, length, offset = start:byte(7), start:byte(9) + 256 * start:byte(10), 10
  if major >= 2 then
    local more = file:read(2)
    if not more or #more < 2 then return nil, ("file '%s' is truncated"):format(path) end
    length, offset = length + 65536 * (more:byte(1) + 256 * more:byte(2)), 12
  end
  local text = length <= 2 ^ 20 and file:read(length)
  if not text or #text < length then return nil, ("file '%s' is truncated"):format(path) end
  local descr = text:match "'descr'%s*:%s*'([^']*)'"
  local order = text:match "'fortran_order'%s*:%s*(%a+)"
  local sizes = text:match "'shape'%s*:%s*%(([^)]*)%)"
  if not descr or not order or not sizes then
    return nil, ("file '%s': its header says no type, order or shape"):format(path)
  end
  if not KINDS[descr] then
    return nil, ("file '%s': its values are '%s': f2, f4, f8, i1 to i8, u1, u2 or bool are read")
      :format(path, descr)
  end
  local shape, count = {}, 1
  for size in sizes:gmatch "%d+" do
    shape[#shape + 1] = tonumber(size)
    count = count * tonumber(size)
  end
  if count > 2 ^ 40 or #shape > 6 then
    return nil, ("file '%s': an array of (%s) is too large"):format(path, sizes)
  end
  return { offset = offset + length, kind = KINDS[descr], size = tonumber(descr:sub(3)),
    fortran = order == "True", shape = shape }
end

--- An array of an .npy file as a tensor: f2 and f8 become f32, small integers i32. Of an array with
--- many rows (entries of the first dimension) first and count choose some.
---@param path string
---@param first integer? row from 1, default 1
---@param count integer? default: all that follow
---@return ijepa.tensor? t, string? message
function tensor.read_npy(path, first, count)
  core.check(path, "string", "tensor.read_npy(path, first, count)", "path")
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local h
  h, message = header(file, path)
  if not h then
    file:close()
    return nil, message
  end
  local rows, row = h.shape[1] or 1, 1
  for i = 2, #h.shape do row = row * h.shape[i] end
  first = first or 1
  count = count or rows - first + 1
  if first < 1 or count < 0 or first + count - 1 > rows then
    file:close()
    return nil, ("file '%s': rows %d to %d of %d"):format(path, first, first + count - 1, rows)
  end
  if h.fortran and #h.shape > 1 and (first > 1 or count < rows) then
    file:close()
    return nil, ("file '%s' is in Fortran order: read all rows"):format(path)
  end
  local bytes = count * row * h.size
  file:seek("set", h.offset + (first - 1) * row * h.size)
  local data = bytes == 0 and "" or file:read(bytes)
  file:close()
  if not data or #data < bytes then return nil, ("file '%s' is truncated"):format(path) end
  local n = count * row
  local dtype = h.kind[2]
  local source = F.cast("const " .. h.kind[1] .. " *", F.cast("const char *", data))
  local buffer = F.new(core.CTYPE[dtype] .. "[?]", math.max(n, 1))
  if h.kind[1] == core.CTYPE[dtype] then F.copy(buffer, data, bytes)
  elseif h.size == 2 and dtype == "f32" then
    for i = 0, n - 1 do buffer[i] = half(source[i]) end
  else
    for i = 0, n - 1 do buffer[i] = source[i] end
  end
  local shape = { count }
  for i = 2, #h.shape do shape[i] = h.shape[i] end
  if #h.shape == 0 then shape = { 1 } end
  if not h.fortran or #shape < 2 then return tensor.from_pointer(buffer, shape, dtype) end
  local reversed, order = {}, {}
  for i = 1, #shape do reversed[i], order[i] = shape[#shape + 1 - i], #shape + 1 - i end
  return tensor.from_pointer(buffer, reversed, dtype):permute(order):contiguous()
end

--- Writes this tensor as an .npy file; bf16 as f4.
---@param path string
---@return boolean? ok, string? message
function T:write_npy(path)
  core.check(path, "string", "x:write_npy(path)", "path")
  local x = self:dtype() == "bf16" and self:to "f32" or self
  local shape = x:shape()
  local sizes = table.concat(shape, ", ") .. (#shape == 1 and "," or "")
  local text = ("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"):format(NAMES[x:dtype()],
    sizes)
  text = text .. (" "):rep(63 - (10 + #text) % 64) .. "\n"   -- the data begins at a multiple of 64
  local buffer = x:read()
  local file, message = io.open(path, "wb")
  if not file then return nil, message end
  local length = string.char(#text % 256, math.floor(#text / 256))
  local ok, why = file:write("\147NUMPY\1\0", length, text, F.string(buffer, x:bytes()))
  local closed, late = file:close()
  if not ok or not closed then return nil, ("file '%s': %s"):format(path, why or late) end
  return true
end

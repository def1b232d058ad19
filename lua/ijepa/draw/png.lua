--- PNG files without compression.
local F = require "ijepa.base.ffi"
local bit = require "bit"
local band, bxor, rshift, bnot = bit.band, bit.bxor, bit.rshift, bit.bnot
local floor, min = math.floor, math.min

local crc_of -- [byte]: the check value of one byte, PNG's polynomial
local function crc_table()
  crc_of = F.new "int32_t[256]"
  for n = 0, 255 do
    local c = n
    for _ = 1, 8 do
      c = band(c, 1) == 1 and bxor(rshift(c, 1), -306674912) or rshift(c, 1)
    end
    crc_of[n] = c
  end
end

local function big_endian(n)
  return string.char(band(rshift(n, 24), 255), band(rshift(n, 16), 255), band(rshift(n, 8), 255),
    band(n, 255))
end

local function chunk(kind, data)
  local body, c = kind .. data, -1
  local p = F.cast("const uint8_t *", body)
  for i = 0, #body - 1 do
    c = bxor(rshift(c, 8), crc_of[band(bxor(c, p[i]), 255)])
  end
  return big_endian(#data) .. body .. big_endian(bnot(c))
end

--- The bytes of a PNG file that stores the pixels uncompressed: fast, for thousands of small
--- images.
---@param p ffi.cdata* u8 (height, width, 3)
---@param width integer
---@param height integer
---@return string
return function(p, width, height)
  if not crc_of then crc_table() end
  local row = width * 3 + 1
  local size = row * height
  local raw = F.new("uint8_t[?]", size)
  local a, b = 1, 0 -- Adler-32
  for y = 0, height - 1 do
    local to, from = y * row, y * (row - 1)
    raw[to] = 0 -- no filter
    b = b + a
    for i = 0, row - 2 do
      local v = p[from + i]
      raw[to + 1 + i] = v
      a = a + v
      b = b + a
    end
    a, b = a % 65521, b % 65521
  end
  local parts = { "\120\1" }
  for at = 0, size - 1, 65535 do
    local n = min(65535, size - at)
    parts[#parts + 1] = string.char(at + n == size and 1 or 0, n % 256, floor(n / 256),
      255 - n % 256, 255 - floor(n / 256))
    parts[#parts + 1] = F.string(raw + at, n)
  end
  parts[#parts + 1] = big_endian(b * 65536 + a)
  local head = big_endian(width) .. big_endian(height) .. "\8\2\0\0\0"
  return "\137PNG\r\n\26\n" .. chunk("IHDR", head)
    .. chunk("IDAT", table.concat(parts)) .. chunk("IEND", "")
end

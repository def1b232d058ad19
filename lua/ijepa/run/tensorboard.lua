-- TensorBoard event files in a run's folder (log.tensorboard=true): records of a length, the event
-- (protobuf), and checksums of both (CRC32C, masked). A resumed run adds a file that starts with
-- the step from which it counts: TensorBoard then drops what older files hold from that step on.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local bit = require "bit"
local C = F.C
local band, bor, bxor, lshift, rshift = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift

local tensorboard = {}
tensorboard.__index = tensorboard

-- ---- records ------------------------------------------------------------------------------------

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = band(c, 1) == 1 and bxor(rshift(c, 1), 0x82f63b78) or rshift(c, 1) end
  crc_table[i] = c
end

-- A number of 32 bits, little-endian.
local function u32(v)
  return string.char(band(v, 255), band(rshift(v, 8), 255), band(rshift(v, 16), 255), rshift(v, 24))
end

--- CRC32C (Castagnoli) of a text, as a number that may be negative.
---@param s string
---@return integer
function tensorboard.crc32c(s)
  local c = bit.bnot(0)
  for i = 1, #s do c = bxor(crc_table[band(bxor(c, s:byte(i)), 255)], rshift(c, 8)) end
  return bit.bnot(c)
end

-- The checksum as the format wants it, rotated by 15 bits plus a constant, so that data may contain
-- checksums.
local function masked(s)
  local c = tensorboard.crc32c(s)
  return u32(bit.tobit(bor(rshift(c, 15), lshift(c, 17)) + bit.tobit(0xa282ead8)))
end

local function record(data)
  local length = u32(#data) .. u32(0)
  return length .. masked(length) .. data .. masked(data)
end

-- ---- protobuf: a field is its number and kind, then its value; kinds: 0 varint, 1 eight bytes,
-- 2 bytes with a length, 5 four bytes

local function varint(v)
  local bytes = {}
  while v >= 128 do
    bytes[#bytes + 1] = string.char(v % 128 + 128)
    v = math.floor(v / 128)
  end
  return table.concat(bytes) .. string.char(v)
end

local function number(field, v) return varint(field * 8) .. varint(v) end
local function double(field, v)
  return varint(field * 8 + 1) .. F.string(F.new("double[1]", v), 8)
end
local function bytes_of(field, s) return varint(field * 8 + 2) .. varint(#s) .. s end
local function float(field, v) return varint(field * 8 + 5) .. F.string(F.new("float[1]", v), 4) end

-- Summary.value: tag, simple_value
local function scalar(tag, v) return bytes_of(1, bytes_of(1, tag) .. float(2, v)) end

-- Summary.value: tag, tensor (a string), metadata that names the text plugin.
local function text_value(tag, s)
  return bytes_of(1, bytes_of(1, tag) .. bytes_of(8, number(1, 7) .. bytes_of(2, "") ..
    bytes_of(8, s)) .. bytes_of(9, bytes_of(1, bytes_of(1, "text"))))
end

-- ---- the writer ---------------------------------------------------------------------------------

-- A name that sorts after those of all older files, whatever the clock shows: readers go by this
-- order.
local function next_name(out)
  local names, newest = F.new "char *[1]", os.time()
  local ok, message, code = F.try(C.ij_dir_list(out, names))
  if not ok then return nil, message, code end
  for stamp in F.string(names[0]):gmatch "events%.out%.tfevents%.(%d+)%.ijepa\n" do
    newest = math.max(newest, tonumber(stamp) + 1)
  end
  C.ij_bytes_free(names[0])
  return ("%s/events.out.tfevents.%010d.ijepa"):format(out, newest)
end

-- event: the fields of an Event but for time and step.
function tensorboard:_write(step, event)
  if not self.file then return true end
  local now = self.start + C.ij_time()
  local ok, message = self.file:write(record(double(1, now) .. number(2, step) .. event))
  if ok then ok, message = self.file:flush() end
  if not ok then return nil, ("log '%s' could not be written: %s"):format(self.path, message) end
  return true
end

--- Opens the log; as every writer of logs does (init.lua). Only the first process writes one.
---@param out string
---@param o ijepa.log_options
---@return table? writer, string? message, integer? code
function tensorboard.open(out, o)
  local self = setmetatable({ start = os.time() - C.ij_time() }, tensorboard)
  if o.rank > 0 then return self end
  local why, ok, message, code
  self.path, message, code = next_name(out)
  if not self.path then return nil, message, code end
  self.file, why = io.open(self.path, "wb")
  if not self.file then
    return nil, ("file '%s' could not be written: %s"):format(self.path, why), tonumber(C.IJ_EIO)
  end
  ok, message = self:_write(0, bytes_of(3, "brain.Event:2"))
  -- SessionLog START
  if ok then
    ok, message = self:_write(o.resume and o.resume + 1 or 0, bytes_of(7, number(1, 1)))
  end
  if not ok then return nil, message, tonumber(C.IJ_EIO) end
  return self
end

local names = {   -- of a step's values
  { "loss", "train/loss" }, { "lr", "train/lr" }, { "wd", "train/weight_decay" },
  { "momentum", "train/momentum" },
  { "k", "mask/context_patches" }, { "t", "mask/target_patches" }, { "ms", "speed/ms" },
  { "images_per_second", "speed/images_per_second" }, { "memory", "speed/memory_bytes" },
}

--- Writes a step.
---@param v ijepa.log_row
---@return boolean? ok, string? message
function tensorboard:step(v)
  local values = {}
  for i, name in ipairs(names) do values[i] = v[name[1]] and scalar(name[2], v[name[1]]) or "" end
  for _, name in ipairs(text.keys(v.values or {})) do
    values[#values + 1] = scalar("objective/" .. name, v.values[name])
  end
  for _, name in ipairs(text.keys(v.grads or {})) do
    values[#values + 1] = scalar("qkv_grads/" .. name, v.grads[name])
  end
  return self:_write(v.step, bytes_of(5, table.concat(values)))
end

--- Writes a diagnosis: its values, and its verdict as a text.
---@param d ijepa.diagnosis
---@return boolean? ok, string? message
function tensorboard:diagnosis(d)
  local values = {}
  for _, name in ipairs(text.keys(d)) do
    if type(d[name]) == "number" and name ~= "step" then
      values[#values + 1] = scalar("diagnosis/" .. name, d[name])
    end
  end
  values[#values + 1] = text_value("diagnosis/verdict", d.level .. ": " .. d.text)
  return self:_write(d.step, bytes_of(5, table.concat(values)))
end

--- Writes that the run is back at a step: readers then drop the older values from the next step on.
---@param step integer
---@return boolean? ok, string? message
function tensorboard:rolled_back(step) return self:_write(step + 1, bytes_of(7, number(1, 1))) end

--- Closes the file.
function tensorboard:close()
  if self.file then self.file:close() end
end

return tensorboard

--- Pickles of state dicts, as torch.load(weights_only=True) takes them. Strings, booleans, whole
--- and other numbers are written as they are; pickle.none, list, dict and tensor make the rest.
local F = require "ijepa.base.ffi"

local pickle = {}

--- A whole number in so many bytes, the least significant first.
---@param v number
---@param bytes integer
---@return string
function pickle.le(v, bytes)
  local out = {}
  for i = 1, bytes do
    out[i] = string.char(v % 256)
    v = math.floor(v / 256)
  end
  return table.concat(out)
end
local le = pickle.le

local function text(s) return "X" .. le(#s, 4) .. s end

local function int(v)
  if v >= 0 and v < 2 ^ 31 then return "J" .. le(v, 4) end
  return "\x8a\x08" .. le(v < 0 and v + 2 ^ 64 or v, 8)
end

local function float(v)
  return "G" .. F.string(F.new("double[1]", v), 8):reverse()
end

-- Something that is written as it stands.
local function made(s) return { pickled = s } end

local function write(v)
  if type(v) == "table" then return v.pickled end
  if type(v) == "string" then return text(v) end
  if type(v) == "boolean" then return v and "\x88" or "\x89" end
  if v % 1 == 0 and math.abs(v) <= 2 ^ 53 then return int(v) end
  return float(v)
end

local function all(list)
  local out = {}
  for i, v in ipairs(list) do out[i] = write(v) end
  return table.concat(out)
end

pickle.none = made "N"

--- A number that stays a float, though it may be whole.
---@param v number
---@return table
function pickle.float(v) return made(float(v)) end

--- A list, or with tuple = true a tuple.
---@param values any[]
---@param tuple boolean?
---@return table
function pickle.list(values, tuple)
  return made(tuple and "(" .. all(values) .. "t" or "](" .. all(values) .. "e")
end

--- A dict of { key, value } pairs, in this order.
---@param pairs_ { [1]: any, [2]: any }[]
---@return table
function pickle.dict(pairs_)
  local out = {}
  for i, kv in ipairs(pairs_) do out[i] = write(kv[1]) .. write(kv[2]) end
  return made("}(" .. table.concat(out) .. "u")
end

--- A tensor of f32: all of storage `key`, row-major.
---@param key integer number of the storage, from 0
---@param shape integer[]
---@return table
function pickle.tensor(key, shape)
  local strides, n = {}, 1
  for d = #shape, 1, -1 do
    strides[d] = n
    n = n * shape[d]
  end
  local storage = "(" .. text "storage" .. "ctorch\nFloatStorage\n" .. text(tostring(key))
    .. text "cpu" .. int(n) .. "tQ"
  return made("ctorch._utils\n_rebuild_tensor_v2\n(" .. storage .. int(0)
    .. pickle.list(shape, true).pickled ..
    pickle.list(strides, true).pickled .. "\x89ccollections\nOrderedDict\n)RtR")
end

--- The whole pickle of a value.
---@param v any
---@return string
function pickle.dump(v) return "\x80\x02" .. write(v) .. "." end

return pickle

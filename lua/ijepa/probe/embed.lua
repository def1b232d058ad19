--- `ijepa embed MODEL ROOT --out FILE`: the features of all images as a file for other programs,
--- with the images' names and classes beside it.
-- What is written grows in FILE.part; a run that was stopped resumes there.
local bit = require "bit"
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local data = require "ijepa.data"
local device = require "ijepa.tensor.device"
local tensor = require "ijepa.tensor"
local load = require "ijepa.save.load"
local features = require "ijepa.probe.features"
local C = F.C

local embed = {}

local HEAD = 512   -- bytes in front of the values, filled in at the end, when their count is known

-- ---- values

local function plain(p, n) return F.string(p, 4 * n) end

-- The bits of an f32 as those of an f16, rounded to even; beyond its range infinite.
local function half(u)
  local sign, rest = bit.band(bit.rshift(u, 16), 0x8000), bit.band(u, 0x7fffffff)
  if rest > 0x7f800000 then return sign + 0x7e00 end
  if rest >= 0x477ff000 then return sign + 0x7c00 end   -- from 65520 on
  local mantissa, shift, exponent = bit.bor(bit.band(rest, 0x7fffff), 0x800000), 13, 0
  if rest < 0x38800000 then   -- below 2^-14: without a leading one
    shift = 126 - bit.rshift(rest, 23)
    if shift > 24 then return sign end
  else
    exponent = bit.lshift(bit.rshift(rest, 23) - 113, 10)
  end
  local cut, kept = bit.band(mantissa, bit.lshift(1, shift) - 1), bit.rshift(mantissa, shift)
  local middle = bit.lshift(1, shift - 1)
  if cut > middle or cut == middle and bit.band(kept, 1) == 1 then kept = kept + 1 end
  return sign + exponent + kept
end
--- The bits of a number as f16.
---@param x number
---@return integer
function embed.half(x)
  local value = F.new("float[1]", x)
  return half(F.cast("const uint32_t *", value)[0])
end

local function halves(p, n)
  local out, bits = F.new("uint16_t[?]", math.max(n, 1)), F.cast("const uint32_t *", p)
  for i = 0, n - 1 do out[i] = half(bits[i]) end
  return F.string(out, 2 * n)
end

-- ---- formats: head(shape) is what stands in front; rows(p, shape, names) is what a batch adds

local DTYPES = { f32 = { size = 4, npy = "<f4", safe = "F32", bytes = plain },
  f16 = { size = 2, npy = "<f2", safe = "F16", bytes = halves } }

local function product(shape, from)
  local n = 1
  for i = from, #shape do n = n * shape[i] end
  return n
end
local function padded(s, fill) return s .. fill:rep(HEAD - #s) end

-- A field of a CSV file.
local function field(s)
  return s:find '[",\r\n]' and '"' .. s:gsub('"', '""') .. '"' or s
end

local FORMATS = {}
function FORMATS.npy(dtype)
  return { dtypes = true, head_bytes = HEAD, bytes = dtype.bytes, head = function(shape)
    local fields = ("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"):format(dtype.npy,
      table.concat(shape, ", "))
    return padded("\147NUMPY\1\0" .. string.char((HEAD - 10) % 256, math.floor((HEAD - 10) / 256))
      .. fields, " "):sub(1, HEAD - 1) .. "\n"
  end }
end
function FORMATS.safetensors(dtype)
  return { dtypes = true, head_bytes = HEAD, bytes = dtype.bytes, head = function(shape)
    local json = ('{"features":{"dtype":"%s","shape":[%s],"data_offsets":[0,%.0f]}}'):format(
      dtype.safe, table.concat(shape, ","), product(shape, 1) * dtype.size)
    local length = HEAD - 8
    return padded(string.char(length % 256, math.floor(length / 256), 0, 0, 0, 0, 0, 0) .. json,
      " ")
  end }
end
function FORMATS.csv()
  return { head_bytes = 0, bytes = function(p, n, shape, names)
    local lines, width = {}, product(shape, 2)
    for r = 0, n / width - 1 do
      local values = {}
      for k = 0, width - 1 do values[k + 1] = ("%.9g"):format(p[r * width + k]) end
      lines[#lines + 1] = names[r + 1] .. "," .. table.concat(values, ",") .. "\n"
    end
    return table.concat(lines)
  end, first = function(shape)
    local columns = { "name", "class" }
    for k = 1, product(shape, 2) do columns[k + 2] = "f" .. k - 1 end
    return table.concat(columns, ",") .. "\n"
  end }
end

--- How a file is written, by the ending of `out` and by `dtype`; nil and what is wrong with them.
---@param o ijepa.embed_options
---@return table? format, string? wrong
function embed.format(o)
  local dtype, format = DTYPES[o.dtype or "f32"], FORMATS[o.out:match "%.(%w+)$" or ""]
  if not format then
    return nil, ("--out %s: expected .npy, .safetensors or .csv"):format(o.out)
  end
  if not dtype then return nil, ("--dtype %s: expected f32 or f16"):format(o.dtype) end
  format = format(dtype)
  if o.dtype == "f16" and not format.dtypes then return nil, "--dtype f16: a .csv holds text" end
  return format
end

-- ---- what a stopped run left: FILE.part.state has the key, and of complete batches
-- their number, rows, bytes of the values and of the names

local function read_state(path, key)
  local file = io.open(path .. ".state")
  if not file then return nil end
  local known, batches, rows, bytes, name_bytes = file:read "*a":match
    "^([^\n]*)\n(%d+) (%d+) (%d+) (%d+)\n$"
  file:close()
  if known ~= key then return nil end
  return { batches = tonumber(batches), rows = tonumber(rows), bytes = tonumber(bytes),
    name_bytes = tonumber(name_bytes) }
end
local function write_state(path, key, s)
  local line = ("%s\n%.0f %.0f %.0f %.0f\n"):format(key, s.batches, s.rows, s.bytes, s.name_bytes)
  F.check(C.ij_file_replace(path .. ".state", line, #line))
end

-- A file to go on writing at `at`; new where at is 0.
local function open_at(path, at)
  local file, message = io.open(path, at > 0 and "r+b" or "wb")
  if not file then error(message, 0) end
  if at > 0 and file:seek "end" < at then
    error(("'%s' is shorter than its state says: remove it and %s.state"):format(path, path), 0)
  end
  file:seek("set", at)
  return file
end
local function put(file, path, s)
  local ok, message = file:write(s)
  if ok then ok, message = file:flush() end
  if not ok then error(("'%s': %s"):format(path, message), 0) end
end

-- ---- the run

local function extractor(encoder, layers)
  if layers == "patches" then return features.tokens(encoder) end
  return features.pooled(encoder, layers == "last" and 0 or tonumber(layers))
end

local function progress(started, done, rows, all)
  local seconds = C.ij_time() - started
  local rate = done / math.max(seconds, 1e-9)
  text.say("embed: %d of %s, %.0f images/s, %.0f s left", rows, text.count(all, "image"), rate,
    (all - rows) / math.max(rate, 1e-9))
end

---@class ijepa.embed_options
---@field out string .npy, .safetensors or .csv; names are in OUT.names.csv, or in the .csv itself
---@field layers string? "last" (default): the mean of the last layer's patches; a number n: of the
--- last n blocks, side by side; "patches": all patches of the last layer
---@field dtype string? f32 (default) or f16
---@field crop integer?
---@field resize integer?
---@field batch integer? 64
---@field workers integer? 2

--- Writes the features of all images of a folder, tar or list of tars, in their order.
---@param encoder ijepa.encoder as ijepa.load gives it
---@param root string
---@param o ijepa.embed_options
---@return integer[] shape of what was written: images first
function embed.run(encoder, root, o)
  local kind, format, wrong = o.out:match "%.(%w+)$", embed.format(o)
  if not format then error(wrong, 0) end
  local blocks = tonumber(o.layers)
  if blocks and encoder.depth and blocks > encoder.depth then
    error(("--layers %d: the encoder has %s"):format(blocks, text.count(encoder.depth, "block")), 0)
  end
  local as = data.decoding({}, encoder.settings)
  local crop = o.crop or encoder.settings.data.crop
  local images, message = data.open { root = root, crop = crop, resize = o.resize,
    batch = o.batch or 64, workers = o.workers, orient = as.orient, damaged = as.damaged,
    range = as.range, max_bad = 1 }
  if not images then error(message, 0) end
  local f, classes, all = extractor(encoder, o.layers or "last"), images:classes(), images:count()
  local part, names_path = o.out .. ".part", o.out .. ".names.csv"
  local key = table.concat({ "1", f.name, features.encoder_stamp(encoder), images:stamp(),
    images.height, images.width, o.resize or 0, o.batch or 64, o.dtype or "f32", kind }, "; ")
  local at = read_state(part, key)
  if at then
    text.say("embed: '%s' is there: it resumes after %s", part, text.count(at.rows, "image"))
  end
  at = at or { batches = 0, rows = 0, bytes = 0, name_bytes = 0 }
  local values = open_at(part, at.bytes)
  local names = kind ~= "csv" and open_at(names_path .. ".part", at.name_bytes) or nil
  images:seek(0, at.batches)
  local started, told, done, shape = C.ij_time(), C.ij_time(), 0, nil
  local function add(b)
    local list = {}
    for i = 0, b.count - 1 do
      local class = classes[b.labels[i] + 1] or ""
      list[i + 1] = field(images:name(tonumber(b.samples[i]))) .. "," .. field(class)
    end
    device.step(function() device.no_grad(function()
      local y = f(data.tensors(b))
      shape = y:shape()
      local before = at.bytes
      if before == 0 then
        local head = format.first and format.first(shape) or (" "):rep(format.head_bytes)
        put(values, part, head)
        at.bytes = #head
        if names then
          put(names, names_path, "name,class\n")
          at.name_bytes = 11
        end
      end
      local bytes = format.bytes(y:read(), y:numel(), shape, list)
      put(values, part, bytes)
      at.bytes = at.bytes + #bytes
    end) end)
    if names then
      local lines = table.concat(list, "\n") .. "\n"
      put(names, names_path, lines)
      at.name_bytes = at.name_bytes + #lines
    end
    at.batches, at.rows, done = at.batches + 1, at.rows + b.count, done + b.count
    write_state(part, key, at)
    if C.ij_time() - told > 10 then
      told = C.ij_time()
      progress(started, done, at.rows, all)
    end
  end
  while true do
    local b, why = images:next()
    if not b and why then error(why, 0) end
    if not b then break end
    add(b)
  end
  for _, complaint in ipairs(images:complaints()) do text.say("embed: %s", complaint) end
  if at.rows == 0 then error(("'%s' gave no images"):format(root), 0) end
  if not shape then   -- all was there: the shape of a row follows from a black image
    device.step(function() device.no_grad(function()
      shape = f(tensor.zeros({ 1, images.height, images.width, 3 }, "u8")):shape()
    end) end)
  end
  shape[1] = at.rows
  if format.head then
    values:seek("set", 0)
    put(values, part, format.head(shape))
  end
  values:close()
  if names then
    names:close()
    assert(os.rename(names_path .. ".part", names_path))
  end
  assert(os.rename(part, o.out))
  os.remove(part .. ".state")
  images:close()
  return shape
end

-- ---- the command

local WHOLE = { crop = 1, resize = 1, batch = 1, workers = 0, heads = 1 }
local KNOWN = { out = true, layers = true, dtype = true, which = true, device = true }

local function options(words)
  local o, rest, i = {}, {}, 1
  while i <= #words do
    local name = words[i]:match "^%-%-(.*)$"
    if name then
      local value = words[i + 1]
      if not (KNOWN[name] or WHOLE[name]) then
        return nil, ("unknown option '--%s'"):format(name)
      end
      if not value then return nil, ("--%s: a value is missing"):format(name) end
      if WHOLE[name] then
        local n = tonumber(value)
        if not n or n < WHOLE[name] or n % 1 ~= 0 or n > 2 ^ 20 then
          return nil, ("--%s %s: expected a whole number from %d"):format(name, value, WHOLE[name])
        end
        value = n
      end
      o[name], i = value, i + 2
    else
      rest[#rest + 1], i = words[i], i + 1
    end
  end
  if #rest ~= 2 then return nil, "expected a model and a folder or tar of images" end
  if not o.out then return nil, "--out FILE is missing" end
  if o.layers and o.layers ~= "last" and o.layers ~= "patches"
    and not (o.layers:find "^%d+$" and tonumber(o.layers) >= 1) then
    return nil, ("--layers %s: expected last, patches or a number of blocks"):format(o.layers)
  end
  local _, wrong = embed.format(o)
  if wrong then return nil, wrong end
  return o, rest
end

--- ijepa embed MODEL ROOT --out FILE [OPTION ...]. False and why: misused.
---@param words string[]
---@return boolean? ok, string? wrong
function embed.main(words)
  local o, rest = options(words)
  if not o then return nil, rest end
  if o.device then device.set(o.device) end
  local encoder, message = load(rest[1], { which = o.which, heads = o.heads })
  if not encoder then error(message, 0) end
  text.say("embed: %s", encoder.source)
  local started = C.ij_time()
  local shape = embed.run(encoder, rest[2], o)
  print(("%s: features of %s (%s) in %.1f s%s"):format(text.shown(o.out),
    text.count(shape[1], "image"), table.concat(shape, " x "), C.ij_time() - started,
    o.out:find "%.csv$" and "" or "; names and classes in " .. text.shown(o.out) .. ".names.csv"))
  return true
end

return embed

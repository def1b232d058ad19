-- Pictures: batches of a folder or of tar files as tensors.
local F = require "ijepa._ffi"
local tensor = require "ijepa.tensor"
local bit = require "bit"
local C = F.C

local data = {}
---@class ijepa.data
local Data = {}
Data.__index = Data

local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

--- Opens a folder, a tar or a list of tars. o: root, crop, batch; train (random crops, shuffled, for ever) or not
--- (short side to `resize`, centre crop, in order, once); subset, scale, ratio, flip, jitter, grey, blur, workers,
--- prefetch, seed, max_bad, max_pixels, rank, world. Returns nil and a message where there is nothing to read.
---@return ijepa.data? data, string? message, integer? code
function data.open(o)
  if type(o.root) ~= "string" or o.root == "" then
    return nil, "data.root is not set: give a folder of pictures, e.g. data.root=pictures"
  end
  local c, out = F.new "ij_data_config", F.new "ij_data *[1]"
  c.root, c.subset = o.root, o.subset
  c.height, c.width = pair(o.crop or 224)
  c.train, c.resize = o.train and 1 or 0, o.resize or 0
  c.shuffle = (o.shuffle == nil and o.train or o.shuffle) and 1 or 0
  c.scale[0], c.scale[1] = (o.scale or { .3, 1 })[1], (o.scale or { .3, 1 })[2]
  c.ratio[0], c.ratio[1] = (o.ratio or { 3 / 4, 4 / 3 })[1], (o.ratio or { 3 / 4, 4 / 3 })[2]
  c.flip, c.jitter, c.jitter_p, c.grey_p, c.blur_p = o.flip or 0, o.jitter or 0, o.jitter_p or .8, o.grey or 0, o.blur or 0
  c.batch, c.drop_last = o.batch or 64, (o.drop_last == nil and o.train or o.drop_last) and 1 or 0
  c.workers, c.prefetch, c.seed = o.workers or 2, o.prefetch or 4, o.seed or 0
  c.rank, c.world = o.rank or 0, o.world or 1
  c.max_bad, c.max_pixels = o.max_bad or -1, o.max_pixels or 0
  local ok, message, code = F.try(C.ij_data_open(c, out))
  if not ok then return nil, message, code end
  return setmetatable({ h = F.gc(out[0], C.ij_data_close), batch = F.new "ij_batch", height = c.height, width = c.width }, Data)
end

--- The number of pictures.
function Data:count() return tonumber(C.ij_data_count(self.h)) end
--- Batches of an epoch.
function Data:epoch_steps() return tonumber(C.ij_data_steps(self.h)) end
--- The names of the classes, in the order of their numbers; empty for a plain folder.
function Data:classes()
  local list = {}
  for i = 0, C.ij_data_classes(self.h) - 1 do list[i + 1] = F.string(C.ij_data_class(self.h, i)) end
  return list
end
--- The name of picture i, from 0 as in a batch's samples.
function Data:name(i)
  local s = C.ij_data_name(self.h, i)
  return s ~= nil and F.string(s) or nil
end
--- The class of picture i, from 0, or -1 without one.
function Data:label(i) return C.ij_data_label(self.h, i) end
--- Picture i (from 0) as an epoch (0) crops and colours it, apart from the sequence of batches.
---@return ijepa.tensor? x u8 (1, H, W, 3), string? message
function Data:picture(i, epoch)
  local pixels = F.new("uint8_t[?]", self.height * self.width * 3)
  local ok, message = F.try(C.ij_data_picture(self.h, i, epoch or 0, pixels))
  if not ok then return nil, message end
  return tensor.from_pointer(pixels, { 1, self.height, self.width, 3 }, "u8")
end
--- A number (as 16 hexadecimal digits) of what the data set holds: names, sizes and times of change of its files.
---@return string
function Data:stamp() return bit.tohex(C.ij_data_stamp(self.h), 16) end
--- Goes on with this batch: epoch and step within it, from 0.
function Data:seek(epoch, step) F.check(C.ij_data_seek(self.h, epoch, step)) end
--- Messages about broken pictures since the last call.
function Data:complaints()
  local list = {}
  while true do
    local s = C.ij_data_bad_next(self.h)
    if s == nil then return list end
    list[#list + 1] = F.string(s)
  end
end
--- The next batch as the library gives it (pixels (B, H, W, 3), labels, samples: valid until the next call); nil at the
--- end, nil and a message when pictures can't be read.
function Data:next()
  local st = C.ij_data_next(self.h, self.batch)
  if st == C.IJ_EEND then return nil end
  local ok, message, code = F.try(st)
  if not ok then return nil, message, code end
  return self.batch
end
--- Pixels u8 (B, H, W, 3) and labels i32 (B) of the next batch as tensors.
function Data:read()
  local b, message = self:next()
  if not b then return nil, message end
  return tensor.from_pointer(b.pixels, { b.count, self.height, self.width, 3 }, "u8"),
    tensor.from_pointer(b.labels, { b.count }, "i32"), b
end
--- Iterates over one pass: for x, labels, batch in data:batches() do ... end. Raises when pictures can't be read.
function Data:batches()
  return function()
    local x, labels, b = self:read()
    if not x and labels then F.raise(labels) end
    return x, labels, b
  end
end
--- Ends its threads; collecting the object does so too.
function Data:close()
  if self.h then C.ij_data_close(F.gc(self.h, nil)) end
  self.h = nil
end

return data

-- Images: batches of folders and tar files as tensors; copies of them, manifests; labelled scenes that the program draws
-- itself (`scenes`), and Mixup and CutMix (`mix`).
-- Uses: base, tensor, draw.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local bit = require "bit"
local C = F.C

local data = {}
---@class ijepa.data
local Data = {}
Data.__index = Data

local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

--- Several roots as one text, for messages.
---@param root string|string[]
---@return string
function data.title(root) return type(root) == "table" and table.concat(root, ", ") or root end

--- Where indexes of tars and cached features lie: the folder given, or ijepa/ in XDG_CACHE_HOME, or in ~/.cache.
---@param folder string?
---@return string
function data.cache_folder(folder)
  if folder then return folder end
  local base = os.getenv "XDG_CACHE_HOME"
  return (base and base ~= "" and base or (os.getenv "HOME" or ".") .. "/.cache") .. "/ijepa"
end

-- The sources of o in the C configuration c; what must not be collected before it is used, or nil and a message.
local function set_sources(c, o)
  local roots, weights = o.root, o.weights
  if type(roots) == "string" then roots = { roots } end
  local n = type(roots) == "table" and #roots or 0
  if n == 0 or roots[1] == "" then
    return nil, "data.root is not set: give a folder of images, e.g. data.root=images"
  end
  if weights and #weights == 0 then weights = nil end
  if weights and #weights ~= n then
    return nil, ("data.weights has %d numbers for the %d sources of data.root"):format(#weights, n)
  end
  local held = { roots = F.new("const char *[?]", n), weights = weights and F.new("double[?]", n), o }
  for i = 1, n do
    held.roots[i - 1] = roots[i]
    if weights then held.weights[i - 1] = weights[i] end
  end
  c.sources, c.roots, c.weights = n, held.roots, held.weights or nil
  return held
end

--- Opens a folder, a tar or a list of tars, or several of them mixed (docs/data.md). o: root, crop, batch; train (random
--- crops, shuffled, for ever) or not (short side to `resize`, centre crop, in order, once); subset, weights, scale, ratio,
--- flip, jitter, grey, blur, workers, prefetch, seed, max_bad, max_pixels, max_bytes, untrusted_loaders; rank, world:
--- of several processes, which take turns at batches; multiple: an epoch's batches are a multiple of it;
--- cache: folder of tars' indexes; copy, manifest: as data:copy and data:verify, with o.say. Returns nil and a message
--- where there is nothing to read.
---@param o table
---@return ijepa.data? data, string? message, integer? code
function data.open(o)
  local c, out = F.new "ij_data_config", F.new "ij_data *[1]"
  local held, why = set_sources(c, o)
  if not held then return nil, why end
  c.subset, c.cache = o.subset, data.cache_folder(o.cache)
  c.height, c.width = pair(o.crop or 224)
  c.train, c.resize = o.train and 1 or 0, o.resize or 0
  c.shuffle = (o.shuffle == nil and o.train or o.shuffle) and 1 or 0
  c.scale[0], c.scale[1] = (o.scale or { .3, 1 })[1], (o.scale or { .3, 1 })[2]
  c.ratio[0], c.ratio[1] = (o.ratio or { 3 / 4, 4 / 3 })[1], (o.ratio or { 3 / 4, 4 / 3 })[2]
  c.flip, c.jitter, c.jitter_p, c.grey_p, c.blur_p = o.flip or 0, o.jitter or 0, o.jitter_p or .8, o.grey or 0, o.blur or 0
  c.batch, c.drop_last = o.batch or 64, (o.drop_last == nil and o.train or o.drop_last) and 1 or 0
  c.workers, c.prefetch, c.seed = o.workers or 2, o.prefetch or 4, o.seed or 0
  c.rank, c.world, c.multiple = o.rank or 0, o.world or 1, o.multiple or 1
  c.max_bad, c.max_pixels, c.max_bytes = o.max_bad or -1, o.max_pixels or 0, o.max_bytes or 0
  c.untrusted_loaders = o.untrusted_loaders and 1 or 0
  local ok, message, code = F.try(C.ij_data_open(c, out))
  if not ok then return nil, message, code end
  local d = setmetatable({ h = F.gc(out[0], C.ij_data_close), batch = F.new "ij_batch", height = c.height, width = c.width }, Data)
  local good, problem = true, nil
  if o.copy and o.copy ~= "" then good, problem = d:copy(o.copy, o.say) end
  if good and o.manifest and #o.manifest > 0 then good, problem = d:verify(o.manifest, o.say) end
  if good then return d end
  d:close()
  return nil, problem
end

local function gigabytes(n) return ("%.2f GB"):format(n / 1e9) end

-- Waits for long work, telling how far it is every ten seconds. Returns its last progress and its seconds, or nil, message.
local function wait_for(wait, what, say)
  local p, started, told = F.new "ij_progress", C.ij_time(), C.ij_time()
  repeat
    local ok, message, code = F.try(wait(p))
    if not ok then return nil, message, code end
    if say and p.over == 0 and C.ij_time() - told > 10 then
      told = C.ij_time()
      say(("%s: %d of %d files, %s%s"):format(what, tonumber(p.files_done), tonumber(p.files), gigabytes(tonumber(p.bytes_done)),
        p.bytes > p.bytes_done and " of " .. gigabytes(tonumber(p.bytes)) or ""))
    end
  until p.over ~= 0
  return p, C.ij_time() - started
end

--- The number of images.
---@return integer
function Data:count() return tonumber(C.ij_data_count(self.h)) end
--- Batches of an epoch.
---@return integer
function Data:epoch_steps() return tonumber(C.ij_data_steps(self.h)) end
--- The names of the classes, in the order of their numbers; empty for a plain folder.
---@return string[]
function Data:classes()
  local list = {}
  for i = 0, C.ij_data_classes(self.h) - 1 do list[i + 1] = F.string(C.ij_data_class(self.h, i)) end
  return list
end
--- The number of sources, and of which one image i is (from 0).
---@return integer
function Data:sources() return C.ij_data_sources(self.h) end
---@param i integer
---@return integer
function Data:source(i) return C.ij_data_source(self.h, i) end

--- Copies all files under a folder of a local disk, but those that are there already, and reads them from there from now
--- on. Each lies there under its real path. Waits until it is done; say(text): what is told on the way.
---@param folder string
---@param say fun(text: string)?
---@return boolean? ok, string? message
function Data:copy(folder, say)
  local p, seconds, code = wait_for(function(p) return C.ij_data_copy(self.h, folder, 1, p) end, "copying to " .. folder, say)
  if not p then return nil, seconds, code end
  if say and p.bytes > 0 then
    say(("copied to %s: %s in %.1f s"):format(folder, gigabytes(tonumber(p.bytes_done)), seconds))
  end
  return true
end

--- The SHA-256 of each file of source i (from 0; images of a folder, or tars) as lines of sha256sum, in order.
---@param i integer?
---@return (fun(): string?)? lines, string? message
function Data:manifest(i)
  local out = F.new "ij_manifest *[1]"
  local ok, message, code = F.try(C.ij_manifest_open(self.h, i or 0, nil, out))
  if not ok then return nil, message, code end
  local m = F.gc(out[0], C.ij_manifest_close)
  local p, seconds = wait_for(function(p) return C.ij_manifest_wait(m, 1, p) end, "", nil)
  if not p then return nil, seconds end
  if C.ij_manifest_problems(m) > 0 then return nil, "manifest: " .. F.string(C.ij_manifest_problem(m, 0)) end
  local at, held = -1, { m, self }   -- the manifest looks into the lists of self
  return function()
    at = at + 1
    local line = C.ij_manifest_line(held[1], at)
    return line ~= nil and F.string(line) or nil
  end
end

--- Compares the files of each source with a manifest of it, reading all their bytes. Returns nil and what differs.
---@param files string|string[] a manifest for each source
---@param say fun(text: string)?
---@return boolean? ok, string? message
function Data:verify(files, say)
  if type(files) == "string" then files = { files } end
  if #files ~= self:sources() then
    return nil, ("data.manifest names %d files for %d sources"):format(#files, self:sources())
  end
  for i, file in ipairs(files) do
    local out = F.new "ij_manifest *[1]"
    local ok, message, code = F.try(C.ij_manifest_open(self.h, i - 1, file, out))
    if not ok then return nil, message, code end
    local m = F.gc(out[0], C.ij_manifest_close)
    local p, seconds = wait_for(function(p) return C.ij_manifest_wait(m, 1, p) end, "checking by " .. file, say)
    if not p then return nil, seconds end
    local n, list = tonumber(C.ij_manifest_problems(m)), {}
    for k = 0, math.min(n, 3) - 1 do list[#list + 1] = F.string(C.ij_manifest_problem(m, k)) end
    C.ij_manifest_close(F.gc(m, nil))
    if n > 0 then
      return nil, ("data.manifest '%s': %d files are wrong: %s%s"):format(file, n, table.concat(list, "; "), n > 3 and "; ..." or "")
    end
    if say then
      say(("%d files are as '%s' says: %s in %.1f s"):format(tonumber(p.files), file, gigabytes(tonumber(p.bytes_done)), seconds))
    end
  end
  return true
end

--- The name of image i in its source, from 0 as in a batch's samples.
---@param i integer
---@return string?
function Data:name(i)
  local s = C.ij_data_name(self.h, i)
  return s ~= nil and F.string(s) or nil
end
--- The class of image i, from 0, or -1 without one.
---@param i integer
---@return integer
function Data:label(i) return C.ij_data_label(self.h, i) end
--- Image i (from 0) as an epoch (0) crops and colours it, apart from the sequence of batches.
---@param i integer
---@param epoch integer?
---@return ijepa.tensor? x u8 (1, H, W, 3), string? message
function Data:image(i, epoch)
  local pixels = F.new("uint8_t[?]", self.height * self.width * 3)
  local ok, message = F.try(C.ij_data_image(self.h, i, epoch or 0, pixels))
  if not ok then return nil, message end
  return tensor.from_pointer(pixels, { 1, self.height, self.width, 3 }, "u8")
end
--- A number (as 16 hexadecimal digits) of what the data set holds: names, sizes and times of change of its files.
---@return string
function Data:stamp() return bit.tohex(C.ij_data_stamp(self.h), 16) end
--- Goes on with this batch: epoch and step within it, from 0.
---@param epoch integer
---@param step integer
function Data:seek(epoch, step) F.check(C.ij_data_seek(self.h, epoch, step)) end
--- Messages about corrupt images since the last call.
---@return string[]
function Data:complaints()
  local list = {}
  while true do
    local s = C.ij_data_bad_next(self.h)
    if s == nil then return list end
    list[#list + 1] = F.string(s)
  end
end
--- The next batch as the library gives it (pixels (B, H, W, 3), labels, samples: valid until the next call); nil at the
--- end, nil and a message when images can't be read.
---@return ffi.cdata*? batch, string? message, integer? code
function Data:next()
  local st = C.ij_data_next(self.h, self.batch)
  if st == C.IJ_EEND then return nil end
  local ok, message, code = F.try(st)
  if not ok then return nil, message, code end
  return self.batch
end
--- Pixels u8 (B, H, W, 3) and labels i32 (B) of the next batch as tensors.
---@return ijepa.tensor? x, ijepa.tensor|string|nil labels_or_message, ffi.cdata*? batch
function Data:read()
  local b, message = self:next()
  if not b then return nil, message end
  return tensor.from_pointer(b.pixels, { b.count, self.height, self.width, 3 }, "u8"),
    tensor.from_pointer(b.labels, { b.count }, "i32"), b
end
--- Iterates over one pass: for x, labels, batch in data:batches() do ... end. Raises when images can't be read.
---@return fun(): ijepa.tensor?, ijepa.tensor?, ffi.cdata*?
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

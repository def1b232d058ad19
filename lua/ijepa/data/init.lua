-- Images: batches of folders and tar files as tensors; copies of them, manifests; labelled scenes
-- that the program draws itself (`scenes`), and Mixup and CutMix (`mix`).
-- Uses: base, tensor, draw.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local groups = require "ijepa.base.groups"
local text = require "ijepa.base.text"
local paths = require "ijepa.base.paths"
local bit = require "bit"
local C = F.C

local data = {}
---@class ijepa.catalogue  which images there are: those of one source or several, numbered from 0
---@field c ffi.cdata* the library's ij_catalogue
local Catalogue = {}
Catalogue.__index = Catalogue
---@class ijepa.data: ijepa.catalogue  a catalogue, and batches of its images
---@field loader ffi.cdata* the library's ij_loader
---@field view ffi.cdata* the library's ij_view: how an image becomes pixels
---@field height integer of a batch's images, pixels
---@field width integer
local Data = setmetatable({}, { __index = Catalogue })
Data.__index = Data

local function sources_text(self)
  return ("'%s': %s, %s"):format(self.root_text or "data", text.count(self:count(), "image"),
    text.count(#self:classes(), "class", "classes"))
end
function Catalogue:__tostring()
  return self.c ~= nil and "catalogue of " .. sources_text(self) or "catalogue that is closed"
end
function Data:__tostring()
  if self.loader == nil then return "data that are closed" end
  return ("data of %s; batches of %d x %d pixels, %s per epoch"):format(sources_text(self),
    self.height, self.width, text.count(self:epoch_steps(), "batch", "batches"))
end

local orients = { torchvision = C.IJ_ORIENT_TORCHVISION, exif = C.IJ_ORIENT_EXIF,
  stored = C.IJ_ORIENT_STORED }

local function pair(v) if type(v) == "table" then return v[1], v[2] end return v, v end

--- Several roots as one text, for messages.
---@param root string|string[]
---@return string
function data.title(root) return type(root) == "table" and table.concat(root, ", ") or root end

--- Where indexes of tars and cached features lie: the folder given, or ijepa/ in XDG_CACHE_HOME, or
--- in ~/.cache.
---@param folder string?
---@return string
function data.cache_folder(folder)
  if folder then return folder end
  local base = os.getenv "XDG_CACHE_HOME"
  return (base and base ~= "" and base or (os.getenv "HOME" or ".") .. "/.cache") .. "/ijepa"
end

-- The roots of o as a list, and their weights or nil; or nil and a message.
local function sources_of(o)
  local roots, weights = o.root, o.weights
  if type(roots) == "string" then roots = { roots } end
  local n = type(roots) == "table" and #roots or 0
  if n == 0 or roots[1] == "" then
    return nil, "data.root is not set: give a folder of images, e.g. data.root=images"
  end
  for _, root in ipairs(roots) do
    if type(root) == "string" and C.ij_path_kind(root) == 0 then
      return nil, ("data '%s' is not there%s"):format(root, paths.hint(root))
    end
  end
  if weights and #weights == 0 then weights = nil end
  if weights and #weights ~= n then
    return nil, ("data.weights has %s for %s in data.root: give one weight per source"):format(
      text.count(#weights, "value"), text.count(n, "source"))
  end
  return roots, weights
end

-- How images become pixels, by o, into the configuration c; true, or nil and a message.
local function decoding(c, o)
  c.max_pixels, c.max_bytes, c.untrusted_loaders = o.max_pixels or 0, o.max_bytes or 0,
    o.untrusted_loaders and 1 or 0
  local orient, damaged, range = orients[o.orient or "torchvision"], o.damaged or "decode",
    o.range or {}
  if not orient then
    return nil, ("data.orient = '%s': expected torchvision, exif or stored"):format(
      tostring(o.orient))
  end
  if damaged ~= "decode" and damaged ~= "skip" then
    return nil, ("data.damaged = '%s': expected decode or skip"):format(tostring(damaged))
  end
  if #range ~= 0 and not (#range == 2 and range[1] < range[2]) then
    return nil, ("data.range = '%s': expected two numbers, low and high, rising"):format(
      table.concat(range, ","))
  end
  c.orient, c.skip_damaged = orient, damaged == "skip" and 1 or 0
  if #range == 2 then c.range = range end
  return true
end

--- How a run's images become pixels: the options orient, damaged and range of data.open, from o, or
--- else from the settings of the run.
---@param o table options, which count first
---@param settings { data: table? }? of a run or a checkpoint
---@return { orient: string?, damaged: string?, range: number[]? }
function data.decoding(o, settings)
  local d = settings and settings.data or {}
  return { orient = o.orient or d.orient, damaged = o.damaged or d.damaged,
    range = o.range or d.range }
end

-- Copies and verifies, where o asks for it; true, or nil and a message.
local function prepare(self, o)
  local good, problem, code = true, nil, nil
  if o.copy and o.copy ~= "" then good, problem, code = self:copy(o.copy, o.say) end
  if good and o.manifest and #o.manifest > 0 then
    good, problem, code = self:verify(o.manifest, o.say)
  end
  return good, problem, code
end

--- Lists the images of a folder, a tar or a list of tars, or of several of them (docs/data.md),
--- without reading any. Give `data.open` the same options for batches. Returns nil and a message
--- where there is nothing to read.
---@param o { root: string|string[], subset: string?, cache: string?, max_pixels: integer?, max_bytes: integer?,
---untrusted_loaders: boolean?, orient: string?, damaged: string?, range: number[]?, copy: string?,
---manifest: string|string[]?, say: fun(text: string)? } cache: folder for the indexes of large tars; untrusted_loaders: also
---read formats that libvips calls unsafe, such as SVG; orient: "torchvision", "exif" or "stored"; damaged: "decode" or
---"skip"; range: {low, high} of images of more than 8 bits; copy, manifest: as for `copy` and `verify`, which report to say
---@return ijepa.catalogue? catalogue, string? message, integer? code
function data.catalogue(o)
  local roots, why = sources_of(o)
  if not roots then return nil, why end
  local c, out = F.new "ij_catalogue_config", F.new "ij_catalogue *[1]"
  local names = F.new("const char *[?]", #roots)
  for i, root in ipairs(roots) do names[i - 1] = root end
  c.source_count, c.roots, c.subset, c.cache = #roots, names, o.subset, data.cache_folder(o.cache)
  local known, wrong = decoding(c, o)
  if not known then return nil, wrong end
  local ok, message, code = F.try(C.ij_catalogue_open(c, out))
  if not ok then return nil, message, code end
  local self = setmetatable({ c = F.gc(out[0], C.ij_catalogue_close),
    root_text = text.shown(table.concat(roots, ", ")) }, Catalogue)
  ok, message, code = prepare(self, o)
  if ok then return self end
  self:close()
  return nil, message, code
end

-- The options of group g of views (from 1): its own over those of all.
local function view_options(o, g)
  local own = setmetatable({ views = false }, { __index = o })
  for key, value in pairs(o.views[g]) do own[key] = value end
  return own
end

-- The view that options stand for: with groups of views the first one's.
local function view_of(o)
  local v = F.new "ij_view"
  if o.views and #o.views > 0 then o = view_options(o, 1) end
  v.height, v.width = pair(o.crop or 224)
  v.train, v.resize, v.seed = o.train and 1 or 0, o.resize or 0, o.seed or 0
  v.scale, v.ratio = o.scale or { .3, 1 }, o.ratio or { 3 / 4, 4 / 3 }
  v.flip, v.jitter, v.jitter_p, v.grey_p, v.blur_p = o.flip or 0, o.jitter or 0, o.jitter_p or .8,
    o.grey or 0, o.blur or 0
  return v
end

--- The views of an image: of each group their count, and their size in pixels.
---@param o { crop: integer|integer[]?, views: table[]? } as for data.open
---@return { n: integer, height: integer, width: integer }[]
function data.view_sizes(o)
  local list = {}
  for g = 1, math.max(1, o.views and #o.views or 0) do
    local own = o.views and o.views[g] or {}
    local height, width = pair(own.crop or o.crop or 224)
    list[g] = { n = own.n or 1, height = height, width = width }
  end
  return list
end

-- The groups of views as the library takes them, into the configuration c; true, or nil and a
-- message. The array lives as long as what is returned.
local function views_into(c, o)
  local wrong = o.views and groups.wrong("views", o.views)
  if wrong then return nil, "data.views: " .. wrong end
  local n = o.views and #o.views or 0
  if n == 0 then return true end
  local list = F.new("ij_view_group[?]", n)
  for g = 1, n do
    list[g - 1].view, list[g - 1].n = view_of(view_options(o, g)), o.views[g].n
  end
  c.view_groups, c.views = n, list
  return list
end

--- Opens a catalogue and batches of its images. Options besides those of `data.catalogue`: crop:
--- side of the output or {height, width} (224); batch (64); train: random crops, shuffled, without
--- end; otherwise the short side to `resize`, centre crop, in order, one pass; shuffle, drop_last:
--- as train; weights: fractions of an epoch, one per root; scale, ratio: of the random crop; flip,
--- jitter, jitter_p, grey, blur: colours; views: a list of groups of views (docs/data.md#several-views),
--- each { n = count, and its own crop, scale, ratio, flip, jitter, jitter_p, grey, blur }; workers: threads (2); prefetch: batches (4); seed;
--- max_bad: fraction of corrupt images above which reading fails (.01); rank, world: this process
--- and their number, which take batches in turns; multiple: an epoch's number of batches is a
--- multiple of it. Returns nil and a message where there is nothing to read.
---@param o table
---@return ijepa.data? data, string? message, integer? code
function data.open(o)
  local roots, weights = sources_of(o)
  if not roots then return nil, weights end
  local self, message, code = data.catalogue(o)
  if not self then return nil, message, code end
  local c, out = F.new "ij_loader_config", F.new "ij_loader *[1]"
  local list = weights and F.new("double[?]", #roots)
  for i = 1, weights and #roots or 0 do list[i - 1] = weights[i] end
  local groups_held
  groups_held, message = views_into(c, o)   -- c points into it until the library has copied it
  if not groups_held then
    self:close()
    return nil, message
  end
  c.view, c.weights = view_of(o), list
  c.shuffle = (o.shuffle == nil and o.train or o.shuffle) and 1 or 0
  c.batch, c.drop_last = o.batch or 64, (o.drop_last == nil and o.train or o.drop_last) and 1 or 0
  c.workers, c.prefetch = o.workers or 2, o.prefetch or 4
  c.rank, c.world, c.multiple, c.max_bad = o.rank or 0, o.world or 1, o.multiple or 1,
    o.max_bad or -1
  local ok
  ok, message, code = F.try(C.ij_loader_open(self.c, c, out))
  if not (ok and groups_held) then
    self:close()
    return nil, message, code
  end
  self.loader, self.batch = F.gc(out[0], C.ij_loader_close), F.new "ij_batch"
  self.view = view_of(o)
  self.height, self.width = self.view.height, self.view.width
  return setmetatable(self, Data)
end

-- Waits for long work, and reports its progress every ten seconds. Returns its last progress and
-- its seconds, or nil, message and code.
local function wait_for(wait, what, say)
  local p, started, told = F.new "ij_progress", C.ij_time(), C.ij_time()
  repeat
    local ok, message, code = F.try(wait(p))
    if not ok then return nil, message, code end
    if say and p.over == 0 and C.ij_time() - told > 10 then
      told = C.ij_time()
      say(("%s: %d of %s, %s%s"):format(what, tonumber(p.files_done),
        text.count(tonumber(p.files), "file"),
        text.bytes(tonumber(p.bytes_done)),
        p.bytes > p.bytes_done and " of " .. text.bytes(tonumber(p.bytes)) or ""))
    end
  until p.over ~= 0
  return p, C.ij_time() - started
end

--- The number of images.
---@return integer
function Catalogue:count() return tonumber(C.ij_catalogue_count(self.c)) end
--- The names of the classes, in the order of their numbers; empty for a plain folder.
---@return string[]
function Catalogue:classes()
  local list = {}
  for i = 0, C.ij_catalogue_class_count(self.c) - 1 do
    list[i + 1] = F.string(C.ij_catalogue_class(self.c, i))
  end
  return list
end
--- The number of sources.
---@return integer
function Catalogue:sources() return C.ij_catalogue_source_count(self.c) end
--- The number of the source of image i, both from 0.
---@param i integer
---@return integer
function Catalogue:source(i) return C.ij_catalogue_source(self.c, i) end

--- Copies all files to a folder on a local disk, each to its real path under it, except those that
--- are there already; reads them from there from now on. Waits until it is done; say(text): gets
--- reports on its progress.
---@param folder string
---@param say fun(text: string)?
---@return boolean? ok, string? message
function Catalogue:copy(folder, say)
  local p, seconds, code =
    wait_for(function(p) return C.ij_catalogue_copy(self.c, folder, 1, p) end,
    "copying to " .. folder, say)
  if not p then return nil, seconds, code end
  if say and p.bytes > 0 then
    say(("copied to %s: %s in %.1f s"):format(folder, text.bytes(tonumber(p.bytes_done)), seconds))
  end
  return true
end

--- The SHA-256 of each file of source i (from 0; images of a folder, or tars) as lines of
--- sha256sum, in order.
---@param i integer?
---@return (fun(): string?)? lines, string? message
function Catalogue:manifest(i)
  local out = F.new "ij_manifest *[1]"
  local ok, message, code = F.try(C.ij_manifest_open(self.c, i or 0, nil, out))
  if not ok then return nil, message, code end
  local m = F.gc(out[0], C.ij_manifest_close)
  local p, seconds = wait_for(function(p) return C.ij_manifest_wait(m, 1, p) end, "", nil)
  if not p then return nil, seconds end
  if C.ij_manifest_problems(m) > 0 then
    return nil, "manifest: " .. F.string(C.ij_manifest_problem(m, 0))
  end
  local i_line = -1
  return function()
    i_line = i_line + 1
    local line = C.ij_manifest_line(m, i_line)
    return line ~= nil and F.string(line) or nil
  end
end

--- Compares the files of each source with a manifest of it, reading all their bytes. Returns nil
--- and what differs.
---@param files string|string[] a manifest for each source
---@param say fun(text: string)?
---@return boolean? ok, string? message
function Catalogue:verify(files, say)
  if type(files) == "string" then files = { files } end
  if #files ~= self:sources() then
    return nil, ("data.manifest has %s for %s: give one manifest per source"):format(
      text.count(#files, "file"),
      text.count(self:sources(), "source"))
  end
  for i, file in ipairs(files) do
    local out = F.new "ij_manifest *[1]"
    local ok, message, code = F.try(C.ij_manifest_open(self.c, i - 1, file, out))
    if not ok then return nil, message, code end
    local m = F.gc(out[0], C.ij_manifest_close)
    local p, seconds = wait_for(function(p) return C.ij_manifest_wait(m, 1, p) end,
      "checking against " .. file, say)
    if not p then return nil, seconds end
    local n, list = tonumber(C.ij_manifest_problems(m)), {}
    for k = 0, math.min(n, 3) - 1 do list[#list + 1] = F.string(C.ij_manifest_problem(m, k)) end
    C.ij_manifest_close(F.gc(m, nil))
    if n > 0 then
      return nil, ("data.manifest '%s': %s wrong: %s%s"):format(file,
        text.count(n, "file is", "files are"),
        table.concat(list, "; "), n > 3 and "; ..." or "")
    end
    if say then
      say(("%s '%s': %s in %.1f s"):format(text.count(tonumber(p.files), "file matches",
        "files match"), file,
        text.bytes(tonumber(p.bytes_done)), seconds))
    end
  end
  return true
end

--- The name of image i in its source, from 0 as in a batch's samples.
---@param i integer
---@return string?
function Catalogue:name(i)
  local s = C.ij_catalogue_name(self.c, i)
  return s ~= nil and F.string(s) or nil
end
--- The class of image i, from 0, or -1 without one.
---@param i integer
---@return integer
function Catalogue:label(i) return C.ij_catalogue_label(self.c, i) end
-- The view of a call: given as options, or that of the batches.
local function want_view(self, o)
  local view = o and view_of(o) or self.view
  if not view then
    F.raise "catalogue:image(i, epoch, options): options such as { crop = 224 } are missing"
  end
  return view
end
--- Image i (from 0), apart from the sequence of batches.
---@param i integer
---@param epoch integer? the epoch (0) whose random crop and colours it gets
---@param o table? crop, resize, train, scale, ... as for data.open; default: those of the batches
---@return ijepa.tensor? x u8 (1, H, W, 3), string? message
function Catalogue:image(i, epoch, o)
  local v = want_view(self, o)
  local pixels = F.new("uint8_t[?]", v.height * v.width * 3)
  local ok, message = F.try(C.ij_catalogue_image(self.c, v, i, epoch or 0, pixels))
  if not ok then return nil, message end
  return tensor.from_pointer(pixels, { 1, v.height, v.width, 3 }, "u8")
end
--- As `image`, with the view of the batches, into memory of the caller.
---@param i integer
---@param epoch integer
---@param pixels ffi.cdata* uint8_t *, (H, W, 3)
---@return boolean? ok, string? message
function Data:image_into(i, epoch, pixels)
  return F.try(C.ij_catalogue_image(self.c, self.view, i, epoch, pixels))
end
--- A hash of the contents, as 16 hexadecimal digits: names, sizes and modification times of the
--- files.
---@return string
function Catalogue:stamp() return bit.tohex(C.ij_catalogue_stamp(self.c), 16) end
--- Closes the catalogue; collecting the object does so too.
function Catalogue:close()
  if self.c then C.ij_catalogue_close(F.gc(self.c, nil)) end
  self.c = nil
end

--- Batches of an epoch.
---@return integer
function Data:epoch_steps() return tonumber(C.ij_loader_steps(self.loader)) end
--- The next batch will be this one: epoch and step within it, from 0.
---@param epoch integer
---@param step integer
function Data:seek(epoch, step) F.check(C.ij_loader_seek(self.loader, epoch, step)) end
--- The number of different corrupt images so far.
---@return integer
function Data:corrupt_count() return tonumber(C.ij_loader_corrupt_count(self.loader)) end
--- Messages since the last call: what was left out of the catalogue and corrupt images, each
--- "skipped NAME: reason"; once per data set, an image of next to no contrast.
---@return string[]
function Data:complaints()
  local list = {}
  local function add(next_message, of, what)
    local s = next_message(of)
    while s ~= nil do
      list[#list + 1] = what .. F.string(s)
      s = next_message(of)
    end
  end
  add(C.ij_catalogue_note, self.c, "skipped ")
  add(C.ij_loader_corrupt, self.loader, "skipped ")
  add(C.ij_loader_flat, self.loader, "image ")
  return list
end
--- The next batch as the library gives it (pixels (B, H, W, 3), labels, samples; views[g], g from 0:
--- pixels (n * B, height, width, 3), n, height, width: valid until the next call); nil at the end, nil and a message when images can't be read.
---@return ffi.cdata*? batch, string? message, integer? code
function Data:next()
  local st = C.ij_loader_next(self.loader, self.batch)
  if st == C.IJ_EEND then return nil end
  local ok, message, code = F.try(st)
  if not ok then return nil, message, code end
  return self.batch
end
--- The pixels of a batch as tensors: those of view 1 of group 1, u8 (B, H, W, 3), and of each group
--- u8 (n * B, h, w, 3), order [view][image].
---@param b ffi.cdata*|table as `next` gives it
---@return ijepa.tensor images, ijepa.tensor[] views
function data.tensors(b)
  local views = {}
  for g = 1, b.view_groups do
    local v = b.views[g - 1]
    views[g] = tensor.from_pointer(v.pixels, { v.n * b.count, v.height, v.width, 3 }, "u8")
  end
  return b.views[0].n == 1 and views[1] or views[1]:narrow(1, 1, b.count), views
end

--- Pixels u8 (B, H, W, 3) and labels i32 (B) of the next batch as tensors, and the pixels of each
--- group of views (see data.tensors).
---@return ijepa.tensor? x, ijepa.tensor|string|nil labels_or_message, ffi.cdata*? batch, ijepa.tensor[]? views
function Data:read()
  local b, message = self:next()
  if not b then return nil, message end
  local x, views = data.tensors(b)
  return x, tensor.from_pointer(b.labels, { b.count }, "i32"), b, views
end
--- Iterates over one pass: for x, labels, batch, views in data:batches() do ... end. Raises when
--- images can't be read.
---@return fun(): ijepa.tensor?, ijepa.tensor?, ffi.cdata*?, ijepa.tensor[]?
function Data:batches()
  return function()
    local x, labels, b, views = self:read()
    if not x and labels then F.raise(labels) end
    return x, labels, b, views
  end
end
--- Stops its threads; collecting the object does so too.
function Data:close()
  if self.loader then C.ij_loader_close(F.gc(self.loader, nil)) end
  self.loader = nil
  Catalogue.close(self)
end

return data

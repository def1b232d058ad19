--- Features of images: the outputs of a frozen encoder for a data set, one row per image, cached on
--- disk.
-- The name of a cache file is a hash of the encoder (names, shapes and bytes of its tensors, heads,
-- patch size), the data set (names, sizes and modification times of its files, see data:stamp),
-- crop, resize and kind of feature. Other weights or images give another file; a moved folder or
-- checkpoint the same one.
local bit = require "bit"
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local tensors = require "ijepa.save.tensors"
local text = require "ijepa.base.text"
local C = F.C

local features = {}

---@class ijepa.features
---@field x ijepa.tensor f32 (R, W), or (R, N, D) for tokens: a row an image, kept
---@field y ijepa.tensor i32 (R): class numbers from 0, kept
---@field sample ijepa.tensor i32 (R): the image's number in the data set's list, kept
---@field classes string[]
---@field root string where they come from, for messages

-- ---- extractors: functions of pixels u8 (B, H, W, 3), with a name that says what they compute
local Extractor = { __call = function(self, x) return self.f(x) end,
  __tostring = function(self)
    return ("features '%s'%s"):format(self.name,
      self.encoder and " of " .. tostring(self.encoder):match "[^\n]*" or "")
  end }
-- What features.of and features.pair return.
local Features = { __tostring = function(f)
  return ("features of '%s': x (%s) %s, y (%d), %s"):format(text.shown(f.root or "images"),
    table.concat(f.x:size(), ", "), f.x:dtype(), f.y:numel(),
    text.count(#f.classes, "class", "classes"))
end }

--- Makes a function from pixels u8 (B, H, W, 3) to features (B, ...) cacheable. name: identifies
--- what f computes besides the encoder's weights; give another one whenever f changes.
---@param name string
---@param encoder ijepa.encoder? whose weights f uses; nil: none
---@param f fun(x: ijepa.tensor): ijepa.tensor
---@return table
function features.extractor(name, encoder, f)
  return setmetatable({ name = name, encoder = encoder, f = f }, Extractor)
end

-- The outputs of the last n blocks of an encoder; an encoder of the user's own may have none.
local function outputs_of(encoder, x, n)
  if not encoder.blocks then
    F.raise(("features: the encoder has no method blocks(images, n) for its last %d blocks"):format(
      n))
  end
  return encoder:blocks(x, n)
end

local function last_blocks(encoder, x, n)
  local list = {}
  for i, b in ipairs(outputs_of(encoder, x, n)) do list[i] = b:layer_norm():mean(2) end
  return list
end

--- Average-pooled patches, (B, W). blocks: 0 for the last layer after its norm, n for the last n
--- blocks, each normalised and pooled, side by side.
---@param encoder ijepa.encoder
---@param blocks integer?
---@return table
function features.pooled(encoder, blocks)
  blocks = blocks or 0
  return features.extractor("pooled " .. blocks, encoder, function(x)
    return blocks == 0 and encoder(x):mean(2) or tensor.concat(last_blocks(encoder, x, blocks))
  end)
end

--- The text of `blocks` of features.pooled: "last layer", "last 4 blocks".
---@param blocks integer
---@return string
function features.layers(blocks)
  return blocks == 0 and "last layer" or "last " .. text.count(blocks, "block")
end

--- Last layer and last n blocks in one pass: (B, (1 + n) * D), the last layer's first D columns
--- first.
---@param encoder ijepa.encoder
---@param blocks integer
---@return table
function features.pooled_both(encoder, blocks)
  return features.extractor("pooled both " .. blocks, encoder, function(x)
    local outputs, list = outputs_of(encoder, x, blocks), {}
    if encoder.ends_with_norm then
      local w, b = encoder.by_name["norm.weight"].tensor, encoder.by_name["norm.bias"].tensor
      list[1] = outputs[blocks]:layer_norm(w, b, 1e-6):mean(2)
    else   -- of the user's own
      list[1] = encoder(x):mean(2)
    end
    for _, o in ipairs(outputs) do list[#list + 1] = o:layer_norm():mean(2) end
    return tensor.concat(list)
  end)
end

--- All patches of the last layer, (B, N, D), for attentive probes. Memory: images * N * D * 4
--- bytes.
---@param encoder ijepa.encoder
---@return table
function features.tokens(encoder)
  return features.extractor("tokens", encoder, function(x) return encoder(x) end)
end

--- The pixels (B, H * W * 3), 0 to 1: the baseline of a probe. Not cached: a cache would not be
--- faster.
---@param x ijepa.tensor u8 (B, H, W, 3)
---@return ijepa.tensor
function features.pixels(x)
  return tensor.normalise(x, { 0, 0, 0 }, { 1, 1, 1 }):reshape(x:size(1), x:size(2) * x:size(3) * 3)
end

-- ---- parts of features
--- Features of `count` columns, from column `from` (from 1) on.
---@param f ijepa.features
---@param from integer
---@param count integer
---@return ijepa.features
function features.columns(f, from, count)
  return setmetatable({ x = f.x:narrow(2, from, count):clone(true), y = f.y, sample = f.sample,
    classes = f.classes, root = f.root }, getmetatable(f))
end

--- Features of some rows; index: row numbers from 0.
---@param f ijepa.features
---@param index ijepa.tensor|integer[]
---@return ijepa.features
function features.rows(f, index)
  if not tensor.is(index) then index = tensor.new(index, "i32") end
  local n, at = index:numel(), index:read()
  local function pick(t)
    local from, to = t:read(), F.new("int32_t[?]", math.max(n, 1))
    for i = 0, n - 1 do to[i] = from[at[i]] end
    return tensor.from_pointer(to, { n }, "i32", true)
  end
  local x = f.x:rows(index):clone(true)   -- checks the index
  return setmetatable({ x = x, y = pick(f.y), sample = f.sample and pick(f.sample),
    classes = f.classes, root = f.root }, getmetatable(f))
end

-- ---- the cache
local say = text.say

--- The folder of cached features: see data.cache_folder.
features.folder = data.cache_folder

local function chain(h, t) -- adds the bytes of t to the hash h, some rows at a time
  local rows = t:dim() > 0 and t:size(1) or 1
  local step = math.max(1, math.floor(2 ^ 22 / math.max(t:bytes() / math.max(rows, 1), 1)))
  for from = 1, rows, step do
    local part = t:dim() > 0 and t:narrow(1, from, math.min(step, rows - from + 1)) or t
    h = C.ij_hash(h, part:read(), part:bytes())
  end
  return h
end
local function text_of(h) return bit.tohex(h, 16) end
local function check_of(f) return text_of(chain(chain(chain(0, f.x), f.y), f.sample)) end

-- An encoder as text: its sizes and a hash of its values.
local function encoder_stamp(encoder)
  local h = C.ij_hash(0, "", 0)
  for _, p in ipairs(encoder:params()) do
    local name = p.name .. " " .. table.concat(p.tensor:shape(), "x")
    h = chain(C.ij_hash(h, name, #name), p.tensor)
  end
  return ("%s heads %d patch %d %s"):format(text_of(h), encoder.heads or 0, encoder.patch,
    (encoder.options or encoder).dtype or "f32")
end

features.encoder_stamp = encoder_stamp

local function load(path, key, classes)
  local file, message = tensors.open(path)
  if not file then return nil, message end
  local x, y, sample = file:info "x", file:info "y", file:info "sample"
  local function numbers(t)
    return t and t.dtype == "i32" and #t.shape == 1 and t.shape[1] == x.shape[1]
  end
  if not x or x.dtype ~= "f32" or #x.shape < 2 or not numbers(y) or not numbers(sample) then
    message = "it holds other tensors than features"
  elseif file:meta "key" ~= key then
    message = "it belongs to something else"
  else
    local found = { x = tensor.from_pointer((file:data "x"), x.shape, "f32", true),
      y = tensor.from_pointer((file:data "y"), y.shape, "i32", true),
      sample = tensor.from_pointer((file:data "sample"), sample.shape, "i32", true),
        classes = classes }
    if file:meta "check" == check_of(found) then
      file:close()
      return found
    end
    message = "its values are damaged"
  end
  file:close()
  return nil, message
end

local function store(path, key, f, tell)
  local ok, message = F.try(C.ij_mkdirs((path:gsub("/[^/]*$", ""))))
  if ok then
    ok, message = tensors.save(path,
      { { name = "x", tensor = f.x.h }, { name = "y", tensor = f.y.h },
      { name = "sample", tensor = f.sample.h } }, { key = key, check = check_of(f) })
  end
  if not ok then tell("features are not cached: %s", message)
  else tell("features of '%s': %s, cached in %s, %.1f MiB", f.root,
    table.concat(f.x:shape(), " x "), path, f.x:bytes() / 2 ^ 20) end
end

-- ---- extraction
local function compute(f, images, n, root)
  local labels, samples, rows, at = F.new("int32_t[?]", n), F.new("int32_t[?]", n), nil, 0
  while at < n do
    local b, message = images:next()
    if not b then
      if message then return nil, message end
      break
    end
    local take = math.min(b.count, n - at)
    device.step(function() device.no_grad(function()
      local y = f(tensor.from_pointer(b.pixels, { b.count, images.height, images.width, 3 }, "u8"))
      if not rows then
        local shape = y:shape()
        shape[1] = n
        rows = tensor.empty(shape, "f32", true)
      end
      rows:narrow(1, at + 1, take):copy_(y:narrow(1, 1, take))
    end) end)
    for i = 0, take - 1 do labels[at + i], samples[at + i] = b.labels[i], b.samples[i] end
    at = at + take
  end
  if at == 0 then return nil, ("'%s' gave no images"):format(root) end
  return { x = rows:narrow(1, 1, at), y = tensor.from_pointer(labels, { at }, "i32", true),
    sample = tensor.from_pointer(samples, { at }, "i32", true) }
end

local function check(f)
  local n, labels = #f.classes, f.y:read()
  for i = 0, f.y:numel() - 1 do
    if labels[i] < 0 or labels[i] >= n then
      return nil, ("'%s': an image lies in no class folder: move it into one, or out"):format(
        f.root)
    end
  end
  local _, finite = tensor.norm { f.x }
  if not finite then
    return nil, ("'%s': the features hold NaN or infinity: the encoder's weights are broken"):format(f.root)
  end
  return f
end

--- The features of all images of a folder or tar with class folders, in order; from the cache if it
--- has them.
---@param f ijepa.extractor|fun(x: ijepa.tensor): ijepa.tensor a plain function's features are not
--- cached
---@param o table root, subset, crop, resize, batch (128), workers, max_bad, orient, damaged, range
--- as data.open, the last three as the encoder was trained with; limit: at most so many
--- images, drawn by seed; cache: false (off) or a folder (features.folder);
--- say: function(text) instead of stderr
---@return ijepa.features? features, string? message
function features.of(f, o)
  local encoder = getmetatable(f) == Extractor and f.encoder or {}
  local as = data.decoding(o, encoder.settings)
  local images, message = data.open { root = o.root, subset = o.subset, crop = o.crop,
    resize = o.resize, batch = o.batch or 128, workers = o.workers, shuffle = o.limit ~= nil,
    seed = o.seed, max_bad = o.max_bad, orient = as.orient, damaged = as.damaged,
    range = as.range }
  if not images then return nil, message end
  local classes = images:classes()
  if #classes < 2 then
    images:close()
    return nil, ("'%s' has no classes: a probe needs folders of classes, two or more"):format(
      o.root)
  end
  local tell = o.say and function(...) o.say(string.format(...)) end or say
  local n, path, key, found = math.min(images:count(), o.limit or math.huge), nil, nil, nil
  if o.cache ~= false and getmetatable(f) == Extractor then
    key = table.concat({ "2", f.name, f.encoder and encoder_stamp(f.encoder) or "none",
      images:stamp(), images.height, images.width,
      o.resize or 0, n, o.limit and "drawn by " .. (o.seed or 0) or 0, as.orient or "torchvision",
        as.damaged or "decode",
      table.concat(as.range or {}, ",") }, "; ")
    path = ("%s/%s.safetensors"):format(features.folder(o.cache or nil),
      text_of(C.ij_hash(0, key, #key)))
    if C.ij_path_kind(path) == 1 then
      found, message = load(path, key, classes)
      if found then tell("features of '%s': from the cache, %s", o.root, path)
      else tell("features of '%s': cache file '%s' is not used: %s; computed again", o.root, path,
        message) end
    end
  end
  if not found then
    found, message = compute(f, images, n, o.root)
    local bad = images:corrupt_count()
    if bad > 0 then tell("features of '%s': %d corrupt images were left out", o.root, bad) end
    if found then
      found.classes, found.root = classes, o.root
      found, message = check(found)
    end
    if found and path then store(path, key, found, tell) end
  end
  local stamp = images:stamp()
  images:close()
  if not found then return nil, message end
  setmetatable(found, Features)
  found.root, found.stamp = o.root, stamp
  return found
end

-- Why test cannot be classified with the classes of train, or nil.
local function mismatch(train, test)
  local known, other = {}, nil
  for _, name in ipairs(train.classes) do known[name] = true end
  for _, name in ipairs(test.classes) do other = other or not known[name] and name end
  if other then
    return ("'%s' has the class '%s', which '%s' has not"):format(test.root, other, train.root)
  end
  if #train.classes ~= #test.classes then
    return ("'%s' and '%s' hold other classes: %d and %d"):format(train.root, test.root,
      #train.classes, #test.classes)
  end
end

--- Whether two sets can be used for a probe; nil and a message where their classes differ or a
--- class has no training image.
---@param train ijepa.features
---@param test ijepa.features
---@return boolean? ok, string? message
function features.fit(train, test)
  local message = mismatch(train, test)
  if message then return nil, message end
  local count = features.counts(train)
  for i, name in ipairs(train.classes) do
    if count[i] == 0 then
      return nil, ("class '%s' has no training image in '%s'"):format(name, train.root)
    end
  end
  return true
end

--- The number of rows of each class.
---@param f ijepa.features
---@return integer[] counts
function features.counts(f)
  local count, labels = {}, f.y:read()
  for i = 1, #f.classes do count[i] = 0 end
  for i = 0, f.y:numel() - 1 do count[labels[i] + 1] = count[labels[i] + 1] + 1 end
  return count
end

--- Warns that a score is of the images that a probe was trained on.
---@param train string
---@param test string
---@param tell? fun(text: string)
function features.warn_same(train, test, tell)
  local line = "warning: train and test are the same images ('%s'%s): the score says nothing " ..
    "about other images"
  local also = train ~= test and (" and '%s'"):format(test) or ""
  if tell then tell(line:format(train, also)) else say(line, train, also) end
end

--- Features of two folders (or tars) with the same classes. o: train, test, crop, resize, workers,
--- feature_batch, limit (of train), seed, cache, say.
---@param f table from features.extractor
---@param o table
---@return ijepa.features? train, ijepa.features|string test_or_message
function features.pair(f, o)
  local function read(root, limit)
    return features.of(f, { root = root, crop = o.crop, resize = o.resize, batch = o.feature_batch,
      workers = o.workers, limit = limit, orient = o.orient, damaged = o.damaged, range = o.range,
      seed = o.seed, cache = o.cache, say = o.say })
  end
  local train, message = read(o.train, o.limit)
  if not train then return nil, message end
  local test
  test, message = read(o.test)
  if not test then return nil, message end
  if train.stamp == test.stamp then features.warn_same(o.train, o.test, o.say) end
  local ok
  ok, message = features.fit(train, test)
  if not ok then return nil, message end
  return train, test
end

--- The number of rows that are held out to choose settings: a tenth, or none where a class has
--- fewer than ten rows on average.
---@param f ijepa.features
---@return integer
function features.held(f)
  local R = f.y:numel()
  return R >= 10 * #f.classes and math.floor(R / 10) or 0
end

--- Row numbers 0..n-1 in an order drawn by seed, int32_t[n].
---@param n integer
---@param seed integer?
---@return ffi.cdata*
function features.shuffled(n, seed)
  local rng, order = F.new "ij_rng", F.new("int32_t[?]", math.max(n, 1))
  for i = 0, n - 1 do order[i] = i end
  C.ij_rng_init(rng, seed or 0, C.IJ_RNG_PROBE, 0, 0)
  C.ij_rng_shuffle(rng, F.cast("uint32_t *", order), n)
  return order
end

--- Rows drawn from each class by seed: `number` of each, or the fraction `share` of each (at least
--- one).
---@param f ijepa.features
---@param o { number: integer?, share: number?, seed: integer? }
---@return integer[]? rows numbers from 0, ascending by class, string? message
function features.few(f, o)
  local R, labels, of = f.y:numel(), f.y:read(), {}
  local order = features.shuffled(R, o.seed)
  for i = 1, #f.classes do of[i] = {} end
  for i = 0, R - 1 do table.insert(of[labels[order[i]] + 1], order[i]) end
  local list = {}
  for i, rows in ipairs(of) do
    local want = o.number or math.max(1, math.floor(o.share * #rows + .5))
    if #rows < want then
      return nil, ("class '%s' has %s in '%s', not %d"):format(f.classes[i],
        text.count(#rows, "image"),
        f.root or "train", want)
    end
    for k = 1, want do list[#list + 1] = rows[k] end
  end
  return list
end

return features

-- masks_*.json: counts of what the published sampler drew, compared with this engine's reference
-- mode. Block sizes must agree exactly, because the published code seeds them with the number of
-- the batch. Positions come from an unseeded stream there, so lengths and patches are compared as
-- samples, each at the level .001. The counts must also agree with one another, which finds a file
-- with a single wrong value.
local F = require "ijepa.base.ffi"
local mask = require "ijepa.mask"
local json = require "cjson.safe"

local MOST_BATCHES, MOST_IMAGES = 1e6, 2 ^ 23
local ROUNDED = 5e-6    -- frequencies are given to five digits
local EXACT = 0.5       -- tolerance of what is counted

local function fail(fmt, ...) error({ conform = fmt:format(...) }, 0) end

-- ---- reading ------------------------------------------------------------------------------------

local function whole(path, t, key, least, most)
  local v = t[key]
  if type(v) ~= "number" or v % 1 ~= 0 or v < least or v > most then
    fail("'%s': '%s' is not a whole number from %d to %d", path, key, least, most)
  end
  return v
end

local function pair(path, t, key)
  local v = t[key]
  if type(v) ~= "table" or type(v[1]) ~= "number" or type(v[2]) ~= "number" then
    fail("'%s': '%s' is not a list of two numbers", path, key)
  end
  return { v[1], v[2] }
end

-- { name = count }; `convert` turns the text of a name into the key
local function counts(path, file, key, convert)
  local t = file[key]
  if type(t) ~= "table" then fail("'%s': '%s' is missing", path, key) end
  local out = {}
  for name, n in pairs(t) do
    local as = convert(tostring(name))
    if not as then fail("'%s': '%s' in '%s' has an unknown form", path, tostring(name), key) end
    if type(n) ~= "number" or n % 1 ~= 0 or n < 0 or n > MOST_BATCHES then
      fail("'%s': '%s' of '%s' is not a count", path, tostring(name), key)
    end
    out[as] = n
  end
  return out
end

local function frequencies(path, file, key, patches)
  local t = file[key]
  if type(t) ~= "table" or #t ~= patches then
    fail("'%s': '%s' is not a list of %d numbers", path, key, patches)
  end
  for i = 1, patches do
    if type(t[i]) ~= "number" then
      fail("'%s': '%s' is not a list of %d numbers", path, key, patches)
    end
  end
  return t
end

local function read(path)
  local handle, message = io.open(path, "rb")
  if not handle then fail("%s", message) end
  local content = handle:read(2 ^ 24) or ""
  handle:close()
  local file, why = json.decode(content)
  if type(file) ~= "table" then fail("'%s' is not JSON: %s", path, why or "no object") end
  if type(file.config) ~= "table" then fail("'%s': 'config' is missing", path) end
  local c = file.config
  local crop = c.crop_size
  if type(crop) == "number" then crop = { crop, crop } end
  crop = pair(path, { crop_size = crop }, "crop_size")
  local patch = whole(path, c, "patch_size", 1, 4096)
  local r = { batches = whole(path, file, "batches", 1, MOST_BATCHES),
    images = whole(path, c, "batch_size", 1, 65536),
    grid = { math.floor(crop[1] / patch), math.floor(crop[2] / patch) },
    contexts = whole(path, c, "num_enc_masks", 1, 256),
      targets = whole(path, c, "num_pred_masks", 1, 256) }
  if r.batches * r.images > MOST_IMAGES then
    fail("'%s': more than %d images", path, MOST_IMAGES)
  end
  r.settings = { grid = r.grid, min_keep = whole(path, c, "min_keep", 0, 2 ^ 24),
    overlap = c.allow_overlap == true,
    context = { n = r.contexts, scale = pair(path, c, "enc_mask_scale") },
    target = { n = r.targets, scale = pair(path, c, "pred_mask_scale"),
      aspect = pair(path, c, "aspect_ratio") },
    group = r.images, quirks = "reference" }
  local function size(name) return name:match "^%d+x%d+$" end
  r.target_blocks = counts(path, file, "pred_block_hxw_counts", size)
  r.context_blocks = counts(path, file, "enc_block_hxw_counts", size)
  r.k = counts(path, file, "enc_keep_counts", tonumber)
  r.t = counts(path, file, "pred_keep_counts", tonumber)
  r.patches = r.grid[1] * r.grid[2]
  r.context = frequencies(path, file, "enc_patch_frequency", r.patches)
  r.target = frequencies(path, file, "pred_patch_frequency", r.patches)
  return r
end

-- ---- drawing ------------------------------------------------------------------------------------

-- The same batches, `repeats` times with other seeds: counts, and for each patch the mean and
-- variance over batches of the fraction of masks that hold it.
local function draw(r, repeats)
  local s = { k = {}, t = {}, target_blocks = {}, context_blocks = {}, repeats = repeats }
  local n, images = r.patches, r.images
  local function up(t, key) t[key] = (t[key] or 0) + 1 end
  local kinds = { context = r.contexts, target = r.targets }
  local fraction, sum, square = {}, {}, {}
  for kind in pairs(kinds) do
    fraction[kind], sum[kind], square[kind] = F.new("double[?]", n), F.new("double[?]", n),
      F.new("double[?]", n)
  end
  local function add(kind, rows, length)
    local x, total, squares, weight = fraction[kind], sum[kind], square[kind],
      1 / (images * kinds[kind])
    F.fill(x, n * 8)
    for i = 0, images * kinds[kind] * length - 1 do x[rows[i]] = x[rows[i]] + weight end
    for i = 0, n - 1 do
      total[i] = total[i] + x[i]
      squares[i] = squares[i] + x[i] * x[i]
    end
  end
  for seed = 0, repeats - 1 do
    r.settings.seed = seed
    local policy = mask.new(r.settings)
    for b = 0, r.batches - 1 do
      local m = policy:sample_raw(images, b * images)
      up(s.k, m.k)
      up(s.t, m.t)
      if seed == 0 then
        up(s.target_blocks, m.target_h .. "x" .. m.target_w)
        up(s.context_blocks, m.context_h .. "x" .. m.context_w)
      end
      add("context", m.context, m.k)
      add("target", m.target, m.t)
    end
  end
  local all = r.batches * repeats
  for kind in pairs(kinds) do
    local mean, variance = {}, {}
    for i = 1, n do
      mean[i] = sum[kind][i - 1] / all
      variance[i] = math.max(0, square[kind][i - 1] / all - mean[i] ^ 2)
      if variance[i] < 1e-12 then variance[i] = 0 end
    end
    s[kind] = { mean = mean, variance = variance }
  end
  return s
end

-- ---- comparing ----------------------------------------------------------------------------------

local function sum_of(t)
  local sum = 0
  for _, n in pairs(t) do sum = sum + n end
  return sum
end

-- The sum of the differences between two tables of counts.
local function difference(a, b)
  local sum = 0
  for key, n in pairs(a) do sum = sum + math.abs(n - (b[key] or 0)) end
  for key, n in pairs(b) do
    if not a[key] then sum = sum + n end
  end
  return sum
end

-- Exceeded by a chi-square variable with probability .001 (Wilson and Hilferty's approximation).
local function chi_limit(freedom)
  local a = 2 / (9 * freedom)
  return freedom * (1 - a + 3.0902 * math.sqrt(a)) ^ 3
end

-- Chi-square of two samples of lengths, `times` as many in b as in a; neighbours merged to 8 or
-- more expected in a.
local function chi_square(a, b, times)
  local lengths, seen = {}, {}
  for _, t in ipairs { a, b } do
    for length in pairs(t) do
      if not seen[length] then lengths[#lengths + 1] = length end
      seen[length] = true
    end
  end
  table.sort(lengths)
  local chi, bins, x, y = 0, 0, 0, 0
  for i, length in ipairs(lengths) do
    x, y = x + (a[length] or 0), y + (b[length] or 0)
    if (x + y) / (1 + times) >= 8 or (i == #lengths and x + y > 0) then
      chi = chi + (math.sqrt(times) * x - y / math.sqrt(times)) ^ 2 / (x + y)
      bins, x, y = bins + 1, 0, 0
    end
  end
  return chi, chi_limit(math.max(bins - 1, 1))
end

-- The largest ratio of a patch's error to its bound: five standard deviations of a mean over
-- batches (patches of an image and images of a batch are dependent), with Bernstein's term for rare
-- patches; all patches together at the level .001.
local function worst_patch(frequency, drawn, batches, repeats)
  local n = 1 / (1 / batches + 1 / (batches * repeats))
  local z = #frequency > 1000 and 5.7 or 5
  local worst = 0
  for i, f in ipairs(frequency) do
    local v = drawn.variance[i]
    local bound = 1.01 * ROUNDED + z * math.sqrt(v / n) + (v > 0 and z * z / (6 * n) or 0)
    worst = math.max(worst, math.abs(f - drawn.mean[i]) / bound)
  end
  return worst
end

-- Frequencies are counts over `masks` masks, rounded: each must be near such a fraction, and their
-- sum must be the sum of the lengths.
local function check_frequencies(item, name, frequency, lengths, batches, masks)
  local patches, count, odd, sum = 0, 0, 0, 0
  for length, n in pairs(lengths) do patches = patches + length * n end
  for _, f in ipairs(frequency) do
    local whole_count = math.floor(f * masks + .5)
    if math.abs(f - whole_count / masks) > 1.01 * ROUNDED then odd = odd + 1 end
    count, sum = count + whole_count, sum + f
  end
  if masks * ROUNDED < 0.49 then
    item(name .. " frequencies that are not a count", odd, EXACT)
    item(name .. " frequencies add up to the lengths", math.abs(count - patches * masks / batches),
      EXACT)
  else
    item(name .. " frequencies add up to the lengths", math.abs(sum - patches / batches),
      12 * ROUNDED * math.sqrt(#frequency / 12))
  end
end

local function compare(path)
  local r = read(path)
  local items = {}
  local function item(name, err, tolerance)
    items[#items + 1] = { name = name, error = err, tolerance = tolerance, ok = err <= tolerance }
  end
  item("target blocks: one per batch", math.abs(sum_of(r.target_blocks) - r.batches), EXACT)
  item("context blocks: one per batch", math.abs(sum_of(r.context_blocks) - r.batches), EXACT)
  item("context lengths: one per batch", math.abs(sum_of(r.k) - r.batches), EXACT)
  item("target lengths: one per batch", math.abs(sum_of(r.t) - r.batches), EXACT)
  local areas = {}
  for size, n in pairs(r.target_blocks) do
    local h, w = size:match "(%d+)x(%d+)"
    areas[h * w] = (areas[h * w] or 0) + n
  end
  item("target lengths equal the areas of the blocks", difference(r.t, areas), EXACT)
  check_frequencies(item, "context", r.context, r.k, r.batches, r.batches * r.images * r.contexts)
  check_frequencies(item, "target", r.target, r.t, r.batches, r.batches * r.images * r.targets)

  local repeats = math.max(1, math.min(8, math.floor(32000 / r.batches)))
  local s = draw(r, repeats)
  item("target block sizes of batches 0, 1, ...", difference(r.target_blocks, s.target_blocks),
    EXACT)
  item("context block sizes of batches 0, 1, ...", difference(r.context_blocks, s.context_blocks),
    EXACT)
  item("context lengths, chi-square", chi_square(r.k, s.k, repeats))
  item("target lengths, chi-square", chi_square(r.t, s.t, repeats))
  item("context patches, largest ratio of error to bound",
    worst_patch(r.context, s.context, r.batches, repeats), 1)
  item("target patches, largest ratio of error to bound",
    worst_patch(r.target, s.target, r.batches, repeats), 1)
  return items
end

--- Compares a file of counts with the engine in reference mode.
---@param path string
---@return { name: string, error: number, tolerance: number, ok: boolean }[]? items, string? message
return function(path)
  local ok, result = pcall(compare, path)
  if ok then return result end
  if type(result) == "table" and result.conform then return nil, result.conform end
  return nil, ("'%s': %s"):format(path, tostring(result))
end

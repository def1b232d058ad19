--- Has it collapsed? From time to time a run checks its target encoder on the same images, and
--- reports what it found in a sentence. The values go to OUT/TAG-diagnoses.csv and to the logs.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local objective = require "ijepa.model.objective"
local linalg = require "ijepa.tensor.linalg"
local probe = require "ijepa.probe"
local text = require "ijepa.base.text"
local processes = require "ijepa.train.processes"
local C = F.C

local diagnose = {}

-- Where a verdict begins.
-- effective rank, absolute and of what is possible: below is collapse
local MIN_RANK, MIN_RANK_FRACTION = 2, .05
local RANK_FALL = .5            -- of the highest effective rank so far: below is a warning
local DISTANCE_FALL = .01       -- of the largest mean cosine distance so far: below is collapse
-- of the largest loss of the mean feature so far: below, patches are alike: collapse
local PATCH_FALL = .1
-- fraction of the patch features' variance that the position explains: above is a warning
local MAX_POSITION = .9
-- by how much the loss is below predicting the mean, as a fraction: below is a warning
local MIN_GAIN = .05

---@class ijepa.diagnosis
---@field step integer
---@field cosine_distance number mean, of pooled features of two crops: 0 all alike, near 1
--- unrelated
---@field rankme number RankMe (Garrido et al., 2023): effective rank of pooled features
---@field centred_rank number the same after the mean is subtracted
---@field patch_rank number effective rank of patch features after the mean is subtracted
---@field max_rank integer the largest possible rank: the width, or the number of crops less 1
---@field max_patch_rank integer
---@field lidar number LiDAR (Thilak et al., 2024): rank of images' differences relative to crops'
---@field position number fraction of the patch features' variance that the position explains
---@field loss number? of the predictor on these images; nil where the objective predicts nothing
---@field mean_loss number? of predicting the mean feature
---@field ema_distance number? |encoder - target encoder| / |encoder|, over all parameters; nil
--- without a target encoder
---@field probe number? top-1 in percent of a kNN or ridge probe of pooled features (diagnose.probe)
---@field level string "start" (before the first step), "ok", "watch" or "collapse"
---@field text string the verdict as a sentence
---@field ms number time of this check

-- ---- measures -----------------------------------------------------------------------------------

-- exp of the entropy of non-negative values, divided by their sum; 0 where all are 0.
local function entropy_rank(values)
  local sum, h = 0, 0
  for _, v in ipairs(values) do sum = sum + math.max(v, 0) end
  if not (sum > 0) then return 0 end
  for _, v in ipairs(values) do
    local p = math.max(v, 0) / sum
    if p > 0 then h = h - p * math.log(p) end
  end
  return math.exp(h)
end

-- Rows without their mean.
local function centred(x) return x - x:mean(1) end

-- Squared singular values of x (R, W), by the smaller of its two Gram matrices. Below float32's
-- rounding of the largest everything is rounding: 0.
local function squared_singular(x)
  local small = x:size(1) < x:size(2) and x:linear(x) or linalg.gram(x)
  local values = linalg.eigh(small)
  local floor = values[1] * 1e-6
  for i, v in ipairs(values) do values[i] = v > floor and v or 0 end
  return values
end

--- Effective rank of the rows of x (R, W): exp of the entropy of its singular values.
---@param x ijepa.tensor f32 (R, W)
---@return number
function diagnose.rank(x)
  local values = squared_singular(x)
  for i, v in ipairs(values) do values[i] = math.sqrt(v) end
  return entropy_rank(values)
end

-- x (R, W) in coordinates of its own span where that is smaller: inner products of rows stay the
-- same.
local function shortened(x)
  if x:size(2) <= x:size(1) then return x end
  local values, vectors = linalg.eigh(x:linear(x), true)   -- rows of vectors: (R, R)
  for i, v in ipairs(values) do values[i] = math.sqrt(math.max(v, 0)) end
  return vectors:transpose(1, 2):clone() * tensor.new(values)
end

--- LiDAR of views: effective rank of the scatter between images, whitened by the scatter between
--- their views.
---@param x ijepa.tensor f32 (P * V, W): V views of each of P images, an image's views in sequence
---@param views integer V, 2 or more
---@return number
function diagnose.lidar(x, views)
  x = shortened(centred(x))
  local P, W = x:size(1) / views, x:size(2)
  local means = x:reshape(P, views, W):mean(2)                       -- (P, W)
  local repeated = tensor.new((function()
    local index = {}
    for i = 0, P * views - 1 do index[i + 1] = math.floor(i / views) end
    return index
  end)(), "i32"):reshape(1, 1, P * views)
  local within = x - means:reshape(1, P, W):gather(repeated):reshape(P * views, W)
  local delta = 1e-4   -- the paper's
  local values, vectors = linalg.eigh(linalg.gram(within) * (1 / (P * views)), true)
  local scale = {}
  for i, v in ipairs(values) do scale[i] = 1 / math.sqrt(math.max(v, 0) + delta) end
  local white = means:linear(vectors) * tensor.new(scale)            -- (P, W): whitened means
  return entropy_rank(linalg.eigh(P < W and white:linear(white) or linalg.gram(white)))
end

--- Mean cosine distance of two different rows: of unit rows with mean m, (1 - |m|^2) R / (R - 1).
---@param x ijepa.tensor f32 (R, W)
---@return number
function diagnose.cosine_distance(x)
  local R, W = x:size(1), x:size(2)
  local values, mean, squares = x:read(), {}, 0
  for j = 1, W do mean[j] = 0 end
  for i = 0, R - 1 do
    local n = 0
    for j = 0, W - 1 do n = n + values[i * W + j] ^ 2 end
    n = 1 / math.sqrt(math.max(n, 1e-30))
    for j = 0, W - 1 do mean[j + 1] = mean[j + 1] + values[i * W + j] * n / R end
  end
  for j = 1, W do squares = squares + mean[j] ^ 2 end
  return math.max(0, 1 - squares) * R / math.max(R - 1, 1)
end

-- Fraction of the variance of x (P, S, W) that the position (of S) explains.
local function position_fraction(x)
  local P, S, W = x:size(1), x:size(2), x:size(3)
  local all = centred(x:reshape(P * S, W))
  local total = tensor.norm { all } ^ 2 / (P * S)
  local between = tensor.norm { all:reshape(P, S, W):mean(1) } ^ 2 / S
  -- means of P images vary by chance too: by (total - between) / (P - 1)
  return total > 0 and math.max(0, (between - (total - between) / math.max(P - 1, 1)) / total) or 0
end

-- |a - b| / |a| of two models of the same kind.
local function distance(a, b)
  local sum, whole = 0, 0
  for i, p in ipairs(a:params()) do
    if p.trained then
      device.step(function()
        sum = sum + tensor.norm {
          device.no_grad(function() return p.tensor - b:params()[i].tensor end) } ^ 2
        whole = whole + tensor.norm { p.tensor } ^ 2
      end)
    end
  end
  return math.sqrt(sum / math.max(whole, 1e-30))
end

-- ---- verdict ------------------------------------------------------------------------------------

local function best_of(list, name)
  local best = 0
  for _, d in ipairs(list) do best = math.max(best, d[name] or 0) end
  return best
end

local function trend(now, before)
  if not before then return "" end
  if now > before * 1.05 then return ", growing" end
  return now < before * .95 and ", falling" or ""
end

-- What has collapsed, or nil.
local function collapsed(list)
  local d = list[#list]
  if d.rankme < math.max(MIN_RANK, MIN_RANK_FRACTION * d.max_rank) then
    return "features vary in few directions only"
  end
  local best = best_of(list, "cosine_distance")
  if d.cosine_distance < DISTANCE_FALL * best then
    return ("mean cosine distance of images %.4f, at most %.4f before"):format(
      d.cosine_distance, best)
  end
  best = best_of(list, "mean_loss")
  if d.mean_loss and d.mean_loss < PATCH_FALL * best then
    return ("patches are alike: loss of predicting the mean %.4f, at most %.4f before"):format(
      d.mean_loss, best)
  end
end

-- "loss is 82 % below predicting the mean"; gain: .82
local function gain_text(gain)
  return ("loss is %.0f %% %s predicting the mean"):format(100 * math.abs(gain),
    gain < 0 and "above" or "below")
end

--- Level and text of the newest of a list of diagnoses.
---@param list ijepa.diagnosis[]
---@return string level, string text
function diagnose.verdict(list)
  local d, before = list[#list], list[#list - 1]
  if d.loss ~= d.loss or d.rankme ~= d.rankme then
    return "collapse", "features are not finite: lower optim.lr, or set optim.clip=1"
  end
  local moves = trend(d.rankme, before and before.rankme)
  local rank = ("effective rank of features %.0f of %d%s"):format(d.rankme, d.max_rank, moves)
  local gain = d.mean_loss and (d.mean_loss > 0 and 1 - d.loss / d.mean_loss or 0)
  local all = ("%s; mean cosine distance %.2f%s"):format(rank, d.cosine_distance,
    gain and "; " .. gain_text(gain) or "")
  -- small values mean nothing yet
  if d.step == 0 then return "start", "before training: " .. all end
  local what = collapsed(list)
  if what then
    local better = before and moves == ", growing" and d.cosine_distance > before.cosine_distance
    return better and "watch" or "collapse",
      ("%s: %s: this looks like collapse%s"):format(rank, what,
      better and ", but less so than before"
      or "; try a higher optim.ema, a lower optim.lr, or larger targets (mask.target.scale)")
  end
  if d.position > MAX_POSITION then
    return "watch", ("position explains %.0f %% of the patch features' variance: %s; %s"):format(
      100 * d.position, "the encoder hardly uses the image",
      "try model.init_gain=0.7 model.patch_gain=1.5, or a higher optim.lr")
  end
  local best = best_of(list, "rankme")
  if d.rankme < RANK_FALL * best then
    return "watch", ("%s, after %.0f at its highest"):format(rank, best)
  end
  if gain and gain < MIN_GAIN then
    return "watch", ("%s; %s: the predictor is %s than the mean"):format(
      rank, gain_text(gain), gain < 0 and "worse" or "hardly better")
  end
  return "ok", all
end

-- ---- the check ----------------------------------------------------------------------------------

local Diagnosis = {}
Diagnosis.__index = Diagnosis

local COLUMNS = { "step", "rankme", "max_rank", "centred_rank", "patch_rank", "max_patch_rank",
  "lidar", "cosine_distance", "position",
  "loss", "mean_loss", "ema_distance", "probe", "ms", "level", "text" }

-- `count` images spread over the list, `views` crops of each: pixels u8 (count * views, H, W, 3)
-- and labels.
local function read_images(images, count, views)
  local n, size = images:count(), images.height * images.width * 3
  count = math.min(count, n)
  local pixels, labels, found = F.new("uint8_t[?]", count * views * size), {}, 0
  for i = 0, count - 1 do
    local sample, good = math.floor(i * n / count), true
    for v = 0, views - 1 do
      good = good and images:image_into(sample, v, pixels + (found * views + v) * size)
    end
    if good then   -- a corrupt image is named when training reads it
      found = found + 1
      labels[found] = images:label(sample)
    end
  end
  return pixels, labels, found
end

--- Prepares the diagnoses of a run (settings `diagnose`): reads its images, and makes the first
--- check, before training.
---@param t ijepa.trainer
function diagnose.open(t)
  local o = t.config.diagnose
  local self = setmetatable({ every = o.every, quiet = t.dist.rank > 0, views = o.views, list = {},
    path = ("%s/%s-diagnoses.csv"):format(t.config.out, t.config.tag) }, Diagnosis)
  self.pixels, self.labels, self.count = read_images(t.images, o.images, o.views)
  local root = data.title(t.config.data.root)
  if self.count < 2 then
    error(("diagnose: of %s of '%s' fewer than 2 could be read"):format(
      text.count(o.images, "image"), root), 0)
  end
  self.height, self.width = t.images.height, t.images.width
  if o.probe ~= "" then
    self.probe = {}
    self.probe.pixels, self.probe.labels, self.probe.count = read_images(t.images, o.probe_images,
      1)
    if #t.images:classes() < 2 then
      error(("diagnose.probe=%s: '%s' has no classes"):format(o.probe, root), 0)
    end
  end
  self:reopen(t.step, t.rows_diagnoses)
  t.diagnosis = self
  if #self.list == 0 and not t:over() then
    self:check(t)
    processes.follow(t)
  end
end

-- Features of pixels u8 (n, H, W, 3), in batches: pooled (n, D), and of each image's first view
-- some patches (n / views, S, D), at the same positions in all; both are kept.
local function features(encoder, pixels, n, height, width, views)
  local N, D = encoder.grid[1] * encoder.grid[2], encoder.width
  local S, batch = math.min(8, N), 64 - 64 % (views or 1)   -- a batch holds all views of its images
  local pooled = tensor.empty({ n, D }, "f32", true)
  local patches = views and tensor.empty({ n / views, S, D }, "f32", true)
  local positions = F.new("int32_t[?]", S * batch)   -- the same of each first view
  for i = 0, S * batch - 1 do positions[i] = (i % S + .5) * N / S end
  for at = 0, n - 1, batch do
    device.step(function()
      device.no_grad(function()
        local count = math.min(batch, n - at)
        local x = pixels + at * height * width * 3
        local y = encoder(tensor.from_pointer(x, { count, height, width, 3 }, "u8"))
        pooled:narrow(1, at + 1, count):copy_(y:mean(2))
        if views then
          local index = tensor.from_pointer(positions, { 1, count / views, S }, "i32")
          local firsts = y:reshape(count / views, views * N, D):gather(index)
          patches:narrow(1, at / views + 1, count / views):copy_(firsts)
        end
      end)
    end)
  end
  return pooled, patches
end

-- Splits labelled features: every second one of a class for training, the others for the test. A
-- class of one image is left out.
local function halves(x, labels, root)
  local of, classes, sides = {}, {}, { { index = {}, y = {} }, { index = {}, y = {} } }
  for i, label in ipairs(labels) do
    of[label] = of[label] or {}
    table.insert(of[label], i - 1)
  end
  for _, rows in pairs(of) do
    if #rows > 1 then
      classes[#classes + 1] = tostring(#classes)
      for j, row in ipairs(rows) do
        local side = sides[1 + (j - 1) % 2]
        table.insert(side.index, row)
        table.insert(side.y, #classes - 1)
      end
    end
  end
  if #classes < 2 then return nil end
  for _, side in ipairs(sides) do
    local n = #side.y
    side.x = x:rows(side.index):clone(true)
    side.y = tensor.from_pointer(F.new("int32_t[?]", n, side.y), { n }, "i32", true)
    side.classes, side.root = classes, root
  end
  return sides[1], sides[2]
end

-- Top-1 in percent of a probe of the labelled images, or nil where too few classes have two of
-- them.
local function probed(kind, x, labels, root)
  local train, test = device.no_grad(halves, x, labels, root)
  if not train then return nil end
  return probe[kind](train, test, { k = math.min(20, train.x:size(1)) }).top1
end

-- Whether the objective predicts features: it says so, or its loss has asked for predictions.
local function predicts(t)
  return t.policy and t.predictor and (t.objective.predict or t.predicts) and true or false
end

--- Loss of the predictor on the first view of every image, and that of the mean feature; nil where
--- the objective predicts nothing.
---@param t ijepa.trainer
---@return number? loss, number? mean_loss
function Diagnosis:losses(t)
  if not predicts(t) then return nil end
  local size, B = self.height * self.width * 3, self.count
  local pixels = F.new("uint8_t[?]", B * size)
  for i = 0, B - 1 do F.copy(pixels + i * size, self.pixels + i * self.views * size, size) end
  local policy = device.step(function()
    local all = tensor.from_pointer(pixels, { B, self.height, self.width, 3 }, "u8")
    return assert(t.policy:for_images(all, t.target))
  end)
  local sum, mean_sum, batch = 0, 0, 64
  for at = 0, B - 1, batch do
    device.step(function()
      device.no_grad(function()
        local count = math.min(batch, B - at)
        local shape = { count, self.height, self.width, 3 }
        local x = tensor.from_pointer(pixels + at * size, shape, "u8")
        local m = policy:sample_raw(count, at, t.step)
        local ctx = tensor.from_pointer(m.context, { m.contexts, m.count, m.k }, "i32")
        local tgt = tensor.from_pointer(m.target, { m.targets, m.count, m.t }, "i32")
        local z, h = t:predict(x, ctx, tgt)
        sum = sum + count * tensor.smooth_l1(z, h, 1, tgt:size(1)):item()
        local rows = h:reshape(h:size(1) * h:size(2), h:size(3))
        mean_sum = mean_sum + count * tensor.smooth_l1(rows, rows:mean(1)):item()
      end)
    end)
  end
  return sum / B, mean_sum / B
end

--- Measures the target encoder now; adds the result to the list, the file and the logs.
---@param t ijepa.trainer
---@return ijepa.diagnosis
function Diagnosis:measure(t)
  local started = C.ij_time()
  local d = { step = t.step }
  local back = objective.use(t.whole.parts)
  local pooled, patches = features(t.target, self.pixels, self.count * self.views, self.height,
    self.width, self.views)
  local D = t.target.width
  local _, finite = tensor.norm { pooled, patches }
  for _, name in ipairs { "cosine_distance", "centred_rank", "rankme", "patch_rank", "position",
    "lidar" } do d[name] = 0 / 0 end
  d.max_rank = math.min(D, pooled:size(1) - 1)
  d.max_patch_rank = math.min(D, patches:size(1) * patches:size(2) - 1)
  device.step(function()
    device.no_grad(function()
      if not finite then return end
      local rows = patches:reshape(patches:size(1) * patches:size(2), D)
      d.cosine_distance = diagnose.cosine_distance(pooled)
      d.centred_rank, d.rankme = diagnose.rank(centred(pooled)), diagnose.rank(pooled)
      d.patch_rank, d.position = diagnose.rank(centred(rows)), position_fraction(patches)
      d.lidar = self.views > 1 and diagnose.lidar(pooled, self.views) or 0
    end)
  end)
  d.loss, d.mean_loss = self:losses(t)
  d.ema_distance = t.target ~= t.encoder and distance(t.encoder, t.target) or nil
  if self.probe then
    d.probe = probed(t.config.diagnose.probe, features(t.target, self.probe.pixels,
      self.probe.count, self.height, self.width),
      self.probe.labels, data.title(t.config.data.root))
  end
  back()
  self.list[#self.list + 1] = d
  d.level, d.text = diagnose.verdict(self.list)
  d.ms = 1000 * (C.ij_time() - started)
  self:write(d)
  t.run:diagnosis(d)
  local warned = d.level == "watch" and t.run:paint("warning", "WATCH: ")
    or d.level == "collapse" and t.run:paint("error", "COLLAPSE: ") or ""
  t.run:say("step %d: %s%s%s", t.step, warned, d.text,
    d.probe and ("; %s probe %.1f %%"):format(t.config.diagnose.probe, d.probe) or "")
  return d
end

--- Whether a diagnosis is due after this step.
---@param step integer
---@return boolean
function Diagnosis:is_due(step) return step % self.every == 0 end

--- A diagnosis now, and what it entails: the end of a collapsed run (diagnose.stop), and the hook.
---@param t ijepa.trainer
function Diagnosis:check(t)
  local d = self:measure(t)
  if d.level == "collapse" and t.config.diagnose.stop then t:stop(d.text) end
  if t.hooks.diagnosis then t.hooks.diagnosis(t, d) end
end

-- ---- the file -----------------------------------------------------------------------------------

local function line_of(d)
  local cells = {}
  for i, name in ipairs(COLUMNS) do
    local v = d[name]
    cells[i] = type(v) == "number" and ("%.6g"):format(v) or v and '"' .. v:gsub('"', "'") .. '"'
      or ""
  end
  return table.concat(cells, ",") .. "\n"
end

---@param d ijepa.diagnosis
function Diagnosis:write(d)
  if self.quiet then return end   -- all processes measure, the first one writes
  local file = io.open(self.path, "ab")
  if not file then return end   -- the log reports a full disk too
  file:write(line_of(d))
  file:close()
  self.rows = self.rows + 1
end

--- The diagnoses of a run's folder, from its file, whose first line names the columns.
---@param path string the file
---@return ijepa.diagnosis[]
function diagnose.read(path)
  local list, columns, file = {}, nil, io.open(path, "rb")
  if not file then return list end
  for line in file:lines() do
    local cells, at = {}, 1
    while at <= #line + 1 do
      local quoted = line:match('^"([^"]*)"', at)
      local cell = quoted or line:match("^[^,]*", at)
      cells[#cells + 1] = cell
      at = at + #cell + (quoted and 3 or 1)
    end
    if columns then
      local d = {}
      for i, name in ipairs(columns) do
        d[name] = (name == "level" or name == "text") and cells[i] or tonumber(cells[i])
      end
      if d.step then list[#list + 1] = d end
    end
    columns = columns or cells
  end
  file:close()
  return list
end

--- The run is back at a step: what was diagnosed after it stays in the file, but counts no more.
---@param step integer
function Diagnosis:rolled_back(step)
  while #self.list > 0 and self.list[#self.list].step > step do table.remove(self.list) end
end

--- Opens the file of a run that begins or resumes at a step.
---@param step integer
---@param rows integer? of the file when the state was saved; nil: those up to the step
function Diagnosis:reopen(step, rows)
  local lines = { table.concat(COLUMNS, ",") .. "\n" }
  self.list, self.rows = {}, 0
  for i, d in ipairs(step > 0 and diagnose.read(self.path) or {}) do
    if i <= (rows or math.huge) and (rows or d.step <= step) then
      self:rolled_back(d.step - 1)   -- of a part of the run that was given up
      self.list[#self.list + 1] = d
      self.rows = self.rows + 1
      lines[#lines + 1] = line_of(d)
    end
  end
  self:rolled_back(step)
  local all = table.concat(lines)
  if not self.quiet then F.check(C.ij_file_replace(self.path, all, #all)) end
end

return diagnose

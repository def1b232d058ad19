--- Is it collapse? Looks at the target encoder of a run now and then, on the same images every time, and says in words
--- what the numbers mean. Written to the log and to OUT/TAG-diagnoses.csv.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local linalg = require "ijepa.tensor.linalg"
local probe = require "ijepa.probe"
local C = F.C

local diagnose = {}

--- When a number is worth a word; scripts may change them before training.
diagnose.thresholds = {
  rank = .05,       -- share of the dimensions in use: fewer (or less than 2) is collapse
  fall = .5,        -- of the rank at its best: less is a warning
  alike = .1,       -- of the differences between images, or between patches, at their best: less is collapse
  position = .9,    -- share of the patch features' variance that a patch's place explains: more, and the image is ignored
  explained = .05,  -- share of the mean's loss that the predictor saves: less, and it predicts the mean
}

---@class ijepa.diagnosis
---@field step integer
---@field spread number standard deviation of unit features of images, all dimensions together: 0 alike, near 1 unlike
---@field rankme number RankMe (Garrido et al., 2023): effective rank (exp of the entropy of singular values) of pooled features
---@field rank number the same of centred features: says little when their common part is all there is
---@field patch_rank number effective rank of centred patch features
---@field most integer what the rank could be: the width, or the number of images less 1
---@field patch_most integer
---@field lidar number LiDAR (Thilak et al., 2024): rank of differences between images in units of those between crops
---@field position number share of the patch features' variance that the patch's place explains
---@field loss number of the predictor on these images
---@field mean_loss number of predicting the mean feature
---@field distance number |encoder - target| / |encoder|, of all parameters
---@field probe number? top-1 in percent of a kNN or ridge probe of pooled features, where settings ask for it
---@field level string "ok", "watch" or "collapse"
---@field text string the verdict in words
---@field ms number time that this look took

-- ---- numbers ----------------------------------------------------------------------------------------------------------

-- exp of the entropy of non-negative numbers as shares; 0 where all are 0.
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

-- Squared singular values of x (R, W), by the smaller of its two Gram matrices. Below float32's rounding of the largest
-- there is nothing but rounding: 0.
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

-- x (R, W) in coordinates of its own span where that is smaller: every product of rows stays as it is.
local function shortened(x)
  if x:size(2) <= x:size(1) then return x end
  local values, vectors = linalg.eigh(x:linear(x), true)   -- rows of vectors: (R, R)
  for i, v in ipairs(values) do values[i] = math.sqrt(math.max(v, 0)) end
  return vectors:transpose(1, 2):clone() * tensor.new(values)
end

--- LiDAR of views: effective rank of the scatter between images, whitened by the scatter between their views.
---@param x ijepa.tensor f32 (P * V, W): V views of each of P images, an image's views one after the other
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

-- Standard deviation of rows of unit length, over all dimensions together.
local function spread_of(x)
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
  return math.sqrt(math.max(0, 1 - squares))
end

-- Share of the variance of x (P, S, W) that the place (of S) explains.
local function position_share(x)
  local P, S, W = x:size(1), x:size(2), x:size(3)
  local all = centred(x:reshape(P * S, W))
  local total = tensor.norm { all } ^ 2 / (P * S)
  local between = tensor.norm { all:reshape(P, S, W):mean(1) } ^ 2 / S
  -- means of P images vary by chance too: a share of (total - between) / (P - 1)
  return total > 0 and math.max(0, (between - (total - between) / math.max(P - 1, 1)) / total) or 0
end

-- |a - b| / |a| of two models of the same kind.
local function distance(a, b)
  local sum, whole = 0, 0
  for i, p in ipairs(a:params()) do
    if p.trained then
      device.step(function()
        sum = sum + tensor.norm { device.no_grad(function() return p.tensor - b:params()[i].tensor end) } ^ 2
        whole = whole + tensor.norm { p.tensor } ^ 2
      end)
    end
  end
  return math.sqrt(sum / math.max(whole, 1e-30))
end

-- ---- words ------------------------------------------------------------------------------------------------------------

local function best_of(list, name)
  local best = 0
  for _, d in ipairs(list) do best = math.max(best, d[name]) end
  return best
end

local function trend(now, before)
  if not before then return "" end
  if now > before * 1.05 then return ", growing" end
  return now < before * .95 and ", falling" or ""
end

-- What has collapsed, in words, or nil.
local function collapsed(list)
  local t, d = diagnose.thresholds, list[#list]
  if d.rankme < math.max(2, t.rank * d.most) then return "they point into few directions" end
  local best = best_of(list, "spread")
  if d.spread < t.alike * best then return ("images differ by %.3f, once %.3f"):format(d.spread, best) end
  best = best_of(list, "mean_loss")
  if d.mean_loss < t.alike * best then return ("patches differ by %.4f, once %.4f"):format(d.mean_loss, best) end
end

--- Level and text of the newest of a list of diagnoses.
---@param list ijepa.diagnosis[]
---@return string level, string text
function diagnose.verdict(list)
  local t, d, before = diagnose.thresholds, list[#list], list[#list - 1]
  if d.loss ~= d.loss or d.rankme ~= d.rankme then
    return "collapse", "features are not finite: lower optim.lr, or set optim.clip=1"
  end
  local moves = trend(d.rankme, before and before.rankme)
  local uses = ("features use %.0f of %d dimensions%s"):format(d.rankme, d.most, moves)
  local explained = d.mean_loss > 0 and 1 - d.loss / d.mean_loss or 0
  local fine = ("%s; images differ by %.2f; the predictor saves %.0f %% of the mean's loss"):format(uses, d.spread, 100 * explained)
  if not before then return "ok", fine end   -- before training, small numbers say nothing
  local what = collapsed(list)
  if what then
    local better = moves == ", growing" and d.spread > before.spread
    return better and "watch" or "collapse", ("%s: %s: this looks like collapse%s"):format(uses, what,
      better and ", but less so than before" or "; try a higher optim.ema, a lower optim.lr, or larger targets (mask.target.scale)")
  end
  if d.position > t.position then
    return "watch", ("%.0f %% of the patch features' variance is their place: the encoder hardly looks at the image; %s"):format(
      100 * d.position, "try model.init_gain=0.7 model.patch_gain=1.5, or a higher optim.lr")
  end
  local best = best_of(list, "rankme")
  if d.rankme < t.fall * best then return "watch", ("%s, after %.0f at best"):format(uses, best) end
  if explained < t.explained then
    return "watch", ("%s; the predictor is hardly better than the mean (%.0f %% of its loss saved)"):format(uses, 100 * explained)
  end
  return "ok", fine
end

-- ---- the look ---------------------------------------------------------------------------------------------------------

local Diagnosis = {}
Diagnosis.__index = Diagnosis

local COLUMNS = { "step", "spread", "rank", "rankme", "patch_rank", "most", "patch_most", "lidar", "position", "loss", "mean_loss",
  "distance", "probe", "ms", "level", "text" }

-- `count` images spread over the list, `views` crops of each: pixels u8 (count * views, H, W, 3) and labels.
local function read_images(images, count, views)
  local n, size = images:count(), images.height * images.width * 3
  count = math.min(count, n)
  local pixels, labels, found = F.new("uint8_t[?]", count * views * size), {}, 0
  for i = 0, count - 1 do
    local sample, good = math.floor(i * n / count), true
    for v = 0, views - 1 do
      good = good and images:image_into(sample, v, pixels + (found * views + v) * size)
    end
    if good then   -- a corrupt one is reported when training reads it
      found = found + 1
      labels[found] = images:label(sample)
    end
  end
  return pixels, labels, found
end

--- Prepares the looks of a run (settings `diagnose`): reads its images, and takes the first one, before training.
---@param t ijepa.trainer
---@return table? diagnosis, string? message
function diagnose.new(t)
  local o = t.config.diagnose
  local self = setmetatable({ every = o.every, quiet = t.dist and t.dist.rank > 0, views = o.views, list = {},
    path = ("%s/%s-diagnoses.csv"):format(t.config.out, t.config.tag) },
    Diagnosis)
  self.pixels, self.labels, self.count = read_images(t.images, o.images, o.views)
  local root = data.title(t.config.data.root)
  if self.count < 2 then return nil, ("diagnose: of %d images of '%s' fewer than 2 could be read"):format(o.images, root) end
  self.height, self.width = t.images.height, t.images.width
  if o.probe ~= "" then
    self.probe = {}
    self.probe.pixels, self.probe.labels, self.probe.count = read_images(t.images, o.probe_images, 1)
    if #t.images:classes() < 2 then return nil, ("diagnose.probe=%s: '%s' has no classes"):format(o.probe, root) end
  end
  self:reopen(t.step)
  if #self.list == 0 then self:look(t) end
  return self
end

-- Features of pixels u8 (n, H, W, 3), in batches: pooled (n, D), and of each image's first view some patches
-- (n / views, S, D), the same places in all; both kept.
local function features(encoder, pixels, n, height, width, views)
  local N, D = encoder.grid[1] * encoder.grid[2], encoder.width
  local S, batch = math.min(8, N), 64 - 64 % (views or 1)   -- whole images with all their views
  local pooled, patches = tensor.empty({ n, D }, "f32", true), views and tensor.empty({ n / views, S, D }, "f32", true)
  local places = F.new("int32_t[?]", S * batch)   -- the same of each first view
  for i = 0, S * batch - 1 do places[i] = (i % S + .5) * N / S end
  for at = 0, n - 1, batch do
    device.step(function()
      device.no_grad(function()
        local count = math.min(batch, n - at)
        local y = encoder(tensor.from_pointer(pixels + at * height * width * 3, { count, height, width, 3 }, "u8"))
        pooled:narrow(1, at + 1, count):copy_(y:mean(2))
        if views then
          local firsts = y:reshape(count / views, views * N, D):gather(tensor.from_pointer(places, { 1, count / views, S }, "i32"))
          patches:narrow(1, at / views + 1, count / views):copy_(firsts)
        end
      end)
    end)
  end
  return pooled, patches
end

-- Every second labelled image teaches, the others test: features of both. Classes that have only one are left out.
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
    side.x, side.y = x:rows(side.index):clone(true), tensor.from_pointer(F.new("int32_t[?]", #side.y, side.y), { #side.y }, "i32", true)
    side.classes, side.root = classes, root
  end
  return sides[1], sides[2]
end

-- Top-1 in percent of a probe of the labelled images, or nil where too few classes have two of them.
local function probed(kind, x, labels, root)
  local train, test = device.no_grad(halves, x, labels, root)
  if not train then return nil end
  return probe[kind](train, test, { k = math.min(20, train.x:size(1)) }).top1
end

--- Loss of the predictor on the first view of every image, and that of the mean feature.
---@param t ijepa.trainer
---@return number loss, number mean_loss
function Diagnosis:losses(t)
  local size, B = self.height * self.width * 3, self.count
  local pixels = F.new("uint8_t[?]", B * size)
  for i = 0, B - 1 do F.copy(pixels + i * size, self.pixels + i * self.views * size, size) end
  local sum, mean_sum, batch = 0, 0, 64
  for at = 0, B - 1, batch do
    device.step(function()
      device.no_grad(function()
        local count = math.min(batch, B - at)
        local x = tensor.from_pointer(pixels + at * size, { count, self.height, self.width, 3 }, "u8")
        local m = t.policy:sample_raw(count, at, t.step, false)
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

--- Takes a look now, adds it to the list and to the file, and returns it.
---@param t ijepa.trainer
---@return ijepa.diagnosis
function Diagnosis:look(t)
  local started = C.ij_time()
  local d = { step = t.step }
  local pooled, patches = features(t.target, self.pixels, self.count * self.views, self.height, self.width, self.views)
  local D = t.target.width
  local _, finite = tensor.norm { pooled, patches }
  for _, name in ipairs { "spread", "rank", "rankme", "patch_rank", "position", "lidar" } do d[name] = 0 / 0 end
  d.most, d.patch_most = math.min(D, pooled:size(1) - 1), math.min(D, patches:size(1) * patches:size(2) - 1)
  device.step(function()
    device.no_grad(function()
      if not finite then return end
      local rows = patches:reshape(patches:size(1) * patches:size(2), D)
      d.spread, d.rank, d.rankme = spread_of(pooled), diagnose.rank(centred(pooled)), diagnose.rank(pooled)
      d.patch_rank, d.position = diagnose.rank(centred(rows)), position_share(patches)
      d.lidar = self.views > 1 and diagnose.lidar(pooled, self.views) or 0
    end)
  end)
  d.loss, d.mean_loss = self:losses(t)
  d.distance = distance(t.encoder, t.target)
  if self.probe then
    d.probe = probed(t.config.diagnose.probe, features(t.target, self.probe.pixels, self.probe.count, self.height, self.width),
      self.probe.labels, data.title(t.config.data.root))
  end
  self.list[#self.list + 1] = d
  d.level, d.text = diagnose.verdict(self.list)
  d.ms = 1000 * (C.ij_time() - started)
  self:write(d)
  t.run:diagnosis(d)
  t.run:say("step %d: %s%s%s", t.step, d.level == "ok" and "" or d.level:upper() .. ": ", d.text,
    d.probe and ("; %s probe %.1f %%"):format(t.config.diagnose.probe, d.probe) or "")
  return d
end

--- Whether it looks after this step.
---@param step integer
---@return boolean
function Diagnosis:is_due(step) return step % self.every == 0 end

--- Called after every step.
---@param t ijepa.trainer
function Diagnosis:after_step(t)
  if not self:is_due(t.step) then return end
  local d = self:look(t)
  if d.level == "collapse" and t.config.diagnose.stop then t:stop(d.text) end
  if t.hooks.diagnosis then t.hooks.diagnosis(t, d) end
end

-- ---- the file ---------------------------------------------------------------------------------------------------------

local function line_of(d)
  local cells = {}
  for i, name in ipairs(COLUMNS) do
    local v = d[name]
    cells[i] = type(v) == "number" and ("%.6g"):format(v) or v and '"' .. v:gsub('"', "'") .. '"' or ""
  end
  return table.concat(cells, ",") .. "\n"
end

---@param d ijepa.diagnosis
function Diagnosis:write(d)
  if self.quiet then return end   -- of several processes, which all look, the first writes
  local file = io.open(self.path, "ab")
  if not file then return end   -- the log says it too
  file:write(line_of(d))
  file:close()
end

--- The diagnoses of a run's folder, from its file.
---@param path string the file
---@return ijepa.diagnosis[]
function diagnose.read(path)
  local list, file = {}, io.open(path, "rb")
  if not file then return list end
  for line in file:lines() do
    local d, at = {}, 1
    for _, name in ipairs(COLUMNS) do
      local text = line:match('^"([^"]*)"', at)
      local cell = text or line:match("^[^,]*", at)
      d[name] = text or tonumber(cell)
      at = at + #cell + (text and 3 or 1)
    end
    if d.step then list[#list + 1] = d end
  end
  file:close()
  return list
end

--- The file with what was found up to a step: of a run that is resumed or went back.
---@param step integer
function Diagnosis:reopen(step)
  local lines = { table.concat(COLUMNS, ",") .. "\n" }
  self.list = {}
  for _, d in ipairs(diagnose.read(self.path)) do
    if d.step <= step and step > 0 then
      self.list[#self.list + 1] = d
      lines[#lines + 1] = line_of(d)
    end
  end
  local text = table.concat(lines)
  if not self.quiet then F.check(C.ij_file_replace(self.path, text, #text)) end
end

return diagnose

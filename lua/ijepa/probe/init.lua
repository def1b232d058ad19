-- Probes measure the features of a frozen encoder. A sweep trains the heads of all pairs of
-- learning rate and weight decay at the same time, side by side in the same tensors, on cached
-- features; held-out training rows choose the pair. docs/probes.md shows how to write another probe
-- with these functions.
-- Uses: base, tensor, data, optim, save.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local schedule = require "ijepa.optim.schedule"
local optim = require "ijepa.optim"
local features = require "ijepa.probe.features"
local score = require "ijepa.probe.score"
local json = require "cjson.safe"
local text = require "ijepa.base.text"
local C = F.C

local probe = {}

--- The sweep of the published protocol: SGD with momentum, the learning rate divided by ten after
--- each third of 28 epochs. (The default is AdamW along half a cosine: its learning rates need no
--- tuning to the size of the features.)
probe.published = { optimizer = "sgd", lr = { .01, .05, .001 }, wd = { 5e-4, 0 }, epochs = 28 }

-- ---- heads
---@class ijepa.head
---@field params ijepa.tensor[] each (G, ...): G heads of the sweep side by side; those of 3 and
--- more dimensions decay
---@field forward fun(x: ijepa.tensor): ijepa.tensor features (B, ...) -> logits (B, G, n)

--- A trainable f32 tensor for a head, kept past the step. Its values are normal with this standard
--- deviation (0: zeros) and the same for each of the G heads, shape[1].
---@param rng ffi.cdata* ij_rng, as a head's function gets it
---@param shape integer[] (G, ...); parameters of three and more dimensions get weight decay
---@param std number 0 or more
---@return ijepa.tensor
function probe.parameter(rng, shape, std)
  local t = tensor.zeros(shape, "f32", true)
  if std > 0 then
    local G, n = shape[1], t:numel() / shape[1]
    local values = F.new("float[?]", t:numel())
    for i = 0, n - 1 do values[i] = std * C.ij_rng_normal(rng) end
    for g = 1, G - 1 do F.copy(values + g * n, values, n * 4) end
    t = tensor.from_pointer(values, shape, "f32", true)
  end
  return t:requires_grad_()
end
local parameter = probe.parameter

--- G linear classifiers: features (B, W) -> logits (B, G, n).
---@param G integer
---@param shape integer[]
---@param n integer
---@param rng ffi.cdata* ij_rng
---@return ijepa.head
function probe.linear_head(G, shape, n, rng)
  local W = shape[1]
  local w, b = parameter(rng, { G, n, W }, 0), parameter(rng, { G, n }, 0)
  return { params = { w, b }, forward = function(x)
    return x:linear(w:reshape(G * n, W), b:reshape(G * n)):reshape(x:size(1), G, n)
  end }
end

--- G attentive heads: one query with A heads attends to the patches (B, N, D) by cross attention,
--- then norm and a linear classifier. Query times key matrix is one vector for each of the A heads;
--- that vector is the parameter: the same functions with less work. The classifier includes the
--- norm's scale and shift.
---@param heads integer A; D divides by it
---@return fun(G: integer, shape: integer[], n: integer, rng: ffi.cdata*): ijepa.head
function probe.attentive_head(heads)
  return function(G, shape, n, rng)
    local N, D, A = shape[1], shape[2], heads
    if not D then F.raise "probe.attentive: the features are pooled: use features.tokens" end
    if D % A ~= 0 then
      F.raise(("probe.attentive: width %d does not divide by %d heads"):format(D, A))
    end
    local S = D / A
    local query, value = parameter(rng, { G, A, D }, D ^ -.5),
      parameter(rng, { G, A, D, S }, D ^ -.5)
    local w, b = parameter(rng, { G, n, D }, 0), parameter(rng, { G, n }, 0)
    return { params = { query, value, w, b }, forward = function(x)
      local B = x:size(1)
      -- (B, G A, N)
      local seen = x:linear(query:reshape(G * A, D)):transpose(2, 3):contiguous():softmax()
      -- (G A, B, D)
      local pooled = seen:matmul(x:reshape(B, N, D)):transpose(1, 2):contiguous()
      local values = pooled:matmul(value:reshape(G * A, D, S)):reshape(G, A, B, S)
      local y = values:transpose(2, 3):contiguous():reshape(G, B, D):layer_norm()
      -- of (G, B, n)
      local logits = y:matmul(w, false, true):transpose(1, 2):contiguous():reshape(B, G * n)
      return (logits + b:reshape(G * n)):reshape(B, G, n)
    end }
  end
end

-- ---- normalisation before the head
-- A function(features (B, ..., D), training). "data": each column by its mean and variance over the
-- training set; "batch": batch norm, with its running statistics in tests; "none".
local function normaliser(kind, x, order)
  if kind == "none" then return function(v) return v end end
  if kind ~= "data" and kind ~= "batch" then
    F.raise(("probe: norm is '%s', expected data, batch or none"):format(tostring(kind)))
  end
  local D = x:size(-1)
  local mean, var = tensor.zeros({ D }, "f32", true), tensor.zeros({ D }, "f32", true)
  local function norm(v, training, momentum)
    return tensor.batch_norm(v:reshape(v:numel() / D, D), mean, var, training, momentum,
      1e-6):reshape(v:shape())
  end
  if kind == "batch" then
    var:fill_(1)
    return function(v, training) return norm(v, training, .1) end
  end
  -- 256 MiB of rows are enough for mean and variance
  local most = math.max(2, math.floor(2 ^ 28 / (x:bytes() / x:size(1))))
  device.step(function() device.no_grad(function()
    norm(x:size(1) <= most and x or x:rows(tensor.from_pointer(order, { most }, "i32")), true, 1)
  end) end)
  return function(v) return norm(v, false, 0) end
end

-- ---- the sweep
local function optimizer(name)
  if name == "adamw" then return optim.adamw {}, function(total) return schedule.cosine {
      from = 1, to = 0, total = total } end end
  if name == "sgd" then
    return optim.sgd {}, function(total) return function(step) return .1 ^ math.floor(
      3 * (step - 1) / total) end end
  end
  F.raise(("probe: optimizer is '%s', expected adamw or sgd"):format(tostring(name)))
end

--- Trains G = #lr * #wd heads at the same time and scores all on the test features. The pair that
--- is best on a held-out tenth of the training rows is the result. With fewer than ten rows per
--- class nothing is held out, and the pair in the middle of the lists is the result.
---@param make fun(G: integer, shape: integer[], n: integer, rng: ffi.cdata*): ijepa.head
---@param train ijepa.features
---@param test ijepa.features
---@param o table? lr, wd: numbers[]; epochs (30), batch (256), optimizer ("adamw" or "sgd"), norm
--- ("data", "batch",
--- "none"), smoothing (0), seed, per_class
---@return table result of score, with lr, wd, held (its accuracy on the held-out rows, %), heads
--- (all), width
function probe.sweep(make, train, test, o)
  o = o or {}
  local ok, message = features.fit(train, test)
  if not ok then F.raise("probe: " .. message) end
  local lrs, wds = o.lr or { 3e-4, 1e-3, 3e-3, 1e-2 }, o.wd or { 1e-2, 1e-1, 1 }
  local R, G, n, epochs = train.x:size(1), #lrs * #wds, #train.classes, o.epochs or 30
  local held = features.held(train)
  local left = R - held
  if left < 2 then F.raise(("probe: %d training images are too few"):format(R)) end
  local batch = math.min(o.batch or 256, left)

  -- the first `held` rows choose the pair
  local order, rng = features.shuffled(R, o.seed), F.new "ij_rng"
  local function draws(epoch) C.ij_rng_init(rng, o.seed or 0, C.IJ_RNG_PROBE, epoch, 0) end
  local labels, norm = train.y:read(), normaliser(o.norm or "data", train.x, order)
  local function rows(from, count)
    return train.x:rows(tensor.from_pointer(order + from, { count }, "i32"))
  end

  local shape = train.x:shape()
  table.remove(shape, 1)
  draws(2 ^ 31)   -- a stream that no epoch uses
  local head, heads = make(G, shape, n, rng), {}
  local opt, curve = optimizer(o.optimizer or "adamw")
  for _, lr in ipairs(lrs) do
    for _, wd in ipairs(wds) do
      for _, p in ipairs(head.params) do
        local count = p:numel() / G
        opt:add_part(p, #heads * count + 1, count, lr, p:dim() > 2 and wd or 0)
      end
      heads[#heads + 1] = { lr = lr, wd = wd }
    end
  end
  local steps = math.floor(left / batch)
  local rate, at, repeated = curve(epochs * steps), 0, F.new("int32_t[?]", batch * G)
  for epoch = 1, epochs do
    draws(epoch)
    C.ij_rng_shuffle(rng, F.cast("uint32_t *", order + held), left)
    for from = held, held + (steps - 1) * batch, batch do
      at = at + 1
      device.step(function()
        for i = 0, batch - 1 do
          for g = 0, G - 1 do repeated[i * G + g] = labels[order[from + i]] end
        end
        local logits = head.forward(norm(rows(from, batch), true)):reshape(batch * G, n)
        tensor.cross_entropy(logits, tensor.from_pointer(repeated, { batch * G }, "i32"),
          o.smoothing):backward()
        opt:step { lr = rate(at), wd = 1, scale = G }   -- the mean is over G heads
      end)
    end
  end

  -- the accuracy of every head in percent, on x(from, count) with labels label(i)
  local function score_all(x, count, label, what)
    local hits = {}
    for g = 1, G do hits[g] = 0 end
    for from = 0, count - 1, batch do
      local m = math.min(batch, count - from)
      device.step(function() device.no_grad(function()
        local best = head.forward(norm(x(from, m), false)):argmax():read()   -- (m, G)
        for r = 0, m - 1 do
          for g = 1, G do
            if best[r * G + g - 1] == label(from + r) then hits[g] = hits[g] + 1 end
          end
        end
      end) end)
    end
    for g = 1, G do heads[g][what] = 100 * hits[g] / count end
  end
  local chosen = (math.ceil(#lrs / 2) - 1) * #wds + math.ceil(#wds / 2)
  if held > 0 then
    score_all(rows, held, function(i) return labels[order[i]] end, "held")
    chosen = 1
    for g = 2, G do
      if heads[g].held > heads[chosen].held then chosen = g end
    end
  end
  local test_labels = test.y:read()
  local function test_rows(from, m) return test.x:narrow(1, from + 1, m) end
  score_all(test_rows, test.x:size(1), function(i) return test_labels[i] end, "top1")
  local result = score.of(function(from, m)
    return head.forward(norm(test_rows(from, m), false)):narrow(2, chosen, 1):contiguous():reshape(
      m, n)
  end, test, { per_class = o.per_class, step = batch })
  local best = heads[chosen]
  result.lr, result.wd, result.held, result.heads, result.width = best.lr, best.wd, best.held,
    heads, train.x:numel() / R
  return result
end

--- The linear probe of features: probe.sweep with linear heads.
---@param train ijepa.features
---@param test ijepa.features
---@param o table?
---@return table
function probe.classifier(train, test, o) return probe.sweep(probe.linear_head, train, test, o) end

--- The attentive probe of features.tokens. o: heads (8, or as many as divide the width), and as
--- probe.sweep.
---@param train ijepa.features
---@param test ijepa.features
---@param o table?
---@return table
function probe.attentive(train, test, o)
  o = setmetatable({ norm = o and o.norm or "none", batch = o and o.batch or 64,
    epochs = o and o.epochs or 10 }, { __index = o })
  local heads = o.heads or 8
  while train.x:size(-1) % heads ~= 0 do heads = heads - 1 end
  return probe.sweep(probe.attentive_head(heads), train, test, o)
end

--- The linear probe of an encoder: features of two folders (or tars) of class folders, then the
--- sweep.
---@param encoder ijepa.encoder|fun(x: ijepa.tensor): ijepa.tensor
---@param o table as features.pair; blocks (0: last layer; 4: last four); and as probe.sweep
---@return table? result, string? message
function probe.linear(encoder, o)
  local f = type(encoder) == "table" and encoder.by_name and features.pooled(encoder, o.blocks)
    or encoder
  local train, test = features.pair(f, o)
  if not train then return nil, test end
  return probe.classifier(train, test, o)
end

-- ---- results in a run's folder: one line of JSON each in RUN/probes.jsonl, which the report shows

local LOG, KEPT = "probes.jsonl", { "top1", "top5", "interval", "count", "deviation", "lr", "wd",
  "k", "lambda" }

--- Adds a result to probes.jsonl of the probed run. Where o.run is a checkpoint, nothing is
--- written.
---@param o { run: string, step: integer?, which: string?, train: string?, test: string? } a probe
--- recipe's settings
---@param name string what was probed and how: "kNN, k 20, last layer"
---@param result table of score
---@return boolean? ok, string? message where the log could not be written; it is also printed to
--- stderr
function probe.record(o, name, result)
  if C.ij_path_kind(o.run) ~= 2 then return true end
  local entry = { name = name, time = os.time(), step = o.step, encoder = o.which, train = o.train,
    test = o.test }
  for _, key in ipairs(KEPT) do entry[key] = result[key] end
  local path = o.run .. "/" .. LOG
  local file, message = io.open(path, "ab")
  if file then
    file:write(json.encode(entry), "\n")
    return file:close()
  end
  message = ("the result could not be added to '%s': %s"):format(path, message)
  text.say("probe: %s", message)
  return nil, message
end

--- The results in a run's probes.jsonl, oldest first; other lines are skipped.
---@param run string a run's folder
---@return { name: string, top1: number, time: number?, step: integer? }[]
function probe.recorded(run)
  local list, file = {}, io.open(run .. "/" .. LOG, "rb")
  if not file then return list end
  for line in file:lines() do
    local entry = json.decode(line)
    if type(entry) == "table" and type(entry.name) == "string" and type(entry.top1) == "number" then
      list[#list + 1] = entry
    end
  end
  file:close()
  return list
end

return setmetatable(probe, { __index = function(t, name)
  -- probe.knn is the module ijepa.probe.knn
  if name ~= "knn" and name ~= "ridge" and name ~= "lowshot" then return nil end
  t[name] = require("ijepa.probe." .. name)
  return t[name]
end })

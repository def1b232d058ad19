--- Low-shot: the linear probe with few labels per class, drawn several times because single draws
--- vary.
local F = require "ijepa.base.ffi"
local features = require "ijepa.probe.features"
local probe = require "ijepa.probe"

--- Trains linear classifiers on a few frozen features of each class. To train the encoder too, give
--- the images of features.few to finetune.
---@param train ijepa.features
---@param test ijepa.features
---@param o table share (.01): fraction of each class, or `number` images of each; draws (3); and as
--- probe.sweep
---@return table result top1 (mean of the draws), deviation (of the draws, in points), count
--- (training images),
--- draws (results of probe.sweep), rows (indices in the data set of the first draw's images)
return function(train, test, o)
  o = o or {}
  local draws, sum, squares, count, first = {}, 0, 0, 0, nil
  for d = 1, o.draws or 3 do
    local rows, message =
      features.few(train, { number = o.number, share = o.share or .01, seed = (o.seed or 0) + d })
    if not rows then F.raise("lowshot: " .. message) end
    local part = features.rows(train, rows)
    count, first = #rows, first or part
    -- several steps per epoch even for few rows
    local batch = math.min(o.batch or 256, math.max(2, math.floor(count / 4)))
    local r = probe.classifier(part, test, setmetatable({ batch = batch }, { __index = o }))
    draws[d], sum, squares = r, sum + r.top1, squares + r.top1 ^ 2
  end
  local n = #draws
  local deviation = n > 1 and math.sqrt(math.max(0, squares - sum * sum / n) / (n - 1)) or 0
  return { top1 = sum / n, deviation = deviation, count = count, draws = draws,
    rows = first.sample and first.sample:totable() }
end

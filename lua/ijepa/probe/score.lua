--- Accuracy of predictions: top-1, top-5, a confidence interval, and each class alone.

local text = require "ijepa.base.text"
local device = require "ijepa.tensor.device"

local score = {}
---@class ijepa.score
local Score = {}
Score.__index = Score

--- The 95 % confidence interval of `hits` out of `n`, in percent (Wilson's, for independent
--- images).
---@param hits integer
---@param n integer
---@return number low, number high
function score.interval(hits, n)
  if n < 1 then return 0, 100 end
  local z, p = 1.959964, hits / n
  local middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  local all = 1 + z * z / n
  return 100 * math.max(0, (middle - half) / all), 100 * math.min(1, (middle + half) / all)
end

--- Starts to count predictions for classes with these names. per_class: also each class alone.
---@param classes string[]
---@param per_class boolean?
---@return ijepa.score
function score.new(classes, per_class)
  local self = setmetatable({ classes = classes, n = 0, first = 0, five = 0 }, Score)
  if per_class then
    self.all, self.right = {}, {}
    for i = 1, #classes do self.all[i], self.right[i] = 0, 0 end
  end
  return self
end

--- Adds a batch. logits f32 (B, n): larger is more likely; labels: classes from 0, an i32 array
--- that is read from index `from` on.
---@param logits ijepa.tensor
---@param labels ffi.cdata* int32_t *
---@param from integer?
function Score:add(logits, labels, from)
  local rows, k = logits:size(1), math.min(5, logits:size(2))
  local _, index = logits:topk(k)
  local best = index:read()
  for r = 0, rows - 1 do
    local label = labels[(from or 0) + r]
    for i = 0, k - 1 do
      if best[r * k + i] == label then
        self.five = self.five + 1
        if i == 0 then self.first = self.first + 1 end
      end
    end
    if self.all then
      self.all[label + 1] = self.all[label + 1] + 1
      if best[r * k] == label then self.right[label + 1] = self.right[label + 1] + 1 end
    end
  end
  self.n = self.n + rows
end

--- The result in percent. top5 where there are more than five classes; per_class: the classes with
--- images.
---@return { top1: number, top5: number?, interval: number[], count: integer, per_class: table<string, number>? }
function Score:result()
  local r = { top1 = 100 * self.first / self.n, interval = { score.interval(self.first, self.n) },
    count = self.n }
  if #self.classes > 5 then r.top5 = 100 * self.five / self.n end
  if self.all then
    r.per_class = {}
    for i, name in ipairs(self.classes) do
      if self.all[i] > 0 then r.per_class[name] = 100 * self.right[i] / self.all[i] end
    end
  end
  return r
end

--- A result as one line: "top-1 91.20 % (90.63 to 91.74), top-5 99.10 %, 10000 images".
---@param r table
---@return string
function score.text(r)
  local five = r.top5 and (", top-5 %.2f %%"):format(r.top5) or ""
  return ("top-1 %.2f %% (%.2f to %.2f)%s, %s"):format(r.top1, r.interval[1], r.interval[2], five,
    text.count(r.count, "image"))
end

--- The accuracy of each class, one line each, the worst first.
---@param r table
---@return string
function score.classes(r)
  local names, lines = {}, {}
  for name in pairs(r.per_class or {}) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    local x, y = r.per_class[a], r.per_class[b]
    return x < y or (x == y and a < b)
  end)
  for i, name in ipairs(names) do lines[i] = ("%6.1f %%  %s"):format(r.per_class[name], text.shown(name)) end
  return table.concat(lines, "\n")
end

--- The result of all rows of a data set, `step` rows at a time: f(from, count) -> logits (count,
--- n).
---@param f fun(from: integer, count: integer): ijepa.tensor
---@param features ijepa.features whose labels are the truth
---@param o { per_class: boolean?, step: integer? }?
---@return table
function score.of(f, features, o)
  local labels, R, step = features.y:read(), features.y:numel(), o and o.step or 1024
  local s = score.new(features.classes, o and o.per_class)
  for from = 0, R - 1, step do
    local count = math.min(step, R - from)
    device.step(function() device.no_grad(function() s:add(f(from, count), labels, from) end) end)
  end
  return s:result()
end

return score

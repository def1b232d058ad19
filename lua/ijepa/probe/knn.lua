--- Weighted nearest neighbours: no training. The k training images with the largest cosine to a
--- test image vote for their classes with exp(cosine / temperature).
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local features = require "ijepa.probe.features"
local score = require "ijepa.probe.score"

-- Rows normalised to length one; kept past the step.
local function unit(x)
  local R, W = x:size(1), x:numel() / math.max(x:size(1), 1)
  local v = x:read()
  for r = 0, R - 1 do
    local sum = 0
    for i = r * W, r * W + W - 1 do sum = sum + v[i] * v[i] end
    local scale = sum > 0 and 1 / math.sqrt(sum) or 0
    for i = r * W, r * W + W - 1 do v[i] = v[i] * scale end
  end
  return tensor.from_pointer(v, { R, W }, "f32", true)
end

--- Accuracy of k nearest neighbours for several k together. The result is that of the first k; by_k
--- holds all.
---@param train ijepa.features
---@param test ijepa.features
---@param o { k: integer|integer[]?, temperature: number?, per_class: boolean? }? k 20, temperature
--- .07
---@return table result of score, with k, temperature and by_k: { [k] = result of score }
return function(train, test, o)
  o = o or {}
  local ok, message = features.fit(train, test)
  if not ok then F.raise("knn: " .. message) end
  local ks, R, n = type(o.k) == "table" and o.k or { o.k or 20 }, train.x:size(1), #train.classes
  local most, temperature = math.max(unpack(ks)), o.temperature or .07
  if most > R then
    F.raise(("knn: k is %d, but '%s' has %s"):format(most, train.root or "train",
      text.count(R, "image")))
  end
  if math.min(unpack(ks)) < 1 then
    F.raise(("knn: k is %g, expected 1 or more"):format(math.min(unpack(ks))))
  end
  if not (temperature > 0) then
    F.raise(("knn: temperature is %g, expected more than 0"):format(temperature))
  end

  local known, asked, scores = unit(train.x), unit(test.x), {}
  for _, k in ipairs(ks) do scores[k] = score.new(train.classes, o.per_class) end
  local labels, truth = train.y:read(), test.y:read()
  local rows = math.max(1, math.min(256, math.floor(2 ^ 24 / R)))   -- 64 MiB of cosines at a time
  local votes = F.new("float[?]", rows * n)
  for from = 0, test.x:size(1) - 1, rows do
    local m = math.min(rows, test.x:size(1) - from)
    device.step(function() device.no_grad(function()
      -- (m, R) -> (m, most)
      local near, index = asked:narrow(1, from + 1, m):linear(known):topk(most)
      local cosine, at = near:read(), index:read()
      for k, s in pairs(scores) do
        F.fill(votes, m * n * 4)
        for r = 0, m - 1 do
          for i = r * most, r * most + k - 1 do
            local v = r * n + labels[at[i]]
            -- - 1: no overflow at any temperature
            votes[v] = votes[v] + math.exp((cosine[i] - 1) / temperature)
          end
        end
        s:add(tensor.from_pointer(votes, { m, n }), truth, from)
      end
    end) end)
  end
  local by_k = {}
  for k, s in pairs(scores) do by_k[k] = s:result() end
  return setmetatable({ k = ks[1], temperature = temperature, by_k = by_k },
    { __index = by_k[ks[1]] })
end

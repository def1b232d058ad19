-- Did a run learn something? The linear probe of its target encoder beside the same encoder before training and beside
-- raw pixels, as a table and as a picture of the masks and the losses.
local F = require "ijepa._ffi"
local jepa = require "ijepa.jepa"
local probe = require "ijepa.probe"
local data = require "ijepa.data"
local draw = require "ijepa.draw"
local C = F.C

local function say(fmt, ...) io.stderr:write(fmt:format(...), "\n") end

-- Means of `width` neighbours, so that a curve of thousands of steps can be read.
local function smooth(values, points)
  local width = math.max(1, math.floor(#values / points))
  local x, y = {}, {}
  for from = 1, #values - width + 1, width do
    local sum = 0
    for i = from, from + width - 1 do sum = sum + values[i] end
    x[#x + 1], y[#y + 1] = from + width / 2, sum / width
  end
  return x, y
end

-- The losses of the whole run, from its log: a resumed run has more than this process saw.
local function logged(run)
  local list = {}
  local file = io.open(("%s/%s_r0.csv"):format(run.out, run.config.tag))
  if not file then return run.losses end
  for line in file:lines() do
    local loss = line:match "^%d+,%d+,([^,]+),"
    if loss then list[#list + 1] = tonumber(loss) end
  end
  file:close()
  return list
end

--- Probes a run and writes OUT/summary.png. o: train, test (paths), resize, blocks, limit, and what probe.linear takes.
---@param run table what ijepa.pretrain returned
---@return table results by name: trained, untrained, pixels, each as probe.linear gives it
return function(run, o)
  local cfg = run.config
  local settings = setmetatable({ crop = cfg.data.crop, batch = o.batch or 256, feature_batch = 128,
    workers = math.max(1, cfg.data.workers) }, { __index = o })
  local untrained = jepa.models(cfg)
  local contenders = {
    { "trained", "target encoder, trained", run.target }, { "untrained", "the same, before training", untrained },
    { "pixels", "raw pixels", probe.pixels },
  }
  local results = {}
  for _, c in ipairs(contenders) do
    say("probing: %s", c[2])
    local started = C.ij_time()
    local r, message = probe.linear(c[3], settings)
    if not r then error(message, 0) end
    r.seconds, results[c[1]] = C.ij_time() - started, r
  end
  print(("\n%-28s %10s %10s"):format("linear probe", "features", "top-1"))
  local lines = {}
  for _, c in ipairs(contenders) do
    local r = results[c[1]]
    print(("%-28s %10d %8.1f %%"):format(c[2], r.width, r.top1))
    lines[#lines + 1] = ("%s: %.1f %%"):format(c[2], r.top1)
  end
  local margin = results.trained.top1 - math.max(results.untrained.top1, results.pixels.top1)
  print(margin > 0 and ("training gained %.1f points over the better of the two others"):format(margin)
    or ("training gained nothing: %.1f points under the better of the two others"):format(-margin))

  local images = assert(data.open { train = true, root = cfg.data.root, crop = cfg.data.crop, batch = 4, workers = 0,
    scale = cfg.data.scale, seed = cfg.seed })
  local b = assert(images:next())
  local x, y = smooth(logged(run), 400)
  local file = run.out .. "/summary.png"
  local ok, message = draw.summary(file, { title = "ijepa: " .. run.out, lines = lines,
    masks = { run.policy:sample_raw(4, 0), { grid = run.encoder.grid, pixels = b.pixels, height = images.height,
      width = images.width, pictures = 4 } },
    curves = { { { { name = "loss", x = x, y = y } }, { title = "loss", x = "step", y = "smooth L1" } } } })
  images:close()
  if ok then print("picture of masks and losses: " .. file)
  else say("summary picture: %s", tostring(message)) end
  return results
end

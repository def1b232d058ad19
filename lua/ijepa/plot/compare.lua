-- Did a run learn something? The linear probe of its target encoder beside the same encoder before
-- training and beside raw pixels, as a table and as an image of the masks and the losses.
local jepa = require "ijepa.model"
local probe = require "ijepa.probe"
local features = require "ijepa.probe.features"
local data = require "ijepa.data"
local tensor = require "ijepa.tensor"
local draw = require "ijepa.draw"
local Run = require "ijepa.run"
local text = require "ijepa.base.text"

local say = text.say

--- Probes a run and writes OUT/summary.png. o: train, test (paths), resize, limit, and what
--- probe.sweep takes.
---@param run table what ijepa.pretrain returned
---@param o table
---@return table results by name: trained, untrained, pixels; of each [0], the last layer, and [4],
--- as probe.linear gives it
return function(run, o)
  local cfg = run.config
  local settings = setmetatable({ crop = cfg.data.crop, batch = o.batch or 256, feature_batch = 128,
    cache = o.cache or false,
    workers = math.max(1, cfg.data.workers), orient = cfg.data.orient, damaged = cfg.data.damaged,
    range = cfg.data.range }, { __index = o })
  local untrained = jepa.models(cfg)
  local last = math.min(4, run.encoder.depth)
  local contenders = {
    { "trained", "target encoder, trained", features.pooled_both(run.target, last), last,
      name = "target encoder, trained", step = run.step },
    { "untrained", "the same, before training", features.pooled_both(untrained, last), last,
      name = "target encoder, before training", step = 0 },
    { "pixels", "raw pixels", features.pixels, name = "raw pixels" },
  }
  local results, lines = {}, { { "linear probe, top-1", "last layer", "last 4 blocks" } }
  local rows = { ("%-28s %14s %14s"):format("linear probe, top-1", "last layer", "last 4 blocks") }
  for _, c in ipairs(contenders) do
    local r, blocks = {}, c[4]
    say("probing: %s", c[2])
    local train, test = features.pair(c[3], settings)
    if not train then error(test, 0) end
    if not blocks then
      r[0] = probe.classifier(train, test, settings)
    else
      local D = run.encoder.width
      r[0] = probe.classifier(features.columns(train, 1, D), features.columns(test, 1, D), settings)
      r[4] = probe.classifier(features.columns(train, D + 1, blocks * D),
        features.columns(test, D + 1, blocks * D), settings)
    end
    results[c[1]] = r
    for n, result in pairs(r) do
      probe.record({ run = run.out, step = c.step, train = o.train, test = o.test },
        "linear, " .. c.name .. (blocks and ", " .. features.layers(n == 0 and 0 or blocks) or ""),
          result)
    end
    local one, four = ("%.1f %%"):format(r[0].top1), r[4] and ("%.1f %%"):format(r[4].top1) or ""
    rows[#rows + 1] = ("%-28s %14s %14s"):format(c[2], one, four)
    lines[#lines + 1] = { c[2], one, four }
  end
  print(table.concat(rows, "\n"))
  for _, blocks in ipairs { 0, 4 } do
    local best = math.max(results.untrained[blocks].top1, results.pixels[0].top1)
    local gain = results.trained[blocks].top1 - best
    print(("%s: after training %.1f points %s the better of the two others"):format(
      blocks == 0 and "last layer" or "last 4 blocks", math.abs(gain),
        gain > 0 and "above" or "below"))
  end

  local images = assert(data.open { train = true, root = cfg.data.root, crop = cfg.data.crop,
    batch = 4, workers = 0,
    scale = cfg.data.scale, seed = cfg.seed, orient = cfg.data.orient, damaged = cfg.data.damaged,
      range = cfg.data.range })
  local b = assert(images:next())
  local shown = tensor.from_pointer(b.pixels, { 4, images.height, images.width, 3 }, "u8", true)
  local policy = assert(run.policy:for_images(shown, run.target))
  -- a resumed run has more than this process saw
  local log, unread = Run.read_log(run.out, cfg.tag)
  if unread then say("warning: %s", unread) end
  local x, y = draw.smooth(log and log.loss or run.losses, 400)
  local file = run.out .. "/summary.png"
  local ok, message = draw.summary(file, { title = run.out, lines = lines,
    masks = { policy:sample_raw(4, 0),
      { grid = run.encoder.grid, pixels = b.pixels, height = images.height,
      width = images.width, images = 4 } },
    curves = { { { { name = "loss", x = x, y = y } },
      { title = "Training loss", x = "step", y = "smooth L1" } } } })
  images:close()
  if ok then print("figure of masks and losses: " .. file)
  else say("summary figure: %s", tostring(message)) end
  return results
end

-- A first run without a download: draws labelled scenes (a large shape on a coloured background;
-- the label is the colour of the shape), trains an encoder on them without the labels for five
-- minutes at most, and measures by a linear probe what it has learned.
--   ijepa recipes/quickstart.lua
local ijepa = require "ijepa"
local compare = require "ijepa.compare"
local scenes = require "ijepa.scenes"

local cfg = ijepa.config {
  out = "runs/quickstart",
  data = { root = "runs/quickstart/scenes", batch = 64, workers = 1, crop = 64,
    scale = { 0.6, 1.0 } },
  model = { width = 64, depth = 4, heads = 2, mlp_ratio = 4, patch = 8, pred_depth = 2,
    pred_dim = 32, pred_heads = 2,
    init_gain = 0.7, patch_gain = 1.5 },
  mask = { min_keep = 2, context = { scale = { 0.85, 1.0 } },
    target = { n = 4, scale = { 0.1, 0.15 }, aspect = { 0.75, 1.5 } } },
  optim = { minutes = 4.5, warmup = 0.1, start_lr = 1e-4, lr = 2e-3, final_lr = 1e-6,
    wd = { 0.05, 0.05 }, ema = { 0.99, 1.0 } },
}
local folder = cfg.data.root
local made = assert(ijepa.dist.open()):once(function()   -- one of several processes draws them
  io.stderr:write(("drawing scenes into %s\n"):format(folder))
  return assert(scenes.generate { out = folder, n = 8000, test = 2000, seed = cfg.seed, size = 64,
    label = "colour" })
end)
cfg.data.root = made.train
local run = ijepa.pretrain(cfg)
return compare(run, { train = made.train, test = made.test, resize = 64 })

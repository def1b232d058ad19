-- CIFAR-10 on a laptop: trains without labels for half an hour, then compares linear probes of the
-- encoder, of the untrained encoder and of raw pixels. train= and test= name the two data sets.
--   ijepa recipes/cifar10.lua train=cifar10-train.tar test=cifar10-test.tar
local ijepa = require "ijepa"
local compare = require "ijepa.compare"

local paths, rest = { train = "cifar10-train.tar", test = "cifar10-test.tar" }, {}
for _, argument in ipairs(ijepa.args) do
  local key, value = argument:match "^(%w+)=(.*)$"
  if paths[key] then paths[key] = value else rest[#rest + 1] = argument end
end
local cfg = ijepa.config({
  out = "runs/cifar10",
  data = { root = paths.train, batch = 32, workers = 1, crop = 32, scale = { 0.4, 1.0 },
    flip = 0.5 },
  model = { width = 96, depth = 6, heads = 3, mlp_ratio = 4, patch = 4, pred_depth = 2,
    pred_dim = 48, pred_heads = 3,
    init_gain = 0.7, patch_gain = 1.5 },
  mask = { min_keep = 4, context = { scale = { 0.85, 1.0 } },
    target = { n = 4, scale = { 0.15, 0.2 }, aspect = { 0.75, 1.5 } } },
  optim = { minutes = 30, warmup = 0.1, start_lr = 1e-4, lr = 1e-3, final_lr = 1e-6,
    wd = { 0.05, 0.05 }, ema = { 0.99, 1.0 } },
}, nil, rest)
local run = ijepa.pretrain(cfg)
return compare(run, { train = paths.train, test = paths.test, resize = 32 })

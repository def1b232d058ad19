-- LeJEPA on your own images: several views of each image agree, and SIGReg keeps their embeddings
-- normally distributed (recipes/objectives/sigreg.lua). No masks, no predictor, no target encoder:
-- two large views and four small ones of each image.
--   ijepa recipes/lejepa.lua data.root=FOLDER
--   ijepa recipes/lejepa.lua data.root=FOLDER model.arch=vit_base data.batch=64 out=runs/mine
-- Ctrl-C saves; the same command resumes. Then measure the features:
--   ijepa recipes/probe_linear.lua run=runs/lejepa train=FOLDER test=FOLDER
local ijepa = require "ijepa"
local cfg = ijepa.config {
  out = "runs/lejepa",
  objective = "sigreg",
  data = { root = "", batch = 32, workers = 2, crop = 224, scale = { 0.3, 1.0 }, flip = 0.5,
    jitter = 0.5, grey = 0.2, blur = 0.5,
    views = {
      { n = 2 },   -- with the crop and the scale above
      { n = 4, crop = 96, scale = { 0.05, 0.3 } },
    } },
  model = { arch = "vit_small", patch = 16, init_gain = 0.7, patch_gain = 1.5 },
  optim = { epochs = 100, warmup = 10, start_lr = 1e-5, lr = 5e-4, final_lr = 1e-6,
    wd = { 0.05, 0.05 } },
  log = { save_steps = 500 },
}
return ijepa.pretrain(cfg)

-- Trains I-JEPA on your own images on one machine: ViT-S/16, crops of 224 pixels, 100 epochs. The
-- folder is searched with all its subfolders.
--   ijepa recipes/pretrain.lua data.root=FOLDER
--   ijepa recipes/pretrain.lua data.root=FOLDER model.arch=vit_base optim.epochs=300 out=runs/mine
-- Ctrl-C saves; the same command resumes. Then measure the features:
--   ijepa recipes/probe_linear.lua run=runs/mine train=FOLDER test=FOLDER
local ijepa = require "ijepa"
local cfg = ijepa.config {
  out = "runs/pretrain",
  data = { root = "", batch = 32, workers = 2, crop = 224, scale = { 0.3, 1.0 }, flip = 0.5 },
  -- gains for a narrow encoder: with the published std of .02 its output holds mostly the position,
  -- which the predictor knows already (README, "Learning at a small budget")
  model = { arch = "vit_small", patch = 16, pred_depth = 6, pred_dim = 192, init_gain = 0.7,
    patch_gain = 1.5 },
  mask = { target = { n = 4, scale = { 0.15, 0.2 }, aspect = { 0.75, 1.5 } },
    context = { scale = { 0.85, 1.0 } } },
  optim = { epochs = 100, warmup = 10, start_lr = 1e-4, lr = 1e-3, final_lr = 1e-6,
    wd = { 0.04, 0.1 }, ema = { 0.99, 1.0 } },
  log = { save_steps = 500 },
}
return ijepa.pretrain(cfg)

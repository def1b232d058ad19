-- I-JEPA, ViT-H/16 at 448 pixels on ImageNet-1k, 300 epochs, batch 2048 (128 processes x 16):
-- the published settings with all quirks of the published code.
--   ijepa recipes/in1k_vith16_448.lua data.root=FOLDER
-- To try it on a laptop:
--   ijepa recipes/in1k_vith16_448.lua data.root=FOLDER model.arch=vit_tiny data.batch=8 optim.steps=20
local ijepa = require "ijepa"
local cfg = ijepa.config {
  out = "runs/in1k_vith16_448", seed = 0, quirks = "reference",
  data = { root = "imagenet/train", batch = 16, workers = 10, crop = 448, scale = { 0.3, 1.0 } },
  model = { arch = "vit_huge", patch = 16, pred_depth = 12, pred_dim = 384, dtype = "bf16" },
  mask = {
    policy = "multiblock", context = { n = 1, scale = { 0.85, 1.0 } },
    target = { n = 4, scale = { 0.15, 0.2 }, aspect = { 0.75, 1.5 } }, min_keep = 10, group = 16,
  },
  optim = {
    epochs = 300, warmup = 40, start_lr = 2e-4, lr = 1e-3, final_lr = 1e-6, wd = { 0.04, 0.4 },
    ema = { 0.996, 1.0 }, ipe_scale = 1,
  },
}
return ijepa.pretrain(cfg)

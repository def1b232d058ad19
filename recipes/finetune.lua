-- Fine-tunes the encoder of a run together with a linear classifier on all labels, with layer
-- decay, drop path, label smoothing, mixup and cutmix, and prints the accuracy on the test images.
--   ijepa recipes/finetune.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR epochs=20 mixup=0.8 cutmix=1
local ijepa = require "ijepa"
local leaf = function(kind, default, doc) return { type = kind, default = default, doc = doc } end
local o = ijepa.config({}, ijepa.probe_settings {
  epochs = leaf("integer", 50, "Passes over the training images."),
  warmup = leaf("number", 5, "Epochs in which the learning rate rises."),
  batch = leaf("integer", 64, "Images per step."),
  lr = leaf("number", 1e-3, "Largest learning rate of AdamW."),
  wd = leaf("number", .05, "Weight decay."),
  layer_decay = leaf("number", .75,
    "Factor of the learning rate from one layer to the one below; 1: none."),
  drop_path = leaf("number", .1, "Probability that the last block is skipped, 0 to below 1."),
  smoothing = leaf("number", .1, "Label smoothing, 0 to below 1."),
  mixup = leaf("number", 0, "Alpha of mixup; 0: off; .8 is common."),
  cutmix = leaf("number", 0, "Alpha of cutmix; 0: off; 1 is common."),
  scale = leaf("numbers", { .35, 1 },
    "Smallest and largest area of a random crop as a fraction of the image."),
  flip = leaf("number", .5, "Probability of a mirrored crop."),
  jitter = leaf("number", 0, "Strength of the colour distortion; 0: none."),
})
local encoder = ijepa.probe_settings.encoder("finetune", o)
o.say = function(text) io.stderr:write(text, "\n") end
local r = assert(ijepa.finetune.run(encoder, o))
ijepa.probe.record(o, ("fine-tuned, %d epoch%s"):format(o.epochs, o.epochs == 1 and "" or "s"), r)
print(ijepa.score.text(r))
if o.per_class then print(ijepa.score.classes(r)) end
return r

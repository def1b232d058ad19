-- Full fine-tuning: encoder and linear head on all labels, with layer decay, drop path, mixup, cutmix, label smoothing.
--   ijepa recipes/finetune.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR epochs=20 mixup=0.8 cutmix=1
local ijepa = require "ijepa"
local leaf = function(kind, default, doc) return { type = kind, default = default, doc = doc } end
local o = ijepa.config({}, ijepa.probe_settings {
  epochs = leaf("integer", 50, "over the training images"), warmup = leaf("number", 5, "epochs of rising rate"),
  batch = leaf("integer", 64, "images of a step"), lr = leaf("number", 1e-3, "AdamW's largest"), wd = leaf("number", .05, "weight decay"),
  layer_decay = leaf("number", .75, "of the rate, from one layer to the one below; 1: none"),
  drop_path = leaf("number", .1, "chance that the last block is left out"), smoothing = leaf("number", .1, "of the labels"),
  mixup = leaf("number", 0, "alpha; 0: off, usually 0.8"), cutmix = leaf("number", 0, "alpha; 0: off, usually 1"),
  scale = leaf("numbers", { .35, 1 }, "share of the random crops"), flip = leaf("number", .5, "chance"),
  jitter = leaf("number", 0, "strength of the change of colours"),
})
local encoder = ijepa.probe_settings.encoder("finetune", o)
o.say = function(text) io.stderr:write(text, "\n") end
local r = assert(ijepa.finetune.run(encoder, o))
ijepa.probe.record(o, ("fine-tuned, %d epochs"):format(o.epochs), r)
print(ijepa.score.text(r))
if o.per_class then print(ijepa.score.classes(r)) end
return r

-- Probe with few labels: 1 % of each class, or a fixed number of each, drawn several times. A
-- linear probe is trained on each draw; tune=true also fine-tunes the encoder on the first draw,
-- with layer decay.
--   ijepa recipes/probe_lowshot.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR share=0.1
--   ijepa recipes/probe_lowshot.lua ... per_class_n=5 tune=true
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  share = { type = "number", default = .01,
    doc = "Fraction of the training images of each class that keep their label, at least one image." },
  per_class_n = { type = "integer", default = 0,
    doc = "Images of each class instead of a fraction; 0: by share." },
  draws = { type = "integer", default = 3, doc = "Number of draws; the result is their mean." },
  blocks = { type = "integer", default = 0,
    doc = "Features: 0 for the last layer, n for the last n blocks side by side." },
  tune = { type = "boolean", default = false,
    doc = "true also fine-tunes the encoder on the first draw." },
  epochs = { type = "integer", default = 50,
    doc = "Passes over the labelled images, for probe and fine-tuning." },
  tune_lr = { type = "number", default = 1e-3, doc = "Learning rate of the fine-tuning." },
  layer_decay = { type = "number", default = .75,
    doc = "Factor of the learning rate from one layer to the one below in the fine-tuning." },
  batch = { type = "integer", default = 64, doc = "Images per step of the fine-tuning." },
})
local encoder = ijepa.probe_settings.encoder("probe_lowshot", o)
local train, test = ijepa.features.pair(ijepa.features.pooled(encoder, o.blocks), o)
if not train then error(test, 0) end
local few = o.per_class_n > 0 and { number = o.per_class_n } or { share = o.share }
local r = ijepa.probe.lowshot(train, test,
  { number = few.number, share = few.share, draws = o.draws, epochs = o.epochs, seed = o.seed })
for i, d in ipairs(r.draws) do
  print(("draw %d: %s; lr %g, wd %g"):format(i, ijepa.score.text(d), d.lr, d.wd))
end
local function count(n, noun) return ("%d %s%s"):format(n, noun, n == 1 and "" or "s") end
local labels, draws = count(r.count, "label"), count(#r.draws, "draw")
ijepa.probe.record(o, ("low-shot, %s, mean of %s"):format(labels, draws),
  { top1 = r.top1, deviation = r.deviation })
print(("frozen, %s: top-1 %.2f %%, deviation %.2f of %s"):format(labels, r.top1,
  r.deviation, draws))
if o.tune then
  local images = assert(ijepa.data.catalogue { root = o.train })
  local names = {}
  for i, row in ipairs(r.rows) do names[i] = images:name(row) end
  images:close()
  r.tuned = assert(ijepa.finetune.run(encoder,
    { train = o.train, test = o.test, names = names, crop = o.crop, resize = o.resize,
    epochs = o.epochs, lr = o.tune_lr, layer_decay = o.layer_decay,
      batch = math.min(o.batch, #names), workers = o.workers,
    seed = o.seed, per_class = o.per_class }))
  ijepa.probe.record(o, "fine-tuned on " .. labels, r.tuned)
  print(("fine-tuned: %s"):format(ijepa.score.text(r.tuned)))
  if o.per_class then print(ijepa.score.classes(r.tuned)) end
end
return r

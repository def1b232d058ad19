-- Few labels: 1 % of each class, or so many of each, drawn several times. Frozen: a linear probe of each draw; with
-- tune=true the encoder is then also trained on the first draw, with layer decay.
--   ijepa recipes/probe_lowshot.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR share=0.1
--   ijepa recipes/probe_lowshot.lua ... per_class_n=5 tune=true
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  share = { type = "number", default = .01, doc = "of the training images of each class, at least one" },
  per_class_n = { type = "integer", default = 0, doc = "images of each class instead; 0: by share" },
  draws = { type = "integer", default = 3, doc = "of the images" },
  blocks = { type = "integer", default = 0, doc = "0: last layer, n: the last n blocks" },
  tune = { type = "boolean", default = false, doc = "also train the encoder on the first draw" },
  epochs = { type = "integer", default = 50, doc = "of either training" },
  tune_lr = { type = "number", default = 1e-3, doc = "of the encoder's training" },
  layer_decay = { type = "number", default = .75, doc = "of the learning rate, from one layer to the one below" },
  batch = { type = "integer", default = 64, doc = "of the encoder's training" },
})
local encoder = ijepa.probe_settings.encoder("probe_lowshot", o)
local train, test = ijepa.features.pair(ijepa.features.pooled(encoder, o.blocks), o)
if not train then error(test, 0) end
local few = o.per_class_n > 0 and { number = o.per_class_n } or { share = o.share }
local r = ijepa.probe.lowshot(train, test, { number = few.number, share = few.share, draws = o.draws, epochs = o.epochs, seed = o.seed })
for i, d in ipairs(r.draws) do print(("draw %d: %s; lr %g, wd %g"):format(i, ijepa.score.text(d), d.lr, d.wd)) end
ijepa.probe.record(o, ("low-shot, %d labels, mean of %d draws"):format(r.count, #r.draws), { top1 = r.top1, deviation = r.deviation })
print(("frozen, %d labels: top-1 %.2f %%, deviation %.2f of %d draws"):format(r.count, r.top1, r.deviation, #r.draws))
if o.tune then
  local images = assert(ijepa.data.catalogue { root = o.train })
  local names = {}
  for i, row in ipairs(r.rows) do names[i] = images:name(row) end
  images:close()
  r.tuned = assert(ijepa.finetune.run(encoder, { train = o.train, test = o.test, names = names, crop = o.crop, resize = o.resize,
    epochs = o.epochs, lr = o.tune_lr, layer_decay = o.layer_decay, batch = math.min(o.batch, #names), workers = o.workers,
    seed = o.seed, per_class = o.per_class }))
  ijepa.probe.record(o, ("fine-tuned on %d labels"):format(r.count), r.tuned)
  print(("fine-tuned: %s"):format(ijepa.score.text(r.tuned)))
  if o.per_class then print(ijepa.score.classes(r.tuned)) end
end
return r

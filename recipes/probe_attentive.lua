-- Attentive probe of a run's frozen encoder: one learned query attends to all patches of the last
-- layer, then a linear classifier. It trains all pairs of learning rate and weight decay at the
-- same time and takes the pair that is best on held-out training images.
--   ijepa recipes/probe_attentive.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  probe_heads = { type = "integer", default = 8,
    doc = "Attention heads of the probe; fewer where they do not divide the width." },
  epochs = { type = "integer", default = 10, doc = "Passes over the training features." },
  batch = { type = "integer", default = 64, doc = "Images per step." },
  lr = { type = "numbers", default = { 3e-4, 1e-3, 3e-3 }, doc = "Learning rates of the sweep." },
  wd = { type = "numbers", default = { 1e-2, 1e-1 }, doc = "Weight decays of the sweep." },
})
local encoder = ijepa.probe_settings.encoder("probe_attentive", o)
local train, test = ijepa.features.pair(ijepa.features.tokens(encoder), o)
if not train then error(test, 0) end
o.heads = o.probe_heads   -- of the probe, from here on
local r = ijepa.probe.attentive(train, test, o)
for _, h in ipairs(r.heads) do
  print(("lr %-8g wd %-8g held out %5.1f %%   test top-1 %5.1f %%"):format(h.lr, h.wd, h.held or 0,
    h.top1))
end
ijepa.probe.record(o, ("attentive, %d head%s"):format(o.heads, o.heads == 1 and "" or "s"), r)
print(("%s; lr %g, wd %g"):format(ijepa.score.text(r), r.lr, r.wd))
if o.per_class then print(ijepa.score.classes(r)) end
return r

-- An attentive probe: one learned query per head looks at all patches of the last layer, then a linear classifier; for
-- every pair of a sweep at once.
--   ijepa recipes/probe_attentive.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  heads = { type = "integer", default = 8, doc = "of the query; fewer where the width does not divide" },
  epochs = { type = "integer", default = 10, doc = "of the heads" },
  batch = { type = "integer", default = 64, doc = "of the heads" },
  lr = { type = "numbers", default = { 3e-4, 1e-3, 3e-3 }, doc = "all tried" },
  wd = { type = "numbers", default = { 1e-2, 1e-1 }, doc = "all tried" },
})
local encoder = ijepa.probe_settings.encoder("probe_attentive", o)
local train, test = ijepa.features.pair(ijepa.features.tokens(encoder), o)
if not train then error(test, 0) end
local r = ijepa.probe.attentive(train, test, o)
for _, h in ipairs(r.heads) do
  print(("lr %-8g wd %-8g held out %5.1f %%   test top-1 %5.1f %%"):format(h.lr, h.wd, h.held or 0, h.top1))
end
ijepa.probe.record(o, ("attentive, %d heads"):format(o.heads), r)
print(("%s; lr %g, wd %g"):format(ijepa.score.text(r), r.lr, r.wd))
if o.per_class then print(ijepa.score.classes(r)) end
return r

-- Classifies by the nearest neighbours of a run's pooled features, weighted by similarity. Nothing
-- is trained; several k are evaluated together.
--   ijepa recipes/probe_knn.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR k=10,20,100
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  blocks = { type = "integer", default = 0,
    doc = "Features: 0 for the last layer, n for the last n blocks side by side." },
  k = { type = "numbers", default = { 20, 10, 5 },
    doc = "Numbers of neighbours; the first is the result." },
  temperature = { type = "number", default = .07,
    doc = "Temperature of the votes, above 0; lower: the nearest count more." },
})
local encoder = ijepa.probe_settings.encoder("probe_knn", o)
local train, test = ijepa.features.pair(ijepa.features.pooled(encoder, o.blocks), o)
if not train then error(test, 0) end
local r = ijepa.probe.knn(train, test, o)
ijepa.probe.record(o, ("kNN, k %d, %s"):format(r.k, ijepa.features.layers(o.blocks)), r)
for _, k in ipairs(o.k) do print(("k %-4d %s"):format(k, ijepa.score.text(r.by_k[k]))) end
if o.per_class then print(ijepa.score.classes(r)) end
return r

-- Weighted nearest neighbours of pooled features: nothing is trained, several k at once.
--   ijepa recipes/probe_knn.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR k=10,20,100
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  blocks = { type = "integer", default = 0, doc = "0: last layer, n: the last n blocks" },
  k = { type = "numbers", default = { 20, 10, 5 }, doc = "neighbours; the first is the result" },
  temperature = { type = "number", default = .07, doc = "of the votes" },
})
local encoder = ijepa.probe_settings.encoder("probe_knn", o)
local train, test = ijepa.features.pair(ijepa.features.pooled(encoder, o.blocks), o)
if not train then error(test, 0) end
local r = ijepa.probe.knn(train, test, o)
ijepa.probe.record(o, ("kNN, k %d, %s"):format(r.k, ijepa.features.layers(o.blocks)), r)
for _, k in ipairs(o.k) do print(("k %-4d %s"):format(k, ijepa.score.text(r.by_k[k]))) end
if o.per_class then print(ijepa.score.classes(r)) end
return r

-- Ridge regression on pooled features, in closed form: seconds, and the same answer every time.
--   ijepa recipes/probe_ridge.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  blocks = { type = "integer", default = 0, doc = "0: last layer, n: the last n blocks" },
  lambda = { type = "numbers", default = { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 }, doc = "all tried" },
})
local encoder = ijepa.probe_settings.encoder("probe_ridge", o)
local train, test = ijepa.features.pair(ijepa.features.pooled(encoder, o.blocks), o)
if not train then error(test, 0) end
local r = ijepa.probe.ridge(train, test, o)
for _, s in ipairs(r.sweep) do print(("lambda %-8g held out %5.1f %%"):format(s.lambda, s.held)) end
ijepa.probe.record(o, ("ridge, %s"):format(ijepa.features.layers(o.blocks)), r)
print(("%s; lambda %g"):format(ijepa.score.text(r), r.lambda))
if o.per_class then print(ijepa.score.classes(r)) end
return r

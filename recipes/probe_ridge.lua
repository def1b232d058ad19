-- Ridge regression on a run's pooled features, in closed form: it takes seconds and always gives
-- the same result. lambda is chosen on held-out training images.
--   ijepa recipes/probe_ridge.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  blocks = { type = "integer", default = 0,
    doc = "Features: 0 for the last layer, n for the last n blocks side by side." },
  lambda = { type = "numbers", default = { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 },
    doc = "Regularisations that are tried, above 0." },
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

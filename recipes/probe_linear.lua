-- Linear probe of a run's frozen target encoder: average-pooled patches of the last layer and of
-- the last four blocks, with and without normalisation, for all pairs of learning rate and weight
-- decay. The best on held-out training images is the result. protocol=published takes the published
-- sweep.
--   ijepa recipes/probe_linear.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR [protocol=published]
local ijepa = require "ijepa"
local o = ijepa.config({}, ijepa.probe_settings {
  blocks = { type = "numbers", default = { 0, 4 },
    doc = "Features that are tried: 0 for the last layer, n for the last n blocks side by side." },
  norm = { type = "strings", default = { "data", "none" },
    doc = "Normalisations that are tried: data (mean and variance of the training set), batch (batch norm), none." },
  protocol = { type = "string", default = "",
    doc = "published: SGD with the published sweep and epochs, batch norm and none; empty: AdamW." },
  epochs = { type = "integer", default = 30, doc = "Passes over the training features." },
  batch = { type = "integer", default = 256, doc = "Images per step." },
  lr = { type = "numbers", default = { 3e-4, 1e-3, 3e-3, 1e-2 },
    doc = "Learning rates of the sweep." },
  wd = { type = "numbers", default = { 1e-2, 1e-1, 1 }, doc = "Weight decays of the sweep." },
})
local encoder = ijepa.probe_settings.encoder("probe_linear", o)
if o.protocol == "published" then
  for k, v in pairs(ijepa.probe.published) do o[k] = v end
  o.norm = { "batch", "none" }
end
local best
-- an encoder of your own may have its last layer alone
for _, blocks in ipairs(encoder.blocks and o.blocks or { 0 }) do
  local train, test = ijepa.features.pair(
    ijepa.features.pooled(encoder, math.min(blocks, encoder.depth or blocks)), o)
  if not train then error(test, 0) end
  for _, norm in ipairs(o.norm) do
    local r = ijepa.probe.classifier(train, test, setmetatable({ norm = norm }, { __index = o }))
    r.name = ("%s, norm %s"):format(ijepa.features.layers(blocks), norm)
    ijepa.probe.record(o, "linear, " .. r.name, r)
    print(("%-28s held out %5.1f %%, %s; lr %g, wd %g"):format(r.name, r.held or 0,
      ijepa.score.text(r), r.lr, r.wd))
    if not best or (r.held or 0) > (best.held or 0) then best = r end
  end
end
print(("best on the images held out: %s: %s"):format(best.name, ijepa.score.text(best)))
if o.per_class then print(ijepa.score.classes(best)) end
return best

-- What are the features of a run worth? A linear classifier on its frozen target encoder, average pooled.
--   ijepa recipes/probe_linear.lua run=runs/mine train=FOLDER_OR_TAR test=FOLDER_OR_TAR
--   blocks=4: the last four blocks side by side; resize=N: short side before the centre crop; which=encoder
local ijepa = require "ijepa"
local leaf = function(kind, default, doc) return { type = kind, default = default, doc = doc } end
local o = ijepa.config({}, {
  run = leaf("string", "runs/pretrain", "a run's folder, or a checkpoint"),
  which = leaf("string", "target_encoder", "or encoder"),
  train = leaf("string", nil, "folder or tar of class folders"), test = leaf("string", nil, "the same classes, other pictures"),
  crop = leaf("integer", 0, "0: as trained"), resize = leaf("integer", 0, "0: crop * 8 / 7"), blocks = leaf("integer", 0, "0 or 4"),
  epochs = leaf("integer", 30, "of the classifier"), batch = leaf("integer", 256, "of the classifier"),
  lr = leaf("numbers", { 3e-4, 1e-3, 3e-3, 1e-2 }, "all tried"), wd = leaf("numbers", { 1e-2, 1e-1, 1 }, "all tried"),
  workers = leaf("integer", 2, "threads that read"), seed = leaf("integer", 0, "order of the rows"),
  limit = leaf("integer", 0, "at most so many training pictures; 0: all"),
})
if not o.train or not o.test then error("probe_linear: set train=FOLDER and test=FOLDER, folders (or tars) of class folders", 0) end
local encoder = assert(ijepa.state.encoder(o.run, o.which))
o.crop = o.crop > 0 and o.crop or encoder.settings.data.crop
o.limit = o.limit > 0 and o.limit or nil
io.stderr:write(("probing %s\n"):format(encoder.source))
local result = assert(ijepa.probe.linear(encoder, o))
for _, h in ipairs(result.heads) do
  print(("lr %-8g wd %-8g held out %5.1f %%   test top-1 %5.1f %%"):format(h.lr, h.wd, h.held, h.top1))
end
print(("top-1 %.2f %% (lr %g, wd %g: the best on a tenth of the training pictures held out; %d features)"):format(
  result.top1, result.lr, result.wd, result.width))
return result

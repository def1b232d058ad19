--- The topics of `ijepa help`: what to know first about each, its main functions, settings and
--- document;
-- and examples of functions. A test runs every example that needs no file.
local topics = {}

topics.list = {
  { name = "commands", brief = "report, check, memory, submit, export, ..." },
  { name = "train", brief = "pretraining: recipes, resume, diagnosis, a loop of your own",
    text = "A recipe is a Lua file that calls ijepa.pretrain with settings: `ijepa recipes/pretrain.lua " ..
      "data.root=FOLDER`. Any setting can follow as key=value. Ctrl-C saves; the same command resumes. " ..
      "While it trains, the run checks its encoder for collapse. `ijepa report RUN` shows all of it.",
    functions = { "config.resolve", "interrupted", "state.model", "optim.adamw", "schedule.lr",
      "diagnose.rank" },
    sections = "out, resume, model, optim, diagnose, log, dist",
      document = "docs/watching.md, docs/logs.md, docs/dist.md" },
  { name = "data", brief = "folders, tars and lists of tars; crops; mixtures",
    text = "data.root names a folder of images (its subfolders are searched), a .tar, or a text file that lists .tar " ..
      "shards. No index or conversion is needed. Corrupt images are skipped and counted.",
    functions = { "data.open", "data.image", "data.name", "data.label", "data.next",
      "scenes.generate" },
    sections = "data", document = "docs/data.md" },
  { name = "masks", brief = "mask policies: draw, measure and write them",
    text = "A mask policy draws context and target patches of an image. Policies are built in (multiblock, random, " ..
      "block) or Lua functions: draw one at the prompt, let mask.lint check it, then train with it.",
    functions = { "mask.new", "mask.policy", "mask.draw", "mask.lint", "mask.compare", "try.try", "mask.stats",
      "grid.random_block", "grid.block",
      "grid.checkerboard", "rng.uniform" },
    sections = "mask", document = "docs/masks.md" },
  { name = "probes", brief = "how good features are: linear, kNN, ridge, few labels, fine-tuning",
    text = "A probe measures the features of a frozen encoder with labelled images: `ijepa recipes/probe_knn.lua " ..
      "run=RUN train=FOLDER test=FOLDER`, folders with one folder per class. Also: probe_linear.lua, " ..
      "probe_attentive.lua, probe_ridge.lua, probe_lowshot.lua, finetune.lua. `RECIPE --help` lists their settings.",
    functions = { "features.pooled", "features.pair", "probe.sweep", "probe.parameter", "score.of",
      "score.text", "finetune.run" },
    document = "docs/probes.md" },
  { name = "figures", brief = "masks on images, attention, PCA of features, curves",
    text = "ijepa.plot draws what a model sees; a figure shows itself at the prompt, and file=\"x.png\" saves it.",
    functions = { "plot.masks", "plot.pca", "plot.attention", "plot.similarity", "plot.loss",
      "plot.curves", "imagine.imagine",
      "canvas.new" },
    document = "docs/figures.md" },
  { name = "models", brief = "encoders, runs, checkpoints, weights from elsewhere",
    text = "ijepa.model(RUN) opens a run's models; ijepa.load(FILE) an encoder from a checkpoint of any known layout.",
    functions = { "state.model", "jepa.encoder", "jepa.predictor", "tensors.open", "tensors.save",
      "weights.open" },
    sections = "model", document = "docs/weights.md" },
  { name = "tensors", brief = "tensors, gradients, devices, linear algebra",
    text = "Tensors have PyTorch's names where they do the same. Dimensions count from 1 (or -1 from the end); values " ..
      "such as labels and patches count from 0.",
    functions = { "tensor.new", "tensor.zeros", "tensor.matmul", "tensor.linear", "tensor.softmax",
      "tensor.mean", "tensor.backward",
      "device.set", "linalg.solve", "linalg.eigh" },
    sections = "device, threads" },
  { name = "prompt", brief = "the interactive session: keys, results, help",
    document = "docs/prompt.md" },
  { name = "settings", brief = "every setting of a recipe", document = "docs/settings.md" },
  { name = "modules", brief = "every module of ijepa" },
}

topics.prompt = [[
Type Lua; Enter runs it. The modules need no `ijepa.` in front.

  x = tensor.new { { 1, 2 }, { 3, 4 } }     shows the new value
  x:mean(1)                                 shows a value and keeps it in _
  mask.draw(mask.new { grid = { 8, 16 }, min_keep = 3, group = 4 })

  ? NAME, NAME?   help: ? masks, ? mask.draw, ? optim.lr, ? x
  ? help          the topics of the help
  ;               at the end of a line hides the value
  Tab             completes names, methods, settings, files
  Tab after f(    shows the parameters of f
  Up, Down        the lines of the text, then the history; Ctrl-R searches it
  Enter           runs the text, or starts a line while it is unfinished
  Alt-Enter       starts a line
  Ctrl-C          drops the text, or stops what runs
  Ctrl-D, quit    exits

  dofile "a.lua"  runs a file; reload "a" loads a module again]]

topics.examples = {
  ["config.resolve"] = 'cfg = ijepa.config { out = "runs/mine", data = { root = "images", batch = 64 } }',
  ["mask.new"] = "m = mask.new { grid = { 14, 14 }, min_keep = 10, group = 8 }",
  ["mask.draw"] = "mask.draw(mask.new { grid = { 8, 16 }, group = 4 }, { images = 2 })",
  ["mask.lint"] = "print(mask.lint(mask.new { grid = { 14, 14 } }))",
  ["try.try"] = 'ijepa.try(mask.new { grid = { 8, 8 }, min_keep = 2 }, { out = "runs/tried" })',
  ["mask.compare"] = "mask.compare { { grid = { 14, 14 } }, { grid = { 14, 14 }, policy = 'block' } }",
  ["mask.stats"] = "print(mask.stats(mask.new { grid = { 14, 14 } }, { groups = 20 }))",
  ["mask.policy"] = "m = mask.policy(function(rng, grid) local b = grid:random_block(rng, 3, 3) return -b, { b } end, { 8, 8 })",
  ["mask.grid"] = "print(mask.grid(6, 10):checkerboard(1))",
  ["grid.block"] = "print(mask.grid(6, 10):block(1, 2, 3, 4))",
  ["grid.checkerboard"] = "print(mask.grid(6, 10):checkerboard(1))",
  ["tensor.new"] = "x = tensor.new { { 1, 2 }, { 3, 4 } }",
  ["tensor.zeros"] = "x = tensor.zeros { 2, 3 }",
  ["tensor.matmul"] = "print(tensor.new { { 1, 2 } }:matmul(tensor.new { { 3 }, { 4 } }))",
  ["tensor.mean"] = "print(tensor.new { { 1, 2 }, { 3, 4 } }:mean(1))",
  ["tensor.softmax"] = "print(tensor.new { { 1, 2 }, { 3, 4 } }:softmax())",
  ["tensor.linear"] = "y = tensor.zeros { 4, 8 }:linear(tensor.zeros { 2, 8 })   -- (4, 2)",
  ["tensor.backward"] =
    "x = tensor.new { 1, 2 }:requires_grad_(); (x * x):sum():backward(); print(x:grad())",
  ["linalg.eigh"] = "print(linalg.eigh(tensor.new { { 2, 1 }, { 1, 2 } })[1])",
  ["linalg.solve"] = "print(linalg.solve(tensor.new { { 2, 0 }, { 0, 4 } }, tensor.new { { 2 }, { 4 } }))",
  ["device.set"] = 'device.set "cpu"',
  ["schedule.lr"] = "lr = schedule.lr { start = 0, ref = 1e-3, final = 0, warmup = 10, total = 100 }; print(lr(10))",
  ["jepa.encoder"] = "e = jepa.encoder { width = 64, depth = 2, heads = 2, patch = 8, crop = 64 }; print(e:size())",
  ["diagnose.rank"] = "print(diagnose.rank(tensor.new { { 1, 0 }, { 0, 1 }, { 1, 1 } }))",
  ["state.model"] = 'm = ijepa.model "runs/quickstart"; print(m.target)',
  ["plot.masks"] = 'm = ijepa.model "runs/quickstart"; plot.masks(m, { images = "photo.jpg", file = "masks.png" })',
  ["plot.attention"] = 'plot.attention(ijepa.model "runs/quickstart", "photo.jpg", { file = "attention.png" })',
  ["plot.pca"] = 'plot.pca(ijepa.model "runs/quickstart", { "a.jpg", "b.jpg" }, { file = "pca.png" })',
  ["plot.curves"] = 'plot.curves("runs/quickstart", { file = "curves.png" })',
  ["data.open"] = 'd = data.open { root = "runs/quickstart/scenes", batch = 16, crop = 64 }; print(d:count())',
  ["scenes.generate"] = 'scenes.generate { out = "runs/scenes", n = 100, test = 20, size = 32 }',
  ["features.pair"] = 'train, test = features.pair(features.pooled(ijepa.load "runs/mine"), { train = "train", test = "test" })',
  ["probe.sweep"] = 'r = probe.sweep(probe.linear_head, features.pair(features.pooled(ijepa.load "runs/mine"), ' ..
    '{ train = "train", test = "test" })); print(score.text(r))',
  ["tensors.open"] = 'f = tensors.open "runs/mine/jepa-latest.safetensors"; print(#f:names())',
}

return topics

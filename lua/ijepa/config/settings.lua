-- What a pretraining recipe may say: every key with its type, default and meaning. `ijepa help data.batch` prints one.
local function range(lo, hi)
  return function(v)
    return type(v) == "table" and #v == 2 and v[1] <= v[2] and v[1] >= lo and v[2] <= hi,
      ("expected two numbers, rising, between %g and %g"):format(lo, hi)
  end
end
local function at_least(n) return function(v) return v >= n, ("expected %g or more"):format(n) end end
local function within(lo, hi) return function(v) return v >= lo and v <= hi, ("expected %g to %g"):format(lo, hi) end end
local function share(v) return v >= 0 and v <= 1, "expected a share between 0 and 1" end
local function one_of(...)
  local list = { ... }
  return function(v)
    for _, w in ipairs(list) do
      if v == w then return true end
    end
    return false, "expected one of " .. table.concat(list, ", ")
  end
end
local function policy_name(v)
  if v:find "%.lua$" or v:find "/" then return true end   -- whether it is there: mask.new
  local ok, why = one_of("multiblock", "random", "block")(v)
  return ok, why and why .. ", or a Lua file such as recipes/masks/halves.lua"
end
local function side(v)
  if type(v) == "number" then return v >= 1, "expected a side in pixels" end
  return #v == 2 and v[1] >= 1 and v[2] >= 1, "expected a side, or height and width"
end

return {
  out = { type = "string", default = "runs/jepa", doc = "folder of the run: log, settings, checkpoints" },
  tag = { type = "string", default = "jepa", doc = "first part of the log's and checkpoints' names" },
  seed = { type = "integer", default = 0, doc = "of initial values, order, crops and masks", check = at_least(0) },
  resume = { type = "boolean|string", default = true,
    doc = "resume from the newest checkpoint in `out`, if there is one; a path: where there is none, from that one (also a published .pth.tar)" },
  init = { type = "string", default = "", doc = "start from the weights of this checkpoint: encoder, predictor, target; of any layout" },
  quirks = { type = "string|table", default = "", doc = "\"reference\": every quirk of the published code, or a list of switches" },
  device = { type = "string", default = "", doc = "cpu, cuda, cuda:N; empty: IJEPA_DEVICE, or cpu" },
  threads = { type = "integer", default = 0, doc = "of the computation; 0: all processors", check = at_least(0) },
  data = {
    root = { type = "string|strings",
      doc = "folder of images or of class folders, a .tar, or a text file that lists tar shards; {a,b}: mixed (docs/data.md)" },
    weights = { type = "numbers", default = {}, doc = "shares of the sources in root, at any scale; none: each image once an epoch" },
    subset = { type = "string", doc = "file of image names, one a line: only these" },
    batch = { type = "integer", default = 128, doc = "images of a (micro-)batch", check = at_least(1) },
    workers = { type = "integer", default = 2, doc = "threads that read images; 0: none beside the main one", check = at_least(0) },
    prefetch = { type = "integer", default = 4, doc = "batches read ahead", check = at_least(1) },
    crop = { type = "integer|numbers", default = 224, doc = "side of the crop in pixels, or {height, width}", check = side },
    scale = { type = "numbers", default = { .3, 1 }, doc = "share of the image that a crop covers", check = range(0, 1) },
    ratio = { type = "numbers", default = { 3 / 4, 4 / 3 }, doc = "width / height of a crop", check = range(.01, 100) },
    flip = { type = "number", default = 0, doc = "probability of a mirrored crop", check = share },
    jitter = { type = "number", default = 0, doc = "strength of the colour distortion; 0: none", check = at_least(0) },
    jitter_p = { type = "number", default = .8, doc = "its probability", check = share },
    grey = { type = "number", default = 0, doc = "probability of a grey crop", check = share },
    blur = { type = "number", default = 0, doc = "probability of a blurred crop", check = share },
    max_bad = { type = "number", default = .01, doc = "fraction of corrupt images above which the run stops", check = share },
    max_pixels = { type = "integer", default = 2 ^ 28, doc = "a larger image counts as broken", check = at_least(1) },
    max_bytes = { type = "integer", default = 2 ^ 28, doc = "a larger file of an image counts as broken", check = at_least(1) },
    untrusted_loaders = { type = "boolean", default = false,
      doc = "also what libvips calls unsafe for strangers' files: SVG, PDF and the like" },
    copy = { type = "string", default = "", doc = "folder on a local disk: what is missing there is copied first, then read from there" },
    manifest = { type = "string|strings", default = "",
      doc = "of `ijepa manifest`, one for each source: all files are read and compared before the run" },
  },
  model = {
    arch = { type = "string", default = "vit_base", doc = "vit_tiny, small, base, large, huge, giant" },
    width = { type = "integer", doc = "instead of the arch's" }, depth = { type = "integer", doc = "instead of the arch's" },
    heads = { type = "integer", doc = "instead of the arch's" }, mlp_ratio = { type = "number", doc = "instead of the arch's" },
    patch = { type = "integer", default = 16, doc = "side of a patch in pixels", check = at_least(1) },
    pred_depth = { type = "integer", default = 12, doc = "blocks of the predictor", check = at_least(1) },
    pred_dim = { type = "integer", default = 384, doc = "width of the predictor", check = at_least(4) },
    pred_heads = { type = "integer", doc = "of the predictor; default: the encoder's" },
    dtype = { type = "string", default = "bf16", doc = "of matrix products; bf16 is f32 where the machine has none", check = one_of("f32", "bf16") },
    recompute = { type = "boolean", default = false, doc = "activation checkpointing: less memory, a third more time" },
    init_gain = { type = "number", default = 0, doc = "std of initial values = gain / sqrt(inputs); 0: .02 as published", check = at_least(0) },
    patch_gain = { type = "number", default = 0, doc = "the same for the patch embedding", check = at_least(0) },
    stop_gradient = { type = "boolean", default = true,
      doc = "false: targets are the trained encoder's own, with gradients (an experiment that collapses)" },
    depth_scaled_init = { type = "boolean", default = false, doc = "divide each block's proj and fc2 by sqrt(2 layer)" },
  },
  mask = {
    policy = { type = "string", default = "multiblock", doc = "multiblock, random, block, or a Lua file such as recipes/masks/halves.lua",
      check = policy_name },
    options = { type = "table|string", doc = "of a policy's file: a table, or share=0.5,over=1000 (see the file)" },
    context = {
      n = { type = "integer", default = 1, doc = "context masks of an image", check = at_least(1) },
      scale = { type = "numbers", default = { .85, 1 }, doc = "share of the grid", check = range(0, 1) },
    },
    target = {
      n = { type = "integer", default = 4, doc = "target blocks of an image", check = at_least(1) },
      scale = { type = "numbers", default = { .15, .2 }, doc = "share of the grid", check = range(0, 1) },
      aspect = { type = "numbers", default = { .75, 1.5 }, doc = "height / width", check = range(.01, 100) },
    },
    min_keep = { type = "integer", default = 10, doc = "a mask holds more patches than this", check = at_least(0) },
    overlap = { type = "boolean", default = false, doc = "targets may lie in the context" },
    group = { type = "integer", default = 128, doc = "images whose masks are cut to one length", check = at_least(1) },
  },
  optim = {
    epochs = { type = "number", default = 300, doc = "passes over the data", check = at_least(0) },
    steps = { type = "integer", default = 0, doc = "stop after this many steps; 0: after the epochs", check = at_least(0) },
    minutes = { type = "number", default = 0, check = at_least(0),
      doc = "length of the run in time: schedules follow the clock (not repeatable bit for bit); 0: epochs count" },
    warmup = { type = "number", default = 40, doc = "epochs (or, with minutes, the share) of growing learning rate", check = at_least(0) },
    start_lr = { type = "number", default = 2e-4, doc = "learning rate at the start", check = at_least(0) },
    lr = { type = "number", default = 1e-3, doc = "after the warm-up", check = at_least(0) },
    final_lr = { type = "number", default = 1e-6, doc = "at the end", check = at_least(0) },
    wd = { type = "numbers", default = { .04, .4 }, doc = "weight decay from, to" },
    ema = { type = "numbers", default = { .996, 1 }, doc = "momentum of the target's moving average from, to" },
    ipe_scale = { type = "number", default = 1, doc = "the schedules' length as a multiple of the run's", check = at_least(.01) },
    accumulate = { type = "integer", default = 1, doc = "batches of one update", check = at_least(1) },
    clip = { type = "number", default = 0, doc = "largest norm of all gradients together; 0: no limit", check = at_least(0) },
    betas = { type = "numbers", default = { .9, .999 }, doc = "AdamW's" },
    eps = { type = "number", default = 1e-8, doc = "AdamW's" },
    shard = { type = "boolean", default = false, doc = "several processes: each keeps AdamW's moments of a part of the model only" },
  },
  dist = {
    timeout = { type = "number", default = 600, doc = "seconds after which a process that others wait for counts as lost",
      check = at_least(1) },
    bucket = { type = "number", default = 25, doc = "MiB of gradients that are summed at once over the processes", check = at_least(0) },
  },
  diagnose = {
    every = { type = "integer", default = 1000, doc = "steps between looks for collapse at the target encoder; 0: none", check = at_least(0) },
    images = { type = "integer", default = 64, doc = "that are looked at, the same every time", check = at_least(2) },
    views = { type = "integer", default = 4, doc = "crops of each of them, 1 to 64", check = within(1, 64) },
    stop = { type = "boolean", default = false, doc = "end the run when it looks like collapse" },
    probe = { type = "string", default = "",
      doc = "\"knn\" or \"ridge\": also that probe, on labelled images", check = one_of("", "knn", "ridge") },
    probe_images = { type = "integer", default = 500, doc = "of that probe, half of them to learn from", check = at_least(10) },
  },
  log = {
    every = { type = "integer", default = 10, doc = "steps between console lines", check = at_least(1) },
    json = { type = "boolean", default = false, doc = "also write TAG.jsonl: a JSON object a step and a diagnosis" },
    tensorboard = { type = "boolean", default = false, doc = "also write TensorBoard event files" },
    save_steps = { type = "integer", default = 0, doc = "also save every so many steps; 0: at epochs' ends", check = at_least(0) },
    save_background = { type = "boolean", default = true, doc = "a thread writes a copy of the state, which takes its memory meanwhile" },
    save_epochs = { type = "integer", default = 50, doc = "keep a numbered checkpoint every so many epochs", check = at_least(1) },
  },
}

-- The settings of a pretraining recipe: every key with its type, default, check and text. A text is
-- one or two complete sentences: what it sets, the unit, the range, when to change it. `ijepa help
-- data.batch` prints one; docs/settings.md shows all (`ijepa help settings --markdown`).
local groups = require "ijepa.base.groups"

local function number_list(v)
  local parts = {}
  for i, n in ipairs(v) do parts[i] = ("%g"):format(n) end
  return table.concat(parts, ",")
end
-- Two numbers from lo to hi (below hi: open = true), in order where `rising`; the advice is `such`,
-- or the same numbers in order.
local function two(lo, hi, such, rising, open)
  return function(v, _, key)
    local ok = type(v) == "table" and #v == 2
    local fits = ok
    for _, n in ipairs(fits and v or {}) do
      fits = fits and n >= lo and (n < hi or n == hi and not open)
    end
    local advice = number_list(such)
    if fits and rising and v[1] > v[2] then fits, advice = false, number_list { v[2], v[1] } end
    local upper = hi == math.huge and (" of %g or more"):format(lo)
      or (" from %g to %s%g"):format(lo, open and "below " or "", hi)
    return fits, ("expected two numbers%s%s, such as %s=%s"):format(upper,
      rising and ", the smaller one first" or "", key, advice)
  end
end
local function range(lo, hi, such) return two(lo, hi, such, true) end
local function at_least(n)
  return function(v) return v >= n, ("expected %g or more"):format(n) end
end
-- A check of numbers for a setting that may also be a function of the step.
local function or_function(check)
  return function(v, ...)
    if type(v) == "function" then return true end
    return check(v, ...)
  end
end
local function above(low, high)
  return function(v)
    return v > low and v <= high, ("expected above %g, up to %g"):format(low, high)
  end
end
local function within(lo, hi)
  return function(v) return v >= lo and v <= hi, ("expected %g to %g"):format(lo, hi) end
end
local function fraction(v) return v >= 0 and v <= 1, "expected a fraction between 0 and 1" end
local function one_of(...)
  local list = { ... }
  return function(v)
    for _, w in ipairs(list) do
      if v == w then return true end
    end
    return false, "expected one of " .. table.concat(list, ", ")
  end
end
-- Text that stands for code: a name or a file; a function comes from Lua only.
local function no_function(v, such)
  return not v:find "^%s*function%f[%W]" and not v:find "^%s*return%f[%W]" and not v:find "[\n;]",
    ("a function can only be given in Lua (a recipe, the prompt): write it into a file, such as %s")
      :format(such)
end
local function part_of_a_name(v)
  return v ~= "" and not v:find "[/%c]", "expected a part of a file name: no '/', no line ends"
end
local function policy_name(v)
  if type(v) == "function" then return true end
  if v:find "%.lua$" or v:find "/" then return true end   -- mask.new checks that the file exists
  local ok, why = no_function(v, "mask.policy=mine.lua")
  if not ok then return ok, why end
  ok, why = one_of("multiblock", "random", "block")(v)
  return ok, why and why .. ", or a Lua file such as recipes/masks/halves.lua"
end
local function code_name(v, _, key)
  if type(v) ~= "string" then return true end
  return no_function(v, key .. "=mine.lua")
end
local function low_high(v)
  return #v == 0 or #v == 2 and v[1] < v[2], "expected two numbers, low and high, rising; or none"
end
local function side(v, _, key)
  local function whole(n) return n >= 1 and n % 1 == 0 and n < 2 ^ 31 end
  if type(v) == "number" then return whole(v), "expected a side in pixels, 1 or more" end
  return #v == 2 and whole(v[1]) and whole(v[2]),
    ("expected a side, or height and width, in pixels, such as %s=224 or %s=224,448"):format(
      key, key)
end
local function groups_of(kind)
  return function(v)
    local why = groups.wrong(kind, v)
    return why == nil, why
  end
end

return {
  out = { type = "string", default = "runs/jepa",
    doc = "Folder of the run: log, settings and checkpoints. A run resumes from the " ..
      "checkpoints in its folder, so give each run its own." },
  tag = { type = "string", default = "jepa", check = part_of_a_name,
    doc = "First part of the file names of log and checkpoints (TAG_r0.csv, " ..
      "TAG-latest.safetensors)." },
  seed = { type = "integer", default = 0, max = 2 ^ 53, check = at_least(0),
    doc = "Seed of initial values, data order, crops and masks; 0 or more. The same seed " ..
      "and settings draw the same values again." },
  resume = { type = "boolean|string", default = true,
    doc = "true resumes from the newest checkpoint in `out` if there is one; false starts a " ..
      "new run and moves an earlier one to `out`/older (docs/resuming.md). A path names " ..
      "the checkpoint (also a published .pth.tar) that is used where `out` has none." },
  init = { type = "string", default = "",
    doc = "Checkpoint in any layout whose weights (encoder, predictor, target encoder) a " ..
      "new run starts from; empty: random initial values. A run that resumes ignores " ..
      "it." },
  objective = { type = "string|function|table", opaque = true, default = "ijepa",
    check = code_name,
    doc = "What a step minimises: a name of the program's own (ijepa), a Lua file such as " ..
      "recipes/objectives/ijepa.lua, or in Lua a function(t, batch) or a table " ..
      "(docs/objectives.md)." },
  quirks = { type = "string|table", default = "",
    doc = "\"reference\" reproduces every quirk of the published code; a list names " ..
      "single switches (docs/masks.md); empty: none. Set it to compare with published runs." },
  device = { type = "string", default = "",
    doc = "Device of the run: cpu, cuda or cuda:N (N from 0); empty: the variable " ..
      "IJEPA_DEVICE, or cpu." },
  threads = { type = "integer", default = 0, check = within(0, 1024),
    doc = "Number of CPU threads that compute, up to the number of CPUs; 0: all CPUs. Lower " ..
      "it when several programs share the machine." },
  data = {
    root = { type = "string|strings",
      doc = "Images to train on: a folder (all its subfolders are searched), a .tar, or a " ..
        "text file that lists .tar shards. {a,b} mixes several sources (docs/data.md)." },
    weights = { type = "numbers", default = {},
      doc = "Sampling weight of each source in data.root, above 0 and at any scale; empty: " ..
        "each image once per epoch. Set it to train more often on a small source." },
    subset = { type = "string",
      doc = "Text file of image names, one per line: only these images are used; none: all " ..
        "images." },
    batch = { type = "integer", default = 128, check = at_least(1),
      doc = "Images per batch and process, 1 or more. Lower it when memory is short, and " ..
        "raise optim.accumulate by the same factor." },
    workers = { type = "integer", default = 2, check = at_least(0),
      doc = "Threads that read and crop images; 0: the main thread does it. Raise it when " ..
        "the log shows that steps wait for data." },
    prefetch = { type = "integer", default = 4, check = at_least(1),
      doc = "Batches that are read ahead, 1 or more. Raise it when the time to read a batch " ..
        "varies much, as on network disks." },
    crop = { type = "integer|numbers", default = 224, check = side,
      doc = "Side of the random crop in pixels, or {height, width}; a multiple of " ..
        "model.patch. A larger crop gives more patches and a slower step." },
    scale = { type = "numbers", default = { .3, 1 }, check = range(0, 1, { .3, 1 }),
      doc = "Smallest and largest area of a crop as a fraction of the image, 0 to 1. Raise " ..
        "the first for small images, which a small crop would blur." },
    ratio = { type = "numbers", default = { 3 / 4, 4 / 3 }, check = range(.01, 100, { .75, 1.33 }),
      doc = "Smallest and largest aspect ratio (width / height) of a crop, .01 to 100." },
    flip = { type = "number", default = 0, check = fraction,
      doc = "Probability of a mirrored crop, 0 to 1. The published recipes use 0; .5 helps " ..
        "on small data sets." },
    jitter = { type = "number", default = 0, check = at_least(0),
      doc = "Strength of the colour distortion, 0 or more; 0: none. I-JEPA needs none." },
    jitter_p = { type = "number", default = .8, check = fraction,
      doc = "Probability that a crop gets the colour distortion, 0 to 1; without effect " ..
        "where data.jitter is 0." },
    grey = { type = "number", default = 0, check = fraction,
      doc = "Probability of a crop in grey, 0 to 1. I-JEPA needs none." },
    blur = { type = "number", default = 0, check = fraction,
      doc = "Probability of a blurred crop, 0 to 1. I-JEPA needs none." },
    views = { type = "table", default = {}, check = groups_of "views",
      doc = "Several views of each image, for objectives that use them: a list of groups such " ..
        "as {n=6, crop=96, scale={.05, .3}}; what a group does not set is as data has it. " ..
        "Empty: one view (docs/data.md)." },
    max_bad = { type = "number", default = .01, check = fraction,
      doc = "Fraction of corrupt images, 0 to 1, above which the run stops. Raise it for a " ..
        "data set with many damaged files." },
    max_pixels = { type = "integer", default = 2 ^ 28, max = 2 ^ 53, check = at_least(1),
      doc = "Pixels of the largest image that is decoded; a larger one counts as corrupt." },
    max_bytes = { type = "integer", default = 2 ^ 28, max = 2 ^ 53, check = at_least(1),
      doc = "Bytes of the largest image file that is read; a larger one counts as corrupt." },
    untrusted_loaders = { type = "boolean", default = false,
      doc = "true also reads formats that libvips calls unsafe for files from strangers, " ..
        "such as SVG and PDF. Set it only for files that you trust." },
    orient = { type = "string", default = "torchvision",
      check = one_of("torchvision", "exif", "stored"),
      doc = "Images turned by their EXIF orientation: those that torchvision's ImageFolder " ..
        "turns, which are TIFFs (\"torchvision\"), all (\"exif\"), or none (\"stored\"). " ..
        "HEIC and AVIF are always turned." },
    damaged = { type = "string", default = "decode", check = one_of("decode", "skip"),
      doc = "JPEGs that libjpeg decodes with a warning: \"decode\" uses their pixels, as " ..
        "Pillow does; \"skip\" counts them as corrupt. Truncated files are always corrupt." },
    range = { type = "numbers", default = {}, check = low_high,
      doc = "Values {low, high} that become black and white in images of more than 8 bits; " ..
        "empty: the range of their type, 0 to 1 for floats. Use 0,4095 for 12 bits in 16." },
    copy = { type = "string", default = "",
      doc = "Folder on a local disk to which missing data is copied before the run, and " ..
        "from which it is then read; empty: no copy. Set it when data.root is on a slow " ..
        "network disk." },
    manifest = { type = "string|strings", default = "",
      doc = "Manifest of `ijepa manifest`, one for each source: every file is read and " ..
        "compared with it before the run; empty: no check." },
  },
  model = {
    arch = { type = "string", default = "vit_base",
      doc = "Size of the encoder: vit_tiny, vit_small, vit_base, vit_large, vit_huge or " ..
        "vit_giant. model.width, depth, heads and mlp_ratio override single values." },
    encoder = { type = "string|function", check = code_name,
      doc = "An encoder of your own: a Lua file or in Lua a function(cfg) that returns it " ..
        "(docs/models.md); none: the ViT of model.arch." },
    predictor = { type = "string|function", check = code_name,
      doc = "A predictor of your own: a Lua file or in Lua a function(cfg, encoder) that " ..
        "returns it (docs/models.md); none: that of model.pred_depth and pred_dim." },
    width = { type = "integer",
      doc = "Width of the encoder (values per token), a multiple of model.heads; none: that " ..
        "of model.arch." },
    depth = { type = "integer",
      doc = "Number of blocks of the encoder; none: that of model.arch." },
    heads = { type = "integer",
      doc = "Number of attention heads of the encoder; none: that of model.arch." },
    mlp_ratio = { type = "number",
      doc = "Hidden width of a block's MLP as a multiple of the width; none: that of " ..
        "model.arch, which is 4 for all but vit_giant." },
    patch = { type = "integer", default = 16, check = at_least(1),
      doc = "Side of a patch in pixels, 1 or more; it must divide data.crop. Half the side " ..
        "gives four times the patches." },
    pred_depth = { type = "integer", default = 12, check = at_least(1),
      doc = "Number of blocks of the predictor, 1 or more. Use 6 for vit_tiny to vit_base, " ..
        "12 for vit_large and vit_huge, 16 for vit_giant." },
    pred_dim = { type = "integer", default = 384, check = at_least(4),
      doc = "Width of the predictor (values per token), 4 or more. Lower it for an encoder " ..
        "of less than that width: the predictor works best as a bottleneck." },
    pred_heads = { type = "integer",
      doc = "Number of attention heads of the predictor; none: that of the encoder." },
    dtype = { type = "string", default = "bf16", check = one_of("f32", "bf16"),
      doc = "Type of the values in matrix products: bf16 or f32. bf16 becomes f32 on a " ..
        "device without bf16 instructions." },
    recompute = { type = "boolean", default = false,
      doc = "true recomputes activations in the backward pass (activation checkpointing): " ..
        "less memory, and a step takes about a third longer." },
    init_gain = { type = "number", default = 0, check = at_least(0),
      doc = "Standard deviation of initial weights is gain / sqrt(inputs), gain above 0; 0: " ..
        ".02 as published. Use .7 for encoders narrower than vit_small." },
    patch_gain = { type = "number", default = 0, check = at_least(0),
      doc = "The same gain for the patch embedding alone; 0: .02 as published. Use 1.5 " ..
        "where model.init_gain is .7." },
    freeze = { type = "integer", default = 0, check = at_least(0),
      doc = "Number of blocks of the encoder, from the first, that are not trained, with the " ..
        "patch embedding; 0: all is trained. Set it with `init` to continue from weights." },
    stop_gradient = { type = "boolean", default = true,
      doc = "false trains on the targets of the encoder itself, with gradients through " ..
        "them. This experiment collapses: keep it true to train." },
    depth_scaled_init = { type = "boolean", default = false,
      doc = "true divides the initial weights of each block's proj and fc2 by sqrt(2 " ..
        "layer), for deep encoders." },
  },
  mask = {
    policy = { type = "string|function", default = "multiblock", check = policy_name,
      doc = "Mask policy: multiblock, random, block, a Lua file such as " ..
        "recipes/masks/halves.lua, or in Lua a function (docs/masks.md)." },
    options = { type = "table|string",
      doc = "Options of a policy from a Lua file: a table, or text such as " ..
        "from=0.05,over=1000. The file lists its options." },
    context = {
      n = { type = "integer", default = 1, check = at_least(1),
        doc = "Context masks per image, 1 or more; the published runs use 1." },
      scale = { type = "numbers", default = { .85, 1 }, check = range(0, 1, { .85, 1 }),
        doc = "Smallest and largest area of the context block as a fraction of the grid, 0 " ..
          "to 1. Targets are then cut out of it." },
    },
    target = {
      n = { type = "integer", default = 4, check = at_least(1),
        doc = "Target blocks per image, 1 or more. More targets cost more predictor time " ..
          "per step." },
      scale = { type = "numbers", default = { .15, .2 }, check = range(0, 1, { .15, .2 }),
        doc = "Smallest and largest area of a target block as a fraction of the grid, 0 to " ..
          "1. Larger targets ask for more than texture." },
      aspect = { type = "numbers", default = { .75, 1.5 }, check = range(.01, 100, { .75, 1.5 }),
        doc = "Smallest and largest aspect ratio (height / width) of a target block, .01 to " ..
          "100." },
    },
    min_keep = { type = "integer", default = 10, check = at_least(0),
      doc = "Every mask holds more patches than this, 0 or more. Lower it for small grids: " ..
        "at most a few percent of the patches." },
    overlap = { type = "boolean", default = false,
      doc = "true leaves the target patches in the context, which makes the task easy." },
    group = { type = "integer", default = 128, check = at_least(1),
      doc = "Number of consecutive images whose masks have the same length, 1 or more. Use " ..
        "data.batch, as the published code does; policies that look at the images need " ..
        "it." },
  },
  optim = {
    epochs = { type = "number", default = 300, check = at_least(0),
      doc = "Passes over the data set, 0 or more; parts such as .5 are allowed. optim.steps " ..
        "or optim.minutes replace it." },
    steps = { type = "integer", default = 0, check = at_least(0),
      doc = "Stops the run after this many steps; 0: after optim.epochs. The schedules " ..
        "still follow optim.epochs." },
    minutes = { type = "number", default = 0, check = at_least(0),
      doc = "Length of the run in minutes: the schedules follow the clock, so a run cannot " ..
        "be repeated bit for bit; 0: optim.epochs counts." },
    warmup = { type = "number", default = 40, check = at_least(0),
      doc = "Epochs in which the learning rate rises from start_lr to lr; with " ..
        "optim.minutes, the fraction of the run (0 to 1)." },
    start_lr = { type = "number", default = 2e-4, check = at_least(0),
      doc = "Learning rate at the first step, 0 or more; it rises to optim.lr during the " ..
        "warm-up." },
    name = { type = "string", default = "adamw", check = one_of("adamw", "sgd", "lars", "lion"),
      doc = "Optimizer: adamw, sgd, lars or lion (docs/optim.md). Each wants another learning " ..
        "rate: about a third of AdamW's for lion, far larger ones for sgd and lars." },
    lr = { type = "number|function", default = 1e-3, check = or_function(at_least(0)),
      doc = "Learning rate after the warm-up, for the batch of the whole update. Raise it " ..
        "with the batch size; lower it when the loss jumps or is NaN. In Lua also a function " ..
        "of the step (docs/optim.md)." },
    final_lr = { type = "number", default = 1e-6, check = at_least(0),
      doc = "Learning rate at the last step, 0 or more: the end of the cosine from " ..
        "optim.lr." },
    wd = { type = "numbers|function", default = { .04, .4 },
      check = or_function(two(0, math.huge, { .04, .4 })),
      doc = "Weight decay at the first and at the last step; it follows a cosine. Use a " ..
        "constant such as {.05, .05} for short runs. In Lua also a function of the step." },
    ema = { type = "numbers|function", default = { .996, 1 },
      check = or_function(two(0, 1, { .996, 1 })),
      doc = "Momentum of the target encoder's EMA at the first and the last step, 0 to 1; " ..
        "it rises linearly. Use .99 for runs of less than about 10,000 steps. In Lua also a " ..
        "function of the step. Whether there is a target encoder is the objective's choice." },
    ipe_scale = { type = "number", default = 1, check = at_least(.01),
      doc = "Length of the schedules as a multiple of the run, .01 or more. Above 1 the run " ..
        "ends before its schedules do." },
    accumulate = { type = "integer", default = 1, check = at_least(1),
      doc = "Batches per update, 1 or more: their gradients are added. Raise it for a " ..
        "larger effective batch in the same memory." },
    clip = { type = "number", default = 0, check = at_least(0),
      doc = "Largest norm of all gradients together, above 0; 0: no limit. Set it (1 to 10) " ..
        "when single steps make the loss jump." },
    betas = { type = "numbers", default = { .9, .999 },
      check = two(0, 1, { .9, .999 }, false, true),
      doc = "AdamW's decay rates of the first and the second moment, 0 to 1. .95 for the " ..
        "second reacts faster to a change of gradients." },
    eps = { type = "number", default = 1e-8,
      check = function(v) return v > 0, "expected a number above 0" end,
      doc = "AdamW's epsilon, added to the root of the second moment; above 0." },
    momentum = { type = "number|function", default = .9,
      check = or_function(function(v) return v >= 0 and v < 1, "expected 0 up to, but not, 1" end),
      doc = "Momentum of sgd and lars, 0 to below 1; 0 keeps no moments. In Lua also a function " ..
        "of the step. Without effect on the others." },
    nesterov = { type = "boolean", default = false,
      doc = "true makes the momentum of sgd and lars Nesterov's." },
    trust = { type = "number", default = .001, check = above(0, 1e6),
      doc = "Trust coefficient of lars, above 0: an update has this fraction of the norm of its " ..
        "parameters, times the learning rate." },
    lion_betas = { type = "numbers", default = { .9, .99 },
      check = two(0, 1, { .9, .99 }, false, true),
      doc = "Lion's decay rates, of the direction and of the moment, 0 to 1." },
    groups = { type = "table", default = {}, check = groups_of "parameters",
      doc = "Factors of learning rate and weight decay for parameters by Lua patterns of their " ..
        "names, such as {match=\"%.bias$\", wd=0, lr=.1}; the first match counts " ..
        "(docs/optim.md)." },
    layer_decay = { type = "number", default = 1, check = above(0, 1),
      doc = "Factor of the learning rate from each layer of the encoder to the one below it, " ..
        "above 0 to 1; 1: none. .65 to .75 to fine-tune." },
    shard = { type = "boolean", default = false,
      doc = "true divides the optimizer's moments among the processes: less memory for each, the " ..
        "same result. Without effect in one process." },
  },
  dist = {
    timeout = { type = "number", default = 600, check = at_least(1),
      doc = "Seconds, 1 or more, after which a process that others wait for counts as lost " ..
        "and the run stops. Raise it for slow file systems." },
    bucket = { type = "number", default = 25, check = at_least(0),
      doc = "MiB of gradients that the processes sum together in one message, 0 or more. " ..
        "Change it only to tune a slow network." },
  },
  diagnose = {
    every = { type = "integer", default = 1000, check = at_least(0),
      doc = "Steps between two checks of the target encoder for collapse, 0 or more; 0: " ..
        "none. Lower it for runs shorter than 1000 steps." },
    images = { type = "integer", default = 64, check = at_least(2),
      doc = "Images of a check, 2 or more; every check uses the same ones. More images give " ..
        "a steadier rank and a slower check." },
    views = { type = "integer", default = 4, check = within(1, 64),
      doc = "Crops per image of a check, 1 to 64. LiDAR needs at least 2." },
    stop = { type = "boolean", default = false,
      doc = "true ends the run when a check reports collapse." },
    probe = { type = "string", default = "", check = one_of("", "knn", "ridge"),
      doc = "\"knn\" or \"ridge\" adds that probe to every check, which needs images in class " ..
        "folders; empty: no probe." },
    probe_images = { type = "integer", default = 500, check = at_least(10),
      doc = "Labelled images of diagnose.probe, 10 or more: half to fit it, half to test " ..
        "it." },
  },
  log = {
    every = { type = "integer", default = 10, check = at_least(1),
      doc = "Steps between two lines on the console, 1 or more." },
    json = { type = "boolean", default = false,
      doc = "true also writes TAG.jsonl: one JSON object per step and per check " ..
        "(docs/logs.md)." },
    tensorboard = { type = "boolean", default = false,
      doc = "true also writes TensorBoard event files into the run's folder." },
    save_steps = { type = "integer", default = 0, check = at_least(0),
      doc = "Also saves the newest checkpoint every so many steps; 0: only at the end of " ..
        "each epoch. Set it when an epoch takes long." },
    save_background = { type = "boolean", default = true,
      doc = "true lets a thread write checkpoints while training continues; meanwhile a " ..
        "copy of the state takes memory. false waits for the file." },
    save_epochs = { type = "integer", default = 50, check = at_least(1),
      doc = "Epochs between two numbered checkpoints that are kept, 1 or more." },
  },
}

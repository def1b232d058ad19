--- ijepa.try: a mask policy, also one that was just typed, trains a small model for some steps; the
--- loss, what the checks say of the features, and the masks are shown.
local F = require "ijepa.base.ffi"
local terminal = require "ijepa.base.terminal"
local text = require "ijepa.base.text"
local config = require "ijepa.config"
local data = require "ijepa.data"
local scenes = require "ijepa.data.scenes"
local mask = require "ijepa.mask"
local pretrain = require "ijepa.train"
local C = F.C

local USAGE = "ijepa.try(policy, { steps = 50 })"
local OPTIONS = { "steps", "batch", "data", "out", "images", "seed", "device" }
local SIDE = 64   -- pixels of the scenes, and about those of the model's images
local IMAGES, TEST = 2000, 500

local function need(ok, ...)
  if not ok then F.raise(string.format(...)) end
end

local function whole(name, v, default, least)
  if v == nil then v = default end
  need(type(v) == "number" and v % 1 == 0 and v >= least and v < 2 ^ 31,
    "ijepa.try: '%s' is %s, expected a whole number from %d", name, tostring(v), least)
  return v
end

-- The images: those of a quickstart in the current folder, else scenes of the same kind, which are
-- drawn once into the cache.
local function scenes_of()
  local quick = "runs/quickstart/scenes/train.tar"
  if C.ij_path_kind(quick) == 1 then return quick end
  local folder = data.cache_folder() .. "/scenes"
  local train = folder .. "/train.tar"
  if C.ij_path_kind(train) == 1 then return train end
  text.say("drawing %s into %s, once", text.count(IMAGES, "scene"), folder)
  local made, message = scenes.generate { out = folder, n = IMAGES, test = TEST, size = SIDE,
    label = "colour" }
  if not made then F.raise(message) end
  return made.train
end

-- The section `mask` of the configuration that a policy stands for, and its grid.
local function mask_settings(policy)
  if type(policy) == "function" then return { policy = policy, min_keep = 2 }, { 8, 8 } end
  if type(policy) == "string" then return { policy = policy, min_keep = 2 }, { 8, 8 } end
  need(type(policy) == "table" and policy.sample_raw and policy.grid,
    "%s: the first argument is %s, expected a mask policy, a function or a file", USAGE,
    type(policy) == "table" and "a table" or type(policy))
  local s = policy.settings
  if s then   -- built in
    return { policy = s.policy, context = s.context, target = s.target, min_keep = s.min_keep,
      overlap = s.overlap, group = policy.group }, policy.grid, s.quirks
  end
  local options = {}
  for key, value in pairs(policy.options or {}) do options[key] = value end
  local base = options.mask or {}
  options.mask = nil
  local of_file = policy.name ~= "in Lua"
  need(of_file or policy.saliency == nil, "ijepa.try: a policy with a saliency trains from a file "
    .. "that returns { policy = f, saliency = g } (docs/masks.md): ijepa.try \"mine.lua\"")
  return { policy = of_file and policy.name or policy.f, options = next(options) and options or nil,
    context = base.context, target = base.target, min_keep = base.min_keep,
    overlap = base.overlap, group = policy.group }, policy.grid
end

-- A folder that is new and empty.
local function temporary()
  local path = os.tmpname()
  os.remove(path)
  F.check(C.ij_mkdirs(path))
  return path
end

-- What the run came to, in a few lines.
local function summary(run, seconds, images)
  local losses, n = run.losses, #run.losses
  local function mean(from, to)
    local sum = 0
    for i = from, to do sum = sum + losses[i] end
    return sum / (to - from + 1)
  end
  local part = math.max(1, math.floor(n / 10))
  local out = { ("loss %.4f -> %.4f (means of the first and last %s) in %s, %.1f s"):format(
    mean(1, part), mean(n - part + 1, n), text.count(part, "step"), text.count(n, "step"),
    seconds) }
  local first, last = run.diagnoses[1], run.diagnoses[#run.diagnoses]
  if last then
    out[2] = ("verdict: %s%s"):format(last.level == "ok" and "" or last.level:upper() .. ": ",
      last.text)
    if first ~= last then
      out[3] = ("before training: effective rank %.1f, now %.1f of %d"):format(first.rankme,
        last.rankme, last.max_rank)
    end
  end
  local width = math.min(C.ij_terminal_width(), 100)
  for i, line in ipairs(out) do out[i] = terminal.wrap(line, width) end
  out[#out + 1] = "masks:"
  out[#out + 1] = mask.text(run.policy, { images = images, target = run.target,
    color = C.ij_isatty(1) ~= 0 and os.getenv "NO_COLOR" == nil })
  out[#out + 1] = ("the run is in %s"):format(text.shown(run.out))
  return table.concat(out, "\n")
end

--- Trains a small model with a mask policy for some steps, on the quickstart's scenes or a given
--- data set, and prints its loss, the verdict on its features and its masks. The first call draws
--- the scenes. Fifty steps show that a policy works and where its loss goes, not what it is worth.
---@param policy ijepa.mask_policy|function|string a policy, a function as mask.policy takes it, or
--- a file; the last two get a grid of 8 x 8 patches
---@param o { steps: integer?, batch: integer?, data: string?, out: string?, images: integer?,
---seed: integer?, device: string? }? steps (50); batch: images of a step (32); data: a folder or
---tar of images; out: the run's folder (a temporary one); images: masks that are shown (3); seed
---(0); device: as the setting of that name
---@return table run as ijepa.pretrain returns it
local function try(policy, o)
  need(o == nil or type(o) == "table", "%s: the second argument is %s, expected a table of options",
    USAGE, tostring(o))
  o = o or {}
  text.check_keys("ijepa.try", o, OPTIONS)
  local steps, batch = whole("steps", o.steps, 50, 1), whole("batch", o.batch, 32, 1)
  local images = whole("images", o.images, 3, 1)
  local masks, grid, quirks = mask_settings(policy)
  local patch = math.max(2, math.floor(SIDE / math.max(grid[1], grid[2])))
  local root = o.data or scenes_of()
  local set, message = data.catalogue { root = root }
  if not set then F.raise(message) end
  local epochs = math.max(1, math.ceil(steps * batch / set:count()))
  set:close()
  masks.group = masks.group or batch
  local cfg = config.resolve({ out = o.out or temporary(), seed = o.seed or 0, quirks = quirks,
    device = o.device, resume = false,
    data = { root = root, batch = batch, workers = 1, crop = { grid[1] * patch, grid[2] * patch },
      scale = { .6, 1 } },
    model = { width = 64, depth = 4, heads = 2, mlp_ratio = 4, patch = patch, pred_depth = 2,
      pred_dim = 32, pred_heads = 2, init_gain = .7, patch_gain = 1.5 },
    mask = masks,
    optim = { epochs = epochs, steps = steps, warmup = .1 * epochs, start_lr = 1e-4, lr = 2e-3,
      final_lr = 1e-6, wd = { .05, .05 }, ema = { .99, 1 } },
    diagnose = { every = steps }, log = { every = math.max(1, math.floor(steps / 5)) } }, nil, {})
  local started = C.ij_time()
  local run = pretrain(cfg)
  print(summary(run, C.ij_time() - started, images))
  return run
end

return try

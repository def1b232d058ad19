-- The trainer: a run in progress, as the loop (init.lua) drives it and hooks see it. Its methods
-- are in step.lua (one training step), after.lua (what follows a step), saving.lua (state on disk),
-- opening.lua (start and end).
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local data = require "ijepa.data"
local model = require "ijepa.model"
local objective = require "ijepa.model.objective"
local optim = require "ijepa.optim"
local schedule = require "ijepa.optim.schedule"
local code = require "ijepa.base.code"
local buffers = require "ijepa.train.buffers"
local step = require "ijepa.train.step"
local after = require "ijepa.train.after"
local saving = require "ijepa.train.saving"
local opening = require "ijepa.train.opening"

local trainer = {}

---@class ijepa.trainer
---@field config table the settings
---@field step integer complete steps
---@field encoder ijepa.encoder the context encoder, which is trained
---@field predictor ijepa.predictor? nil where the objective has none
---@field target ijepa.encoder the target encoder, an EMA of the context encoder; the encoder itself
--- where the objective has no target encoder
---@field objective ijepa.objective
---@field modules table<string, ijepa.model> of the objective, by name
---@field opt ijepa.optim
---@field policy ijepa.mask_policy? nil where the objective needs no masks
---@field scale { lr: number, wd: number } factors of the schedules; hooks may set them; they are
--- saved
---@field losses number[] of the steps of this process
---@field run table the log: run:say(text)
---@field dist ijepa.dist the processes that train together
local Trainer = {
  update = step.update, loss = step.loss, predict = step.predict,
  after = after.after, due = after.due,
  load = saving.load, save = saving.save, must_save = saving.must_save,
  finish_save = saving.finish_save, rollback = saving.rollback, roll_back = saving.roll_back,
  interrupted = saving.interrupted, failed = saving.failed,
  open = opening.open, open_log = opening.open_log, keep_code = opening.keep_code,
  say_done = opening.say_done, close = opening.close,
}
Trainer.__index = Trainer

--- Whether the run's steps or minutes are used up, or a hook has ended it.
---@return boolean
function Trainer:over()
  local minutes = self.config.optim.minutes
  return self.ended ~= nil or self.step >= self.last or minutes > 0 and self.seconds >= 60 * minutes
end

--- For hooks: the run saves and ends after this step, and prints why.
---@param why string
function Trainer:stop(why) self.ended = tostring(why) end

-- Masks are drawn on the grid of data.crop, for the images of the first view.
local function check_views(d)
  local first, given = data.view_sizes(d)[1], data.view_sizes { crop = d.crop }[1]
  if first.height ~= given.height or first.width ~= given.width then
    error(("data.views: group 1 has images of %d x %d and data.crop is %d x %d: give it data.crop")
      :format(first.height, first.width, given.height, given.width), 0)
  end
end

local function open_images(cfg, processes)
  local d = cfg.data
  check_views(d)
  local images, message = data.open { train = true, root = d.root, subset = d.subset,
    seed = cfg.seed,
    crop = d.crop, batch = d.batch, multiple = cfg.optim.accumulate,
    rank = processes.rank, world = processes.size, workers = d.workers, prefetch = d.prefetch,
    scale = d.scale, ratio = d.ratio, flip = d.flip, jitter = d.jitter, jitter_p = d.jitter_p,
    grey = d.grey, blur = d.blur, views = d.views, weights = d.weights, copy = d.copy,
    max_bad = d.max_bad, max_pixels = d.max_pixels, max_bytes = d.max_bytes,
    untrusted_loaders = d.untrusted_loaders, orient = d.orient, damaged = d.damaged,
      range = d.range,
    manifest = processes.local_rank == 0 and d.manifest or nil,
    say = function(line) io.stderr:write(line, "\n") end }
  if not images then error(message, 0) end
  return images
end

-- Entries of the optimizer whose gradient norms the log shows.
local function qkv_entries(t)
  local list, own = {}, {}
  for _, p in ipairs(t.encoder:params()) do own[p] = p.name:find "attn%.qkv%.weight$" end
  for i, e in ipairs(t.opt.entries) do
    if own[e.param] then list[#list + 1] = i end
  end
  return list
end

-- Whether an optimizer has something to do. A parameter that requires no gradient is not trained,
-- so it must not decay either.
local function has_trained(m)
  local trained = false
  for _, p in ipairs(m:params()) do
    trained = trained or p.trained and p.tensor:requires_grad()
  end
  for _, p in ipairs(trained and m:params() or {}) do
    if p.trained and not p.tensor:requires_grad() then p.trained, p.frozen = false, true end
  end
  return trained
end

-- The models that the optimizer updates, and which model follows which as an EMA.
local function trained_models(t, modules)
  local list, average = { t.encoder }, {}
  if t.target ~= t.encoder then average[t.encoder] = t.target end
  list[#list + 1] = t.predictor
  for _, m in ipairs(list) do has_trained(m) end
  for _, m in ipairs(modules) do
    local trained = not m.source and has_trained(m.model)
    if m.source then average[t.modules[m.source]] = m.model
    elseif trained then list[#list + 1] = m.model end
  end
  return list, average
end

-- The name of each model in front of its parameters' names, as in checkpoints.
local function names_of(t, modules)
  local names = { [t.encoder] = "encoder" }
  if t.predictor then names[t.predictor] = "predictor" end
  for _, m in ipairs(modules) do names[m.model] = m.name end
  return names
end

-- The user's code that the run is made of; the default objective is the program's.
local function pieces_of(t, of_models)
  local list, its, policy = {}, t.objective.piece, t.config.mask.policy
  if its.name ~= "ijepa" then list[1] = its end
  for _, piece in ipairs(of_models) do list[#list + 1] = piece end
  if t.policy and type(policy) == "function" then list[#list + 1] = code.load("policy", policy)
  elseif t.policy then list[#list + 1] = t.policy.piece end
  return list
end

--- A trainer of a configuration.
---@param cfg table as ijepa.config gives it
---@param hooks { step: function?, diagnosis: function? }
---@param processes ijepa.dist
---@param images table? instead of those of data.root; then the models have no initial values
---@return ijepa.trainer
function trainer.new(cfg, hooks, processes, images)
  local o = cfg.optim
  local t = setmetatable({ config = cfg, hooks = hooks, dist = processes, losses = {},
    step = 0, saved = 0, saves = 0, seconds = 0, scale = { lr = 1, wd = 1 } }, Trainer)
  t.ahead = device.info().ahead   -- the device works behind this process: losses are read later
  t.images = images or processes:in_turn(function() return open_images(cfg, processes) end)
  t.ipe = math.floor(t.images:epoch_steps() / o.accumulate)   -- steps per epoch
  t.objective = objective.of(cfg)
  local models = model.models_of(cfg, t.objective, images ~= nil)
  t.encoder, t.predictor, t.target = models.encoder, models.predictor, models.target
  local modules = objective.modules(t.objective, t)
  if t.objective.masks then t.policy = model.policy(cfg, t.encoder.grid, processes.size) end
  t.pieces = pieces_of(t, models.pieces)
  local trained, average = trained_models(t, modules)
  t.opt = optim.of(cfg, { models = trained, average = average, names = names_of(t, modules),
    dist = processes })
  if t.ahead then   -- the sum of all losses: once it is not finite, updates do nothing
    t.gate = tensor.zeros({ 1 }, "f32", true)
    t.opt:gate(t.gate)
  end
  t.whole = { encoder = t.encoder, predictor = t.predictor, target_encoder = t.target, opt = t.opt,
    parts = objective.parts(t, modules), modules = modules }
  t.buffers = buffers.of(t)
  t.qkv = qkv_entries(t)
  local s = schedule.of(cfg, t.ipe)
  t.last, t.lr, t.wd, t.momentum, t.sgd_momentum = s.last, s.lr, s.wd, s.momentum, s.sgd_momentum
  if type(t.objective.target) == "function" then t.momentum = step.momentum(t) end
  return t
end

--- A trainer whose models have no initial values: to count what its steps
--- need (memory.lua).
---@param cfg table
---@param images table with height, width, epoch_steps and next, as ijepa.data has them
---@param processes ijepa.dist as dist.imagine gives it
---@return ijepa.trainer
function trainer.counting(cfg, images, processes) return trainer.new(cfg, {}, processes, images) end

return trainer

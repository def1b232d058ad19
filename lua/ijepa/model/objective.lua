--- The objective of a run: the loss that a step minimises, the modules that it trains beside
-- encoder and predictor, and what it has no use for (docs/objectives.md).
local code = require "ijepa.base.code"
local text = require "ijepa.base.text"
local tensor = require "ijepa.tensor"
local adopt = require "ijepa.model.adopt"

local objective = {}

---@class ijepa.objective
---@field title string for messages: its name, file, or line
---@field loss fun(t: ijepa.trainer, batch: ijepa.batch): ijepa.tensor, table? the loss, of one
--- element; and numbers or tensors of one element by name, for the log
---@field predict (fun(t: ijepa.trainer, images, context, targets): ijepa.tensor, ijepa.tensor)?
--- predictions and targets, which diagnoses measure
---@field modules (fun(t: ijepa.trainer): table<string, ijepa.model>, table<string, string>?)? the
--- modules that it trains, by name; and the names of those that follow one of them as an EMA
---@field target "ema"|"none"|fun(step: integer): number the target encoder: an EMA with optim.ema,
--- none, or an EMA with this momentum
---@field predictor boolean false: no predictor is made
---@field masks boolean false: no masks are drawn
---@field functions table? what it is made of, by name, for others to use and to test
---@field piece ijepa.code

local FIELDS = { "loss", "predict", "modules", "target", "predictor", "masks", "functions" }
-- Names that modules can't have: those of a checkpoint's other parts, and of the trainer's methods.
local TAKEN = { encoder = true, predictor = true, target_encoder = true, target = true, opt = true,
  module = true }

local function check(piece)
  local v = piece.value
  local name = "objective " .. (piece.name or piece.title)
  local function wrong(fmt, ...) error(("%s: %s"):format(name, fmt:format(...)), 0) end
  if type(v) == "function" then v = { loss = v } end
  if type(v) ~= "table" then
    wrong("it is a %s, expected a function(t, batch) or a table { loss = function, ... }", type(v))
  end
  for key in pairs(v) do
    local known = false
    for _, field in ipairs(FIELDS) do known = known or field == key end
    if not known then
      wrong("unknown field '%s'%s", tostring(key), text.hint(tostring(key), FIELDS))
    end
  end
  for _, field in ipairs { "loss", "predict", "modules" } do
    if v[field] ~= nil and type(v[field]) ~= "function" then
      wrong("'%s' is a %s, expected a function", field, type(v[field]))
    end
  end
  if not v.loss then wrong "it has no function 'loss'" end
  for _, field in ipairs { "predictor", "masks" } do
    if v[field] ~= nil and type(v[field]) ~= "boolean" then
      wrong("'%s' is a %s, expected true or false", field, type(v[field]))
    end
  end
  local target = v.target == nil and "ema" or v.target
  if target ~= "ema" and target ~= "none" and type(target) ~= "function" then
    wrong("'target' is %s, expected \"ema\", \"none\" or a function of the step",
      type(target) == "string" and "'" .. target .. "'" or "a " .. type(target))
  end
  local masks = v.masks ~= false
  return { title = name, loss = v.loss, predict = v.predict, modules = v.modules, target = target,
    masks = masks, predictor = masks and v.predictor ~= false, piece = piece }
end

--- Starts the random tensors (tensor.randn and others) of a run anew: those of its models and
--- modules, or of a batch.
---@param cfg table
---@param number integer? of the batch
function objective.seed(cfg, number)
  if not tensor.manual_seed then return end
  -- initial values have a sequence of their own
  if number then tensor.manual_seed(cfg.seed, number % 2 ^ 27)
  else tensor.manual_seed(cfg.seed + 2 ^ 51) end
end

--- The objective of a configuration.
---@param cfg table as ijepa.config gives it
---@return ijepa.objective
function objective.of(cfg)
  return check(code.load("objective", cfg.objective or "ijepa", "objectives",
    (cfg.kept or {}).objective))
end

-- ---- modules ------------------------------------------------------------------------------------

local function list_names(names) return #names > 0 and table.concat(names, ", ") or "none" end

-- The module that follows `source` as an EMA: a copy, or one of the same parameters that is given.
local function follower_of(self, name, given, source)
  local follower = given
  if not follower then
    if type(source.target) ~= "function" then
      error(("%s: '%s' has no method target, which makes a copy: declare '%s' yourself"):format(
        self.title, source.name or name, name), 0)
    end
    follower = adopt.module(source:target(), ("%s: module '%s'"):format(self.title, name))
  end
  for _, p in ipairs(source:params()) do
    local its = follower.by_name[p.name]
    if p.trained and (not its or table.concat(its.tensor:shape(), ",")
        ~= table.concat(p.tensor:shape(), ",")) then
      error(("%s: module '%s' has no parameter '%s' of the same shape to follow that of its source")
        :format(self.title, name, p.name), 0)
    end
  end
  return follower:requires_grad_(false)
end

--- Makes the modules of an objective: t.modules gets them by name.
---@param self ijepa.objective
---@param t table the trainer, or what a reopened run has of one: config, encoder, predictor, target
---@return { name: string, model: ijepa.model, source: string? }[] list sorted by name
function objective.modules(self, t)
  t.modules = {}
  if not self.modules then return {} end
  objective.seed(t.config)
  local made, averages = code.call(self.title .. ": modules", self.modules, t)
  local function wrong(fmt, ...)
    code.wrong(self.title .. ": modules", self.modules, fmt, ...)
  end
  if made ~= nil and type(made) ~= "table" then
    wrong("it returned a %s, expected a table NAME = module", type(made))
  end
  if averages ~= nil and type(averages) ~= "table" then
    wrong("its second result is a %s, expected a table NAME = \"SOURCE\"", type(averages))
  end
  made, averages = made or {}, averages or {}
  local list, names = {}, {}
  for _, set in ipairs { made, averages } do
    for name in pairs(set) do
      if type(name) ~= "string" or not name:find "^[%a_][%w_]*$" then
        wrong("a module is called '%s': expected a name of letters, digits and _", tostring(name))
      elseif TAKEN[name] then
        wrong("a module is called '%s', which is taken: choose another name", name)
      end
      if not names[name] then names[#names + 1] = name end
      names[name] = true
    end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    if made[name] ~= nil then
      local m = adopt.module(made[name], ("%s: module '%s'"):format(self.title, name))
      if #m:params() == 0 then wrong("module '%s' has no parameters", name) end
      for other, its in pairs(t.modules) do
        if its == m then wrong("'%s' and '%s' are the same module", other, name) end
      end
      t.modules[name] = m
    end
  end
  for _, name in ipairs(names) do
    local from = averages[name]
    if from ~= nil then
      if type(from) ~= "string" or not t.modules[from] or averages[from] then
        wrong("'%s' shall follow '%s', which is no trained module (modules: %s)", name,
          tostring(from), list_names(text.keys(made)))
      end
      t.modules[name] = follower_of(self, name, t.modules[name], t.modules[from])
    end
    list[#list + 1] = { name = name, model = t.modules[name], source = from }
  end
  return list
end

--- Everything of a run that has parameters, in the order of a checkpoint.
---@param t table encoder, predictor, target
---@param modules table[] as objective.modules gives it
---@return { name: string, model: ijepa.model }[]
function objective.parts(t, modules)
  local parts = { { name = "encoder", model = t.encoder } }
  if t.predictor then parts[#parts + 1] = { name = "predictor", model = t.predictor } end
  if t.target ~= t.encoder then
    parts[#parts + 1] = { name = "target_encoder", model = t.target }
  end
  for _, m in ipairs(modules) do parts[#parts + 1] = { name = m.name, model = m.model } end
  return parts
end

--- Switches the models that train differently (dropout, batch norm) to use.
---@param parts { model: ijepa.model }[]
---@return fun() back switches to training again those that trained
function objective.use(parts)
  local trained = {}
  for _, part in ipairs(parts) do
    local m = part.model
    if type(m.eval) == "function" and m.training then
      trained[#trained + 1] = m
      m:eval()
    end
  end
  return function()
    for _, m in ipairs(trained) do m:train() end
  end
end

-- ---- the loss -----------------------------------------------------------------------------------

local function described(v)
  if not tensor.is(v) then return type(v) == "nil" and "nothing" or "a " .. type(v) end
  return ("a tensor %s (%s)"):format(v:dtype(), table.concat(v:shape(), ", "))
end

--- The loss of a batch and the numbers that the function returns beside it.
---@param self ijepa.objective
---@param t ijepa.trainer
---@param batch ijepa.batch
---@return ijepa.tensor loss f32 (1), table<string, number|ijepa.tensor> values
function objective.loss(self, t, batch)
  local what = ("%s, step %d"):format(self.title, batch.step)
  objective.seed(t.config, batch.number)
  local loss, values = code.call(what, self.loss, t, batch)
  local function wrong(...) code.wrong(what, self.loss, ...) end
  if not tensor.is(loss) or loss:dtype() ~= "f32" then
    wrong("it returned %s, expected the loss: a tensor f32 of one element", described(loss))
  elseif loss:numel() ~= 1 then
    wrong("the loss is %s, expected one element: take its mean()", described(loss))
  elseif not loss:requires_grad() then
    wrong("the loss depends on no parameter that is trained")
  end
  if values ~= nil and type(values) ~= "table" then
    wrong("its second result is %s, expected a table NAME = number", described(values))
  end
  for name, v in pairs(values or {}) do
    if type(name) ~= "string" or not name:find "^[%a_][%w_./-]*$" then
      wrong("a value is called '%s': expected a name of letters, digits and _", tostring(name))
    elseif type(v) ~= "number" and not (tensor.is(v) and v:numel() == 1) then
      wrong("value '%s' is %s, expected a number or a tensor of one element", name, described(v))
    end
  end
  -- the gate and the reading of a GPU take one dimension
  return loss:dim() == 1 and loss or loss:reshape(1), values or {}
end

return objective

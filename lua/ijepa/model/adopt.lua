--- Models that the user has written: what training, probes and plots need of them is checked here,
-- and what follows from their parameters is added.
local adopt = {}

local function wrong(what, fmt, ...) error(("%s: %s"):format(what, fmt:format(...)), 0) end

local function is_callable(v)
  local meta = getmetatable(v)
  return type(v) == "function" or type(meta) == "table" and meta.__call ~= nil
end

-- Methods that follow from params().
local function size(self)
  local n = 0
  for _, p in ipairs(self:params()) do n = n + p.tensor:numel() end
  return n
end
local function requires_grad_(self, on)
  for _, p in ipairs(self:params()) do
    if p.trained then p.tensor:requires_grad_(on) end
  end
  return self
end

--- A module of parameters: an object with params(), a list of { name, tensor, trained, decayed }.
--- Gets what is missing of by_name, size and requires_grad_.
---@param m any
---@param what string for messages
---@return ijepa.model
function adopt.module(m, what)
  if type(m) ~= "table" then wrong(what, "it is a %s, expected a module", type(m)) end
  if type(m.params) ~= "function" then wrong(what, "it has no method params()") end
  local list = m:params()
  if type(list) ~= "table" then
    wrong(what, "params() returned a %s, expected a list", type(list))
  end
  local by_name = {}
  for i, p in ipairs(list) do
    local name = type(p) == "table" and p.name
    if type(name) ~= "string" or not require "ijepa.tensor".is(p.tensor) then
      wrong(what, "entry %d of params() is no { name = ..., tensor = ... }", i)
    elseif by_name[name] then
      wrong(what, "two parameters are called '%s'", name)
    elseif p.trained ~= false and p.tensor:dtype() ~= "f32" then
      wrong(what, "parameter '%s' is %s, expected f32", name, p.tensor:dtype())
    end
    by_name[name] = p
    if p.trained == nil then p.trained = true end
    if p.decayed == nil then p.decayed = p.tensor:dim() > 1 end
    if p.model == nil then p.model = m end
  end
  -- one list for all: the optimizer and checkpoints know a parameter by its entry
  if m:params() ~= list then rawset(m, "params", function() return list end) end
  local its, complete = m.by_name, type(m.by_name) == "table"
  for name, p in pairs(by_name) do complete = complete and its[name] == p end
  if not complete then m.by_name = by_name end
  if m.size == nil then m.size = size end
  if m.requires_grad_ == nil then m.requires_grad_ = requires_grad_ end
  return m
end

--- An encoder: a module that is called as e(images) and e(images, context), with fields width,
--- patch and grid.
---@param e any
---@param what string
---@param grid integer[] that the images of the run have
---@return ijepa.encoder
function adopt.encoder(e, what, grid)
  adopt.module(e, what)
  if not is_callable(e) then wrong(what, "it can't be called as e(images, context)") end
  for _, field in ipairs { "width", "patch" } do
    if type(e[field]) ~= "number" then
      wrong(what, "its field '%s' is %s, expected a number", field, tostring(e[field]))
    end
  end
  if type(e.grid) ~= "table" or type(e.grid[1]) ~= "number" or type(e.grid[2]) ~= "number" then
    wrong(what, "its field 'grid' is %s, expected { rows, columns }", tostring(e.grid))
  end
  if e.grid[1] ~= grid[1] or e.grid[2] ~= grid[2] then
    wrong(what, "its grid is %g x %g, but images of data.crop have %g x %g patches of model.patch",
      e.grid[1], e.grid[2], grid[1], grid[2])
  end
  return e
end

--- A predictor: a module that is called as p(x, context, targets).
---@param p any
---@param what string
---@return ijepa.predictor
function adopt.predictor(p, what)
  adopt.module(p, what)
  if not is_callable(p) then wrong(what, "it can't be called as p(x, context, targets)") end
  return p
end

--- Copies all values of a model to another one with the same parameters.
---@param from ijepa.model
---@param to ijepa.model
---@param what string
---@return ijepa.model to
function adopt.copy(from, to, what)
  for _, p in ipairs(from:params()) do
    local its = to.by_name[p.name]
    if not its or table.concat(its.tensor:shape(), ",") ~= table.concat(p.tensor:shape(), ",") then
      wrong(what, "called twice it made models with different parameters ('%s')", p.name)
    end
    its.tensor:copy_(p.tensor:detach())
  end
  return to
end

return adopt

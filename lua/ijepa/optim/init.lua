-- Optimizers over models: AdamW, SGD, LARS and Lion, with groups of parameters, layer decay and
-- frozen layers (`groups`); the schedules of learning rate, weight decay, momentum and EMA
-- (`schedule`). docs/optim.md is the guide.
-- Uses: base, tensor.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local parts = require "ijepa.optim.groups"
local text = require "ijepa.base.text"
local C = F.C

local optim = {}
---@class ijepa.optim
---@field name string "adamw", "sgd", "lars" or "lion"
---@field entries { tensor: ijepa.tensor, decayed: boolean?, param: table?, lr: number?, wd: number? }[]
--- what is updated, in the order of state(i)
---@field moments integer of each tensor: 0, 1 (m) or 2 (m and v)
local Optim = {}
Optim.__index = Optim

local KINDS = { adamw = C.IJ_ADAMW, sgd = C.IJ_SGD, lars = C.IJ_LARS, lion = C.IJ_LION }
-- The options that only some optimizers have.
local ONLY = { betas = "adamw, lion", eps = "adamw", momentum = "sgd, lars",
  nesterov = "sgd, lars", trust = "lars" }
local OPTIONS = { "name", "models", "average", "params", "names", "encoder", "groups", "layer_decay",
  "freeze", "betas", "eps", "momentum", "nesterov", "trust", "dist", "shard", "bucket" }

local function configuration(o)
  local name = o.name or "adamw"
  if not KINDS[name] then
    F.raise(("optim.new: name is '%s', expected adamw, sgd, lars or lion%s"):format(
      tostring(name), text.hint(tostring(name), text.keys(KINDS))))
  end
  text.check_keys("optim." .. (o.name and "new" or "adamw"), o, OPTIONS)
  for key, names in pairs(ONLY) do
    if o[key] and not names:find(name, 1, true) then
      F.raise(("optim.new: '%s' is an option of %s, not of %s"):format(key, names, name))
    end
  end
  local c = F.new "ij_optim_config"
  c.kind = KINDS[name]
  if o.betas then c.beta1, c.beta2 = o.betas[1], o.betas[2] end
  if ONLY.momentum:find(name, 1, true) then c.beta1 = o.momentum or .9 end
  c.eps, c.shard, c.bucket = o.eps or 0, o.shard and 1 or 0, (o.bucket or 0) * 2 ^ 20
  c.nesterov, c.trust = o.nesterov and 1 or 0, o.trust or 0
  if o.dist then c.dist = o.dist.h end
  return c, name
end

-- Adds a part of a model, or, where it is frozen, lets its EMA follow it.
local function add_part(self, part, average)
  local t = part.param.tensor
  if part.frozen then
    t:requires_grad_(false)
    if average then F.check(C.ij_optim_follow(self.h, t.h, average.h)) end
    return
  end
  F.check(C.ij_optim_add_scaled(self.h, tensor.want(t, "parameter", self.name), part.param.decayed
    and 1 or 0, average and average.h, part.lr, part.wd))
  self.entries[#self.entries + 1] = { tensor = t, decayed = part.param.decayed, param = part.param,
    lr = part.lr, wd = part.wd }
end

--- A new optimizer. name: "adamw" (default), "sgd", "lars" or "lion"; models: a list; average:
--- { [model] = the model that follows it as an EMA }; params: tensors alone; names: { [model] =
--- what stands before the names of its parameters, for groups }; groups: a list of { match =
--- pattern, lr = factor, wd = factor }; layer_decay, freeze: of `encoder` (the first model), see
--- docs/optim.md. betas ({.9, .999}; Lion {.9, .99}), eps (1e-8); momentum (.9; 0: none), nesterov,
--- trust (.001): as in docs/optim.md. dist: processes with the same models, over which gradients
--- are summed; shard: each process keeps a part of the moments only; bucket: MiB.
---@param o { name: string?, models: ijepa.model[]?, average: table?, params: ijepa.tensor[]?, names: table?,
---groups: table[]?, layer_decay: number?, freeze: integer?, encoder: ijepa.model?, betas: number[]?, eps: number?,
---momentum: number?, nesterov: boolean?, trust: number?, dist: ijepa.dist?, shard: boolean?, bucket: number? }
---@return ijepa.optim
function optim.new(o)
  local c, name = configuration(o)
  local out = F.new "ij_optim *[1]"
  F.check(C.ij_optim_new(c, out))
  local self = setmetatable({ h = F.gc(out[0], C.ij_optim_free), entries = {}, dist = o.dist,
    name = name }, Optim)
  self.moments = C.ij_optim_moments(self.h)
  local list = parts.of { models = o.models or {}, names = o.names, groups = o.groups,
    layer_decay = o.layer_decay, freeze = o.freeze, encoder = o.encoder }
  for _, decayed in ipairs { true, false } do
    for _, part in ipairs(list) do
      if part.param.decayed == decayed then
        local follower = o.average and o.average[part.model]
        add_part(self, part, follower and follower.by_name[part.param.name].tensor)
      end
    end
  end
  for _, t in ipairs(o.params or {}) do self:add(t, t:dim() > 1) end
  return self
end

--- A new AdamW: optim.new with that name.
---@param o table as for optim.new
---@return ijepa.optim
function optim.adamw(o) return optim.new(o) end

--- A new SGD with momentum: optim.new with that name.
---@param o { momentum: number? }? .9; and what optim.new takes
---@return ijepa.optim
function optim.sgd(o)
  local own = { name = "sgd" }
  for key, value in pairs(o or {}) do own[key] = value end
  return optim.new(own)
end

--- The optimizer of a run's settings. o: models, average, names, dist as for optim.new.
---@param cfg table as ijepa.config gives it
---@param o table
---@return ijepa.optim
function optim.of(cfg, o)
  local s, own = cfg.optim, {}
  for key, value in pairs(o) do own[key] = value end
  own.name, own.shard, own.bucket = s.name, s.shard, cfg.dist.bucket
  own.groups, own.layer_decay, own.freeze = s.groups, s.layer_decay, cfg.model.freeze
  if s.name == "adamw" then own.betas, own.eps = s.betas, s.eps end
  if s.name == "lion" then own.betas = s.lion_betas end
  if s.name == "lars" then own.trust = s.trust end
  if s.name == "sgd" or s.name == "lars" then
    own.momentum = type(s.momentum) == "number" and s.momentum or .9
    own.nesterov = s.nesterov
  elseif s.nesterov then
    F.raise(("optim.nesterov is for sgd and lars, not for optim.name = '%s'"):format(s.name))
  end
  return optim.new(own)
end

--- The factor of the learning rate of each parameter of an encoder with layer decay: decay ^
--- (number of layers above it). The embedding is layer 0, block i (from 0) layer i + 1; what
--- follows the blocks is the last layer, with factor 1.
---@param encoder ijepa.model
---@param decay number 1: none
---@return table<string, number>
function optim.layer_scales(encoder, decay) return parts.layer_scales(encoder, decay) end

--- Adds a tensor. average: the tensor that follows it as an EMA.
---@param t ijepa.tensor
---@param decayed boolean
---@param average ijepa.tensor?
---@param param table?
function Optim:add(t, decayed, average, param)
  F.check(C.ij_optim_add(self.h, tensor.want(t, "parameter", self.name), decayed and 1 or 0, average
    and average.h))
  self.entries[#self.entries + 1] = { tensor = t, decayed = decayed, param = param }
end

--- Sets the momentum of the next updates, of SGD and LARS that began with one; before eager().
---@param momentum number 0 to below 1
function Optim:set_momentum(momentum) F.check(C.ij_optim_momentum(self.h, momentum)) end

--- Adds `count` elements of t from element `first` (from 1), with factors of the step's learning
--- rate and weight decay.
---@param t ijepa.tensor
---@param first integer
---@param count integer
---@param lr_scale number
---@param wd_scale number
function Optim:add_part(t, first, count, lr_scale, wd_scale)
  F.check(C.ij_optim_add_part(self.h, tensor.want(t, "parameter", self.name), first - 1, count,
    lr_scale, wd_scale))
  self.entries[#self.entries + 1] = { tensor = t }
end

--- One update, which consumes the gradients. lr: learning rate; wd: weight decay; momentum: of the
--- EMA; scale: factor of the gradients.
---@param o { lr: number, wd: number?, momentum: number?, scale: number? }
function Optim:step(o)
  F.check(C.ij_optim_step(self.h, o.lr, o.wd or 0, o.momentum or 1, o.scale or 1))
end

--- Called before the only backward pass of an update, which step() with the same values must end:
--- each tensor is updated as soon as its gradient is complete, which then needs no memory. The
--- result is the same bit for bit. For tensors that only models use.
---@param o { lr: number, wd: number?, momentum: number?, scale: number? }
function Optim:eager(o)
  F.check(C.ij_optim_eager(self.h, o.lr, o.wd or 0, o.momentum or 1, o.scale or 1))
end

--- Whether updates keep the norm of entry i's gradient (from 1), for grad_norm.
---@param i integer
---@param on boolean?
function Optim:watch(i, on) C.ij_optim_watch(self.h, i - 1, on and 1 or 0) end
--- The norm of entry i's gradient (from 1) at its last watched update, before `scale`.
---@param i integer
---@return number
function Optim:grad_norm(i) return C.ij_optim_grad_norm(self.h, i - 1) end

--- Sets the gradients to 0.
function Optim:zero()
  for _, g in ipairs(self:grads()) do g:fill_(0) end
end

--- The list of existing gradients.
---@return ijepa.tensor[]
function Optim:grads()
  local list = {}
  for _, e in ipairs(self.entries) do list[#list + 1] = e.tensor:grad() end
  return list
end

--- Sums the gradients over the processes; returns the norm of all that step() will use, before
--- `scale`, and whether all are finite.
---@return number norm, boolean finite
function Optim:norm()
  local norm, finite = F.new "double[1]", F.new "int[1]"
  F.check(C.ij_optim_norm(self.h, norm, finite))
  return norm[0], finite[0] ~= 0
end

--- From now on an update does nothing when this tensor, f32 (1), is not finite by then on the
--- device; nil: no gate.
---@param t ijepa.tensor?
function Optim:gate(t) F.check(C.ij_optim_gate(self.h, t and t.h or nil)) end

--- The first and second moments of entry i (from 1); nil where another process has them, or the
--- optimizer has none.
---@param i integer
---@return ijepa.tensor? m, ijepa.tensor? v
function Optim:state(i)
  local function get(which)
    local t = C.ij_optim_state(self.h, i - 1, which)
    if t == nil then return nil end
    C.ij_tensor_ref(t)
    return tensor.wrap(t)
  end
  return get(0), get(1)
end

--- The same, collected from the process that has them: every process must call this, and process 0
--- gets them.
---@param i integer
---@return ijepa.tensor? m, ijepa.tensor? v
function Optim:whole_state(i)
  local owner, m, v = C.ij_optim_owner(self.h, i - 1), self:state(i)
  if owner < 0 then return m, v end
  local shape = self.entries[i].tensor:shape()
  local function gathered(t, k)
    if self.moments < k then return nil end
    t = t or tensor.zeros(shape, "f32", true)
    self.dist:tensor(t, owner)
    return self.dist.rank == 0 and t or nil
  end
  return gathered(m, 1), gathered(v, 2)
end

--- The number of updates made; given n, sets it.
---@param n integer?
---@return integer
function Optim:steps(n)
  if n then C.ij_optim_set_steps(self.h, n) end
  return tonumber(C.ij_optim_steps(self.h))
end

return optim

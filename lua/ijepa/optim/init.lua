-- AdamW over models, in the published groups: encoder decayed, predictor decayed, encoder not,
-- predictor not; SGD; and the schedules of learning rate, weight decay and EMA momentum
-- (`schedule`).
-- Uses: base, tensor.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local C = F.C

local optim = {}
---@class ijepa.optim
local Optim = {}
Optim.__index = Optim

--- A new AdamW. models: a list; average: { [model] = the model that follows it as an EMA }; dist:
--- processes with the same models, over which gradients are summed; shard: each process keeps a
--- part of the moments only; bucket: MiB.
---@param o { models: ijepa.model[], average: table?, params: ijepa.tensor[]?, betas: number[]?, eps: number?,
---dist: ijepa.dist?, shard: boolean?, bucket: number? }
---@return ijepa.optim
function optim.adamw(o)
  local c, out = F.new "ij_optim_config", F.new "ij_optim *[1]"
  if o.betas then c.beta1, c.beta2 = o.betas[1], o.betas[2] end
  c.eps, c.shard, c.bucket = o.eps or 0, o.shard and 1 or 0, (o.bucket or 0) * 2 ^ 20
  if o.dist then c.dist = o.dist.h end
  F.check(C.ij_adamw_new(c, out))
  local self = setmetatable({ h = F.gc(out[0], C.ij_optim_free), entries = {}, dist = o.dist },
    Optim)
  for _, decayed in ipairs { true, false } do
    for _, model in ipairs(o.models or {}) do
      local follower = o.average and o.average[model]
      for _, p in ipairs(model:params()) do
        if p.trained and p.decayed == decayed then
          self:add(p.tensor, decayed, follower and follower.by_name[p.name].tensor, p)
        end
      end
    end
  end
  for _, t in ipairs(o.params or {}) do self:add(t, t:dim() > 1) end
  return self
end

--- Adds a tensor. average: the tensor that follows it as an EMA.
---@param t ijepa.tensor
---@param decayed boolean
---@param average ijepa.tensor?
---@param param table?
function Optim:add(t, decayed, average, param)
  F.check(C.ij_optim_add(self.h, tensor.want(t, "parameter", "adamw"), decayed and 1 or 0, average
    and average.h))
  self.entries[#self.entries + 1] = { tensor = t, decayed = decayed, param = param }
end

--- Adds `count` elements of t from element `first` (from 1), with factors of the step's learning
--- rate and weight decay.
---@param t ijepa.tensor
---@param first integer
---@param count integer
---@param lr_scale number
---@param wd_scale number
function Optim:add_part(t, first, count, lr_scale, wd_scale)
  F.check(C.ij_optim_add_part(self.h, tensor.want(t, "parameter", "adamw"), first - 1, count,
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

--- The first and second moments of entry i (from 1); nil where another process has them.
---@param i integer
---@return ijepa.tensor m, ijepa.tensor v
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
---@return ijepa.tensor m, ijepa.tensor v
function Optim:whole_state(i)
  local owner, m, v = C.ij_optim_owner(self.h, i - 1), self:state(i)
  if owner < 0 then return m, v end
  local shape = self.entries[i].tensor:shape()
  m, v = m or tensor.zeros(shape, "f32", true), v or tensor.zeros(shape, "f32", true)
  self.dist:tensor(m, owner)
  self.dist:tensor(v, owner)
  if self.dist.rank == 0 then return m, v end
end

--- The number of updates made; given n, sets it.
---@param n integer?
---@return integer
function Optim:steps(n)
  if n then C.ij_optim_set_steps(self.h, n) end
  return tonumber(C.ij_optim_steps(self.h))
end

-- ---- SGD, for the published probe
---@class ijepa.sgd
local Sgd = {}
Sgd.__index = Sgd

--- Stochastic gradient descent with momentum: m = momentum m + g + wd p; p -= lr m. Its methods are
--- those of AdamW.
---@param o { momentum: number? } .9
---@return ijepa.sgd
function optim.sgd(o) return setmetatable({ momentum = o.momentum or .9, parts = {} }, Sgd) end

--- Adds `count` elements of t from element `first` (from 1), with factors of the step's learning
--- rate and weight decay.
---@param t ijepa.tensor
---@param first integer
---@param count integer
---@param lr_scale number
---@param wd_scale number
function Sgd:add_part(t, first, count, lr_scale, wd_scale)
  local value = device.no_grad(function() return t:reshape(-1):narrow(1, first, count) end)
  self.parts[#self.parts + 1] = { p = t, first = first, count = count, lr = lr_scale, wd = wd_scale,
    value = value,
    m = tensor.zeros({ count }, "f32", true) }
end

--- One update, which consumes the gradients.
---@param o { lr: number, wd: number?, scale: number? }
function Sgd:step(o)
  device.no_grad(function()
    for _, e in ipairs(self.parts) do
      local g = e.p:grad():reshape(-1):narrow(1, e.first, e.count)
      e.m:add_(e.m, self.momentum - 1):add_(g, o.scale or 1):add_(e.value, (o.wd or 0) * e.wd)
      e.value:add_(e.m, -o.lr * e.lr)
      g:fill_(0)
    end
  end)
end

return optim

-- Tensors of the user's models that no gradient moves, such as the running statistics of a batch
-- norm: after each step all processes have those of process 0, a model that follows another one as
-- an EMA has those of its source, and a copy waits for the case that the next step fails.
local buffers = {}

-- Own parts by name: the built-in models hold constants only.
local function own_parts(t)
  local m, list = t.config.model, {}
  local built_in = { encoder = (m.encoder or "") == "", predictor = (m.predictor or "") == "" }
  built_in.target_encoder = built_in.encoder
  for _, part in ipairs(t.whole.parts) do
    if not built_in[part.name] then list[#list + 1] = part end
  end
  return list
end

local function sources_of(t)
  local source = { [t.target] = t.target ~= t.encoder and t.encoder or nil }
  for _, m in ipairs(t.whole.modules) do
    if m.source then source[m.model] = t.modules[m.source] end
  end
  return source
end

---@class ijepa.buffers
---@field list { tensor: ijepa.tensor, source: ijepa.tensor?, copy: ijepa.tensor }[]

--- The buffers of a trainer, or nil where there are none.
---@param t ijepa.trainer
---@return ijepa.buffers?
function buffers.of(t)
  local list, source = {}, sources_of(t)
  for _, part in ipairs(own_parts(t)) do
    local from = source[part.model]
    for _, p in ipairs(part.model:params()) do
      if not p.trained and not p.frozen then
        local its = from and from.by_name[p.name]
        list[#list + 1] = { tensor = p.tensor, source = its and its.tensor }
      end
    end
  end
  return list[1] and { list = list }
end

--- After a complete step, or after a state was loaded.
---@param self ijepa.buffers
---@param dist ijepa.dist
function buffers.settle(self, dist)
  for _, b in ipairs(self.list) do
    if b.source then b.tensor:copy_(b.source)
    elseif dist.size > 1 and b.tensor:dtype() == "f32" then dist:tensor(b.tensor, 0) end
  end
  buffers.remember(self)
end

--- Keeps a copy of the values.
---@param self ijepa.buffers
function buffers.remember(self)
  for _, b in ipairs(self.list) do
    if b.copy then b.copy:copy_(b.tensor) else b.copy = b.tensor:clone(true) end
  end
end

--- A step has failed: the values after the last complete one.
---@param self ijepa.buffers
function buffers.restore(self)
  for _, b in ipairs(self.list) do
    if b.copy then b.tensor:copy_(b.copy) end
  end
end

return buffers

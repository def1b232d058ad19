-- Which parameters an optimizer updates, and by how much: layers of an encoder (layer decay,
-- freezing) and groups by patterns of names.
local F = require "ijepa.base.ffi"
local groups = require "ijepa.base.groups"

local parts = {}

-- What stands before the first block: the first part of a name.
local function is_embedding(name)
  local first = name:match "^[^.]*"
  return first:find "embed" or first:find "token" or first:find "register" or first:find "stem"
end

--- The layers of an encoder: 0 its embedding (and tokens), i + 1 block i (from 0), and one more for
--- what follows the last block.
---@param model ijepa.model
---@return table<string, integer> layers by the name of a parameter
---@return integer last
function parts.layers(model)
  local layers, depth = {}, 0
  for _, p in ipairs(model:params()) do
    local block = tonumber((p.name:match "^blocks%.(%d+)%."))
    if block then depth = math.max(depth, block + 1) end
    layers[p.name] = block and block + 1 or is_embedding(p.name) and 0 or -1
  end
  for name, layer in pairs(layers) do
    if layer < 0 then layers[name] = depth + 1 end
  end
  return layers, depth + 1
end

--- The factor of the learning rate of each parameter: decay ^ (number of layers above its own).
---@param model ijepa.model
---@param decay number above 0; 1: none
---@return table<string, number>
function parts.layer_scales(model, decay)
  local layers, last = parts.layers(model)
  local scales = {}
  for name, layer in pairs(layers) do scales[name] = decay ^ (last - layer) end
  return scales
end

-- Some of the names, evenly from all of them.
local function some(names)
  local list, n = {}, math.min(4, #names)
  for i = 1, n do list[i] = names[1 + math.floor((i - 1) * (#names - 1) / math.max(1, n - 1))] end
  return table.concat(list, ", ") .. (#names > n and (" (%d in all)"):format(#names) or "")
end

---@class ijepa.optim_part a parameter as an optimizer updates it
---@field param table of the model: name, tensor, decayed
---@field model ijepa.model
---@field name string with the model's name in front: "encoder.norm.weight"
---@field lr number factor of the learning rate
---@field wd number factor of the weight decay
---@field frozen boolean not updated

-- The first group of each part, from which it gets its factors.
local function group_of(list, o)
  local matched, taken, names = {}, {}, {}
  for i, part in ipairs(list) do
    names[i] = part.name
    for g, group in ipairs(o.groups) do
      if part.name:find(group.match) then
        matched[g] = true
        if not part.group then
          part.group, taken[g] = g, true
          part.lr, part.wd = part.lr * (group.lr or 1), group.wd or part.wd
        end
      end
    end
  end
  for g, group in ipairs(o.groups) do
    if not matched[g] then
      F.raise(("optim.groups: group %d: '%s' matches no parameter; there are such as %s"):format(g,
        group.match, some(names)))
    elseif not taken[g] then
      F.raise(("optim.groups: group %d: all that '%s' matches belongs to groups before it; "):format(
        g, group.match) .. "the first one counts")
    end
  end
end

--- The parameters of models, in their order.
---@param o { models: ijepa.model[], names: table?, groups: table[]?, layer_decay: number?,
---freeze: integer?, encoder: ijepa.model? } as for optim.new
---@return ijepa.optim_part[]
function parts.of(o)
  local list, encoder = {}, o.encoder or o.models[1]
  local wrong = o.groups and groups.wrong("parameters", o.groups)
  if wrong then F.raise("optim.groups: " .. wrong) end
  local freeze, decay = o.freeze or 0, o.layer_decay or 1
  local layers, last = {}, 1
  if encoder and (freeze > 0 or decay ~= 1) then layers, last = parts.layers(encoder) end
  if freeze > 0 and freeze >= last then
    F.raise(("model.freeze is %d, and the encoder has %d blocks"):format(freeze, last - 1))
  end
  for _, model in ipairs(o.models) do
    local prefix = o.names and o.names[model] and o.names[model] .. "." or ""
    for _, p in ipairs(model:params()) do
      if p.trained then
        local layer = model == encoder and layers[p.name] or last
        list[#list + 1] = { param = p, model = model, name = prefix .. p.name,
          lr = decay ^ (last - layer), wd = p.decayed and 1 or 0,
          frozen = freeze > 0 and layer <= freeze }
      end
    end
  end
  if o.groups and #o.groups > 0 then group_of(list, o) end
  return list
end

return parts

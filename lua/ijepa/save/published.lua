--- Checkpoints in the published layout: what they number instead of naming it (AdamW's state), and
--- how one is written.
local F = require "ijepa.base.ffi"
local weights = require "ijepa.save.weights"

local published = {}

--- The published optimizer numbers its tensors by groups: decayed ones of the encoder, of the
--- predictor, then the others of each. Positions have a number, though they are not trained and
--- have no state.
---@param parts table[] { label, list of { name, shape } }: encoder, predictor; published order
---@return table[] groups four lists of { key = "encoder.NAME", number, trained, shape }
function published.groups(parts)
  local groups, number = {}, 0
  for _, decayed in ipairs { true, false } do
    for _, part in ipairs(parts) do
      local group = {}
      for _, p in ipairs(part[2]) do
        if (#p.shape > 1) == decayed then
          group[#group + 1] = { key = part[1] .. "." .. p.name, number = number, shape = p.shape,
            trained = not p.name:find "pos_embed$" }
          number = number + 1
        end
      end
      groups[#groups + 1] = group
    end
  end
  return groups
end

local function shapes_of(model)
  local list = {}
  for i, p in ipairs(model:params()) do list[i] = { name = p.name, shape = p.tensor:shape() } end
  return list
end

--- Whether an open checkpoint is of the published layout, with the optimizer's state.
---@param file ijepa.checkpoint
---@return boolean
function published.is(file)
  return file:info "encoder.module.pos_embed" ~= nil
    and file:meta "opt.param_groups.0.params.0" ~= nil
end

-- Updates made: a tensor of one element, or a number in older files.
local function updates_of(file, number)
  local name, value = ("opt.state.%d.step"):format(number), F.new "float[1]"
  if not file:info(name) then return tonumber(file:meta(name)) end
  return file:read(name, value, 1) and tonumber(value[0]) or nil
end

--- Updates that the optimizer of a published checkpoint has made, or nil.
---@param file ijepa.checkpoint
---@return integer?
function published.updates(file)
  for _, name in ipairs(file:names()) do
    local number = name:match "^opt%.state%.(%d+)%.exp_avg$"
    if number then return updates_of(file, tonumber(number)) end
  end
end

-- AdamW's moments; every one by number and shape.
local function fill_moments(file, whole)
  local entry_of, missing, known = {}, {}, {}
  for i, e in ipairs(whole.opt.entries) do
    entry_of[(e.param.model == whole.encoder and "encoder." or "predictor.") .. e.param.name] = i
  end
  local updates = published.updates(file)
  for _, group in ipairs(published.groups { { "encoder", shapes_of(whole.encoder) },
    { "predictor", shapes_of(whole.predictor) } }) do
    for _, p in ipairs(group) do
      local entry = p.trained and entry_of[p.key]
      local moments = {}
      -- none: another process has them
      if entry then moments.exp_avg, moments.exp_avg_sq = whole.opt:state(entry) end
      for _, what in ipairs(entry and { "exp_avg", "exp_avg_sq" } or {}) do
        local name = ("opt.state.%d.%s"):format(p.number, what)
        local info = file:info(name)
        known[name] = true
        if not info or table.concat(info.shape, ",") ~= table.concat(p.shape, ",") then
          missing[#missing + 1] = ("%s of %s"):format(name, p.key)
        else
          local ok, message = true, nil
          if moments[what] then ok, message = file:load(name, moments[what]) end
          if not ok then return nil, message end
        end
      end
    end
  end
  for _, name in ipairs(file:names()) do
    if name:find "^opt%.state%." and not name:find "%.step$" and not known[name] then
      missing[#missing + 1] = name
    end
  end
  if #missing > 0 or not updates then
    return nil, ("checkpoint '%s': the optimizer's state is of another model: %s"):format(file.path,
      table.concat(missing, ", ", 1, math.min(#missing, 5)))
  end
  whole.opt:steps(updates)
  return true
end

--- Fills a run from a published checkpoint, AdamW's state included.
---@param path string
---@param whole table
---@return { epoch: integer }? meta, string? message
function published.load(path, whole)
  local w, message = weights.open(path)
  if not w then return nil, message end
  local ok = true
  for _, label in ipairs { "encoder", "target_encoder", "predictor" } do
    local part
    part, message = w:part(label)
    if part then ok, message = part:fill(whole[label]) end
    if not part or not ok then return nil, message end
  end
  ok, message = fill_moments(w.file, whole)
  local epoch = tonumber(w.file:meta "epoch")
  w:close()
  if not ok then return nil, message end
  if not epoch then
    return nil, ("checkpoint '%s' does not say after which epoch it was saved"):format(path)
  end
  return { epoch = epoch }
end

return published

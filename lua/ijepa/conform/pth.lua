-- Compares a published checkpoint X-epN.pth.tar with the recorded steps X.safetensors beside it:
-- its models must be the recorded final ones bit for bit, and AdamW's state must be what these
-- steps give here.
local F = require "ijepa.base.ffi"
local C = F.C
local checkpoint = require "ijepa.save.checkpoint"
local jepa = require "ijepa.model"
local optim = require "ijepa.optim"
local published = require "ijepa.save.published"
local step = require "ijepa.conform.step"

-- Largest |a - b| and the norms of b and of a - b, of two tensors.
local function difference(a, b)
  local x, n = a:read()
  local y, m = b:read()
  if n ~= m then return math.huge, 1, math.huge end
  local worst, norm, off = 0, 0, 0
  for i = 0, n - 1 do
    local d = math.abs(x[i] - y[i])
    if d ~= d then return math.huge, 1, math.huge end
    worst, norm, off = math.max(worst, d), norm + y[i] * y[i], off + d * d
  end
  return worst, math.sqrt(norm), math.sqrt(off)
end

-- New models of the recorded sizes, empty, and their optimizer.
local function empty_run(done)
  local e = jepa.encoder(done.encoder.options)
  local p = jepa.predictor(e, done.predictor.options)
  local target = e:target()
  return { encoder = e, predictor = p, target_encoder = target,
    opt = optim.adamw { models = { e, p }, average = { [e] = target } } }
end

---@param path string
---@return { name: string, error: number, tolerance: number, ok: boolean }[]? items, string? message
return function(path)
  local beside = path:gsub("%-ep%d+%.pth%.tar$", ".safetensors")
  if C.ij_path_kind(beside) ~= 1 then
    return nil, ("there is no '%s' beside it to compare with"):format(beside)
  end
  local recorded, message = checkpoint.load(beside)
  if not recorded then return nil, message end
  local items, done = {}, nil
  local function add(name, err, tolerance)
    items[#items + 1] = { name = name, error = err, tolerance = tolerance, ok = err <= tolerance }
  end
  local steps
  steps, message = step(beside, function(models) done = models end)
  if not steps then return nil, message end
  local run = empty_run(done)
  local ok
  ok, message = published.load(path, run)
  if not ok then return nil, message end
  for _, part in ipairs { "encoder", "predictor", "target_encoder" } do
    for _, p in ipairs(run[part]:params()) do
      local name = ("final.%s.%s"):format(part, p.name)
      if recorded:info(name) then
        local want = require "ijepa.tensor".zeros(p.tensor:shape())
        ok, message = recorded:load(name, want)
        if not ok then return nil, message end
        add(name, (difference(p.tensor, want)), 1e-12)   -- the same values, stored twice
      elseif p.trained then return nil, ("'%s' has no tensor '%s'"):format(beside, name) end
    end
  end
  for i, e in ipairs(run.opt.entries) do
    local part = e.param.model == run.encoder and "encoder." or "predictor."
    local m, v = run.opt:state(i)
    local own_m, own_v = done.opt:state(i)
    local _, norm, off = difference(own_m, m)
    add("opt.exp_avg " .. part .. e.param.name, off / norm, 1e-4)       -- as gradients are held to
    _, norm, off = difference(own_v, v)
    add("opt.exp_avg_sq " .. part .. e.param.name, off / norm, 2e-4)    -- their squares
  end
  add("opt.step", math.abs(run.opt:steps() - done.opt:steps()), .5)
  recorded:close()
  return items
end

-- Complete training steps recorded by the published implementation (safetensors with init.*,
-- stepS.*, final.*), run again here in float32: activations, losses, gradients and final parameters
-- are compared.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"
local jepa = require "ijepa.model"
local optim = require "ijepa.optim"
local json = require "cjson.safe"
local C = F.C

local CTYPE = { [0] = "float", nil, "int32_t", "int64_t" }

-- A recorded file: f:get(name) -> pointer, shape, dtype or nil.
local File = {}
File.__index = File
local function open(path)
  local out = F.new "ij_tensor_file *[1]"
  local ok, message, code = F.try(C.ij_tensor_file_open(path, out))
  if not ok then return nil, message, code end
  return setmetatable({ h = F.gc(out[0], C.ij_tensor_file_close), path = path }, File)
end
---@param name string
---@return ffi.cdata*? pointer, integer[]? shape, integer? dtype
function File:get(name)
  local i = C.ij_tensor_file_find(self.h, name)
  if i < 0 then return nil end
  local shape = {}
  for d = 0, C.ij_tensor_file_ndim(self.h, i) - 1 do
    shape[d + 1] = tonumber(C.ij_tensor_file_size(self.h, i, d))
  end
  local t = tonumber(C.ij_tensor_file_dtype(self.h, i))
  return F.cast("const " .. (CTYPE[t] or "uint8_t") .. " *", C.ij_tensor_file_data(self.h, i, nil)),
    shape, t
end
---@return string[]
function File:names()
  local list = {}
  for i = 0, C.ij_tensor_file_count(self.h) - 1 do
    list[#list + 1] = F.string(C.ij_tensor_file_name(self.h, i))
  end
  return list
end
---@param key string
---@return string?
function File:meta(key)
  local v = C.ij_tensor_file_meta(self.h, key)
  return v ~= nil and F.string(v) or nil
end
--- A float tensor, or an error object that names the file
---@param name string
---@return ijepa.tensor
function File:tensor(name)
  local p, shape, t = self:get(name)
  if not p then error { conform = ("'%s' has no tensor '%s'"):format(self.path, name) } end
  if t ~= 0 then error { conform = ("'%s': '%s' is not f32"):format(self.path, name) } end
  return tensor.from_pointer(p, shape, "f32")
end
---@param key string
---@return number
function File:number(key)
  local v = tonumber(self:meta(key))
  if not v then
    error { conform = ("'%s': setting '%s' is missing or not a number"):format(self.path, key) }
  end
  return v
end
--- Masks prefix.0, prefix.1, ... (B, K) i64 -> i32 (count, B, K)
---@param prefix string
---@param count integer
---@return ijepa.tensor
function File:masks(prefix, count)
  local first, shape = self:get(prefix .. ".0")
  if not first or #shape ~= 2 then
    error { conform = ("'%s': masks '%s.0' are missing"):format(self.path, prefix) }
  end
  local n = shape[1] * shape[2]
  local buf = F.new("int32_t[?]", math.max(n * count, 1))
  for m = 0, count - 1 do
    local p, s, t = self:get(prefix .. "." .. m)
    if not p or s[1] ~= shape[1] or s[2] ~= shape[2] or t ~= 3 then
      error { conform = ("'%s': masks '%s.%d' are missing or of another shape"):format(self.path,
        prefix, m) }
    end
    for i = 0, n - 1 do buf[m * n + i] = tonumber(p[i]) end
  end
  return tensor.from_pointer(buf, { count, shape[1], shape[2] }, "i32")
end

local function same_shape(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- Largest |a - b|, the norms of b and of a - b, largest |b|. Infinite when shapes differ or a value
-- is not finite.
local function difference(t, p, shape)
  if not same_shape(t:shape(), shape) then return math.huge, 1, math.huge, 1 end
  local a, n = t:read()
  local worst, norm, off, top = 0, 0, 0, 0
  for i = 0, n - 1 do
    local b = p[i]
    local d = math.abs(a[i] - b)
    if not (d < math.huge) then return math.huge, 1, math.huge, 1 end
    worst, top = math.max(worst, d), math.max(top, math.abs(b))
    norm, off = norm + b * b, off + d * d
  end
  return worst, math.sqrt(norm), math.sqrt(off), top
end

-- The message of what is wrong with a recorded file, as an error object.
local function broken(file, text, ...)
  error { conform = ("'%s': " .. text):format(file.path, ...) }
end

-- Of `name`: pointer and shape, or an error.
local function wanted(file, name)
  local p, shape = file:get(name)
  if not p then error { conform = ("'%s' has no tensor '%s'"):format(file.path, name) } end
  return p, shape
end

-- Calls f(model's name, parameter) for all parameters of the models.
local function each_param(models, f)
  for part, model in pairs(models) do
    for _, p in ipairs(model:params()) do f(part, p) end
  end
end

local function models_of(file)
  local function n(key) return file:number(key) end
  local options = { width = n "embed_dim", depth = n "depth", heads = n "num_heads",
    mlp_ratio = n "mlp_ratio",
    patch = n "patch_size", crop = n "crop_size", dtype = "f32" }
  local encoder = jepa.encoder(options)
  return { encoder = encoder, predictor = jepa.predictor(encoder, { width = n "predictor_embed_dim",
    depth = n "predictor_depth", heads = options.heads, mlp_ratio = n "predictor_mlp_ratio" }) }
end

-- Parameters before the first step. Our own positions must agree with the recorded ones, and no
-- tensor may be left over.
local function load_initial(file, models, add)
  local expected = {}
  each_param(models, function(part, p)
    local name = "init." .. part .. "." .. p.name
    expected[name] = true
    local t = file:tensor(name)
    if not same_shape(t:shape(), p.tensor:shape()) then
      broken(file, "'%s' is (%s), expected (%s)", name, table.concat(t:shape(), ", "),
        table.concat(p.tensor:shape(), ", "))
    end
    if not p.trained then add(name, (difference(p.tensor, t:read(), t:shape())), 1e-6) end
    p.tensor:copy_(t)
  end)
  for _, name in ipairs(file:names()) do
    if name:match "^init%." and not expected[name] then
      broken(file, "unexpected tensor '%s'", name)
    end
  end
end

local function schedule_of(file)
  local schedule = json.decode(file:meta "schedule" or "")
  if type(schedule) ~= "table" then broken(file, "setting 'schedule' is not JSON") end
  for s = 0, file:number "steps" - 1 do
    if type(schedule[s + 1]) ~= "table" then broken(file, "no schedule for step %d", s) end
  end
  return schedule
end

-- Targets h (M * B, T, D), which the file repeats for each of C context masks: (M * C * B, T, D).
-- Every repetition is compared.
local function compare_targets(file, h, targets, contexts, add)
  local p, shape = file:get "step0.targets"
  local own, worst, top = h:read(), 0, 0
  -- n: values of one mask
  local rows, n = h:size(1) * contexts, h:size(1) / targets * h:size(2) * h:size(3)
  if not p or not same_shape(shape, { rows, h:size(2), h:size(3) }) then
    return add("step0.targets", math.huge, 1e-5)
  end
  for m = 0, targets - 1 do
    for k = 0, contexts - 1 do
      for i = 0, n - 1 do
        local want = p[(m * contexts + k) * n + i]
        worst, top = math.max(worst, math.abs(own[m * n + i] - want)), math.max(top, math.abs(want))
      end
    end
  end
  add("step0.targets", worst / top, 1e-5)
end

local function compare_activation(file, name, t, add)
  local p, shape = wanted(file, "step0." .. name)
  local worst, _, _, top = difference(t, p, shape)
  add("step0." .. name, worst / top, 1e-5)
end

local function compare_gradients(file, models, add)
  each_param(models, function(part, p)
    if not p.trained then return end
    local name = "step0.grad." .. part .. "." .. p.name
    local want, shape = wanted(file, name)
    local _, norm, off = difference(p.tensor:grad(), want, shape)
    add(name, off / norm, 1e-4)
  end)
end

local function compare_loss(file, prefix, loss, plan, add)
  local got, want = loss:item(), file:tensor(prefix .. "loss"):read()[0]
  add(prefix .. "loss", math.abs(got - want) / math.abs(want), 1e-5)
  if type(plan.loss) == "number" then
    add(prefix .. "loss (schedule)", math.abs(got - plan.loss) / math.abs(plan.loss), 1e-5)
  end
end

-- AdamW divides a gradient by its own size. Where a recorded gradient is rounding noise, another
-- order of the same sums gives another sign, and the parameter moves by up to the learning rate in
-- either direction: such elements say nothing about the engine. Noise is a gradient of at most
-- NOISE of the largest of its tensor: the rounding of a float32 sum of 2^18 terms, 2^-24 *
-- sqrt(2^18). Gradients computed here differ from recorded ones by up to 2e-6 of it. Noise elements
-- beyond the tolerance are counted apart, and may be NOISE_PART of a tensor.
local NOISE, NOISE_PART, PARAMETER = 2 ^ -15, .001, 1e-5

-- Largest |a - b| of the elements whose recorded gradient determines them, and what there is of the
-- others: nil, or the count beyond the tolerance, how many may be, the largest |a - b| of them, how
-- large it may be.
local function split_difference(t, want, shape, gradient, travel)
  local worst = difference(t, want, shape)
  if worst <= PARAMETER or worst == math.huge or not gradient then return worst end
  local a, n = t:read()
  local top, determined = 0, 0
  local noise = { count = 0, allowed = math.ceil(NOISE_PART * n), elements = n, error = 0,
    tolerance = travel }
  for i = 0, n - 1 do top = math.max(top, math.abs(gradient[i])) end
  for i = 0, n - 1 do
    local d = math.abs(a[i] - want[i])
    if d > PARAMETER and math.abs(gradient[i]) <= NOISE * top then
      noise.count, noise.error = noise.count + 1, math.max(noise.error, d)
    else
      determined = math.max(determined, d)
    end
  end
  return determined, noise.count > 0 and noise or nil
end

-- Parameters after the last step: those that are trained must be in the file. travel: how far apart
-- two parameters can be whose gradients had opposite signs in each step.
local function compare_final(file, models, travel, add)
  each_param(models, function(part, p)
    local name = "final." .. part .. "." .. p.name
    if not p.trained and not file:get(name) then return end
    local want, shape = wanted(file, name)
    local gradient = file:get(
      ("step0.grad.%s.%s"):format(part == "target_encoder" and "encoder" or part, p.name))
    local err, noise = split_difference(p.tensor, want, shape, gradient, travel)
    add(name, err, PARAMETER, noise)
  end)
end

-- Step `s`, from 0; plan: its learning rate, weight decay and momentum, and its loss where that is
-- recorded.
local function run_step(file, s, plan, models, target, opt, add)
  local prefix, contexts, targets = ("step%d."):format(s), file:number "num_enc_masks",
    file:number "num_pred_masks"
  device.step(function()
    local x = file:tensor(prefix .. "images")
    local ctx, tgt = file:masks(prefix .. "masks_enc", contexts),
      file:masks(prefix .. "masks_pred", targets)
    local all = device.no_grad(function() return target(x) end)
    local h = all:layer_norm():gather(tgt)            -- (M * B, T, D)
    local c = models.encoder(x, ctx)                  -- (C * B, K, D)
    local z = models.predictor(c, ctx, tgt)           -- (M * C * B, T, D)
    local loss = tensor.smooth_l1(z, h, 1, targets)
    if s == 0 then
      compare_activation(file, "target_encoder_out", all, add)
      compare_activation(file, "context_out", c, add)
      compare_activation(file, "predictions", z, add)
      compare_targets(file, h, targets, contexts, add)
    end
    compare_loss(file, prefix, loss, plan, add)
    loss:backward()
    if s == 0 then compare_gradients(file, models, add) end
    opt:step { lr = plan.lr, wd = plan.wd, momentum = plan.momentum }
  end)
end

local function run(file, add, after)
  local models = models_of(file)
  load_initial(file, models, add)
  local target = models.encoder:target()
  local opt = optim.adamw { models = { models.encoder, models.predictor },
    average = { [models.encoder] = target } }
  local schedule = schedule_of(file)
  for s = 0, file:number "steps" - 1 do
    run_step(file, s, schedule[s + 1], models, target, opt, add)
  end
  models.target_encoder = target
  local travel = 0
  for s = 0, file:number "steps" - 1 do travel = travel + 2 * schedule[s + 1].lr end
  compare_final(file, models, travel, add)
  if after then
    models.opt = opt
    after(models)
  end
end

--- Compares a recorded file with the engine.
---@param path string
---@param after fun(models: { encoder: table, predictor: table, target_encoder: table, opt: table })? gets the models
---@return { name: string, error: number, tolerance: number, ok: boolean, noise: table? }[]? items
--- noise: elements whose
--- recorded gradient is rounding noise and that are beyond the tolerance: count, allowed, elements,
--- error, tolerance
---@return string? message
return function(path, after)
  local file, message = open(path)
  if not file then return nil, message end
  local items = {}
  local function add(name, err, tolerance, noise)
    local fine = not noise or noise.count <= noise.allowed and noise.error <= noise.tolerance
    items[#items + 1] = { name = name, error = err, tolerance = tolerance,
      ok = err <= tolerance and fine, noise = noise }
  end
  local ok, e = pcall(run, file, add, after)
  if ok then return items end
  return nil, type(e) == "table" and e.conform or tostring(e)
end

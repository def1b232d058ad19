-- Whole training steps recorded by the published implementation (safetensors with init.*, stepS.*, final.*), run again
-- here in float32: activations, losses, gradients and final parameters are compared.
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
  for d = 0, C.ij_tensor_file_ndim(self.h, i) - 1 do shape[d + 1] = tonumber(C.ij_tensor_file_size(self.h, i, d)) end
  local t = tonumber(C.ij_tensor_file_dtype(self.h, i))
  return F.cast("const " .. (CTYPE[t] or "uint8_t") .. " *", C.ij_tensor_file_data(self.h, i, nil)), shape, t
end
---@return string[]
function File:names()
  local list = {}
  for i = 0, C.ij_tensor_file_count(self.h) - 1 do list[#list + 1] = F.string(C.ij_tensor_file_name(self.h, i)) end
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
  if not v then error { conform = ("'%s': setting '%s' is missing or no number"):format(self.path, key) } end
  return v
end
--- Masks prefix.0, prefix.1, ... (B, K) i64 -> i32 (count, B, K)
---@param prefix string
---@param count integer
---@return ijepa.tensor
function File:masks(prefix, count)
  local first, shape = self:get(prefix .. ".0")
  if not first or #shape ~= 2 then error { conform = ("'%s': masks '%s.0' are missing"):format(self.path, prefix) } end
  local n = shape[1] * shape[2]
  local buf = F.new("int32_t[?]", math.max(n * count, 1))
  for m = 0, count - 1 do
    local p, s, t = self:get(prefix .. "." .. m)
    if not p or s[1] ~= shape[1] or s[2] ~= shape[2] or t ~= 3 then
      error { conform = ("'%s': masks '%s.%d' are missing or of another shape"):format(self.path, prefix, m) }
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

-- Largest |a - b|, the norms of b and of a - b, largest |b|. The worst when shapes differ or a number is not finite.
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

local function run(file, add, after)
  local n = function(key) return file:number(key) end
  local options = { width = n "embed_dim", depth = n "depth", heads = n "num_heads", mlp_ratio = n "mlp_ratio",
    patch = n "patch_size", crop = n "crop_size", dtype = "f32" }
  local context = jepa.encoder(options)
  local predictor = jepa.predictor(context, { width = n "predictor_embed_dim", depth = n "predictor_depth",
    heads = options.heads, mlp_ratio = n "predictor_mlp_ratio" })
  local models = { encoder = context, predictor = predictor }

  -- start values; our own positions must agree with the recorded ones
  local expected = {}
  for part, model in pairs(models) do
    for _, p in ipairs(model:params()) do
      local name = "init." .. part .. "." .. p.name
      expected[name] = true
      local t = file:tensor(name)
      if not same_shape(t:shape(), p.tensor:shape()) then
        error { conform = ("'%s': '%s' is (%s), expected (%s)"):format(file.path, name, table.concat(t:shape(), ", "),
          table.concat(p.tensor:shape(), ", ")) }
      end
      if not p.trained then
        local worst = difference(p.tensor, t:read(), t:shape())
        add(name, worst, 1e-6)
      end
      p.tensor:copy_(t)
    end
  end
  for _, name in ipairs(file:names()) do
    if name:match "^init%." and not expected[name] then
      error { conform = ("'%s': unexpected tensor '%s'"):format(file.path, name) }
    end
  end
  local target = context:target()
  local opt = optim.adamw { models = { context, predictor }, average = { [context] = target } }
  local schedule = json.decode(file:meta "schedule" or "")
  if type(schedule) ~= "table" then error { conform = ("'%s': setting 'schedule' is not JSON"):format(file.path) } end

  local contexts, targets = n "num_enc_masks", n "num_pred_masks"
  local function activation(name, t)
    local p, shape = file:get("step0." .. name)
    if not p then error { conform = ("'%s' has no tensor 'step0.%s'"):format(file.path, name) } end
    local worst, _, _, top = difference(t, p, shape)
    add("step0." .. name, worst / top, 1e-5)
  end
  for s = 0, n "steps" - 1 do
    local at = ("step%d."):format(s)
    local plan = schedule[s + 1]
    if type(plan) ~= "table" then error { conform = ("'%s': no schedule for step %d"):format(file.path, s) } end
    device.step(function()
      local x = file:tensor(at .. "images")
      local ctx, tgt = file:masks(at .. "masks_enc", contexts), file:masks(at .. "masks_pred", targets)
      local whole = device.no_grad(function() return target(x) end)
      local h = whole:layer_norm():gather(tgt)          -- (M * B, T, D)
      local c = context(x, ctx)                         -- (C * B, K, D)
      local z = predictor(c, ctx, tgt)                  -- (M * C * B, T, D)
      local loss = tensor.smooth_l1(z, h, 1, targets)
      if s == 0 then
        activation("target_encoder_out", whole)
        activation("context_out", c)
        activation("predictions", z)
        -- recorded once for each context mask: compare every repetition
        local p, shape = file:get "step0.targets"
        local b, t, d = h:size(1) / targets, h:size(2), h:size(3)
        local own, worst, top = h:read(), 0, 0
        if not p or not same_shape(shape, { targets * contexts * b, t, d }) then worst, top = math.huge, 1
        else
          for m = 0, targets - 1 do
            for k = 0, contexts - 1 do
              for i = 0, b * t * d - 1 do
                local want = p[(m * contexts + k) * b * t * d + i]
                worst, top = math.max(worst, math.abs(own[m * b * t * d + i] - want)), math.max(top, math.abs(want))
              end
            end
          end
        end
        add("step0.targets", worst / top, 1e-5)
      end
      local want = file:tensor(at .. "loss"):read()[0]
      local got = loss:item()
      add(at .. "loss", math.abs(got - want) / math.abs(want), 1e-5)
      if type(plan.loss) == "number" then
        add(at .. "loss (schedule)", math.abs(got - plan.loss) / math.abs(plan.loss), 1e-5)
      end
      loss:backward()
      if s == 0 then
        for part, model in pairs(models) do
          for _, p in ipairs(model:params()) do
            if p.trained then
              local name = "step0.grad." .. part .. "." .. p.name
              local want_g, shape = file:get(name)
              if not want_g then error { conform = ("'%s' has no tensor '%s'"):format(file.path, name) } end
              local _, norm, off = difference(p.tensor:grad(), want_g, shape)
              add(name, off / norm, 1e-4)
            end
          end
        end
      end
      opt:step { lr = plan.lr, wd = plan.wd, momentum = plan.momentum }
    end)
  end
  for part, model in pairs { encoder = context, predictor = predictor, target_encoder = target } do
    for _, p in ipairs(model:params()) do
      local name = "final." .. part .. "." .. p.name
      local want_p, shape = file:get(name)
      if want_p or p.trained then
        if not want_p then error { conform = ("'%s' has no tensor '%s'"):format(file.path, name) } end
        add(name, (difference(p.tensor, want_p, shape)), 1e-5)
      end
    end
  end
  if after then after { encoder = context, predictor = predictor, target_encoder = target, opt = opt } end
end

--- Compares a recorded file with the engine.
---@param path string
---@param after fun(models: { encoder: table, predictor: table, target_encoder: table, opt: table })? gets the models
---@return { name: string, error: number, tolerance: number, ok: boolean }[]? items, string? message
return function(path, after)
  local file, message = open(path)
  if not file then return nil, message end
  local items = {}
  local function add(name, err, tolerance)
    items[#items + 1] = { name = name, error = err, tolerance = tolerance, ok = err <= tolerance }
  end
  local ok, e = pcall(run, file, add, after)
  if ok then return items end
  return nil, type(e) == "table" and e.conform or tostring(e)
end

--- Modules: objects that hold parameters, buffers and other modules as fields, named as in
-- PyTorch's state dicts; and classes of them.
local F = require "ijepa.base.ffi"
local tensor = require "ijepa.tensor"
local device = require "ijepa.tensor.device"

local module = {}

-- ---- parameters and buffers
local Entry = {}   -- what nn.parameter and nn.buffer return, to be assigned to a field

local function entry(t, what, trained, decayed)
  if not tensor.is(t) then F.raise(("%s: it is a %s, expected a tensor"):format(what, type(t))) end
  return device.no_grad(function()
    -- a view of something else, or memory that ends with the step, becomes a tensor of its own
    if device.stepping or t:requires_grad() then t = t:clone(true) end
    t = t:contiguous()
    return setmetatable({ tensor = t:requires_grad_(trained), trained = trained,
      decayed = decayed }, Entry)
  end)
end

local function options_of(o, what, known)
  for k in pairs(o or {}) do
    if not known[k] then
      F.raise(("%s: unknown option '%s'; there are: %s"):format(what, tostring(k), known.list))
    end
  end
  return o or {}
end
local function known(...)
  local set = { list = table.concat({ ... }, ", ") }
  for _, k in ipairs { ... } do set[k] = true end
  return set
end

local PARAMETER = known("decayed")
--- A trained tensor, to be assigned to a field of a module. decayed: whether weight decay applies
--- (default: to tensors of more than one dimension).
---@param t ijepa.tensor f32
---@param o { decayed: boolean }?
---@return table
function module.parameter(t, o)
  o = options_of(o, "parameter", PARAMETER)
  if tensor.is(t) and t:dtype() ~= "f32" then
    F.raise(("parameter: the tensor is %s, expected f32"):format(t:dtype()))
  end
  local e = entry(t, "parameter", true, o.decayed)
  if e.decayed == nil then e.decayed = t:dim() > 1 end
  return e
end

--- A tensor that is saved with a module and not trained, to be assigned to a field of it.
---@param t ijepa.tensor of any type
---@return table
function module.buffer(t) return entry(t, "buffer", false, false) end

-- ---- modules
---@class ijepa.nn.module
---@field training boolean set by train() and eval()
---@field by_name table<string, table> the entries of params() by name
local Module = { training = true }

local function class_of(v)
  local meta = type(v) == "table" and getmetatable(v)
  return meta and rawget(meta, "_name") and meta or nil
end

--- Whether a value is a module.
---@param v any
---@return boolean
function module.is(v) return class_of(v) ~= nil end

local function position_of(self, key)
  for i, f in ipairs(rawget(self, "_own")) do
    if f.key == key then return i end
  end
end

local function set(self, key, value)
  local own, kind = rawget(self, "_own"), nil
  if getmetatable(value) == Entry then kind = value.trained and "parameter" or "buffer"
  elseif class_of(value) then kind = "module" end
  local i = position_of(self, key)
  if kind == "module" and type(key) == "number" then return rawset(self, key, value) end
  if type(Module[key]) == "function" and value ~= nil and type(value) ~= "function" then
    F.raise(("%s.%s: every module has a method of that name: choose another one"):format(
      getmetatable(self)._name, key))
  end
  if not kind then
    if not i then return rawset(self, key, value) end
    if value ~= nil then
      F.raise(("%s.%s is a %s: assign nn.%s(tensor), or copy values with %s:copy_(tensor)"):format(
        getmetatable(self)._name, tostring(key), own[i].kind,
        own[i].kind == "buffer" and "buffer" or "parameter", tostring(key)))
    end
    table.remove(own, i)
    rawget(self, "_fields")[key] = nil
  else
    rawset(self, key, nil)
    local f = { key = key, kind = kind, value = kind == "module" and value or value.tensor,
      trained = value.trained, decayed = value.decayed }
    if kind == "module" then f.trained, f.decayed = nil, nil end
    own[i or #own + 1] = f
    rawget(self, "_fields")[key] = f.value
  end
end

-- The fields that count: { key, kind, value, trained, decayed }; modules at 1, 2, ... are called
-- "0", "1", ..., as PyTorch does.
local function fields(self)
  if rawget(self, 1) == nil then return rawget(self, "_own") end
  local list = { unpack(rawget(self, "_own")) }
  for i, m in ipairs(self) do
    if class_of(m) then list[#list + 1] = { key = i - 1, kind = "module", value = m } end
  end
  return list
end

local function join(prefix, key)
  key = tostring(key)
  return prefix == "" and key or key == "" and prefix or prefix .. "." .. key
end

-- Calls f(name, tensor, trained, decayed) for each tensor below `self`, once each.
local function each_tensor(self, prefix, f, seen)
  if seen[self] then return end
  seen[self] = true
  if self._collect then   -- parameters that the C library has made
    self:_collect(prefix, f)
  end
  for _, own in ipairs(fields(self)) do
    local name = join(prefix, own.key)
    if own.kind == "module" then each_tensor(own.value, name, f, seen)
    elseif not seen[own.value] then
      seen[own.value] = true
      f(name, own.value, own.trained, own.decayed)
    end
  end
end

local function collect(self)
  local before, list, by_name, same = rawget(self, "_by_name") or {}, {}, {}, true
  each_tensor(self, "", function(name, t, trained, decayed)
    local p = before[name]
    if not p or p.tensor ~= t then
      p = { name = name, tensor = t, trained = trained, decayed = decayed, model = self }
    end
    list[#list + 1], by_name[name] = p, p
    same = same and rawget(self, "_list") and self._list[#list] == p
  end, {})
  -- the same list as long as nothing in it changes: optimizers know a parameter by its entry
  if not same or #self._list ~= #list then
    rawset(self, "_list", list)
    rawset(self, "_by_name", by_name)
  end
end

--- The parameters and buffers: a list of { name, tensor, trained, decayed, model }.
---@return table[]
function Module:params()
  collect(self)
  return rawget(self, "_list")
end
--- The trained tensors.
---@return ijepa.tensor[]
function Module:parameters()
  local list = {}
  for _, p in ipairs(self:params()) do
    if p.trained then list[#list + 1] = p.tensor end
  end
  return list
end
--- An iterator over the trained tensors: for name, tensor in m:named_parameters() do.
---@return fun(): string?, ijepa.tensor?
function Module:named_parameters()
  local list, i = self:params(), 0
  return function()
    repeat i = i + 1 until not list[i] or list[i].trained
    if list[i] then return list[i].name, list[i].tensor end
  end
end
--- The module and all modules below it: a list of { name, module }; the name of the module itself
--- is "".
---@return { name: string, module: ijepa.nn.module }[]
function Module:named_modules()
  local list, seen = {}, {}
  local function walk(m, prefix)
    if seen[m] then return end
    seen[m] = true
    list[#list + 1] = { name = prefix, module = m }
    for _, own in ipairs(fields(m)) do
      if own.kind == "module" then walk(own.value, join(prefix, own.key)) end
    end
  end
  walk(self, "")
  return list
end
--- Calls f with each module below this one and with this one, as PyTorch's apply.
---@param f fun(m: ijepa.nn.module)
---@return ijepa.nn.module self
function Module:apply(f)
  local list = self:named_modules()
  for i = #list, 1, -1 do f(list[i].module) end
  return self
end
--- The number of values in parameters and buffers.
---@return integer
function Module:size()
  local n = 0
  for _, p in ipairs(self:params()) do n = n + p.tensor:numel() end
  return n
end
--- Whether gradients are computed for the parameters.
---@param on boolean?
---@return ijepa.nn.module self
function Module:requires_grad_(on)
  for _, p in ipairs(self:params()) do
    if p.trained then p.tensor:requires_grad_(on) end
  end
  return self
end
--- Sets the existing gradients to 0.
function Module:zero_grad()
  for _, t in ipairs(self:parameters()) do
    local g = t:grad()
    if g then g:fill_(0) end
  end
end
--- Switches this module and all below it to training (default) or, with false, to evaluation:
--- dropout, drop path and batch norm behave differently.
---@param on boolean?
---@return ijepa.nn.module self
function Module:train(on)
  for _, m in ipairs(self:named_modules()) do rawset(m.module, "training", on ~= false) end
  return self
end
--- The same as train(false).
---@return ijepa.nn.module self
function Module:eval() return self:train(false) end

-- ---- values in and out
--- All tensors by name.
---@return table<string, ijepa.tensor>
function Module:state_dict()
  local t = {}
  for _, p in ipairs(self:params()) do t[p.name] = p.tensor end
  return t
end

local function shape_text(t) return "(" .. table.concat(t:shape(), ", ") .. ")" end
local function several(list)
  table.sort(list)
  local n = #list
  return table.concat(list, ", ", 1, math.min(n, 5))
    .. (n > 5 and (" and %d more"):format(n - 5) or "")
end

-- What keeps `given` (name -> shape text) from filling the module; nil: nothing.
local function misfit(self, given, strict)
  local missing, unexpected, problems = {}, {}, {}
  for _, p in ipairs(self:params()) do
    if not given[p.name] then missing[#missing + 1] = p.name
    elseif given[p.name] ~= shape_text(p.tensor) then
      problems[#problems + 1] = ("'%s' is %s, expected %s"):format(p.name, given[p.name],
        shape_text(p.tensor))
    end
  end
  for name in pairs(given) do
    -- PyTorch's batch norm counts its batches, which nothing here needs
    if not self.by_name[name] and not name:find "num_batches_tracked$" then
      unexpected[#unexpected + 1] = name
    end
  end
  if strict and missing[1] then problems[#problems + 1] = "missing: " .. several(missing) end
  if strict and unexpected[1] then
    problems[#problems + 1] = "unexpected: " .. several(unexpected)
  end
  return problems[1] and table.concat(problems, "; ")
end

--- Copies the values of a state dict: a table of tensors by name. strict (default): all names and
--- no others.
---@param t table<string, ijepa.tensor>
---@param strict boolean?
---@return ijepa.nn.module self
function Module:load_state_dict(t, strict)
  if type(t) ~= "table" or module.is(t) then
    F.raise(("load_state_dict: a %s, expected a table of tensors by name, as state_dict() returns")
      :format(module.is(t) and "module" or type(t)))
  end
  local given = {}
  for name, value in pairs(t) do
    if type(name) ~= "string" or not tensor.is(value) then
      F.raise(("load_state_dict: '%s' is a %s, expected a tensor"):format(tostring(name),
        type(value)))
    end
    given[name] = shape_text(value)
  end
  local problem = misfit(self, given, strict ~= false)
  if problem then F.raise("load_state_dict: " .. problem) end
  device.no_grad(function()
    for _, p in ipairs(self:params()) do
      if t[p.name] then p.tensor:copy_(t[p.name]) end
    end
  end)
  return self
end

--- Copies all values of another module with the same names and shapes.
---@param src ijepa.nn.module or any model with params()
---@return ijepa.nn.module self
function Module:copy_(src)
  local t = {}
  for _, p in ipairs(src:params()) do t[p.name] = p.tensor end
  return self:load_state_dict(t)
end

--- Writes all tensors to a safetensors file.
---@param path string
---@return boolean? ok, string? message
function Module:save(path)
  local C, out = F.C, F.new "ij_tensor_writer *[1]"
  F.check(C.ij_tensor_writer_new(path, out))
  local writer = F.gc(out[0], C.ij_tensor_writer_discard)
  for _, p in ipairs(self:params()) do
    F.check(C.ij_tensor_writer_add_tensor(writer, p.name, p.tensor.h))
  end
  F.gc(writer, nil)
  local ok, message = F.try(C.ij_tensor_writer_commit(writer))
  return ok, message
end

--- Fills the module from a safetensors file or a PyTorch checkpoint. strict as in load_state_dict;
--- prefix: of the names in the file, such as "encoder.".
---@param path string
---@param o { strict: boolean, prefix: string }?
---@return ijepa.nn.module? self, string? message
function Module:load(path, o)
  o = options_of(o, "load", known("strict", "prefix"))
  local C, out = F.C, F.new "ij_tensor_file *[1]"
  local ok, message = F.try(C.ij_tensor_file_open(path, out))
  if not ok then return nil, message end
  local file, prefix, given, index = F.gc(out[0], C.ij_tensor_file_close), o.prefix or "", {}, {}
  for i = 0, C.ij_tensor_file_count(file) - 1 do
    local name, shape = F.string(C.ij_tensor_file_name(file, i)), {}
    for d = 1, C.ij_tensor_file_ndim(file, i) do
      shape[d] = tonumber(C.ij_tensor_file_size(file, i, d - 1))
    end
    if name:sub(1, #prefix) == prefix then
      name = name:sub(#prefix + 1)
      given[name], index[name] = "(" .. table.concat(shape, ", ") .. ")", i
    end
  end
  local problem = misfit(self, given, o.strict ~= false)
  if problem then return nil, ("'%s': %s"):format(path, problem) end
  for _, p in ipairs(self:params()) do
    if index[p.name] then
      local t = p.tensor:dtype() == "f32" and p.tensor or tensor.empty(p.tensor:shape())
      ok, message = F.try(C.ij_tensor_file_load(file, index[p.name], t.h))
      if not ok then return nil, message end
      if t ~= p.tensor then p.tensor:copy_(t) end
    end
  end
  return self
end

-- ---- copies
local function copy_value(v, memo)
  if tensor.is(v) then
    memo[v] = memo[v] or device.no_grad(function()
      return v:clone(true):requires_grad_(v:requires_grad())
    end)
    return memo[v]
  end
  if type(v) ~= "table" then return v end
  if memo[v] then return memo[v] end
  if class_of(v) then return module.copy(v, memo) end
  if getmetatable(v) ~= nil then return v end
  local t = {}
  memo[v] = t
  for k, x in pairs(v) do t[k] = copy_value(x, memo) end
  return t
end

local NOT_COPIED = { _own = true, _fields = true, _list = true, _by_name = true }

-- A copy of a module, of its tensors and of its tables. memo: originals -> copies.
function module.copy(self, memo)
  if memo[self] then return memo[self] end
  local new = setmetatable({ _own = {}, _fields = {} }, getmetatable(self))
  memo[self] = new
  for k, v in pairs(self) do
    if not NOT_COPIED[k] then rawset(new, k, copy_value(v, memo)) end
  end
  if self._copied then self._copied(new, self) end   -- what the C library has made
  for i, f in ipairs(rawget(self, "_own")) do
    local value = copy_value(f.value, memo)
    new._own[i] = { key = f.key, kind = f.kind, value = value, trained = f.trained,
      decayed = f.decayed }
    new._fields[f.key] = value
  end
  return new
end

--- A copy with tensors of its own.
---@return ijepa.nn.module
function Module:clone() return module.copy(self, {}) end
--- A copy for an EMA: it is not trained, and in evaluation mode.
---@return ijepa.nn.module
function Module:target() return self:clone():requires_grad_(false):eval() end
--- Moves the tensors to the current device (see ijepa.device).
---@param name string its name, such as "cpu"
---@return ijepa.nn.module self
function Module:to(name)
  if name == "f32" or name == "bf16" then
    F.raise(("to: parameters stay f32; matmuls in %s are the option dtype of nn.Blocks"):format(
      name))
  end
  if name ~= device.name() then
    F.raise(("to: the current device is '%s': call ijepa.device.set(\"%s\") first"):format(
      device.name(), tostring(name)))
  end
  for _, m in ipairs(self:named_modules()) do
    for _, f in ipairs(rawget(m.module, "_own")) do
      if f.kind ~= "module" then
        local t = f.value
        f.value = tensor.from_pointer((t:read()), t:shape(), t:dtype(), true)
          :requires_grad_(t:requires_grad())
        rawget(m.module, "_fields")[f.key] = f.value
      end
    end
    if m.module._moved then m.module:_moved() end
  end
  return self
end

-- ---- text
-- 1234567 -> "1,234,567"
local function grouped(n)
  local s = tostring(n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return s
end
local function describe(self, indent)
  local lines = {}
  for _, f in ipairs(fields(self)) do
    if f.kind == "module" then
      lines[#lines + 1] = ("%s  (%s): %s"):format(indent, tostring(f.key),
        describe(f.value, indent .. "  "))
    elseif not getmetatable(self)._layer then
      lines[#lines + 1] = ("%s  (%s): %s %s"):format(indent, tostring(f.key), f.kind,
        shape_text(f.value))
    end
  end
  local name, extra = getmetatable(self)._name, self.extra and self:extra() or ""
  if not lines[1] then return name .. "(" .. extra .. ")" end
  return ("%s(%s\n%s\n%s)"):format(name, extra, table.concat(lines, "\n"), indent)
end

local function to_text(self)
  return ("%s, %s parameters"):format(describe(self, ""), grouped(self:size()))
end

-- ---- classes
local function call(self, ...)
  local forward = self.forward
  if not forward then
    local name = getmetatable(self)._name
    F.raise(("%s has no method forward: write function %s:forward(x)"):format(name, name))
  end
  return forward(self, ...)
end

--- A class of modules: calling it makes one. init(self, ...) gets the arguments of that call and
--- assigns fields; a method forward is what calling the module does.
---@param name string for texts
---@param init fun(self: ijepa.nn.module, ...)?
---@param parent table? a class whose methods it inherits
---@return table class
function module.class(name, init, parent)
  if type(name) ~= "string" then
    F.raise(("class: the name is a %s; the signature is nn.class(name, init, parent)"):format(
      type(name)))
  end
  if init ~= nil and type(init) ~= "function" then
    F.raise(("class '%s': init is a %s, expected a function"):format(name, type(init)))
  end
  if parent ~= nil and not (type(parent) == "table" and rawget(parent, "_name")) then
    F.raise(("class '%s': the parent is no class of nn.class"):format(name))
  end
  local K = { _name = name, init = init, __call = call, __newindex = set, __tostring = to_text }
  K.__index = function(self, key)
    local value = rawget(self, "_fields")[key]
    if value ~= nil then return value end
    if key == "by_name" then
      collect(self)
      return rawget(self, "_by_name")
    end
    return K[key]
  end
  return setmetatable(K, {
    __index = parent or Module,
    __tostring = function() return "class " .. name end,
    __call = function(_, ...)
      local self = setmetatable({ _own = {}, _fields = {} }, K)
      local make = K.init
      if make then make(self, ...) end
      return self
    end,
  })
end

module.known, module.options_of, module.join = known, options_of, join
return module

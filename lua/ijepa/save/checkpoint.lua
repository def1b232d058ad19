--- Checkpoints: a run's state as one safetensors file, written at once or not at all.
--- TAG-latest.safetensors is the newest, TAG-epN.safetensors is the state after N whole epochs.
local F = require "ijepa.base.ffi"
local tensors = require "ijepa.save.tensors"

local checkpoint = {}

-- The metadata of safetensors holds strings alone: under this key are the names of the values that
-- were numbers.
local number_keys = "ijepa.numbers"

--- Writes a checkpoint.
---@param path string
---@param items table[] as tensors.save takes them: { name, tensor } or { name, dtype, shape, data }
---@param meta? table<string, string|number> numbers come back as numbers, to the last bit
---@param later boolean? as tensors.save: a job instead of true
---@return boolean|ijepa.save_job|nil ok, string? message, integer? code
function checkpoint.save(path, items, meta, later)
  local strings, numbers = {}, {}
  for key, value in pairs(meta or {}) do
    if type(key) ~= "string" or key:find "\n" or key == number_keys then
      F.raise(("checkpoint.save: metadata can't be called '%s'"):format(tostring(key)))
    end
    if type(value) == "number" then
      numbers[#numbers + 1] = key
      value = ("%.17g"):format(value)
    elseif type(value) ~= "string" then
      F.raise(("checkpoint.save: metadata '%s' is a %s, expected a string or a number"):format(key,
        type(value)))
    end
    strings[key] = value
  end
  table.sort(numbers)
  strings[number_keys] = #numbers > 0 and table.concat(numbers, "\n") or nil
  return tensors.save(path, items, strings, later)
end

---@class ijepa.checkpoint
---@field path string
local methods = {}
methods.__index = methods

--- Opens a checkpoint, or any file that tensors.open reads. One that is not whole is refused.
---@param path string
---@return ijepa.checkpoint? file, string? message, integer? code
function checkpoint.load(path)
  local file, message, code = tensors.open(path)
  if not file then return nil, "checkpoint: " .. message, code end
  local numbers = {}
  for key in (file:meta(number_keys) or ""):gmatch "[^\n]+" do numbers[key] = true end
  return setmetatable({ path = path, _file = file, _numbers = numbers }, methods)
end

--- The names of all tensors, in the order of the file.
---@return string[]
function methods:names() return self._file:names() end

--- Type and shape of a tensor, or nil.
---@param name string
---@return { dtype: string, shape: integer[] }?
function methods:info(name) return self._file:info(name) end

--- A tensor's bytes, valid while the checkpoint is open: pointer, number of bytes; nil, message
--- where there are none.
---@param name string
---@return ffi.cdata*? pointer, integer|string bytes_or_message
function methods:data(name) return self._file:data(name) end

--- All elements of a tensor as f32 into memory of the caller (see tensors.open's read).
---@param name string
---@param out ffi.cdata* float *
---@param count integer
---@return boolean? ok, string? message, integer? code
function methods:read(name, out, count) return self._file:read(name, out, count) end

--- All elements of a tensor into an ijepa.tensor (f32, contiguous).
---@param name string
---@param t ijepa.tensor
---@return boolean? ok, string? message, integer? code
function methods:load(name, t) return self._file:load(name, t) end

--- What was saved under key: a string or a number, as it was; nil where there is nothing.
---@param key string
---@return string|number|nil
function methods:meta(key)
  local v = self._file:meta(key)
  if v and self._numbers[key] then return tonumber(v) end
  return v
end

--- Closes the file: pointers that data() gave are no longer valid.
function methods:close() self._file:close() end

local function shape_text(shape) return "(" .. table.concat(shape, ", ") .. ")" end

-- "4 missing (a, b, c, ...)": the first three of a list.
local function some(list, what)
  if #list == 0 then return nil end
  local shown = {}
  for i = 1, math.min(3, #list) do shown[i] = list[i] end
  local more = #list > 3 and ", ..." or ""
  return ("%d %s (%s%s)"):format(#list, what, table.concat(shown, ", "), more)
end

--- Does the file hold exactly the tensors that are expected?
---@param expected table[] list of { name =, shape = {...}, dtype = "f32"? }; names as in the file
---@param file ijepa.checkpoint what checkpoint.load or tensors.open gave
---@param prefix? string only names that begin with this count as unexpected
---@return boolean? ok, string? message one line: what is missing, unexpected, of another shape
function checkpoint.match(expected, file, prefix)
  local missing, unexpected, misshapen, wanted = {}, {}, {}, {}
  for _, want in ipairs(expected) do
    wanted[want.name] = true
    local have = file:info(want.name)
    if not have then
      missing[#missing + 1] = want.name
    else
      local mine, its = shape_text(want.shape), shape_text(have.shape)
      if want.dtype and want.dtype ~= have.dtype then
        mine, its = want.dtype .. " " .. mine, have.dtype .. " " .. its
      end
      if mine ~= its then
        misshapen[#misshapen + 1] = ("%s %s, expected %s"):format(want.name, its, mine)
      end
    end
  end
  for _, name in ipairs(file:names()) do
    if not wanted[name] and name:sub(1, #(prefix or "")) == (prefix or "") then
      unexpected[#unexpected + 1] = name
    end
  end
  if #missing + #unexpected + #misshapen == 0 then return true end
  local parts = {}
  for _, part in ipairs {
    some(misshapen, "of another shape") or false, some(missing, "missing") or false,
    some(unexpected, "unexpected") or false,
  } do
    if part then parts[#parts + 1] = part end
  end
  return nil, ("checkpoint '%s' is of another architecture: tensors: %s"):format(file.path,
    table.concat(parts, "; "))
end

--- The name of a checkpoint in a run's folder.
---@param folder string
---@param epochs? integer number of finished epochs; without it, the newest state's name
---@param tag? string "jepa"
---@return string path
function checkpoint.path(folder, epochs, tag)
  local which = epochs and ("ep%d"):format(epochs) or "latest"
  return ("%s/%s-%s.safetensors"):format(folder, tag or "jepa", which)
end

--- The newest whole checkpoint of a folder: the one with the highest metadata `step`, TAG-latest
--- among equals.
---@param folder string
---@param tag? string "jepa"
---@return string? path nil where there is none
---@return string[]|string? refused messages about files that could not be used
---@return integer? code where the folder could not be read
function checkpoint.latest(folder, tag)
  local out = F.new "char *[1]"
  local ok, message, code = F.try(F.C.ij_dir_list(folder, out))
  if not ok then return nil, message, code end
  local listing = F.string(out[0])
  F.C.ij_bytes_free(out[0])
  tag = tag or "jepa"
  local best, best_step, refused = nil, -math.huge, {}
  for name in listing:gmatch "[^\n]+" do
    local which = name:sub(1, #tag + 1) == tag .. "-"
      and name:sub(#tag + 2):match "^(.+)%.safetensors$"
    local epochs = which and tonumber(which:match "^ep(%d+)$")
    if epochs or which == "latest" then
      local path = folder .. "/" .. name
      local file, why = checkpoint.load(path)
      if not file then
        refused[#refused + 1] = why
      else
        local step = tonumber(file:meta "step") or epochs or 0
        if step > best_step or (step == best_step and which == "latest") then
          best, best_step = path, step
        end
        file:close()
      end
    end
  end
  return best, refused
end

return checkpoint

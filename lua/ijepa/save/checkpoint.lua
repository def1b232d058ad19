--- Checkpoints: a run's state as one safetensors file, written completely or not at all.
--- TAG-latest.safetensors is the state that was saved last, TAG-epN.safetensors the state after N
--- epochs. Each names its run (`run`) and counts the saves of that run (`save`):
--- checkpoint.latest decides by these which state a folder's run resumes from.
local F = require "ijepa.base.ffi"
local Rows = require "ijepa.base.rows"
local Run = require "ijepa.run"
local tensors = require "ijepa.save.tensors"
local text = require "ijepa.base.text"
local bit = require "bit"
local C = F.C

local checkpoint = {}

-- The metadata of safetensors holds strings alone: under this key are the names of the values that
-- were numbers.
local number_keys = "ijepa.numbers"
-- Under this key is a hash of all other metadata: a flipped bit there must not decide anything.
local seal_key = "ijepa.seal"

-- Under this key the library writes a hash of each tensor's values, which it compares before it
-- gives them (core/save/save.h).
local hashes_key = "ijepa.tensors"

local function seal_of(strings)
  local parts = {}
  for _, key in ipairs(text.keys(strings)) do
    if key ~= seal_key and key ~= hashes_key then
      parts[#parts + 1] = ("%d:%s%s"):format(#key, key, strings[key])
    end
  end
  local all = table.concat(parts, "\1")
  return bit.tohex(C.ij_hash(0, all, #all), 16)
end

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
  strings[seal_key] = seal_of(strings)
  strings[hashes_key] = ""
  return tensors.save(path, items, strings, later)
end

---@class ijepa.checkpoint
---@field path string
local methods = {}
methods.__index = methods
function methods:__tostring()
  local step = self._file and self:meta "step"
  return ("checkpoint '%s'%s: %s"):format(text.shown(self.path), step and (", step %g"):format(step)
    or "", self._file and text.count(#self:names(), "tensor") or "closed")
end

--- Opens a checkpoint, or any file that tensors.open reads. One that is not whole is refused.
---@param path string
---@return ijepa.checkpoint? file, string? message, integer? code
function checkpoint.load(path)
  local file, message, code = tensors.open(path)
  if not file then return nil, "checkpoint: " .. message, code end
  local seal = file:meta(seal_key)
  if seal and seal ~= seal_of(file:metas()) then
    file:close()
    return nil, ("checkpoint: file '%s' is damaged: its metadata is not what was saved"):format(
      path),
      tonumber(C.IJ_EFORMAT)
  end
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

-- ---- which state is a run's newest --------------------------------------------------------------

--- Whether all values of a checkpoint are those that were saved: reads all of it.
---@param path string
---@return boolean? ok, string? message, integer? code
function checkpoint.verify(path)
  local file, message, code = checkpoint.load(path)
  if not file then return nil, message, code end
  for _, name in ipairs(file:names()) do
    local data, why = file:data(name)
    if not data and tostring(why):find "is damaged" then
      message, code = "checkpoint: " .. why, tonumber(C.IJ_EFORMAT)
      break
    end
  end
  file:close()
  if message then return nil, message, code end
  return true
end

local last_identity = 0   -- two runs of one process must differ as well

--- An identity for a run that begins now. Identities sort by the time at which the runs began.
---@return string
function checkpoint.identity()
  last_identity = math.max(last_identity + 1, math.floor(C.ij_clock() * 1e6))
  local random, file = "", io.open("/dev/urandom", "rb")
  if file then
    random = file:read(4) or ""
    file:close()
  end
  return ("%016.0f-%s"):format(last_identity, (random:gsub(".", function(c)
    return ("%02x"):format(c:byte())
  end)))
end

local function names_in(folder)
  local out = F.new "char *[1]"
  local ok, message, code = F.try(C.ij_dir_list(folder, out))
  if not ok then return nil, message, code end
  local list = {}
  for name in F.string(out[0]):gmatch "[^\n]+" do list[#list + 1] = name end
  C.ij_bytes_free(out[0])
  return list
end

-- "latest", the number of epochs, or nil for a file that is no checkpoint of this tag.
local function which(name, tag)
  local rest = name:sub(1, #tag + 1) == tag
    .. "-" and name:sub(#tag + 2):match "^(.+)%.safetensors$"
  if rest == "latest" then return rest end
  return rest and tonumber(rest:match "^ep(%d+)$")
end

--- The tag of a folder's checkpoints: that of its settings, else "jepa", else the only one there.
---@param folder string
---@return string tag
function checkpoint.tag(folder)
  local settings = Run.settings(folder)
  if settings and type(settings.tag) == "string" then return settings.tag end
  local found
  for _, name in ipairs(names_in(folder) or {}) do
    if which(name, "jepa") then return "jepa" end
    local tag = name:match "^(.+)%-latest%.safetensors$" or name:match "^(.+)%-ep%d+%.safetensors$"
    if tag and found and tag ~= found then return "jepa" end
    found = tag or found
  end
  return found or "jepa"
end

-- Whether state a was saved after state b. Files of version 0.1.0 have no identity: there
-- TAG-latest is the newest, then the file that was changed last.
local function is_newer(a, b)
  if a.run ~= b.run then return a.run > b.run end
  if a.save ~= b.save then return a.save > b.save end
  if (a.which == "latest") ~= (b.which == "latest") then return a.which == "latest" end
  if a.run == "" and a.time ~= b.time then return a.time > b.time end
  return a.which ~= "latest" and a.which > b.which
end

--- The state of a folder's run that was saved last: the last save of the run that began last. All
--- that open a run's folder ask this function.
---@param folder string
---@param tag? string of the checkpoints; without it, that of the folder (checkpoint.tag)
---@return string? path nil where there is none
---@return { path: string, message: string, code: integer }[]|string refused files that can't be
--- used; a message where the folder could not be read
---@return integer? code where the folder could not be read
function checkpoint.latest(folder, tag)
  local names, message, code = names_in(folder)
  if not names then return nil, message, code end
  tag = tag or checkpoint.tag(folder)
  local best, refused = nil, {}
  for _, name in ipairs(names) do
    local kind, path = which(name, tag), folder .. "/" .. name
    if kind and C.ij_path_kind(path) ~= 0 then   -- a link to a file that a first save will make
      local file, why, failure = checkpoint.load(path)
      if file then
        local run, save = file:meta "run", file:meta "save"
        local one = { path = path, which = kind, run = type(run) == "string" and run or "",
          save = type(save) == "number" and save or 0, time = C.ij_path_time(path) }
        if not best or is_newer(one, best) then best = one end
        file:close()
      else
        refused[#refused + 1] = { path = path, message = why, code = failure }
      end
    end
  end
  return best and best.path, refused
end

--- The same for programs that only read: files that can't be used are named on stderr.
---@param folder string
---@param tag? string
---@return string? path, string? message
function checkpoint.of_folder(folder, tag)
  local path, refused = checkpoint.latest(folder, tag)
  if type(refused) == "string" then return nil, refused end
  for _, one in ipairs(refused) do
    io.stderr:write(("warning: %s%s\n"):format(one.message,
      path and ("; '%s' is used"):format(path) or ""))
  end
  if path then return path end
  return nil, #refused > 0
    and ("folder '%s' holds no checkpoint that can be read: %s"):format(folder, refused[1].message)
    or ("folder '%s' holds no checkpoint"):format(folder)
end

local function move(from, to)
  local ok, why = os.rename(from, to)
  if ok then return true end
  return nil, ("file '%s' could not be moved: %s"):format(from, why)
end

--- Moves a file that can't be read out of the way, so that no save replaces it.
---@param path string
---@return string? name its new name, string? message
function checkpoint.set_aside(path)
  local name = Rows.free_name(path, ".unreadable")
  local ok, message = move(path, name)
  return ok and name, message
end

--- Removes TAG-latest where it is a symbolic link to a numbered checkpoint of its folder: a save
--- would write through it.
---@param folder string
---@param tag string
---@return string[]? names of the link and of what it led to; nil where it is no such link
function checkpoint.unlink(folder, tag)
  local path, to = checkpoint.path(folder, nil, tag), F.new "char[4096]"
  local target = F.string(to, C.ij_path_link(path, to, 4096))
  local name = target:match "[^/]*$"
  local same = target == name or target == "./" .. name
    or target:sub(1, 1) == "/" and target:sub(1, -#name - 2) == folder
  if not (same and tonumber(which(name, tag))) then return nil end
  os.remove(path)
  return { path, name }
end

--- Moves the checkpoints and the logs of a folder's run into a subfolder, before another run begins
--- there. The newest state goes last: until then a start resumes as before.
---@param folder string
---@param tag string
---@return string? subfolder nil where there was no checkpoint, string? message
function checkpoint.retire(folder, tag)
  local names, message = names_in(folder)
  if not names then return nil, message end
  local states, others, latest = {}, {}, nil
  for _, name in ipairs(names) do
    local kind, rest = which(name, tag), name:sub(1, #tag) == tag and name:sub(#tag + 1) or ""
    if kind == "latest" then latest = name
    elseif kind then states[#states + 1] = name
    elseif rest:find "^_r%d+[%w.-]*%.csv$" or rest:find "^%-diagnoses"
      or rest:find "^%.jsonl$" or rest:find "^[%d-]*%.old%.jsonl$"
      or which(rest:match "^(.*%.safetensors)[%d-]*%.unreadable$" or "", "")
      or name:find "^events%.out%.tfevents%.%d+%.ijepa$"
      or name:find "^config[%w.-]*%.lua$" or name == "probes.jsonl" or name == "code" then
      others[#others + 1] = name
    end
  end
  states[#states + 1] = latest
  if #states == 0 then return nil end
  local into = Rows.free_name(folder .. "/older", "")
  local ok
  ok, message = F.try(C.ij_mkdirs(into))
  for _, list in ipairs { states, others } do
    for _, name in ipairs(list) do
      if ok then ok, message = move(folder .. "/" .. name, into .. "/" .. name) end
    end
  end
  return ok and into, message
end

return checkpoint

--- Files of tensors: looking at one (safetensors, or a PyTorch checkpoint), writing one. The bytes
--- stay C memory.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local C = F.C

local tensors = {}

--- Names of the types, as messages and items have them.
local names = { [0] = "f32", "bf16", "i32", "i64", "u8" }
local numbers = {}
for i = 0, #names do numbers[names[i]] = i end

---@class ijepa.tensors_file
---@field path string
local file = {}
file.__index = file
function file:__tostring()
  return ("file '%s': %s"):format(text.shown(self.path), self._handle
    and text.count(#self:names(), "tensor") or "closed")
end

-- The C handle; stops where the file was closed.
local function handle(self)
  return self._handle or F.raise(("file '%s' is closed"):format(self.path))
end

-- Number of the tensor called name, from 0, or nil.
local function find(self, name)
  if type(name) ~= "string" then
    F.raise(("a tensor's name is a %s, expected a string"):format(type(name)))
  end
  local i = C.ij_tensor_file_find(handle(self), name)
  if i >= 0 then return i end
end

--- Opens a safetensors file or a PyTorch checkpoint (.pth.tar), told apart by content; of the
--- latter, names are the keys of nested dicts joined by dots, and numbers and texts are metadata.
--- Nothing in a file is run. It is mapped, not read, so this takes no time and no memory to speak
--- of.
---@param path string
---@return ijepa.tensors_file? file, string? message, integer? code
function tensors.open(path)
  if type(path) ~= "string" then
    F.raise(("tensors.open: path is a %s, expected a string"):format(type(path)))
  end
  local out = F.new "ij_tensor_file *[1]"
  local ok, message, code = F.try(C.ij_tensor_file_open(path, out))
  if not ok then return nil, message, code end
  return setmetatable({ path = path, _handle = F.gc(out[0], C.ij_tensor_file_close) }, file)
end

--- Unmaps the file: pointers that data() gave are no longer valid.
function file:close()
  if self._handle then C.ij_tensor_file_close(F.gc(self._handle, nil)) end
  self._handle = nil
end

--- The names of all tensors, in the order of the file.
---@return string[]
function file:names()
  local f, list = handle(self), {}
  for i = 0, C.ij_tensor_file_count(f) - 1 do
    list[i + 1] = F.string(C.ij_tensor_file_name(f, i))
  end
  return list
end

--- Type and shape of a tensor, or nil where there is none of that name.
---@param name string
---@return { dtype: string, shape: integer[] }? info dtype: "f32", "bf16", "i32", "i64", "u8"; else
--- the file's, as "F16"
function file:info(name)
  local i = find(self, name)
  if not i then return nil end
  local f, shape = self._handle, {}
  for d = 0, C.ij_tensor_file_ndim(f, i) - 1 do
    shape[d + 1] = tonumber(C.ij_tensor_file_size(f, i, d))
  end
  return { dtype = names[tonumber(C.ij_tensor_file_dtype(f, i))]
    or F.string(C.ij_tensor_file_type(f, i)), shape = shape }
end

--- A tensor's bytes: a pointer that is valid while the file is open, and how many. Keep the file,
--- not only the pointer.
---@param name string
---@return ffi.cdata*? pointer, integer|string bytes_or_message
function file:data(name)
  local i = find(self, name)
  if not i then
    return nil, ("file '%s' has no tensor '%s'"):format(self.path, name), C.IJ_EFORMAT
  end
  local bytes = F.new "size_t[1]"
  local p = C.ij_tensor_file_data(self._handle, i, bytes)
  if p == nil then
    local why = F.string(C.ij_errmsg())
    return nil, why, why:find "is damaged" and C.IJ_EFORMAT or C.IJ_EUNSUPPORTED
  end
  return p, tonumber(bytes[0])
end

--- All elements of a tensor, as f32 and row-major, into memory of the caller.
---@param name string
---@param out ffi.cdata* float *
---@param count integer elements that fit there: all of the tensor's
---@return boolean? ok, string? message, integer? code
function file:read(name, out, count)
  local i = find(self, name)
  if not i then
    return nil, ("file '%s' has no tensor '%s'"):format(self.path, name), C.IJ_EFORMAT
  end
  return F.try(C.ij_tensor_file_read(self._handle, i, out, count))
end

--- The same into a tensor (f32, contiguous, of as many elements): no more memory than the tensor's.
---@param name string
---@param t ijepa.tensor
---@return boolean? ok, string? message, integer? code
function file:load(name, t)
  local i = find(self, name)
  if not i then
    return nil, ("file '%s' has no tensor '%s'"):format(self.path, name), C.IJ_EFORMAT
  end
  return F.try(C.ij_tensor_file_load(self._handle, i, t.h))
end

--- The metadata's string under key, or nil.
---@param key string
---@return string?
function file:meta(key)
  local v = C.ij_tensor_file_meta(handle(self), key)
  if v ~= nil then return F.string(v) end
end

--- All metadata.
---@return table<string, string>
function file:metas()
  local f, all = handle(self), {}
  for i = 0, C.ij_tensor_file_meta_count(f) - 1 do
    local key = C.ij_tensor_file_meta_key(f, i)
    all[F.string(key)] = F.string(C.ij_tensor_file_meta(f, key))
  end
  return all
end

local function plain(value, what)
  if type(value) ~= "string" then
    F.raise(("%s is a %s, expected a string"):format(what, type(value)))
  end
  if value:find("\0", 1, true) then F.raise(what .. " holds a zero byte") end
  return value
end

-- The C handle of an item's tensor: an ijepa.tensor, or the handle itself; nil if it is neither.
local function handle_of(t)
  if type(t) == "table" then t = rawget(t, "h") end
  return F.istype("ij_tensor *", t) and t ~= nil and t or nil
end

-- What is wrong with item number i, or nil.
local function fault(i, item)
  if type(item) ~= "table" then
    return ("item %d is a %s, expected a table"):format(i, type(item))
  end
  plain(item.name, ("item %d: name"):format(i))
  if item.tensor ~= nil then
    if handle_of(item.tensor) then return end
    return ("item %d, '%s': tensor is a %s, expected a tensor"):format(i, item.name,
      type(item.tensor))
  end
  if not numbers[item.dtype] then
    return ("tensor '%s': dtype is %s, expected f32, bf16, i32, i64 or u8"):format(item.name,
      tostring(item.dtype))
  end
  if type(item.shape) ~= "table" then return ("tensor '%s' has no shape"):format(item.name) end
  local bytes = ({ f32 = 4, bf16 = 2, i32 = 4, i64 = 8, u8 = 1 })[item.dtype]
  for _, size in ipairs(item.shape) do
    if type(size) ~= "number" or size < 0 or size % 1 ~= 0 then
      return ("tensor '%s' has the size %s"):format(item.name, tostring(size))
    end
    bytes = bytes * size
  end
  if type(item.data) ~= "cdata" and type(item.data) ~= "string" then
    return ("tensor '%s': data is a %s, expected a pointer"):format(item.name, type(item.data))
  end
  if item.bytes and item.bytes ~= bytes then
    return ("tensor '%s' has %d bytes, its shape says %d"):format(item.name, item.bytes, bytes)
  end
end

local function add(writer, item)
  if item.tensor ~= nil then
    return F.try(C.ij_tensor_writer_add_tensor(writer, item.name, handle_of(item.tensor)))
  end
  local n = #item.shape
  local shape = F.new("int64_t[?]", n, item.shape)
  return F.try(C.ij_tensor_writer_add(writer, item.name, numbers[item.dtype], n, shape, item.data))
end

---@class ijepa.save_job a file that is being written by a thread
local Job = {}
Job.__index = Job
--- Whether it is over, so that finish() will not wait.
---@return boolean
function Job:done() return self.h == nil or C.ij_tensor_writer_job_done(self.h) ~= 0 end
--- Waits for its end: what saving at once would have returned.
---@return boolean? ok, string? message, integer? code
function Job:finish()
  local h = self.h
  self.h = nil
  if h == nil then return true end
  return F.try(C.ij_tensor_writer_job_end(F.gc(h, nil)))
end

-- A writer with these items and metadata.
local function prepare(path, items, meta)
  plain(path, "tensors.save: path")
  for i, item in ipairs(items) do
    local message = fault(i, item)
    if message then F.raise("tensors.save: " .. message) end
  end
  for key, value in pairs(meta or {}) do
    plain(value, ("metadata '%s'"):format(plain(key, "a key of the metadata")))
  end
  local out = F.new "ij_tensor_writer *[1]"
  local ok, message, code = F.try(C.ij_tensor_writer_new(path, out))
  if not ok then return nil, message, code end
  local writer = F.gc(out[0], C.ij_tensor_writer_discard)
  for key, value in pairs(meta or {}) do
    ok, message, code = F.try(C.ij_tensor_writer_meta(writer, key, value))
    if not ok then return nil, message, code end
  end
  for _, item in ipairs(items) do
    ok, message, code = add(writer, item)
    if not ok then return nil, message, code end
  end
  return writer
end

--- Writes a safetensors file; an older one of that name is replaced at once or, when this fails,
--- not at all. An item is either { name =, tensor = <an ijepa.tensor or its handle> } or { name =,
--- dtype = "f32", shape = {...}, data = <pointer>, bytes = n }; memory is read while this runs.
--- Raises when an item is malformed.
---@param path string
---@param items table[]
---@param meta? table<string, string>
---@param later boolean? copies the tensors and lets a thread write; returns an ijepa.save_job
--- instead of true
---@return boolean? ok, string? message, integer? code
function tensors.save(path, items, meta, later)
  local writer, message, code = prepare(path, items, meta)
  if not writer then return nil, message, code end
  if not later then return F.try(C.ij_tensor_writer_commit(F.gc(writer, nil))) end
  local job = F.new "ij_tensor_writer_job *[1]"
  local ok
  ok, message, code = F.try(C.ij_tensor_writer_commit_later(F.gc(writer, nil), job))
  if not ok then return nil, message, code end
  return setmetatable({ h = job[0] ~= nil and F.gc(job[0], C.ij_tensor_writer_job_end) or nil },
    Job)
end

--- Writes a PyTorch checkpoint: the items as storages "0", "1", ... and this pickle, which names
--- them (pickle.tensor).
---@param path string
---@param items table[] as for tensors.save
---@param pickle string
---@return boolean? ok, string? message, integer? code
function tensors.save_pth(path, items, pickle)
  local writer, message, code = prepare(path, items)
  if not writer then return nil, message, code end
  return F.try(C.ij_tensor_writer_commit_pth(F.gc(writer, nil), pickle, #pickle))
end

return tensors

--- A Hugging Face model in several files: NAME.index.json lists in which of them each tensor is.
-- It is read as one file with the methods of ijepa.checkpoint.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local checkpoint = require "ijepa.save.checkpoint"
local json = require "cjson.safe"

local sharded = {}

---@class ijepa.sharded
---@field path string of the index
local File = {}
File.__index = File

-- The file of a tensor, or nil and a message.
local function shard(self, name)
  local file = self.file_of[name]
  if file then return self.files[file] end
  return nil, ("'%s' has no tensor '%s'"):format(self.path, name)
end

---@return string[] sorted
function File:names() return self.list end
---@param name string
---@return { dtype: string, shape: integer[] }? info
function File:info(name)
  local file = shard(self, name)
  return file and file:info(name)
end
---@param name string
---@return ffi.cdata*? pointer, integer|string bytes_or_message
function File:data(name)
  local file, message = shard(self, name)
  if not file then return nil, message --[[@as string]] end
  return file:data(name)
end
---@param name string
---@param out ffi.cdata* float *
---@param count integer
---@return boolean? ok, string? message, integer? code
function File:read(name, out, count)
  local file, message = shard(self, name)
  if not file then return nil, message end
  return file:read(name, out, count)
end
---@param name string
---@param t ijepa.tensor
---@return boolean? ok, string? message, integer? code
function File:load(name, t)
  local file, message = shard(self, name)
  if not file then return nil, message end
  return file:load(name, t)
end
--- Metadata: the files of a sharded model have none that counts.
---@return nil
function File.meta() return nil end
function File:close()
  for _, file in pairs(self.files) do file:close() end
end

--- Whether a path is that of an index.
---@param path string
---@return boolean
function sharded.is(path) return path:find "%.index%.json$" ~= nil end

--- Opens the files that an index names; each must be there and hold what the index says.
---@param path string NAME.index.json
---@return ijepa.sharded? file, string? message, integer? code
function sharded.open(path)
  local source, why = io.open(path, "rb")
  local content = source and source:read(2 ^ 26)
  if source then source:close() end
  if not content then
    return nil, ("index '%s' could not be read: %s"):format(path,
      why and why:gsub("^.*: ", "") or "it is empty")
  end
  local index = json.decode(content)
  local map = type(index) == "table" and index.weight_map
  if type(map) ~= "table" then
    return nil, ("index '%s' has no weight_map"):format(path), F.C.IJ_EFORMAT
  end
  local self = setmetatable({ path = path, list = text.keys(map), files = {}, file_of = map }, File)
  local folder = path:match "^(.*/)" or ""
  local function fail(fmt, ...)
    self:close()
    return nil, ("index '%s': " .. fmt):format(path, ...), F.C.IJ_EFORMAT
  end
  for _, name in ipairs(self.list) do
    local file = map[name]
    if type(file) ~= "string" or file:find "[/%c]" or file == "" then
      return fail("the file of '%s' is no name of a file beside it", (name:gsub("%c", "?")))
    end
    if not self.files[file] then
      local opened, message = checkpoint.load(folder .. file)
      if not opened then return fail("%s", message) end
      self.files[file] = opened
    end
    if not self.files[file]:info(name) then
      return fail("'%s' has no tensor '%s'", file, (name:gsub("%c", "?")))
    end
  end
  return self
end

return sharded

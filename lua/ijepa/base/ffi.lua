-- The only file that uses LuaJIT's FFI: declares libijepa's functions and gives the other modules
-- what they need.
local ffi = require "ffi"
ffi.cdef(require "ijepa._cdef")

local C = ffi.C
if not pcall(function() return C.ij_version end) then
  -- plain luajit: the program itself holds these symbols
  -- from these modules' folder to the library
  local installed, path = pcall(require, "ijepa._library")
  local here = debug.getinfo(1, "S").source:match "^@(.*)base/ffi%.lua$"
  C = ffi.load(os.getenv "IJEPA_LIB" or installed and here and here .. path or "ijepa")
end

local F = {
  C = C, new = ffi.new, string = ffi.string, cast = ffi.cast, copy = ffi.copy, fill = ffi.fill,
    gc = ffi.gc,
  sizeof = ffi.sizeof, typeof = ffi.typeof, istype = ffi.istype, metatype = ffi.metatype,
    os = ffi.os, arch = ffi.arch,
  cdef = ffi.cdef, load = ffi.load,   -- for another library: declare it in the module that uses it
}

--- Loads another library and declares the functions that we need of it; nil where it is missing.
--- Call it at the first use.
---@param file string such as "libsixel.so.1"
---@param declarations string in C
function F.library(file, declarations)
  local ok, library = pcall(ffi.load, file)
  if not ok then return nil end
  ffi.cdef(declarations)
  return library
end

-- The folder of our own modules in chunk names: "@lua/ijepa/" in the program, another folder
-- otherwise.
local home = debug.getinfo(1, "S").source:gsub("base/ffi%.lua$", "")

--- True for a chunk name (debug.getinfo's source) of one of our own modules.
function F.is_internal(source) return source:sub(1, #home) == home end

--- "FILE:LINE" of the nearest caller outside our modules, or nil.
---@return string? line
function F.caller()
  for level = 2, 200 do
    local at = debug.getinfo(level, "Sl")
    if not at then return nil end
    if at.currentline > 0 and not F.is_internal(at.source) then
      return at.source:gsub("^[@=]", "", 1) .. ":" .. at.currentline
    end
  end
end

--- The message of any value that error() was called with.
---@param e any
---@return string
function F.message_of(e)
  if type(e) == "string" then return e end
  local meta = getmetatable(e)
  return meta and meta.__tostring and tostring(e) or ("error object is a %s value"):format(type(e))
end

--- Raises message: at `level` as error() counts it in the calling function, or, without one, at the
--- user's line.
---@param message string
---@param level integer?
function F.raise(message, level)
  if level then error(message, level == 0 and 0 or level + 1) end
  local line = F.caller()
  error(line and line .. ": " .. message or message, 0)
end

--- Raises the library's message when status is not 0, at the line that F.raise would name.
---@param status integer
---@param level integer?
function F.check(status, level)
  if status ~= 0 then
    if level and level > 0 then level = level + 1 end
    F.raise(ffi.string(C.ij_errmsg()), level)
  end
end

--- For errors of the outside world: true, or nil, the library's message and its code.
---@param status integer
---@return boolean? ok, string? message, integer? code
function F.try(status)
  if status == 0 then return true end
  return nil, ffi.string(C.ij_errmsg()), tonumber(status)
end

return F

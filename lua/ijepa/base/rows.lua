-- A log as a text file of rows: it continues after a resumed step, or starts anew and renames the
-- older file.
local F = require "ijepa.base.ffi"
local C = F.C

local Rows = {}
Rows.__index = Rows

--- The first of STEM..ENDING, STEM-2..ENDING, ... that is not there yet: what is moved aside
--- replaces nothing.
---@param stem string
---@param ending string
---@return string path
function Rows.free_name(stem, ending)
  local path, n = stem .. ending, 1
  while C.ij_path_kind(path) ~= 0 do
    n = n + 1
    path = ("%s-%d%s"):format(stem, n, ending)
  end
  return path
end

--- Renames a file NAME.ENDING to NAME.old.ENDING.
---@param path string
---@return string? name, string? message
function Rows.set_aside(path)
  local stem, ending = path:match "^(.*)(%.%w+)$"
  local name = Rows.free_name(stem, ".old" .. ending)
  local ok, message = os.rename(path, name)
  return ok and name or nil, message
end

--- The part of a text that holds the header and so many complete rows.
---@param text string
---@param header string
---@param count number
---@return string
function Rows.first(text, header, count)
  local at = #header
  for _ = 1, math.min(count, #text) do
    local _, to = text:find("\n", at + 1, true)
    if not to then break end
    at = to
  end
  return text:sub(1, at)
end

--- Opens a file of rows for appending.
---@param path string
---@param header string the start of the file
---@param keep (fun(text: string): string?)? returns the part of an older file that stays; nil: the
--- older file becomes
--- NAME.old.ENDING
---@return table? rows, string? message, integer? code
function Rows.open(path, header, keep)
  local kept
  local old, refused = io.open(path, "rb")
  local text = old and old:read "*a"   -- nil: a folder
  if old then old:close() end
  if not text and C.ij_path_kind(path) ~= 0 then   -- its rows would be lost
    return nil, ("log '%s' could not be read: %s"):format(path,
      old and "it is not a file" or refused:match ": ([^:]*)$" or refused), tonumber(C.IJ_EIO)
  end
  if text then
    text = text:gsub("\r\n", "\n")   -- of an editor, as is a last row without its end
    if text ~= "" and text:sub(-1) ~= "\n" then text = text .. "\n" end
    kept = keep and keep(text)
    if not kept and #text > #header then
      local name = Rows.set_aside(path)
      if keep and name then
        io.stderr:write(("warning: log '%s' does not begin as this run's does: it is now '%s'\n")
          :format(path, name))
      end
    end
  end
  kept = kept or header
  local ok, message, code = F.try(C.ij_file_replace(path, kept, #kept))
  if not ok then return nil, message, code end
  local file, why = io.open(path, "ab")
  if not file then
    return nil, ("file '%s' could not be written: %s"):format(path, why), tonumber(C.IJ_EIO)
  end
  file:setvbuf "line"
  local _, lines = kept:sub(#header + 1):gsub("\n", "")
  return setmetatable({ path = path, file = file, count = lines }, Rows)
end

--- Writes a row.
---@param row string with its end of line
---@return boolean? ok, string? message
function Rows:write(row)
  local ok, message = self.file:write(row)
  if not ok then return nil, ("log '%s' could not be written: %s"):format(self.path, message) end
  self.count = self.count + 1
  return true
end

--- Closes the file.
function Rows:close() self.file:close() end

return Rows

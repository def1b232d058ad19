-- A log as a text file of rows: it continues after a resumed step, or starts anew and renames the older file.
local F = require "ijepa.base.ffi"
local C = F.C

local Rows = {}
Rows.__index = Rows

--- Opens a file of rows for appending.
---@param path string
---@param header string the start of the file
---@param keep (fun(text: string): string?)? returns the part of an older file that stays; nil: the older file becomes
--- NAME.old.ENDING
---@return table? rows, string? message, integer? code
function Rows.open(path, header, keep)
  local kept
  local old = io.open(path, "rb")
  if old then
    local text = old:read "*a"
    old:close()
    kept = keep and keep(text)
    if not kept and #text > #header then os.rename(path, (path:gsub("(%.%w+)$", ".old%1"))) end
  end
  kept = kept or header
  local ok, message, code = F.try(C.ij_file_replace(path, kept, #kept))
  if not ok then return nil, message, code end
  local file, why = io.open(path, "ab")
  if not file then return nil, ("file '%s' could not be written: %s"):format(path, why), tonumber(C.IJ_EIO) end
  file:setvbuf "line"
  return setmetatable({ path = path, file = file }, Rows)
end

--- Writes a row.
---@param row string with its end of line
---@return boolean? ok, string? message
function Rows:write(row)
  local ok, message = self.file:write(row)
  if not ok then return nil, ("log '%s' could not be written: %s"):format(self.path, message) end
  return true
end

--- Closes the file.
function Rows:close() self.file:close() end

return Rows

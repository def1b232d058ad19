-- Colours of the terminal.
local F = require "ijepa.base.ffi"
local terminal = {}

local COLOUR = { string = "32", number = "36", boolean = "35", ["nil"] = "35", key = "34",
  dim = "2", error = "31", warning = "33" }

--- Whether text for a file descriptor may have colours: a terminal, and neither NO_COLOR nor
--- TERM=dumb is set.
---@param fd integer
---@return boolean
function terminal.has_colours(fd)
  return F.C.ij_isatty(fd) ~= 0 and (os.getenv "NO_COLOR" or "") == ""
    and os.getenv "TERM" ~= "dumb"
end

--- s in the colour of a kind, where `on`.
---@param on boolean?
---@param kind string
---@param s string
---@return string
function terminal.paint(on, kind, s)
  return on and COLOUR[kind] and ("\27[%sm%s\27[0m"):format(COLOUR[kind], s) or s
end

--- The number of columns that s takes on a terminal; s is UTF-8.
---@param s string
---@return integer
function terminal.columns(s) return #s:gsub("\27%[[%d;]*m", ""):gsub("[\128-\191]", "") end

--- Breaks a line at spaces so that no line is longer than `width` columns, except for longer words.
--- Lines after the first are indented by two spaces.
---@param s string
---@param width integer
---@return string
function terminal.wrap(s, width)
  if terminal.columns(s) <= width then return s end
  local lines, line = {}, ""
  for space, word in s:gmatch "(%s*)(%S+)" do
    if line:find "%S" and terminal.columns(line .. space .. word) > width then
      lines[#lines + 1], line = line, "  " .. word
    else
      line = line .. space .. word
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

return terminal

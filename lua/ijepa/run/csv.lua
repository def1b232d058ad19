-- The log TAG_rRANK.csv of a run's folder, in the published columns and formats.
local Rows = require "ijepa.base.rows"

local csv = {}
csv.__index = csv

local header = "epoch,itr,loss,mask-A,mask-B,time (ms)\n"

-- The part of a log that holds steps up to `last`. A row counts as the step that its epoch and number say when ipe, the
-- steps of an epoch, is known, else rows are counted. nil where the text is no log of ours.
local function rows_until(log, last, ipe)
  if log:sub(1, #header) ~= header then return nil end
  local at, row = #header + 1, 0
  while true do
    local from, to, epoch, itr = log:find("^(%d+),(%d+),[^,\n]+,[^,\n]+,[^,\n]+,%-?%d+\n", at)
    if not from then break end
    row = row + 1
    if (ipe and (tonumber(epoch) - 1) * ipe + tonumber(itr) + 1 or row) > last then break end
    at = to + 1
  end
  return log:sub(1, at - 1)
end

-- Not-a-number has a sign in C's text and none here.
local function fixed(v) return v ~= v and "nan" or ("%.5f"):format(v) end

--- Opens the log; as every writer of logs does (run.lua).
---@param out string
---@param o ijepa.log_options
---@return table? writer, string? message, integer? code
function csv.open(out, o)
  local keep = o.resume and function(log) return rows_until(log, o.resume, o.ipe) end
  local rows, message, code = Rows.open(("%s/%s_r%d.csv"):format(out, o.tag, o.rank), header, keep)
  if not rows then return nil, message, code end
  return setmetatable({ rows = rows }, csv)
end

--- Writes a row.
---@param v ijepa.log_row
---@return boolean? ok, string? message
function csv:step(v)
  local ms = v.ms == v.ms and math.max(-2 ^ 31, math.min(2 ^ 31, v.ms)) or 0
  return self.rows:write(("%d,%d,%s,%s,%s,%d\n"):format(v.epoch or 1, v.itr or v.step - 1, fixed(v.loss), fixed(v.k),
    fixed(v.t), ms))
end

--- Closes the log.
function csv:close() self.rows:close() end

return csv

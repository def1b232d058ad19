-- The log TAG_rRANK.csv of a run's folder, in the published columns and formats; behind them a
-- column for each number that the objective returns beside the loss in the run's first step.
local Rows = require "ijepa.base.rows"
local text = require "ijepa.base.text"

local csv = {}
csv.__index = csv

local header = "epoch,itr,loss,mask-A,mask-B,time (ms)\n"

local COLUMNS = { "epoch", "itr", "loss", "k", "t", "ms" }

-- The value of a cell, or nil where it is not a number.
local function number(cell)
  local sign, word = cell:match "^(-?)(%a+)$"
  if word == "nan" then return 0 / 0 end
  if word == "inf" then return sign == "-" and -math.huge or math.huge end
  return not word and tonumber(cell) or nil
end

-- The values of a row, in the order of COLUMNS and of `more` further ones; nil where it can't be
-- read.
local function parsed(line, more)
  local cells = { line:match "^(%d+),(%d+),([^,]+),([^,]+),([^,]+),(%-?%d+)%f[,%z](.*)$" }
  if not cells[1] then return nil end
  local rest = table.remove(cells)
  for cell in rest:gmatch ",([^,]*)" do cells[#cells + 1] = cell end
  if #cells ~= #COLUMNS + more then return nil end
  for i, cell in ipairs(cells) do
    cells[i] = number(cell)
    if not cells[i] then return nil end
  end
  return cells
end

-- The names of the further columns in a log's first line; nil where it is no such line.
local function columns_of(line)
  local rest = line:sub(1, #header - 1) == header:sub(1, -2) and line:sub(#header)
  if not rest or rest ~= "" and rest:sub(1, 1) ~= "," then return nil end
  local names = {}
  for name in rest:gmatch ",([^,\r]+)" do names[#names + 1] = name end
  return names
end

local function header_of(names)
  return header:sub(1, -2) .. (names[1] and "," .. table.concat(names, ",") or "") .. "\n"
end

-- The part of a log that holds steps up to `last`, with rows between them that can't be read. A
-- row's step follows from its epoch and number when ipe, the steps per epoch, is known, else rows
-- are counted. nil where the text is not such a log.
local function rows_until(log, last, ipe, first, more)
  if log:sub(1, #first) ~= first then return nil end
  local at, row, kept = #first + 1, 0, #first
  while true do
    local from, to, line = log:find("^([^\n]*)\n", at)
    if not from then break end
    row = row + 1
    local values = parsed(line, more)
    if values then
      if (ipe and (values[1] - 1) * ipe + values[2] + 1 or row) > last then break end
      kept = to
    end
    at = to + 1
  end
  return log:sub(1, kept)
end

-- "2 rows of log 'x' could not be read (lines 5 and 9)"
local function unreadable_text(path, lines)
  local shown = table.concat(lines, ", ", 1, math.min(#lines, 5)) .. (#lines > 5 and ", ..." or "")
  return ("%s of log '%s' could not be read: line%s %s"):format(text.count(#lines, "row"), path,
    #lines == 1 and "" or "s", shown)
end

---@class ijepa.log column by column: a value per row that could be read
---@field epoch number[]
---@field itr number[]
---@field loss number[]
---@field k number[]
---@field t number[]
---@field ms number[]
---@field values table<string, number[]> of the further columns, by name
---@field unreadable integer[] line numbers of the rows that could not be read; the header is line 1

--- Reads a log.
---@param path string
---@return ijepa.log? log, string? message beside a log: the rows that could not be read
function csv.read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, ("log '%s' could not be read: %s"):format(path, why) end
  local log, n, more = { unreadable = {}, values = {} }, 0, {}
  for _, name in ipairs(COLUMNS) do log[name] = {} end
  for line in file:lines() do
    n = n + 1
    -- a spreadsheet adds a byte order mark
    if n == 1 then line = line:gsub("^\239\187\191", "") end
    local names = n == 1 and columns_of(line)
    if names then
      more = names
      for _, name in ipairs(more) do log.values[name] = {} end
    end
    local values = parsed(line, #more)
    for i, name in ipairs(COLUMNS) do
      if values then table.insert(log[name], values[i]) end
    end
    for i, name in ipairs(values and more or {}) do
      table.insert(log.values[name], values[#COLUMNS + i])
    end
    if not values and not names then
      table.insert(log.unreadable, n)
    end
  end
  file:close()
  return log, #log.unreadable > 0 and unreadable_text(path, log.unreadable) or nil
end

-- C prints a sign with NaN; the published logs have none.
local function fixed(v) return v ~= v and "nan" or ("%.5f"):format(v) end

--- Opens the log; as every writer of logs does (init.lua).
---@param out string
---@param o ijepa.log_options
---@return table? writer, string? message, integer? code
function csv.open(out, o)
  local path = ("%s/%s_r%d.csv"):format(out, o.tag, o.rank)
  local old = o.resume and io.open(path, "rb")
  local names = old and columns_of(old:read "*l" or "") or {}
  if old then old:close() end
  local first = header_of(names)
  local function keep(log)
    if not o.rows then return rows_until(log, o.resume, o.ipe, first, #names) end
    return log:sub(1, #first) == first and Rows.first(log, first, o.rows.csv) or nil
  end
  local rows, message, code = Rows.open(path, first, o.resume and keep)
  if not rows then return nil, message, code end
  return setmetatable({ rows = rows, names = names }, csv)
end

-- Opens a log without rows again, with columns for these numbers.
function csv:_add_columns(values)
  local names = text.keys(values)
  local path = self.rows.path
  self.rows:close()
  local rows, message = Rows.open(path, header_of(names), function() return header_of(names) end)
  if not rows then return nil, message end
  self.rows, self.names = rows, names
  return true
end

--- Writes a row.
---@param v ijepa.log_row
---@return boolean? ok, string? message
function csv:step(v)
  if v.values and self.rows.count == 0 and not self.names[1] then
    local ok, message = self:_add_columns(v.values)
    if not ok then return nil, message end
  end
  local ms = v.ms == v.ms and math.max(-2 ^ 31, math.min(2 ^ 31, v.ms)) or 0
  local more = {}
  for i, name in ipairs(self.names) do
    more[i] = "," .. fixed(v.values and v.values[name] or 0 / 0)
  end
  return self.rows:write(("%d,%d,%s,%s,%s,%d%s\n"):format(v.epoch or 1, v.itr or v.step - 1,
    fixed(v.loss), fixed(v.k), fixed(v.t), ms, table.concat(more)))
end

--- Closes the log.
function csv:close() self.rows:close() end

return csv

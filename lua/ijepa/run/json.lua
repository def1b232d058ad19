-- The log TAG.jsonl of a run's folder (log.json=true): one JSON object a line, flushed by line. A
-- step is {"step":1,"epoch":1,...}, a diagnosis {"step":1000,"diagnosis":{...}}. NaN and infinite
-- values are null.
local Rows = require "ijepa.base.rows"
local text = require "ijepa.base.text"
local encode = require "cjson.safe".encode

local json = {}
json.__index = json

local function value(v)
  if type(v) ~= "number" then return encode(v) or "null" end
  if v ~= v or math.abs(v) == math.huge then return "null" end
  local short = ("%.14g"):format(v)
  return tonumber(short) == v and short or ("%.17g"):format(v)
end

-- An object of names and values in this order; names without a value are left out.
local function object(list)
  local parts = {}
  for i = 1, #list, 2 do
    if list[i + 1] then parts[#parts + 1] = ('"%s":%s'):format(list[i], list[i + 1]) end
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function sorted(t)
  local list = {}
  for _, name in ipairs(text.keys(t)) do
    list[#list + 1] = name
    list[#list + 1] = value(t[name])
  end
  return object(list)
end

-- The complete rows of steps up to `last`.
local function rows_until(log, last)
  local at = 1
  while true do
    local from, to, step = log:find('^{"step":(%d+),[^\n]*}\n', at)
    if not from or tonumber(step) > last then break end
    at = to + 1
  end
  return log:sub(1, at - 1)
end

--- Opens the log; as every writer of logs does (init.lua). Only the first process writes one.
---@param out string
---@param o ijepa.log_options
---@return table? writer, string? message, integer? code
function json.open(out, o)
  if o.rank > 0 then return setmetatable({}, json) end
  local rows, message, code = Rows.open(("%s/%s.jsonl"):format(out, o.tag), "",
    o.resume and function(log)
      return o.rows and Rows.first(log, "", o.rows.json) or rows_until(log, o.resume)
    end)
  if not rows then return nil, message, code end
  return setmetatable({ rows = rows }, json)
end

function json:_write(list)
  if not self.rows then return true end
  return self.rows:write(object(list) .. "\n")
end

--- Writes a step.
---@param v ijepa.log_row
---@return boolean? ok, string? message
function json:step(v)
  local list = { "step", value(v.step) }
  for _, name in ipairs { "epoch", "itr", "loss", "lr", "wd", "momentum", "k", "t", "ms",
    "images_per_second", "memory" } do
    list[#list + 1] = name
    list[#list + 1] = v[name] and value(v[name]) or false
  end
  list[#list + 1] = "values"
  list[#list + 1] = v.values and sorted(v.values) or false
  list[#list + 1] = "qkv_grads"
  list[#list + 1] = v.grads and sorted(v.grads) or false
  return self:_write(list)
end

--- Writes a diagnosis.
---@param d ijepa.diagnosis
---@return boolean? ok, string? message
function json:diagnosis(d) return self:_write { "step", value(d.step), "diagnosis", sorted(d) } end

--- Writes that the run is back at a step.
---@param step integer
---@param from integer the step before
---@return boolean? ok, string? message
function json:rolled_back(step, from)
  return self:_write { "step", value(step), "rolled_back_from", value(from) }
end

--- Closes the log.
function json:close()
  if self.rows then self.rows:close() end
end

return json

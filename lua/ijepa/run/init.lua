-- A run's folder: its settings (config.lua) and its logs. The writers of logs: csv.lua, json.lua,
-- tensorboard.lua; console.lua is what the run prints.
-- Uses: base, config.
local F = require "ijepa.base.ffi"
local config = require "ijepa.config"
local literal = require "ijepa.base.literal"
local Rows = require "ijepa.base.rows"
local Console = require "ijepa.run.console"
local csv = require "ijepa.run.csv"
local C = F.C

local run = { time_text = Console.time_text }

--- The settings in a run's config.lua, unchecked. The file is read as data; no code in it runs.
---@param out string the folder
---@return table? settings, string? message, integer? code
function run.settings(out)
  local path = out .. "/config.lua"
  local file, why = io.open(path, "rb")
  if not file then
    return nil, ("file '%s' could not be read: %s"):format(path, why:match ": ([^:]*)$" or why),
      tonumber(C.IJ_EIO)
  end
  local text = file:read "*a"   -- nil: a folder
  file:close()
  local saved, message = literal.read(text or "")
  if type(saved) == "table" then return saved end
  return nil, ("file '%s' holds no settings%s"):format(path, message and ": " .. message or ""),
    tonumber(C.IJ_EFORMAT)
end

--- The settings of a run's folder, each checked as in a recipe.
---@param out string the folder
---@return table? config, string? message, integer? code
function run.config(out)
  local saved, message, code = run.settings(out)
  if not saved then return nil, message, code end
  saved, message = config.restored(saved, ("file '%s/config.lua'"):format(out), true)
  return saved, message, not saved and tonumber(C.IJ_EFORMAT) or nil
end

--- The log of a run's folder, column by column.
---@param out string
---@param tag string? "jepa"
---@return ijepa.log? log, string? message beside a log: the rows that could not be read
function run.read_log(out, tag) return csv.read(("%s/%s_r0.csv"):format(out, tag or "jepa")) end

-- ---- an open run --------------------------------------------------------------------------------

---@class ijepa.log_options
---@field tag string
---@field rank integer
---@field resume integer? step after which the log continues; none: a new log
---@field rows table<string, number>? rows of each log (csv, json) that stay, instead of those up to
--- `resume`
---@field ipe integer? steps per epoch

---@class ijepa.log_row: ijepa.log_values
---@field step integer
---@field images_per_second number?

---@class ijepa.run
---@field out string the folder
---@field step integer the last step that was logged
local Open = {}
Open.__index = Open

-- Opens the writers of logs that are asked for. Each is a module ijepa.run.NAME, asked for by the
-- setting log.NAME=true: open(out, options) gives an object with step(row), close() and perhaps
-- diagnosis(d); nil and a message for failures.
local function open_writers(out, wanted, options)
  local list = {}
  for _, name in ipairs { "csv", "json", "tensorboard" } do
    if name == "csv" or wanted[name] then
      local writer, message, code = require("ijepa.run." .. name).open(out, options)
      if not writer then
        for _, open in ipairs(list) do open:close() end
        return nil, message, code
      end
      list[#list + 1], writer.name = writer, name
    end
  end
  return list
end

-- Gives values to every writer that has this method; the first failure of the run is printed.
function Open:_write(method, ...)
  local ok, message = true, nil
  for _, writer in ipairs(self._writers) do
    local fine, why = true, nil
    if writer[method] then fine, why = writer[method](writer, ...) end
    if not fine then ok, message = nil, why end
  end
  if ok then return true end
  if not self._warned then self:say(self:paint("warning", "warning: " .. message)) end
  self._warned = true
  return nil, message, tonumber(C.IJ_EIO)
end

---@class ijepa.log_values
---@field loss number
---@field epoch? integer from 1; both follow from the step where run.open was given ipe
---@field itr? integer step of the epoch, from 0
---@field k? number context patches per image
---@field t? number patches per target
---@field ms? number time of this step, milliseconds; else the time since the last log
---@field lr? number learning rate
---@field wd? number weight decay
---@field momentum? number of the target encoder's EMA
---@field images? integer images of this step
---@field values? table<string, number> what the objective returns beside the loss
---@field total? integer steps of the run
---@field last? boolean the run's last step: it gets a console line
---@field memory? number bytes; else this process's peak
---@field grads? { first: number, last: number, min: number, max: number } norms of the encoder's
--- qkv gradients

--- Logs a step: a row of the logs, a console line where one is due, the progress bar.
---@param step integer from 1
---@param values ijepa.log_values
---@return boolean? ok, string? message, integer? code where the log could not be written; the run
--- may continue
function Open:log(step, values)
  local ipe, loss = self._ipe, values.loss
  if type(step) ~= "number" then
    F.raise(("run:log: step is a %s, expected a number"):format(type(step)))
  end
  if type(loss) ~= "number" then
    F.raise(("run:log: loss is a %s, expected a number"):format(type(loss)))
  end
  local now = C.ij_time()
  -- the time between opening and the first step does not count
  local seconds = not self._logged and values.ms and values.ms / 1e3 or now - self._time
  self._time, self._logged, self.step = now, true, step
  local v = { step = step, epoch = values.epoch or ipe and math.floor((step - 1) / ipe) + 1,
    itr = values.itr or ipe and (step - 1) % ipe,
    loss = loss, k = values.k or 0, t = values.t or 0, ms = values.ms or 1e3 * seconds,
    lr = values.lr, wd = values.wd,
    momentum = values.momentum, images = values.images, grads = values.grads,
    values = values.values,
    memory = values.memory or tonumber(C.ij_rss_peak()),
    images_per_second = values.images and seconds > 0 and values.images / seconds or nil }
  local ok, message, code = self:_write("step", v)
  self._console:step(v, seconds, values.total, values.last)
  return ok, message, code
end

--- Logs a diagnosis, for the writers that take them.
---@param d ijepa.diagnosis
---@return boolean? ok, string? message, integer? code
function Open:diagnosis(d) return self:_write("diagnosis", d) end

--- Logs that the run is back at a step: rows that follow are of the steps after it. No row is
--- deleted.
---@param step integer
---@return boolean? ok, string? message, integer? code
function Open:rolled_back(step)
  local from = self.step
  self.step = step
  return self:_write("rolled_back", step, from)
end

--- Rows of each log so far, for a checkpoint: a run that resumes from it keeps so many.
---@return { csv: integer?, json: integer? }
function Open:rows()
  local counts = {}
  for _, writer in ipairs(self._writers) do
    counts[writer.name] = writer.rows and writer.rows.count
  end
  return counts
end

--- The step at which the run resumes, where that is not the step of the checkpoint.
---@param step integer
---@param ipe integer steps per epoch from here on
function Open:resumes_at(step, ipe) self.step, self._ipe = step, ipe end

--- Prints a message on a line of its own. Without further arguments the text is taken as it is.
---@param fmt string as string.format takes it
---@param ... any
function Open:say(fmt, ...) self._console:say(select("#", ...) > 0 and fmt:format(...) or fmt) end

--- s in the colour of "warning" or "error" where the console has colours.
---@param kind string
---@param s string
---@return string
function Open:paint(kind, s) return self._console:paint(kind, s) end

--- Ends the progress bar; the last step gets its console line. Messages may follow.
function Open:finish() self._console:finish() end

---@return boolean
function Open:is_closed() return self._closed end

--- Ends the bar and closes the logs.
function Open:close()
  if self._closed then return end
  self:finish()
  for _, writer in ipairs(self._writers) do writer:close() end
  self._closed = true
end

---@class ijepa.run_options
---@field resume? integer step after which the run continues: later rows of the log are cut off;
--- none: a new log
---@field rows? table<string, number> rows of each log (csv, json) that stay, instead of those up to
--- `resume`
---@field tag? string "jepa"
---@field rank? integer 0; other processes print nothing but messages
---@field config? table the resolved settings
---@field logs? table<string, boolean> further logs: json, tensorboard
---@field every? integer steps between console lines (10)
---@field quiet? boolean no console lines, no bar
---@field silent? boolean no logs and no messages either: of several processes the first one prints
---@field total? integer steps of the run
---@field ipe? integer steps per epoch
---@field stream? table for tests: what is written to instead of stderr
---@field terminal? boolean for tests: whether stream is a terminal
---@field colours? boolean for tests: whether it has colours
---@field width? integer for tests: its width

-- Writes config.lua; older settings are kept as config.old.lua where they differ.
local function write_settings(out, settings)
  local path = out .. "/config.lua"
  local text = "-- The settings of this run, with all defaults.\n" .. config.dump(settings)
  local file, refused = io.open(path, "rb")
  if not file and C.ij_path_kind(path) ~= 0 then
    return nil, ("file '%s' could not be read: %s"):format(path,
      refused:match ": ([^:]*)$" or refused), tonumber(C.IJ_EIO)
  end
  if file then
    local old = file:read "*a"
    file:close()
    if old == text then return true end
    if old then
      F.try(C.ij_file_replace(Rows.free_name(out .. "/config", ".old.lua"), old, #old))
    end
  end
  return F.try(C.ij_file_replace(path, text, #text))
end

--- Opens a run's folder, which is made where it is missing, and its logs.
---@param out string
---@param options? ijepa.run_options
---@return ijepa.run? run, string? message, integer? code
function run.open(out, options)
  if type(out) ~= "string" or out == "" then
    F.raise(("run.open: the folder is a %s, expected a string"):format(
      out == "" and "empty string" or type(out)))
  end
  local o = options or {}
  local rank, tag = o.rank or 0, o.tag or "jepa"
  local ok, message, code = F.try(C.ij_mkdirs(out))
  if ok and rank == 0 and o.config then ok, message, code = write_settings(out, o.config) end
  if not ok then return nil, message, code end
  local writers = {}
  if not o.silent then
    writers, message, code = open_writers(out, o.logs or {}, { tag = tag, rank = rank,
      resume = o.resume, rows = o.rows, ipe = o.ipe })
  end
  if not writers then return nil, message, code end
  return setmetatable({ out = out, step = o.resume or 0, _writers = writers, _ipe = o.ipe,
    _time = C.ij_time(), _logged = false,
    _closed = false, _warned = false, _console = Console.new(o) }, Open)
end

return run

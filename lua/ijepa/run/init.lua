-- A run's folder: its settings (config.lua), its logs (csv.lua, json.lua, tensorboard.lua), and what it prints. All that it
-- prints goes to stderr: a console line every 10 steps, and a progress bar where stderr is a terminal.
-- Uses: base, config.
local F = require "ijepa.base.ffi"
local config = require "ijepa.config"
local literal = require "ijepa.base.literal"
local C = F.C
local floor, max, min = math.floor, math.max, math.min

local run = {}
run.__index = run

local every = 10          -- steps from one console line to the next

--- What a run's config.lua holds, whatever that is. It is read, not run.
---@param out string the folder
---@return table? settings, string? message, integer? code
function run.settings(out)
  local path = out .. "/config.lua"
  local file, why = io.open(path, "rb")
  if not file then return nil, ("file '%s' could not be read: %s"):format(path, why:match ": ([^:]*)$" or why), tonumber(C.IJ_EIO) end
  local text = file:read "*a"   -- nil: a folder
  file:close()
  local saved, message = literal.read(text or "")
  if type(saved) == "table" then return saved end
  return nil, ("file '%s' holds no settings%s"):format(path, message and ": " .. message or ""), tonumber(C.IJ_EFORMAT)
end

--- The settings of a run's folder, of which every value is one that a recipe may have.
---@param out string the folder
---@return table? config, string? message, integer? code
function run.config(out)
  local saved, message, code = run.settings(out)
  if not saved then return nil, message, code end
  saved, message = config.restored(saved, ("file '%s/config.lua'"):format(out), true)
  return saved, message, not saved and tonumber(C.IJ_EFORMAT) or nil
end

-- ---- the log --------------------------------------------------------------------------------------------------------

--- The log of a run's folder, column by column.
---@param out string
---@param tag string? "jepa"
---@return { epoch: number[], itr: number[], loss: number[], k: number[], t: number[], ms: number[] }? log, string? message
function run.read_log(out, tag)
  local path = ("%s/%s_r0.csv"):format(out, tag or "jepa")
  local file, why = io.open(path, "rb")
  if not file then return nil, ("log '%s' could not be read: %s"):format(path, why) end
  local names, log = { "epoch", "itr", "loss", "k", "t", "ms" }, {}
  for _, name in ipairs(names) do log[name] = {} end
  for line in file:lines() do
    local row = { line:match "^(%d+),(%d+),([^,]+),([^,]+),([^,]+),(%-?%d+)$" }
    for i, name in ipairs(names) do
      if row[1] then table.insert(log[name], tonumber(row[i]) or 0 / 0) end
    end
  end
  file:close()
  return log
end

---@class ijepa.log_options
---@field tag string
---@field rank integer
---@field resume integer? step after which the log goes on; none: a new log
---@field ipe integer? steps of an epoch

---@class ijepa.log_row: ijepa.log_values
---@field step integer
---@field images_per_second number?

-- The writers of logs that are asked for. Each is a module ijepa.log_NAME, asked for by the setting log.NAME=true:
-- open(out, options) gives an object with step(row), close() and perhaps diagnosis(d); nil and a message for failures.
local function open_writers(out, wanted, options)
  local list = {}
  for _, name in ipairs { "csv", "json", "tensorboard" } do
    if name == "csv" or wanted[name] then
      local writer, message, code = require("ijepa.run." .. name).open(out, options)
      if not writer then
        for _, open in ipairs(list) do open:close() end
        return nil, message, code
      end
      list[#list + 1] = writer
    end
  end
  return list
end

-- Gives every writer its part; what fails is told once.
function run:_write(part, values)
  local ok, message = true, nil
  for _, writer in ipairs(self._writers) do
    local fine, why = true, nil
    if writer[part] then fine, why = writer[part](writer, values) end
    if not fine then ok, message = nil, why end
  end
  if not ok then
    if not self._told then self:say("warning: %s", message) end
    self._told = true
    return nil, message, tonumber(C.IJ_EIO)
  end
  return true
end

-- ---- figures as text ------------------------------------------------------------------------------------------------

local function bytes_text(n)
  if n >= 2 ^ 30 then return ("%.1f GiB"):format(n / 2 ^ 30) end
  return ("%.0f MiB"):format(n / 2 ^ 20)
end

--- Seconds as people write them.
---@param s number
---@return string
function run.time_text(s)
  s = floor(s + .5)
  if s < 60 then return ("%d s"):format(s) end
  if s < 3600 then return ("%d:%02d"):format(s / 60, s % 60) end
  if s < 86400 then return ("%d:%02d:%02d"):format(s / 3600, s / 60 % 60, s % 60) end
  return ("%d d %02d:%02d"):format(s / 86400, s / 3600 % 24, s / 60 % 60)
end

-- Not-a-number has a sign in C's text and none here.
local function fixed(digits, v) return v ~= v and "nan" or ("%." .. digits .. "f"):format(v) end

local function rate_text(v) return (v < 10 and "%.1f" or "%.0f"):format(v) end

-- ---- the terminal ---------------------------------------------------------------------------------------------------

-- The bar's line: as much of the parts, most important first, as fits into the width beside a bar of 10 or more. Where
-- there is little room, or no share of the run is known, the parts get it all.
local function bar_line(width, share, parts)
  local line, limit = "", share and width >= 50 and width - 13 or width
  for i, part in ipairs(parts) do
    local longer = i == 1 and part or line .. "  " .. part
    if #longer > limit then break end
    line = longer
  end
  local room = min(40, width - #line - 3)
  if share and room >= 10 then
    local full = floor(room * max(0, min(1, share)))
    line = "[" .. ("#"):rep(full) .. ("-"):rep(room - full) .. "] " .. line
  end
  return line
end

function run:_draw(now)
  local v, parts, total = self._last, {}, self._total
  if not v then return end
  parts[1] = total and ("step %d/%d"):format(v.step, total) or ("step %d"):format(v.step)
  if total and self._seconds then parts[#parts + 1] = run.time_text((total - v.step) * self._seconds) .. " left" end
  parts[#parts + 1] = "loss " .. fixed(4, v.loss)
  if v.images and self._seconds then parts[#parts + 1] = rate_text(v.images / self._seconds) .. " images/s" end
  parts[#parts + 1] = bytes_text(v.memory)
  if v.epoch then parts[#parts + 1] = ("epoch %d"):format(v.epoch) end
  local line = bar_line((self._width or C.ij_terminal_width()) - 1, total and v.step / total, parts)
  self._stream:write("\r", line, "\27[K")
  self._shown, self._drawn = true, now
end

function run:_clear()
  if self._shown then self._stream:write "\r\27[K" end
  self._shown = false
end

--- Says something on a line of its own. Without further arguments the text is taken as it is.
---@param fmt string as string.format takes it
---@param ... any
function run:say(fmt, ...)
  if self._silent then return end
  local line = select("#", ...) > 0 and fmt:format(...) or fmt
  if self._rank > 0 then line = ("process %d: %s"):format(self._rank, line) end
  local shown = self._shown
  self:_clear()
  self._stream:write(line, "\n")
  if shown then self:_draw(C.ij_time()) end
end

-- The console line: means over the steps since the last one, and where the run is now.
function run:_console(v)
  local s, n = self._sum, self._sum.steps
  local parts = {
    v.epoch and ("epoch %d"):format(v.epoch) or false,
    self._total and ("step %d/%d"):format(v.step, self._total) or ("step %d"):format(v.step),
    "loss " .. fixed(4, s.loss / n),
    s.k > 0 and ("patches %.1f + %.1f"):format(s.k / n, s.t / n) or false,
    v.lr and ("lr %.3e"):format(v.lr) or false,
    v.wd and ("wd %.4f"):format(v.wd) or false,
    ("%.0f ms"):format(s.ms / n),
    s.images > 0 and s.seconds > 0 and rate_text(s.images / s.seconds) .. " images/s" or false,
    bytes_text(v.memory),
  }
  local g = v.grads
  if g then
    parts[#parts + 1] = ("qkv gradients: first %.2e, last %.2e, min %.2e, max %.2e"):format(g.first or 0 / 0,
      g.last or 0 / 0, g.min or 0 / 0, g.max or 0 / 0)
  end
  local shown = {}
  for i = 1, #parts do if parts[i] then shown[#shown + 1] = parts[i] end end
  self:_clear()
  self._stream:write(table.concat(shown, "  "), "\n")
end

local function no_sum() return { steps = 0, loss = 0, k = 0, t = 0, ms = 0, images = 0, seconds = 0 } end

---@class ijepa.log_values
---@field loss number
---@field epoch? integer from 1; both follow from the step where run.open was told ipe
---@field itr? integer step of the epoch, from 0
---@field k? number context patches of an image
---@field t? number patches of a target
---@field ms? number time of this step, milliseconds; else the time since the last log
---@field lr? number
---@field wd? number
---@field momentum? number of the target's moving average
---@field images? integer images of this step
---@field total? integer steps of the run
---@field memory? number bytes; else this process's peak
---@field grads? { first: number, last: number, min: number, max: number } norms of the encoder's qkv gradients

--- Logs a step: a row of the logs, a console line every 10 steps, the progress bar.
---@param step integer from 1
---@param values ijepa.log_values
---@return boolean? ok, string? message, integer? code where the log could not be written; the run may go on
function run:log(step, values)
  local ipe, loss = self._ipe, values.loss
  if type(step) ~= "number" then F.raise(("run:log: step is a %s, expected a number"):format(type(step))) end
  if type(loss) ~= "number" then F.raise(("run:log: loss is a %s, expected a number"):format(type(loss))) end
  local now = C.ij_time()
  -- what came between opening and the first step is not part of that
  local seconds = self._logged == 0 and values.ms and values.ms / 1e3 or now - self._time
  local epoch = values.epoch or ipe and floor((step - 1) / ipe) + 1
  local itr = values.itr or ipe and (step - 1) % ipe
  local k, t, ms = values.k or 0, values.t or 0, values.ms or 1e3 * seconds
  self._total = values.total or self._total
  self._time, self._logged, self.step = now, self._logged + 1, step

  local v = { step = step, epoch = epoch, itr = itr, loss = loss, k = k, t = t, ms = ms, lr = values.lr, wd = values.wd,
    momentum = values.momentum, images = values.images, grads = values.grads, memory = values.memory or tonumber(C.ij_rss_peak()),
    images_per_second = values.images and seconds > 0 and values.images / seconds or nil }
  local ok, message, code = self:_write("step", v)
  if not self._quiet then
    local s = self._sum
    s.steps, s.loss, s.k, s.t, s.ms = s.steps + 1, s.loss + loss, s.k + k, s.t + t, s.ms + ms
    s.images, s.seconds = s.images + (values.images or 0), s.seconds + seconds
    -- the first step also warms up, so it says little about the others
    self._seconds = self._logged > 2 and .9 * self._seconds + .1 * seconds or seconds
    self._last = v
    -- on a terminal the bar shows the run's pace: at most a line a second
    if (step % every == 0 or self._logged == 1) and (not self._terminal or now - self._line >= 1) then
      self:_console(v)
      self._sum, self._line = no_sum(), now
    end
    if self._terminal and (not self._shown or now - self._drawn >= .1) then self:_draw(now) end
  end
  return ok, message, code
end

--- Logs a diagnosis, for the writers that take them.
---@param d ijepa.diagnosis
---@return boolean? ok, string? message, integer? code
function run:diagnosis(d) return self:_write("diagnosis", d) end

--- Ends the bar and closes the log.
function run:close()
  if self._terminal and self._last and not self._closed then
    self:_draw(C.ij_time())
    self._stream:write "\n"
    self._shown = false
  end
  if not self._closed then
    for _, writer in ipairs(self._writers) do writer:close() end
  end
  self._closed = true
end

---@class ijepa.run_options
---@field resume? integer step after which the run goes on: later rows of the log are cut off; none: a new log
---@field tag? string "jepa"
---@field rank? integer 0; others say nothing but messages
---@field config? table the resolved settings
---@field logs? table<string, boolean> further logs: json, tensorboard
---@field quiet? boolean no console lines, no bar
---@field silent? boolean no logs and no messages either: of several processes the first one speaks
---@field total? integer steps of the run
---@field ipe? integer steps of an epoch
---@field stream? table for tests: what is written to instead of stderr
---@field terminal? boolean for tests: whether stream is a terminal
---@field width? integer for tests: its width

--- Opens a run's folder, which is made where it is missing, and its logs.
---@param out string
---@param options? ijepa.run_options
---@return table? run, string? message, integer? code
function run.open(out, options)
  if type(out) ~= "string" or out == "" then
    F.raise(("run.open: the folder is a %s, expected a string"):format(out == "" and "empty string" or type(out)))
  end
  local o = options or {}
  local rank, tag = o.rank or 0, o.tag or "jepa"
  local ok, message, code = F.try(C.ij_mkdirs(out))
  if ok and rank == 0 and o.config then
    local settings = "-- The settings of this run, with all defaults.\n" .. config.dump(o.config)
    ok, message, code = F.try(C.ij_file_replace(out .. "/config.lua", settings, #settings))
  end
  if not ok then return nil, message, code end
  local writers = {}
  if not o.silent then writers, message, code = open_writers(out, o.logs or {}, { tag = tag, rank = rank, resume = o.resume, ipe = o.ipe }) end
  if not writers then return nil, message, code end
  local terminal = o.terminal
  if terminal == nil then terminal = not o.stream and C.ij_isatty(2) ~= 0 and os.getenv "TERM" ~= "dumb" end
  local quiet = o.quiet or o.silent or rank > 0
  return setmetatable({
    out = out, step = o.resume or 0,
    _writers = writers, _rank = rank, _quiet = quiet, _silent = o.silent, _total = o.total, _ipe = o.ipe, _terminal = terminal and not quiet,
    _stream = o.stream or io.stderr, _width = o.width, _sum = no_sum(), _logged = 0, _line = -math.huge,
    _time = C.ij_time(), _drawn = 0, _shown = false,
  }, run)
end

return run

-- What a run prints, all on stderr: messages, a line every few steps (log.every), and on a terminal
-- a progress bar below.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local terminal = require "ijepa.base.terminal"
local C = F.C
local floor, max, min = math.floor, math.max, math.min

---@class ijepa.console
local Console = {}
Console.__index = Console

local LINE = 80          -- columns that a line of a step may take
-- on a terminal at least this long between two lines; the bar shows what lies between
local LINE_SECONDS = 1
local BAR_SECONDS = .1   -- between two drawings of the bar

-- ---- values as text -----------------------------------------------------------------------------

local function bytes_text(n)
  if n >= 2 ^ 30 then return ("%.1f GiB"):format(n / 2 ^ 30) end
  return ("%.0f MiB"):format(n / 2 ^ 20)
end

--- A duration: "12 s", "1:32", "2:03:04", "1 d 02:03".
---@param s number seconds
---@return string
function Console.time_text(s)
  s = floor(s + .5)
  if s < 60 then return ("%d s"):format(s) end
  if s < 3600 then return ("%d:%02d"):format(s / 60, s % 60) end
  if s < 86400 then return ("%d:%02d:%02d"):format(s / 3600, s / 60 % 60, s % 60) end
  return ("%d d %02d:%02d"):format(s / 86400, s / 3600 % 24, s / 60 % 60)
end

-- C prints a sign with NaN; nobody needs it.
local function loss_text(v) return "loss " .. (v ~= v and "nan" or ("%.4f"):format(v)) end
local function speed_text(v) return (v < 10 and "%.1f images/s" or "%.0f images/s"):format(v) end
local function step_text(step, total)
  return total and ("step %d/%d"):format(step, total) or ("step %d"):format(step)
end

-- ---- lines --------------------------------------------------------------------------------------

-- Means over the steps since the last line.
local function no_sum() return { steps = 0, loss = 0, images = 0, seconds = 0, values = {} } end

-- Time that is left after a step, or nil.
function Console:_left(v)
  local total = self._total
  return total and self._seconds and total > v.step
    and Console.time_text((total - v.step) * self._seconds) .. " left" or nil
end

-- The line of step v. Where it is too long, the objective's values, the last one first, the epoch,
-- which follows from the step, and then the throughput are left out.
function Console:_line(v)
  local s, line = self._sum
  local epoch, speed = v.epoch, s.images > 0 and s.seconds > 0
  local names = text.keys(s.values)
  local shown = #names
  repeat
    local parts = {}
    local function add(part) parts[#parts + 1] = part or nil end
    add(epoch and ("epoch %d"):format(epoch))
    add(step_text(v.step, self._total))
    add(loss_text(s.loss / s.steps))
    for i = 1, shown do add(("%s %.4g"):format(names[i], s.values[names[i]] / s.steps)) end
    add(v.lr and ("lr %.2e"):format(v.lr))
    add(speed and speed_text(s.images / s.seconds))
    add(self:_left(v))
    line = table.concat(parts, "  ")
    local shortest = shown == 0 and not epoch and not speed
    if shown > 0 then shown = shown - 1
    elseif epoch then epoch = nil else speed = false end
  until #line < LINE or shortest
  self:_clear()
  self._stream:write(line, "\n")
  self._sum = no_sum()
end

--- Takes a step: a line where one is due, and the bar.
---@param v ijepa.log_row
---@param seconds number since the step before
---@param total integer? steps of the run
---@param last boolean? the run's last step
function Console:step(v, seconds, total, last)
  if self._quiet then return end
  local now, s, first = C.ij_time(), self._sum, self._last == nil
  self._total = total or self._total
  s.steps, s.loss = s.steps + 1, s.loss + v.loss
  for name, value in pairs(v.values or {}) do s.values[name] = (s.values[name] or 0) + value end
  s.images, s.seconds = s.images + (v.images or 0), s.seconds + seconds
  -- a running mean; the first step also warms up, so it is forgotten
  self._seconds = self._count > 1 and .9 * self._seconds + .1 * seconds or seconds
  self._count, self._last = self._count + 1, v
  local due = (v.step % self._every == 0 or first)
    and (not self._terminal or now - self._time >= LINE_SECONDS)
  if due or last then
    self:_line(v)
    self._time = now
  end
  if self._terminal and not last and (not self._shown or now - self._drawn >= BAR_SECONDS) then
    self:_draw(now)
  end
end

-- Names of files may hold control characters. Ends of lines stay; colours do where there are any.
local function escaped(line, colours)
  if colours then line = line:gsub("\27(%[%d+m)", "\1%1") end
  return (line:gsub("[^\n\1]+", text.shown):gsub("\1", "\27"))
end

--- Prints a message on a line of its own; on a terminal a long one is wrapped.
---@param line string
function Console:say(line)
  if self._silent then return end
  line = escaped(line, self._colours)
  if self._rank > 0 then line = ("process %d: %s"):format(self._rank, line) end
  local shown = self._shown
  self:_clear()
  self._stream:write(self._terminal and terminal.wrap(line, max(self:_columns(), 20)) or line, "\n")
  if shown then self:_draw(C.ij_time()) end
end

--- s in the colour of a kind where the console has colours.
---@param kind string
---@param s string
---@return string
function Console:paint(kind, s) return terminal.paint(self._colours, kind, s) end

--- The last step gets its line where it has none; the bar goes.
function Console:finish()
  if self._quiet then return end
  if self._last and self._sum.steps > 0 then self:_line(self._last) end
  self:_clear()
end

-- ---- the bar ------------------------------------------------------------------------------------

function Console:_columns() return self._width or C.ij_terminal_width() end

-- The bar's line: as many of the parts, most important first, as fit beside a bar of 10 columns or
-- more. Where the terminal is narrow, or the fraction that is done is unknown, there is no bar.
local function bar_line(width, fraction, parts)
  local line, limit = "", fraction and width >= 50 and width - 13 or width
  for i, part in ipairs(parts) do
    local longer = i == 1 and part or line .. "  " .. part
    if #longer > limit then break end
    line = longer
  end
  local columns = min(40, width - #line - 3)
  if fraction and columns >= 10 then
    local full = floor(columns * max(0, min(1, fraction)))
    line = "[" .. ("#"):rep(full) .. ("-"):rep(columns - full) .. "] " .. line
  end
  return line
end

-- Three columns stay free: the "^C" that a terminal shows must not wrap the line.
function Console:_draw(now)
  local v, total = self._last, self._total
  if not v then return end
  local parts = { step_text(v.step, total) }
  parts[#parts + 1] = self:_left(v)
  parts[#parts + 1] = loss_text(v.loss)
  parts[#parts + 1] = v.images and self._seconds and self._seconds > 0
    and speed_text(v.images / self._seconds) or nil
  parts[#parts + 1] = bytes_text(v.memory)
  parts[#parts + 1] = v.epoch and ("epoch %d"):format(v.epoch) or nil
  self._stream:write("\r", bar_line(self:_columns() - 3, total and v.step / total, parts), "\27[K")
  self._shown, self._drawn = true, now
end

function Console:_clear()
  if self._shown then self._stream:write "\r\27[K" end
  self._shown = false
end

--- A console. o: as run.open takes it.
---@param o ijepa.run_options
---@return ijepa.console
function Console.new(o)
  local is_terminal, colours, rank = o.terminal, o.colours, o.rank or 0
  if is_terminal == nil then
    is_terminal = not o.stream and C.ij_isatty(2) ~= 0 and os.getenv "TERM" ~= "dumb"
  end
  if colours == nil then colours = not o.stream and terminal.has_colours(2) end
  local quiet = o.quiet or o.silent or rank > 0
  return setmetatable({ _stream = o.stream or io.stderr, _terminal = is_terminal and not quiet,
    _colours = colours, _width = o.width,
    _rank = rank, _quiet = quiet, _silent = o.silent, _every = o.every or 10, _total = o.total,
    _sum = no_sum(), _count = 0,
    _time = -math.huge, _drawn = 0, _shown = false }, Console)
end

return Console

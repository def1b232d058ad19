--- Learning rate, weight decay and EMA momentum as functions of the step. Steps count from 1; a
--- value applies to the update of
-- its step. With `reference = true` a schedule continues past its end as the published one does.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local cos, max, min, pi = math.cos, math.max, math.min, math.pi

-- with optim.minutes: the schedules' length, whose step is the fraction of the time that has passed
local CLOCK = 1e6
local schedule = {}

-- Checks the settings of a schedule: numbers under the names in `need`, nothing else but
-- `reference`.
local function check(name, settings, need)
  if type(settings) ~= "table" then
    F.raise(("schedule.%s: settings are a %s, expected a table"):format(name, type(settings)))
  end
  local known = { "reference" }
  for i = 1, #need do known[i + 1] = need[i] end
  for key in pairs(settings) do
    local found = false
    for i = 1, #known do found = found or known[i] == key end
    if not found then
      F.raise(("schedule.%s: unknown key '%s'%s"):format(name, tostring(key),
        text.hint(tostring(key), known)))
    end
  end
  for i = 1, #need do
    local v = settings[need[i]]
    if type(v) ~= "number" then
      F.raise(("schedule.%s: '%s' is a %s, expected a number"):format(name, need[i], type(v)))
    end
  end
  return settings
end

-- Half a cosine from `from` at p = 0 to `to` at p = 1, never past `to`; constant there, or rising
-- again when endless.
local function half_cosine(from, to, p, endless)
  if not endless then p = min(p, 1) end
  local v = to + (from - to) * .5 * (1 + cos(pi * p))
  if to <= from then return max(to, v) end
  return min(to, v)
end

---@class ijepa.lr_settings
---@field start number at step 0
---@field ref number at the end of the warm-up
---@field final number at `total`
---@field warmup number steps of linear growth, 0 or more
---@field total number steps of the run
---@field reference? boolean rises again past `total`

--- Learning rate: linear from `start` to `ref`, then half a cosine down to `final`, where it stays.
---@param settings ijepa.lr_settings
---@return fun(step: number): number
function schedule.lr(settings)
  local s = check("lr", settings, { "start", "ref", "final", "warmup", "total" })
  local start, ref, final, warmup, total = s.start, s.ref, s.final, s.warmup, s.total
  local endless, span = s.reference, max(1, total - warmup)
  return function(step)
    if step < warmup then return start + step / warmup * (ref - start) end
    return half_cosine(ref, final, (step - warmup) / span, endless)
  end
end

--- Weight decay: half a cosine from `ref` to `final`, where it stays.
---@param settings { ref: number, final: number, total: number, reference: boolean? }
---@return fun(step: number): number
function schedule.wd(settings)
  local s = check("wd", settings, { "ref", "final", "total" })
  local ref, final, total, endless = s.ref, s.final, max(1, s.total), s.reference
  return function(step) return half_cosine(ref, final, step / total, endless) end
end

--- Momentum of the EMA: a line that starts with `from` at step 1 and would reach `to` at step total
--- + 1.
---@param settings { from: number, to: number, total: number, reference: boolean? }
---@return fun(step: number): number
function schedule.ema(settings)
  local s = check("ema", settings, { "from", "to", "total" })
  local from, to, total = s.from, s.to, max(1, s.total)
  return function(step)
    local i = step - 1
    return i >= total and to or from + i * (to - from) / total
  end
end

--- The same value at every step.
---@param value number
---@return fun(step: number): number
function schedule.constant(value)
  if type(value) ~= "number" then
    F.raise(("schedule.constant: value is a %s, expected a number"):format(type(value)))
  end
  return function() return value end
end

--- A line from `from` at step 0 to `to` at step `total`, where it stays.
---@param settings { from: number, to: number, total: number }
---@return fun(step: number): number
function schedule.linear(settings)
  local s = check("linear", settings, { "from", "to", "total" })
  local from, to, total = s.from, s.to, max(1, s.total)
  return function(step) return step >= total and to or from + (to - from) * step / total end
end

--- Half a cosine from `from` at step 0 to `to` at step `total`, where it stays.
---@param settings { from: number, to: number, total: number, reference: boolean? }
---@return fun(step: number): number
function schedule.cosine(settings)
  local s = check("cosine", settings, { "from", "to", "total" })
  local from, to, total, endless = s.from, s.to, max(1, s.total), s.reference
  return function(step) return half_cosine(from, to, step / total, endless) end
end

--- The number of steps of the schedules, and of their warm-up.
---@param settings { epochs: number, warmup: number, ipe: integer, ipe_scale: number? } epochs,
--- warm-up in epochs, steps per epoch
---@return integer total, integer warmup
function schedule.steps(settings)
  local scale = type(settings) == "table" and settings.ipe_scale
  local s = settings
  if scale then
    s = {}
    for k, v in pairs(settings) do if k ~= "ipe_scale" then s[k] = v end end
    if type(scale) ~= "number" then
      F.raise(("schedule.steps: 'ipe_scale' is a %s, expected a number"):format(type(scale)))
    end
  end
  check("steps", s, { "epochs", "warmup", "ipe" })
  return math.floor((scale or 1) * s.epochs * s.ipe), math.floor(s.warmup * s.ipe)
end

-- Length of the schedules, of the warm-up, and the run's number of steps (endless for a run by the
-- clock).
local function length_of(cfg, ipe)
  local o = cfg.optim
  if o.minutes > 0 then
    if o.warmup > 1 then
      F.raise(("optim.warmup is %g, but with optim.minutes it is a fraction of the time, 0 to 1"):format(o.warmup), 0)
    end
    return CLOCK, math.floor(o.warmup * CLOCK), o.steps > 0 and o.steps or math.huge
  end
  local total, warmup = schedule.steps { epochs = o.epochs, warmup = o.warmup, ipe = ipe,
    ipe_scale = o.ipe_scale }
  local last = math.floor(o.epochs * ipe)
  return total, warmup, o.steps > 0 and math.min(last, o.steps) or last
end

---@class ijepa.schedule_info what a schedule of the user's own gets beside the step
---@field step integer of the run, from 1
---@field steps number of the whole run; math.huge where optim.minutes ends it
---@field epoch number complete and begun epochs before this step: 1.5 in the middle of the second
---@field images integer seen before this step, by all processes
---@field seconds number of training before this step

--- What a schedule of the user's own gets beside the step.
---@param cfg table
---@param n integer the run's step, from 1
---@param o { steps: number, ipe: integer, seconds: number, processes: integer } ipe: steps per
--- epoch
---@return ijepa.schedule_info
function schedule.info(cfg, n, o)
  return { step = n, steps = o.steps, epoch = (n - 1) / o.ipe, seconds = o.seconds,
    images = (n - 1) * cfg.data.batch * cfg.optim.accumulate * o.processes }
end

-- A schedule that is a function of the user's: of the run's step, checked.
local function of_user(key, f, low, high)
  return function(step, info)
    local n = info and info.step or step
    local v = f(n, info or { step = n })
    if type(v) ~= "number" or not (v >= low and v <= high) or v == math.huge then
      local at = debug.getinfo(f, "S")
      error(("%s: the function at %s:%d returned %s at step %d, expected a number%s"):format(key,
        at.short_src, at.linedefined, tostring(v), n, high < math.huge
        and (" from %g to %g"):format(low, high) or (" of %g or more"):format(low)), 0)
    end
    return v
  end
end

--- The schedules of a configuration whose epochs have ipe updates, as functions of the schedules'
--- step: with optim.minutes the fraction of the time that has passed times `total`, else the run's
--- step; and of schedule.info, for those that are functions of the user's.
---@param cfg table
---@param ipe integer
---@return { lr: function, wd: function, momentum: function, sgd_momentum: function?, total: number,
---last: number }
function schedule.of(cfg, ipe)
  local o, reference = cfg.optim, cfg.quirks == "reference"
  local total, warmup, last = length_of(cfg, ipe)
  local function own(key, low, high)
    local f = o[key]
    return type(f) == "function" and of_user("optim." .. key, f, low, high) or nil
  end
  return { total = total, last = last, sgd_momentum = own("momentum", 0, 1 - 2 ^ -53),
    lr = own("lr", 0, math.huge) or schedule.lr { start = o.start_lr, ref = o.lr,
      final = o.final_lr, warmup = warmup, total = total, reference = reference },
    wd = own("wd", 0, math.huge) or schedule.wd { ref = o.wd[1], final = o.wd[2], total = total,
      reference = reference },
    momentum = own("ema", 0, 1) or schedule.ema { from = o.ema[1], to = o.ema[2], total = total,
      reference = reference } }
end

--- The schedules' step at a run's step, after `seconds` of training.
---@param cfg table
---@param step integer
---@param seconds number
---@return number
function schedule.step_of(cfg, step, seconds)
  local minutes = cfg.optim.minutes
  return minutes > 0 and math.max(1, math.floor(CLOCK * seconds / (60 * minutes))) or step
end

return schedule

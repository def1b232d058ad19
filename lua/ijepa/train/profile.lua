--- Where the time of training steps goes: `ijepa profile RECIPE`. Steps of the recipe run as in
--- training, without log and checkpoints, while the device times its ops (core/tensor/profile.c).
--- The parts of a step are told apart by what they call: the images, the mask policy, the models,
--- backward, the optimizer.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local data = require "ijepa.data"
local device = require "ijepa.tensor.device"
local tensor = require "ijepa.tensor"
local processes = require "ijepa.train.processes"
local recipe = require "ijepa.train.recipe"
local trainer = require "ijepa.train.trainer"
local C = F.C

local profile = {}

local EVENTS = 2 ^ 18   -- of a trace, at most
local UPDATES = { update = true, trust = true }   -- ops of the optimizer, also within backward

-- ---- phases

-- The phases of one profile: names by number, from 0; what runs outside of all is "other".
local function phases_of(dev)
  local p = { names = { [0] = "other" }, numbers = { other = 0 }, strings = {}, current = 0 }
  local function string_of(n)   -- events keep the pointer
    p.strings[n] = p.strings[n] or F.new("char[?]", #p.names[n] + 1, p.names[n])
    return p.strings[n]
  end
  function p.enter(number)
    local before = p.current
    C.ij_profile_phase(dev, number, string_of(before))
    p.current = number
    return before
  end
  local function leave(before, ...)
    p.enter(before)
    return ...
  end
  -- f as a phase of its own; within a phase of the same name it is a part of that
  function p.of(name, f)
    local number = p.numbers[name]
    if not number then
      number = #p.names + 1
      if number >= C.IJ_PHASES then number = 0 end   -- more models than that: "other"
      p.numbers[name], p.names[number] = number, p.names[number] or name
    end
    return function(...) return leave(p.enter(number), f(...)) end
  end
  return p
end

-- Puts f(old) in place of owner[key] and notes how to undo that.
local function replace(undo, owner, key, f)
  local own = rawget(owner, key)
  rawset(owner, key, f(owner[key]))
  undo[#undo + 1] = function() rawset(owner, key, own) end
end

-- The calls of a model, and of its method blocks, as a phase.
local function model_phase(undo, p, name, model)
  local class, copy = getmetatable(model), {}
  for k, v in pairs(class) do copy[k] = v end
  copy.__call = p.of(name, class.__call)
  setmetatable(model, copy)
  undo[#undo + 1] = function() setmetatable(model, class) end
  if model.blocks then replace(undo, model, "blocks", function(f) return p.of(name, f) end) end
end

local function mark_phases(t, p)
  local undo = {}
  local function phase(name) return function(f) return p.of(name, f) end end
  replace(undo, t.images, "next", phase "loader")
  replace(undo, data, "tensors", phase "loader")
  if t.policy then replace(undo, t.policy, "sample_raw", phase "masks") end
  local target = t.target ~= t.encoder and t.target
  model_phase(undo, p, target and "context encoder" or "encoder", t.encoder)
  if target then model_phase(undo, p, "target encoder", target) end
  if t.predictor then model_phase(undo, p, "predictor", t.predictor) end
  for _, m in ipairs(t.whole.modules) do
    if getmetatable(m.model) and getmetatable(m.model).__call then
      model_phase(undo, p, m.name, m.model)
    end
  end
  replace(undo, tensor.methods, "backward", phase "backward")
  replace(undo, t.opt, "step", phase "update")
  return function() for i = #undo, 1, -1 do undo[i]() end end
end

-- ---- measuring

---@class ijepa.profile
---@field steps integer
---@field seconds number a step
---@field images integer a step
---@field device ijepa.device_info
---@field phases { name: string, seconds: number, ops: number }[] of the host, and of the ops in
--- it, a step
---@field ops { name: string, calls: number, seconds: number, flops: number }[] a step, the longest
--- first
---@field events table[] name, phase, start, seconds; for a trace

local function read(dev, p, steps)
  local n = tonumber(C.ij_profile_entries(dev, nil, 0))
  local entries = F.new("ij_profile_entry[?]", math.max(n, 1))
  C.ij_profile_entries(dev, entries, n)
  local phases, ops, by_name = {}, {}, {}
  for i = 0, #p.names do
    phases[i] = { name = p.names[i], seconds = C.ij_profile_seconds(dev, i) / steps, ops = 0 }
  end
  local update = phases[p.numbers.update]
  for i = 0, n - 1 do
    local e = entries[i]
    local name, seconds = F.string(e.name), e.seconds / steps
    local op = by_name[name] or { name = name, calls = 0, seconds = 0, flops = 0 }
    if not by_name[name] then by_name[name], ops[#ops + 1] = op, op end
    op.calls = op.calls + tonumber(e.calls) / steps
    op.seconds, op.flops = op.seconds + seconds, op.flops + e.flops / steps
    local phase = phases[e.phase]
    if UPDATES[name] and phase ~= update then   -- a parameter is updated once its gradient is there
      if not device.info().ahead then
        phase.seconds, update.seconds = phase.seconds - seconds, update.seconds + seconds
      end
      phase = update
    end
    phase.ops = phase.ops + seconds
  end
  table.sort(ops, function(a, b)
    if a.seconds ~= b.seconds then return a.seconds > b.seconds end
    return a.name < b.name
  end)
  local list = {}
  for i = 1, #p.names do list[i] = phases[i] end
  list[#list + 1] = phases[0]
  return list, ops
end

local function events_of(dev, p)
  local out = F.new "const ij_profile_event *[1]"
  local n, list = tonumber(C.ij_profile_events(dev, out)), {}
  for i = 0, n - 1 do
    local e = out[0][i]
    local number = e.phase < 0 and -1 - e.phase or e.phase
    list[i + 1] = { name = F.string(e.name), phase = p.names[number], is_phase = e.phase < 0,
      start = e.start, seconds = e.seconds }
  end
  return list
end

--- Times steps of a configuration; nothing is written.
---@param cfg table as ijepa.config gives it
---@param o { steps: integer, before: integer, trace: boolean? } before: steps that are not timed
---@return ijepa.profile
function profile.measure(cfg, o)
  local dist = processes.open(cfg)
  if dist.size > 1 then error("profile: expected one process", 0) end
  cfg.optim.steps, cfg.optim.minutes = 0, 0
  local t = trainer.new(cfg, {}, dist)
  for _ = 1, o.before do t:update() end
  device.wait()
  local dev = device.get()
  F.check(C.ij_profile_begin(dev, o.trace and EVENTS or 0))
  local p = phases_of(dev)
  local restore = mark_phases(t, p)
  local wait = p.of("waiting", function()
    device.wait()
    F.check(C.ij_profile_settle(dev))
  end)
  local started = C.ij_time()
  local ok, why = pcall(function()
    p.enter(0)
    for _ = 1, o.steps do
      t:update()
      if t.ahead then wait() end
    end
    p.enter(0)
  end)
  local seconds = C.ij_time() - started
  restore()
  local phases, ops = read(dev, p, o.steps)
  local events = o.trace and events_of(dev, p)
  C.ij_profile_end(dev)
  if not ok then error(why, 0) end
  return { steps = o.steps, seconds = seconds / o.steps, phases = phases, ops = ops,
    events = events, device = device.info(), ahead = t.ahead,
    images = cfg.data.batch * cfg.optim.accumulate }
end

-- ---- what it prints

--- The tables.
---@param r ijepa.profile
---@return string
function profile.report(r)
  local d, lines = r.device, {}
  local function add(fmt, ...) lines[#lines + 1] = fmt:format(...) end
  add("%s (%s), %s%s: %.2f ms a step, %.1f images/s", d.name, d.arch,
    r.ahead and "" or text.count(C.ij_threads_get(), "thread") .. ", ", text.count(r.steps, "step"),
    1000 * r.seconds, r.images / r.seconds)
  if r.ahead then add "The ops are timed on the device, which works behind the host." end
  add("%-18s %10s %8s %10s", "phase", r.ahead and "host, ms" or "ms", "share", "in ops, ms")
  local in_ops = 0
  for _, phase in ipairs(r.phases) do
    in_ops = in_ops + phase.ops
    if phase.seconds + phase.ops > 0 then
      add("%-18s %10.2f %6.1f %% %10.2f", phase.name, 1000 * phase.seconds,
        100 * phase.seconds / r.seconds, 1000 * phase.ops)
    end
  end
  add("%-18s %10.2f %6.1f %% %10.2f", "a step", 1000 * r.seconds, 100, 1000 * in_ops)
  add("\n%-18s %10s %10s %8s %10s", "op", "calls", "ms", "share", "GFLOP/s")
  for _, op in ipairs(r.ops) do
    add("%-18s %10.1f %10.2f %6.1f %% %10s", op.name, op.calls, 1000 * op.seconds,
      100 * op.seconds / r.seconds,
      op.flops > 0 and ("%.0f"):format(op.flops / op.seconds / 1e9) or "")
  end
  add("%-18s %10s %10.2f %6.1f %%", "outside of ops", "", 1000 * (r.seconds - in_ops),
    100 * (r.seconds - in_ops) / r.seconds)
  return table.concat(lines, "\n")
end

--- The events as a file for a browser's trace viewer (chrome://tracing, Perfetto).
---@param r ijepa.profile
---@return string JSON
function profile.trace(r)
  local list = {}
  for i, e in ipairs(r.events) do
    list[i] = ('{"name":"%s","cat":"%s","ph":"X","pid":1,"tid":%d,"ts":%.3f,"dur":%.3f}'):format(
      e.name, e.phase, e.is_phase and 1 or 2, 1e6 * e.start, 1e6 * e.seconds)
  end
  for tid, name in ipairs { "phases", "ops" } do
    list[#list + 1] = ('{"name":"thread_name","ph":"M","pid":1,"tid":%d,"args":{"name":"%s"}}')
      :format(tid, name)
  end
  return '{"traceEvents":[\n' .. table.concat(list, ",\n") .. "\n]}\n"
end

--- ijepa profile RECIPE [key=value ...] [steps=N] [trace=FILE]. False and why: misused.
---@param words string[]
---@return boolean? ok, string? wrong
function profile.main(words)
  local steps, trace, rest = 20, nil, {}
  for i = 2, #words do
    local key, value = words[i]:match "^(%w+)=(.*)$"
    if key == "steps" then
      steps = tonumber(value)
      if not steps or steps < 1 or steps % 1 ~= 0 or steps > 1e6 then
        return nil, ("'%s': expected a number of steps"):format(words[i])
      end
    elseif key == "trace" then
      if value == "" then return nil, "'trace=': expected the name of a file" end
      trace = value
    else
      rest[#rest + 1] = words[i]
    end
  end
  if not words[1] then return nil, "which recipe?" end
  local cfg = recipe(words[1], rest)
  local r = profile.measure(cfg, { steps = steps, before = 3, trace = trace ~= nil })
  print(profile.report(r))
  if trace then
    local events = profile.trace(r)
    local ok, message = F.try(C.ij_file_replace(trace, events, #events))
    if not ok then error(message, 0) end
    print(("trace: %s (open it in chrome://tracing or ui.perfetto.dev)"):format(text.shown(trace)))
  end
  return true
end

return profile

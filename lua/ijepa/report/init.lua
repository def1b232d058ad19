-- `ijepa report RUN`: one HTML file that holds all there is to see of a run. Each section is a
-- function of what `gather` found; it returns HTML, or nil and a sentence that explains why nothing
-- can be shown. The parts: page.lua (HTML and style), svg.lua (charts), features.lua (figures of
-- the model's features).
-- Uses: base, config, draw, data, mask, optim, model, run, save, probe, train, plot.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local config = require "ijepa.config"
local checkpoint = require "ijepa.save.checkpoint"
local data = require "ijepa.data"
local diagnose = require "ijepa.train.diagnose"
local jepa = require "ijepa.model"
local mask = require "ijepa.mask"
local plot = require "ijepa.plot"
local probe = require "ijepa.probe"
local schedule = require "ijepa.optim.schedule"
local state = require "ijepa.save.state"
local Run = require "ijepa.run"
local page = require "ijepa.report.page"
local svg = require "ijepa.report.svg"
local text = require "ijepa.base.text"
local C = F.C

local function need_settings(r)
  if not r.cfg then return nil, "The settings are missing: " .. r.cfg_message .. "." end
  return true
end

-- Calls f; an error becomes nil and its message, but for one that ends the program.
local function attempt(f, ...)
  local function answer(ok, ...)
    if ok then return ... end
    local e = ...
    if type(e) == "table" then error(e, 0) end
    return nil, (tostring(e):gsub("^%S+:%d+: ", "", 1))
  end
  return answer(pcall(f, ...))
end

-- ---- what there is ------------------------------------------------------------------------------

-- Steps of an epoch: as the checkpoint has it, as the log shows it once the first one is over, else
-- as the data say it.
local function steps_of_epoch(r)
  if tonumber(r.meta.ipe) then return tonumber(r.meta.ipe) end
  local most = nil
  for i, epoch in ipairs(r.log and r.log.epoch or {}) do
    if epoch < r.log.epoch[#r.log.epoch] then most = math.max(most or 0, r.log.itr[i] + 1) end
  end
  if most then return most end
  return (attempt(function()
    local d = r.cfg.data
    local images = assert(data.open { train = true, root = d.root, subset = d.subset,
      batch = d.batch, crop = d.crop, workers = 0 })
    local steps = math.floor(images:epoch_steps() / r.cfg.optim.accumulate)
    images:close()
    return steps > 0 and steps or nil
  end))
end

-- The run's step: that of the last row of the log, which after a rollback has more rows than steps.
local function current_step(r)
  local log, ipe = r.log, r.ipe
  local n = log and #log.loss or 0
  if n > 0 and ipe then return (log.epoch[n] - 1) * ipe + log.itr[n] + 1 end
  return tonumber(r.meta.step) or n
end

---@class ijepa.report_facts
---@field out string the folder
---@field cfg table? settings
---@field log table? as run.read_log gives it
---@field diagnoses ijepa.diagnosis[]
---@field checkpoint string? path of the newest
---@field meta table of the checkpoint: step, seconds, ijepa
---@field model table? as ijepa.model gives it
---@field policy ijepa.mask_policy?
---@field images ijepa.tensor? u8 (B, H, W, 3)
---@field schedules table? as schedule.of gives it
local function gather(out)
  local r = { out = out, meta = {}, diagnoses = {} }
  r.cfg, r.cfg_message = Run.settings(out)
  local tag = r.cfg and type(r.cfg.tag) == "string" and r.cfg.tag or checkpoint.tag(out)
  r.log, r.log_message = Run.read_log(out, tag)
  if r.log and #r.log.loss == 0 then r.log, r.log_message = nil, "the log holds no step yet" end
  r.diagnoses = attempt(diagnose.read, ("%s/%s-diagnoses.csv"):format(out, tag)) or {}
  r.checkpoint = attempt(checkpoint.latest, out, tag)
  local file = r.checkpoint and checkpoint.load(r.checkpoint)
  if file then
    for _, key in ipairs { "step", "seconds", "ijepa", "lr_scale", "wd_scale", "ipe" } do
      r.meta[key] = file:meta(key)
    end
    file:close()
    r.model, r.model_message = attempt(state.model, out)
  end
  r.model_message = r.model_message or "there is no checkpoint yet"
  if not r.cfg then return r end
  r.policy, r.policy_message = attempt(function()
    if r.model then return r.model.policy end
    local crop, patch = r.cfg.data.crop, r.cfg.model.patch
    crop = type(crop) == "table" and crop or { crop, crop }
    return jepa.policy(r.cfg, { math.floor(crop[1] / patch), math.floor(crop[2] / patch) })
  end)
  r.images, r.images_message = attempt(function()
    local crop, patch = r.cfg.data.crop, r.cfg.model.patch
    crop = type(crop) == "table" and crop or { crop, crop }
    return plot.batch(r.cfg.data.root,
      { grid = { math.floor(crop[1] / patch), math.floor(crop[2] / patch) }, patch = patch,
        settings = r.cfg }, { count = 64, resize = crop[1] == crop[2] and crop[1] or nil })
  end)
  r.ipe = steps_of_epoch(r)
  r.schedules = attempt(function()
    return (r.ipe or r.cfg.optim.minutes > 0) and schedule.of(r.cfg, r.ipe or 1) or nil
  end)
  return r
end

-- Seconds of training at each logged step.
local function clock(r)
  local list, sum = {}, 0
  for i, ms in ipairs(r.log.ms) do
    sum = sum + (ms == ms and ms or 0) / 1000
    list[i] = sum
  end
  return list
end

-- ---- sections -----------------------------------------------------------------------------------

local LEVELS = { start = "before training", ok = "healthy", watch = "watch", collapse = "collapse" }
local function level_of(d) return d.level ~= "start" and LEVELS[d.level] and d.level or "note" end
local function sentence(d) return (d.text or "no words"):gsub("^%l", string.upper) .. "." end

-- Mean of the last 5 % of the steps' finite losses, or nil.
local function last_loss(losses)
  local n, sum, count = #losses, 0, 0
  for i = math.max(1, n - math.floor(n / 20)), n do
    if losses[i] == losses[i] then sum, count = sum + losses[i], count + 1 end
  end
  return count > 0 and sum / count or nil
end

local function median(values)
  local sorted = {}
  for i, v in ipairs(values) do sorted[i] = v == v and v or 0 end
  table.sort(sorted)
  return sorted[math.ceil(#sorted / 2)]
end

-- The newest diagnosis as a box.
local function verdict_box(d)
  if not d then
    return '<div class="verdict note"><p>This run holds no diagnosis (setting diagnose.every).</p></div>\n'
  end
  local words = sentence(d)
  if d.level == "start" then
    words = words .. " The first check is made before the first step; it does not judge the training."
  end
  return ('<div class="verdict %s"><span class="level">%s</span> <span class="soft">%s</span><p>%s</p></div>\n'):format(
    level_of(d), LEVELS[d.level] or "unknown", d.level == "start" and "" or "at step "
      .. page.number(d.step),
    page.escape(words))
end

-- The newest diagnosis, and the main values of the run.
local function lead(r)
  local parts, facts = { verdict_box(r.diagnoses[#r.diagnoses]) }, {}
  if r.log then
    local n, loss = #r.log.loss, last_loss(r.log.loss)
    facts[1] = { "steps", page.number(current_step(r)) }
    facts[2] = { "loss, last 5 % of steps", loss and page.number(loss) or "not finite" }
    facts[3] = { "training time", Run.time_text(r.meta.seconds or clock(r)[n]) }
    facts[4] = { "median step", page.number(median(r.log.ms)) .. " ms" }
    attempt(function()
      facts[5] = { "images seen", page.number(n * r.cfg.data.batch * r.cfg.optim.accumulate) }
    end)
  end
  if r.model then
    facts[#facts + 1] = { "encoder parameters", page.number(r.model.target:size()) }
  end
  if #facts > 0 then parts[2] = page.facts(facts) end
  return table.concat(parts)
end

local function chart(title, note, series, o)
  o.label, o.x = title .. (note and ". " .. note or ""), o.x or "step"
  local drawing, keys = svg.chart(series, o), {}
  if not drawing then return "" end
  for i, s in ipairs(series) do keys[i] = s.name end
  return page.figure(title, { note = note, keys = keys, html = drawing })
end

-- Learning rate, weight decay and EMA momentum along the run: by the clock as far as it went, by
-- epochs to the end.
local function schedule_charts(r)
  local s = r.schedules
  if not s then
    return nil, "The schedules are not shown: the steps of an epoch are known after the first epoch."
  end
  local now = current_step(r)
  local marks, x, lr, wd, ema = nil, {}, {}, {}, {}
  local by_clock, seconds = r.cfg.optim.minutes > 0, r.log and clock(r)
  local last = by_clock and now or s.last
  if not (last > 0) then return {} end
  if not by_clock and now < last then marks = { { x = now, name = "now" } } end
  for i = 0, 120 do
    local step = math.max(1, math.floor(last * i / 120 + .5))
    local at = schedule.step_of(r.cfg, step, seconds and seconds[step] or 0)
    x[i + 1], lr[i + 1], wd[i + 1], ema[i + 1] = step, s.lr(at), s.wd(at), s.momentum(at)
  end
  local scale = r.meta.lr_scale and r.meta.lr_scale ~= 1 and
    ("; a hook has multiplied it by %s"):format(page.number(r.meta.lr_scale)) or ""
  local function one(title, note, y)
    return chart(title, note, { { x = x, y = y } }, { marks = marks })
  end
  return { one("learning rate", "from the settings" .. scale, lr),
    one("weight decay", "from the settings", wd),
    one("EMA momentum", "of the target encoder, from the settings", ema) }
end

-- A line of means; behind it each step or, where there are too many, the range of neighbours.
local function smoothed(title, unit, values, count)
  local n = #values
  local mean, fine = svg.buckets(values, count), svg.buckets(values, 240)
  local behind = n > 240 and { x = fine.x, low = fine.low, high = fine.high } or {
    x = fine.x, y = fine.mean }
  local width = math.ceil(n / count)
  local note = width == 1 and unit or ("%s; line: mean of %s, pale: %s"):format(unit,
    text.count(width, "step"),
    n > 240 and "the range" or "each step")
  return chart(title, note, { { x = mean.x, y = mean.mean, behind = behind } }, {})
end

-- A sentence on a loss that rises while the rank grows, or nil: the loss's lowest bucket against
-- the last.
local function on_rising_loss(r)
  local b, best = svg.buckets(r.log.loss, 40), nil
  for i, v in ipairs(b.mean) do best = v and (not best or v < b.mean[best]) and i or best end
  local last = best and b.mean[#b.mean]
  local newest, before = r.diagnoses[#r.diagnoses], nil
  if not last or last < 1.15 * b.mean[best] or not newest then return nil end
  for _, d in ipairs(r.diagnoses) do
    if d.step <= math.max(b.x[best], r.diagnoses[1].step) then before = d end
  end
  if not (before and before.rankme and newest.rankme and newest.rankme > before.rankme) then
    return nil
  end
  return ("The loss rises from %s near step %s to %s, while the effective rank grows from %s to %s. This is no sign of "
    .. "collapse: richer target features are harder to predict."):format(page.number(b.mean[best]),
    page.number(math.floor(b.x[best])), page.number(last), page.number(before.rankme),
      page.number(newest.rankme))
end

local function curves(r)
  if not r.log then return nil, "There are no curves: " .. r.log_message .. "." end
  local n, broken, parts = #r.log.loss, 0, {}
  for _, v in ipairs(r.log.loss) do
    if v ~= v or math.abs(v) == math.huge then broken = broken + 1 end
  end
  if broken > 0 then
    parts[1] = page.p(("At %s of %s the loss is not finite; the curve leaves them out."):format(
      page.number(broken),
      text.count(n, "step")))
  end
  if r.log_message then
    parts[#parts + 1] = page.p(r.log_message:gsub("^%l", string.upper) .. ".")
  end
  local rising = attempt(on_rising_loss, r)
  if rising then parts[#parts + 1] = page.p(rising) end
  local k, t = svg.buckets(r.log.k, 60), svg.buckets(r.log.t, 60)
  local boxes = { smoothed("loss", "smooth L1", r.log.loss, 40),
    chart("patches", "per image", { { name = "context", x = k.x, y = k.mean },
      { name = "one target", x = t.x, y = t.mean } }, {}),
    smoothed("time per step", "milliseconds", r.log.ms, 40) }
  local more, why = attempt(schedule_charts, r)
  for _, box in ipairs(more or {}) do boxes[#boxes + 1] = box end
  parts[#parts + 1] = page.boxes(boxes)
  if not more and why and r.cfg then parts[#parts + 1] = page.p(why, "soft") end
  return table.concat(parts)
end

-- The charts of the diagnoses.
local function verdict_charts(list)
  local newest = list[#list]
  local function line(field, name)
    local x, y = {}, {}
    for i, d in ipairs(list) do x[i], y[i] = d.step, d[field] or 0 / 0 end
    return { x = x, y = y, name = name }
  end
  local boxes = {
    chart("effective rank", newest.max_rank and ("of %d possible"):format(newest.max_rank) or nil,
      { line("rankme", "RankMe"), line("lidar", "LiDAR") }, { zero = true }),
    chart("cosine distance", "mean over pairs of crops; 0: all alike, near 1: unrelated",
      { line("cosine_distance") }, { zero = true }),
    chart("position", "fraction of the patch features' variance that the patch's position explains, unbiased; 0: none",
      { line("position") }, { zero = true }),
    chart("predictor", "smooth L1 on the same images",
      { line("loss", "predictor"), line("mean_loss", "the mean feature") }, {}),
    chart("distance", "of encoder and target encoder, relative", { line("ema_distance") },
      { zero = true }) }
  boxes[6] = newest.probe and chart("online probe", "top-1, %", { line("probe") },
    { zero = true }) or
    page.note("how to read these",
      "A collapse shows as a falling effective rank, a cosine distance near 0, or a "
      .. "position fraction near 1. The predictor should stay below the mean feature: the loss of predicting the "
      .. "same features for all patches. The first check is made before training.")
  return page.boxes(boxes)
end

local function verdicts(r)
  local list, rows, shown = r.diagnoses, {}, 60
  if #list == 0 then
    return nil, "There is nothing to show: no diagnosis was made (setting diagnose.every, in steps; 0: never)."
  end
  for i = #list, math.max(1, #list - shown + 1), -1 do
    local v = list[i]
    rows[#rows + 1] = { page.number(v.step),
      { html = ('<span class="%s"><span class="level">%s</span></span>'):format(
      level_of(v), LEVELS[v.level] or "unknown") }, sentence(v) }
  end
  return verdict_charts(list) .. "<h3>In words</h3>\n" ..
    page.table({ "step", "diagnosis", "reasons" }, rows, { "number", "name", "wide" }) ..
    (#list > shown and page.p(("The newest %d of %d diagnoses."):format(shown, #list), "soft")
      or "")
end

local function masks(r)
  local ok, why = need_settings(r)
  if not ok then return nil, why end
  if not r.policy then
    return nil, "The masks can't be drawn: " .. tostring(r.policy_message) .. "."
  end
  local parts = { '<div class="images">' }
  local c, message = attempt(plot.masks, r.model or r.policy,
    { images = r.images, draws = 3, side = 192, title = false })
  parts[2] = c and page.image("masks of this run's policy", r.images and
    "the images, the context that the encoder sees, and the targets that the predictor predicts" or
    "on a plain board, without images: " .. tostring(r.images_message), c)
  if not c then parts[2] = page.p("The masks can't be drawn: " .. tostring(message) .. ".") end
  local findings = attempt(mask.lint, r.cfg,
    { images = r.images, target = r.model and r.model.target })
  if findings and #findings > 0 then
    parts[#parts + 1] = "<div><h3>Findings of the mask linter</h3>\n<ul>"
    for _, f in ipairs(findings) do
      parts[#parts + 1] = ('<li class="%s"><span class="level">%s</span> %s%s%s</li>'):format(
        f.level, f.level, page.escape(f.what),
        f.why and '<br><span class="soft">' .. page.escape(f.why) .. "</span>" or "",
          f.advice and "<br>" .. page.escape(f.advice) or "")
    end
    parts[#parts + 1] = "</ul></div>\n"
  end
  parts[#parts + 1] = "</div>\n"
  return table.concat(parts)
end

local function probes(r)
  local list, rows = probe.recorded(r.out), {}
  if #list == 0 then
    return nil, "No probe of this run has been recorded. recipes/probe_linear.lua run=" .. r.out
      .. " ... records one."
  end
  for i = math.max(1, #list - 99), #list do   -- as they were made: a row may refer to the one above
    local e = list[i]
    local low, high = e.interval and e.interval[1], e.interval and e.interval[2]
    local range = type(low) == "number" and type(high) == "number" and ("%.1f to %.1f %%"):format(
      low, high) or
      type(e.deviation) == "number" and ("deviation %.1f"):format(e.deviation) or ""
    rows[#rows + 1] = { e.name, ("%.1f %%"):format(e.top1), range,
      type(e.top5) == "number" and ("%.1f %%"):format(e.top5) or "",
      type(e.count) == "number" and page.number(e.count) or "",
        type(e.step) == "number" and page.number(e.step) or "",
      type(e.time) == "number" and os.date("%Y-%m-%d %H:%M", e.time) or "",
        type(e.test) == "string" and e.test or "" }
  end
  return page.p "Accuracy on held-out images, the newest probe last." ..
    page.table({ "probe", "top-1", "95 % interval", "top-5", "images", "step", "when",
      "tested on" }, rows,
    { "wide", "number", "name", "number", "number", "number", "name", "name" })
end

local function value_text(v)
  if v == nil then return "none" end
  if type(v) == "number" then return ("%.10g"):format(v) end
  if type(v) ~= "table" then return v == "" and '""' or tostring(v) end
  local parts = {}
  for i, one in ipairs(v) do parts[i] = value_text(one) end
  for _, key in ipairs(text.keys(v)) do parts[#parts + 1] = key .. " = " .. value_text(v[key]) end
  return table.concat(parts, ", ")
end

-- Every value of settings by its dotted key; a list, and what the schema calls a setting, is one
-- value.
local function flat(node, prefix, into)
  for _, name in ipairs(text.keys(node)) do
    local key, v = prefix .. name, node[name]
    if type(v) == "table" and #v == 0 and next(v) and not config.describe(key) then
      flat(v, key .. ".", into)
    else into[key] = v end
  end
  return into
end

local function settings(r)
  local ok, why = need_settings(r)
  if not ok then return nil, why end
  local values, changed, rest = flat(r.cfg, "", {}), {}, {}
  local function add(key, ours, default, doc)
    changed[#changed + 1] = { { html = "<b>" .. page.escape(key) .. "</b>" },
      { html = "<mark>" .. page.escape(ours) .. "</mark>" }, default, doc }
  end
  for _, key in ipairs(config.keys()) do
    local d, ours = config.describe(key), value_text(values[key])
    values[key] = nil
    if ours == value_text(d.default) then
      rest[#rest + 1] = { key, ours, d.doc }
    else
      add(key, ours, value_text(d.default), d.doc)
    end
  end
  for _, key in ipairs(text.keys(values)) do
    add(key, value_text(values[key]), "", "not known to this version")
  end
  return page.p(("%s from the default; the other %d are below."):format(
    text.count(#changed, "setting differs", "settings differ"), #rest)) ..
    page.table({ "setting", "value", "default", "meaning" }, changed,
      { "name", "wide", "name", "wide" }) ..
    "<details><summary>the others, as by default</summary>\n" ..
    page.table({ "setting", "value", "meaning" }, rest, { "name", "name", "wide" })
      .. "</details>\n"
end

local function provenance(r)
  local rows = { { "run", r.out } }
  local function add(name, v) rows[#rows + 1] = v ~= nil and { name, v } or nil end
  add("checkpoint", r.checkpoint or "none yet")
  add("its step", tonumber(r.meta.step) and page.number(tonumber(r.meta.step)))
  add("its training time", tonumber(r.meta.seconds) and Run.time_text(r.meta.seconds))
  add("saved by", type(r.meta.ijepa) == "string" and "ijepa " .. r.meta.ijepa or nil)
  local done = r.log and #r.log.loss
  -- after a rollback more than the run's steps
  add("steps in the log", done and page.number(done))
  done = current_step(r)
  local over = attempt(function()
    local minutes = r.cfg.optim.minutes
    if minutes > 0 then
      return r.meta.seconds and (r.meta.seconds >= 60 * minutes and "over" or "not over")
    end
    return r.schedules and done
      and (done >= r.schedules.last and "over"
      or ("not over: %s steps planned"):format(page.number(r.schedules.last)))
  end)
  add("the run is", over or nil)
  attempt(function() add("images seen",
    done and page.number(done * r.cfg.data.batch * r.cfg.optim.accumulate)) end)
  attempt(function() add("trained on", tostring(r.cfg.data.root)) end)
  add("this report", ("ijepa %s, %s, matmul %s, %s"):format(ijepa.version, F.string(C.ij_cpu_isa()),
    F.string(C.ij_cpu_matmul()),
    os.date "%Y-%m-%d %H:%M"))
  return page.table({ "what", "value" }, rows, { "name", "wide" })
end

local SECTIONS = {
  { "Curves", curves }, { "Has it collapsed?", verdicts }, { "Masks", masks },
  { "Features", function(r) return require "ijepa.report.features".features(r) end },
  { "Predictions", function(r) return require "ijepa.report.features".predictions(r) end },
  { "Probes", probes }, { "Settings", settings }, { "Provenance", provenance },
}

-- ---- the report ---------------------------------------------------------------------------------

local function stop_if_interrupted()
  if C.ij_interrupted() ~= 0 then ijepa.exit(130) end
end

--- Writes all results of a run into one HTML file without external parts. A sentence replaces what
--- is missing.
---@param run string|table a run's folder, or what ijepa.pretrain or ijepa.model gave
---@param o { file: string? }? file: default RUN/report.html
---@return string? path, string? message, integer? code
return function(run, o)
  local out = type(run) == "table" and run.out or run
  if type(out) ~= "string" or out == "" then
    F.raise(("report: expected a run's folder, not a %s"):format(type(run)))
  end
  out = #out > 1 and out:gsub("/+$", "") or out
  if C.ij_path_kind(out) ~= 2 then
    return nil, ("report: '%s' is no folder of a run: give the folder that out= named, such as runs/quickstart")
      :format(out), tonumber(C.IJ_EIO)
  end
  local r = gather(out)
  if not (r.cfg or r.log or r.checkpoint or #r.diagnoses > 0) then
    return nil, ("report: folder '%s' holds no run: no config.lua, no log, no checkpoint"):format(
      out), tonumber(C.IJ_EFORMAT)
  end
  local parts = {}
  for i, s in ipairs(SECTIONS) do
    stop_if_interrupted()
    local html, why = attempt(s[2], r)
    parts[i] = { title = s[1], html = html or page.p("Left out: " .. tostring(why), "soft") }
  end
  stop_if_interrupted()
  local html = page.complete { title = "Run " .. (out:match "[^/]+$" or out),
    lead = attempt(lead, r) or "", sections = parts,
    foot = ("Written by ijepa %s on %s. It needs no other file."):format(ijepa.version,
      os.date "%Y-%m-%d") }
  local path = o and o.file or out .. "/report.html"
  local ok, message, code = F.try(C.ij_file_replace(path, html, #html))
  if not ok then return nil, message, code end
  return path
end

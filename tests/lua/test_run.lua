-- lua/ijepa/run/init.lua: the folder, the log and its cut at a resume, console lines, the bar.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local run = require "ijepa.run"
local support = require "support"

local tests = {}
TestRun = tests -- luacheck: ignore

local slurp, spit = support.read, support.write

-- A stand-in for stderr that keeps what was written.
local function stream()
  return { text = "", write = function(self, ...) self.text = self.text
    .. table.concat { ... } end }
end

function tests:setUp()
  self.base = support.folder()
  self.out = self.base .. "/a/b"
  self.csv = self.out .. "/jepa_r0.csv"
end

local function log_steps(r, from, to)
  for step = from, to do
    lu.assertTrue(r:log(step, { loss = step / 7, k = 69, t = 41.5, ms = 12.9, lr = 1e-3, wd = .04,
      images = 32 }))
  end
end

function tests:test_columns_and_formats()
  local r = assert(run.open(self.out, { stream = stream() }))
  lu.assertTrue(r:log(1, { epoch = 1, itr = 0, loss = .123456, k = 69, t = 41.25, ms = 812.7 }))
  lu.assertTrue(r:log(2, { epoch = 1, itr = 1, loss = 0 / 0, k = 69, t = 41.25, ms = 0 / 0 }))
  lu.assertTrue(r:log(3, { epoch = 2, itr = 0, loss = -math.huge, k = 0, t = 0, ms = 3 }))
  r:close()
  r:close()
  lu.assertEquals(slurp(self.csv),
    "epoch,itr,loss,mask-A,mask-B,time (ms)\n1,0,0.12346,69.00000,41.25000,812\n" ..
    "1,1,nan,69.00000,41.25000,0\n2,0,-inf,0.00000,0.00000,3\n")
end

function tests:test_resume_gives_the_uninterrupted_log()
  local r = assert(run.open(self.out, { stream = stream(), ipe = 4 }))
  log_steps(r, 1, 11)
  r:close()
  local whole = slurp(self.csv)
  for resume = 0, 11 do
    spit(self.csv, whole .. "3,3,0.1")        -- a crash in the middle of a row
    r = assert(run.open(self.out, { stream = stream(), ipe = 4, resume = resume }))
    lu.assertEquals(r.step, resume)
    log_steps(r, resume + 1, 11)
    r:close()
    lu.assertEquals(slurp(self.csv), whole)
  end
  r = assert(run.open(self.out, { stream = stream(), resume = 5 }))   -- rows are counted
  r:close()
  local _, lines = slurp(self.csv):gsub("\n", "")
  lu.assertEquals(lines, 6)
end

function tests:test_rows_are_counted_where_steps_go_back()
  local r = assert(run.open(self.out, { stream = stream(), ipe = 4 }))
  log_steps(r, 1, 9)
  r:rolled_back(3)
  log_steps(r, 4, 6)
  lu.assertEquals(r:rows(), { csv = 12 })
  r:close()
  local all = slurp(self.csv)
  r = assert(run.open(self.out, { stream = stream(), ipe = 4, resume = 6, rows = { csv = 12 } }))
  r:close()
  lu.assertEquals(slurp(self.csv), all)
  -- saved directly after the return to step 3: none of the nine rows goes
  r = assert(run.open(self.out, { stream = stream(), ipe = 4, resume = 3, rows = { csv = 9 } }))
  lu.assertEquals(r:rows(), { csv = 9 })
  r:close()
  local log = assert(run.read_log(self.out))
  lu.assertEquals(#log.loss, 9)
end

function tests:test_a_new_run_keeps_the_old_log_aside()
  local r = assert(run.open(self.out, { stream = stream() }))
  log_steps(r, 1, 3)
  r:close()
  local old = slurp(self.csv)
  r = assert(run.open(self.out, { stream = stream() }))
  r:close()
  lu.assertEquals(slurp(self.csv), "epoch,itr,loss,mask-A,mask-B,time (ms)\n")
  lu.assertEquals(slurp(self.out .. "/jepa_r0.old.csv"), old)
  spit(self.csv, "something else entirely, of other columns and longer than a header\n")
  r = assert(run.open(self.out, { stream = stream(), resume = 3 }))
  r:close()
  -- neither replaces the other
  lu.assertStrContains(slurp(self.out .. "/jepa_r0-2.old.csv"), "something else")
  lu.assertEquals(slurp(self.out .. "/jepa_r0.old.csv"), old)
end

function tests:test_console_line_every_ten_steps()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, total = 300, ipe = 100 }))
  log_steps(r, 1, 29)
  r:log(30, { loss = 1, lr = 5e-4, wd = .125, images = 32,
    grads = { first = 1e-3, last = 2e-3, min = 3e-4, max = .5 } })
  r:close()
  local lines = {}
  for line in s.text:gmatch "[^\n]*\n" do lines[#lines + 1] = line end
  lu.assertEquals(#lines, 4)
  lu.assertStrMatches(lines[1],
    "epoch 1  step 1/300  loss 0%.1429  lr 1%.00e%-03  [%d.]+ images/s  %d[^ ]* ?s? left\n")
  lu.assertStrContains(lines[2], "step 10/300  loss 0.8571")     -- mean of steps 2 to 10
  lu.assertStrContains(lines[4], "step 30/300")
  lu.assertStrContains(lines[4], "lr 5.00e-04")
  lu.assertNil(s.text:find("\27", 1, true))
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

function tests:test_console_lines_at_log_every_and_at_the_last_step()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, every = 4, total = 10 }))
  log_steps(r, 1, 9)
  r:log(10, { loss = 1, last = true })
  r:close()
  local steps = {}
  for i, line in ipairs(lines_of(s.text)) do steps[i] = tonumber(line:match "step (%d+)/10") end
  lu.assertEquals(steps, { 1, 4, 8, 10 })
  s = stream()
  r = assert(run.open(self.out, { stream = s, every = 4 }))
  log_steps(r, 1, 6)
  r:finish()   -- ended otherwise: its last step gets a line as well, once
  r:say "the end"
  r:close()
  local lines = lines_of(s.text)
  lu.assertEquals(#lines, 4)
  lu.assertStrContains(lines[3], "step 6  loss 0.7857")   -- mean of steps 5 and 6
  lu.assertEquals(lines[4], "the end")
end

function tests:test_a_console_line_fits_80_columns()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, total = 187500, ipe = 625 }))
  r:log(187000, { loss = 12.3456, lr = 9.87e-4, images = 12345, ms = 10, total = 999999999 })
  r:close()
  local line = lines_of(s.text)[1]
  lu.assertTrue(#line < 80, line)
  lu.assertStrContains(line, "step 187000/999999999  loss 12.3456  lr 9.87e-04")
  lu.assertStrMatches(line, ".* left")
end

function tests:test_no_bar_below_the_last_message()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, terminal = true, width = 80, total = 100 }))
  log_steps(r, 1, 3)
  r:finish()
  r:say "interrupted"
  r:close()
  lu.assertEquals(s.text:sub(-#"interrupted\n" - 1), "\ninterrupted\n")
end

function tests:test_colours_and_wrapping_on_a_terminal_only()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, terminal = true, colours = true, width = 30 }))
  r:say("step 5: %s: %s", r:paint("error", "COLLAPSE"), ("word "):rep(8) .. "end")
  r:close()
  lu.assertEquals(s.text,
    "step 5: \27[31mCOLLAPSE\27[0m: word word\n  word word word word word\n  word end\n")
  s = stream()
  r = assert(run.open(self.out, { stream = s }))
  r:say("%s %s", r:paint("error", "COLLAPSE"), ("word "):rep(40))
  r:close()
  lu.assertEquals(s.text, "COLLAPSE " .. ("word "):rep(40) .. "\n")
end

function tests.test_counts()
  local count = require "ijepa.base.text".count
  lu.assertEquals({ count(1, "step"), count(2, "step"), count(0, "step"), count(1, "patch",
    "patches"), count(.5, "minute"),
    count(7, "patch", "patches") }, { "1 step", "2 steps", "0 steps", "1 patch", "0.5 minutes",
    "7 patches" })
end

function tests:test_a_damaged_log_is_reported()
  local r = assert(run.open(self.out, { stream = stream(), ipe = 4 }))
  log_steps(r, 1, 11)
  r:close()
  local complete = slurp(self.csv)
  local log, message = run.read_log(self.out)
  lu.assertEquals({ #log.loss, message, log.unreadable }, { 11, nil, {} })
  local damaged = complete:gsub("1,2,[^\n]*", "1,2,0.4"):gsub("2,0,[^,]*,", "2,0,1.2.3,")
  spit(self.csv, damaged)
  log, message = run.read_log(self.out)
  lu.assertEquals({ #log.loss, log.unreadable }, { 9, { 4, 6 } })
  lu.assertEquals(message, ("2 rows of log '%s' could not be read: lines 4, 6"):format(self.csv))
  -- a resumed run keeps them, and all rows after them
  r = assert(run.open(self.out, { stream = stream(), ipe = 4, resume = 9 }))
  log_steps(r, 10, 11)
  r:close()
  lu.assertEquals(slurp(self.csv), damaged)
  spit(self.csv, complete .. "3,3,0.1")
  lu.assertEquals(run.read_log(self.out).unreadable, { 13 })
  spit(self.csv, "epoch,itr,loss,mask-A,mask-B,time (ms)\n1,0,nan,1,1,5\n1,1,-inf,1,1,5\n")
  log, message = run.read_log(self.out)
  lu.assertEquals({ #log.loss, log.loss[2], message }, { 2, -math.huge, nil })
end

function tests:test_bar_fits_and_messages_stand_on_their_own()
  for _, width in ipairs { 1, 12, 20, 40, 80, 200 } do
    local s = stream()
    local r = assert(run.open(self.out, { stream = s, terminal = true, width = width,
      total = 187500, ipe = 625 }))
    log_steps(r, 1, 1)
    for _ = 1, 3 do r._console:_draw(0) end
    r:say("100%")
    r:say("%d images", 3)
    r:close()
    for bar in s.text:gmatch "\r([^\r\n]*)\27%[K" do
      lu.assertTrue(#bar <= math.max(width - 3, 0), bar)
    end
    lu.assertStrContains(s.text, "\r\27[K100%\n")
    lu.assertStrContains(s.text, "\r\27[K3 images\n")
    lu.assertEquals(s.text:sub(-4), "\r\27[K")   -- the bar goes at the end
    if width >= 80 then
      lu.assertStrContains(s.text, "[----")
      lu.assertStrContains(s.text, "step 1/187500")
      lu.assertStrContains(s.text, "left")
      lu.assertStrContains(s.text, "images/s")
    end
  end
end

function tests:test_quiet_and_other_processes()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, quiet = true, terminal = true, width = 80 }))
  log_steps(r, 1, 20)
  r:close()
  lu.assertEquals(s.text, "")
  r = assert(run.open(self.out, { stream = s, rank = 3, tag = "x", config = { a = 1 } }))
  log_steps(r, 1, 20)
  r:say("hello")
  r:close()
  lu.assertEquals(s.text, "process 3: hello\n")
  lu.assertStrContains(slurp(self.out .. "/x_r3.csv"), "1,19,")
  lu.assertEquals(F.C.ij_path_kind(self.out .. "/config.lua"), 0)
end

function tests:test_config_reads_back()
  local config = { out = "runs/\"x\"\n", seed = 0, tiny = 1e-6, third = 1 / 3, big = 2 ^ 60,
    inf = math.huge,
    neg = -0.25, data = { crop = 224, scale = { .3, 1 }, ["end"] = true, ["a b"] = false,
    deep = { { 1 }, {} } } }
  local r = assert(run.open(self.out, { stream = stream(), config = config }))
  r:close()
  lu.assertEquals(run.settings(self.out), config)
  local text = slurp(self.out .. "/config.lua")
  lu.assertStrContains(text, "    scale = { 0.3, 1 },\n")
  lu.assertTrue(text:find("big = ", 1, true) < text:find("data = ", 1, true))
  config.self, config.f = config, print
  text = require "ijepa.config".dump(config)
  lu.assertStrContains(text, "nil --[[ a table in itself ]]")
  lu.assertNotNil(loadstring(text))
  local function refused(content, why)
    spit(self.out .. "/config.lua", content)
    local none, message = run.config(self.out)
    lu.assertNil(none)
    lu.assertStrContains(message, why)
  end
  refused("error 'x'", "holds no settings: line 1: expected return")
  refused("return {\n  seed = (function() while true do end end)(),\n}",
    "holds no settings: line 2: expected a value")
  refused("return { seed = 1 } os.exit()", "there is text after the value")
  refused("return " .. ("{"):rep(1e5), "too deep")
  refused("return { seed = 'x }", "a string is not closed")
  refused("return { model = { width = 'wide' } }", "'model.width' is 'wide', expected")
  spit(self.out .. "/config.lua",
    "-- of another version\nreturn { later = { 1 }, model = { width = 48, other = 3 }, }")
  lu.assertEquals({ run.config(self.out).model.width, run.config(self.out).model.other,
    run.config(self.out).later }, { 48 })
  lu.assertNil((run.config(self.base .. "/none")))
end

function tests:test_what_fails()
  local r, message, code = run.open("/dev/null/x", {})
  lu.assertNil(r)
  lu.assertStrContains(message, "/dev/null")
  lu.assertEquals(code, tonumber(F.C.IJ_EIO))
  lu.assertErrorMsgContains("test_run.lua", function() run.open(3) end)
  r = assert(run.open(self.out, { stream = stream() }))
  lu.assertErrorMsgContains("loss is a nil", function() r:log(1, {}) end)
  r:close()
end

function tests:test_a_full_disk_is_told_once()
  local s = stream()
  local r = assert(run.open(self.out, { stream = s, quiet = true }))
  local rows = r._writers[1].rows
  rows:close()
  rows.file = assert(io.open("/dev/full", "wb"))
  rows.file:setvbuf "no"
  for step = 1, 3 do
    local ok, message = r:log(step, { loss = 1 })
    lu.assertNil(ok)
    lu.assertStrContains(message, "No space left")
  end
  local _, lines = s.text:gsub("\n", "")
  lu.assertEquals(lines, 1)
  r:close()
end

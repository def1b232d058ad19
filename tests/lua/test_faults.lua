-- Faults, each made to happen: killed anywhere, a full disk, two runs in one folder, signals, a
-- clock that jumps, images that vanish. IJEPA_KILLS=200: how often the run of the random kills is
-- killed (15).
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestFaults = tests -- luacheck: ignore

local program = os.getenv "IJEPA_PROGRAM" or "build/ijepa"
local preload = program:match "^(.*)/" .. "/tests/libfaults.so"
local folder, made
function tests.setUp()
  folder = os.tmpname()
  os.remove(folder)
  assert(F.try(C.ij_mkdirs(folder)))
  made = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 40, test = 2, size = 32 })
end
function tests.tearDown() os.execute("rm -rf " .. folder) end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end
local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

-- The command line of a small run.
local function command(over)
  local words = { out = folder .. "/run", ["data.root"] = made.train, ["data.batch"] = 8,
    ["data.crop"] = 32, ["data.workers"] = 1,
    ["model.width"] = 16, ["model.depth"] = 2, ["model.heads"] = 2, ["model.patch"] = 4,
    ["model.pred_depth"] = 1,
    ["model.pred_dim"] = 8, ["mask.min_keep"] = 3, ["mask.group"] = 8, ["optim.epochs"] = 8,
    ["optim.warmup"] = 1,
    ["diagnose.every"] = 0, ["log.save_steps"] = 3, ["log.save_epochs"] = 3 }
  for k, v in pairs(over or {}) do words[k] = v end
  write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
  local list = { program, folder .. "/recipe.lua" }
  for k, v in pairs(words) do list[#list + 1] = ("'%s=%s'"):format(k, tostring(v)) end
  return table.concat(list, " ")
end

-- Runs a shell command; exit code (128 + signal) and what it printed.
local function shell(text)
  local pipe = io.popen("{ " .. text .. "; } 2>&1; echo exit $?")
  local said = pipe:read "*a"
  pipe:close()
  return tonumber(said:match "exit (%d+)%s*$"), said
end

-- All tensors of a checkpoint as one string.
local function tensors_of(path)
  local file = assert(ijepa.checkpoint.load(path))
  local names, parts = file:names(), {}
  table.sort(names)
  for _, name in ipairs(names) do
    local p, n = file:data(name)
    parts[#parts + 1] = name .. F.string(p, n)
  end
  file:close()
  return table.concat(parts)
end
local function latest(run) return folder .. "/" .. run .. "/jepa-latest.safetensors" end
local function step_of(run)
  if C.ij_path_kind(latest(run)) == 0 then return 0 end
  local file = assert(ijepa.checkpoint.load(latest(run)))   -- whole, or there is an error here
  local step = file:meta "step"
  file:close()
  return step
end
local whole
local function uninterrupted()
  if not whole then
    lu.assertEquals((shell(command { out = folder .. "/whole" })), 0)
    whole = tensors_of(latest "whole")
  end
  return whole
end

function tests.test_killed_at_random_moments()
  local want, kills, last, seen = uninterrupted(), tonumber(os.getenv "IJEPA_KILLS" or "15"), 0, {}
  local started = C.ij_time()
  shell(command { out = folder .. "/timed" })
  local length = C.ij_time() - started
  math.randomseed(7)
  local done = 0
  for _ = 1, kills do
    shell(("%s & p=$!; sleep %.3f; kill -9 $p; wait $p"):format(command(),
      length * (.1 + math.random())))
    local step = step_of "run"
    lu.assertTrue(step >= last, ("step %d after step %d"):format(step, last))
    seen[step], last = true, step
    if step == 40 then   -- at its end: again from the start
      lu.assertTrue(tensors_of(latest "run") == want)
      os.execute("rm -rf " .. folder .. "/run")
      last, done = 0, done + 1
    end
  end
  lu.assertEquals((shell(command())), 0)
  lu.assertTrue(tensors_of(latest "run") == want)   -- bit for bit, however often it was killed
  local steps = 0
  for _ in pairs(seen) do steps = steps + 1 end
  lu.assertTrue(steps > 3 or done > 0,
    ("killed at %d different steps only: choose other pauses"):format(steps))
end

local function with_faults()
  lu.skipIf(C.ij_path_kind(preload) ~= 1, "SKIPPED: built without " .. preload)
  -- through the shell, as the program starts itself again; ASan would refuse to be second
  return "LD_PRELOAD=" .. preload .. " "
end

function tests.test_killed_at_every_call_that_changes_a_file()
  local env, want, last = with_faults(), uninterrupted(), -1
  for _, call in ipairs { "open", "write", "fsync", "rename" } do
    for n = 1, 4 do
      os.execute("rm -rf " .. folder .. "/run")
      local code = shell(('IJ_FAULT="kill %s %d jepa-latest" %s%s'):format(call, n, env, command()))
      lu.assertTrue(code == 137 or code == 0)
      last = code == 137 and n or last
      step_of "run"   -- what is there is whole
      lu.assertEquals((shell(command())), 0)
      lu.assertTrue(tensors_of(latest "run") == want)
    end
  end
  lu.assertTrue(last > 0)
end

-- the bytes are safe before the name, and the name before we go on
function tests.test_order_that_a_power_cut_needs()
  local env, log = with_faults(), folder .. "/calls"
  lu.assertEquals((shell(('IJ_FAULT_LOG=%s %s%s'):format(log, env,
    command { ["optim.steps"] = 3 }))), 0)
  local state, saves = "", 0
  for call, path in read(log):gmatch "(%l+) ([^\n]*)\n" do
    if path:find "jepa%-latest" then
      if call == "write" then state = "written"
      elseif call == "fsync" then
        lu.assertEquals(state, "written")
        state = "synced"
      elseif call == "rename" then
        lu.assertEquals(state, "synced")
        state, saves = "renamed", saves + 1
      end
    elseif call == "fsync" and path:find "/run$" and state == "renamed" then state = "safe" end
  end
  lu.assertEquals(state, "safe")
  lu.assertTrue(saves >= 1)
end

function tests.test_full_disk_keeps_the_last_state()
  local env = with_faults()
  for _, why in ipairs { "ENOSPC", "EIO" } do
    os.execute("rm -rf " .. folder .. "/run")
    lu.assertEquals((shell(command { ["optim.steps"] = 6 })), 0)
    local before = tensors_of(latest "run")
    local code, said = shell(('IJ_FAULT="%s write 1 jepa-latest" %s%s'):format(why, env, command()))
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, why == "EIO" and "Input/output error" or "No space left")
    lu.assertStrContains(said, "jepa-latest.safetensors")
    lu.assertTrue(tensors_of(latest "run") == before)
    lu.assertEquals(C.ij_path_kind(latest "run" .. ".tmp"), 0)
    lu.assertEquals((shell(command())), 0)
    lu.assertTrue(tensors_of(latest "run") == uninterrupted())
  end
end

function tests.test_a_real_full_disk()   -- a tmpfs of 64 KiB less than a state wants
  local disk = folder .. "/disk"
  assert(F.try(C.ij_mkdirs(disk)))
  local code = shell(("mount -t tmpfs -o size=96k none %s"):format(disk))
  lu.skipIf(code ~= 0, "SKIPPED: no tmpfs may be mounted here")
  local said
  code, said = shell(command { out = disk .. "/run" })
  local ok, why = pcall(function()
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, "No space left")
    lu.assertEquals(C.ij_path_kind(disk .. "/run/jepa-latest.safetensors.tmp"), 0)
  end)
  shell("umount " .. disk)
  if not ok then error(why, 0) end
end

-- Starts a long run, waits until it has made some steps, sends a signal, and waits for the end.
local function signalled(signal, rest)
  local log = folder .. "/log"
  local wait = "i=0; while [ $i -lt 300 ] && ! grep -q 'step 20' %s; do sleep .05; i=$((i + 1)); done"
  local run = command { ["optim.epochs"] = 20000, ["log.save_steps"] = 0, ["diagnose.every"] = 0 }
  return shell(("%s >%s 2>&1 & p=$!; " .. wait
    .. "; kill -%s $p; %s wait $p; c=$?; cat %s; (exit $c)"):format(run, log, log,
    signal, rest or "", log))
end

function tests.test_signals_save_and_leave()
  for signal, want in pairs { TERM = 143, HUP = 129 } do   -- INT: test_train
    os.execute("rm -rf " .. folder .. "/run")
    local code, said = signalled(signal)
    lu.assertEquals(code, want)
    lu.assertTrue(step_of "run" >= 20)
    lu.assertStrContains(said, "interrupted: step")
  end
end

-- as job systems send it
function tests.test_sigterm_again_and_again_does_not_keep_it_from_saving()
  local code, said = signalled("TERM", "while kill -TERM $p 2>/dev/null; do sleep .001; done;")
  lu.assertEquals(code, 143)
  lu.assertStrContains(said, "interrupted: step")
end

function tests.test_sigusr1_saves_and_goes_on()
  local code, said = signalled("USR1",
    ("i=0; while [ $i -lt 300 ] && ! grep -q USR1 %s; do sleep .05; i=$((i + 1)); done; kill -TERM $p;")
    :format(folder .. "/log"))
  lu.assertEquals(code, 143)
  lu.assertStrContains(said, "as SIGUSR1 asked")
end

function tests.test_two_runs_in_one_folder()
  local _, said = signalled("0", ("%s; kill -9 $p;"):format(command { ["optim.steps"] = 3 }))
  lu.assertStrContains(said, "another run works in")
  lu.assertStrContains(said, "is held by process")
  local code = shell(command { resume = false })   -- the killed one left no lock behind
  lu.assertEquals(code, 0)
end

function tests.test_a_clock_that_jumps()
  lu.assertEquals((shell("IJ_CLOCK=86400 " .. with_faults() .. command())), 0)
  lu.assertTrue(tensors_of(latest "run") == uninterrupted())
  for ms in read(folder .. "/run/jepa_r0.csv"):gmatch ",(%-?%d+)\n" do
    lu.assertTrue(tonumber(ms) >= 0 and tonumber(ms) < 60000)
  end
end

function tests.test_images_that_vanish()   -- the tar is emptied under the run
  local code, said = signalled("0",
    (": > %s; (sleep 20; kill -9 $p) 2>/dev/null &"):format(made.train))
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "of 40 images are corrupt")
  lu.assertTrue(step_of "run" >= 20)
end

function tests.test_read_errors_in_an_epoch()   -- the disk fails from the 70th read of the tar on
  local code, said = shell("IJ_FAULT='EIO pread 70 train.tar' " .. with_faults() .. command())
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "Input/output error")
  lu.assertStrContains(said, "of 40 images are corrupt")
  local step = step_of "run"
  -- what was whole is saved, and the run resumes once the disk works again
  lu.assertTrue(step >= 1)
  lu.assertEquals((shell(command())), 0)
  lu.assertTrue(tensors_of(latest "run") == uninterrupted())
end

function tests.test_a_loss_that_is_no_number()
  -- a rate far too high: whatever happens, no state that is not finite is written, and a message
  -- says what to do
  local code, said = shell(command { ["optim.lr"] = 1e30, ["optim.start_lr"] = 1e30,
    ["optim.warmup"] = 0, ["model.init_gain"] = 1 })
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "lower optim.lr")
  if step_of "run" > 0 then
    for _, name in ipairs(ijepa.checkpoint.load(latest "run"):names()) do
      local p, n = ijepa.checkpoint.load(latest "run"):data(name)
      local v = F.cast("const float *", p)
      for i = 0, n / 4 - 1, 97 do lu.assertTrue(v[i] - v[i] == 0) end
    end
  end
end

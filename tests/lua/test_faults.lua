-- Faults, each made to happen: killed anywhere, a full disk, two runs in one folder, signals, a
-- clock that jumps, images that vanish. IJEPA_KILLS=200: how often the run of the random kills is
-- killed (15).
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestFaults = tests -- luacheck: ignore

local program, write, read = support.program, support.write, support.read
local preload = program:match "^(.*)/" .. "/tests/libfaults.so"
local folder, made
function tests.setUp()
  folder = support.folder()
  made = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 40, test = 2, size = 32 })
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
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return list
end

-- Exit code (128 + signal) and what a program printed.
local function shell(argv, env) return support.run(argv, { env = env, merge = true }) end

local function latest(run) return folder .. "/" .. run .. "/jepa-latest.safetensors" end
local function step_of(run)
  if C.ij_path_kind(latest(run)) == 0 then return 0 end
  local file = assert(ijepa.checkpoint.load(latest(run)))   -- whole, or there is an error here
  local step = file:meta "step"
  file:close()
  return step
end
local whole
-- The last checkpoint of a run that nothing happened to.
local function uninterrupted()
  if not whole then
    local out = support.folder "file" .. "/whole"
    lu.assertEquals((shell(command { out = out })), 0)
    whole = out .. "/jepa-latest.safetensors"
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
    support.run(command(), { timeout = length * (.1 + math.random()) })
    local step = step_of "run"
    lu.assertTrue(step >= last, ("step %d after step %d"):format(step, last))
    seen[step], last = true, step
    if step == 40 then   -- at its end: again from the start
      lu.assertTrue(support.same_tensors(latest "run", want))
      support.remove(folder .. "/run")
      last, done = 0, done + 1
    end
  end
  lu.assertEquals((shell(command())), 0)
  -- bit for bit, however often it was killed
  lu.assertTrue(support.same_tensors(latest "run", want))
  local steps = 0
  for _ in pairs(seen) do steps = steps + 1 end
  lu.assertTrue(steps > 3 or done > 0,
    ("killed at %d different steps only: choose other pauses"):format(steps))
end

local function with_faults()
  lu.skipIf(C.ij_path_kind(preload) ~= 1, "SKIPPED: built without " .. preload)
  return { LD_PRELOAD = preload }
end
local function env_with(fault, more)
  local env = with_faults()
  env.IJ_FAULT = fault
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

function tests.test_killed_at_every_call_that_changes_a_file()
  with_faults()
  local want, last = uninterrupted(), -1
  for _, call in ipairs { "open", "write", "fsync", "rename" } do
    for n = 1, 4 do
      support.remove(folder .. "/run")
      local code = shell(command(), env_with(("kill %s %d jepa-latest"):format(call, n)))
      lu.assertTrue(code == 137 or code == 0)
      last = code == 137 and n or last
      step_of "run"   -- what is there is whole
      lu.assertEquals((shell(command())), 0)
      lu.assertTrue(support.same_tensors(latest "run", want))
    end
  end
  lu.assertTrue(last > 0)
end

-- the bytes are safe before the name, and the name before we go on
function tests.test_order_that_a_power_cut_needs()
  local log = folder .. "/calls"
  lu.assertEquals((shell(command { ["optim.steps"] = 3 }, env_with(nil, { IJ_FAULT_LOG = log }))),
    0)
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
  for _, why in ipairs { "ENOSPC", "EIO" } do
    support.remove(folder .. "/run")
    lu.assertEquals((shell(command { ["optim.steps"] = 6 })), 0)
    local before = write(folder .. "/before", read(latest "run"))
    local code, said = shell(command(), env_with(why .. " write 1 jepa-latest"))
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, why == "EIO" and "Input/output error" or "No space left")
    lu.assertStrContains(said, "jepa-latest.safetensors")
    lu.assertTrue(support.same_tensors(latest "run", before))
    lu.assertEquals(C.ij_path_kind(latest "run" .. ".tmp"), 0)
    lu.assertEquals((shell(command())), 0)
    lu.assertTrue(support.same_tensors(latest "run", uninterrupted()))
  end
end

function tests.test_a_real_full_disk()   -- a tmpfs of 64 KiB less than a state wants
  local disk = folder .. "/disk"
  assert(F.try(C.ij_mkdirs(disk)))
  local code = shell { "mount", "-t", "tmpfs", "-o", "size=96k", "none", disk }
  lu.skipIf(code ~= 0, "SKIPPED: no tmpfs may be mounted here")
  local said
  code, said = shell(command { out = disk .. "/run" })
  local ok, why = pcall(function()
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, "No space left")
    lu.assertEquals(C.ij_path_kind(disk .. "/run/jepa-latest.safetensors.tmp"), 0)
  end)
  shell { "umount", disk }
  if not ok then error(why, 0) end
end

-- Waits until a process has printed this, for at most 15 s.
local function printed(p, text)
  for _ = 1, 300 do
    if p:output():find(text, 1, true) then return end
    support.sleep(.05)
  end
end
-- Starts a long run, waits until it has made some steps, sends a signal, and waits for the end (for
-- at most `patience` seconds). rest: called with the process after the signal.
local function signalled(signal, rest, patience)
  local p = support.start(command { ["optim.epochs"] = 20000, ["log.save_steps"] = 0,
    ["diagnose.every"] = 0 }, { merge = true })
  printed(p, "step 20")
  p:kill(signal)
  if rest then rest(p) end
  return p:wait(patience or 120)
end

function tests.test_signals_save_and_leave()
  for signal, want in pairs { [support.SIGTERM] = 143, [support.SIGHUP] = 129 } do
    -- INT: test_train
    support.remove(folder .. "/run")
    local code, said = signalled(signal)
    lu.assertEquals(code, want)
    lu.assertTrue(step_of "run" >= 20)
    lu.assertStrContains(said, "interrupted: step")
  end
end

-- as job systems send it
function tests.test_sigterm_again_and_again_does_not_keep_it_from_saving()
  local code, said = signalled(support.SIGTERM, function(p)
    while not p:ended() do
      p:kill(support.SIGTERM)
      support.sleep(.001)
    end
  end)
  lu.assertEquals(code, 143)
  lu.assertStrContains(said, "interrupted: step")
end

function tests.test_sigusr1_saves_and_goes_on()
  local code, said = signalled(support.SIGUSR1, function(p)
    printed(p, "USR1")
    p:kill(support.SIGTERM)
  end)
  lu.assertEquals(code, 143)
  lu.assertStrContains(said, "as SIGUSR1 asked")
end

function tests.test_two_runs_in_one_folder()
  local said
  signalled(0, function(p)
    said = select(2, shell(command { ["optim.steps"] = 3 }))
    p:kill(support.SIGKILL)
  end)
  lu.assertStrContains(said, "another run works in")
  lu.assertStrContains(said, "is held by process")
  local code = shell(command { resume = false })   -- the killed one left no lock behind
  lu.assertEquals(code, 0)
end

function tests.test_a_clock_that_jumps()
  lu.assertEquals((shell(command(), env_with(nil, { IJ_CLOCK = 86400 }))), 0)
  lu.assertTrue(support.same_tensors(latest "run", uninterrupted()))
  for ms in read(folder .. "/run/jepa_r0.csv"):gmatch ",(%-?%d+)\n" do
    lu.assertTrue(tonumber(ms) >= 0 and tonumber(ms) < 60000)
  end
end

function tests.test_images_that_vanish()   -- the tar is emptied under the run
  local code, said = signalled(0, function() write(made.train, "") end, 20)
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "of 40 images are corrupt")
  lu.assertTrue(step_of "run" >= 20)
end

function tests.test_read_errors_in_an_epoch()   -- the disk fails from the 70th read of the tar on
  local code, said = shell(command(), env_with "EIO pread 70 train.tar")
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "Input/output error")
  lu.assertStrContains(said, "of 40 images are corrupt")
  local step = step_of "run"
  -- what was whole is saved, and the run resumes once the disk works again
  lu.assertTrue(step >= 1)
  lu.assertEquals((shell(command())), 0)
  lu.assertTrue(support.same_tensors(latest "run", uninterrupted()))
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

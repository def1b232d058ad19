-- Jobs of a real SLURM, as users submit them: run by tests/slurm/run.sh.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestJobs = tests -- luacheck: ignore

local program = os.getenv "IJEPA_PROGRAM"
local folder, made = os.getenv "IJEPA_SLURM_FOLDER" .. "/the jobs", nil   -- a blank in its name

local write = support.write
local function read(path) return C.ij_path_kind(path) == 1 and support.read(path) or "" end
local function there(path) return C.ij_path_kind(path) ~= 0 end

local function shell(text) return support.run({ "sh", "-c", text }, { merge = true }) end

-- Waits until f gives something.
local function wait(what, seconds, f)
  local started = C.ij_time()
  while C.ij_time() - started < seconds do
    local value = f()
    if value then return value end
    support.sleep(.2)
  end
  local _, queue = shell "squeue; scontrol show job | grep -e JobId -e JobState -e ExitCode"
  lu.fail(("%s did not come within %d s\n%s"):format(what, seconds, queue))
end

-- A recipe that trains 40 steps. The first start of a job waits after step 20, where `hold`, until
-- a signal comes; of several processes number 0 does, while the others wait for it.
local function recipe(name, hold)
  local path = ("%s/%s.lua"):format(folder, name)
  write(path, ([[
local ijepa = require "ijepa"
local cfg = ijepa.config { out = %q, data = { root = %q, batch = 4, crop = 32, workers = 1 },
  model = { width = 16, depth = 2, heads = 2, patch = 4, pred_depth = 1, pred_dim = 8, dtype = "f32", init_gain = .7, patch_gain = 1.5 },
  mask = { min_keep = 3, group = 4 }, optim = { epochs = 8, warmup = 1, accumulate = 2 },
  diagnose = { every = 0 }, log = { save_epochs = 3 } }
return ijepa.pretrain(cfg, { step = function(t)
  if t.step ~= 20 or not %s or os.getenv "SLURM_RESTART_COUNT" or os.getenv "SLURM_PROCID" ~= "0" then return end
  io.open(cfg.out .. "/holds", "w"):close()
  while not ijepa.interrupted() do os.execute "sleep .1" end
end })
]]):format(folder .. "/run-" .. name, made.train, tostring(hold == true)))
  return path
end

local function run_of(name) return folder .. "/run-" .. name end

-- The largest difference between the numbers of two runs' newest checkpoints, as a fraction of the
-- largest number.
local function difference(a, b)
  local one, other = assert(ijepa.checkpoint.load(run_of(a) .. "/jepa-latest.safetensors")),
    assert(ijepa.checkpoint.load(run_of(b) .. "/jepa-latest.safetensors"))
  lu.assertEquals(other:names(), one:names())
  lu.assertEquals(other:meta "step", one:meta "step")
  local worst = 0
  for _, name in ipairs(one:names()) do
    local n = 1
    for _, size in ipairs(one:info(name).shape) do n = n * size end
    local x, y, most = F.new("float[?]", n), F.new("float[?]", n), 1e-30
    one:read(name, x, n)
    other:read(name, y, n)
    for i = 0, n - 1 do most = math.max(most, math.abs(x[i])) end
    for i = 0, n - 1 do worst = math.max(worst, math.abs(x[i] - y[i]) / most) end
  end
  return worst
end

-- Whether two runs' newest checkpoints are of one step and hold the same tensors; else a
-- difference.
local function same_state(a, b)
  local paths, steps = {}, {}
  for i, name in ipairs { a, b } do
    paths[i] = run_of(name) .. "/jepa-latest.safetensors"
    local file = assert(ijepa.checkpoint.load(paths[i]))
    steps[i] = file:meta "step"
    file:close()
  end
  if steps[1] ~= steps[2] then return false, ("step %d and %d"):format(steps[1], steps[2]) end
  return support.same_tensors(paths[1], paths[2])
end

-- Submits; the job's number.
local function submit(words, env)
  local code, said = shell(("%s '%s' submit --folder '%s/logs' %s"):format(env or "", program,
    folder, words))
  lu.assertEquals(code, 0, said)
  return (said:match "^ijepa: job (%d+): " or lu.fail(said))
end

local function log_of(job, task)
  return read(("%s/logs/%s%s.out"):format(folder, job, task and "_" .. task or ""))
end

-- "COMPLETED 0:0 restarts 1" of a job that has ended, else nil.
local function ended(job)
  local _, said = shell("scontrol show job " .. job)
  local state, code, restarts = said:match "JobState=(%u+)", said:match "ExitCode=(%S+)",
    said:match "Restarts=(%d+)"
  if state and state ~= "PENDING" and state ~= "RUNNING" and state ~= "COMPLETING" then
    return ("%s %s restarts %s"):format(state, code, restarts)
  end
end
local function finish(job, seconds)
  return wait("the end of job " .. job, seconds or 60, function() return ended(job) end)
end
local function held(name)
  wait("step 20 of " .. name, 60, function() return there(run_of(name) .. "/holds") end)
end

-- The run that was held has saved and its job has queued itself again: at step 20, or the next,
-- which had begun.
local function stopped(job)
  lu.assertStrMatches(log_of(job), ".*stopped at step 2[01]: queued again\n.*")
end

-- a job whose time limit comes while the other tests run: SLURM looks at its clock every 30 seconds
local limited
local function submit_limited()
  limited = submit(("'%s' --time 1 --notice 5 --name limited"):format(recipe("limited", true)))
end

function tests.setUp()
  if made then return end
  assert(F.try(C.ij_mkdirs(folder)))
  made = assert(ijepa.scenes.generate { out = folder .. "/scenes", n = 40, test = 2, size = 32 })
  local code, said = shell(("'%s' '%s'"):format(program, recipe "whole"))
  lu.assertEquals(code, 0, said)
  submit_limited()
end

function tests.test_a_job()
  local job = submit(("'%s'"):format(recipe "plain"))
  lu.assertEquals(finish(job), "COMPLETED 0:0 restarts 0")
  lu.assertStrContains(log_of(job), "start 1 of '" .. folder .. "/plain.lua', 1 task(s) on n")
  lu.assertStrMatches(log_of(job), ".* job " .. job .. ": done\n")
  lu.assertStrContains(log_of(job, 0), "40 steps")
  lu.assertTrue(same_state("plain", "whole"))
  lu.assertFalse(there(("%s/logs/%s.failed"):format(folder, job)))
end

function tests.test_settings_on_the_command_line()
  local job = submit(("'%s' optim.steps=3 'out=%s'"):format(recipe "short", run_of "three steps"))
  lu.assertEquals(finish(job), "COMPLETED 0:0 restarts 0")
  lu.assertStrContains(log_of(job, 0), "3 steps")
  lu.assertTrue(there(run_of "three steps" .. "/jepa-latest.safetensors"))
end

-- The last task of an array has the number of the whole array: it alone is to be queued again.
function tests.test_stopped_in_an_array_and_resumed()
  local job = submit(("'%s' '%s'"):format(recipe "one", recipe("two", true)))
  held "two"
  lu.assertEquals(finish(job .. "_0"), "COMPLETED 0:0 restarts 0")
  shell(("scancel --signal=TERM %s_1"):format(job))
  wait("the second start", 30, function() return log_of(job .. "_1"):find "start 2 of " end)
  lu.assertEquals(finish(job .. "_1"), "COMPLETED 0:0 restarts 1")
  lu.assertEquals(finish(job .. "_0"), "COMPLETED 0:0 restarts 0")
  stopped(job .. "_1")
  lu.assertStrContains(log_of(job .. "_1", 0), "resumes from ")
  lu.assertStrContains(log_of(job .. "_0"), "start 1 of '" .. folder .. "/one.lua'")
  lu.assertTrue(same_state("one", "whole"))
  lu.assertTrue(same_state("two", "whole"))
end

-- Another job, of a higher partition, takes both machines.
local function preempt()
  local _, said = shell("sbatch --parsable -p high -N 2 -n 8 -o /dev/null --wrap 'sleep 2'")
  return said:match "^%d+"
end

function tests.test_preempted_and_resumed()
  local job = submit(("'%s' --partition low"):format(recipe("preempted", true)))
  held "preempted"
  local other = preempt()
  lu.assertEquals(finish(other), "COMPLETED 0:0 restarts 0")
  stopped(job)
  lu.assertEquals(finish(job), "COMPLETED 0:0 restarts 1")
  lu.assertTrue(same_state("preempted", "whole"))
end

-- Without a time of grace SLURM itself ends the job and queues it again; there is KillWait to save.
function tests.test_preempted_abruptly_and_resumed()
  local job = submit(("'%s' --partition abrupt"):format(recipe("abrupt", true)))
  held "abrupt"
  preempt()
  lu.assertEquals(finish(job), "COMPLETED 0:0 restarts 1")
  lu.assertStrMatches(log_of(job, 0), ".*interrupted: step 2[01] is saved.*")
  lu.assertTrue(same_state("abrupt", "whole"))
end

function tests.test_cancelled_by_hand_is_saved_and_stays_so()
  local job = submit(("'%s'"):format(recipe("cancelled", true)))
  held "cancelled"
  shell("scancel " .. job)
  lu.assertStrMatches(finish(job), "CANCELLED .* restarts 0")
  wait("the save", 10, function() return log_of(job, 0):find "interrupted: step 2[01] is saved" end)
  lu.assertFalse(there(("%s/logs/%s.failed"):format(folder, job)))
end

function tests.test_a_failure_is_not_repeated()
  write(folder .. "/fails.lua", 'error "boom"')
  local job = submit(("'%s/fails.lua'"):format(folder))
  lu.assertEquals(finish(job), "FAILED 1:0 restarts 0")
  lu.assertStrContains(log_of(job), "task 0 on n")
  lu.assertStrContains(log_of(job), "failed, and is not started again: see ")
  lu.assertStrContains(log_of(job, 0), "boom")
end

-- srun ends the other tasks, by the signal that a time limit sends too: a failure all the same.
function tests.test_a_task_that_fails_ends_the_others_and_the_job()
  write(folder .. "/one_fails.lua", [[
local ijepa = require "ijepa"
ijepa.interrupted()
if os.getenv "SLURM_PROCID" == "1" then
  os.execute "sleep 1"
  error "boom"
end
while not ijepa.interrupted() do os.execute "sleep .1" end
print "the other one has failed"
ijepa.exit(select(2, ijepa.interrupted()))
]])
  local job = submit(("'%s/one_fails.lua' --nodes 2"):format(folder))
  lu.assertEquals(finish(job), "FAILED 1:0 restarts 0")
  lu.assertStrContains(log_of(job, 0), "the other one has failed")
  lu.assertStrContains(log_of(job, 1), "boom")
  lu.assertStrContains(log_of(job), "task 1 on n2 exited with code 1")
end

-- Two processes share the two batches of a step: to SLURM on two machines, whose names nobody can
-- look up.
local TOGETHER = "--nodes 2 --cpus-per-task 1 optim.accumulate=1"
local ROUNDING = 1e-5   -- as in tests/lua/test_dist.lua
local AT = "IJEPA_MASTER_ADDR=127.0.0.1 "

function tests.test_two_processes()
  local over_tcp = submit(("'%s' %s"):format(recipe "tcp", TOGETHER), AT)
  lu.assertEquals(finish(over_tcp), "COMPLETED 0:0 restarts 0")
  lu.assertStrContains(log_of(over_tcp, 0), "2 processes")
  lu.assertTrue(difference("whole", "tcp") < ROUNDING)
  local over_mpi = submit(("'%s' %s"):format(recipe "mpi", TOGETHER), AT .. "IJEPA_DIST=mpi")
  lu.assertEquals(finish(over_mpi), "COMPLETED 0:0 restarts 0")
  lu.assertStrContains(log_of(over_mpi, 0), "2 processes")
  lu.assertTrue(difference("whole", "mpi") < ROUNDING)
end

function tests.test_two_processes_stopped_and_resumed()
  local job, straight = submit(("'%s' %s"):format(recipe("both", true), TOGETHER), AT),
    submit(("'%s' %s"):format(recipe "straight", TOGETHER), AT)
  held "both"
  shell("scancel --signal=TERM " .. job)
  lu.assertEquals(finish(straight), "COMPLETED 0:0 restarts 0")
  lu.assertEquals(finish(job), "COMPLETED 0:0 restarts 1")
  stopped(job)
  lu.assertTrue(same_state("both", "straight"))
end

-- A killed process ends the others and the job; one process resumes what was saved before.
function tests.test_a_process_is_killed()
  write(folder .. "/killed.lua", (read(recipe "killed"):gsub("function%(t%)", [[function(t)
    if t.step == 20 and os.getenv "SLURM_PROCID" == "1" then os.execute "kill -9 $PPID" end]])))
  local job = submit(("'%s/killed.lua' %s"):format(folder, TOGETHER), AT)
  lu.assertStrMatches(finish(job), "FAILED .* restarts 0")
  lu.assertStrContains(log_of(job), "task 1 on n2 exited with code 137")
  local code, said = shell(("'%s' '%s/killed.lua'"):format(program, folder))
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, "resumes from ")
  lu.assertTrue(difference("whole", "killed") < ROUNDING)
end

function tests.test_what_sbatch_refuses()
  local code, said = shell(("'%s' submit '%s' --folder '%s/logs' --partition nowhere"):format(
    program, recipe "refused", folder))
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "ijepa: submit: sbatch refused '" .. folder
    .. "/logs/refused.sbatch': ")
  lu.assertStrContains(said, "invalid partition")
end

function tests.test_zz_time_limit_and_resumed()
  lu.assertEquals(finish(limited, 120), "COMPLETED 0:0 restarts 1")
  stopped(limited)
  lu.assertTrue(same_state("limited", "whole"))
end

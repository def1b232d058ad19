-- Training by several processes on this machine: the same as by one, whatever starts them; and how
-- they end when one dies, stops, is interrupted or has another recipe.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestDist = tests -- luacheck: ignore

local program = support.program
local folder, images
local has_mpi = support.which "mpirun"
  and C.ij_path_kind(program:match "^(.*)/" .. "/libijepa_mpi.so") == 1

function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 70, test = 10, size = 32 }
end

-- A recipe whose hook does something in a process at a step: words of a shell, in which $PPID is
-- the process.
local function recipe(rank, step, words)
  local path = ("%s/recipe%d.lua"):format(folder, step or 0)
  local hook = words and ([[
  step = function(t)
    if t.step >= %d then os.execute "sleep .4" end
    if t.dist.rank == %d and t.step == %d then os.execute %q end
  end,
]]):format(step, rank, step, words) or ""
  return support.write(path, 'local ijepa = require "ijepa"\n'
    .. "return ijepa.pretrain(ijepa.config {}, {\n" .. hook .. "})\n")
end

local function settings(over)
  local words = {
    ["data.root"] = images.train, ["data.batch"] = 4, ["data.crop"] = 32, ["data.workers"] = 1,
    ["model.width"] = 16,
    ["model.depth"] = 2, ["model.heads"] = 2, ["model.patch"] = 4, ["model.pred_depth"] = 1,
    ["model.pred_dim"] = 8,
    ["mask.min_keep"] = 3, ["mask.group"] = 4, ["optim.epochs"] = 3, ["optim.warmup"] = 1,
    ["model.init_gain"] = .7,
    ["model.patch_gain"] = 1.5, ["model.dtype"] = "f32", ["dist.bucket"] = .01,
    ["diagnose.every"] = 0, out = folder .. "/" .. over.out,
  }
  for k, v in pairs(over) do
    if k ~= "out" then words[k] = v end
  end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return list
end

local jobs = 0
-- n processes with SLURM's variables, as srun without MPI starts them; last: further arguments of
-- the last one. Returns their exit codes and what each printed.
local function srun(n, argv, last)
  jobs = jobs + 1
  local started, codes, texts = {}, {}, {}
  for i = 0, n - 1 do
    started[i + 1] = support.start({ argv, i == n - 1 and last or {} }, { merge = true, env = {
      SLURM_JOB_ID = C.getpid() + 100003 * jobs, SLURM_STEP_ID = 0,
      SLURM_STEP_NODELIST = "localhost", SLURM_STEP_NUM_TASKS = n, SLURM_PROCID = i } })
  end
  for i, process in ipairs(started) do codes[i], texts[i] = process:wait(100) end
  return codes, texts
end

-- n processes; how: "mpi" or "srun". Returns whether all were content, and what they said.
local function start(how, n, over, path)
  local argv = { program, path or recipe(), settings(over) }
  if n > 1 and how == "srun" then
    local codes, texts = srun(n, argv)
    for i = 2, n do codes[1] = math.max(codes[1], codes[i]) end
    return codes[1] == 0, table.concat(texts)
  end
  local mpirun = support.split "mpirun --allow-run-as-root --oversubscribe --bind-to none -n"
  local code, text = support.run(n == 1 and argv or { mpirun, n, argv },
    { merge = true, timeout = 100, signal = support.SIGTERM })
  return code == 0, text
end

local function latest(run) return ("%s/%s/jepa-latest.safetensors"):format(folder, run) end

-- The largest difference of two runs' tensors, each in units of the tensor's largest number; and
-- their steps.
local function difference(a, b)
  local one, two, worst = assert(ijepa.checkpoint.load(latest(a))),
    assert(ijepa.checkpoint.load(latest(b))), 0
  lu.assertEquals(one:names(), two:names())
  for _, name in ipairs(one:names()) do
    local count = 1
    for _, size in ipairs(one:info(name).shape) do count = count * size end
    local x, y = F.new("float[?]", count), F.new("float[?]", count)
    assert(one:read(name, x, count))
    assert(two:read(name, y, count))
    local most, apart = 1e-30, 0
    for i = 0, count - 1 do
      most, apart = math.max(most, math.abs(x[i])), math.max(apart, math.abs(x[i] - y[i]))
    end
    worst = math.max(worst, apart / most)
  end
  return worst, one:meta "step", two:meta "step"
end

local function rows(run)
  local log = assert(ijepa.run.read_log(folder .. "/" .. run))
  return log.loss, log.k, log.t
end

-- Sums of gradients in another order differ by some 1e-7 of the largest; AdamW and twelve steps
-- make some 1e-6 of it.
local ROUNDING = 1e-5

local function ways()
  local list = { { "srun", 2 }, { "srun", 4, shard = true } }
  if has_mpi then
    list = { { "mpi", 2 }, { "mpi", 4 }, { "mpi", 4, shard = true }, unpack(list) }
  end
  return list
end

function tests.test_several_processes_train_as_one_does()
  for _, clip in ipairs { 0, 1 } do
    local name = "one" .. clip
    lu.assertTrue(start("mpi", 1, { out = name, ["optim.accumulate"] = 4, ["optim.clip"] = clip }))
    local loss, k, t = rows(name)
    local before
    for _, w in ipairs(ways()) do
      local run = ("%s%d%s%d"):format(w[1], w[2], w.shard and "shard" or "", clip)
      local fine, text = start(w[1], w[2], { out = run, ["optim.accumulate"] = 4 / w[2],
        ["optim.shard"] = w.shard or false,
        ["optim.clip"] = clip })
      lu.assertTrue(fine, text)
      lu.assertStrContains(text, ("x %d processes (%s)"):format(w[2], w[1] == "mpi" and "mpi"
        or "tcp"))
      local apart, step, steps = difference(name, run)
      lu.assertEquals(steps, step)
      lu.assertTrue(apart < ROUNDING, ("%s: %g"):format(run, apart))
      local its_loss, its_k, its_t = rows(run)
      lu.assertEquals(its_k, k)   -- lengths of masks: exactly
      lu.assertEquals(its_t, t)
      -- five digits are in the log
      for i = 1, #loss do lu.assertAlmostEquals(its_loss[i], loss[i], 2e-5) end
      -- sharded or not: the same bits
      if w.shard and before and w[1] == "mpi" then lu.assertTrue(difference(before, run) == 0) end
      before = run
    end
  end
end

local function resumes_to_the_same(run, n, over)
  lu.assertTrue(start("mpi", 1, { out = "whole", ["optim.accumulate"] = 4 }))
  local fine, text = start("srun", n, { out = run, ["optim.accumulate"] = over })
  lu.assertTrue(fine, text)
  lu.assertStrContains(text, "resumes from")
  local apart, step, steps = difference("whole", run)
  lu.assertEquals(steps, step)
  lu.assertTrue(apart < ROUNDING, ("%g"):format(apart))
  return text
end

function tests.test_a_killed_process_ends_the_others()
  for _, how in ipairs { "srun", has_mpi and "mpi" or nil } do
    local started = C.ij_time()
    local fine, text = start(how, 2, { out = how, ["optim.accumulate"] = 2,
      ["log.save_steps"] = 2 }, recipe(1, 7, "kill -9 $PPID"))
    lu.assertFalse(fine)
    lu.assertTrue(C.ij_time() - started < 20)
    lu.assertStrMatches(text:gsub("\n", " "),
      ".*process 1 %(%d+ on %S+%) is gone; step %d+ is saved in '.-': the same command resumes there.*")
    lu.assertStrContains(resumes_to_the_same(how, 4, 2),
      "4 processes instead of 2: optim.accumulate is 1, so that the batch size is 16 as before")
  end
end

function tests.test_a_stopped_process_is_named()
  local how = has_mpi and "mpi" or "srun"
  local fine, text = start(how, 2, { out = "run", ["dist.timeout"] = 5 }, recipe(1, 5,
    "kill -STOP $PPID; (sleep 20; kill -9 $PPID) & "))
  lu.assertFalse(fine)
  lu.assertStrMatches(text:gsub("\n", " "),
    ".*process 1 %(%d+ on %S+%) did not join the others within 5 seconds %(dist.timeout%): it no longer answers.*")
end

function tests.test_signals_stop_all_at_one_step()
  lu.skipIf(not has_mpi,
    "SKIPPED: no mpirun, or built without it (packages openmpi-bin, libopenmpi-dev)")
  local fine, text = start("mpi", 2, { out = "run", ["optim.accumulate"] = 2 },
    recipe(0, 6, "read _ _ _ p _ </proc/$PPID/stat; kill -TERM $p"))
  lu.assertFalse(fine)
  lu.assertStrContains(text, "interrupted: step")
  local file = assert(ijepa.checkpoint.load(latest "run"))
  lu.assertTrue(file:meta "step" >= 6 and file:meta "step" < 12)
  file:close()
  resumes_to_the_same("run", 4, 2)
  local last = select(2, start("mpi", 1, { out = "whole", ["optim.accumulate"] = 4 }))
  lu.assertStrContains(last, "already finished: 12 of 12 steps")
end

-- Two processes, of which number 1 gets a further argument; what they print and their exit codes.
local function two(path, over, further)
  local codes, texts = srun(2, { program, path, settings(over) }, further)
  return ("%s%sexit %d\nexit %d\n"):format(texts[1], texts[2], codes[2], codes[1])
end

function tests.test_other_recipes_and_other_data_are_noticed()
  local text = two(recipe(), { out = "x" }, "optim.lr=2e-3")
  lu.assertStrContains(text, "process 1 has another optim.lr than process 0: 0.002, not 0.001")
  lu.assertStrContains(text, "exit 1\nexit 1\n")
  -- the same name is another file on process 1's machine
  local other = assert(ijepa.scenes.generate { out = folder .. "/others", n = 71, test = 10,
    size = 32 })
  local path = recipe()
  support.write(path, ([[
    local ijepa = require "ijepa"
    local open = ijepa.data.open
    ijepa.data.open = function(o)
      if os.getenv "SLURM_PROCID" == "1" then o.root = %q end
      return open(o)
    end
    return ijepa.pretrain(ijepa.config {})]]):format(other.train))
  text = two(path, { out = "y" })
  lu.assertStrContains(text,
    "process 1 has another set of images (names, sizes, times of change) than process 0")
  lu.assertStrContains(text, "exit 1\nexit 1\n")
end

function tests.test_alone_it_costs_nothing()
  local d = assert(ijepa.dist.open {})
  lu.assertEquals({ d.rank, d.size, d.transport }, { 0, 1, "none" })
  lu.assertEquals(d:sum { 1, 2 }, { 1, 2 })
  lu.assertEquals(d:broadcast "x", "x")
  lu.assertEquals({ d:in_turn(function() return 1, nil, 3 end) }, { 1, nil, 3 })
  d:barrier()
  lu.assertFalse(d:lost())
  d:close()
end

-- ijepa submit: its arguments, the text of the batch script, and what that script does where srun
-- and scontrol are played by small scripts. tests/slurm/ has the same with a real SLURM.
local lu = require "luaunit"
local submit = require "ijepa.submit"
local F = require "ijepa.base.ffi"
local support = require "support"

local tests = {}
TestSubmit = tests -- luacheck: ignore

local program, write = support.program, support.write
local folder
local function read(path) return F.C.ij_path_kind(path) == 1 and support.read(path) or "" end
local function shell(argv, env) return support.run(argv, { env = env, merge = true }) end

function tests.setUp()
  folder = support.folder()
  F.check(F.C.ij_mkdirs(folder .. "/bin"))
  write(folder .. "/a.lua", "print 'a'")
  write(folder .. "/b c.lua", "print 'b c'")
end

local function parse(...) return submit.parse { "--folder", folder .. "/logs", ... } end
local function script(...)
  local o = assert(parse(...))
  o.program, o.cwd = folder .. "/program", folder
  return submit.script(o)
end

function tests.test_the_published_run()
  local text = script("recipes/in1k_vith14.lua", "--nodes", "2", "--tasks-per-node", "8",
    "--partition", "gpu", "--time", "1000",
    "--cpus-per-task=10", "device=cuda", "data.root=/data/imagenet/train")
  lu.assertEquals(text:match "^(.-)\n\n", ([[
#!/bin/bash
#SBATCH --job-name=in1k_vith14
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --partition=gpu
#SBATCH --cpus-per-task=10
#SBATCH --gpus-per-node=8
#SBATCH --time=16:40:00
#SBATCH --chdir="FOLDER"
#SBATCH --output="FOLDER/logs/%j.out"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
# written by ijepa 0.1.0 submit]]):gsub("FOLDER", folder):gsub("0%.1%.0", require "ijepa".version))
  lu.assertStrContains(text,
    "recipes=(recipes/in1k_vith14.lua)\nwords=(device=cuda data.root=/data/imagenet/train)\n")
  lu.assertStrContains(text, "start=(--cpus-per-task=10)\n")
  lu.assertStrContains(text, "export OMP_NUM_THREADS=10\n")
end

function tests.test_an_array_and_other_options()
  local text = script(folder .. "/a.lua", folder .. "/b c.lua", "--account=A", "--qos=Q", "--mem",
    "64G", "--name=N", "--mpi=pmi2",
    "--sbatch=--exclusive", "--sbatch=--mail-type=END", "--gpus-per-task", "2", "--notice", "300",
      "--time", "2-00:30:00")
  for _, line in ipairs { "--job-name=N", "--array=0-1", "--account=A", "--qos=Q", "--mem=64G",
      "--exclusive", "--mail-type=END",
    "--gpus-per-node=2", "--signal=TERM@300", "--time=2-00:30:00",
      '--output="' .. folder .. '/logs/%A_%a.out"' } do
    lu.assertStrContains(text, "\n#SBATCH " .. line .. "\n")
  end
  lu.assertStrContains(text, ("recipes=(%s/a.lua '%s/b c.lua')\n"):format(folder, folder))
  lu.assertStrContains(text, "start=(--mpi=pmi2)\n")
  lu.assertNotStrContains(text, "srun --mpi=list")
  lu.assertNotStrContains(text, "OMP_NUM_THREADS")
end

function tests.test_times()
  for given, line in pairs { ["1"] = "00:01:00", ["90"] = "01:30:00", ["0:05:00"] = "00:05:00",
      ["30:00:00"] = "1-06:00:00",
    ["3-12:00:00"] = "3-12:00:00", ["2880"] = "2-00:00:00" } do
    lu.assertStrContains(script(folder .. "/a.lua", "--time", given), "--time=" .. line .. "\n")
  end
  -- a quarter of it
  lu.assertStrContains(script(folder .. "/a.lua", "--time", "4"), "--signal=TERM@60\n")
  lu.assertStrContains(script(folder .. "/a.lua"), "--signal=TERM@120\n")
end

function tests.test_mistakes()
  local recipe = folder .. "/a.lua"
  for _, case in ipairs {
    { { recipe, "--nods", "2" }, "unknown option '--nods' (did you mean '--nodes'?)" },
    { { recipe, "-N", "2" }, "unknown option '-N'" },
    { { recipe, "--nodes" }, "--nodes: its value is missing" },
    { { recipe, "--nodes", "0" }, "--nodes is '0': expected a whole number, 1 or more" },
    { { recipe, "--nodes=1.5" }, "--nodes is '1.5': expected a whole number" },
    { { recipe, "--time", "10:30" },
      "--time is '10:30': expected minutes, like 1000, or H:MM:SS, like 16:40:00" },
    { { recipe, "--time", "1:75:00" }, "--time is '1:75:00': expected minutes" },
    { { recipe, "--time", "0" }, "at least a minute" },
    { { recipe, "--time", "2", "--notice", "120" },
      "--notice 120 s does not fit into --time 00:02:00" },
    { { recipe, "--mem", "64 GB" }, "--mem is '64 GB': expected a size like 64G" },
    { { recipe, "--partition", "a b" }, "--partition is 'a b': expected letters" },
    { { recipe, "--name", "a\n#SBATCH --wait" }, "expected letters" },
    { { recipe, "--sbatch", "exclusive" },
      "--sbatch is 'exclusive': expected an option of sbatch" },
    { { recipe, "--folder", "50%" }, "--folder is '50%': expected a folder without any of" },
    { {}, "which recipe?" },
    { { folder .. "/aa.lua" },
      ("recipe '%s/aa.lua' is not there (did you mean '%s/a.lua'?)"):format(folder, folder) },
    { { folder }, ("recipe '%s' is not there"):format(folder) },
    { { recipe, recipe }, "is given twice: both runs would write into one folder" },
    { { recipe, folder .. "/b c.lua", "out=x" }, "'out=x' with 2 recipes" },
    { { recipe, "resume=false" }, "'resume=false': a run that is queued again would start anew" },
  } do
    local o, message = parse(unpack(case[1]))
    lu.assertNil(o)
    lu.assertStrContains(message, case[2])
  end
  lu.assertEquals({ submit.parse { recipe } },
    { nil, "--folder F is missing: where the script and the logs go" })
end

function tests.test_the_command()
  local code, said = shell { program, "submit", "--nods", "2" }
  lu.assertEquals({ code, said },
    { 2, "ijepa: submit: unknown option '--nods' (did you mean '--nodes'?)\ntry: ijepa help submit\n" })
  local command = { program, "submit", folder .. "/a.lua", "--folder", folder .. "/logs" }
  code, said = shell { command, "--dry-run" }
  lu.assertEquals(code, 0)
  lu.assertStrMatches(said, "#!/bin/bash\n.*\nprogram=/[^\n]*\n.*")
  lu.assertEquals(F.C.ij_path_kind(folder .. "/logs"), 0)   -- nothing was written
  shell { "ln", "-s", support.which "readlink", folder .. "/bin" }   -- a machine without SLURM
  code, said = shell(command, { PATH = folder .. "/bin" })
  lu.assertEquals(code, 1)
  lu.assertEquals(said,
    ("ijepa: submit: sbatch is not on this machine: start '%s/logs/a.sbatch' with it where SLURM is\n"):format(folder))
  code, said = shell { program, "submit", "--help" }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "--tasks-per-node N")
end

-- What a submission says, with an sbatch that takes it or refuses it.
function tests.test_submitting()
  support.executable(folder .. "/bin/sbatch", "#!/bin/sh\necho \"$@\" >" .. folder
    .. "/asked\necho '77;cluster'\n")
  local env = { PATH = folder .. "/bin:" .. os.getenv "PATH" }
  local command = { program, "submit", folder .. "/a.lua", "--folder", folder .. "/logs/" }
  local code, said = shell(command, env)
  lu.assertEquals({ code, (said:gsub(folder, "F")) },
    { 0, "ijepa: job 77: 'F/logs/a.sbatch'; logs: F/logs/77.out, of the tasks F/logs/77_*.out\n" })
  lu.assertEquals(read(folder .. "/asked"), "--parsable " .. folder .. "/logs/a.sbatch\n")
  lu.assertStrContains(read(folder .. "/logs/a.sbatch"), "\nrecipes=(" .. folder .. "/a.lua)\n")
  code, said = shell({ command, folder .. "/b c.lua" }, env)
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "/logs/77_{0..1}.out")
  support.executable(folder .. "/bin/sbatch",
    "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
  code, said = shell(command, env)
  lu.assertEquals(code, 1)
  lu.assertEquals(said,
    ("ijepa: submit: sbatch refused '%s/logs/a.sbatch': invalid partition specified: x\n"):format(
    folder))
end

-- Runs the script with an srun that starts one task, in which `program` is the shell text given,
-- after what comes before: exit code, what the script said, and what scontrol was asked.
local function job(text, o)
  o = o or {}
  support.executable(folder .. "/bin/srun", [[
#!/bin/bash
if [ "$1" = --mpi=list ]; then echo "MPI plugin types are... pmix pmi2"; exit; fi
echo "$*" >"$OUT/srun"
while [ "${1#-}" != "$1" ]; do
  case $1 in --output=*) out=${1#--output=} ;; esac
  shift
done
export SLURM_PROCID=0 SLURMD_NODENAME=n1
"$@" >>"${out//%t/0}" 2>&1
code=$?
exit ${SRUN_CODE-$code}
]])
  support.executable(folder .. "/bin/scontrol",
    "#!/bin/sh\necho \"$*\" >>$OUT/scontrol\nexit ${SCONTROL_CODE-0}\n")
  support.executable(folder .. "/program", "#!/bin/bash\n" .. text .. "\n")
  write(folder .. "/job", script(folder .. "/a.lua", unpack(o.words or {})))
  assert(F.try(F.C.ij_mkdirs(folder .. "/logs")))
  os.remove(folder .. "/scontrol")
  local env = { OUT = folder, PATH = folder .. "/bin:" .. os.getenv "PATH",
    SLURM_JOB_ID = o.id or 7,
    SLURM_NTASKS = 1, SLURM_JOB_NODELIST = "n1" }
  for name, value in (o.env or ""):gmatch "(%S+)=(%S+)" do env[name] = value end
  local code, said = shell({ "bash", folder .. "/job" }, env)
  lu.assertEquals(F.C.ij_path_kind(folder .. "/logs/7.failed"), 0)
  lu.assertNotStrContains(said, "not found")   -- of a word that the shell takes for a command
  return code, said, read(folder .. "/scontrol")
end
local function stop_at(step)
  return ("echo \"interrupted: step %d is saved in 'x'; the same\"; exit 143"):format(step)
end

function tests.test_a_job_that_ends()
  local code, said, asked = job('printf "%s|" "$@"',
    { words = { "data.root=it's $HOME \"x\"", "out=a b" } })
  lu.assertEquals({ code, asked }, { 0, "" })
  lu.assertStrMatches(said,
    ".*job 7: start 1 of '.*/a%.lua', 1 task%(s%) on n1; logs: .*/logs/7_%*%.out\n.*job 7: done\n")
  lu.assertEquals(read(folder .. "/logs/7_0.out"),
    ("%s/a.lua|data.root=it's $HOME \"x\"|out=a b|"):format(folder))
  lu.assertStrContains(read(folder .. "/srun"), "--mpi=pmix --kill-on-bad-exit=1 ")
end

function tests.test_a_job_that_is_stopped_is_queued_again()
  local code, said, asked = job(stop_at(20))
  lu.assertEquals({ code, asked }, { 0, "requeue 7\n" })
  lu.assertStrContains(said, "job 7: stopped at step 20: queued again\n")
  local _
  -- not the whole array
  code, _, asked = job(stop_at(20), { env = "SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=0" })
  lu.assertEquals({ code, asked }, { 0, "requeue 7_0\n" })
  code, said = job(stop_at(21), { env = "SCONTROL_CODE=1" })
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "could not be queued again: submit it once more")
end

function tests.test_a_signal_to_all_waits_for_the_program()
  -- as SLURM sends it: to the shell around it too
  local code, _, asked =
    job("trap 'sleep .3; echo \"interrupted: step 5 is saved\"; exit 143' TERM\nkill -TERM $PPID $$; sleep 5")
  lu.assertEquals({ code, asked }, { 0, "requeue 7\n" })
end

function tests.test_a_failure_is_not_queued_again()
  for text, expected in pairs { ["exit 1"] = 1, ["exit 130"] = 130, ["kill -9 $$"] = 137 } do
    local code, said, asked = job(text)
    lu.assertEquals({ code, asked }, { expected, "" })
    lu.assertStrContains(said, ("task 0 on n1 exited with code %d"):format(expected))
    lu.assertStrContains(said, "failed, and is not started again: see ")
  end
  -- srun ended the other tasks by SIGTERM
  local code, said, asked = job("exit 1", { env = "SRUN_CODE=143" })
  lu.assertEquals({ code, asked }, { 1, "" })
  lu.assertStrContains(said, "task 0 on n1 exited with code 1")
  code, said, asked = job("exit 0", { env = "SRUN_CODE=5" })   -- no task came to life
  lu.assertEquals({ code, asked }, { 5, "" })
  lu.assertStrContains(said, "srun exited with code 5")
end

function tests.test_no_progress_ends_it()
  for _, step in ipairs { 10, 20, 20 } do
    lu.assertEquals(select(3, job(stop_at(step))), "requeue 7\n")
  end
  local code, said, asked = job(stop_at(20))
  lu.assertEquals({ code, asked }, { 1, "" })
  lu.assertStrContains(said, "stopped three times at step 20: it is not started again")
  support.remove(folder .. "/logs")
  for _, expected in ipairs { "requeue 7\n", "requeue 7\n", "" } do
    -- stopped before it could save anything
    lu.assertEquals(select(3, job "kill -TERM $$"), expected)
  end
end

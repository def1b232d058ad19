-- Runs on a SLURM cluster: `ijepa submit RECIPE ... --folder F [OPTION ...] [key=value ...]` writes
-- a batch script into F and submits it; several recipes become a job array. Options:
--   --folder F            where the script and the logs go (needed): JOB.out of the job,
--                         JOB_TASK.out of each task
--   --nodes N             machines (1)
--   --tasks-per-node N    processes on each, one for a GPU (1)
--   --partition P, --account A, --qos Q
--   --time T              limit: minutes, H:MM:SS or D-HH:MM:SS; a longer run resumes in another
--                         job
--   --notice S            seconds before the limit at which the run saves and is queued again (120,
--                         at most a quarter of T)
--   --gpus-per-task N     (1 with device=cuda) each task sees all GPUs of its machine and uses
--                         number SLURM_LOCALID
--   --cpus-per-task N     also the number of threads per process
--   --mem M               memory per machine, like 64G
--   --name N              of the job (default: the recipe's)
--   --mpi M               how srun starts processes (pmix, where it is there)
--   --sbatch=OPTION       any other option of sbatch, like --sbatch=--exclusive; may be repeated
--   --dry-run             prints the script; nothing is written or submitted
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local submit = {}

-- Readers of an option's value: what goes into the script, or nil and what was expected.
local function count(v)
  local n = v:match "^%d+$" and tonumber(v)
  if n and n >= 1 then return n end
  return nil, "expected a whole number, 1 or more"
end
local function name(v)
  if v:find "^[%w_.,:+@/-]+$" then return v end
  return nil, "expected letters, digits and any of _.,:+@/-"
end
local function memory(v)
  if v:find "^%d+[KMGT]?$" then return v end
  return nil, "expected a size like 64G"
end
local function path(v)   -- SLURM replaces %j and the like in names of logs
  if v ~= "" and not v:find "[%%\n\"\\]" then return v end
  return nil, "expected a folder without any of % \" \\ in its name"
end
local function line(v)
  if v:find "^%-" and not v:find "\n" then return v end
  return nil, "expected an option of sbatch, like --sbatch=--exclusive"
end

-- D-HH:MM:SS of a limit in seconds.
local function clock(s)
  local days = math.floor(s / 86400)
  return (days > 0 and days .. "-" or "") .. ("%02d:%02d:%02d"):format(math.floor(s / 3600) % 24,
    math.floor(s / 60) % 60, s % 60)
end

-- Seconds of a limit. Two numbers with a colon would be minutes and seconds to SLURM, hours and
-- minutes to many: refused.
local function limit(v)
  local minutes = v:match "^%d+$"
  local d, h, m, s = v:match "^(%d+)%-(%d+):(%d%d):(%d%d)$"
  if not d then
    d, h, m, s = 0, v:match "^(%d+):(%d%d):(%d%d)$"
  end
  local seconds = minutes and 60 * tonumber(minutes)
    or h and tonumber(m) < 60 and tonumber(s) < 60 and ((d * 24 + h) * 60 + m) * 60 + s
  if seconds and seconds >= 60 then return seconds end
  return nil, "expected minutes, like 1000, or H:MM:SS, like 16:40:00; at least a minute"
end

local readers = {
  folder = path, nodes = count, ["tasks-per-node"] = count, partition = name, account = name,
  qos = name, time = limit,
  notice = count, ["gpus-per-task"] = count, ["cpus-per-task"] = count, mem = memory, name = name,
  mpi = name, sbatch = line,
}
local flags = { ["dry-run"] = true, help = true }

-- Reads an option and its value, which follows "=" or is the next argument, into o. Returns the
-- number of arguments read.
local function read_option(o, word, following)
  local key, value = word:match "^%-%-([^=]+)=?(.*)$"
  if not key then return nil, ("unknown option '%s'"):format(word) end
  if flags[key] and not word:find "=" then
    o[key] = true
    return 1
  end
  if not readers[key] then
    local known = text.keys(readers)
    for flag in pairs(flags) do known[#known + 1] = flag end
    for i = 1, #known do known[i] = "--" .. known[i] end
    return nil, ("unknown option '--%s'%s"):format(key, text.hint("--" .. key, known))
  end
  local used = word:find "=" and 1 or 2
  if used == 2 then value = following end
  if not value then return nil, ("--%s: its value is missing"):format(key) end
  local read, expected = readers[key](value)
  if not read then return nil, ("--%s is '%s': %s"):format(key, value, expected) end
  if key == "sbatch" then o.sbatch[#o.sbatch + 1] = read else o[key] = read end
  return used
end

-- The recipe's name without folder and ending, with only those characters that SLURM takes.
local function title(recipe)
  return (recipe:match "[^/]*$":gsub("%.lua$", ""):gsub("[^%w_.-]", "_"))
end

-- " (did you mean 'recipes/x.lua'?)" from the files beside a missing recipe.
local function nearest_recipe(recipe)
  local folder, file = recipe:match "^(.*/)([^/]*)$"
  local names, near = F.new "char *[1]", {}
  if not folder then folder, file = "", recipe end
  if F.C.ij_dir_list(folder == "" and "." or folder, names) ~= 0 then return "" end
  for found in F.string(names[0]):gmatch "[^\n]+%.lua" do near[#near + 1] = found end
  F.C.ij_bytes_free(names[0])
  local best = text.nearest(file, near)
  return best and (" (did you mean '%s%s'?)"):format(folder, best) or ""
end

-- What would break with several recipes, or at a second start: a message, or nil.
local function conflict(o)
  local seen = {}
  for _, recipe in ipairs(o.recipes) do
    if F.C.ij_path_kind(recipe) ~= 1 then
      return ("recipe '%s' is not there%s"):format(recipe, nearest_recipe(recipe))
    end
    if seen[recipe] then
      return ("recipe '%s' is given twice: both runs would write into one folder"):format(recipe)
    end
    seen[recipe] = true
  end
  for _, word in ipairs(o.words) do
    if word:find "^out=" and #o.recipes > 1 then
      return ("'%s' with %d recipes: all runs would write into one folder; leave it out, each "
        .. "recipe has its own"):format(word, #o.recipes)
    end
    if word == "resume=false" then
      return "'resume=false': a run that is queued again would start anew each time; leave it out"
    end
  end
  if o.time and o.notice >= o.time then
    return ("--notice %d s does not fit into --time %s"):format(o.notice, clock(o.time))
  end
end

--- The arguments of `ijepa submit` as a table for submit.script, or nil and what is wrong with
--- them.
---@param args string[]
---@return table? o, string? message
function submit.parse(args)
  local o, i = { recipes = {}, words = {}, sbatch = {}, nodes = 1, ["tasks-per-node"] = 1 }, 1
  while i <= #args do
    local word = args[i]
    if word:find "^%-" then
      local used, message = read_option(o, word, args[i + 1])
      if not used then return nil, message end
      i = i + used - 1
    elseif word:find "^[%a_][%w_.]*=" then
      o.words[#o.words + 1] = word
    else
      o.recipes[#o.recipes + 1] = word
    end
    i = i + 1
  end
  if o.help then return o end
  if not o.recipes[1] then return nil, "which recipe?" end
  if not o.folder then return nil, "--folder F is missing: where the script and the logs go" end
  o.folder = o.folder:gsub("(.)/+$", "%1")
  o.notice = o.notice or math.min(120, o.time and math.floor(o.time / 4) or 120)
  o.name = o.name or #o.recipes == 1 and title(o.recipes[1]) or "ijepa"
  local device = os.getenv "IJEPA_DEVICE" or ""
  for _, word in ipairs(o.words) do device = word:match "^device=(.*)" or device end
  if device:find "^cuda" then o["gpus-per-task"] = o["gpus-per-task"] or 1 end
  local message = conflict(o)
  if message then return nil, message end
  return o
end

-- An argument quoted for bash.
local function quote(word)
  return word:find "^[%w_./=:,+@-]+$" and word or "'" .. word:gsub("'", "'\\''") .. "'"
end
local function quoted(list)
  local out = {}
  for i, word in ipairs(list) do out[i] = quote(word) end
  return table.concat(out, " ")
end

-- The lines that sbatch reads.
local function directives(o)
  local lines = {}
  local function add(fmt, ...) lines[#lines + 1] = "#SBATCH " .. fmt:format(...) end
  add("--job-name=%s", o.name)
  add("--nodes=%d", o.nodes)
  add("--ntasks-per-node=%d", o["tasks-per-node"])
  for _, key in ipairs { "partition", "account", "qos", "cpus-per-task", "mem" } do
    if o[key] then add("--%s=%s", key, o[key]) end
  end
  -- each task sees all of its job's on a machine, so that they reach each other: --gpus-per-task of
  -- sbatch shows it one
  if o["gpus-per-task"] then add("--gpus-per-node=%d", o["gpus-per-task"] * o["tasks-per-node"]) end
  if o.time then add("--time=%s", clock(o.time)) end
  if #o.recipes > 1 then add("--array=0-%d", #o.recipes - 1) end
  add('--chdir="%s"', o.cwd)
  add('--output="%s/%s.out"', o.folder, #o.recipes > 1 and "%A_%a" or "%j")
  add "--open-mode=append"
  add "--requeue"
  add("--signal=TERM@%d", o.notice)
  for _, option in ipairs(o.sbatch) do add("%s", option) end
  return table.concat(lines, "\n")
end

-- What each job does. SIGTERM goes to the tasks, not to this shell: before the time limit
-- (--signal) and before a preemption. A run then saves and exits with 128 + 15.
local body = [=[
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}   # in an array SLURM_JOB_ID may stand for all of it
recipe=${recipes[${SLURM_ARRAY_TASK_ID:-0}]}
export failed="$folder/$job.failed"
: >"$failed"
trap 'rm -f "$failed"' EXIT
say() { printf '%s job %s: %s\n' "$(date '+%F %T')" "$job" "$*"; }

# A task records its own failure: srun then ends the others by SIGTERM, and their exit codes mean
# nothing.
task='
trap : TERM
"$@"
code=$?
case $code in
  0 | 143) ;;
  *) echo "task $SLURM_PROCID on $SLURMD_NODENAME exited with code $code" >>"$failed" ;;
esac
exit $code'

tasks="$SLURM_NTASKS task(s) on $SLURM_JOB_NODELIST"
say "start $((${SLURM_RESTART_COUNT:-0} + 1)) of '$recipe', $tasks; logs: $folder/${job}_*.out"
srun "${start[@]}" --kill-on-bad-exit=1 --open-mode=append --output="$folder/${job}_%t.out" \
  sh -c "$task" ijepa "$program" "$recipe" "${words[@]}"
code=$?
failures=$(cat "$failed")   # opened, so that a network file system shows what other machines wrote
if [ $code = 0 ]; then
  say "done"
  exit 0
fi
if [ -n "$failures" ] || [ $code != 143 ]; then
  say "${failures:-srun exited with code $code}"
  say "failed, and is not started again: see $folder/${job}_*.out"
  [ $code = 143 ] && exit 1
  exit $code
fi

# Stopped by the time limit or a preemption. After three stops at one step another start would gain
# nothing.
step=$(sed -n 's/.*interrupted: step \([0-9]*\) is saved.*/\1/p' "$folder/${job}_0.out" | tail -n 1)
steps=$folder/$job.steps
echo "${step:-0}" >>"$steps"
if [ "$(wc -l <"$steps")" -ge 3 ] && [ "$(tail -n 3 "$steps" | sort -u | wc -l)" = 1 ]; then
  say "stopped three times at step ${step:-0}: it is not started again;" \
    "it needs a longer --time or --notice"
  exit 1
fi
say "stopped at step ${step:-0}: queued again"
scontrol requeue "$job" && exit 0
say "could not be queued again: submit it once more, and it resumes from its checkpoint"
exit 1
]=]

-- How srun starts the tasks. MPI needs the starter that its library was built for: PMIx for
-- Debian's OpenMPI.
local function start_lines(o)
  local start = {}
  -- srun does not ask the job for it
  if o["cpus-per-task"] then start[1] = "--cpus-per-task=" .. o["cpus-per-task"] end
  if o.mpi then start[#start + 1] = "--mpi=" .. o.mpi end
  local lines = { ("start=(%s)"):format(quoted(start)) }
  if not o.mpi then
    lines[2] = "case $(srun --mpi=list 2>&1) in *pmix*) start+=(--mpi=pmix) ;; esac"
  end
  if o["cpus-per-task"] then lines[#lines + 1] = "export OMP_NUM_THREADS=" .. o["cpus-per-task"] end
  return lines
end

--- The text of the batch script.
---@param o table of submit.parse, with the program's file (`program`) and where it runs (`cwd`)
---@return string
function submit.script(o)
  local parts = {
    "#!/bin/bash", directives(o), ("# written by ijepa %s submit"):format(ijepa.version), "",
    "program=" .. quote(o.program), "folder=" .. quote(o.folder),
    ("recipes=(%s)"):format(quoted(o.recipes)), ("words=(%s)"):format(quoted(o.words)),
  }
  for _, text_line in ipairs(start_lines(o)) do parts[#parts + 1] = text_line end
  return table.concat(parts, "\n") .. "\n" .. body
end

-- What a shell command prints, and its exit code.
local function shell(command)
  local pipe = io.popen(command .. "; echo $?")
  local said = pipe:read "*a"
  pipe:close()
  local out, code = said:match "^(.-)%s*(%d+)%s*$"
  return out, tonumber(code)
end

-- Writes the script and submits it with sbatch. Returns what to print, or nil and a message.
local function hand_in(o, script)
  local file = ("%s/%s.sbatch"):format(o.folder, o.name)
  local ok, message = F.try(F.C.ij_mkdirs(o.folder))
  if ok then ok, message = F.try(F.C.ij_file_replace(file, script, #script)) end
  if not ok then return nil, message end
  if select(2, shell "command -v sbatch >/dev/null") ~= 0 then
    return nil, ("sbatch is not on this machine: start '%s' with it where SLURM is"):format(file)
  end
  local said, code = shell(("sbatch --parsable %s 2>&1"):format(quote(file)))
  local job = code == 0 and said:match "(%d+)[^\n]*$"
  if not job then
    return nil, ("sbatch refused '%s': %s"):format(file, (said:gsub("sbatch: error: ",
      ""):gsub("\n", "; ")))
  end
  local logs = ("%s/%s%s"):format(o.folder, job, #o.recipes > 1
    and ("_{0..%d}"):format(#o.recipes - 1) or "")
  return ("job %s: '%s'; logs: %s.out, of the tasks %s_*.out"):format(job, file, logs, logs)
end

--- The command `ijepa submit`. Returns the exit code.
---@param args string[]
---@return integer code, string? usage what is wrong with the arguments
function submit.main(args)
  local o, wrong = submit.parse(args)
  if not o then return 2, wrong end
  if o.help then return ijepa.help "submit" and 0 or 1 end
  o.cwd, o.program = shell "pwd -P; readlink /proc/$PPID/exe":match "^([^\n]*)\n([^\n]*)"
  local script = submit.script(o)
  if o["dry-run"] then
    io.write(script)
    return 0
  end
  local said, message = hand_in(o, script)
  io.stderr:write("ijepa: ", said or "submit: " .. message, "\n")
  return said and 0 or 1
end

return submit

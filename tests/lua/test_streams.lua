-- Streams, signals and file systems: readers that go away, closed and full streams, outputs onto
-- links and devices, file systems without links or locks, few open files.
local lu = require "luaunit"
local support = require "support"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestStreams = tests -- luacheck: ignore

local program = support.program
local preload = program:match "^(.*)/" .. "/tests/libfaults.so"
local folder, made
function tests.setUp()
  folder = support.folder()
  made = support.scenes { n = 40, test = 2, size = 32 }
end
function tests.tearDown() support.run { "chmod", "-R", "u+w", folder } end

local write = support.write
local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

-- Runs a shell command: pipes and redirections are what is tested. Exit code and what it printed.
local function shell(text)
  local code, said = support.run({ "bash", "-c", text }, { merge = true })
  return code, said
end

-- The command line of a small run.
local function command(over)
  local words = { out = folder .. "/run", ["data.root"] = made.train,
    ["data.batch"] = 8, ["data.crop"] = 32, ["data.workers"] = 1,
    ["model.width"] = 16, ["model.depth"] = 2, ["model.heads"] = 2, ["model.patch"] = 4,
    ["model.pred_depth"] = 1, ["model.pred_dim"] = 8, ["mask.min_keep"] = 3, ["mask.group"] = 8,
    ["optim.epochs"] = 2, ["optim.warmup"] = 1, ["diagnose.every"] = 0, ["log.every"] = 1,
    ["log.save_epochs"] = 1 }
  for k, v in pairs(over or {}) do words[k] = v end
  write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
  local list = { program, folder .. "/recipe.lua" }
  for k, v in pairs(words) do list[#list + 1] = ("%s=%s"):format(k, tostring(v)) end
  return table.concat(list, " ")
end
local function step_of(run)
  local path = ("%s/%s/jepa-latest.safetensors"):format(folder, run or "run")
  if C.ij_path_kind(path) == 0 then return 0 end
  local file = assert(ijepa.checkpoint.load(path))
  local step = file:meta "step"
  file:close()
  return step
end
local function faults(settings) return ("export LD_PRELOAD=%s %s; "):format(preload, settings) end
local function has_faults() lu.skipIf(C.ij_path_kind(preload) == 0,
  "no libfaults.so: a build with sanitizers") end

-- ---- readers that go away -----------------------------------------------------------------------

-- Starts a run in the background, waits for rows in its log, sends signals to its group; exit code.
local function signalled(redirect, signals, over)
  local settings = { ["optim.epochs"] = 100000 }
  for k, v in pairs(over or {}) do settings[k] = v end
  local code, said = shell((
    "set -m; { trap : HUP; %s %s; echo ${PIPESTATUS[0]} >%s/rc; } & p=$!; "):format(
    command(settings), redirect, folder) ..
    ("for i in $(seq 600); do [ $(wc -l <%s/run/jepa_r0.csv 2>/dev/null || echo 0) -ge 4 ] && " ..
      "break; sleep .1; done; ")
      :format(folder) .. signals .. "; wait $p")
  lu.assertTrue(code ~= nil, said)
  return tonumber(read(folder .. "/rc")), said
end

function tests.test_ctrl_c_through_tee_saves_the_run()   -- the group's signal ends tee first
  lu.assertEquals((signalled(("2>&1 | tee %s/log >/dev/null"):format(folder),
    "trap : INT; kill -INT -- -$p")), 130)
  lu.assertTrue(step_of() >= 3)
end

function tests.test_ctrl_c_at_the_prompt_saves_the_run()
  local Terminal = require "terminal"
  lu.skipIf(not Terminal.available(), "no tmux")
  local words = command { ["optim.epochs"] = 100000 }:match "recipe.lua (.*)"
  write(folder .. "/settings.lua", 'local args = {}\nfor w in ("' .. words ..
    '"):gmatch "%S+" do args[#args + 1] = w end\n' ..
    'return require "ijepa.config".resolve({}, nil, args)\n')
  local t = Terminal.open(program, { columns = 150 })
  t:wait "[1]>"
  t:enter(('r = ijepa.pretrain(dofile "%s/settings.lua")'):format(folder))
  t:wait "step 5"
  t:type("", "C-c")
  t:wait "is saved in"
  t:wait "[2]>"
  t:close()
  lu.assertTrue(step_of() >= 3)
end

function tests.test_a_reader_that_goes_away_costs_no_run()
  local code = shell(command() .. " 2>&1 | head -1; exit ${PIPESTATUS[0]}")
  lu.assertEquals({ code, step_of() }, { 0, 10 })
end

function tests.test_a_closed_terminal_sends_hangup_twice()
  lu.assertEquals((signalled("2>&1 | cat >/dev/null",
    "trap : HUP; kill -HUP -- -$p; kill -HUP -- -$p")), 129)
  lu.assertTrue(step_of() >= 3)
end

function tests.test_printing_into_head_ends_at_once_and_silently()
  local code, said = shell(
    program .. " -e 'for i = 1, 1e9 do print(i) end' | head -1; exit ${PIPESTATUS[0]}")
  lu.assertEquals({ code, said }, { 128 + 13, "1\n" })
end

-- ---- closed and full streams --------------------------------------------------------------------

function tests.test_results_that_could_not_be_written_are_an_error()
  local full = "ijepa: standard output could not be written: No space left on device\n"
  local closed = "ijepa: standard output could not be written: it is closed\n"
  lu.assertEquals({ shell(program .. " -e 'print(1)' >/dev/full") }, { 1, full })
  lu.assertEquals({ shell(program .. " help >/dev/full") }, { 1, full })
  lu.assertEquals({ shell(program .. " -e 'print(1)' >&-") }, { 1, closed })
  lu.assertEquals({ shell(program .. " -e 'print(1) os.exit(0, true)' >&-") }, { 1, closed })
  lu.assertEquals({ shell(program .. " -e 'os.exit(7)' >&-") }, { 7, "" })
  lu.assertEquals({ shell(program .. " -e 'print(1)' 2>&-") }, { 0, "1\n" })
end

function tests.test_no_file_takes_the_number_of_a_closed_stream()
  local path = folder .. "/file"
  shell((
    [[%s -e 'local f = io.open("%s", "w"); print "out"; io.stderr:write "err"; ]] ..
    [[f:write "file"; f:close()' <&- >&- 2>&-]])
    :format(program, path))
  lu.assertEquals(read(path), "file")
  local code = shell(command() .. " <&- >&- 2>&-")   -- its log, its checkpoint
  lu.assertEquals({ code, step_of() }, { 0, 10 })
  local log = assert(ijepa.run.read_log(folder .. "/run"))
  lu.assertEquals({ #log.loss, #log.unreadable }, { 10, 0 })
end

function tests.test_a_full_stderr_costs_no_run()
  lu.assertEquals((shell(command() .. " 2>/dev/full")), 0)
  lu.assertEquals(step_of(), 10)
end

-- ---- where outputs lead -------------------------------------------------------------------------

function tests.test_an_output_onto_a_link_writes_what_it_leads_to()
  assert(F.try(C.ij_mkdirs(folder .. "/elsewhere")))
  os.execute(("cd %s; ln -s elsewhere/a link; ln -s link second; ln -s nowhere dangling"):format(
    folder))
  for _, name in ipairs { "link", "second" } do
    assert(F.try(C.ij_file_replace(folder .. "/" .. name, name, #name)))
    lu.assertEquals(read(folder .. "/elsewhere/a"), name)
  end
  assert(F.try(C.ij_file_replace(folder .. "/dangling", "new", 3)))
  lu.assertEquals(read(folder .. "/nowhere"), "new")
  local _, said = shell(("cd %s; ls -1F; ls elsewhere"):format(folder))
  lu.assertEquals(said, "dangling@\nelsewhere/\nlink@\nnowhere\nsecond@\na\n")
  os.execute(("cd %s; ln -s round circle; ln -s circle round"):format(folder))
  local ok, message = F.try(C.ij_file_replace(folder .. "/circle", "", 0))
  lu.assertNil(ok)
  lu.assertStrContains(message, "Too many levels of symbolic links")
end

function tests.test_a_checkpoint_onto_a_link_writes_what_it_leads_to()
  os.execute(("mkdir -p %s/run %s/big; ln -s ../big/latest %s/run/jepa-latest.safetensors"):format(
    folder, folder, folder))
  lu.assertEquals((shell(command())), 0)
  local _, kept = shell((
    "cd %s; readlink run/jepa-latest.safetensors; ls big; " ..
    "test -L run/jepa-ep1.safetensors; echo $?")
    :format(folder))
  lu.assertEquals(kept, "../big/latest\nlatest\n1\n")
  lu.assertEquals(step_of(), 10)
  local first = assert(ijepa.checkpoint.load(folder .. "/run/jepa-ep1.safetensors"))
  lu.assertEquals(first:meta "step", 5)
  first:close()
end

function tests.test_outputs_onto_devices_and_pipes_stay_devices_and_pipes()
  local pipe = folder .. "/pipe"
  os.execute("mkfifo " .. pipe)
  local code, said = shell((
    [[%s -e 'assert(require("ijepa.base.ffi").C.]] ..
    [[ij_file_replace("%s", "hello", 5) == 0)' & cat %s; wait $!]])
    :format(program, pipe, pipe))
  lu.assertEquals({ code, said, C.ij_path_kind(pipe) }, { 0, "hello", 3 })
  local replace = [[-e 'print "first" assert(require("ijepa.base.ffi").C.]] ..
    [[ij_file_replace("/dev/stdout", "hello", 5) == 0) print "last"']]
  lu.assertEquals({ shell(("%s %s | cat"):format(program, replace)) }, { 0, "first\nhellolast\n" })
  lu.assertEquals((shell(("%s %s >%s/out"):format(program, replace, folder))), 0)
  lu.assertEquals(read(folder .. "/out"), "first\nhellolast\n")
  local null = folder .. "/null"
  os.execute("ln -s /dev/null " .. null)
  assert(F.try(C.ij_file_replace(null, "hello", 5)))
  lu.assertEquals({ C.ij_path_kind "/dev/null", read(null) }, { 3, "" })
  local ok, message = F.try(C.ij_file_replace("/dev/full", "hello", 5))
  lu.assertNil(ok)
  lu.assertEquals(message, "file '/dev/full' could not be written: No space left on device")
end

function tests.test_names_of_255_bytes()
  local name = folder .. "/" .. ("n"):rep(251) .. ".bin"
  assert(F.try(C.ij_file_replace(name, "hello", 5)))
  lu.assertEquals(read(name), "hello")
  local second = folder .. "/" .. ("m"):rep(255)
  assert(F.try(C.ij_file_link(name, second)))
  lu.assertEquals(read(second), "hello")
  local names = F.new "char *[1]"
  assert(F.try(C.ij_dir_list(folder, names)))
  lu.assertEquals(select(2, F.string(names[0]):gsub("\n", "")), 2)   -- nothing else is left
  C.ij_bytes_free(names[0])
  lu.assertNil((F.try(C.ij_file_replace(name .. "n", "hello", 5))))
end

-- ---- file systems -------------------------------------------------------------------------------

function tests.test_without_hard_links_a_kept_checkpoint_is_a_copy()
  has_faults()
  for _, number in ipairs { 1, 18, 38, 95 } do   -- EPERM, EXDEV, ENOSYS, EOPNOTSUPP
    local code, said = shell(faults("IJ_NO_LINK=" .. number) .. command { out = folder .. "/run" ..
      number })
    lu.assertEquals(code, 0, said)
    for epoch = 1, 2 do
      local file = assert(ijepa.checkpoint.load(("%s/run%d/jepa-ep%d.safetensors"):format(folder,
        number, epoch)))
      lu.assertEquals(file:meta "step", 5 * epoch)
      file:close()
    end
  end
end

function tests.test_without_locks_a_run_warns_and_a_file_marks_it()
  has_faults()
  local held = folder .. "/run/jepa.lock.held"
  for _, number in ipairs { 37, 38, 95 } do   -- ENOLCK, ENOSYS, EOPNOTSUPP
    local code, said = shell(faults("IJ_NO_LOCK=" .. number) .. command { resume = false })
    lu.assertEquals(code, 0, said)
    lu.assertEquals(select(2, said:gsub("warning: this file system has no locks %(flock: ", "")), 1)
    lu.assertEquals(C.ij_path_kind(held), 0)
  end
end

function tests.test_a_lock_by_a_file_is_respected_and_taken_over_when_stale()
  has_faults()
  local held = folder .. "/run/jepa.lock.held"
  local nolock = faults "IJ_NO_LOCK=38 IJ_HOST=here"
  assert(F.try(C.ij_mkdirs(folder .. "/run")))
  -- a live process of this host, here this one; with and without locks
  local own = io.open "/proc/self/stat":read "*a":match "^%d+"
  write(held, ("process %s on host here since 2026-01-02 03:04:05 (0)\n"):format(own))
  for _, settings in ipairs { "IJ_NO_LOCK=38 IJ_HOST=here", "IJ_HOST=here" } do
    local code, said = shell(faults(settings) .. command())
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, "another run works in '" .. folder .. "/run'")
    lu.assertStrContains(said, (
      "is held by process %s on host 'here' since 2026-01-02 03:04:05"):format(own))
    lu.assertStrContains(said, "if that process no longer runs, remove this file")
  end
  -- its number was another process's before
  write(held, ("process %s on host here since 2026-01-02 03:04:05 (1)\n"):format(own))
  lu.assertEquals((shell(nolock .. command())), 0)
  -- another host: refused, whether such a process runs here or not
  write(held, "process 999999999 on host elsewhere since 2026-01-02 03:04:05 (1)\n")
  local code, said = shell(nolock .. command())
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "process 999999999 on host 'elsewhere'")
  -- no such process any more
  write(held, "process 999999999 on host here since 2026-01-02 03:04:05 (1)\n")
  lu.assertEquals((shell(nolock .. command())), 0)
  lu.assertEquals(C.ij_path_kind(held), 0)
  -- killed: the next run takes it over
  lu.assertEquals((shell(nolock .. faults "IJ_FAULT='kill rename 2 jepa-latest'" ..
    command { resume = false })), 137)
  lu.assertEquals(C.ij_path_kind(held), 1)
  lu.assertEquals((shell(nolock .. command())), 0)
end

-- Of many that find a stale file at the same moment, one gets the lock.
function tests.test_a_stale_lock_goes_to_one_of_many()
  has_faults()
  local lock = folder .. "/lock"
  write(lock .. ".held", "process 999999999 on host here since x (1)\n")
  write(folder .. "/take.lua", [[
    local F = require "ijepa.base.ffi"
    local lock = F.new "ij_lock *[1]"
    local ok, message = F.try(F.C.ij_lock_take(arg[1], lock))
    print(ok and "mine" or message:match "is held" or message)
    if ok then os.execute "sleep 3" end]])
  local _, said = shell(faults "IJ_NO_LOCK=38 IJ_HOST=here" ..
    ("for i in $(seq 12); do %s %s/take.lua %s & done; wait"):format(program, folder, lock))
  lu.assertEquals({ select(2, said:gsub("mine", "")), select(2, said:gsub("is held", "")) }, { 1,
    11 }, said)
end

function tests.test_a_lock_that_cannot_be_made_is_called_that()
  -- root writes into read-only folders too
  os.execute(("mkdir -p %s/run/jepa.lock"):format(folder))
  local code, said = shell(command())
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, (
    "folder '%s/run' can't be locked for this run: lock '%s/run/jepa.lock' could not be made: ")
    :format(folder, folder))
  lu.assertNotStrContains(said, "another run")
end

function tests.test_a_file_system_that_never_syncs_is_used()
  has_faults()
  lu.assertEquals((shell(faults "IJ_NO_SYNC=22" .. command())), 0)
  lu.assertEquals(step_of(), 10)
  -- EIO: data may be lost
  local code, said = shell(faults "IJ_NO_SYNC=5" .. command { out = folder .. "/broken" })
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "could not be written: Input/output error")
end

function tests.test_64_open_files_are_enough()
  local code, said = shell("ulimit -n 64; " .. command { ["data.workers"] = 4 })
  lu.assertEquals({ code, step_of() }, { 0, 10 }, said)
end

function tests.test_64_open_files_are_enough_for_100_tars()
  local list = {}
  command()
  for i = 1, 100 do
    os.execute(("cp %s %s/%d.tar"):format(made.train, folder, i))
    list[i] = folder .. "/" .. i .. ".tar"
  end
  -- with a byte order mark
  write(folder .. "/list.txt", "\239\187\191" .. table.concat(list, "\n"))
  local code, said = shell("ulimit -n 64; " .. command { ["data.root"] = folder .. "/list.txt",
    ["data.workers"] = 4,
    ["optim.steps"] = 30 })
  lu.assertEquals({ code, step_of() }, { 0, 30 }, said)
  lu.assertNotStrContains(said, "corrupt")
end

function tests.test_a_libvips_that_cannot_be_loaded_is_no_fault_of_the_images()
  has_faults()
  local code, said = shell(faults "IJ_NO_LIBRARY=libvips" .. command())
  lu.assertEquals(code, 1)
  lu.assertStrMatches(
    said, "[^\n]*: data '[^']*': '[^']*' needs libvips: libvips could not be used " ..
    "%(install the package libvips42%): [^\n]*\n")
end

-- Faults of the machine while one image is opened or read: the run stops with a line, and no image
-- is called corrupt. An I/O error of one file is the file's: it is left out and named.
function tests.test_faults_of_the_machine_are_no_fault_of_the_images()
  has_faults()
  local loose = folder .. "/loose"
  shell(("mkdir %s; tar xf %s -C %s"):format(loose, made.train, loose))
  local function stopped(fault, want)
    local code, said = shell(faults(("IJ_FAULT='%s 3 loose/' "):format(fault)) ..
      command { ["data.root"] = loose })
    lu.assertEquals(code, 1, said)
    lu.assertStrMatches(said, ".*data '[^']*': image '[^']*': " .. want .. "\n.*")
    lu.assertNotStrContains(said, "corrupt")
  end
  stopped("EMFILE open",
    "could not be opened: %d+ files are open, which is this process's limit; ulimit %-n raises it")
  stopped("ENFILE open", "could not be opened: too many files are open on this machine " ..
    "%(sysctl fs.file%-max%)")
  stopped("ENOMEM open", "could not be opened: Cannot allocate memory")
  stopped("ENOMEM pread", "could not be read: Cannot allocate memory")
end

function tests.test_a_wait_for_other_processes_says_for_whom()
  -- the folder's name keeps other jobs on this machine apart
  local job = ("PMIX_NAMESPACE=%s OMPI_COMM_WORLD_SIZE=3 "):format(folder)
  local code, said = shell(
    job .. "OMPI_COMM_WORLD_RANK=0 IJEPA_DIST=tcp IJEPA_MASTER_ADDR=127.0.0.1 " ..
    command { ["dist.timeout"] = 11 })
  lu.assertEquals(code, 1)
  lu.assertStrMatches(
    said, "ijepa: process 0 of 3 waits for processes 1, 2, which have not reached host '[^']*', " ..
    "up to 11 seconds %(dist.timeout%); OMPI_COMM_WORLD_SIZE=3 made it one of " ..
    "several: IJEPA_DIST=none runs it alone\n.*")
  code, said = shell(job .. "OMPI_COMM_WORLD_RANK=2 IJEPA_DIST=tcp IJEPA_MASTER_ADDR=127.0.0.1 " ..
    "IJEPA_MASTER_PORT=23456 " .. command { ["dist.timeout"] = 11 })
  lu.assertEquals(code, 1)
  lu.assertStrContains(
    said, "ijepa: process 2 of 3 waits for process 0 at 127.0.0.1 port 23456, up to 11 seconds")
  lu.assertEquals((shell(job .. "OMPI_COMM_WORLD_RANK=0 IJEPA_DIST=none " .. command())), 0)
end

-- ---- names --------------------------------------------------------------------------------------

function tests.test_control_characters_in_names_are_escaped()
  local ok, message = F.try(C.ij_file_replace("/nowhere/e\27[31mv\7i\nl\194\155.jpg", "", 0))
  lu.assertNil(ok)
  lu.assertEquals(
    message, [[file '/nowhere/e\x1b[31mv\x07i\nl\x9b.jpg' could not be written: ]] ..
    "No such file or directory")
end

function tests.test_names_of_corrupt_images_are_escaped()
  local scenes = folder .. "/images"
  command()
  os.execute(("mkdir %s; tar xf %s -C %s; : >$(printf '%s/e\\033[31mvil\\007.jpg')"):format(scenes,
    made.train, scenes,
    scenes))
  local code, said = shell(command { ["data.root"] = scenes, ["optim.epochs"] = 3 })
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, [[e\x1b[31mvil\x07.jpg]])
  lu.assertNil(said:find "[\27\7]")
end

function tests.test_check_reports_what_a_folder_cannot_do()
  has_faults()
  local function check(settings)   -- without the ends of lines that are wrapped
    local said = select(2, shell(faults(settings) .. program .. " check " .. folder))
    return (said:gsub("\n +([^%- ])", " %1"))
  end
  lu.assertStrContains(check "A=b", (
    "ok    folder           '%s' can be written: locks (flock), " ..
    "hard links, sync (fsync), rename work\n")
    :format(folder))
  lu.assertStrContains(check "IJ_NO_LOCK=38 IJ_NO_LINK=1",
    ("warn  folder           '%s' has no locks (flock), no hard links\n"):format(folder))
  lu.assertStrContains(check "IJ_NO_SYNC=22",
    ("warn  folder           '%s' has no sync (fsync)\n"):format(folder))
  lu.assertStrContains(check "IJ_NO_SYNC=22",
    "keep several (log.save_epochs), or set out= to a local disk\n")
  local _, said = shell(("ls -A %s"):format(folder))
  lu.assertEquals(said, "")
  local code = shell(program .. " check /nowhere")
  lu.assertEquals(code, 2)
end

return tests

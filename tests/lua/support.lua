-- What the tests share: temporary folders, files, processes without a shell, images, comparison of
-- checkpoints. tests/lua/run.lua calls finish_test() after each test and finish() at the end; a
-- script that runs alone calls finish() itself.
local F = require "ijepa.base.ffi"
local C = F.C
local support = {}

F.cdef [[
typedef struct support_actions { int64_t words[32]; } support_actions;
extern char **environ;
char *mkdtemp(char *template);
char *strerror(int code);
int getpid(void);
int chmod(const char *path, unsigned mode);
int kill(int pid, int signal);
int usleep(unsigned us);
int waitpid(int pid, int *status, int options);
int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                 char *const argv[], char *const envp[]);
int posix_spawn_file_actions_init(void *actions);
int posix_spawn_file_actions_destroy(void *actions);
int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags,
                                     unsigned mode);
int posix_spawn_file_actions_adddup2(void *actions, int fd, int new_fd);
int posix_spawn_file_actions_addchdir_np(void *actions, const char *path);
typedef struct { long words[64]; } support_attributes;
int posix_spawnattr_init(support_attributes *attributes);
int posix_spawnattr_setflags(support_attributes *attributes, short flags);
int posix_spawnattr_setsigdefault(support_attributes *attributes, const unsigned long *signals);
]]
local WRONLY, CREATE, TRUNCATE, APPEND, NO_WAIT = 1, 64, 512, 1024, 1
support.SIGHUP, support.SIGINT, support.SIGKILL, support.SIGUSR1, support.SIGTERM = 1, 2, 9, 10, 15

--- Skips the test where fewer than n GPUs are here, or fails it where IJEPA_REQUIRE_CUDA asks for
--- so many. The emulator of CUDA (tests/emu) has any number, as IJ_EMU_DEVICES says.
---@param n integer
function support.need_gpus(n)
  local lu, device = require "luaunit", require "ijepa.tensor.device"
  local plugin, why = os.getenv "IJEPA_CUDA", nil
  if not plugin or plugin == "" then
    why = "no plug-in: IJEPA_CUDA is not set, and there are no headers of CUDA to build the emulator's"
  elseif not plugin:find "emu" then
    local ok, message = pcall(device.with, "cuda:" .. n - 1, function() end)
    why = not ok and message or nil
  end
  if not why then return end
  if device.required() >= n then lu.fail(why .. "; IJEPA_REQUIRE_CUDA asks for it") end
  lu.skip(why)
end

--- The program under test.
support.program = os.getenv "IJEPA_PROGRAM" or "build/ijepa"

--- A file's bytes; raises where it can't be read.
function support.read(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read "*a"
  file:close()
  return bytes
end

--- Writes a file anew; returns its path.
function support.write(path, bytes)
  local file = assert(io.open(path, "wb"))
  assert(file:write(bytes))
  file:close()
  return path
end

--- Writes a script that can be started.
function support.executable(path, text)
  assert(C.chmod(support.write(path, text), 448) == 0)   -- 0700
  return path
end

--- The names in a folder, sorted.
function support.list(folder)
  local names, list = F.new "char *[1]", {}
  F.check(C.ij_dir_list(folder, names))
  for name in F.string(names[0]):gmatch "[^\n]+" do list[#list + 1] = name end
  C.ij_bytes_free(names[0])
  return list
end

--- Removes a file, or a folder with all that is in it. Nothing there: nothing happens.
function support.remove(path)
  for _ = 1, 20 do   -- a process that is ending may still write there
    if os.remove(path) or C.ij_path_kind(path) ~= 2 then return end
    for _, name in ipairs(support.list(path)) do support.remove(path .. "/" .. name) end
  end
  assert(os.remove(path))
end

-- All folders are below this one of the process.
local root, of_test, n_files = nil, {}, 0
local function base()
  if not root then
    -- a name without magic characters of Lua's patterns
    local path = (os.getenv "TMPDIR" or "/tmp") .. "/ijepa_test_XXXXXX"
    local buffer = F.new("char[?]", #path + 1, path)
    assert(C.mkdtemp(buffer) ~= nil, "no temporary folder could be made")
    root = F.string(buffer)
  end
  return root
end
local function fresh(name)
  n_files = n_files + 1
  return ("%s/%s%d"):format(base(), name, n_files)
end

--- A new empty folder, removed after this test.
--- life: "file" keeps it until the tests of this process are done.
function support.folder(life)
  local path = fresh "f"
  F.check(C.ij_mkdirs(path))
  if life ~= "file" then of_test[#of_test + 1] = path end
  return path
end

--- Removes the folders of the test that has ended.
function support.finish_test()
  local list = of_test
  of_test = {}
  for _, path in ipairs(list) do support.remove(path) end
end

--- Removes all that this process made.
function support.finish()
  if root then support.remove(root) end
  root, of_test = nil, {}
end

local scenes = {}
--- Images of ijepa.scenes.generate with these options, made once per process: for tests that only
--- read them. Returns what generate returns.
function support.scenes(o)
  local key = {}
  for name, value in pairs(o) do key[#key + 1] = name .. "=" .. tostring(value) end
  table.sort(key)
  key = table.concat(key, " ")
  if not scenes[key] then
    local all = { out = support.folder "file" .. "/scenes" }
    for name, value in pairs(o) do all[name] = value end
    scenes[key] = assert(require "ijepa".scenes.generate(all))
  end
  return scenes[key]
end

-- A NULL-terminated array for C. Keep the list of strings alive while it is in use.
local function strings(list)
  local array = F.new("const char *[?]", #list + 1)
  for i, text in ipairs(list) do array[i - 1] = text end
  return F.cast("char *const *", array), array
end

-- The environment of this process with changes: name -> value, false to take it away.
local function environment(changes)
  local list, i = {}, 0
  while C.environ[i] ~= nil do
    local entry = F.string(C.environ[i])
    if (changes or {})[entry:match "^[^=]*"] == nil then list[#list + 1] = entry end
    i = i + 1
  end
  for name, value in pairs(changes or {}) do
    if value then list[#list + 1] = name .. "=" .. tostring(value) end
  end
  return list
end

local Process = {}
Process.__index = Process

-- The arguments of a list, those of lists in it in their place.
local function flat(list, into)
  into = into or {}
  for _, v in ipairs(list) do
    if type(v) == "table" then flat(v, into) else into[#into + 1] = tostring(v) end
  end
  return into
end

--- The arguments of a text without quotes: "a b=c" is { "a", "b=c" }.
function support.split(text)
  local list = {}
  for argument in text:gmatch "%S+" do list[#list + 1] = argument end
  return list
end

--- Starts a program, found in PATH where argv[1] has no slash; argv may hold lists of arguments.
--- o: env (name -> value or false), cwd, input (stdin's text), merge (stderr into stdout, in the
--- order of writing), out (a path for stdout instead, such as /dev/full).
---@return table process kill(signal), wait(timeout)
function support.start(argv, o)
  o = o or {}
  local p = setmetatable({ out = o.out or fresh "out", err = not o.merge and fresh "err" or nil,
    input = o.input and support.write(fresh "in", o.input), keep_out = o.out ~= nil }, Process)
  local list, env = flat(argv), environment(o.env)
  local args, args_array = strings(list)
  local envp, env_array = strings(env)
  local actions, pid = F.new "support_actions", F.new "int[1]"
  local write = WRONLY + CREATE + TRUNCATE + APPEND
  local code = C.posix_spawn_file_actions_init(actions)
  local function add(status) if code == 0 then code = status end end
  add(C.posix_spawn_file_actions_addopen(actions, 0, p.input or "/dev/null", 0, 0))
  add(C.posix_spawn_file_actions_addopen(actions, 1, p.out, write, 384))   -- 0600
  if p.err then
    add(C.posix_spawn_file_actions_addopen(actions, 2, p.err, write, 384))
  else
    add(C.posix_spawn_file_actions_adddup2(actions, 1, 2))
  end
  if o.cwd then add(C.posix_spawn_file_actions_addchdir_np(actions, o.cwd)) end
  -- A background job of a shell ignores SIGINT and SIGQUIT: not what a test starts.
  local attributes, signals = F.new "support_attributes", F.new("unsigned long[16]", { 6 })
  add(C.posix_spawnattr_init(attributes))
  add(C.posix_spawnattr_setflags(attributes, 4))   -- POSIX_SPAWN_SETSIGDEF
  add(C.posix_spawnattr_setsigdefault(attributes, signals))
  if code == 0 then code = C.posix_spawnp(pid, list[1], actions, attributes, args, envp) end
  C.posix_spawn_file_actions_destroy(actions)
  if code ~= 0 or not (args_array and env_array) then
    error(("cannot start '%s': %s"):format(list[1], F.string(C.strerror(code))), 2)
  end
  p.pid = pid[0]
  return p
end

--- What it has printed so far.
function Process:output() return support.read(self.out) end

--- Whether it runs no more.
function Process:ended()
  local status = F.new "int[1]"
  if not self.status and C.waitpid(self.pid, status, NO_WAIT) == self.pid then
    self.status = status[0]
  end
  return self.status ~= nil
end

function Process:kill(signal) return C.kill(self.pid, signal) == 0 end

local function take(path)
  local text = support.read(path)
  os.remove(path)
  return text
end

--- Waits for the end; kills it after `timeout` seconds (with `signal`, SIGKILL without one).
---@return integer code 128 + the signal where one ended it
---@return string out, string err
function Process:wait(timeout, signal)
  local deadline = timeout and C.ij_time() + timeout
  while not self:ended() do
    if deadline and C.ij_time() >= deadline then
      self:kill(signal or support.SIGKILL)
      deadline, signal = C.ij_time() + 60, support.SIGKILL   -- for one that ignores the first
    end
    C.usleep(2000)
  end
  if self.input then os.remove(self.input) end
  local ended_by = self.status % 128
  local code = ended_by > 0 and 128 + ended_by or math.floor(self.status / 256) % 256
  return code, self.keep_out and "" or take(self.out), self.err and take(self.err) or ""
end

--- Runs a program to its end: support.start's options, and timeout (seconds), signal (sent then).
---@return integer code 128 + the signal where one ended it
---@return string out, string err
function support.run(argv, o)
  o = o or {}
  return support.start(argv, o):wait(o.timeout, o.signal)
end

function support.sleep(seconds) C.usleep(seconds * 1e6) end

--- The path of a program that PATH leads to, or nil.
function support.which(name)
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    if C.ij_path_kind(path) == 1 then return path end
  end
end

-- Pointer type and value of an element; bf16 is the upper half of an f32.
local ELEMENT = { f32 = "const float *", i32 = "const int32_t *", i64 = "const int64_t *",
  u8 = "const uint8_t *", bf16 = "const uint16_t *" }
local function element(bytes, dtype, i)
  local v = F.cast(ELEMENT[dtype], bytes)[i]
  if dtype ~= "bf16" then return tostring(v) end
  return tostring(F.cast("const float *", F.new("uint32_t[1]", v * 65536))[0])
end

--- Whether two tensor files (paths of ijepa.tensors) have the same names, types, shapes and bytes;
--- false comes with the first difference.
---@return boolean same, string? difference
function support.same_tensors(a, b)
  local tensors = require "ijepa.tensors"
  local one, two = assert(tensors.open(a)), assert(tensors.open(b))
  local function difference()
    local names, theirs = one:names(), two:names()
    table.sort(names)
    table.sort(theirs)
    for i = 1, math.max(#names, #theirs) do
      local name = names[i]
      if name ~= theirs[i] then
        return ("tensor %d is %s and %s"):format(i, tostring(name), tostring(theirs[i]))
      end
      local p, n = assert(one:data(name))
      local q, m = assert(two:data(name))
      local mine, other = one:info(name), two:info(name)
      local shape, other_shape = table.concat(mine.shape, "x"), table.concat(other.shape, "x")
      if mine.dtype ~= other.dtype or shape ~= other_shape or n ~= m then
        return ("%s: %s [%s] and %s [%s]"):format(name, mine.dtype, shape, other.dtype, other_shape)
      end
      if F.string(p, n) ~= F.string(q, n) then
        local x, y = F.cast("const uint8_t *", p), F.cast("const uint8_t *", q)
        local count, at = 1, 0
        for _, size in ipairs(mine.shape) do count = count * size end
        while x[at] == y[at] do at = at + 1 end
        local index = math.floor(at / (n / count))
        return ("%s[%d]: %s and %s"):format(name, index, element(p, mine.dtype, index),
          element(q, mine.dtype, index))
      end
    end
  end
  local found = difference()
  one:close()
  two:close()
  return found == nil, found
end

return support

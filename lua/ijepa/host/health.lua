-- `ijepa check`: tests what works on this machine. One line per test; a problem has advice below
-- it.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local bit = require "bit"
local terminal = require "ijepa.base.terminal"
local C = F.C
local health = {}

local function slurp(path)
  local file = io.open(path)
  if not file then return nil end
  local content = file:read "*a"
  file:close()
  return content
end

local function gib(bytes) return ("%.1f GiB"):format(bytes / 2 ^ 30) end

-- Checks: each returns "ok", "warn" or "fail", what it found, and advice unless it is "ok".
local checks = {}
local function add(name, f) checks[#checks + 1] = { name = name, f = f } end

add("program", function()
  local maps = slurp "/proc/self/maps" or ""
  local dnnl = maps:match "libdnnl%.so%.([%d.]+)"
  return "ok", ("ijepa %s, %s%s"):format(ijepa.version, jit.version, dnnl and ", oneDNN library "
    .. dnnl or "")
end)

add("CPU", function()
  local model = (slurp "/proc/cpuinfo" or ""):match "model name%s*:%s*([^\n]*)" or F.arch
  local isa = F.string(C.ij_cpu_isa())
  local found = ("%s; our loops run in %s"):format(model, isa)
  if isa == "base" and F.arch == "x64" then
    return "warn", found, os.getenv "IJEPA_ISA" and "IJEPA_ISA limits it: unset it" or
      "this CPU has no AVX2: training works, but several times slower"
  end
  return "ok", found
end)

-- CPUs that the container's quota allows, or nil without a quota.
local function quota()
  local limit, period = (slurp "/sys/fs/cgroup/cpu.max" or ""):match "^(%d+) (%d+)"
  return limit and limit / period
end

add("threads", function()
  local count, used, limit = C.ij_cpu_count(), C.ij_threads_get(), quota()
  local found = ("%d of %d CPUs used"):format(used, count)
  if limit and limit < used - .5 then
    return "warn", found,
      ("this container may use %.1f CPUs: set threads=%d or OMP_NUM_THREADS"):format(limit,
      math.max(1, math.floor(limit + .5)))
  elseif used < count then
    return "warn", found, "OMP_NUM_THREADS or the setting threads leaves the others idle"
  end
  return "ok", found
end)

add("memory", function()
  local info = slurp "/proc/meminfo" or ""
  local free = (tonumber(info:match "MemAvailable:%s*(%d+)") or 0) * 1024
  local limit = tonumber((slurp "/sys/fs/cgroup/memory.max" or ""):match "^%d+")
  if limit then
    free = math.min(free, limit - (tonumber(slurp "/sys/fs/cgroup/memory.current" or "") or 0))
  end
  local found = gib(free) .. " free"
  if free < 2 * 2 ^ 30 then
    return "warn", found,
      "a ViT-S/16 with data.batch=64 needs about 2 GiB: lower data.batch, or set model.recompute=true"
  end
  return "ok", found
end)

-- Seconds of one call of f, the minimum of five.
local function seconds(f)
  local least
  for _ = 1, 5 do
    local start = C.ij_time()
    f()
    local took = C.ij_time() - start
    least = least and math.min(least, took) or took
  end
  return least
end

add("matmul", function()
  local tensor, device, jepa = require "ijepa.tensor", require "ijepa.tensor.device",
    require "ijepa.model"
  local kind = F.string(C.ij_cpu_matmul())
  local values, n, count = {}, 512, 8
  for i = 1, n * count do values[i] = (i * 7 % 13 - 6) / 16 end
  local rate, worst, forward, outputs = 0, 0, {}, {}
  device.no_grad(function()
    local x = tensor.new(values, "f32"):reshape(count, n)
    local got = x:linear(x):reshape(count * count):totable()
    for i = 1, count do
      for j = 1, count do
        local sum = 0
        for k = 1, n do sum = sum + values[(i - 1) * n + k] * values[(j - 1) * n + k] end
        worst = math.max(worst, math.abs(got[(i - 1) * count + j] - sum))
      end
    end
    local square, weight = tensor.zeros { n, n }, tensor.zeros { n, n }
    rate = 2e-9 * n ^ 3 / seconds(function() square:linear(weight) end)
    local images = tensor.zeros({ 2, 96, 96, 3 }, "u8")
    for _, dtype in ipairs { "f32", "bf16" } do   -- a small encoder in both types
      local encoder = jepa.encoder { width = 384, depth = 2, heads = 6, patch = 16, crop = 96,
        dtype = dtype }
      forward[dtype] = seconds(function() outputs[dtype] = encoder(images) end)
    end
  end)
  local apart = (outputs.f32 - outputs.bf16):totable()[1][1]
  local most = 0
  for _, d in ipairs(apart) do most = math.max(most, math.abs(d)) end
  local found = ("%s; %.0f GFLOP/s in f32; an encoder in bf16 takes %.2f of its time in f32"):format(kind, rate,
    forward.bf16 / forward.f32)
  if worst > 1e-2 or most > .2 then
    return "fail", ("%s; off by %.2g in f32, %.2g in bf16"):format(found, worst, most),
      "matrix products are wrong: try IJEPA_MATMUL=f32, and report this"
  elseif not kind:find "bf16" then
    return "warn", found,
      "no bf16 instructions (AVX-512 BF16 or AMX) here: model.dtype=bf16 is computed in f32"
  end
  return "ok", found
end)

add("training", function()   -- one gradient, with a known value
  local tensor = require "ijepa.tensor"
  local w = tensor.new({ 0.5, -1, 2 }, "f32"):reshape(1, 3)
  w:requires_grad_(true)
  tensor.new({ 1, 2, 3 }, "f32"):reshape(1, 3):linear(w):mean():backward()
  local g = w:grad():reshape(3):totable()
  if g[1] == 1 and g[2] == 2 and g[3] == 3 then return "ok", "forward and backward run" end
  return "fail", ("a gradient is (%g, %g, %g), not (1, 2, 3)"):format(g[1], g[2], g[3]),
    "please report this"
end)

-- Writes and reads an image in this format. true, or nil and a message.
local function round_trip(ending)
  local path = os.tmpname()
  os.remove(path)
  path = path .. "." .. ending
  local pixels = F.new("uint8_t[?]", 16 * 16 * 3)
  F.fill(pixels, 16 * 16 * 3, 200)
  local ok, message = F.try(C.ij_image_save(path, pixels, 16, 16))
  if ok then
    local read, height, width = F.new "uint8_t *[1]", F.new "int[1]", F.new "int[1]"
    ok, message = F.try(C.ij_image_load(path, read, height, width))
    if ok then
      if height[0] ~= 16 or width[0] ~= 16 or math.abs(read[0][100] - 200) > 8 then
        ok, message = nil, "wrong pixels"
      end
      C.ij_bytes_free(read[0])
    end
  end
  os.remove(path)
  return ok, message
end

-- A step of a block of ViT-H/14 on a few patches: all forms of its matmuls.
local function one_block()
  local tensor, jepa = require "ijepa.tensor", require "ijepa.model"
  local encoder = jepa.encoder { width = 1280, depth = 1, heads = 16, patch = 14, crop = 28,
    dtype = "bf16" }
  encoder(tensor.zeros({ 2, 28, 28, 3 }, "u8")):mean():backward()
end

add("cuda", function()
  local device, out = require "ijepa.tensor.device", F.new "ij_device *[1]"
  local ok, message = F.try(C.ij_device_open("cuda", out))
  if not ok then
    return device.required() > 0 and "fail" or "none", "no GPU: " .. message,
      "IJEPA_REQUIRE_CUDA asks for one"
  end
  C.ij_device_close(out[0])
  return device.with("cuda", function()
    one_block()
    local i, report = device.info(), device.report()
    local found, state, advice = ("%s (%s), %s of %s free: device=cuda"):format(i.name, i.arch,
      gib(i.free), gib(i.memory)), "ok", nil
    for _, l in ipairs(report.libraries) do
      local version = l.version ~= "" and l.version or "is not here"
      found = found .. ("\n%s %s: %s"):format(l.name, version, l.path)
    end
    found = found .. ("\nmemory from %s; %d matmuls of %d shapes, %d refused by cuBLASLt"):format(
      report.allocator, report.calls, report.shapes, report.refusals)
    for _, r in ipairs(report.refused) do
      state = "warn"
      advice = "refused matmuls run in a plain kernel, many times slower: please report this"
      found = found .. ("\nrefused: %dx(%d, %d) x (%d, %d), %s, %s"):format(r.P, r.M, r.K, r.K, r.N,
        r.types, r.form)
    end
    return state, found, advice
  end)
end)

add("processes", function()
  local ok, message = F.try(C.ij_dist_mpi())
  if ok then return "ok", "mpirun -n N ijepa RECIPE by MPI, srun ijepa RECIPE by TCP" end
  return "ok", "mpirun -n N ijepa RECIPE on one machine and srun ijepa RECIPE, by TCP; no MPI: "
    .. message
end)

add("images", function()
  local works, broken = {}, {}
  for _, ending in ipairs { "jpg", "png", "webp", "tif", "gif" } do
    local ok, message = round_trip(ending)
    if ok then
      works[#works + 1] = ending
    else
      broken[#broken + 1] = ("%s (%s)"):format(ending, message)
    end
  end
  if #broken == 0 then return "ok", table.concat(works, " ") .. " can be read and written" end
  local needed = works[1] == "jpg" and works[2] == "png"
  return needed and "warn" or "fail",
    ("%s work, not %s"):format(#works > 0 and table.concat(works, " ") or "none",
    table.concat(broken, ", ")),
      "install the package libvips42, with its recommended packages for more formats"
end)

add("Lua modules", function()
  if pcall(require, "cjson") then return "ok", "cjson" end
  return "warn", "cjson is missing", "recipes that read JSON need it: install the package lua-cjson"
end)

add("files", function()
  local path = os.tmpname()
  local ok, message = F.try(C.ij_file_replace(path, "ijepa", 5))
  os.remove(path)
  if not ok then return "fail", message, "set TMPDIR to a folder that can be written" end
  local names = F.new "char *[1]"
  if C.ij_dir_list(".", names) ~= 0 then
    return "warn", F.string(C.ij_errmsg()), "run it in a folder that can be read"
  end
  C.ij_bytes_free(names[0])
  return "ok", "the temporary folder can be written"
end)

-- What a run relies on: name of the bit, what it is called, what happens without it, and what to
-- do.
local ABILITIES = {
  { C.IJ_FOLDER_LOCKS, "locks (flock)",
    "a file with host and process marks a run instead: never start two runs in "
    .. "one folder from two machines at the same moment" },
  { C.IJ_FOLDER_LINKS, "hard links",
    "each checkpoint that is kept is a copy and is written twice" },
  { C.IJ_FOLDER_SYNC, "sync (fsync)",
    "a checkpoint may be lost when the machine loses power: keep several "
    .. "(log.save_epochs), or set out= to a local disk" },
  { C.IJ_FOLDER_RENAME, "rename",
    "a checkpoint can't be replaced: set out= to a folder of another file system" },
}

add("folder", function(folder)
  local can = F.new "int[1]"
  local ok, message = F.try(C.ij_folder_can(folder, can))
  if not ok then return "warn", message, "runs are written below it: set out= to another folder" end
  local works, missing, advice, state = {}, {}, {}, "warn"
  for _, a in ipairs(ABILITIES) do
    if bit.band(can[0], tonumber(a[1])) ~= 0 then works[#works + 1] = a[2]
    else
      missing[#missing + 1], advice[#advice + 1] = a[2], a[3]
      if a[1] == C.IJ_FOLDER_RENAME then state = "fail" end
    end
  end
  local name = folder == "." and "this folder" or ("'%s'"):format(text.shown(folder))
  if #missing == 0 then
    return "ok", ("%s can be written: %s work"):format(name, table.concat(works, ", "))
  end
  return state, ("%s has no %s"):format(name, table.concat(missing, ", no ")),
    table.concat(advice, "; ")
end)

local MARGIN = (" "):rep(23)
-- A text wrapped beside the name of its check, within 80 columns; its lines stay lines.
local function beside(s, more)
  local hang, lines = "\n" .. MARGIN .. (more or ""), {}
  for line in s:gmatch "[^\n]+" do
    lines[#lines + 1] = terminal.wrap(line, 80 - #hang):gsub("\n%s*", hang)
  end
  return table.concat(lines, hang)
end

--- Runs every check and prints its result. True when none failed.
---@param folder string? where runs will be written; default: the current one
---@return boolean
function health.main(folder)
  local fine = true
  for _, check in ipairs(checks) do
    local ok, state, found, advice = pcall(check.f, folder or ".")
    if not ok then state, found, advice = "fail", tostring(state), "please report this" end
    print(("%-5s %-16s "):format(state, check.name) .. beside(found))
    if advice and (state == "warn" or state == "fail") then
      print(MARGIN .. "-> " .. beside(advice, "   "))
    end
    if state == "fail" then fine = false end
  end
  return fine
end

return health

-- luajit tests/cuda/sass.lua [--write] [--self-test]: reads what nvcc makes of kernels/**/*.cu for
-- every architecture that we build for: registers, stack and spills as ptxas reports them, and
-- instructions counted in the cubin (decode.lua). Run in the project's root. Breaches of the rules
-- below are printed, exit 1. --write: the table bench/results/sass.md;
-- --self-test: kernels with known counts and planted breaches. Exit 77: no nvcc here.
package.path = "tests/cuda/?.lua;" .. package.path
local decode = require "decode"

local ARCHS = { 80, 90, 100, 120 }
local FOLDER, TABLE = "build-sass", "bench/results/sass.md"

-- What kernels must have: in files and kernels that match, on every architecture. An entry that
-- matches none is a breach.
local MUST = require "rules"

local project = dofile "tests/lint/files.lua"
local slurp, lines_of = project.read, project.lines_of
local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end
local function tool(name)
  local path = lines_of(("command -v %s /usr/local/cuda/bin/%s 2>/dev/null"):format(name, name))[1]
  return path
end

-- ---- compiling
local function target(file, sm)
  return ("%s/%s.sm_%d"):format(FOLDER, file:gsub("%.cu$", ""):gsub("/", "."), sm)
end

-- Compiles what is older than its sources; false where nvcc fails.
local function compile(nvcc, files, include)
  os.execute("mkdir -p " .. FOLDER)
  local jobs = {}
  for _, file in ipairs(files) do
    for _, sm in ipairs(ARCHS) do
      local out = target(file, sm)
      local changed = lines_of(
        ("test -e %s.cubin && { find %s -newer %s.cubin; find %s -name '*.h' -newer %s.cubin; } || echo new")
        :format(out, file, out, include, out))
      if #changed > 0 then
        local job = "{N} -std=c++17 -O3 --expt-relaxed-constexpr -Ikernels/cuda -arch=sm_{A} -cubin -Xptxas -v -o {O}.part {F} "
          .. ">{O}.log 2>&1 && " ..
          "mv {O}.part {O}.cubin || { cat {O}.log; rm -f {O}.cubin; exit 255; }"
        jobs[#jobs + 1] = job:gsub("{(%u)}", { N = nvcc, A = sm, O = out, F = file })
      end
    end
  end
  if #jobs == 0 then return true end
  write(FOLDER .. "/jobs", table.concat(jobs, "\n") .. "\n")
  local status = os.execute(("xargs -d '\\n' -n 1 -P \"$(nproc)\" sh -c <%s/jobs >&2"):format(
    FOLDER))
  return status == 0 or status == true
end

-- What ptxas says of each kernel: { [mangled] = { registers, shared, stack, spills } }, and its
-- warnings.
local function report_of(log)
  local out, warnings, name = {}, {}, nil
  for line in log:gmatch "[^\n]+" do
    name = line:match "Function properties for (%S+)"
      or line:match "Compiling entry function '([^']+)'" or name
    if name then
      out[name] = out[name] or {}
      local stack, stores, loads =
        line:match "(%d+) bytes stack frame, (%d+) bytes spill stores, (%d+) bytes spill loads"
      if stack then out[name].stack, out[name].spills = tonumber(stack), stores + loads end
      local registers = line:match "Used (%d+) registers"
      if registers then
        out[name].registers, out[name].shared = tonumber(registers),
          tonumber(line:match "(%d+) bytes smem") or 0
      end
    end
    if line:find "warning" then warnings[#warnings + 1] = line end
  end
  return out, warnings
end

-- Readable names, by c++filt: { [mangled] = "fwd<__nv_bfloat16, 128>" }. Numbers that nvcc makes of
-- a path are left out.
local function readable(mangled)
  write(FOLDER .. "/names", table.concat(mangled, "\n") .. "\n")
  local out = {}
  for i, line in ipairs(lines_of(("c++filt <%s/names"):format(FOLDER))) do
    line = line:gsub("^void ", ""):gsub("%(anonymous namespace%)::", ""):gsub("_INTERNAL_[%w_]+::",
      ""):gsub("__nv_bfloat16", "bf16")
      :gsub("%(int%)", ""):gsub("%(bool%)", ""):gsub("unsigned char", "u8")
    local depth, stop = 0, #line   -- up to the parameters' bracket, which stands outside of <>
    for at = 1, #line do
      local c = line:sub(at, at)
      if c == "<" then depth = depth + 1 elseif c == ">" then depth = depth - 1
      elseif c == "(" and depth == 0 then
        stop = at - 1
        break
      end
    end
    out[mangled[i]] = line:sub(1, stop)
  end
  return out
end

-- ---- rules
local function kinds(c, name)   -- LDG: of every width
  local n = 0
  for k, v in pairs(c) do
    if k == name or k:match "^(.-)%." == name then n = n + v end
  end
  return n
end

-- All kernels of the files: a list of { file, name, sm = { [80] = { registers, ..., counts } } },
-- sorted; and breaches.
local function read(files)
  local list, breaches = {}, {}
  local disassembler = tool "nvdisasm"
  for _, file in ipairs(files) do
    local by_name, mangled = {}, {}
    for _, sm in ipairs(ARCHS) do
      local out = target(file, sm)
      local counts = decode.counts(assert(slurp(out .. ".cubin")), sm)
      local report, warnings = report_of(assert(slurp(out .. ".log")))
      for _, w in ipairs(warnings) do
        breaches[#breaches + 1] = ("%s, sm_%d: %s"):format(file, sm, w)
      end
      local other = disassembler
        and decode.disassembled(io.popen(("%s %s.cubin"):format(disassembler, out)):lines())
      for name, c in pairs(counts) do
        if not by_name[name] then
          by_name[name] = {}
          mangled[#mangled + 1] = name
        end
        local r = report[name] or {}
        r.counts, r.other = c, other and other[name]
        by_name[name][sm] = r
      end
    end
    table.sort(mangled)
    local names = #mangled > 0 and readable(mangled) or {}
    local here = {}
    for _, m in ipairs(mangled) do
      here[#here + 1] = { file = file, name = names[m], sm = by_name[m] }
    end
    table.sort(here, function(a, b) return a.name < b.name end)
    for _, k in ipairs(here) do list[#list + 1] = k end
  end
  return list, breaches, disassembler
end

local function check_kernel(k, sm, breach, local_memory)
  local r = k.sm[sm]
  if not r then return breach(k, sm, "is not there") end
  if not r.registers then return breach(k, sm, "has no report of ptxas") end
  if not local_memory then
    if r.stack ~= 0 then breach(k, sm, "%d bytes of stack", r.stack) end
    if r.spills ~= 0 then breach(k, sm, "%d bytes spilled", r.spills) end
    for _, name in ipairs { "LDL", "STL" } do
      local n = kinds(r.counts, name)
      if n > 0 then breach(k, sm, "%d %s: local memory", n, name) end
    end
  end
  for name in pairs(r.counts) do
    if name:find "%?$" then breach(k, sm, "%s: a width that decode.lua does not know", name) end
  end
  for name, n in pairs(r.other or {}) do
    if r.counts[name] ~= n then
      breach(k, sm, "%s: %d by decode.lua, %d by nvdisasm", name, r.counts[name] or 0, n)
    end
  end
  for name, n in pairs(r.other and r.counts or {}) do
    if not r.other[name] then breach(k, sm, "%s: %d by decode.lua, none by nvdisasm", name, n) end
  end
end

local function check(list, must, breaches)
  local function breach(k, sm, fmt, ...)
    breaches[#breaches + 1] = ("%s: %s, sm_%d: %s"):format(k.file, k.name, sm, fmt:format(...))
  end
  for _, k in ipairs(list) do
    local allowed = false
    for _, rule in ipairs(must) do
      allowed = allowed or rule.local_memory and k.file:find(rule.file) and k.name:find(rule.kernel)
    end
    for _, sm in ipairs(ARCHS) do check_kernel(k, sm, breach, allowed) end
  end
  for _, rule in ipairs(must) do
    local matched = false
    for _, k in ipairs(list) do
      if k.file:find(rule.file) and k.name:find(rule.kernel) then
        matched = true
        for _, sm in ipairs(ARCHS) do
          for _, name in ipairs(rule.has) do
            if k.sm[sm] and kinds(k.sm[sm].counts, name) == 0 then breach(k, sm, "no %s", name) end
          end
        end
      end
    end
    if not matched then
      breaches[#breaches + 1] = ("rules.lua: no kernel '%s' in '%s'"):format(rule.kernel, rule.file)
    end
  end
  return breaches
end

-- ---- the table
local COLUMNS = { "HMMA", "LDSM", "LDGSTS.128", "LDG.128", "LDG.64", "LDG.32", "LDG.16", "LDG.8",
  "STG.128", "STG.64", "STG.32", "STG.16", "LDS", "STS", "BAR", "SHFL", "MUFU" }

local function render(list)
  local lines = { "# What nvcc makes of our kernels",
    "Written by `luajit tests/cuda/sass.lua --write`, which also checks it (ctest label `cuda`): no stack, no spills, no local",
    "memory anywhere; tensor-core instructions and 128-bit loads where `tests/cuda/rules.lua` wants them. Registers and shared",
    "bytes are those of sm_80 / 90 / 100 / 120; instructions are counted in the code for sm_90, once each however often they run.",
    "Static shared memory alone: kernels that size theirs at the launch show 0.", "" }
  local file
  for _, k in ipairs(list) do
    if k.file ~= file then
      file = k.file
      lines[#lines + 1] = ("\n## %s"):format(file)
      lines[#lines + 1] = "| kernel | registers | shared | " .. table.concat(COLUMNS, " | ")
        .. " | all |"
      lines[#lines + 1] = "|---|---|---" .. ("|---"):rep(#COLUMNS + 1) .. "|"
    end
    local function each(what)
      local parts, same = {}, true
      for i, sm in ipairs(ARCHS) do
        parts[i] = tostring(k.sm[sm] and k.sm[sm][what] or "-")
        same = same and parts[i] == parts[1]
      end
      return same and parts[1] or table.concat(parts, " / ")
    end
    local c, row = k.sm[90] and k.sm[90].counts or {}, {}
    for i, name in ipairs(COLUMNS) do
      local n = name:find "%." and (c[name] or 0) or kinds(c, name)
      row[i] = n > 0 and tostring(n) or ""
    end
    lines[#lines + 1] = ("| `%s` | %s | %s | %s | %d |"):format(k.name:gsub("|", "\\|"),
      each "registers", each "shared",
      table.concat(row, " | "), c.all or 0)
  end
  return (table.concat(lines, "\n"):gsub("\n\n\n", "\n\n")) .. "\n"
end

-- ---- the self-test
local KNOWN = { -- kernel -> counts on every architecture
  moves = { ["LDG.128"] = 1, ["LDG.64"] = 1, ["LDG.32"] = 1, ["LDG.16"] = 1, ["LDG.8"] = 1,
    ["STG.128"] = 1, ["STG.64"] = 1,
    ["STG.32"] = 1, ["STG.16"] = 1, ["STG.8"] = 1 },
  shares = { ["STS.128"] = 1, ["LDS.64"] = 1, BAR = 1, ["STG.64"] = 1, ["LDG.128"] = 1 },
  copies = { ["LDGSTS.128"] = 1, ["LDGSTS.64"] = 1, ["LDGSTS.32"] = 1, BAR = 1 },
  product = { HMMA = 1, LDSM = 2, SHFL = 2, BAR = 1 },
}

local function self_test(nvcc)
  local failed = 0
  local function expect(ok, what)
    if not ok then
      failed = failed + 1
      print("self-test: " .. what)
    end
  end
  local files = { "tests/cuda/known.cu", "tests/cuda/breaches.cu" }
  if not compile(nvcc, files, "tests/cuda") then return 1 end
  local known = read { files[1] }
  local seen = 0
  for _, k in ipairs(known) do
    for _, sm in ipairs(ARCHS) do
      for name, n in pairs(KNOWN[k.name] or {}) do
        seen = seen + 1
        expect(k.sm[sm].counts[name] == n,
          ("%s, sm_%d: %s %s of %d"):format(k.name, sm, name, tostring(k.sm[sm].counts[name]), n))
      end
    end
  end
  expect(seen == 4 * (10 + 5 + 4 + 4), ("%d known counts were compared"):format(seen))
  expect(#check(known, {}, {}) == 0, "a breach in known.cu: " .. tostring(check(known, {}, {})[1]))
  local list = read { files[2] }
  local function found(must, pattern)
    for _, b in ipairs(check(list, must, {})) do
      if b:find(pattern) then return true end
    end
    return false
  end
  for _, sm in ipairs(ARCHS) do
    local on = ("sm_%d: "):format(sm)
    expect(found({}, "array_at_run_time, " .. on .. "%d+ bytes of stack"),
      on .. "stack of an array is not found")
    expect(found({}, "array_at_run_time, " .. on .. "%d+ STL"), on .. "local stores are not found")
    expect(found({}, "too_many_registers, " .. on .. "%d+ bytes spilled"),
      on .. "spills are not found")
    for _, name in ipairs { "HMMA", "LDG.128" } do
      local rule = { file = "breaches", kernel = "^scalar$", has = { name } }
      expect(found({ rule }, "scalar, " .. on .. "no " .. name),
        ("%sthat %s lacks is not found"):format(on, name))
    end
  end
  local renamed = { file = "breaches", kernel = "^renamed$", has = { "HMMA" } }
  expect(found({ renamed }, "no kernel '%^renamed%$'"), "a rule without a kernel is not found")
  expect(not pcall(decode.counts, "no ELF", 90), "a file that is no cubin is not found")
  print(failed == 0 and ("self-test: %d known counts, all planted breaches found"):format(seen)
    or ("self-test: %d failures"):format(failed))
  return failed == 0 and 0 or 1
end

-- ---- the program
local function main()
  local nvcc, option = tool "nvcc", {}
  for _, word in ipairs(arg) do option[word] = true end
  if not nvcc then
    print "skipped: nvcc is not here, so no kernel can be compiled"
    return 77
  end
  if option["--self-test"] then return self_test(nvcc) end
  local files = lines_of "find kernels -name '*.cu' | LC_ALL=C sort"
  if not compile(nvcc, files, "kernels core/base core/ijepa.h") then return 1 end
  local list, breaches, disassembler = read(files)
  check(list, MUST, breaches)
  for _, b in ipairs(breaches) do print(b) end
  if option["--write"] then write(TABLE, render(list)) end
  print(("%d kernels in %d files, for sm_%s: %d breaches%s"):format(#list, #files,
    table.concat(ARCHS, ", "), #breaches,
    disassembler and "; counted by nvdisasm too" or ""))
  return #breaches == 0 and 0 or 1
end
os.exit(main())

-- luajit tests/lint/lint.lua [LIBRARY]: rules of this project that no compiler checks. Run in the
-- project's root; LIBRARY is the built libijepa.so. Prints each breach as FILE: what; exit 1 when
-- there was one.
local problems = 0
local function problem(file, fmt, ...)
  problems = problems + 1
  print(file .. ": " .. fmt:format(...))
end

local project = dofile "tests/lint/files.lua"
local slurp, lines_of, files = project.read, project.lines_of, project.of_project()
local text = {}
for _, path in ipairs(files) do
  local content = slurp(path)
  if content and not content:find "%z" then text[path] = content end
end

local function matching(pattern)
  local list = {}
  for _, path in ipairs(files) do
    if text[path] and path:find(pattern) then list[#list + 1] = path end
  end
  return list
end

-- Sources stay readable: at most 800 lines; no tabs or blanks at line ends; no paths or addresses of one machine.
for _, path in ipairs(files) do
  local content = text[path]
  if content then
    local is_source = path:find "%.[ch]$" or path:find "%.lua$" or path:find "%.cu$"
      or path:find "%.cmake$" or path == "ijepa"
    if is_source and select(2, content:gsub("\n", "")) > 800 then
      problem(path, "more than 800 lines")
    end
    if is_source and content:find "[ \t]+\n" then problem(path, "blanks at the end of a line") end
    if is_source and content:find "\t" then problem(path, "tabs") end
    for _, target_path in ipairs { "/wo" .. "rk/", "/ho" .. "me/%w", "/ro" .. "ot/" } do
      local found = content:match("[\"'%s(=]" .. target_path .. "[%w_./-]*")
      if found then problem(path, "a path of one machine:%s", found) end
    end
  end
end

-- Lines: 100 columns in Lua and prose, 120 in C. Tables and what a program printed (fenced blocks
-- that are not Lua) may be wider. tests/lint/wide.txt lists files that are not reflowed yet; one
-- that keeps the rule leaves the list, so that it only shrinks.
local function widest(path, content)
  local limit, fence, line = path:find "%.[ch]$" and 120 or path:find "%.cu$" and 120
    or path:find "%.cpp$" and 120 or 100, nil, 0
  for source in (content .. "\n"):gmatch "([^\n]*)\n" do
    line = line + 1
    local prose, message = path:find "%.md$", path:find "%.lua$" and source:match '"([^"]*)"'
    if prose and source:find "^%s*```" then
      fence = not fence and (source:match "```(%w*)") or nil
    end
    local free = prose and (source:find "^%s*|" or fence and fence ~= "lua"
      or not source:find "%s%S+%s")
      or message and #message >= 60   -- a message stays whole, so that it can be searched for
    if not free and select(2, source:gsub("[^\128-\191]", "")) > limit then return line, limit end
  end
end
local wide = {}
for path in (text["tests/lint/wide.txt"] or ""):gmatch "[^\n]+" do wide[path] = true end
for _, path in ipairs(matching "%.lua$") do wide[#wide + 1] = path end
for _, pattern in ipairs { "%.md$", "%.[ch]$", "%.cu$", "%.cpp$" } do
  for _, path in ipairs(matching(pattern)) do wide[#wide + 1] = path end
end
for _, path in ipairs(wide) do
  local line, limit = widest(path, text[path])
  if line and not wide[path] then problem(path, "line %d has more than %d columns", line, limit) end
  if not line and wide[path] then
    problem(path, "keeps the rule of lines: take it off tests/lint/wide.txt")
  end
  if arg[1] == "--wide" and line then print(path) end
end

-- Only base/ffi.lua talks to the FFI.
for _, path in ipairs(matching "%.lua$") do
  if path ~= "lua/ijepa/base/ffi.lua" and not path:find "^tests/lint/"
      and text[path]:find "require%s*%(?%s*[\"']ffi[\"']" then
    problem(path, "requires ffi: use ijepa.base.ffi")
  end
end

-- Layers: Lua's headers in core/host alone, oneDNN's in kernels/, libvips' in one file; core and
-- kernels print nothing.
for _, path in ipairs(matching "^[ck][oe][re].*%.[ch]$") do
  local content = text[path]
  if content:find "#include <lua" and not path:find "^core/host/" then
    problem(path, "Lua outside core/host")
  end
  if content:find "#include [<\"]dnnl" and not path:find "^kernels/" then
    problem(path, "oneDNN outside kernels/")
  end
  if content:find "#include <vips" and path ~= "core/data/other.c" then
    problem(path, "libvips outside core/data/other.c")
  end
  if not path:find "^core/host/" and path ~= "core/base/status.c"
      and content:find "[^%w_]printf%s*%(" then
    problem(path, "prints; return a status with a message")
  end
  if not path:find "^core/host/"
      and (content:find "[^%w_]exit%s*%(" or content:find "[^%w_]abort%s*%(") and
    path ~= "core/base/status.c" then
    problem(path, "ends the program; return a status with a message")
  end
end

-- Every op of kernels/ops.h has a reference and a case.
local function joined(pattern)
  local parts = {}
  for _, path in ipairs(matching(pattern)) do parts[#parts + 1] = text[path] end
  return table.concat(parts, "\n")
end
local refs, cases = joined "^kernels/.*ref%.c$", joined "^kernels/.*case%.c$"
for op in text["kernels/ops.h"]:gmatch "\n%s*IJ_OP%(([%w_]+)," do
  if not refs:find("ij_ref_" .. op .. "%f[^%w_]") then
    problem("kernels/ops.h", "op '%s' has no ij_ref_%s in a ref.c", op, op)
  end
  if not cases:find("%f[%w_]" .. op .. "%f[^%w_]") then
    problem("kernels/ops.h", "op '%s' is in no case.c", op)
  end
end

-- Every function of ijepa.h is defined, and bound in lua/, described in docs/ or used by a C test
-- or the host (so that none is forgotten); declared without a preprocessor line inside.
local header = text["core/ijepa.h"]
local sources, lua, docs = joined "^[ck].*%.c$", joined "^lua/.*%.lua$",
  joined "%.md$" .. joined "^core/host/.*%.c$" .. joined "^tests/.*%.c$"
local cdef = header:match "/%* cdef begin %*/(.*)/%* cdef end %*/"
if not cdef then problem("core/ijepa.h", "no cdef markers") cdef = header end
if cdef:find "\n%s*#" then
  problem("core/ijepa.h", "a preprocessor line between the cdef markers")
end
for name in cdef:gsub("/%*.-%*/", ""):gmatch "[%s*](ij_[%w_]+)%(" do
  local whole = "%f[%w_]" .. name .. "%f[^%w_]"
  if not sources:find(whole) then problem("core/ijepa.h", "%s is defined nowhere", name) end
  if not lua:find(whole) and not docs:find(whole) then
    problem("core/ijepa.h", "%s is neither bound in lua/ nor in docs/ or a test", name)
  end
end

-- What the shared library exports is ours.
if arg[1] then
  for _, line in ipairs(lines_of(("nm -D --defined-only '%s' 2>/dev/null"):format(arg[1]))) do
    local name = line:match "%S+$"
    if not name:find "^ij_" and not name:find "^_" then problem(arg[1], "exports '%s'", name) end
  end
end

-- Modules and tests: every Lua module has a first comment; every package is named once.
for _, path in ipairs(matching "^lua/ijepa/.*%.lua$") do
  if not text[path]:find "^%-%-" then
    problem(path, "does not start with a comment that says what it is")
  end
end
-- Annotations of what users may call.
local annotations = dofile "tests/lint/annotations.lua"
for _, wrong in ipairs(annotations.self_test()) do
  problem("tests/lint/annotations.lua", "%s", wrong)
end
local public = { ["lua/ijepa/init.lua"] = true }
for _, module in pairs(dofile "lua/ijepa/base/names.lua") do
  local path = "lua/ijepa/" .. module:gsub("%.", "/")
  public[path .. ".lua"], public[path .. "/init.lua"] = true, true
end
for _, path in ipairs(matching "^lua/ijepa/[%w_/]*%.lua$") do
  for _, breach in ipairs(public[path] and annotations.breaches(text[path]) or {}) do
    problem(path, "line %d: %s", breach[1], breach[2])
  end
end

-- Scripts that no test runs (bench/) load modules that exist: public names or files.
local names = dofile "lua/ijepa/base/names.lua"
local function module_exists(name)
  local path = "lua/ijepa/" .. (names[name] or name):gsub("%.", "/")
  return text[path .. ".lua"] or text[path .. "/init.lua"]
end
for _, path in ipairs(matching "^bench/.*%.lua$") do
  for name in text[path]:gmatch "require%s*%(?%s*[\"']ijepa%.([%w_.]+)[\"']" do
    if not module_exists(name) then problem(path, "requires 'ijepa.%s', which is nowhere", name) end
  end
end

local seen = {}
for line in text["packages.txt"]:gmatch "[^\n]+" do
  local package, mark = line:match "^([%w.+-]+)%s*(%a*)$"
  if not line:find "^#" then
    if not package or (mark ~= "" and mark ~= "test" and mark ~= "ci") then
      problem("packages.txt", "'%s' is not understood", line)
    end
    if package and seen[package] then
      problem("packages.txt", "'%s' stands there twice", package)
    end
    seen[package or line] = true
  end
end

-- Documents: commands and links in them lead somewhere.
local known = {}
for _, word in ipairs { "help", "check", "conform", "import", "report", "export", "manifest",
    "submit", "memory", "profile", "embed", "test",
  "-e", "-", "-v",
  "--help" } do known[word] = true end
local has = {}
for _, path in ipairs(files) do
  has[path] = true
  local folder = path
  while folder:find "/" do
    folder = folder:match "^(.*)/"
    has[folder] = true
  end
end
local function check_command(path, line)
  local word = line:match "^%$?%s*%.?/?ijepa%s+(%S+)" or line:match "^%$?%s*build/ijepa%s+(%S+)"
  if word and not known[word] and not word:find "^[<A-Z]" and not word:find "^#" then
    if word:find "%.lua$" then
      if not has[word] and not word:find "^my_" then
        problem(path, "'%s' is not there: %s", word, line)
      end
    else
      problem(path, "the program has no '%s': %s", word, line)
    end
  end
  local script = line:match "^%$?%s*bash%s+(%S+)" or line:match "^%$?%s*sh%s+(%S+)"
  if script and not has[script] then problem(path, "'%s' is not there: %s", script, line) end
end
for _, path in ipairs(matching "%.md$") do
  local content, folder = text[path], path:match "^(.*/)" or ""
  for block in ("\n" .. content):gmatch "\n```[^\n]*\n(.-)\n```" do
    for line in (block .. "\n"):gmatch "([^\n]*)\n" do
      check_command(path, (line:gsub("^%s+", "")))
    end
  end
  for line in content:gmatch "\n    ([^\n]*)" do check_command(path, (line:gsub("^%s+", ""))) end
  for code in content:gmatch "`([^`\n]+)`" do check_command(path, code) end
  for target in content:gmatch "%]%(([^)%s]+)%)" do
    if not target:find "^%a+:" and not target:find "^#" then
      local target_path = (folder .. target:gsub("#.*", "")):gsub("^%./", ""):gsub("/$", "")
      while target_path:find "[^/]+/%.%./" do target_path = target_path:gsub("[^/]+/%.%./", "",
          1) end
      if not has[target_path] then problem(path, "the link '%s' leads nowhere", target) end
    end
  end
end

-- Settings in documents exist.
local settings = loadfile "lua/ijepa/config/settings.lua" and text["lua/ijepa/config/settings.lua"]
  or ""
for _, path in ipairs(matching "%.md$") do
  for section, key in text[path]:gmatch "%f[%w](%a+)%.([%a_]+)=[%w/\"{]" do
    if settings:find(section .. "%s*=%s*{") and not settings:find("%f[%w_]" .. key
        .. "%f[^%w_]") then
      problem(path, "no setting '%s.%s'", section, key)
    end
  end
end

print(problems == 0 and ("lint: %d files, nothing to say"):format(#files)
  or ("lint: %d problems"):format(problems))
os.exit(problems == 0 and 0 or 1)

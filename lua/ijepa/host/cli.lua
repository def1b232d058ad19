-- The command line: what `ijepa ...` does, how a script runs, and how its errors are shown.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local cli = {}

local commands = {}

local function usage()
  local function line(call, what) return ("       ijepa %-27s %s"):format(call, what) end
  local lines = {
    "usage: ijepa FILE [key=value ...]        run a recipe or any Lua file",
    line("FILE --help", "what a recipe does, and its settings"),
    line("", "the interactive prompt"),
    line("-e CODE [ARG ...]", "run CODE"),
    line("- [ARG ...]", "run standard input"),
    line("-v, --help", "print the version, this text"),
  }
  for _, c in ipairs(require "ijepa.host.commands") do
    local call = (c.name .. " " .. c.arguments):gsub("%s$", "")
    local one = line(call, c.brief)
    if #call <= 27 and #one <= 80 then lines[#lines + 1] = one
    else
      lines[#lines + 1] = "       ijepa " .. call
      lines[#lines + 1] = (" "):rep(17) .. c.brief
    end
  end
  lines[#lines + 1] = "`ijepa help COMMAND` prints more about one, `ijepa help` an overview."
  lines[#lines + 1] = "environment: IJEPA_TRACE=1 shows our own lines in tracebacks,"
  lines[#lines + 1] = "             IJEPA_LUA=DIR reads our Lua from DIR"
  return table.concat(lines, "\n") .. "\n"
end

-- On stderr; a name in a message must not command the terminal.
local function say(...) io.stderr:write((table.concat { ... }:gsub("[^\n\t]+", text.shown))) end

local function fail_usage(message)
  local command, try = message:match "^(%l+): ", "ijepa --help"
  for _, c in ipairs(require "ijepa.host.commands") do
    if c.name == command then try = "ijepa help " .. command end
  end
  say("ijepa: ", message, "\n", "try: ", try, "\n")
  return 2
end

-- A message that starts with one of our own lines gets the user's line instead; a file name that
-- Lua cut short becomes complete. frames: { where, short, internal }, the innermost first.
local function clear(message, frames)
  for _, frame in ipairs(frames) do
    if message:sub(1, #frame.short) == frame.short then
      local rest = message:sub(#frame.short + 1)
      if not frame.internal then return frame.where .. rest end
      for _, outer in ipairs(frames) do
        if not outer.internal then
          return outer.where .. rest .. (" (at %s)"):format(frame.where:sub(1, -2))
        end
      end
      return (rest:gsub("^ ", ""))
    end
  end
  return message
end

-- An error as { text = message and the user's frames }; an error of ijepa.exit stays as it is.
local function handler(e)
  if type(e) == "table" and e.exit then return e end
  local message = F.message_of(e)
  local frames, level = {}, 2
  while level < 60 do   -- a stack that has overflown holds thousands of frames
    local at = debug.getinfo(level, "Sln")
    if not at then break end
    if at.currentline > 0 then
      frames[#frames + 1] = {
        where = at.source:gsub("^[@=]", "", 1) .. ":" .. at.currentline, short = at.short_src .. ":"
          .. at.currentline .. ":",
        internal = F.is_internal(at.source), name = at.name, what = at.what,
      }
      frames[#frames].where = frames[#frames].where .. ":"
    end
    level = level + 1
  end
  local lines = { clear(message, frames) }
  if os.getenv "IJEPA_TRACE" == "1" then
    lines[2] = debug.traceback("", 2):gsub("^\n", "")
  else
    for _, frame in ipairs(frames) do
      if not frame.internal then
        lines[#lines + 1] = ("  %s in %s"):format(frame.where,
          frame.what == "main" and "the main chunk" or frame.name and ("'%s'"):format(frame.name)
            or "a function")
      end
    end
    if #lines == 2 then lines[2] = nil end   -- the message names that line already
  end
  return { text = table.concat(lines, "\n") }
end

--- Calls f(...) and returns true and its results, or false and { text = what to show } or { exit =
--- code }.
---@param f function
---@param ... any
---@return boolean ok, any
function cli.protected(f, ...)
  local args, n = { ... }, select("#", ...)
  local function answer(ok, result, ...)
    -- no stack is left for the handler
    if not ok and type(result) ~= "table" then result = { text = "stack overflow" } end
    return ok, result, ...
  end
  return answer(xpcall(function() return f(unpack(args, 1, n)) end, handler))
end

-- Runs a loaded chunk as the program's script and returns the exit code.
local function run(chunk, name)
  local ok, result, message = cli.protected(chunk, unpack(ijepa.args))
  if not ok and result.given then   -- RECIPE --help
    require "ijepa.host.recipe".print(name, result)
    return 0
  end
  if not ok then
    if result.exit then return result.exit end
    local why = result.text
    if not why:find "^[^\n]-:%d+: " and not why:find "^command line: " then
      why = name .. ": " .. why
    end
    say(why, "\n")
    return 1
  end
  if result == nil and type(message) == "string" then
    -- `return ijepa.x(...)` that returned nil and a message
    say(name, ": ", message, "\n")
    return 1
  end
  return 0
end

local function set_args(argv, first)
  local list = { [0] = argv[first - 1] }
  for i = first, #argv do
    list[#list + 1] = argv[i]
    ijepa.args[#ijepa.args + 1] = argv[i]
  end
  _G.arg = list   -- luacheck: ignore
end

local function compile_error(message)
  say(message, "\n")
  return 1
end

function commands.help(argv)
  if argv[2] == "settings" and argv[3] == "--markdown" then
    io.write(require "ijepa.config.page".markdown())
    return 0
  end
  return require "ijepa.host.help".show(argv[2]) == nil and 1 or 0
end

function commands.check(argv)
  if #argv > 2 then return fail_usage "check: expected at most one folder" end
  if argv[2] and F.C.ij_path_kind(argv[2]) ~= 2 then
    return fail_usage(("check: '%s' is not a folder"):format(
      text.shown(argv[2])))
  end
  return require "ijepa.host.health".main(argv[2]) and 0 or 1
end

function commands.conform(argv)
  if not argv[2] then return fail_usage "conform: expected a file or folder of recorded results" end
  local result, message = require "ijepa.conform".main { unpack(argv, 2) }
  if result == nil and message then say("ijepa: ", message, "\n") end
  if type(result) == "number" then return result end
  return result and 0 or 1
end

-- FILE of `out=FILE`, `--out=FILE` or `--out FILE`; false for other arguments.
local function out_of(args)
  if #args == 0 then return nil end
  if #args == 2 then return args[1] == "--out" and args[2] end
  return #args == 1 and (args[1]:match "^out=(.+)" or args[1]:match "^%-%-out=(.+)") or false
end

function commands.report(argv)
  local file = out_of { unpack(argv, 3) }
  if not argv[2] or argv[2]:find "^%-" or file == false then
    return fail_usage "report: expected ijepa report RUN [out=FILE]"
  end
  ijepa.interrupted()   -- from here on Ctrl-C cannot leave a half-written file
  local path, message = require "ijepa.report"(argv[2], { file = file })
  if not path then
    say("ijepa: ", message, "\n")
    return 1
  end
  print(path)
  return 0
end

function commands.import(argv)
  if not argv[2] then return fail_usage "import: expected a YAML file" end
  local recipe, message = require "ijepa.config.import".recipe(argv[2])
  if not recipe then
    say(message, "\n")
    return 1
  end
  io.write(recipe)
  return 0
end

function commands.export(argv)
  local code, wrong = require "ijepa.save.export".main { unpack(argv, 2) }
  return wrong and fail_usage("export: " .. wrong) or code
end

function commands.submit(argv)
  local code, wrong = require "ijepa.dist.submit".main { unpack(argv, 2) }
  return wrong and fail_usage("submit: " .. wrong) or code
end

function commands.memory(argv)
  local done, wrong = require "ijepa.train.memory".main { unpack(argv, 2) }
  return done and 0 or fail_usage("memory: " .. wrong)
end

function commands.embed(argv)
  local done, wrong = require "ijepa.probe.embed".main { unpack(argv, 2) }
  return done and 0 or fail_usage("embed: " .. wrong)
end

function commands.profile(argv)
  local done, wrong = require "ijepa.train.profile".main { unpack(argv, 2) }
  return done and 0 or fail_usage("profile: " .. wrong)
end

function commands.manifest(argv)
  if #argv ~= 2 then
    return fail_usage "manifest: expected one folder of images, tar or list of tars"
  end
  local images, message = require "ijepa.data".catalogue { root = argv[2] }
  local started, lines, n = F.C.ij_time(), nil, 0
  if images then lines, message = images:manifest() end
  if not lines then
    say("ijepa: ", message, "\n")
    return 1
  end
  for line in lines do
    n = n + 1
    io.write(line, "\n")
  end
  say(("%s in %.1f s\n"):format(text.count(n, "file"), F.C.ij_time() - started))
  return 0
end

-- Runs a command; what it raises is printed. Returns the exit code.
local function run_command(command, argv)
  local ok, code = cli.protected(command, argv)
  if ok then return code end
  if code.exit then return code.exit end
  say(code.text, "\n")
  return 1
end

local options = {}
options["-v"] = function()
  print("ijepa " .. ijepa.version)
  return 0
end
options["--version"] = options["-v"]
options["--help"] = function()
  io.write(usage())
  return 0
end
options["-h"] = options["--help"]
options["-e"] = function(argv)
  if not argv[2] then return fail_usage "-e: the code to run is missing" end
  set_args(argv, 3)
  local chunk, message = loadstring(argv[2], "=(command line)")
  if not chunk then return compile_error(message) end
  return run(chunk, "(command line)")
end
options["-"] = function(argv)
  set_args(argv, 2)
  local chunk, message = loadstring(io.read "*a":gsub("^#[^\n]*", ""), "=stdin")
  if not chunk then return compile_error(message) end
  return run(chunk, "stdin")
end

local function run_file(argv)
  local path = argv[1]
  local file, message = io.open(path, "rb")
  if not file or not file:read(0) and F.C.ij_path_kind(path) == 2 then
    local names = {}
    for _, c in ipairs(require "ijepa.host.commands") do names[#names + 1] = c.name end
    return fail_usage(("cannot open '%s': %s%s"):format(path,
      file and "it is a folder" or message:gsub("^.*: ", ""),
      path:find "[./]" and "" or text.hint(path, names)))
  end
  file:close()
  if path:lower():find "%.ya?ml$" then
    say(("%s: this is a YAML configuration, not a recipe; make one of it: ijepa import %s > recipe.lua\n"):format(path, path))
    return 1
  end
  set_args(argv, 2)
  local folder = path:match "^(.*)/" or "."
  if folder ~= "." then
    package.path = ("%s/?.lua;%s/?/init.lua;"):format(folder, folder) .. package.path
  end
  local chunk, err = text.load_file(path)
  if not chunk then return compile_error(err) end
  return run(chunk, path)
end

--- The program: argv[0] is its name; returns the exit code.
---@param argv string[]
---@return integer
function cli.main(argv)
  local first = argv[1]
  if not first then return require "ijepa.host.repl".main() end
  if commands[first] then return run_command(commands[first], argv) end
  if options[first] then return options[first](argv) end
  if first:find "^%-" then
    return fail_usage(("unknown option '%s'"):format(first))
  end
  return run_file(argv)
end

return cli

-- The interactive session: it runs what is typed, shows the results and keeps them in _; a last ";"
-- hides them, "? NAME" prints help, Tab completes, Ctrl-C stops what runs. Input that is not a
-- terminal is read without prompts, echo and colours.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local cli = require "ijepa.host.cli"
local complete = require "ijepa.host.complete"
local show = require "ijepa.host.show"
local text = require "ijepa.base.text"
local repl = {}

local LONG = 1   -- seconds; the time of a longer command is shown
local SCREEN = 22   -- lines of a value or of help that are shown; `?? NAME` shows all of a help

-- ---- the environment of what is typed: tensor, mask, ... need no "ijepa." in front. What it sets is
-- global, but Lua's own names are changed for the session alone, so that `type = 1` breaks no
-- module.
local standard = {}
for name in pairs(_G) do standard[name] = true end
local env = setmetatable({ ijepa = ijepa, _G = _G }, {
  __index = function(_, name)
    local value = rawget(_G, name)
    if value == nil then value = ijepa[name] end
    return value
  end,
  __newindex = function(t, name, value) rawset(standard[name] and t or _G, name, value) end,
})

--- Prints help about a name, a function or a module.
function env.help(name) ijepa.help(name) end

-- exit(code), quit(): like `exit` and `quit` typed alone. In the session only: scripts have
-- ijepa.exit.
rawset(env, "exit", function(code) ijepa.exit(code) end)
rawset(env, "quit", env.exit)

--- Loads a module of yours again.
---@param name string
---@return any
function env.reload(name)
  if package.loaded[name] and debug.getinfo(2, "S") and name:find "^ijepa%f[%W]" then
    F.raise("reload: '" .. name .. "' belongs to the program")
  end
  package.loaded[name] = nil
  return require(name)
end

-- ---- compiling

local function pack(...) return { n = select("#", ...), ... } end

-- Called at the end of a chunk: its local variables stay, or the next line would not know them.
local function keep_locals()
  for i = 1, 250 do
    local name, value = debug.getlocal(2, i)
    if not name then return end
    if not name:find "^%(" then env[name] = value end
  end
end

-- The second result where a call failed: f returned nil and a message.
local function failure_of(results)
  return results.n > 1 and results[1] == nil and type(results[2]) == "string" and results[2] or nil
end

-- Assignments keep the message of a failed call in here, which `m = ijepa.model "nowhere"` drops.
local dropped = {}
local function keep_message(...)
  dropped.message = failure_of(pack(...))
  return ...
end

-- "m = f(x)" and "local a, b = f(x)" as { before the values, the values }; nil for other sources.
local function assignment(code)
  local left, right = code:match "^(%s*[%a_][%w_%s,.]*=)([^=].*)$"
  if left and not left:find "^%s*local%s+function%f[%W]" then return left, right end
end

-- A chunk to be called with `with`, `keep`. An expression returns its packed values (as arguments
-- of a call: a tail call would lose the user's line in tracebacks); a statement returns nothing, or
-- what it returns. nil, message and whether more lines could complete it where it does not compile.
local function compile(source, name, line)
  local code = source:gsub(";%s*$", ""):gsub("^%s*=", "", 1)
  local above = ("\n"):rep((line or 1) - 1)
  name = "=" .. (name or "session")
  -- the first form keeps errors in the last line; the second allows a comment at the end
  for _, last in ipairs { ")", "\n)" } do
    local chunk = loadstring(above .. "return (...)(" .. code .. last, name)
    if chunk then return { run = chunk, with = pack, expression = true } end
  end
  local left, right = assignment(code)
  for _, last in ipairs(left and { ")", "\n)" } or {}) do
    local chunk = loadstring(("%s%s (select(2, ...))(%s%s do (...)() end"):format(above, left,
      right, last), name)
    if chunk and loadstring(above .. code, name) then
      return { run = chunk, with = keep_locals, keep = keep_message }
    end
  end
  local chunk = loadstring(above .. code .. "\ndo (...)() end", name)
  if chunk then return { run = chunk, with = keep_locals } end
  local message
  chunk, message = loadstring(above .. code, name)
  if chunk then return { run = chunk, with = keep_locals } end
  -- "1 +" is no statement, but the start of an expression
  local _, other = loadstring("return " .. code, name)
  return nil, message, message:find "'<eof>'$" ~= nil or other ~= nil
    and other:find "'<eof>'$" ~= nil
end

-- Several inputs in one text, such as a paste: a list of { source, line }; nil where a line is
-- wrong or unfinished.
local function split(source)
  local list, open, line, first = {}, nil, 0, 1
  for one in (source .. "\n"):gmatch "([^\n]*)\n" do
    line = line + 1
    if not open then first = line end
    open = open and open .. "\n" .. one or one
    local chunk, _, unfinished = compile(open)
    if chunk then
      if open:find "%S" then list[#list + 1] = { source = open, line = first } end
      open = nil
    elseif not unfinished then
      return nil
    end
  end
  return not open and list or nil
end

-- NAME of "? NAME", "?? NAME", "NAME?" and "help NAME"; "" for "?" and "help" alone. Second: whether
-- all of it is wanted (??).
local function question(source)
  local all = source:match "^%s*%?%?%s*(.-)%s*$"
  if all then return all, true end
  return source:match "^%s*%?%s*(.-)%s*$" or source:match "^%s*([%a_][%w_.:]*)%?%s*$"
    or source:match "^%s*help%s+([%a_][%w_.:]*)%s*$" or source:match "^%s*help()%s*$" and ""
end

local function asks_to_exit(source)
  local word = source:match "^%s*(%a+)%s*%(?%s*%)?%s*;?%s*$"
  return (word == "exit" or word == "quit") and rawget(_G, word) == nil
end

--- Whether a text can run: it may be wrong, but no line is missing.
---@param source string
---@return boolean
function repl.finished(source)
  if question(source) then return true end
  local _, _, unfinished = compile(source)
  return not unfinished or split(source) ~= nil
end

-- ---- showing

-- The names that an input sets: a terminal shows their values.
local function assigned(source)
  local names = {}
  local left = source:match "^%s*local%s+([%w_,%s]-)%s*=[^=]"
    or source:match "^%s*([%a_][%w_,%s]-)%s*=[^=]"
  for name in ((left or "") .. ","):gmatch "%s*([^,]-)%s*," do
    if not name:find "^[%a_][%w_]*$" then return {} end
    names[#names + 1] = name
  end
  return names
end

-- "mask" for the module ijepa.mask, else nil.
local function module_name(value)
  for name, path in pairs(require "ijepa.base.names") do
    if type(value) == "table" and package.loaded["ijepa." .. path] == value
        and ijepa[name] == value then
      return name
    end
  end
end

-- A module in a few lines: the names in it.
local function module_text(name, width)
  local names = complete.names("ijepa." .. name .. ".", env)
  return require "ijepa.host.help".wrap(("module ijepa.%s (? %s): %s"):format(name, name,
    table.concat(names, ", ")), "", width)
end

local function print_results(results, how)
  local parts = {}
  local message = failure_of(results)
  if message then
    print(show.paint(how.colours, "nil", "nil") .. "  "
      .. show.paint(how.colours, "error", message))
    return
  end
  for i = 1, results.n do
    local value = results[i]
    local module = type(value) == "table" and results.n == 1 and module_name(value)
    if how.terminal and show.is_image(value) then
      value:show()
    elseif module then
      parts[#parts + 1] = module_text(module, how.width)
    else
      parts[#parts + 1] = type(value) == "string" and results.n == 1 and show.paint(how.colours,
        "string", value)
        or show.text(value, how)
    end
  end
  if #parts > 0 then print(table.concat(parts, "\t")) end
end

local function print_assigned(source, how)
  local names = assigned(source)
  for _, name in ipairs(names) do
    local value = env[name]
    local line = show.text(value, { width = 1e4 }):match "[^\n]*"
    if line == "{" then
      line = "{ " .. table.concat(text.keys(value), ", ", 1, math.min(8, #text.keys(value)))
        .. ", ... }"
    end
    local space = how.width - #name - 3
    if #line > space then line = line:sub(1, math.max(space - 4, 8)) .. " ..." end
    print(show.paint(how.colours, "dim", name .. " = " .. line))
  end
end

-- the entries of this session: chunk name -> text
local typed = require "ijepa.base.source".typed

-- The lines of a function that was typed, or nil.
local function typed_lines(f)
  local at = debug.getinfo(f, "S")
  local source, lines, number = typed[at.source], {}, 0
  for line in ((source or "") .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    if number >= at.linedefined and number <= at.lastlinedefined then lines[#lines + 1] = line end
  end
  return source and table.concat(lines, "\n")
end

-- "mask has no 'drw' (did you mean 'draw'?)" for the path of a value that is nil; nil where no name
-- is near.
local function missing(path)
  local base, mark, name = path:match "^(.-)([.:]?)([%a_][%w_]*)$"
  local value = base ~= "" and complete.value(base, env) or base == "" and env or nil
  if not name or #name < 3 or value == nil or (base == "" and mark ~= "") then return nil end
  local near = text.near(name, complete.names(base == "" and "" or base .. mark, env), 2)
  for i = #near, 1, -1 do
    if near[i] == "_" or near[i] == name then table.remove(near, i) end
  end
  if not near[1] then return nil end
  return ("%s '%s' (did you mean '%s'?)"):format(base == "" and "there is no" or base .. " has no",
    name, near[1])
end

-- What a value is: its text, and the methods of an object.
local function print_value(name, value)
  local width = F.C.ij_terminal_width()
  print(("%s: %s"):format(name, type(value) == "table" and type(getmetatable(value)) == "table"
    and "an object" or type(value)))
  print("  " .. show.text(value, { width = width - 2 }):gsub("\n", "\n  "))
  local methods = type(value) == "table" and complete.methods(value) or {}
  if #methods > 0 then
    local help, example = require "ijepa.host.help", nil
    print(help.wrap("methods: " .. table.concat(methods, ", "), "  ", width))
    for _, method in ipairs(methods) do
      local f = complete.value(name .. ":" .. method, env)
      local signature = type(f) == "function" and help.signature(f)
      example = example or signature and signature:match "^(.-)  "
    end
    if example then
      print(help.wrap(("such as %s; ? %s prints what it does"):format(example,
        example:match "^[^(]*"), "  ", width))
    end
  end
end

-- Prints the documentation of a name, else the text of a typed function, else the value.
local function print_help(name)
  if name == "" then return ijepa.help "prompt" ~= nil end
  if name == "help" then return ijepa.help() ~= nil end
  local docs = require "ijepa.host.help".docs()
  local value = complete.value(name, env)
  -- a variable of the user
  local own = rawget(_G, name:match "^[%w_]+") ~= nil and not standard[name:match "^[%w_]+"]
  if value == nil or not own and (docs.names[name] or docs.modules[name]) then
    return ijepa.help(name) ~= nil
  end
  local lines = type(value) == "function" and typed_lines(value)
  if lines then
    print(lines)
    return true
  end
  if type(value) == "function" or package.loaded.ijepa == value then
    return ijepa.help(value) ~= nil
  end
  for _, path in pairs(require "ijepa.base.names") do
    if package.loaded["ijepa." .. path] == value then return ijepa.help(value) ~= nil end
  end
  print_value(name, value)
  return true
end

-- A module in a screen: what it is, the names of its functions, an example.
local function print_module(name, docs)
  local help = require "ijepa.host.help"
  local names, examples = {}, require "ijepa.host.topics".examples
  for key in pairs(docs.names) do
    local own = key:match("^" .. name:gsub("%p", "%%%0") .. "%.([%w_]+)$")
    if own then names[#names + 1] = own end
  end
  table.sort(names)
  print("ijepa." .. name)
  print(help.wrap(docs.modules[name]:match "^(.-)\n%s*\n" or docs.modules[name], "  "))
  print(help.wrap("functions: " .. table.concat(names, ", "), "  "))
  for _, own in ipairs(names) do
    local example = examples[name .. "." .. own]
    if example then
      print(help.wrap("example: " .. example, "  "))
      break
    end
  end
  print(("  ? %s.%s prints one, ?? %s all"):format(name, names[1] or "NAME", name))
end

-- What f prints, as lines, and its result.
local function printed(f, ...)
  local lines, before = {}, print
  _G.print = function(...)   -- luacheck: ignore
    local parts = { ... }
    for i = 1, select("#", ...) do parts[i] = tostring(parts[i]) end
    for line in (table.concat(parts, "\t") .. "\n"):gmatch "([^\n]*)\n" do
      lines[#lines + 1] = line
    end
  end
  local ok, result = pcall(f, ...)
  _G.print = before   -- luacheck: ignore
  if not ok then error(result, 0) end
  return lines, result
end

-- Help about a name; in a terminal at most a screen of it. A long list of functions becomes their
-- names.
local function print_screen(name, limited)
  local lines, fine = printed(print_help, name)
  local size = F.new "int[4]"
  local rows = F.C.ij_terminal_size(1, size) ~= 0 and math.min(SCREEN, size[1] - 2) or SCREEN
  if limited and #lines > rows then
    local docs, plain = require "ijepa.host.help".docs(), name:gsub("^ijepa%.", "")
    if docs.modules[plain] and not docs.names[plain] then
      lines = printed(print_module, plain, docs)
    end
  end
  if limited and #lines > rows then
    local most = #lines - rows + 1
    for i = #lines, rows, -1 do lines[i] = nil end
    lines[rows] = ("... %s: ?? %s shows all"):format(text.count(most, "more line"), name)
  end
  for _, line in ipairs(lines) do print(line) end
  return fine
end

-- The text of an input or of a line that an error names, such as "[12]:1".
local function text_of(message, source)
  local name = message:match "^(%[%d+%]):%d+:"
  return name and typed["=" .. name] or source
end

-- A nil value is often a typing error: the message with the name that was meant.
local function with_hint(message, source)
  local global = message:match "global '([%w_]+)' %(a nil value%)"
  local kind, field = message:match "(%a+) '([%w_]+)' %(a nil value%)"
  local path = global
  if not global and (kind == "field" or kind == "method") then
    local code = text_of(message, source)
    path = code:match("([%a_][%w_.]*[.:]" .. field .. ")%f[^%w_]")
  end
  local hint = path and complete.value(path, env) == nil and missing(path)
  hint = hint and hint:match " %(did you mean.*" or ""
  return (message:gsub("^[^\n]*", function(first) return first .. hint end))
end

-- ---- running

-- Runs one complete input. False when it failed; nil and an exit code to exit with.
local function run(source, name, line, host)
  local asked, all = question(source)
  if asked then return print_screen(asked, not all and host and F.C.ij_isatty(1) ~= 0) end
  if asks_to_exit(source) then return nil, 0 end
  local list = split(source)
  if list and #list > 1 then   -- a paste of several
    for _, one in ipairs(list) do
      local fine, code = run(one.source, name, line + one.line - 1, host)
      if not fine then return fine, code end
    end
    return true
  end
  local red = show.has_colours(2)
  local chunk, message = compile(source, name, line)
  if not chunk then
    io.stderr:write(show.paint(red, "error", message), "\n")
    return false
  end
  setfenv(chunk.run, env)
  local how = { width = host and host.columns() or 80, colours = host and show.has_colours(1),
    terminal = host and F.C.ij_isatty(1) ~= 0 }
  how.lines = how.terminal and SCREEN or nil
  local hidden, started = source:find ";%s*$", F.C.ij_time()
  dropped.message = nil
  if host then   -- compiled loops do not check for Ctrl-C: what is typed here runs interpreted
    jit.off(chunk.run, true)
    host.catch_interrupt(true)
  end
  local results
  local ok, failure = cli.protected(function()
    results = pack(chunk.run(chunk.with, chunk.keep))
    if chunk.expression then results = results[1] end
    if results.n > 0 then env._ = results[1] end
    if hidden then return end
    if results.n > 0 then print_results(results, how)   -- a __tostring may fail too
    elseif host then print_assigned(source, how) end
    local path = chunk.expression and results.n == 1 and results[1] == nil
      and source:match "^%s*([%a_][%w_.]*)%s*$"
    local hint = path and missing(path)
    if hint then io.stderr:write(show.paint(red, "error", hint), "\n") end
  end)
  if host then
    host.catch_interrupt(false)
    local took = F.C.ij_time() - started
    if took > LONG then
      io.stderr:write(show.paint(red, "dim", ("took %.1f s"):format(took)), "\n")
    end
  end
  if ok and dropped.message and #assigned(source) < 2 then
    io.stdout:flush()
    io.stderr:write(show.paint(red, "error", dropped.message), "\n")
  end
  if ok then return true end
  if failure.exit then
    if failure.exit ~= 130 or not host then return nil, failure.exit end
    failure.text = failure.interrupted and tostring(failure) or "interrupted"
  end
  io.stdout:flush()
  io.stderr:write(show.paint(red, "error", with_hint(failure.text, source)), "\n")
  return false
end

-- Files that a session loads run interpreted too, except ours. Work that polls ijepa.interrupted()
-- stops by itself at Ctrl-C.
local function make_interruptible(host)
  local function slow(chunk, ...)
    if type(chunk) == "function" then jit.off(chunk, true) end
    return chunk, ...
  end
  local load_file, load_string, load_any, find = loadfile, loadstring, load,
    package.loaders[#package.loaders > 4 and 3 or 2]
  function _G.loadfile(...) return slow(load_file(...)) end       -- luacheck: ignore
  function _G.loadstring(...) return slow(load_string(...)) end   -- luacheck: ignore
  function _G.load(...) return slow(load_any(...)) end            -- luacheck: ignore
  function _G.dofile(path)                                        -- luacheck: ignore
    local chunk, message = load_file(path)
    if not chunk then error(message, 0) end
    return (slow(chunk))()
  end
  for i, loader in ipairs(package.loaders) do
    if loader == find then
      package.loaders[i] = function(name)
        if name:find "^ijepa%f[%W]" then return loader(name) end
        return slow(loader(name))
      end
    end
  end
  function ijepa.interrupted() return host.polled() end
end

-- ---- the session

local function history_path()
  local state = os.getenv "XDG_STATE_HOME"
  if not state or state == "" then
    local home = os.getenv "HOME"
    if not home or home == "" then return nil end
    state = home .. "/.local/state"
  end
  local folder = state .. "/ijepa"
  if F.C.ij_mkdirs(folder) ~= 0 then return nil end
  return folder .. "/history"
end

-- Input that is not a terminal: after a failure the rest still runs.
local function read_all()
  local code, number = 0, 0
  local function read()
    number = number + 1
    local line = io.read "*l"
    typed["=stdin"] = (typed["=stdin"] or "") .. (line or "") .. "\n"
    return line
  end
  while true do
    local source = read()
    if not source then return code end
    local first = number
    while not question(source) do
      local _, _, unfinished = compile(source)
      local line
      if unfinished then line = read() end
      if not line then break end
      source = source .. "\n" .. line
    end
    if source:find "%S" then
      local fine, exit = run(source, "stdin", first)
      if exit then return exit end
      if not fine then code = 1 end
    end
  end
end

--- Runs the session until the input ends; returns the exit code.
---@return integer
function repl.main()
  local ok, host = pcall(require, "ijepa._host")
  if F.C.ij_isatty(0) == 0 or not ok then return read_all() end
  io.stderr:write(("ijepa %s: ? for help, Ctrl-D exits\n"):format(ijepa.version))
  host.edit(function(before) return complete.tab(before, env, host.columns()) end, repl.finished)
  make_interruptible(host)
  local history = history_path()
  if history then host.recall(history) end
  local number = 1
  while true do
    io.stdout:flush()
    local source = host.readline(("[%d]> "):format(number))
    if source == nil then break end
    if not source then
      io.stdout:write "\n"
    elseif source:find "%S" then
      host.remember(source, history)
      typed[("=[%d]"):format(number)] = source
      local _, exit = run(source, ("[%d]"):format(number), 1, host)
      if exit then return exit end
      number = number + 1
    end
  end
  io.stdout:write "\n"
  return 0
end

return repl

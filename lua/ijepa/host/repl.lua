-- The interactive session: what is typed runs, results show and are kept in _, a last ";" hides them, "? NAME" helps, Tab
-- completes, Ctrl-C stops what runs. Input that is no terminal is read without prompts, echo and colours.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local cli = require "ijepa.host.cli"
local complete = require "ijepa.host.complete"
local show = require "ijepa.host.show"
local text = require "ijepa.base.text"
local repl = {}

local LONG = 1   -- seconds past which a command's time is told

-- ---- what is typed sees tensor, mask, ... without "ijepa." in front; what it sets is global, but Lua's own names are
-- changed for the session alone, so that `type = 1` breaks no module
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

function env.help(name) ijepa.help(name) end

--- Loads a module of the user's anew.
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

-- Called at the end of a chunk: what it made local stays, or the next line would not know it.
local function keep_locals()
  for i = 1, 250 do
    local name, value = debug.getlocal(2, i)
    if not name then return end
    if not name:find "^%(" then env[name] = value end
  end
end

-- A chunk to be called with `with`: an expression gives its packed values (as arguments of a call, so that it is no tail
-- call and the user's line stays in tracebacks); a statement nothing or what it returns. nil, message and whether more
-- lines could complete it where it does not compile.
local function compile(source, name, line)
  local code = source:gsub(";%s*$", ""):gsub("^%s*=", "", 1)
  local above = ("\n"):rep((line or 1) - 1)
  name = "=" .. (name or "session")
  local chunk = loadstring(above .. "return (...)(" .. code .. "\n)", name)
  if chunk then return { run = chunk, with = pack, expression = true } end
  chunk = loadstring(above .. code .. "\ndo (...)() end", name)
  if chunk then return { run = chunk, with = keep_locals } end
  local message
  chunk, message = loadstring(above .. code, name)
  if chunk then return { run = chunk, with = keep_locals } end
  local _, other = loadstring("return " .. code, name)   -- "1 +" is no statement, but the start of an expression
  return nil, message, message:find "'<eof>'$" ~= nil or other ~= nil and other:find "'<eof>'$" ~= nil
end

-- Several inputs in one text, as a paste holds them: a list of { source, line }, or nil where a line is wrong or open.
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

local function question(source) return source:match "^%s*%?%s*(.-)%s*$" or source:match "^%s*([%a_][%w_.:]*)%?%s*$" end

--- Whether a text can run as it is: it may be wrong, but no line is missing.
---@param source string
---@return boolean
function repl.finished(source)
  if question(source) then return true end
  local _, _, unfinished = compile(source)
  return not unfinished or split(source) ~= nil
end

-- ---- showing

-- The names that an input sets, of which a terminal shows the values.
local function assigned(source)
  local names = {}
  local left = source:match "^%s*local%s+([%w_,%s]-)%s*=[^=]" or source:match "^%s*([%a_][%w_,%s]-)%s*=[^=]"
  for name in ((left or "") .. ","):gmatch "%s*([^,]-)%s*," do
    if not name:find "^[%a_][%w_]*$" then return {} end
    names[#names + 1] = name
  end
  return names
end

local function print_results(results, how)
  local parts = {}
  for i = 1, results.n do
    local value = results[i]
    if how.terminal and show.is_image(value) then
      value:show()
    else
      parts[#parts + 1] = type(value) == "string" and results.n == 1 and show.paint(how.colours, "string", value)
        or show.text(value, how)
    end
  end
  if #parts > 0 then print(table.concat(parts, "\t")) end
end

local function print_assigned(source, how)
  for _, name in ipairs(assigned(source)) do
    local value = env[name]
    local line = show.text(value, { width = 1e4 }):match "[^\n]*"
    if line == "{" then line = "{ " .. table.concat(text.keys(value), ", ", 1, math.min(8, #text.keys(value))) .. ", ... }" end
    local room = how.width - #name - 3
    if #line > room then line = line:sub(1, math.max(room - 4, 8)) .. " ..." end
    print(show.paint(how.colours, "dim", name .. " = " .. line))
  end
end

local typed = {}   -- the entries of this session: chunk name -> text

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

-- What is documented under this name, else what the value of this name is.
local function print_help(name)
  local ok, docs = pcall(require, "ijepa._docs")
  local value = complete.value(name, env)
  if value == nil or (ok and (docs.names[name] or docs.modules[name])) then
    return ijepa.help(name ~= "" and name or nil) ~= nil
  end
  local lines = type(value) == "function" and typed_lines(value)
  if lines then print(lines) end
  if lines or type(value) == "function" or package.loaded.ijepa == value then return lines ~= nil or ijepa.help(value) ~= nil end
  for module in pairs(ok and docs.modules or {}) do
    if package.loaded["ijepa." .. require "ijepa.base.names"[module]] == value then return ijepa.help(value) ~= nil end
  end
  print(("%s is a %s: %s"):format(name, type(value), show.text(value)))
  return true
end

-- An unknown name is often a mistyped one.
local function with_hint(message)
  local name = message:match "global '([%w_]+)' %(a nil value%)"
  local seen, ok, docs = {}, pcall(require, "ijepa._docs")
  for _, t in ipairs { ijepa, _G, ok and docs.modules or {} } do
    for key in pairs(t) do seen[key] = true end
  end
  local hint = name and text.hint(name, text.keys(seen)) or ""
  return (message:gsub("^[^\n]*", function(first) return first .. hint end))
end

-- ---- running

-- Runs one complete input. False when it failed; nil and an exit code when it ends the session.
local function run(source, name, line, host)
  local asked = question(source)
  if asked then return print_help(asked) end
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
  local hidden, started = source:find ";%s*$", F.C.ij_time()
  if host then   -- compiled loops do not look for Ctrl-C: what is typed here runs interpreted
    jit.off(chunk.run, true)
    host.catch_interrupt(true)
  end
  local results
  local ok, failure = cli.protected(function()
    results = pack(chunk.run(chunk.with))
    if chunk.expression then results = results[1] end
    if results.n > 0 then env._ = results[1] end
    if hidden then return end
    if results.n > 0 then print_results(results, how)   -- a __tostring may fail too
    elseif host then print_assigned(source, how) end
  end)
  if host then
    host.catch_interrupt(false)
    local took = F.C.ij_time() - started
    if took > LONG then io.stderr:write(show.paint(red, "dim", ("took %.1f s"):format(took)), "\n") end
  end
  if ok then return true end
  if failure.exit then
    if failure.exit ~= 130 or not host then return nil, failure.exit end
    failure.text = failure.interrupted and tostring(failure) or "interrupted"
  end
  io.stdout:flush()
  io.stderr:write(show.paint(red, "error", with_hint(failure.text)), "\n")
  return false
end

-- Files that a session loads run interpreted too, all but ours, and who polls for Ctrl-C is asked to stop by itself.
local function make_interruptible(host)
  local function slow(chunk, ...)
    if type(chunk) == "function" then jit.off(chunk, true) end
    return chunk, ...
  end
  local load_file, load_string, load_any, find = loadfile, loadstring, load, package.loaders[#package.loaders > 4 and 3 or 2]
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

-- Input that is no terminal: a failure is remembered, the rest still runs.
local function read_all()
  local code, number = 0, 0
  local function read()
    number = number + 1
    return io.read "*l"
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
      local fine, leave = run(source, "stdin", first)
      if leave then return leave end
      if not fine then code = 1 end
    end
  end
end

--- Runs the session until the input ends; returns the exit code.
---@return integer
function repl.main()
  local ok, host = pcall(require, "ijepa._host")
  if F.C.ij_isatty(0) == 0 or not ok then return read_all() end
  io.stderr:write(("ijepa %s: ? helps, Ctrl-D leaves\n"):format(ijepa.version))
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
      local _, leave = run(source, ("[%d]"):format(number), 1, host)
      if leave then return leave end
      number = number + 1
    end
  end
  io.stdout:write "\n"
  return 0
end

return repl

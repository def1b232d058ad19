--- What `ijepa help NAME` and `? NAME` print: commands, topics, settings, modules, functions.
--- Functions
-- have the comments of our sources (module ijepa._docs, made when the program is built).
local F = require "ijepa.base.ffi"
local scan = require "ijepa.host.scan"
local text = require "ijepa.base.text"
local help = {}

local NAME_COLUMN = 26

local function commands() return require "ijepa.host.commands" end
local function topics() return require "ijepa.host.topics" end

--- The documentation made at build time: modules (name -> text), names (name -> list of functions).
---@return { modules: table<string, string>, names: table<string, table[]> }
function help.docs()
  local ok, found = pcall(require, "ijepa._docs")
  return ok and found or { modules = {}, names = {} }
end

-- ---- text that fits the terminal

--- s in lines of at most `width` columns (the terminal's). Lines that start with a blank stay lines
--- of their own; their continuation is indented by two more.
---@param s string
---@param indent string? in front of every line
---@param width integer?
---@param apart boolean? a line without a blank never continues one with a blank (the head of a
--- recipe)
---@return string
function help.wrap(s, indent, width, apart)
  indent, width = indent or "", width or math.min(F.C.ij_terminal_width(), 120)
  local blocks, open = {}, nil   -- { blanks in front, words }
  for line in (s .. "\n"):gmatch "([^\n]*)\n" do
    local blanks, rest = line:match "^(%s*)(.-)%s*$"
    if rest == "" then
      blocks[#blocks + 1], open = { "", "" }, nil
    elseif not open or blanks ~= "" or #open[1] >= 4 or apart and open[1] ~= "" then
      open = { blanks, rest }
      blocks[#blocks + 1] = open
    else
      open[2] = open[2] .. " " .. rest
    end
  end
  local lines = {}
  for _, block in ipairs(blocks) do
    local margin = indent .. block[1]
    local hang = block[1] == "" and margin or margin .. "  "
    if #block[1] >= 4 then   -- code: its blanks count
      lines[#lines + 1] = margin .. block[2]
    else
      local line
      for word in block[2]:gmatch "%S+" do
        if line and #line + #word + 1 > width then
          lines[#lines + 1], line = line, hang .. word
        else
          line = line and line .. " " .. word or margin .. word
        end
      end
      lines[#lines + 1] = line or ""
    end
  end
  return table.concat(lines, "\n")
end

--- "name      text" in columns, the text wrapped beside the name.
---@param name string
---@param what string
---@param column integer? where the text starts
---@return string
function help.row(name, what, column)
  column = column or NAME_COLUMN
  local body = help.wrap(what, (" "):rep(column))
  if #name + 2 > column then return "  " .. name .. "\n" .. body end
  return "  " .. name .. body:sub(#name + 3)
end

--- The first sentence of a text, on one line.
---@param s string
---@return string
function help.brief(s)
  s = s:gsub("\n%s+.*", ""):gsub("%s*\n%s*", " ")
  return (s:match "^(.-[^.])%.%s" or s:gsub("%.$", ""))
end

--- What a list shows of a text: its first sentence, of a long one the part before ":" or ";".
---@param s string
---@return string
function help.short(s)
  s = help.brief(s)
  local part = #s > 60 and s:match "^(.-)[:;]%s"
  return part and #part >= 20 and part or s
end
local short = help.short

local function sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

-- ---- one name

-- Functions that users call by a shorter name, and classes by the name of their local table.
local SHORTER = { ["state.model"] = "ijepa.model", ["imagine.imagine"] = "ijepa.imagine",
  ["imagine.bank"] = "ijepa.bank", ["pretrain.pretrain"] = "ijepa.pretrain",
  ["config.resolve"] = "ijepa.config", ["load.load"] = "ijepa.load",
  ["report.report"] = "ijepa.report", ["try.try"] = "ijepa.try" }
local CLASSES = { methods = "checkpoint", open = "run" }

-- "mask.draw(policy, o)", "grid:block(...)"
local function signature_of(name, entry)
  if SHORTER[name] then return SHORTER[name] .. entry.signature:match "%(.*" end
  local module, method = name:match "^(.*)[.]" or "ijepa", entry.signature:find "^:"
  -- the class: encoder, sgd
  if method and #entry.owner > 2 then
    module = CLASSES[entry.owner:lower()] or entry.owner:lower()
  end
  return module .. (method and "" or ".") .. entry.signature
end

local function show_entry(name, entry)
  print(signature_of(name, entry))
  print(help.wrap(entry.text, "  "))
  local example = topics().examples[name]
  if example then print(help.wrap("example: " .. example, "  ")) end
end

local function show_setting(key)
  local config, page = require "ijepa.config", require "ijepa.config.page"
  local leaf = config.describe(key)
  print(("%s  (%s; default %s)"):format(key, leaf.type:gsub("|", " or "), page.default(leaf)))
  print(help.wrap(leaf.doc, "  "))
  local value = leaf.default == nil and "..." or page.default(leaf):gsub('"', ""):gsub("[{} ]", "")
  print(("  on the command line: %s=%s"):format(key, value == "" and "..." or value))
end

local function show_command(c)
  print((("ijepa %s %s"):format(c.name, c.arguments):gsub("%s$", "")))
  print(help.wrap(c.text, "  "))
  print("  example: " .. c.example)
end

-- ---- lists

-- The settings below a section or a part of one: "data", "mask.target".
local function settings_below(prefix)
  local list = {}
  for _, key in ipairs(require "ijepa.config".keys()) do
    if key:sub(1, #prefix + 1) == prefix .. "." then list[#list + 1] = key end
  end
  return list
end

local function show_settings(keys, title)
  local config, page = require "ijepa.config", require "ijepa.config.page"
  print(title)
  for _, key in ipairs(keys) do
    local leaf = config.describe(key)
    print(help.row(key, ("%s (%s)"):format(short(leaf.doc), page.default(leaf))))
  end
end

local function functions_of(d, module)
  local list = {}
  for _, key in ipairs(sorted(d.names)) do
    if (key:match "^(.*)[.]" or "ijepa") == module then
      for _, entry in ipairs(d.names[key]) do list[#list + 1] = { key, entry } end
    end
  end
  return list
end

local function show_functions(list)
  for _, one in ipairs(list) do
    print(help.row(signature_of(one[1], one[2]), short(one[2].text)))
  end
end

local function show_module(name, d)
  local public = require "ijepa.base.names"[name]
  print(public and "ijepa." .. name or name)
  if d.modules[name] then print(help.wrap(d.modules[name], "  ")) end
  show_functions(functions_of(d, name))
end

local function show_topic(t, d)
  if t.name == "commands" then
    print "Commands: ijepa COMMAND; `ijepa help COMMAND` prints more."
    for _, c in ipairs(commands()) do
      print(help.row(c.name .. " " .. c.arguments:match "^[^%[ ]*", c.brief))
    end
    print(help.row("RECIPE [key=value ...]",
      "run a recipe or any Lua file; RECIPE --help lists its settings"))
    print(help.row("-e CODE, - (stdin)", "run Lua code"))
  elseif t.name == "modules" then
    print "Modules: ijepa.NAME; `ijepa help NAME` lists the functions of one."
    for _, name in ipairs(sorted(d.modules)) do
      print(help.row(name, short(d.modules[name]), 18))
    end
    show_functions(functions_of(d, "ijepa"))
  elseif t.name == "prompt" then
    print(topics().prompt)
  elseif t.name == "settings" then
    print(help.wrap("Settings of a recipe by section; `ijepa help SECTION` lists one, " ..
      "`ijepa help SECTION.KEY` prints one."))
    local page = require "ijepa.config.page"
    for _, section in ipairs(page.sections) do
      local name, what = section[1], section[2]
      if name == "" then name, what = "(none)", table.concat(page.keys "", ", ") end
      print(help.row(name, what, 14))
    end
    print(help.wrap("A recipe sets them as ijepa.config { data = { batch = 64 } }, the command line as data.batch=64."))
  else
    print(("%s: %s"):format(t.name, t.brief))
    print(help.wrap(t.text, "  "))
    local list = {}
    for _, key in ipairs(t.functions or {}) do list[#list + 1] = { key, d.names[key][1] } end
    if #list > 0 then print "Functions:" end
    show_functions(list)
    if t.sections then print(help.row("settings", t.sections .. " (ijepa help settings)")) end
  end
  if t.document then print(help.row("more", t.document)) end
end

--- The overview of `ijepa help`; it fits 40 lines.
function help.overview()
  print("ijepa " .. F.string(F.C.ij_version()) .. ": self-supervised pretraining with I-JEPA")
  print "\nStart here"
  for _, row in ipairs {
    { "ijepa recipes/quickstart.lua", "a first run: 5 minutes, no download" },
    { "ijepa recipes/pretrain.lua data.root=FOLDER", "train on your own images" },
    { "ijepa report RUN", "a run as one HTML page" },
    { "ijepa", "the prompt; ? helps there" },
  } do print(help.row(row[1], row[2], 46)) end
  print "\nCommands: ijepa COMMAND"
  for _, c in ipairs(commands()) do print(help.row(c.name, c.brief, 14)) end
  print "\nTopics: ijepa help TOPIC"
  for _, t in ipairs(topics().list) do
    if t.name ~= "commands" then print(help.row(t.name, t.brief, 14)) end
  end
  print "\nAlso: ijepa help SETTING (optim.lr), FUNCTION (mask.draw) or MODULE (mask)"
end

-- ---- finding

local function named(list, name)
  for _, one in ipairs(list) do
    if one.name == name then return one end
  end
end

-- Everything of exactly this name: a list of functions that print it.
local function exact(name, d, only_module)
  local config, found = require "ijepa.config", {}
  local function add(f, ...)
    local args = { ... }
    found[#found + 1] = function() f(unpack(args)) end
  end
  local command = not only_module and named(commands(), name)
  local topic = not only_module and named(topics().list, name)
  if command then add(show_command, command) end
  if topic then add(show_topic, topic, d) end
  if not topic and (d.modules[name] or name ~= "ijepa" and #functions_of(d, name) > 0) then
    add(show_module, name, d)
  end
  if only_module and name == "ijepa" then return { help.overview } end
  local below = settings_below(name)
  if #below > 0 and not only_module then
    add(show_settings, below, ("Settings %s.*"):format(name))
  end
  if config.describe(name) and not only_module then add(show_setting, name) end
  for _, entry in ipairs(d.names[name] or {}) do add(show_entry, name, entry) end
  if #found > 0 then return found end
  for _, key in ipairs(sorted(d.names)) do   -- encoder:blocks is jepa.blocks of the class Encoder
    for _, entry in ipairs(d.names[key]) do
      if entry.owner:lower() .. "." .. entry.name == name then add(show_entry, key, entry) end
    end
  end
  return found
end

-- Names whose last part is this: functions and settings.
local function by_last_part(name, d)
  local found = {}
  for _, key in ipairs(sorted(d.names)) do
    if key:match "[.]([^.]+)$" == name then found[#found + 1] = key end
  end
  for _, key in ipairs(require "ijepa.config".keys()) do
    if key:match "[.]([^.]+)$" == name then found[#found + 1] = key end
  end
  return found
end

--- The names that are most like `name`, the nearest first.
---@param name string
---@param limit integer
---@return string[]
function help.nearest(name, limit)
  local d, seen = help.docs(), {}
  local function add(list)
    for _, key in ipairs(list) do
      seen[key], seen[key:match "[^.]+$"] = true, true
    end
  end
  add(sorted(d.names))
  add(sorted(d.modules))
  add(require "ijepa.config".keys())
  for _, list in ipairs { commands(), topics().list } do
    for _, one in ipairs(list) do seen[one.name] = true end
  end
  seen[name] = nil
  return text.near(name, sorted(seen), limit)
end

-- Names whose text holds this word.
local function mentioned(word, d)
  local list, pattern = {}, "%f[%w_]" .. word:lower():gsub("%p", "%%%0") .. "%f[^%w_]"
  local config = require "ijepa.config"
  for _, key in ipairs(config.keys()) do
    if config.describe(key).doc:lower():find(pattern) then list[#list + 1] = key end
  end
  for _, key in ipairs(sorted(d.names)) do
    for _, entry in ipairs(d.names[key]) do
      if entry.text:lower():find(pattern) and list[#list] ~= key then list[#list + 1] = key end
    end
  end
  return list
end

-- What PyTorch, timm and papers call it -> a name that has help.
local ALIASES = { gpu = "device", ddp = "dist", distributed = "dist", amp = "model.dtype",
  autocast = "model.dtype", batch_size = "data.batch", num_workers = "data.workers",
  weight_decay = "optim.wd", learning_rate = "optim.lr", grad_clip = "optim.clip",
  crop_scale = "data.scale", vit = "model.arch", rankme = "diagnose.rank", knn = "probes",
  dataset = "data.open", dataloader = "data.open", augmentation = "data.jitter",
  load_state_dict = "load", state_dict = "weights", checkpoint = "resume", wandb = "log",
  ema = "optim.ema", hooks = "pretrain", loss = "pretrain",
  objective = "pretrain", collapse = "diagnose", epochs = "optim.epochs", quirk = "quirks" }

local function miss(what, d)
  local near = help.nearest(what:gsub("^ijepa%.", ""), 3)
  for i, name in ipairs(near) do near[i] = ("'%s'"):format(name) end
  local last = table.remove(near)
  local hint = last and (" (did you mean %s?)"):format(#near > 0 and table.concat(near, ", ")
    .. " or " .. last or last)
  local list = not hint and #what > 3 and mentioned(what, d) or {}
  if #list > 0 then
    hint = "; these mention it: " .. table.concat(list, ", ", 1, math.min(#list, 6))
  end
  io.stderr:write(("no such name '%s'%s\n"):format(what, hint or "; `ijepa help` lists the topics"))
end

-- Where a function stands that has the documentation of f.
local function defined(f)
  return debug.getinfo(require "ijepa.tensor.core".original[f] or f, "S")
end

-- A function: by its position in a source.
local function show_function(f, d)
  local at = defined(f)
  for _, key in ipairs(sorted(d.names)) do
    for _, entry in ipairs(d.names[key]) do
      if at.linedefined == entry.line and at.source:sub(-#entry.file) == entry.file then
        show_entry(key, entry)
        return true
      end
    end
  end
  local file = at.what ~= "C" and io.open((at.source:gsub("^@", "", 1)))
  if not file then return false end
  local functions = scan.functions(file:read "*a", "--")
  file:close()
  for _, entry in ipairs(functions) do
    if entry.line == at.linedefined then
      print(entry.signature)
      print(help.wrap(entry.text, "  "))
      return true
    end
  end
  return false
end

--- The parameters of a documented function, as "mask.draw(policy, o)  What it does", or nil.
---@param f function
---@return string?
function help.signature(f)
  local at = defined(f)
  for key, list in pairs(help.docs().names) do
    for _, entry in ipairs(list) do
      if at.linedefined == entry.line and at.source:sub(-#entry.file) == entry.file then
        return signature_of(key, entry) .. "  " .. help.brief(entry.text)
      end
    end
  end
end

local function show_all(found)
  for i, show in ipairs(found) do
    if i > 1 then print "" end
    show()
  end
  return true
end

local function show_name(what, d)
  local name, only_module = what:gsub("^ijepa%.", "")
  name = name:gsub(":", "."):gsub("%(.*", "")
  local found, parts = exact(name, d, only_module > 0), by_last_part(name, d)
  if #found > 0 then
    show_all(found)
    for i = #parts, 1, -1 do   -- try.try is ijepa.try
      if parts[i] == name .. "." .. name then table.remove(parts, i) end
    end
    if #parts > 0 and #parts <= 8 then print("\nSee also: " .. table.concat(parts, ", ")) end
    return true
  end
  for _, key in ipairs(parts) do
    for _, show in ipairs(exact(key, d)) do found[#found + 1] = show end
  end
  if #found > 0 then return show_all(found) end
  if name:find "/" or what:find "%.lua$" then
    local shown, message = require "ijepa.host.recipe".show(what)
    if shown then return true end
    if message then
      io.stderr:write(message, "\n")
      return nil
    end
  end
  local alias = ALIASES[name:lower()]
  if alias then
    print(("'%s' is %s here:"):format(what, alias))
    return show_name(alias, d)
  end
  miss(what, d)
  return nil
end

--- Prints help about a name (command, topic, setting, module, function, recipe), a function or a
--- module; nil prints the overview. nil when there is no such name.
---@param what any
---@return boolean?
function help.show(what)
  local d = help.docs()
  if what == nil then
    help.overview()
    return true
  end
  if type(what) == "function" and show_function(what, d) then return true end
  if type(what) == "table" then
    for name in pairs(d.modules) do
      local path = require "ijepa.base.names"[name]
      if path and package.loaded["ijepa." .. path] == what then
        return show_name("ijepa." .. name, d)
      end
    end
    if package.loaded.ijepa == what then
      help.overview()
      return true
    end
  end
  if type(what) ~= "string" then
    io.stderr:write(("this %s has no help text\n"):format(type(what)))
    return nil
  end
  return show_name(what, d)
end

return help

--- Lua code of the user that a run is made of: an objective, an encoder, a predictor, a mask
-- policy. Each is a name, a file, or a function. This module finds and runs the files, and
-- remembers their text and that of the files beside them that they load, so that a run can keep it
-- (save/kept.lua). A file's `require`, `dofile` and `loadfile` also find what lies in its folder.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local bit = require "bit"
local C = F.C

local code = {}

--- Text of a file, or nil and why.
---@param path string
---@return string? bytes, string? message
function code.read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, (why:match ": ([^:]*)$" or why) end
  local bytes = file:read "*a"
  file:close()
  if not bytes then return nil, "it is a folder" end
  return bytes
end

local function folder_of(path) return path:match "^(.*)/[^/]*$" or "." end
-- "a.lua" of "./a.lua"
local function plain(path)
  path = path:gsub("/+", "/")
  repeat
    local n, m
    path, n = path:gsub("^%./", "")
    path, m = path:gsub("/%./", "/")
  until n + m == 0
  return path
end

--- The recipes that the program holds itself: name -> text, such as "objectives/ijepa.lua".
---@return table<string, string>
function code.shipped()
  local ok, all = pcall(require, "ijepa._recipes")
  return ok and all or {}
end

--- Whether a setting is a file's name rather than a name of the program's own.
---@param name string
---@return boolean
function code.is_file(name) return name:find "%.lua$" ~= nil or name:find "/" ~= nil end

---@class ijepa.code what a setting of this kind stands for
---@field role string "objective", "encoder", "predictor", "policy" or "recipe"
---@field name string? of the program's own
---@field folder string? of the file
---@field origin string? the folder where it lay, of a copy that a run has kept
---@field kept boolean? it is such a copy
---@field shipped boolean? the text is the program's own
---@field title string the name, the file, or "function at FILE:LINE"
---@field path string? of the file
---@field files table<string, string>? text of the file and of those beside it that it loads, by
--- their name in its folder
---@field main string? the file's own name in `files`
---@field value any what it returned, or the function or table itself

-- ---- loading ------------------------------------------------------------------------------------

-- The path of a module or a file in `folder`, or nil.
local function in_folder(folder, name, is_module)
  -- the program's own modules, though a file may be called ijepa.lua
  if is_module and (name == "ijepa" or name:find "^ijepa%.") then return nil end
  local stem_of = name:gsub("%.", "/")
  local stems = is_module and { stem_of .. ".lua", stem_of .. "/init.lua" } or { name }
  for _, stem in ipairs(stems) do
    local path = plain(folder .. "/" .. stem)
    if C.ij_path_kind(path) == 1 then return path, stem end
  end
end

-- Remembers the text of a file of a piece's folder, and of what it names in turn.
local function remember(piece, stem, path)
  if piece.files[stem] then return end
  local bytes = code.read(path)
  if not bytes then return end
  piece.files[stem] = bytes
  local function look(word, is_module)
    local its, name = in_folder(piece.folder, word, is_module)
    if not its and piece.origin and word:sub(1, #piece.origin + 1) == piece.origin .. "/" then
      its, name = in_folder(piece.folder, word:sub(#piece.origin + 2), is_module)
    end
    if its then remember(piece, name, its) end
  end
  for word in bytes:gmatch "%f[%w_]require%s*%(?%s*[\"']([%w_.]+)[\"']" do look(word, true) end
  for _, call in ipairs { "dofile", "loadfile" } do
    for word in bytes:gmatch("%f[%w_]" .. call .. "%s*%(?%s*[\"']([%w_./-]+)[\"']") do
      if word:sub(1, #piece.folder + 1) == piece.folder .. "/" then
        word = word:sub(#piece.folder + 2)
      end
      if not word:find("..", 1, true) then look(word, false) end
    end
  end
end

-- What a file sees as its globals: those of all, but its folder is searched too.
local function environment(piece)
  local env = {}
  local function chunk_of(path)
    local chunk, message = loadfile(path)
    return chunk and setfenv(chunk, env), message
  end
  function env.require(name)
    local path, stem = in_folder(piece.folder, tostring(name), true)
    if not path then return require(name) end
    remember(piece, stem, path)
    local usual = package.searchpath(name, package.path)
    if usual and plain(usual) == path then return require(name) end
    local key = "@" .. path   -- no name of a module begins so
    if package.loaded[key] == nil then
      local chunk, message = chunk_of(path)
      if not chunk then error(message, 0) end
      local value = chunk(name)
      if package.loaded[key] == nil then package.loaded[key] = value == nil and true or value end
    end
    return package.loaded[key]
  end
  -- of a name as the user gives it: relative to the current folder, or to the file's
  local function found(name)
    name = tostring(name)
    local own, stem
    for _, folder in ipairs { piece.folder, piece.origin } do
      if plain(name):sub(1, #folder + 1) == folder .. "/" then
        own, stem = in_folder(piece.folder, plain(name):sub(#folder + 2))
      end
    end
    if not own and (piece.origin or C.ij_path_kind(name) ~= 1) then
      own, stem = in_folder(piece.folder, name)
    end
    if own then remember(piece, stem, own) end
    return own or name
  end
  function env.loadfile(name) return chunk_of(found(name)) end
  function env.dofile(name, ...)
    local chunk, message = chunk_of(found(name))
    if not chunk then error(message, 2) end
    return chunk(...)
  end
  return setmetatable(env, { __index = _G, __newindex = _G })
end

--- The chunk of a file, not run yet, with the environment that a run's code has. Where there is no
--- such file, the program's own recipe of that name is taken.
---@param role string
---@param path string
---@param o { origin: string?, own: boolean? }? origin: the folder where a copy lay that a run has
--- kept; own: the program's recipe, whatever lies in the current folder
---@return function? chunk, string|ijepa.code message_or_piece
function code.chunk(role, path, o)
  o = o or {}
  local shipped = (o.own or C.ij_path_kind(path) == 0)
    and code.shipped()[path:match "^recipes/(.*)$" or ""]
  local piece = { role = role, title = path, path = path, files = {}, origin = o.origin,
    folder = plain(folder_of(path)), main = path:match "[^/]*$", shipped = shipped and true or nil }
  local bytes, why = shipped, nil
  if not shipped then bytes, why = code.read(path) end
  if not bytes then return nil, ("cannot read file '%s': %s"):format(path, why) end
  if not bytes:find "%S" then return nil, ("cannot read file '%s': it is empty"):format(path) end
  local chunk, message = loadstring((bytes:gsub("^#[^\n]*", "")), "@" .. path)
  if not chunk then
    message = text.compile_error(path, bytes, message)
    return nil, (message:gsub("^.-:(%d+): ", function(line)
      return ("%s:%s: %s: "):format(path, line, role == "policy" and "mask policy" or role)
    end, 1))
  end
  if shipped then piece.files[piece.main] = bytes else remember(piece, piece.main, path) end
  return setfenv(chunk, environment(piece)), piece
end

-- ---- running ------------------------------------------------------------------------------------

--- Where a function was written: FILE:LINE.
---@param f function
---@return string
function code.place_of(f)
  local at = debug.getinfo(f, "S")
  return ("%s:%d"):format(at.source:gsub("^[@=]", "", 1), at.linedefined)
end

--- A handler for xpcall around the user's code: what it keeps of an error is { place, message }, or
--- what passes as it is.
---@param e any
---@return table
function code.explain(e)
  if type(e) == "table" and (e.exit or e.place) then return e end
  local message = F.message_of(e)
  for level = 2, 200 do
    local at = debug.getinfo(level, "Sl")
    if not at then break end
    if at.currentline > 0 and not F.is_internal(at.source) then
      local line, file = at.currentline, at.source:gsub("^[@=]", "", 1)
      for _, name in ipairs { at.short_src, file } do
        if message:sub(1, #name + 1) == name .. ":" then
          local own, rest = message:sub(#name + 2):match "^(%d+): (.*)$"
          if own then line, message = own, rest end
        end
      end
      return { place = file .. ":" .. line, message = message }
    end
  end
  return { message = message }
end

local function finish(what, f, ok, e, ...)
  if ok then return e, ... end
  if type(e) == "table" and e.exit then error(e, 0) end
  if type(e) ~= "table" then
    e = { message = tostring(e)
      .. " (a stack overflow: a function that calls itself without end?)" }
  end
  error(("%s: %s: %s"):format(e.place or code.place_of(f), what, (e.message:gsub("\n", " "))), 0)
end

--- f(...), of the user's: an error becomes one line "FILE:LINE: WHAT: MESSAGE".
---@param what string
---@param f function
---@param ... any
---@return any ... what f returns
function code.call(what, f, ...) return finish(what, f, xpcall(f, code.explain, ...)) end

--- Raises "FILE:LINE: WHAT: MESSAGE" about a function of the user.
---@param what string
---@param f function?
---@param fmt string
function code.wrong(what, f, fmt, ...)
  error(("%s%s: %s"):format(f and code.place_of(f) .. ": " or "", what, fmt:format(...)), 0)
end

-- The names of the program's own recipes in a folder.
local function names_of(folder)
  local names = {}
  for name in pairs(code.shipped()) do
    names[#names + 1] = name:match("^" .. folder .. "/(.*)%.lua$")
  end
  table.sort(names)
  return names
end

--- What a setting stands for: a name of the program's own (folder: of its recipes), a file, or a
--- value, which stays as it is.
---@param role string
---@param spec string|function|table
---@param folder string such as "objectives"
---@param kept { path: string, origin: string }? the copy of a run's folder, to be taken instead
---@return ijepa.code
function code.load(role, spec, folder, kept)
  if kept then
    local chunk, piece = code.chunk(role, kept.path, kept)
    if not chunk then error(("%s: %s"):format(role, piece), 0) end
    piece.value, piece.kept = code.call(role, chunk), true
    return piece
  end
  if type(spec) == "function" then
    return { role = role, title = "function at " .. code.place_of(spec), value = spec }
  elseif type(spec) ~= "string" then
    return { role = role, title = "in Lua", value = spec }
  end
  local path = code.is_file(spec) and spec or ("recipes/%s/%s.lua"):format(folder, spec)
  if path ~= spec and not code.shipped()[folder .. "/" .. spec .. ".lua"] then
    local names = names_of(folder)
    error(("%s '%s' is not known%s: known are %s; a file ends in .lua, such as mine.lua"):format(
      role, text.shown(spec), text.hint(spec, names), #names > 0 and table.concat(names, ", ")
      or "none"), 0)
  end
  local chunk, piece = code.chunk(role, path, { own = path ~= spec })
  if not chunk then
    local message = piece --[[@as string]]
    if message:find "^cannot" then
      message = ("%s: %s%s"):format(role, message, C.ij_path_kind(path) == 0
        and require "ijepa.base.paths".hint(path) or "")
    end
    error(message, 0)
  end
  piece.name = path ~= spec and spec or nil
  piece.value = code.call(role, chunk)
  return piece
end

--- A hash of all files of a piece.
---@param files table<string, string>
---@return string
function code.hash(files)
  local parts = {}
  for _, name in ipairs(text.keys(files)) do
    parts[#parts + 1] = ("%d:%s%d:%s"):format(#name, name, #files[name], files[name])
  end
  local all = table.concat(parts)
  return bit.tohex(C.ij_hash(0, all, #all), 16)
end

return code

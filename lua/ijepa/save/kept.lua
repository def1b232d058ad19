--- The Lua code that a run used, kept in its folder: code/ROLE/ holds a file and those beside it
-- that it loads, code/index.lua says where each came from and which is in use. Roles: recipe,
-- objective, encoder, predictor, policy. A run is reopened with this code, even if the originals
-- have changed or are gone.
local F = require "ijepa.base.ffi"
local code = require "ijepa.base.code"
local literal = require "ijepa.base.literal"
local source = require "ijepa.base.source"
local text = require "ijepa.base.text"
local config = require "ijepa.config"
local C = F.C

local kept = {}

local HEAD = "-- The Lua code that this run used: of a role and setting the last entry counts.\n"
-- The setting of each role.
local SETTINGS = { objective = "objective", encoder = "model.encoder",
  predictor = "model.predictor", policy = "mask.policy" }

---@class ijepa.kept_entry
---@field role string
---@field setting string the text of the setting in config.lua
---@field from string the file, or "function at FILE:LINE"
---@field origin string? the folder of the file
---@field folder string? below code/
---@field main string? the file's name in it
---@field hash string?
---@field step integer at which it came into use
---@field missing string? why a function could not be kept

-- A name that stays below the folder: what a stranger's index says must not lead elsewhere.
local function is_below(name)
  return type(name) == "string" and name ~= "" and not name:find("..", 1, true)
    and name:sub(1, 1) ~= "/" and not name:find "%c"
end

--- The entries of a run's folder, in order; {} where it kept nothing.
---@param out string
---@return ijepa.kept_entry[]
function kept.entries(out)
  local bytes = code.read(out .. "/code/index.lua")
  local list = bytes and literal.read(bytes)
  local good = {}
  for _, e in ipairs(type(list) == "table" and list or {}) do
    if type(e) == "table" and type(e.role) == "string" and type(e.setting) == "string"
        and (e.missing ~= nil or is_below(e.folder) and is_below(e.main)) then
      good[#good + 1] = e
    end
  end
  return good
end

local function last_of(list, role, setting)
  for i = #list, 1, -1 do
    local e = list[i]
    if e.role == role and (setting == nil or e.setting == setting) then return e end
  end
end

-- What config.lua shows for code that is given in Lua.
local function text_of_function(out, role) return ("%s/code/%s/%s.lua"):format(out, role, role) end

--- A copy of settings in which code that was given in Lua is named by the file that keeps it.
---@param cfg table
---@return table
function kept.settings(cfg)
  local t = {}
  for key, value in pairs(cfg) do
    if key ~= "kept" then t[key] = value end
  end
  local function named(value, role)
    if value == nil or type(value) == "string" then return value end
    return text_of_function(cfg.out, role)
  end
  t.objective = named(cfg.objective, "objective")
  t.model, t.mask = {}, {}
  for key, value in pairs(cfg.model) do t.model[key] = value end
  for key, value in pairs(cfg.mask) do t.mask[key] = value end
  t.model.encoder = named(cfg.model.encoder, "encoder")
  t.model.predictor = named(cfg.model.predictor, "predictor")
  t.mask.policy = named(cfg.mask.policy, "policy")
  return t
end

--- For settings of a run's folder: its code is taken from the folder. only_missing: only where the
--- files that the settings name are gone.
---@param cfg table gets kept = { ROLE = { path, origin } }
---@param out string the folder
---@param only_missing boolean?
---@return string[] taken the settings' texts
function kept.apply(cfg, out, only_missing)
  local list, taken = kept.entries(out), {}
  for _, role in ipairs(text.keys(SETTINGS)) do
    local setting = config.value(cfg, SETTINGS[role])
    local e = type(setting) == "string" and last_of(list, role, setting)
    local gone = e and C.ij_path_kind(setting) == 0
    if e and not (only_missing and not gone) then
      if e.missing then
        error(("%s was %s, which could not be kept: %s; give it again in a recipe, or in a file")
          :format(SETTINGS[role], tostring(e.from), tostring(e.missing)), 0)
      end
      cfg.kept = cfg.kept or {}
      cfg.kept[role] = { path = ("%s/code/%s/%s"):format(out, e.folder, e.main),
        origin = type(e.origin) == "string" and e.origin or "." }
      taken[#taken + 1] = setting
    end
  end
  return taken
end

-- ---- writing ------------------------------------------------------------------------------------

-- The files of a piece; a function's text is written as a file.
local function files_of(piece)
  if piece.files then return piece.files, piece.main end
  local bytes, why = source.text(piece.value, piece.title)
  if not bytes then return nil, why end
  return { [piece.role .. ".lua"] = bytes }, piece.role .. ".lua"
end

local function must(ok, message)
  if not ok then error(message, 0) end
end

local function write_files(folder, files)
  for _, name in ipairs(text.keys(files)) do
    local path = folder .. "/" .. name
    must(F.try(C.ij_mkdirs(path:match "^(.*)/")))
    must(F.try(C.ij_file_replace(path, files[name], #files[name])))
  end
end

--- Keeps the code of a run that begins or resumes. What is there already stays; of a file that has
--- changed both versions are kept.
---@param cfg table
---@param pieces ijepa.code[]
---@param step integer
---@param more boolean? files have been added to code that is kept already
---@return string[] lines what has changed, to be printed
function kept.write(cfg, pieces, step, more)
  local out, list, lines, changed = cfg.out, kept.entries(cfg.out), {}, false
  local settings = kept.settings(cfg)
  for _, piece in ipairs(pieces) do
    local role = piece.role
    local setting = role == "recipe" and piece.path or config.value(settings, SETTINGS[role])
    local files, main = files_of(piece)
    local before = last_of(list, role)
    local e = { role = role, setting = setting or "", from = piece.path or piece.title, step = step,
      origin = piece.origin or piece.folder }
    if not files then
      e.missing = main
      lines[#lines + 1] = ("%s %s can't be kept (%s): to reopen this run, write it into a file")
        :format(role, piece.title, main)
    else
      e.hash, e.main = code.hash(files), main
    end
    if piece.kept and before then e.from, e.origin = before.from, before.origin end
    local same = before and before.hash == e.hash and before.setting == e.setting
      and before.missing == e.missing
    if not same then
      changed = true
      local versions, folder = {}, nil
      for _, other in ipairs(list) do
        if other.role == role and other.folder then
          versions[other.folder] = true
          if other.hash == e.hash and other.main == e.main then folder = other.folder end
        end
      end
      if files and not folder then
        local n = 1
        folder = role
        while versions[folder] do
          n = n + 1
          folder = ("%s-%d"):format(role, n)
        end
        write_files(("%s/code/%s"):format(out, folder), files)
      end
      e.folder = files and folder or nil
      list[#list + 1] = e
      if before and before.hash ~= e.hash and files and not more then
        lines[#lines + 1] = ("%s %s has changed since step %s: both versions are in %s/code")
          :format(role, piece.title, tostring(before.step), out)
      end
    end
  end
  if changed then
    local bytes = HEAD .. config.dump(list)
    must(F.try(C.ij_mkdirs(out .. "/code")))
    must(F.try(C.ij_file_replace(out .. "/code/index.lua", bytes, #bytes)))
  end
  return lines
end

--- The recipe that runs, or nil at the prompt.
---@return ijepa.code?
function kept.recipe()
  local path = type(arg) == "table" and arg[0]
  if type(path) ~= "string" or not path:find "%.lua$" or C.ij_path_kind(path) ~= 1 then
    return nil
  end
  local chunk, piece = code.chunk("recipe", path)
  return chunk and piece --[[@as ijepa.code]] or nil
end

return kept

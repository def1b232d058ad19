--- ijepa.load(path): an encoder from any checkpoint.
local F = require "ijepa.base.ffi"
local jepa = require "ijepa.model"
local Run = require "ijepa.run"
local checkpoint = require "ijepa.save.checkpoint"
local state = require "ijepa.save.state"
local weights = require "ijepa.save.weights"
local C = F.C

---@class ijepa.load_options
---@field which string?
---@field partial boolean?
---@field heads integer?
---@field grid integer[]?
---@field dtype string?
---@field quiet boolean?

-- The encoder of a run whose model.encoder is code of the user's: that code makes it. false where
-- the path is of no such run.
local function own_model(path, o)
  local folder = C.ij_path_kind(path) == 2 and path or path:match "^(.*)/[^/]*$" or "."
  local cfg = C.ij_path_kind(folder .. "/config.lua") == 1 and Run.config(folder)
  if not cfg or not cfg.model.encoder or cfg.model.encoder == "" then return false end
  local m, message = state.model(path)
  if not m then return nil, message end
  local which = o.which or m.target ~= m.encoder and "target_encoder" or "encoder"
  local encoder
  for _, part in ipairs(m.parts) do
    if part.name == which and (which == "encoder" or which == "target_encoder") then
      encoder = part.model
    end
  end
  if not encoder then return nil, ("run '%s' holds no encoder '%s'"):format(folder, which) end
  local file = assert(checkpoint.load(m.path))
  encoder.step, encoder.part = tonumber(file:meta "step"), which
  file:close()
  encoder.source = ("%s (%s)"):format(m.path, which)
  encoder.settings = { model = cfg.model, data = { crop = cfg.data.crop } }
  return encoder
end

--- An encoder with the weights of a file: a run of this program, a published .pth.tar, a Hugging
--- Face or timm model (a file, or a folder with one). Sizes come from the tensors. Takes the target
--- encoder, if there is one, and says so; `which` names another part. Strict: any tensor that is
--- missing, unexpected or of another shape is an error that lists them all; with partial = true
--- what fits is filled and the rest listed in encoder.left.
---@param path string
---@param o ijepa.load_options?
---@return ijepa.encoder? encoder with source (path and part), part, settings; not trained
---@return string? message
return function(path, o)
  o = o or {}
  if type(path) ~= "string" then
    F.raise(("load: path is a %s, expected a string"):format(type(path)))
  end
  for key, expected in pairs { heads = "number", grid = "table" } do
    if o[key] ~= nil and type(o[key]) ~= expected then
      F.raise(("load: '%s' is %s, expected %s"):format(key, tostring(o[key]),
        key == "heads" and "a number" or "{ rows, columns }"))
    end
  end
  if o.grid and (#o.grid ~= 2 or type(o.grid[1]) ~= "number" or type(o.grid[2]) ~= "number") then
    F.raise "load: 'grid' must be two numbers: { rows, columns }"
  end
  local own, why = own_model(path, o)
  if own or why then return own or nil, why end
  local file, message = weights.open(path)
  if not file then return nil, message end
  local part, options, left
  part, message = file:part(o.which)
  if part and part.kind ~= "encoder" then
    part, message = nil, ("'%s' is a predictor: load takes encoders"):format(part.label)
  end
  if part then options, message = file:options(part, o) end
  if not options then return nil, message end
  options.dtype, options.blank = o.dtype, not o.partial
  local ok, encoder = pcall(jepa.encoder, options)
  if not ok then return nil, ("checkpoint '%s': %s"):format(file.path, tostring(encoder)) end
  options.blank = nil
  left, message = part:fill(encoder, o.partial)
  encoder.step = tonumber(file.file:meta "step")
  file:close()
  if not left then return nil, message end
  encoder:requires_grad_(false)
  encoder.part = part.label
  encoder.left = o.partial and left or nil
  encoder.source = file.path .. (part.label ~= "" and " (" .. part.label .. ")" or "")
  encoder.settings = file.settings or { model = options,
    data = { crop = options.crop[1] == options.crop[2] and options.crop[1] or options.crop } }
  if not o.which and not o.quiet and #file.parts > 1 then
    io.stderr:write(("load: %s; which=NAME takes another part\n"):format(encoder.source))
  end
  return encoder
end

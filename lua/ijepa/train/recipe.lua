--- The configuration of a recipe, without training: for commands that look at what it would do.
local text = require "ijepa.base.text"

local stopped = {}   -- thrown in place of training

--- Runs a recipe up to its ijepa.pretrain.
---@param path string
---@param words string[] key=value, as behind a recipe
---@param more string[]? further ones, which win
---@return table cfg
return function(path, words, more)
  local ijepa = require "ijepa"
  local chunk, message = text.load_file(path)
  if not chunk then
    error(message:find "^cannot open" and ("recipe '%s' could not be opened: %s"):format(path,
      message:match "[^:]*$":gsub("^ ", "")) or message, 0)
  end
  local args, trained, all = ijepa.args, ijepa.pretrain, {}
  for _, list in ipairs { words, more or {} } do
    for _, word in ipairs(list) do all[#all + 1] = word end
  end
  ijepa.args = all
  local cfg
  ijepa.pretrain = function(c)
    cfg = c
    error(stopped, 0)
  end
  local ok, e = pcall(chunk)
  ijepa.args, ijepa.pretrain = args, trained
  if cfg then return cfg end
  error(ok and ("%s: trains nothing: expected a recipe that calls ijepa.pretrain"):format(path)
    or e, 0)
end

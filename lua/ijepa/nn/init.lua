-- Modules with the names of PyTorch: classes of modules, layers, transformer blocks, patch
-- embeddings, positions (docs/nn.md). module.lua: what every module can do; layers.lua: layers of
-- one op; blocks.lua: the C library's blocks; embed.lua: from images to tokens; random.lua:
-- initial values, dropout.
-- Uses: base, tensor.
local module = require "ijepa.nn.module"

local nn = {
  class = module.class, parameter = module.parameter, buffer = module.buffer, is = module.is,
}
for _, part in ipairs { "layers", "blocks", "embed", "attention", "encoder" } do
  for name, value in pairs(require("ijepa.nn." .. part)) do
    if name:find "^%u" then nn[name] = value end   -- classes
  end
end

return nn

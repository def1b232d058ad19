-- How long a policy in Lua takes for the masks of 128 images on a 16x16 grid: median over groups,
-- each drawn anew.
--   build/ijepa bench/masks.lua [GROUPS]        (default 301; warm-up: the first third, which is not counted)
local ijepa = require "ijepa"
local C = require "ijepa.base.ffi".C
local groups = tonumber(arg[1]) or 301

local centre = {}
for i = 0, 255 do
  centre[i + 1] = math.exp(-((math.floor(i / 16) - 7.5) ^ 2 + (i % 16 - 7.5) ^ 2) / 40)
end

print(("%-30s %8s %8s %8s"):format("128 images, ms", "10 %", "median", "90 %"))
for _, name in ipairs { "multiblock", "random", "block", "rasterised", "halves", "vjepa_short",
    "vjepa_long", "curriculum", "attention" } do
  local policy = ijepa.mask.new { policy = ("recipes/masks/%s.lua"):format(name), grid = { 16, 16 },
    saliency = name == "attention" and centre or nil }
  local times = {}
  for i = 1, groups do
    local start = C.ij_time()
    policy:sample_raw(128)
    if i > groups / 3 then times[#times + 1] = 1000 * (C.ij_time() - start) end
  end
  table.sort(times)
  print(("%-30s %8.2f %8.2f %8.2f"):format(name, times[math.ceil(#times / 10)],
    times[math.ceil(#times / 2)],
    times[math.ceil(#times * .9)]))
end

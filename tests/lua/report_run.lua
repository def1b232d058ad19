-- A small run for the tests of the report, in a folder whose name and settings try to break out of
-- HTML.
local ijepa = require "ijepa"

local made = {}

--- Trains for some steps; returns the run's folder, inside `folder`.
function made.train(folder, over)
  local out = folder .. [[/a <script>alert("1")</script> & 'run']]
  out = out:gsub("</script>", "")
  local scenes = assert(ijepa.scenes.generate { out = folder .. "/scenes <b>&", n = 48, test = 2,
    size = 32 })
  local words = { out = out, ["data.root"] = scenes.train, ["data.batch"] = 8, ["data.crop"] = 32,
    ["data.workers"] = 0,
    ["model.width"] = 16, ["model.depth"] = 1, ["model.heads"] = 2, ["model.patch"] = 4,
      ["model.pred_depth"] = 1,
    ["model.pred_dim"] = 8, ["model.init_gain"] = .7, ["model.patch_gain"] = 1.5,
      ["mask.min_keep"] = 3, ["mask.group"] = 8,
    ["optim.epochs"] = 4, ["optim.warmup"] = 1, ["diagnose.every"] = 8, ["diagnose.images"] = 8,
      ["diagnose.views"] = 2,
    ["diagnose.probe"] = "knn", ["diagnose.probe_images"] = 40, ["log.every"] = 1000 }
  for k, v in pairs(over or {}) do words[k] = v end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  ijepa.pretrain(ijepa.config({}, nil, list))
  return out
end

return made

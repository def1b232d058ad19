-- ijepa bench/checkpoint.lua make FILE: a published-layout checkpoint of 2.5 GB, a ViT-H/14
-- encoder. ijepa bench/checkpoint.lua read FILE: ijepa.load of it, timed; and what memory it took
-- beside the weights.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local pickle = require "ijepa.save.pickle"
local what, path = ...

if what == "make" then
  local e = ijepa.jepa.encoder { arch = "vit_huge", patch = 14, crop = 224, blank = true }
  local items, dict = {}, {}
  for i, p in ipairs(e:params()) do
    if p.trained then p.tensor:fill_(1 / i) end
    items[i] = { name = p.name, tensor = p.tensor.h }
    dict[i] = { "module." .. p.name, pickle.tensor(i - 1, p.tensor:shape()) }
  end
  local whole = pickle.dict { { "target_encoder", pickle.dict(dict) }, { "epoch", 300 } }
  return assert(ijepa.tensors.save(path, items, nil, pickle.dump(whole)))
end

collectgarbage()
local _, _, before = ijepa.memory()
local started = F.C.ij_time()
local e = assert(ijepa.load(path))
local seconds = F.C.ij_time() - started
local _, _, most = ijepa.memory()
local bytes = 4 * e:size()
print(("ours %.3f GB/s, %.2f s, %.0f MB of memory beside the weights"):format(bytes / seconds / 1e9,
  seconds, (most - before - bytes) / 1e6))

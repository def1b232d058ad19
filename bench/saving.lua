-- What does saving cost a step? Steps with a save after each fourth one, written by a thread and at
-- once, beside steps without; and, since a disk's own work takes CPU time too, steps beside a
-- program that writes as much and is none of ours. Medians, milliseconds.
--   build/ijepa bench/saving.lua [arch=vit_small] [steps=24]
local ijepa = require "ijepa"
local C = require "ijepa.base.ffi".C
local words = table.concat(ijepa.args, " ")
local arch, steps = words:match "arch=(%S+)" or "vit_small",
  tonumber(words:match "steps=(%d+)" or 24)
ijepa.args = {}
local function median(list)
  table.sort(list)
  return list[math.floor((#list + 1) / 2)] or 0 / 0
end
local made = assert(ijepa.scenes.generate { out = "runs/saving/scenes", n = 64, test = 2,
  size = 64 })
print(("%s, 64 pixels, batches of 16, a state of so many MB saved after each fourth step"):format(
  arch))
print "| writes | plain step | step beside the writing | the save itself | MB |\n|---|---|---|---|---|"
local function save_with(background)
  return { says = background and "a thread" or "at once", background = background,
    write = function(t) assert(t:save(true)) end }
end
local bytes = 0   -- of the state
local program = { says = "nice dd", background = true, write = function()
  os.execute(("nice -n 19 dd if=/dev/zero of=runs/saving/dd bs=1M count=%d conv=fsync 2>/dev/null &"):format(bytes / 2 ^ 20))
end }
for _, way in ipairs { save_with(true), save_with(false), program } do
  local plain, beside, saves, last = {}, {}, {}, nil
  local cfg = ijepa.config { out = "runs/saving", resume = false,
    data = { root = made.train, batch = 16, crop = 64, workers = 1 },
    model = { arch = arch, patch = 8, pred_depth = 2, pred_dim = 96 },
      mask = { min_keep = 3, group = 16 },
    optim = { epochs = 1e4, steps = steps }, diagnose = { every = 0 },
      log = { every = 1000, save_background = way.background } }
  local run = ijepa.pretrain(cfg, { step = function(t, values)
    if t.step > 2 then table.insert(last == t.step - 1 and beside or plain, values.ms) end
    if t.step % 4 == 0 then
      local from = C.ij_time()
      way.write(t)
      saves[#saves + 1], last = 1000 * (C.ij_time() - from), t.step
    end
  end })
  local file = assert(io.open(run.out .. "/jepa-latest.safetensors"))
  bytes = file:seek "end"
  file:close()
  print(("| %s | %.0f | %.0f | %.0f | %.0f |"):format(way.says, median(plain), median(beside),
    median(saves), bytes / 1e6))
end
os.remove "runs/saving/dd"

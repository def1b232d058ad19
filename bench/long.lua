-- Does a long run grow? 10,000 steps of a small run that saves, looks at itself and logs all the
-- time: resident memory, Lua's and the library's memory and open files, every 1000 steps.
--   build/ijepa bench/long.lua [steps=10000]
local ijepa = require "ijepa"
local steps = tonumber((table.concat(ijepa.args, " "):match "steps=(%d+)")) or 10000
ijepa.args = {}

local function resident()
  local file = assert(io.open "/proc/self/statm")
  local pages = file:read "*a":match "^%d+ (%d+)"
  file:close()
  return pages * 4096 / 2 ^ 20
end
local function open_files()
  local pipe, n = io.popen "ls /proc/$PPID/fd", 0
  for _ in pipe:lines() do n = n + 1 end
  pipe:close()
  return n
end

local made = assert(ijepa.scenes.generate { out = "runs/long/scenes", n = 64, test = 2, size = 32 })
local cfg = ijepa.config {
  out = "runs/long", resume = false,
  data = { root = made.train, batch = 8, crop = 32, workers = 1 },
  model = { width = 16, depth = 2, heads = 2, patch = 4, pred_depth = 1, pred_dim = 8,
    init_gain = 0.7, patch_gain = 1.5 },
  mask = { min_keep = 3, group = 8 }, optim = { epochs = 1e5, steps = steps },
    diagnose = { every = 100, images = 8 },
  log = { save_steps = 50, every = 1000, json = true, tensorboard = true },
}
print "| step | resident, MiB | Lua, MiB | library, MiB | open files |\n|---|---|---|---|---|"
ijepa.pretrain(cfg, { step = function(t)
  if t.step % 1000 == 0 or t.step == 100 then
    collectgarbage()
    print(("| %d | %.1f | %.2f | %.2f | %d |"):format(t.step, resident(),
      collectgarbage "count" / 1024, ijepa.memory() / 2 ^ 20, open_files()))
  end
end })

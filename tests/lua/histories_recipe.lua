-- The recipe of test_histories.lua: a small run that does at given steps what IJEPA_DO lists, one
-- after the other, such as "rollback 9 jepa-ep1 0.5; kill 7". IJEPA_PLANT=NAME plants a fault in
-- the program.
local ijepa = require "ijepa"
local checkpoint = require "ijepa.save.checkpoint"
local F = require "ijepa.base.ffi"
F.cdef "int raise(int); void *signal(int, void *);"
F.C.signal(2, nil)   -- a shell's background job ignores Ctrl-C, and the program would keep that

local actions, plant = {}, os.getenv "IJEPA_PLANT"
for action in (os.getenv "IJEPA_DO" or ""):gmatch "[^;]+" do
  local words = {}
  for word in action:gmatch "%S+" do words[#words + 1] = word end
  actions[#actions + 1] = { name = words[1], step = tonumber(words[2]), words[3], words[4] }
end

local SIGNALS = { int = 2, kill = 9, usr1 = 10 }
local function act(t, a)
  if SIGNALS[a.name] then
    F.C.raise(SIGNALS[a.name])
  elseif a.name == "stop" then
    t:stop "as asked"
  elseif a.name == "second" then   -- the same run again, while this one works
    os.execute(os.getenv "IJEPA_SECOND")
  elseif a.name == "rollback" then
    t:rollback(a[1] ~= "newest" and ("%s/%s.safetensors"):format(t.config.out, a[1]) or nil)
    if a[2] then t.scale.lr = tonumber(a[2]) end
  end
end

-- ---- planted faults: each must be found by the test --------------------------------------------

local plants = {}

-- The newest state is the one of the highest step.
function plants.step()
  local latest = checkpoint.latest
  function checkpoint.latest(folder, tag)
    local path, refused = latest(folder, tag)
    local most, step = path, -1
    for epoch = 0, 20 do
      local one = checkpoint.path(folder, epoch > 0 and epoch or nil, tag)
      local file = checkpoint.load(one)
      if file then
        if file:meta "step" > step then most, step = one, file:meta "step" end
        file:close()
      end
    end
    return most, refused
  end
end

-- resume=false leaves the older run's files where they are.
function plants.mixed() function checkpoint.retire() end end

-- A damaged file is replaced by the next save.
function plants.overwrite() function checkpoint.set_aside(path) return path end end

-- A reader of the output that goes away ends the run.
function plants.pipe()
  local opening = require "ijepa.train.opening"
  local lock_of = opening.lock_of
  function opening.lock_of(cfg)
    F.C.signal(13, nil)   -- SIGPIPE as by default
    return lock_of(cfg)
  end
end

-- A changed batch size does not change the step.
function plants.batch()
  require "ijepa.train.resuming".step_of = function(meta) return meta.step end
end

-- A save takes no new number.
function plants.counter(t)
  local save = getmetatable(t).save
  function t:save(...)
    self.saves = 0
    return save(self, ...)
  end
end

-- A rollback is not saved, or takes the older factors, or cuts the log.
function plants.unsaved(t)
  local must_save = getmetatable(t).must_save
  function t:must_save(later, rolled_back)
    if not rolled_back then must_save(self, later) end
  end
end
function plants.scale(t)
  local roll_back = getmetatable(t).roll_back
  function t:roll_back()
    self.scale.lr = 1
    roll_back(self)
  end
end

local OF_THE_TRAINER = { counter = true, unsaved = true, scale = true }
if plant and plant ~= "" and not OF_THE_TRAINER[plant] then plants[plant]() end

return ijepa.pretrain(ijepa.config {}, { step = function(t)
  if OF_THE_TRAINER[plant] then
    plants[plant](t)
    plant = nil
  end
  if actions[1] and actions[1].step == t.step then act(t, table.remove(actions, 1)) end
end })

-- Nothing lost, nothing silent: histories of a run, drawn from a seed, against a model of what its
-- folder must then hold. A history is a list of starts with what happens in them at exact steps:
-- signals, kills, rollbacks, a full disk, a second run, a damaged file, resume=false, another batch
-- size.
-- IJEPA_HISTORIES=N: how many (12). IJEPA_HISTORY=SEED: this one alone, with what it did.
-- IJEPA_HISTORIES_PART=K/N: every N-th one from K on, to run N of these tests at the same time.
local lu = require "luaunit"
local support = require "support"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestHistories = tests -- luacheck: ignore

local program = support.program
local preload = program:match "^(.*)/" .. "/tests/libfaults.so"

local EPOCHS, IMAGES = 4, 24
local BATCHES = { 8, 6 }   -- 3 or 4 steps per epoch

local folder, data
local function prepare()
  if folder then return end
  folder = support.folder "file"
  data = support.scenes { n = IMAGES, test = 2, size = 32 }.train
end

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end
local function write(path, text)
  os.remove(path)   -- it may have a second name, which stays as it is
  support.write(path, text)
end

-- ---- the model ----------------------------------------------------------------------------------
-- m.files: the checkpoints by name, each { run, save, step, batch, scale, rows, bad }; m.rows: the
-- steps of the log; m.older: how many runs have been moved aside.

local function newest(m)
  local best
  for _, name in ipairs { "latest", "ep1", "ep2", "ep3", "ep4" } do
    local f = m.files[name]
    if f and not f.bad and (not best or f.save > best.save) then best = f end
  end
  return best
end

-- The state in which a start with this batch size resumes from a checkpoint.
local function state_of(f, batch)
  local before, now = math.floor(IMAGES / f.batch), math.floor(IMAGES / batch)
  local step = f.step
  if before ~= now then
    local rest = math.ceil(step % before * f.batch / batch)
    step = math.floor(step / before) * now + math.min(rest, now)
  end
  return step
end

-- What a start does to the model; returns the exit code.
local function predict(m, s)
  local ipe = math.floor(IMAGES / s.batch)
  if s.anew and next(m.files) then
    m.files, m.rows, m.older, m.batch = {}, {}, m.older + 1, nil
  end
  local renames = 0   -- onto the newest state's name, or away from it
  if m.files.latest and m.files.latest.bad then
    renames = 1
    if s.full == 1 then return 1 elseif s.cut == 1 then return 137 end
    m.files.latest, m.aside = nil, m.aside + 1
  end
  local from, step, scale, asked, interrupt = newest(m), 0, 1, false, false
  if from then
    step, scale, m.save = state_of(from, s.batch), from.scale, from.save
    m.rows = { unpack(m.rows, 1, from.rows) }
  else
    m.run, m.save, m.rows = m.run + 1, 0, {}
  end
  local saved = step
  if step >= EPOCHS * ipe then return s.batch == m.batch and 0 or 1 end
  m.batch = s.batch
  local function save(unnumbered)
    renames = renames + 1
    if renames == s.full then return 1 elseif renames == s.cut then return 137 end
    m.save, saved = m.save + 1, step
    local f = { run = m.run, save = m.save, step = step, batch = s.batch, scale = scale,
      rows = #m.rows }
    m.files.latest = f
    local epoch = step / ipe
    if not unnumbered and epoch % s.save_epochs == 0 and epoch > 0 then
      m.files["ep" .. epoch] = f
    end
  end
  local actions = { unpack(s.actions) }
  while step < EPOCHS * ipe do
    step = step + 1
    m.rows[#m.rows + 1] = { step = step, ipe = ipe, free = scale ~= 1 or s.batch ~= 8 or m.mixed }
    local back, over, signal, failed = nil, step == EPOCHS * ipe, interrupt, false
    local a = actions[1] or {}
    if a.step == step then
      table.remove(actions, 1)
      if a.name == "kill" then return 137 end
      if a.name == "int" and interrupt then return 130 end   -- the second one: stops immediately
      if a.name == "int" then interrupt = true end
      if a.name == "usr1" then asked = "next" end
      if a.name == "stop" then over = true end
      if a.name == "rollback" then
        back = a.to == "newest" and newest(m) or m.files[a.to:match "ep%d"]
        failed, scale = not back, back and a.scale or scale
      end
    end
    if failed then
      if step > saved then return save() or 1 end
      return 1
    elseif back then
      step = state_of(back, s.batch)
      saved = step
      if s.batch ~= back.batch then m.mixed = true end
      local code = save(true) or signal and 130
      if code then return code end
    else
      local due = over or signal or asked == true or step % ipe == 0 or step % s.save_steps == 0
      local code = due and save()
      if code then return code end
      if due then asked = asked == "next" and "next" end
      if signal then return 130 end
      if over then return 0 end
    end
    if asked == "next" then asked = true end
  end
  return 0
end

-- ---- a start ------------------------------------------------------------------------------------

local function command(s, out)
  local words = { out = out, ["data.root"] = data, ["data.batch"] = s.batch, ["data.crop"] = 16,
    ["data.workers"] = 0, ["model.width"] = 16, ["model.depth"] = 1, ["model.heads"] = 1,
    ["model.patch"] = 4, ["model.pred_depth"] = 1, ["model.pred_dim"] = 8, ["mask.min_keep"] = 0,
    ["mask.group"] = 8, ["optim.epochs"] = EPOCHS, ["optim.warmup"] = 1, ["diagnose.every"] = 0,
    ["model.dtype"] = "f32", ["log.save_steps"] = s.save_steps,
    ["log.save_epochs"] = s.save_epochs, ["log.save_background"] = false, ["resume"] = not s.anew }
  local list = { program, "tests/lua/histories_recipe.lua" }
  for k, v in pairs(words) do list[#list + 1] = ("'%s=%s'"):format(k, tostring(v)) end
  return table.concat(list, " ")
end

local function text_of(s)
  local list = {}
  for _, a in ipairs(s.actions) do
    list[#list + 1] = ("%s %d %s %s"):format(a.name, a.step, a.to or "", a.scale or "")
  end
  return table.concat(list, "; ")
end

-- Runs a start; exit code and what it printed.
local function start(s, out, plant)
  local env = ("OMP_NUM_THREADS=1 IJEPA_DO='%s' IJEPA_PLANT='%s' "):format(text_of(s), plant or "")
  local latest = out:match "[^/]*$" .. "/jepa-latest"
  local fault = s.full and ("ENOSPC rename %d %s"):format(s.full, latest)
    or s.cut and ("kill rename %d %s"):format(s.cut, latest)
    or s.lacks == "link" and "EPERM link 1 jepa" or s.lacks == "flock" and "ENOLCK flock 1 jepa"
  if fault then env = ("%sIJ_FAULT='%s' LD_PRELOAD=%s "):format(env, fault, preload) end
  local second = ("%s >%s.second 2>&1"):format(command(s, out):gsub("'", '"'), out)
  env = ("%sIJEPA_SECOND='unset LD_PRELOAD; IJEPA_DO= %s' "):format(env, second)
  os.execute(("{ %s %s; echo $? >%s.rc; } 2>&1 | %s"):format(env, command(s, out), out,
    s.lacks == "reader" and "head -c 0" or ("cat >%s.said"):format(out)))
  return tonumber(read(out .. ".rc")), s.lacks == "reader" and "" or read(out .. ".said")
end

-- ---- what the folder holds ----------------------------------------------------------------------

local function steps_in(log)
  local list = {}
  for epoch, itr, loss in log:gmatch "\n(%d+),(%d+),([^,]+),[^,]+,[^,]+,%d+%f[\n]" do
    list[#list + 1] = { epoch = tonumber(epoch), itr = tonumber(itr), loss = loss }
  end
  return list
end

local losses   -- of the uninterrupted run
local function reference()
  if losses then return losses end
  local out = folder .. "/reference"
  local code, said = start({ batch = 8, save_steps = 100, save_epochs = 9, actions = {} }, out)
  assert(code == 0, said)
  losses = {}
  for i, row in ipairs(steps_in(read(out .. "/jepa_r0.csv"))) do losses[i] = row.loss end
  assert(#losses == 12)
  return losses
end

local function expect(what, got, want)
  if got ~= want then
    error(("%s: %s, expected %s"):format(what, tostring(got), tostring(want)), 0)
  end
end

local function count(out, pattern)
  local pipe = io.popen(("ls -d %s/%s 2>/dev/null | wc -l"):format(out, pattern))
  local n = pipe:read "*n"
  pipe:close()
  return n
end

-- Compares the folder with the model; ids: the identity of each run of the model.
local function compare(m, out, ids)
  local want, path = newest(m), ijepa.checkpoint.latest(out, "jepa")
  if not want then expect("newest state", path, nil) end
  for name, f in pairs(m.files) do
    local file = ijepa.checkpoint.load(("%s/jepa-%s.safetensors"):format(out, name))
    expect(name .. " can be read", file ~= nil, not f.bad)
    if file then
      ids[f.run] = ids[f.run] or file:meta "run"
      expect(name .. ": run", file:meta "run", ids[f.run])
      for _, key in ipairs { "save", "step", "batch" } do
        expect(("%s: %s"):format(name, key), file:meta(key), f[key])
      end
      expect(name .. ": learning rate's factor", file:meta "lr_scale", f.scale)
      if f == want then want.id, want.found = ids[f.run], true end
      file:close()
    end
  end
  if want then
    local file = assert(ijepa.checkpoint.load(path or "none"))
    expect("newest: save", file:meta "save", want.save)
    expect("newest: run", file:meta "run", want.id)
    file:close()
  end
  expect("runs moved aside", count(out, "older*"), m.older)
  expect("files moved aside", count(out, "*.unreadable")
    + count(out, "older*/*.unreadable"), m.aside)
  local rows = steps_in(read(out .. "/jepa_r0.csv"))
  expect("rows of the log", #rows, #m.rows)
  for i, row in ipairs(rows) do
    local r = m.rows[i]
    expect(("row %d: epoch"):format(i), row.epoch, math.floor((r.step - 1) / r.ipe) + 1)
    expect(("row %d: step of the epoch"):format(i), row.itr, (r.step - 1) % r.ipe)
    if not r.free then expect(("row %d: loss"):format(i), row.loss, reference()[r.step]) end
  end
end

-- ---- histories ----------------------------------------------------------------------------------

local function one_of(list) return list[math.random(#list)] end

local function draw_start(batch, first)
  local s = { batch = batch, save_steps = one_of { 2, 3, 5, 100 }, save_epochs = one_of { 1, 1, 2 },
    actions = {} }
  for _ = 1, one_of { 0, 1, 1, 2, 3 } do
    local name = one_of { "kill", "kill", "int", "int", "usr1", "stop", "rollback", "rollback",
      "rollback", "second" }
    local a = { name = name, step = math.random(8) + (s.actions[1] and 0 or math.random(0, 4)) }
    if name == "rollback" then
      a.to = one_of { "newest", "jepa-ep1", "jepa-ep1", "jepa-ep2" }
      a.scale = one_of { false, false, .5 } or nil
    end
    s.actions[#s.actions + 1] = a
  end
  if not first then s.anew = math.random(8) == 1 end
  local fault = C.ij_path_kind(preload) == 1 and math.random(12)
  if fault == 1 then s.full = math.random(3) elseif fault == 2 then s.cut = math.random(3) end
  -- a start may lack a reader of its output, hard links, or locks
  local lacks = one_of { "reader", "link", "flock", "nothing", "nothing" }
  local killed = false   -- the shell then writes into the pipe and ends before it has the exit code
  for _, a in ipairs(s.actions) do killed = killed or a.name == "kill" end
  if lacks == "reader" and killed then lacks = "nothing" end
  if lacks ~= "nothing" and not s.full and not s.cut then s.lacks = lacks end
  return s
end

-- Damages the newest state; returns how.
local function damage(m, out)
  local path = out .. "/jepa-latest.safetensors"
  local bytes = read(path)
  if not m.files.latest or m.files.latest.bad then return nil end
  local how = one_of { "truncated", "emptied", "flipped", "flipped" }
  if how == "flipped" then   -- in a value of the metadata
    local _, at = bytes:find(one_of { '"step":"', '"save":"', '"run":"', '"updates":"' }, 1, true)
    local byte = bytes:byte(at + 1)
    local flipped = string.char(byte % 2 == 0 and byte + 1 or byte - 1)
    bytes = bytes:sub(1, at) .. flipped .. bytes:sub(at + 2)
  else
    bytes = how == "emptied" and "" or bytes:sub(1, math.random(#bytes) - 1)
  end
  write(path, bytes)
  m.files.latest = setmetatable({ bad = true }, { __index = m.files.latest })
  return how
end

-- One history; what went wrong, or nil, and what was done.
local function history(seed, plant)
  math.randomseed(seed)
  local out, done, ids = ("%s/run%d"):format(folder, seed), {}, {}
  local m = { files = {}, rows = {}, run = 0, save = 0, older = 0, aside = 0 }
  local batch, wrong = 8, nil
  for i = 1, math.random(2, 5) do
    if i > 1 and math.random(7) == 1 then batch = one_of(BATCHES) end
    if i > 1 and math.random(5) == 1 then done[#done + 1] = damage(m, out) end
    local s = draw_start(batch, i == 1)
    if batch ~= 8 then m.mixed = true end
    local want = predict(m, s)
    if s.anew or not newest(m) then m.mixed = batch ~= 8 end
    local code, said = start(s, out, plant)
    local line = "batch=%d save_steps=%d save_epochs=%d%s%s%s%s {%s}: exit %s"
    done[#done + 1] = line:format(s.batch,
      s.save_steps, s.save_epochs, s.anew and " resume=false" or "",
      s.full and " full at save " .. s.full or "", s.cut and " killed in save " .. s.cut or "",
      s.lacks and " without " .. s.lacks or "", text_of(s), tostring(code))
    local ok, why = pcall(function()
      expect("exit code", code, want)
      if C.ij_path_kind(out .. ".second") == 1 then
        lu.assertStrContains(read(out .. ".second"), "another run works in")
        os.remove(out .. ".second")
      end
      compare(m, out, ids)
    end)
    if not ok then
      wrong = ("history %d: start %d: %s"):format(seed, i, tostring(why))
      done[#done + 1] = said
      break
    end
  end
  os.execute(("rm -rf %s %s.*"):format(out, out))
  return wrong, table.concat(done, "\n")
end

function tests.test_histories()
  prepare()
  local alone = tonumber(os.getenv "IJEPA_HISTORY")
  local number = tonumber(os.getenv "IJEPA_HISTORIES") or 12
  local part, parts = (os.getenv "IJEPA_HISTORIES_PART" or "1/1"):match "^(%d+)/(%d+)$"
  local failed, first = 0, nil
  for seed = alone or tonumber(part), alone or number, tonumber(parts) do
    local wrong, done = history(seed)
    if alone then print(done) end
    if wrong then failed, first = failed + 1, first or wrong .. "\n" .. done end
  end
  if failed > 0 then
    lu.fail(("%d histories went wrong; the first one:\n%s"):format(failed, first))
  end
end

-- Planted faults are found.
function tests.test_planted_faults_are_found()
  prepare()
  for _, plant in ipairs { "step", "mixed", "overwrite", "batch", "counter", "unsaved", "scale",
      "pipe" } do
    local found
    for seed = 1, 60 do
      found = found or history(seed, plant)
      if found then break end
    end
    lu.assertNotNil(found, ("the fault '%s' was not found in 60 histories"):format(plant))
  end
end

-- From which state a run resumes: rollbacks, resume=false, changed settings, runs at their end,
-- damaged files, folders of version 0.1.0, and the readers of a run's folder. Drawn histories of
-- the same: test_histories.lua.
local lu = require "luaunit"
local support = require "support"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C

local tests = {}
TestResuming = tests -- luacheck: ignore

local program = support.program
local folder, out, data

function tests.setUp()
  folder = support.folder()
  out = folder .. "/run"
  data = support.scenes { n = 24, test = 8, size = 32 }
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

local function shell(text) return support.run({ "sh", "-c", text }, { merge = true }) end

-- Runs a recipe with settings over those of a small run.
local function start(over, hook)
  local words = { out = out, ["data.root"] = data.train, ["data.batch"] = 8, ["data.crop"] = 16,
    ["data.workers"] = 0, ["model.width"] = 16, ["model.depth"] = 1, ["model.heads"] = 1,
    ["model.patch"] = 4, ["model.pred_depth"] = 1, ["model.pred_dim"] = 8, ["mask.min_keep"] = 0,
    ["mask.group"] = 8, ["optim.epochs"] = 4, ["optim.warmup"] = 1, ["diagnose.every"] = 0,
    ["model.dtype"] = "f32", ["log.save_epochs"] = 1 }
  for k, v in pairs(over or {}) do words[k] = v end
  write(folder .. "/recipe.lua", ('local ijepa = require "ijepa"\n%s%s%s'):format(
    "return ijepa.pretrain(ijepa.config {}, { step = function(t) ", hook or "", " end })\n"))
  local list = { program, folder .. "/recipe.lua" }
  for k, v in pairs(words) do list[#list + 1] = ("%s=%s"):format(k, tostring(v)) end
  return support.run(list, { merge = true })
end

local function meta(name, key)
  local file = assert(ijepa.checkpoint.load(("%s/jepa-%s.safetensors"):format(out, name)))
  local value = file:meta(key)
  file:close()
  return value
end

function tests.test_a_restart_resumes_from_the_state_after_a_rollback()
  local hook = [[
    if t.step == 11 then
      t:rollback(t.config.out .. "/jepa-ep1.safetensors")
      t.scale.lr = .5
    elseif t.scale.lr == .5 and t.step == 5 then os.exit(9) end]]
  lu.assertEquals((start({}, hook)), 9)   -- as a kill: nothing is saved at its end
  lu.assertEquals({ meta("latest", "step"), meta("latest", "lr_scale") }, { 3, .5 })
  lu.assertEquals({ meta("ep1", "step"), meta("ep1", "lr_scale") }, { 3, 1 })   -- stays as it is
  local code, said = start({ ["optim.steps"] = 8 }, "assert(t.scale.lr == .5)")
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "jepa-latest.safetensors at step 3\n")
  local rows = {}
  for epoch, itr in read(out .. "/jepa_r0.csv"):gmatch "\n(%d),(%d)," do
    rows[#rows + 1] = (tonumber(epoch) - 1) * 3 + itr + 1
  end
  lu.assertEquals(rows, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, 8 })
  lu.assertEquals(#assert(ijepa.run.read_log(out)).loss, 16)
end

function tests.test_rollback_to_nothing_is_an_error_at_the_hooks_line()
  local code, said = start({}, 't:rollback "none.safetensors"')
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "recipe.lua:2: rollback: there is no checkpoint 'none.safetensors'")
end

-- The example of docs/watching.md as it stands; then with a condition that is met.
function tests.test_the_example_of_the_manual()
  local code = read "docs/watching.md":match "\n```lua\n(.-)```\n"
  local function run(text)
    write(folder .. "/example.lua", text)
    return shell(("program=$(readlink -f %s); cd %s && $program example.lua"):format(program,
      folder))
  end
  local status, said = run(code)
  lu.assertEquals(status, 0, said)
  lu.assertStrContains(said, "done: 60 steps")
  local always, n = code:gsub("d%.rankme < 3 and t%.step > 40", "t.step > 40")
  lu.assertEquals(n, 1)
  status, said = run(always)
  lu.assertEquals(status, 0, said)
  lu.assertStrContains(said, "\nstep 60: back to runs/hooks/jepa-latest.safetensors\n")
  lu.assertStrContains(said, "stopped at step 60: three rollbacks did not help")
  local file = assert(ijepa.checkpoint.load(folder .. "/runs/hooks/jepa-latest.safetensors"))
  lu.assertEquals({ file:meta "step", file:meta "lr_scale" }, { 60, .125 })
end

function tests.test_resume_false_moves_the_older_run()
  lu.assertEquals((start()), 0)
  local code, said = start { resume = false, ["optim.steps"] = 4 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "begins anew (resume=false): the checkpoints and logs of the "
    .. ("earlier run are in '%s/older'\n"):format(out))
  for _, name in ipairs { "jepa-ep4.safetensors", "jepa-latest.safetensors", "jepa_r0.csv",
    "config.lua" } do
    lu.assertEquals(C.ij_path_kind(out .. "/older/" .. name), 1, name)
  end
  lu.assertEquals(C.ij_path_kind(out .. "/jepa-ep4.safetensors"), 0)
  code, said = start { ["optim.steps"] = 5 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "at step 4\n")
end

function tests.test_changed_settings_are_printed()
  lu.assertEquals((start { ["optim.steps"] = 4 }), 0)
  local code, said = start { ["optim.steps"] = 5, ["optim.lr"] = 5e-4, ["data.workers"] = 1,
    ["log.every"] = 3, ["model.init_gain"] = .7, ["mask.target.scale"] = "0.2,0.3" }
  lu.assertEquals(code, 0)
  lu.assertEquals(said:match "^(.-)encoder", "mask.target.scale {0.15, 0.2} -> {0.2, 0.3}\n"
    .. "model.init_gain 0 -> 0.7 (without effect: for a new run only)\n"
    .. "optim.lr 0.001 -> 0.0005\noptim.steps 4 -> 5\n")
  lu.assertStrContains(read(out .. "/config.old.lua"), "    lr = 0.001,\n")
  lu.assertStrContains(read(out .. "/config.lua"), "    lr = 0.0005,\n")
end

function tests.test_another_model_is_refused()
  lu.assertEquals((start { ["optim.steps"] = 4 }), 0)
  local function refused(over, text)
    over["optim.steps"] = 5
    local before = meta("latest", "save")
    local code, said = start(over)
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, text .. ": another model than that of")
    lu.assertEquals(meta("latest", "save"), before)
  end
  refused({ ["model.width"] = 32 }, "model.width 16 -> 32")
  refused({ ["model.heads"] = 2 }, "model.heads 1 -> 2, model.pred_heads 1 -> 2")
  refused({ ["data.crop"] = 32 }, "data.crop 16 -> 32")
  -- another name of the same sizes
  local code, said = start { ["optim.steps"] = 5, ["model.arch"] = "vit_small" }
  lu.assertEquals(code, 0, said)
  os.remove(out .. "/config.lua")   -- the checkpoint knows its model
  refused({ ["model.pred_dim"] = 16 }, "model.pred_dim 8 -> 16")
end

function tests.test_progress_is_counted_in_images()
  lu.assertEquals((start { ["optim.steps"] = 7 }), 0)   -- 2 epochs and 8 images
  local code, said = start { ["data.batch"] = 4, ["optim.steps"] = 16 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "data.batch 8 -> 4\n")
  lu.assertStrContains(said,
    "step 7 (3 per epoch) becomes step 14 (6 per epoch): progress is counted in images\n")
  code, said = start { ["data.batch"] = 4, ["optim.accumulate"] = 3, ["optim.steps"] = 7 }
  lu.assertEquals(code, 0)   -- 2 epochs and 16 images: 2 steps of 12
  lu.assertStrContains(said, "step 16 (6 per epoch) becomes step 6 (2 per epoch)")
  local epochs = {}
  for epoch in read(out .. "/jepa_r0.csv"):gmatch "\n(%d)," do
    epochs[#epochs + 1] = tonumber(epoch)
  end
  lu.assertEquals(epochs, { 1, 1, 1, 2, 2, 2, 3, 3, 3, 4 })
end

function tests.test_a_run_at_its_end()
  lu.assertEquals((start()), 0)
  local text = "already finished: 12 of 12 steps; optim.epochs=... continues"
  local function ends(over, want, said)
    local code, printed = start(over)
    lu.assertEquals({ code, (printed:gsub("^[^\n]*recipe.lua: ", "")) }, { want, said })
  end
  ends({ ["log.every"] = 3 }, 0, text .. "\n")
  ends({ ["optim.lr"] = 5e-4 }, 1, text .. "; without effect: optim.lr 0.001 -> 0.0005\n")
  ends({ init = out }, 1, text .. ("; without effect: init=%s\n"):format(out))
  ends({}, 0, text .. "\n")   -- config.lua is as it was
end

function tests.test_a_damaged_checkpoint_is_named_and_kept()
  lu.assertEquals((start()), 0)
  local latest = out .. "/jepa-latest.safetensors"
  local cut = read(latest):sub(1, -100)
  write(latest, cut)
  os.remove(out .. "/jepa-ep4.safetensors")
  local run = ('"%s" -e '):format(program)
  for _, use in ipairs { "load", "model" } do
    local code, said = shell(([[%s"assert(require 'ijepa'.%s '%s')"]]):format(run, use, out))
    lu.assertEquals(code, 0, said)
    lu.assertStrContains(said, "jepa-latest.safetensors")
    lu.assertStrContains(said, ("'%s/jepa-ep3.safetensors' is used"):format(out))
  end
  for _, command in ipairs { "export '%s' --format hf --out '%s/hf'", "report '%s'" } do
    local code, said = shell(("%s %s"):format(program, command:format(out, folder)))
    lu.assertEquals(code, 0, said)
    lu.assertStrContains(said, "jepa-latest.safetensors")
  end
  local code, said = start()
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, ("it is moved to '%s.unreadable'\n"):format(latest))
  lu.assertStrContains(said, "jepa-ep3.safetensors at step 9\n")
  lu.assertTrue(read(latest .. ".unreadable") == cut)
end

function tests.test_a_folder_whose_checkpoints_are_gone_begins_anew_and_says_so()
  start()
  local log = read(out .. "/jepa_r0.csv")
  for _, name in ipairs(support.list(out)) do
    if name:find "%.safetensors$" then os.remove(out .. "/" .. name) end
  end
  local code, said = start { ["optim.epochs"] = 2 }
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, ("warning: '%s' has the log of an earlier run, but no checkpoint: "
    .. "begins anew at step 0; the log is kept as '%s/jepa_r0.old.csv'\n"):format(out, out))
  lu.assertEquals(read(out .. "/jepa_r0.old.csv"), log)
  lu.assertEquals(meta("latest", "step"), 6)
end

-- One bit of one tensor: found before the run resumes, and by every reader of that tensor.
function tests.test_a_flipped_bit_in_a_tensor_is_found()
  start { ["optim.epochs"] = 2 }
  local latest = out .. "/jepa-latest.safetensors"
  local file = assert(ijepa.checkpoint.load(latest))
  local name = "target_encoder.blocks.0.mlp.fc1.weight"
  local values, bytes = file:data(name)
  local whole = read(latest)
  local at = whole:find(F.string(values, bytes), 1, true)
  lu.assertEquals(bytes, 4 * 16 * 64)
  file:close()
  local flipped = bytes - 2 + at   -- in the last value
  local damaged = whole:sub(1, flipped - 1) .. string.char((whole:byte(flipped) + 1) % 256)
    .. whole:sub(flipped + 1)
  local copy = folder .. "/copy.safetensors"
  write(copy, damaged)
  local want = ("file '%s' is damaged: the values of tensor '%s' are not what was saved"):format(
    copy, name)
  file = assert(ijepa.checkpoint.load(copy))
  lu.assertEquals({ select(2, file:data(name)) }, { want, C.IJ_EFORMAT })
  lu.assertNotNil((file:data "encoder.blocks.0.mlp.fc1.weight"))
  file:close()
  lu.assertEquals({ ijepa.checkpoint.verify(copy) }, { nil, "checkpoint: " .. want,
    tonumber(C.IJ_EFORMAT) })
  lu.assertTrue(ijepa.checkpoint.verify(latest))
  local encoder, message = ijepa.load(copy)
  lu.assertNil(encoder)
  lu.assertStrContains(message, want)
  lu.assertNotNil(ijepa.load(copy, { which = "encoder", quiet = true }))
  write(latest, damaged)
  local code, said = start { ["optim.epochs"] = 3 }
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, ("warning: checkpoint: %s; it is moved to '%s.unreadable'\n"):format(
    want:gsub(copy:gsub("%p", "%%%0"), latest), latest))
  lu.assertStrContains(said, "resumes from " .. out .. "/jepa-ep2.safetensors at step 6\n")
  lu.assertEquals(read(latest .. ".unreadable"), damaged)
end

-- An editor drops the last end of line, or writes lines as Windows does.
function tests.test_a_log_that_an_editor_has_saved_keeps_its_rows()
  start { ["optim.epochs"] = 1 }
  local path = out .. "/jepa_r0.csv"
  local log = read(path)
  write(path, (log:sub(1, -2):gsub("\n", "\r\n")))
  local code, said = start { ["optim.epochs"] = 2 }
  lu.assertEquals(code, 0, said)
  local now = read(path)
  lu.assertEquals(now:sub(1, #log), log)
  lu.assertEquals(select(2, now:gsub("\n", "")), 2 * select(2, log:gsub("\n", "")) - 1)
  write(path, "x\n" .. log)
  code, said = start { ["optim.epochs"] = 3 }
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, ("warning: log '%s' does not begin as this run's does: it is now '%s'")
    :format(path, out .. "/jepa_r0.old.csv"))
end

-- A folder of version 0.1.0: an older run's jepa-ep4 beside the jepa-latest of a newer one.
function tests.test_a_folder_of_version_0_1_0()
  os.execute(("cp -r tests/golden/run_0.1.0 '%s' && touch -d @1000 '%s/jepa-latest.safetensors'")
    :format(out, out))
  lu.assertEquals(ijepa.checkpoint.latest(out), out .. "/jepa-latest.safetensors")
  lu.assertEquals(assert(ijepa.load(out, { quiet = true })).step, 2)
  lu.assertEquals(assert(ijepa.model(out)).encoder.width, 4)
  local code, said = start { ["model.width"] = 4, ["model.patch"] = 8, ["model.pred_dim"] = 4,
    ["mask.target.scale"] = "0.2,0.3", ["optim.steps"] = 3 }
  lu.assertEquals(code, 0, said)
  lu.assertStrContains(said, "jepa-latest.safetensors at step 2\n")
  lu.assertEquals({ meta("latest", "step"), meta("latest", "save") }, { 3, 1 })
  lu.assertEquals(#assert(ijepa.run.read_log(out)).loss, 3)
end

function tests.test_a_tag_of_ones_own()
  lu.assertEquals((start { tag = "vits", ["optim.steps"] = 2 }), 0)
  lu.assertEquals(assert(ijepa.load(out, { quiet = true })).step, 2)
  lu.assertNotNil(ijepa.model(out))
end

-- ---- what was done to the folder between two starts ---------------------------------------------

function tests.test_a_log_that_cannot_be_read_is_kept()
  lu.assertEquals((start { ["optim.steps"] = 2 }), 0)
  local log = out .. "/jepa_r0.csv"
  os.remove(log)
  assert(F.try(C.ij_mkdirs(log)))
  local code, said = start { ["optim.steps"] = 3 }
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, ("log '%s' could not be read: it is not a file"):format(log))
  lu.assertEquals({ C.ij_path_kind(log), meta("latest", "step") }, { 2, 2 })
end

function tests.test_without_the_saved_settings_no_change_is_invented()
  lu.assertEquals((start { ["optim.steps"] = 2 }), 0)
  write(out .. "/config.lua", "?")
  local code, said = start { ["optim.steps"] = 3, ["optim.lr"] = 5e-4 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "which settings have changed is not known\n")
  lu.assertNotStrContains(said, "->")
  -- those of another tag
  lu.assertEquals((start { tag = "other", ["optim.steps"] = 9 }), 0)
  code, said = start { ["optim.steps"] = 4 }
  lu.assertEquals(code, 0)
  lu.assertNotStrContains(said, "->")
end

function tests.test_a_link_to_a_numbered_checkpoint_is_no_output()
  lu.assertEquals((start()), 0)
  for _, name in ipairs { "latest", "ep3", "ep4" } do
    os.remove(("%s/jepa-%s.safetensors"):format(out, name))
  end
  shell(("ln -s jepa-ep2.safetensors '%s/jepa-latest.safetensors'"):format(out))
  local code, said = start { ["optim.steps"] = 8 }
  lu.assertEquals(code, 0)
  lu.assertStrContains(said, "jepa-ep2.safetensors at step 6\n")
  lu.assertEquals({ meta("ep2", "step"), meta("latest", "step") }, { 6, 8 })
end

function tests.test_resume_false_leaves_the_logs_of_another_tag()
  lu.assertEquals((start { tag = "jepa2", ["optim.steps"] = 2, ["log.json"] = true }), 0)
  lu.assertEquals((start { ["optim.steps"] = 2, ["log.json"] = true }), 0)
  lu.assertEquals((start { ["optim.steps"] = 1, resume = false }), 0)
  lu.assertEquals({ C.ij_path_kind(out .. "/jepa2.jsonl"),
    C.ij_path_kind(out .. "/older/jepa.jsonl") }, { 1, 1 })
end

function tests.test_a_tag_is_a_part_of_a_file_name()
  for _, tag in ipairs { "../other", "", "a\nb" } do
    local code, said = start { tag = tag }
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, "expected a part of a file name")
  end
end

-- The folder of a run is moved, and another run begins under its name.
function tests.test_a_run_whose_lock_is_taken_does_not_overwrite_the_other()
  local code, said = start({ ["optim.epochs"] = 2 }, ([[
    if t.step == 1 then
      local f = assert(io.open("%s/jepa.lock", "w"))
      f:write "1\n"
      f:close()
    end]]):format(out))
  lu.assertEquals(code, 1)
  lu.assertStrContains(said, "jepa.lock' was taken by process 1: its folder was moved")
  lu.assertEquals(C.ij_path_kind(out .. "/jepa-latest.safetensors"), 0)
end

function tests.test_a_factor_that_could_not_be_loaded_is_refused()
  for _, value in ipairs { "-1", "0 / 0", "'x'", "nil" } do
    local code, said = start({ resume = false },
      ("if t.step == 2 then t.scale.lr = %s end"):format(value))
    lu.assertEquals(code, 1)
    lu.assertStrContains(said, "a hook set t.scale.lr to ")
    lu.assertEquals({ meta("latest", "step"), meta("latest", "lr_scale") }, { 2, 1 })
  end
end

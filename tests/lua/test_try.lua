-- ijepa.try: a policy that was typed trains a small model for some steps.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local mask = ijepa.mask
local C = F.C

local tests = {}
TestTry = tests -- luacheck: ignore

local program = support.program
local folder, images
function tests.setUp()
  folder = support.folder()
  images = support.scenes { n = 40, test = 2, size = 32 }.train
end

-- What ijepa.try returns and prints.
local function try(policy, o)
  local lines, before = {}, print
  _G.print = function(s) lines[#lines + 1] = s end   -- luacheck: ignore
  local ok, run = pcall(ijepa.try, policy, o)
  _G.print = before   -- luacheck: ignore
  if not ok then error(run, 0) end
  return run, table.concat(lines, "\n")
end

local function block(rng, grid)
  local b = grid:random_block(rng, 2, 2)
  return -b, { b }
end

function tests.test_a_policy_trains_and_is_shown()
  local out = folder .. "/run"
  local p = mask.policy(block, { grid = { 4, 8 }, group = 4 })
  local run, said = try(p, { steps = 6, batch = 4, data = images, out = out, images = 2 })
  lu.assertEquals({ run.step, #run.losses, run.out }, { 6, 6, out })
  lu.assertEquals({ run.encoder.grid, run.encoder.patch }, { { 4, 8 }, 8 })
  lu.assertEquals(run.config.data.crop, { 32, 64 })
  lu.assertEquals({ run.policy.group, run.config.mask.policy == block }, { 4, true })
  -- the means of the first and the last step, the verdict of the last check, the masks that train
  lu.assertStrContains(said, ("loss %.4f -> %.4f (means of the first and last 1 step) in 6 steps, ")
    :format(run.losses[1], run.losses[6]))
  local last = run.diagnoses[#run.diagnoses]
  lu.assertEquals(last.step, 6)
  lu.assertStrContains(said:gsub("\n%s*", " "), last.text)
  lu.assertStrContains(said, "masks:\n" .. mask.text(run.policy, { images = 2 }))
  lu.assertStrContains(said, "the run is in " .. out)
  local m = assert(ijepa.model(out))   -- it is a run like any other
  lu.assertEquals(m.policy:sample(4, 0):totable(), run.policy:sample(4, 0):totable())
  lu.assertStrMatches(tostring(run), "run in '" .. out:gsub("%p", "%%%0") ..
    "': step 6, loss [%d.]+\n  diagnosis  step 6: [^\n]+\n  encoder    ViT 4 x 64, .*")
  local again = try(p, { steps = 6, batch = 4, data = images })
  lu.assertEquals(run.losses, again.losses)
  support.remove(again.out)
end

function tests.test_functions_files_and_built_in_policies()
  local run = try(block, { steps = 1, batch = 4, data = images })
  lu.assertEquals(run.encoder.grid, { 8, 8 })
  lu.assertEquals(C.ij_path_kind(run.out .. "/jepa-latest.safetensors"), 1)   -- a temporary folder
  support.remove(run.out)
  run = try("recipes/masks/halves.lua",
    { steps = 1, batch = 4, data = images, out = folder .. "/a" })
  lu.assertEquals(run.policy.name, "recipes/masks/halves.lua")
  local built = mask.new { grid = { 8, 8 }, min_keep = 1, group = 4,
    target = { n = 2, scale = { .1, .1 } } }
  run = try(built, { steps = 1, batch = 4, data = images, out = folder .. "/b" })
  lu.assertEquals(run.policy.targets, 2)
  local options = mask.policy(function(rng, grid, _, o)
    local b = grid:random_block(rng, o.side, o.side)
    return -b, { b }
  end, { grid = { 8, 8 }, options = { side = 3 }, group = 4 })
  run = try(options, { steps = 1, batch = 4, data = images, out = folder .. "/c" })
  lu.assertEquals(run.policy:sample_raw(4, 0).t, 9)
end

function tests.test_what_it_refuses()
  for want, call in pairs {
    ["ijepa.try(policy, { steps = 50 }): the first argument is nil, expected a mask policy"] = {},
    ["the second argument is 5, expected a table"] = { block, 5 },
    ["ijepa.try: unknown setting 'step' (did you mean 'steps'?)"] = { block, { step = 5 } },
    ["'steps' is 0, expected a whole number from 1"] = { block, { steps = 0 } },
    ["data '/nowhere' is not there"] = { block, { data = "/nowhere" } },
    ["a policy with a saliency trains from a file"] = { mask.policy(block, { grid = { 4, 4 },
      saliency = function() return {} end }) },
  } do
    lu.assertErrorMsgContains(want, ijepa.try, call[1], call[2])
  end
end

-- Without a quickstart here the scenes are drawn once, into the cache.
function tests.test_scenes_are_drawn_once()
  local script = support.write(folder .. "/try.lua", [[
    local ijepa = require "ijepa"
    local function block(rng, grid)
      local b = grid:random_block(rng, 3, 3)
      return -b, { b }
    end
    ijepa.try(block, { steps = 1, batch = 4, out = "run" .. arg[1] })]])
  if not program:find "^/" then   -- the test runs in another folder
    local at = io.popen "pwd"
    program = at:read "*l" .. "/" .. program
    at:close()
  end
  local o = { cwd = folder, env = { XDG_CACHE_HOME = folder .. "/cache" } }
  local code, said, err = support.run({ program, script, "1" }, o)
  lu.assertEquals(code, 0, err)
  lu.assertStrContains(err, "drawing 2000 scenes into " .. folder .. "/cache/ijepa/scenes, once\n")
  lu.assertStrContains(err, "\n2000 images, batch size 4, 1 step ")
  lu.assertStrContains(said, "the run is in run1\n")
  code, said, err = support.run({ program, script, "2" }, o)
  lu.assertEquals(code, 0, err)
  lu.assertNotStrContains(err, "drawing")
  lu.assertStrContains(said, "the run is in run2\n")
end

return tests

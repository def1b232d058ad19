-- The CUDA plug-in through the whole program: on a GPU (IJEPA_CUDA=build/libijepa_cuda.so), or,
-- without one, the same sources on the emulator (tests/emu), which can also be told to fail.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local support = require "support"
local C = F.C

local tests = {}
TestCuda = tests -- luacheck: ignore

local program, plugin = support.program, os.getenv "IJEPA_CUDA"
local emulated = plugin and plugin:find "emu"

local folder, images

local function shell(argv, env) return support.run(argv, { env = env, merge = true }) end

function tests.setUp()
  support.need_gpus(1)
  folder = support.folder()
  images = support.scenes { n = 24, test = 60, size = 32 }
  support.write(folder .. "/recipe.lua",
    'local ijepa = require "ijepa"\nreturn ijepa.pretrain(ijepa.config {})\n')
end

-- A run of a small model; over: settings; o: env, before (arguments in front of the program).
local function run(name, over, o)
  o = o or {}
  local words = {
    ["data.root"] = images.train, ["data.batch"] = 4, ["data.crop"] = 32, ["data.workers"] = 1,
      ["model.width"] = 32,
    ["model.depth"] = 2, ["model.heads"] = 2, ["model.patch"] = 4, ["model.pred_depth"] = 1,
      ["model.pred_dim"] = 16,
    ["model.dtype"] = "f32", ["mask.min_keep"] = 3, ["mask.group"] = 8, ["optim.epochs"] = 1,
      ["optim.warmup"] = 0,
    ["model.init_gain"] = .7, ["model.patch_gain"] = 1.5, ["diagnose.every"] = 0,
      out = folder .. "/" .. name,
  }
  for k, v in pairs(over or {}) do words[k] = v end
  local list = {}
  for k, v in pairs(words) do list[#list + 1] = k .. "=" .. tostring(v) end
  return shell({ o.before or {}, program, folder .. "/recipe.lua", list }, o.env)
end
local function fine(name, over)
  local code, text = run(name, over)
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  return text
end
local function latest(name)
  return assert(ijepa.checkpoint.load(folder .. "/" .. name .. "/jepa-latest.safetensors"))
end

-- The largest difference of any value of two checkpoints.
local function apart(a, b)
  local x, y, worst = latest(a), latest(b), 0
  for _, name in ipairs(x:names()) do
    local p, n = x:data(name)
    local v, w = F.cast("const float *", p), F.cast("const float *", (y:data(name)))
    for i = 0, n / 4 - 1 do worst = math.max(worst, math.abs(v[i] - w[i])) end
  end
  x:close()
  y:close()
  return worst
end
local function losses(name)
  local list = {}
  for line in io.lines(folder .. "/" .. name .. "/jepa_r0.csv") do
    list[#list + 1] = tonumber(line:match "^%d+,%d+,([^,]+)")
  end
  return list
end

function tests.test_recorded_steps_of_the_published_implementation()
  local files = { "tests/golden/step.safetensors" }
  for _, step in ipairs { "step_a", "step_b" } do
    local path = "../shared/conformance/" .. step .. ".safetensors"
    if C.ij_path_kind(path) == 1 then files[#files + 1] = path end
  end
  local code, text = shell({ program, "conform", files }, { IJEPA_DEVICE = "cuda" })
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
end

function tests.test_a_run_equals_the_processor_s()
  fine("GPU", { device = "cuda" })
  fine "host"
  lu.assertTrue(#losses "GPU" == 6)
  for i, loss in ipairs(losses "host") do lu.assertAlmostEquals(losses "GPU"[i], loss, 2e-5) end
  -- six steps of AdamW at a rate of 1e-3: one whose gradient is near to 0 may go the other way at
  -- first
  lu.assertTrue(apart("GPU", "host") < 2e-4)
end

function tests.test_bf16_learns_the_same()
  fine("GPU", { device = "cuda", ["model.dtype"] = "bf16", ["model.recompute"] = true })
  fine "host"
  -- 2^-9 a number, over 4 layers
  for i, loss in ipairs(losses "host") do
    lu.assertAlmostEquals(losses "GPU"[i], loss, .02 * loss)
  end
end

function tests.test_resume_equals_the_uninterrupted_run()
  fine("whole", { device = "cuda" })
  fine("parts", { device = "cuda", ["optim.steps"] = 3 })   -- in the middle of the epoch
  fine("parts", { device = "cuda" })
  lu.assertEquals(apart("whole", "parts"), 0)
  lu.assertEquals(losses "parts", losses "whole")
end

function tests.test_accumulated_and_clipped_updates()
  fine("GPU", { device = "cuda", ["data.batch"] = 2, ["optim.accumulate"] = 2,
    ["optim.clip"] = .1 })
  fine("host", { ["data.batch"] = 2, ["optim.accumulate"] = 2, ["optim.clip"] = .1 })
  lu.assertTrue(apart("GPU", "host") < 2e-4)
end

function tests.test_a_loss_that_is_no_number_changes_nothing()   -- though it is read a step late
  local code, text = run("run", { device = "cuda", ["optim.lr"] = 1e30, ["optim.start_lr"] = 1e30,
    ["model.init_gain"] = 1 })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "lower optim.lr")
  local step = tonumber(text:match "step (%d+): the loss is")
  if step and step > 1 and C.ij_path_kind(folder .. "/run/jepa-latest.safetensors") == 1 then
    lu.assertEquals(latest "run":meta "step", step - 1)
  end
end

function tests.test_a_probe()
  fine("run", { device = "cuda" })
  local command = { program, "recipes/probe_ridge.lua", "run=" .. folder .. "/run",
    "train=" .. images.train, "test=" .. images.test, "resize=32", "cache=false" }
  local code, text = shell { command, "device=cuda" }
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  local _, host = shell(command)
  lu.assertEquals(text:match "[%d.]+ %%", host:match "[%d.]+ %%")
end

function tests.test_machines_without_a_usable_gpu()
  lu.skipIf(not emulated, "a real GPU does not fail on request")
  for fault, words in pairs { no_driver = "no NVIDIA driver", old_driver = "update the driver",
      no_device = "no GPU can be used" } do
    local code, text = run("run", { device = "cuda" }, { env = { IJ_EMU_FAULT = fault } })
    lu.assertEquals(code, 1)
    lu.assertStrContains(text, "device 'cuda'")
    lu.assertStrContains(text, words)
    lu.assertEquals(select(2, text:gsub("\n", "\n")), 1)
  end
  local code, text = run("run", { device = "cuda:7" })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "this machine has 1 GPU")
  code, text = run("run", { device = "cuda" }, { env = { IJEPA_CUDA = "/nothing.so" } })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "could not be loaded")
end

-- Where the plug-in finds NVIDIA's libraries. On the emulator two empty files take their places.
function tests.test_libraries_that_are_searched()
  lu.skipIf(not emulated, "a GPU's libraries are where they are")
  local blas, nccl = "libcublasLt_emu.so", "libnccl_emu.so"
  local from = plugin:match "^(.*)/[^/]*$"
  local alone = folder .. "/libijepa_cuda_emu.so"
  support.run { "cp", plugin, alone }
  local function check(env)
    env.IJEPA_CUDA = alone
    local _, text = shell({ program, "check" }, env)
    return (text:gsub("%s+", " "))
  end
  local text = check { IJEPA_CUDA_LIBS = folder .. "/nowhere", VIRTUAL_ENV = "",
    IJEPA_REQUIRE_CUDA = "" }
  lu.assertStrContains(text, "none cuda")
  lu.assertStrContains(text, blas .. " was not found in IJEPA_CUDA_LIBS=")
  lu.assertStrContains(text, "the library path")
  text = check { IJEPA_REQUIRE_CUDA = 1 }
  lu.assertStrContains(text, "fail cuda")
  lu.assertStrContains(text, "IJEPA_REQUIRE_CUDA asks for one")
  text = check { IJEPA_CUDA_LIBS = folder .. "/nowhere:" .. from }
  lu.assertStrContains(text, from .. "/" .. blas)
  lu.assertStrContains(text, from .. "/" .. nccl)
  -- an active Python environment, as pip lays out NVIDIA's packages
  local packages = folder .. "/venv/lib/python3.11/site-packages/nvidia"
  support.run { "mkdir", "-p", packages .. "/cu13/lib", packages .. "/nccl/lib" }
  support.run { "cp", from .. "/" .. blas, packages .. "/cu13/lib" }
  text = check { VIRTUAL_ENV = folder .. "/venv" }
  lu.assertStrContains(text, packages .. "/cu13/lib/" .. blas)
  lu.assertStrContains(text, "NCCL is not here: " .. nccl .. " was not found in")
  support.run { "cp", from .. "/" .. nccl, packages .. "/nccl/lib" }
  lu.assertStrContains(check { VIRTUAL_ENV = folder .. "/venv" }, packages .. "/nccl/lib/" .. nccl)
  support.write(folder .. "/" .. blas, "no library")
  lu.assertStrContains(check { IJEPA_CUDA_LIBS = "" }, folder .. "/" .. blas)   -- says why not
end

function tests.test_matmuls_that_are_refused_are_counted()
  lu.skipIf(not emulated, "cuBLASLt does not refuse on request")
  for mode, state in pairs { none = "warn", late = "warn", [""] = "ok" } do
    local _, text = shell({ program, "check" }, { IJ_EMU_LT = mode })
    text = text:gsub("%s+", " ")
    lu.assertStrContains(text, state .. " cuda")
    local calls, refused = text:match "(%d+) matmuls of %d+ shapes, (%d+) refused by cuBLASLt"
    lu.assertTrue(tonumber(calls) > 8)
    -- one that gives sums too is refused, and asked for again without them
    lu.assertEquals(refused, state == "warn" and calls or "0")
    lu.assertEquals(text:find("refused: 1x(8, 1280) x (1280, 5120), bf16 bf16", 1, true) ~= nil,
      state == "warn")
  end
end

-- Choices by timing are kept in a file: another run reads them and writes none.
function tests.test_choices_of_matmuls_are_kept()
  lu.skipIf(not emulated, "the emulator's clock is no GPU's")
  local file = folder .. "/choices"
  local function tuned() return { env = { IJEPA_CUDA_TUNE = file } } end
  local code, text = run("first", { device = "cuda", ["optim.steps"] = 2 }, tuned())
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  local kept = support.read(file)
  lu.assertStrContains(kept, "ijepa matmul choices 1, cuBLASLt")
  lu.assertTrue(select(2, kept:gsub("\n", "")) > 10)
  code = run("second", { device = "cuda", ["optim.steps"] = 2 }, tuned())
  lu.assertEquals(code, 0)
  lu.assertEquals(support.read(file), kept)
  lu.assertEquals(apart("first", "second"), 0)
  support.write(file, (kept:gsub("(%x)(%x* %x+\n)$", function(a, rest)
    return (a == "0" and "1" or "0") .. rest
  end)))
  code, text = run("third", { device = "cuda" }, tuned())
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "is damaged: delete the line or the file")
  support.write(file, "something else\n")
  code, text = run("third", { device = "cuda" }, tuned())
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "another cuBLASLt or GPU")
end

function tests.test_a_gpu_without_memory_pools()
  lu.skipIf(not emulated, "a GPU has pools or has none")
  local code, text = run("plain", { device = "cuda" }, { env = { IJ_EMU_POOLS = 0 } })
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  fine("pool", { device = "cuda" })
  lu.assertEquals(apart("plain", "pool"), 0)
  text = select(2, shell({ program, "check" }, { IJ_EMU_POOLS = 0 }))
  lu.assertStrContains((text:gsub("%s+", " ")), "memory from cudaMalloc")
end

function tests.test_a_gpu_with_too_little_memory_says_what_would_fit()
  lu.skipIf(not emulated, "a real GPU has the memory that it has")
  local code, text = run("run", { device = "cuda", ["data.batch"] = 24 },
    { env = { IJ_EMU_MEMORY = 34 * 2 ^ 20 } })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "out of memory on the GPU")
  lu.assertStrContains(text, "this run needs")
end

function tests.test_a_gpu_that_disappears()
  lu.skipIf(not emulated, "a real GPU does not go on request")
  local code, text = run("run", { device = "cuda", ["optim.epochs"] = 50, ["log.save_steps"] = 1 },
    { env = { IJ_EMU_FAULT = "lost:1200" } })
  lu.assertEquals(code, 1)
  lu.assertStrContains(text, "resumes from its last checkpoint")
  local step = latest "run":meta "step"
  lu.assertTrue(step >= 1)
  local again = fine("run", { device = "cuda", ["optim.epochs"] = 50, ["optim.steps"] = step + 1 })
  lu.assertStrContains(again, "resumes from")
end

-- Two processes, each with a GPU of its own.
local function two(name, over, env)
  lu.skipIf(not support.which "mpirun", "no mpirun here")
  support.need_gpus(2)
  over.device = "cuda"
  env.IJ_EMU_DEVICES = 2
  return run(name, over, { env = env, before = support.split
    "timeout 120 mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2" })
end

function tests.test_two_gpus_are_one_with_two_batches()
  -- as in a batch script: not the processes' own numbers
  local code, text = two("two", {}, { SLURM_LOCALID = 0 })
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  fine("one", { device = "cuda", ["optim.accumulate"] = 2 })
  lu.assertEquals(losses "two", losses "one")
  lu.assertTrue(apart("two", "one") < 1e-6)   -- sums of two gradients: the order of their terms
  code, text = two("shard", { ["optim.shard"] = true }, {})
  lu.assertEquals({ code, code ~= 0 and text }, { 0, false })
  lu.assertEquals(apart("two", "shard"), 0)
end

function tests.test_a_sum_between_gpus_that_never_ends()
  lu.skipIf(not emulated, "NCCL does not hang on request")
  local code, text = two("run", { ["dist.timeout"] = 3 }, { IJ_EMU_NCCL_HANG = "1:2" })
  lu.assertNotEquals(code, 0)
  lu.assertStrContains(text, "a sum between GPUs did not finish within 3 seconds")
end

return tests

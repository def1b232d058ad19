-- The command line: what goes to stdout and stderr, and the exit codes.
local lu = require "luaunit"
local support = require "support"

local tests = {}
TestCli = tests -- luacheck: ignore

local program, write = support.program, support.write

-- Runs the program with these arguments; returns exit code, stdout, stderr. `o`: of support.run.
local function run(words, o)
  o = o or {}
  o.env = o.env or { IJEPA_TRACE = false }
  return support.run({ program, words }, o)
end

local folder
function tests.setUp() folder = support.folder() end

local function script(text, name)
  local path = folder .. "/" .. (name or "script.lua")
  write(path, text)
  return path
end

function tests.test_version_and_help()
  local code, out, err = run { "-v" }
  lu.assertEquals({ code, err }, { 0, "" })
  lu.assertStrMatches(out, "ijepa %d+%.%d+%.%d+\n")
  code, out, err = run { "--help" }
  lu.assertEquals({ code, err }, { 0, "" })
  lu.assertStrContains(out, "usage: ijepa FILE [key=value ...]")
end

function tests.test_usage_errors_give_2()
  for _, case in ipairs {
    { { "-x" }, "ijepa: unknown option '-x'\n" },
    { { "-e" }, "ijepa: -e: the code to run is missing\n" },
    { { "nofile.lua" }, "ijepa: cannot open 'nofile.lua': No such file or directory\n" },
    { { "chekc" }, "(did you mean 'check'?)" },
    { { "/tmp" }, "ijepa: cannot open '/tmp': it is a folder\n" },
    { { "conform" }, "ijepa: conform: expected a file or folder" },
  } do
    local code, out, err = run(case[1])
    lu.assertEquals({ code, out }, { 2, "" })
    lu.assertStrContains(err, case[2])
    lu.assertStrContains(err, case[1][1] == "conform" and "try: ijepa help conform\n"
      or "try: ijepa --help\n")
  end
end

function tests.test_code_from_the_command_line_and_stdin()
  lu.assertEquals({ run { "-e", "print(arg[1], ...)", "a b" } }, { 0, "a b\ta b\n", "" })
  lu.assertEquals({ run({ "-", "x" }, { input = "#!/usr/bin/env ijepa\nprint(...)" }) },
    { 0, "x\n", "" })
  lu.assertEquals({ run { "-e", "x = = 1" } },
    { 1, "", "(command line):1: unexpected symbol near '='\n" })
end

function tests.test_a_script_finds_its_neighbours_and_arguments()
  script("return { seven = 7 }", "neighbour.lua")
  local path = script 'print(require "neighbour".seven, arg[0], ...)'
  lu.assertEquals({ run { path, "k=v" } }, { 0, "7\t" .. path .. "\tk=v\n", "" })
end

function tests.test_an_error_starts_with_file_and_line()
  local path = script 'local function f()\n  error "boom"\nend\nf()\nprint(1)'
  local code, out, err = run { path }
  lu.assertEquals({ code, out }, { 1, "" })
  lu.assertEquals(err:match "^[^\n]*", path .. ":2: boom")
  lu.assertStrContains(err, path .. ":4: in the main chunk")
  lu.assertNotStrContains(err, "lua/ijepa")
end

function tests.test_misuse_is_blamed_on_the_users_line()
  local path = script 'local ijepa = require "ijepa"\nlocal x = 1\nijepa.tensor.zeros("3")\nprint(x)'
  local code, _, err = run { path }
  lu.assertEquals(code, 1)
  lu.assertStrMatches(err:match "^[^\n]*", path:gsub("%p", "%%%0") .. ":3: .*")
  lu.assertNotStrContains(err, "lua/ijepa")
  _, _, err = run({ path }, { env = { IJEPA_TRACE = 1 } })
  lu.assertStrContains(err, "lua/ijepa/tensor/create.lua")
end

function tests.test_an_error_deep_inside_still_names_the_users_line()
  local path = script 'local text = require "ijepa.base.text"\nlocal x = text.nearest(nil, { "a" })\nprint(x)'
  local code, _, err = run { path }
  lu.assertEquals(code, 1)
  lu.assertStrMatches(err, path:gsub("%p", "%%%0") .. ":2: attempt to .* %(at .*text%.lua:%d+%)\n")
end

function tests.test_odd_error_objects()
  lu.assertEquals({ run { "-e", "error {}" } },
    { 1, "", "(command line): error object is a table value\n" })
  lu.assertEquals({ run { "-e", "error()" } },
    { 1, "", "(command line): error object is a nil value\n" })
  lu.assertEquals({ run {
    "-e", "error(setmetatable({}, {__tostring = function() return 'told' end}))" } },
    { 1, "", "(command line): told\n" })
  local code, _, err = run { "-e", "local function f() return 1 + f() end f()" }
  lu.assertEquals(code, 1)
  lu.assertStrContains(err, "stack overflow")
end

function tests.test_what_the_outside_world_refused_is_an_error()
  local path = script 'return nil, "folder \'x\' is not there", 4'
  lu.assertEquals({ run { path } }, { 1, "", path .. ": folder 'x' is not there\n" })
end

function tests.test_exit_codes()
  lu.assertEquals({ run { "-e", 'require "ijepa".exit(130)' } }, { 130, "", "" })
  lu.assertEquals({ run { "-e", 'require "ijepa".exit()' } }, { 0, "", "" })
  lu.assertEquals({ run { "-e", "os.exit(5)" } }, { 5, "", "" })
end

function tests.test_interrupted_script_saves_and_ends_with_130()
  local path = script [[
    local ijepa = require "ijepa"
    assert(ijepa.interrupted() == false)
    local pid = io.open("/proc/self/stat"):read "*n"
    os.execute(("(sleep .2; kill -INT %d) &"):format(pid))   -- system() itself ignores the signal
    while not ijepa.interrupted() do end
    print "saved"
    ijepa.exit(130)
  ]]
  lu.assertEquals({ run { path } }, { 130, "saved\n", "" })
end

function tests.test_a_session_from_a_pipe()
  local code, out, err =
    run({}, { input = "1 + 1\nx = 5\nx;\n'a'\nfor i = 1, 2 do\n  print(i)\nend\nerror 'boom'\nx\n" })
  lu.assertEquals({ code, out, err }, { 1, "2\na\n1\n2\n5\n", "stdin:8: boom\n" })
  lu.assertEquals({ run({}, { input = "ijepa.version == nil, {1, {a = 2}}\n" }) },
    { 0, "false\t{ 1, { a = 2 } }\n", "" })
  lu.assertEquals({ run({}, { input = "ijepa.exit(3)\n1\n" }) }, { 3, "", "" })
end

function tests.test_help()
  local code, out, err = run { "help", "config.dump" }
  lu.assertEquals({ code, err }, { 0, "" })
  lu.assertStrContains(out, "config.dump(t)")
  code, out, err = run { "help", "cofnig" }
  lu.assertEquals({ code, out }, { 1, "" })
  lu.assertStrContains(err, "did you mean 'config'?")
  lu.assertStrContains(select(2, run { "help", "config" }), "ijepa.config(given, schema, args)")
  local path = script "-- Adds one.\nfunction plus(x)\n  return x + 1\nend\nrequire 'ijepa'.help(plus)"
  lu.assertStrContains(select(2, run { path }), "Adds one.")
end

local function help_of(...)
  local code, out, err = run { "help", ... }
  lu.assertEquals({ code, err }, { 0, "" })
  return out
end

function tests.test_help_is_a_page_by_topic()
  local out = help_of()
  lu.assertTrue(select(2, out:gsub("\n", "")) <= 40)
  for line in out:gmatch "[^\n]+" do lu.assertTrue(#line <= 100, line) end
  for _, part in ipairs { "Start here", "\n  report ", "\n  memory ", "\n  masks ", "\n  probes ",
      "\n  settings " } do
    lu.assertStrContains(out, part)
  end
end

function tests.test_help_knows_commands_topics_settings_and_functions()
  for _, c in ipairs(require "ijepa.host.commands") do
    lu.assertStrContains(help_of(c.name), "ijepa " .. c.name)
    lu.assertStrContains(help_of(c.name), "example: ijepa " .. c.name)
  end
  for _, t in ipairs(require "ijepa.host.topics".list) do help_of(t.name) end
  lu.assertStrContains(help_of "check", "See also: conform.check")
  lu.assertStrContains(help_of "train", "docs/watching.md")
  lu.assertStrContains(help_of "masks", "grid:random_block(rng, h, w)")
  lu.assertStrContains(help_of "grid:random_block", "returns ijepa.mask_region")
  lu.assertStrContains(help_of "encoder:blocks", "encoder:blocks(images, n)")
  lu.assertStrContains(help_of "init_gain", "model.init_gain  (number; default 0)")
  lu.assertStrContains(help_of "optim.lr", "Learning rate after the warm-up")
  local out = help_of "mask.target"
  for _, key in ipairs { "mask.target.n", "mask.target.scale", "mask.target.aspect" } do
    lu.assertStrContains(out, key)
  end
  out = help_of "mask.policy"
  lu.assertStrContains(out, 'mask.policy  (string or function; default "multiblock")')
  lu.assertStrContains(out, "mask.policy(f, o)")
  lu.assertStrContains(help_of "probe.parameter", "probe.parameter(rng, shape, std)")
  out = help_of "optim.step"
  lu.assertStrContains(out, "optim:step(o)")
  lu.assertStrContains(out, "momentum: number?")
  lu.assertStrContains(help_of "recipes/probe_knn.lua", "k=20,10,5")
end

function tests.test_a_miss_names_what_is_near_and_never_what_was_typed()
  local function missed(name)
    local code, out, err = run { "help", name }
    lu.assertEquals({ code, out }, { 1, "" })
    return err
  end
  lu.assertEquals(missed "zzz", "no such name 'zzz'; `ijepa help` lists the topics\n")
  lu.assertStrContains(missed "optim.ler", "did you mean 'optim.lr'")
  lu.assertStrContains(missed "bottleneck", "these mention it: model.pred_dim")
  for _, name in ipairs { "momentums", "drw", "lrs", "steps_", "chek", "maskk" } do
    local suggested = missed(name):match "did you mean (.*)%?" or ""
    lu.assertNotStrContains(suggested, "'" .. name .. "'")
  end
end

function tests.test_help_knows_the_names_of_pytorch()
  local source = assert(io.open "lua/ijepa/host/help.lua"):read "*a"
  local list, count = source:match "local ALIASES = (%b{})", 0
  for alias in list:gmatch "([%w_]+) = \"" do
    local code, out, err = run { "help", alias }
    lu.assertEquals({ alias, code, err }, { alias, 0, "" })
    lu.assertNotEquals(out, "")
    count = count + 1
  end
  lu.assertTrue(count > 20)
  local _, out = run { "help", "batch_size" }
  lu.assertStrContains(out, "'batch_size' is data.batch here:\ndata.batch  (integer; default 128)")
end

function tests.test_help_wraps_to_the_terminal()
  local help = require "ijepa.host.help"
  lu.assertEquals(help.wrap("one two three\nfour", "  ", 12), "  one two\n  three four")
  lu.assertEquals(help.wrap("a\n  x: one two three four", "", 14),
    "a\n  x: one two\n    three four")
  lu.assertEquals(help.wrap("a\n\n    code  stays as it is", "", 10),
    "a\n\n    code  stays as it is")
  lu.assertEquals(help.brief "First sentence of\ntwo lines. Second.", "First sentence of two lines")
end

function tests.test_examples_in_help_run()
  local topics = require "ijepa.host.topics"
  local names, ran = require "ijepa._docs".names, 0
  for _, t in ipairs(topics.list) do
    for _, name in ipairs(t.functions or {}) do lu.assertNotNil(names[name], name) end
    for path in (t.document or ""):gmatch "docs/[%w_]+%.md" do
      local file = io.open(path)
      lu.assertNotNil(file, path)
      file:close()
    end
  end
  for name, code in pairs(topics.examples) do
    lu.assertNotNil(names[name], name)
    lu.assertNotNil(loadstring(code), name)
    if not code:find '"runs/' then
      ran = ran + 1
      local status, out, err = run({}, { input = code .. "\n" })
      lu.assertEquals({ status, err }, { 0, "" }, name .. out)
    end
  end
  lu.assertTrue(ran >= 18, ran)
end

function tests.test_help_of_a_recipe_does_not_run_it()
  local code, out, err = run { "recipes/quickstart.lua", "--help" }
  lu.assertEquals({ code, err }, { 0, "" })
  lu.assertStrContains(out, "A first run without a download")
  lu.assertStrContains(out, "optim.minutes=4.5")
  lu.assertNotStrContains(out, "optim.clip")
  lu.assertStrContains(out, "docs/settings.md")
  for _, path in ipairs { "knn", "linear", "attentive", "ridge", "lowshot" } do
    code, out, err = run { "recipes/probe_" .. path .. ".lua", "--help" }
    lu.assertEquals({ code, err }, { 0, "" })
    for _, key in ipairs { "limit=0", "resize=0", "run=runs/pretrain", "per_class=false" } do
      lu.assertStrContains(out, key)
    end
  end
  lu.assertStrContains(select(2, run { "recipes/probe_linear.lua", "-h" }), "protocol=")
  lu.assertStrContains(select(2, run { "recipes/finetune.lua", "--help" }), "layer_decay=0.75")
  for _, path in ipairs { "cifar10", "decoder", "pretrain", "in1k_vith14", "in22k_vitg16" } do
    code, _, err = run { "recipes/" .. path .. ".lua", "--help" }
    lu.assertEquals({ code, err }, { 0, "" })
  end
end

function tests.test_settings_page_is_up_to_date()
  local file = assert(io.open "docs/settings.md")
  local text = file:read "*a"
  file:close()
  local code, out = run { "help", "settings", "--markdown" }
  lu.assertEquals(code, 0)
  lu.assertTrue(out == text,
    "docs/settings.md: run ijepa help settings --markdown > docs/settings.md")
end

function tests.test_old_module_names_warn_once()
  local names, old = require "ijepa.base.names", nil
  for name, path in pairs(names) do
    if name ~= path and names[path] == path then old = name end
  end
  local path = script((
    'local ijepa = require "ijepa"\nassert(ijepa.%s == ijepa.plot and require "ijepa.%s" == ijepa.plot)'):format(old, old))
  lu.assertEquals({ run { path } },
    { 0, "", ("ijepa: 'ijepa.%s' was renamed: use 'ijepa.plot'\n"):format(old) })
  lu.assertEquals({ run { "-e", 'assert(require "ijepa".plot)' } }, { 0, "", "" })
end

function tests.test_memory_takes_a_gpu()
  local code, out = run { "memory", "recipes/quickstart.lua", "gpu=40" }
  lu.assertEquals(code, 0)
  lu.assertStrContains(out, "GPU of 40 GiB: fits as it is")
end

function tests.test_help_and_check_fit_80_columns()
  local pages = { { "--help" }, { "help" }, { "check" },
    { "conform", "tests/golden/step.safetensors" } }
  for _, t in ipairs(require "ijepa.host.topics".list) do pages[#pages + 1] = { "help", t.name } end
  for _, c in ipairs(require "ijepa.host.commands") do pages[#pages + 1] = { "help", c.name } end
  for _, name in ipairs { "config", "data", "optim", "mask.draw", "optim.lr", "ijepa.pretrain" } do
    pages[#pages + 1] = { "help", name }
  end
  for _, words in ipairs(pages) do
    for line in select(2, run(words)):gmatch "[^\n]+" do
      lu.assertTrue(#line <= 80, table.concat(words, " ") .. ": " .. line)
    end
  end
end

function tests.test_check_names_every_point()
  local code, out, err = run { "check" }
  lu.assertEquals(err, "")
  lu.assertEquals(code, 0)
  for _, point in ipairs { "program", "CPU", "threads", "memory", "matmul", "training",
      "images" } do
    lu.assertStrContains(out, " " .. point .. " ")
  end
  lu.assertNotStrContains(out, "fail")
  -- without a GPU that point is not "ok"
  local state, what = ("\n" .. out):match "\n(%a+) +cuda +([^\n]*)"
  lu.assertEquals(state, what:find "^no GPU" and "none" or "ok")
end

function tests.test_full_disk_is_an_error()
  local path = script "for i = 1, 1e5 do print(i) end"
  local code = support.run({ program, path }, { out = "/dev/full" })
  lu.assertNotEquals(code, 0)
end

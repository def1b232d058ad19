-- ijepa.config: defaults, types, the command line, messages, dump.
local lu = require "luaunit"
local config = require "ijepa.config"

local tests = {}
TestConfig = tests -- luacheck: ignore

local schema = {
  out = { type = "string", default = "runs/x" },
  data = {
    batch = { type = "integer", default = 8, check = function(v) return v > 0,
      "must be above 0" end },
    root = { type = "string|strings" },
    scale = { type = "numbers", default = { .3, 1 } },
    crop = { type = "integer|numbers", default = 224 },
  },
  mask = { policy = { type = "string|function", default = "multiblock" } },
  optim = { lr = { type = "number", default = 1e-3 }, on = { type = "boolean", default = false } },
}

local function set(...) return config({}, schema, { ... }) end

-- The message of config(given, schema, words), without "FILE:" where it stands in this file.
local function refused(given, words, s)
  if s == nil then s = schema end
  local ok, message = pcall(function() local t = config(given, s, words or {}) return t end)
  lu.assertFalse(ok)
  return (message:gsub("^[^\n]*test_config%.lua:", "HERE:"))
end

function tests.test_defaults_are_filled_in_and_not_shared()
  local a, b = set(), set()
  lu.assertEquals(a, { out = "runs/x", data = { batch = 8, scale = { .3, 1 }, crop = 224 },
    mask = { policy = "multiblock" }, optim = { lr = 1e-3, on = false } })
  a.data.scale[1] = 5
  lu.assertEquals(b.data.scale[1], .3)
end

function tests.test_the_recipe_wins_over_defaults_and_words_over_the_recipe()
  local given = { data = { batch = 4, root = "a" } }
  local t = config(given, schema, { "data.batch=1e1", "optim.lr=1e-4", "optim.on=true", "out=5" })
  lu.assertEquals({ t.data.batch, t.data.root, t.optim.lr, t.optim.on, t.out },
    { 10, "a", 1e-4, true, "5" })
  lu.assertEquals(given, { data = { batch = 4, root = "a" } })
end

function tests.test_words_of_every_type()
  lu.assertEquals(set("data.scale=0.1,2").data.scale, { .1, 2 })
  lu.assertEquals(set("data.scale={ .5 , 1 }").data.scale, { .5, 1 })
  lu.assertEquals(set("data.crop=96").data.crop, 96)
  lu.assertEquals(set("data.crop=96,128").data.crop, { 96, 128 })
  lu.assertEquals(set("data.root=a,b").data.root, "a,b")
  lu.assertEquals(set("data.root={a,'b c'}").data.root, { "a", "b c" })
  lu.assertEquals(set("data.root=").data.root, "")
  lu.assertEquals(set("data.root=a=b").data.root, "a=b")
  lu.assertEquals(set("optim.lr=-2").optim.lr, -2)
end

function tests.test_words_that_do_not_fit()
  lu.assertEquals(refused({}, { "data.batch=1.5" }),
    "command line: 'data.batch' is '1.5', expected an integer")
  lu.assertEquals(refused({}, { "data.batch=0" }),
    "command line: 'data.batch' is 0: must be above 0")
  lu.assertEquals(refused({}, { "optim.lr=nan" }),
    "command line: 'optim.lr' is 'nan', which is not finite: expected a number")
  lu.assertEquals(refused({}, { "optim.lr=inf" }),
    "command line: 'optim.lr' is 'inf', which is not finite: expected a number")
  lu.assertEquals(refused({}, { "optim.on=yes" }),
    "command line: 'optim.on' is 'yes', expected a boolean")
  lu.assertEquals(refused({}, { "data.scale=1,a" }),
    "command line: 'data.scale' is '1,a', expected a list of numbers")
  lu.assertEquals(refused({}, { "data=1" }),
    "command line: 'data' is a table: set one of its keys, like data.batch=...")
  lu.assertEquals(refused({}, { "word" }), "command line: 'word' is not key=value")
end

function tests.test_unknown_keys_name_the_nearest()
  lu.assertEquals(refused({}, { "data.bacth=1" }),
    "command line: unknown key 'data.bacth' (did you mean 'data.batch'?)")
  lu.assertEquals(refused({}, { "batch=1" }),
    "command line: unknown key 'batch' (did you mean 'data.batch'?)")
  lu.assertEquals(refused({}, { "data.batch.x=1" }),
    "command line: unknown key 'data.batch.x' (did you mean 'data.batch'?)")
  lu.assertEquals(refused({}, { "zzzzzzz=1" }), "command line: unknown key 'zzzzzzz'")
end

-- Against the settings of pretraining: the message names the key, the count, the range and an
-- advice.
function tests.test_lists_of_two()
  local function message(...)
    local _, e = pcall(config, {}, nil, { ... })
    return e
  end
  local function wrong(word, shown, rest)
    lu.assertEquals(message(word),
      ("command line: '%s' is %s: expected two numbers%s"):format(word:match "^[^=]+",
      shown, rest))
  end
  wrong("optim.betas=0.9", "{0.9}", " from 0 to below 1, such as optim.betas=0.9,0.999")
  wrong("optim.betas=0.9,1", "{0.9, 1}", " from 0 to below 1, such as optim.betas=0.9,0.999")
  wrong("optim.ema=2,3", "{2, 3}", " from 0 to 1, such as optim.ema=0.996,1")
  wrong("optim.wd=-1,.4", "{-1, 0.4}", " of 0 or more, such as optim.wd=0.04,0.4")
  wrong("data.scale=1", "{1}", " from 0 to 1, the smaller one first, such as data.scale=0.3,1")
  wrong("data.scale=0.9,0.5", "{0.9, 0.5}",
    " from 0 to 1, the smaller one first, such as data.scale=0.5,0.9")
  wrong("mask.target.scale=.1,.2,.3", "{0.1, 0.2, 0.3}",
    " from 0 to 1, the smaller one first, such as mask.target.scale=0.15,0.2")
  wrong("data.ratio=0,1", "{0, 1}",
    " from 0.01 to 100, the smaller one first, such as data.ratio=0.75,1.33")
  local cfg = config({}, nil,
    { "optim.ema=1,.5", "optim.wd=.4,.04", "data.scale=1,1", "optim.betas=0,0" })
  lu.assertEquals({ cfg.optim.ema, cfg.optim.wd, cfg.data.scale, cfg.optim.betas },
    { { 1, .5 }, { .4, .04 }, { 1, 1 }, { 0, 0 } })
  lu.assertStrContains(message "data.crop=1.5,2",
    "'data.crop' is {1.5, 2}: expected a side, or height and width")
  lu.assertStrContains(message "optim.eps=0", "'optim.eps' is 0: expected a number above 0")
end

function tests.test_numbers_beyond_what_a_setting_takes()
  local function message(word)
    local _, e = pcall(config, {}, nil, { word })
    return e
  end
  lu.assertEquals(message "data.batch=1e300",
    "command line: 'data.batch' is 1e+300, which is beyond integers: expected at most 2147483647")
  lu.assertStrContains(message "seed=1e17", "beyond integers: expected at most 9007199254740992")
  lu.assertEquals(config({}, nil, { "seed=5000000000" }).seed, 5e9)
  lu.assertEquals(message "threads=100000", "command line: 'threads' is 100000: expected 0 to 1024")
  lu.assertStrContains(message "optim.lr=1e999", "'1e999', which is not finite: expected a number")
  local _, e = pcall(config, { optim = { lr = math.huge } }, nil, {})
  lu.assertStrContains(e, "'optim.lr' is inf, which is not finite")
  _, e = pcall(config, { optim = { ema = { .9, 0 / 0 } } }, nil, {})
  lu.assertStrMatches(e, ".*'optim%.ema' is {0%.9, .*nan}, which is not finite")
end

-- What the program prints to stderr for a command.
local function printed(command)
  local path = os.tmpname()
  os.execute(("%s >/dev/null 2>%s"):format(command, path))
  local file = assert(io.open(path))
  local all = file:read "*a"
  file:close()
  os.remove(path)
  return all
end

function tests.test_more_threads_than_cpus()
  local cpus = require "ijepa.base.ffi".C.ij_cpu_count()
  local program = os.getenv "IJEPA_PROGRAM" or "build/ijepa"
  lu.assertEquals(printed(("OMP_NUM_THREADS=%d %s -e 'print(1)'"):format(cpus + 7, program)),
    ("ijepa: OMP_NUM_THREADS=%d exceeds the number of CPUs: %d used\n"):format(cpus + 7, cpus))
  lu.assertEquals(printed(("OMP_NUM_THREADS=%d %s -e 'print(1)'"):format(cpus, program)), "")
  local config_only = "require 'ijepa'.config({}, nil, { 'threads=%d' })"
  lu.assertStrContains(printed(("%s -e \"%s\""):format(program, config_only:format(cpus + 1))),
    ("ijepa: threads=%d exceeds the %d CPU"):format(cpus + 1, cpus))
  lu.assertEquals(printed(("%s -e \"%s\""):format(program, config_only:format(cpus))), "")
end

function tests.test_the_recipes_mistakes_name_its_line()
  local line = debug.getinfo(1, "l").currentline
  local ok, message = pcall(function()
    local t = config({
      data = {
        bacth = 3,
      },
    }, schema, {})
    return t
  end)
  lu.assertFalse(ok)
  lu.assertStrMatches(message,
    (".*test_config%%.lua:%d: unknown key 'data%%.bacth' .*"):format(line + 4))
  lu.assertStrMatches(refused { data = { batch = "4" } },
    "HERE:%d+: 'data%.batch' is '4', expected an integer")
  lu.assertStrMatches(refused { data = 4 }, "HERE:%d+: 'data' is 4, expected a table")
  lu.assertStrMatches(refused { optim = { lr = 0 / 0 } },
    "HERE:%d+: 'optim%.lr' is .*nan, which is not finite")
  lu.assertStrMatches(refused { data = { "x" } }, "HERE:%d+: 'data' holds a value without a key")
  lu.assertStrMatches(refused(7), "HERE:%d+: config: expected a table, not 7")
end

function tests.test_without_a_schema_the_recipe_gives_keys_and_types()
  local t = config({ a = 1, b = { c = "x", d = { 1, 2 } }, e = false }, false,
    { "a=2", "b.c=7", "b.d=3", "e=true" })
  lu.assertEquals(t, { a = 2, b = { c = "7", d = { 3 } }, e = true })
  lu.assertEquals(refused({ alpha = 1 }, { "alpa=2" }, false),
    "command line: unknown key 'alpa' (did you mean 'alpha'?)")
  lu.assertEquals(refused({ alpha = 1 }, { "alpha=x" }, false),
    "command line: 'alpha' is 'x', expected a number")
end

function tests.test_dump_is_lua_that_gives_the_same_table()
  local t = { z = 1e-3, a = { b = "q\n\"\0", ["odd key"] = true, list = { 1, "x", .1 },
    ["end"] = 2 }, [3] = 1 / 3, e = {} }
  local text = config.dump(t)
  lu.assertEquals(assert(loadstring(text))(), t)
  lu.assertEquals(config.dump { b = 1, a = { 2, 3 } }, "return {\n  a = { 2, 3 },\n  b = 1,\n}\n")
  lu.assertStrContains(config.dump { f = function() end }, "f = nil --[[ function at ")
  lu.assertEquals(loadstring(config.dump { f = function() end })(), {})
end

function tests.test_a_function_is_a_policy()
  local f = function() end
  lu.assertIs(config({ mask = { policy = f } }, schema, {}).mask.policy, f)
  lu.assertEquals(set("mask.policy=block").mask.policy, "block")
end

function tests.test_every_setting_has_a_complete_text()
  for _, key in ipairs(config.keys()) do
    local leaf = config.describe(key)
    -- "true ..." and '"knn" ...' start with the value
    lu.assertTrue(leaf.doc:find '^[%u"tf].*%.$' ~= nil, key)
    lu.assertTrue(#leaf.doc >= 40, key)
    lu.assertNotStrContains(leaf.doc, "  ")
  end
  local page = require "ijepa.config.page".markdown()
  for _, key in ipairs(config.keys()) do lu.assertStrContains(page, "| `" .. key .. "` | ") end
end

-- What f prints to stderr, through a program of its own: warnings come once in a process.
local function warned(code)
  local support = require "support"
  return (select(2, support.run({ support.program, "-e", code }, { merge = true })))
end

function tests.test_renamed_settings_still_work_and_warn_once()
  local renamed = require "ijepa.config.renamed"
  local names = require "ijepa.base.text".keys(renamed)
  for i, old in ipairs(names) do
    local new = renamed[old]
    local other = names[i % #names + 1]
    local out = warned(([[
      local config = require "ijepa.config"
      local function table_of(key, value)
        local section, name = key:match "^(.*)%%.(.*)$"
        return { [section] = { [name] = value } }
      end
      local old, new, other = "%s", "%s", "%s"
      local given = table_of(old, 12)
      print(config.value(config(given, nil, {}), new), config.value(config(given, nil, {}), old), config.value(given, old))
      print(config.value(config(given, nil, { other .. "=30", old .. "=13" }), new))
      print(config.value(config.restored(table_of(old, 14), "config.lua"), new))]]):format(old, new, other))
    local function warning(name)
      return ("ijepa: '%s' was renamed: use '%s'\n"):format(name, renamed[name])
    end
    lu.assertEquals(out, warning(old) .. (other ~= old and warning(other) or "")
      .. "12\tnil\t12\n13\n14\n")
    lu.assertNotNil(config.describe(new))
    lu.assertNil(config.describe(old))
  end
  lu.assertTrue(#names >= 2)
  lu.assertEquals(warned [[require "ijepa.config"({ diagnose = { images = 8 } }, nil, {})]], "")
end

function tests.test_help_of_a_recipe_stops_it_with_its_settings()
  local ok, asked = pcall(config, { out = "x" }, schema, { "data.batch=1", "--help" })
  lu.assertFalse(ok)
  lu.assertEquals({ asked.exit, asked.given.out, asked.schema }, { 0, "x", schema })
end

-- Whatever the words: settings that hold, or one line that says what is wrong.
function tests.test_random_words()
  local F = require "ijepa.base.ffi"
  local r, all, taken = F.new "ij_rng[1]", config.keys(), 0
  F.C.ij_rng_init(r, 3, F.C.IJ_RNG_USER, 0, 0)
  local function one(list) return list[1 + F.C.ij_rng_below(r, #list)] end
  local values = { "", "1", "0", "-1", "1e999", "0x10", "nan", "{", "}", "{1,2", "{1,2}", "1,2",
    ",", "true", "false", "%s", "[[", "a=b",
    "1e-6", "{{}}", "\0", "\255\254", "'x'", "vit_tiny", ("9"):rep(400), ("{"):rep(400),
      ("1,"):rep(400) }
  local function garbled(word)
    local at = F.C.ij_rng_below(r, #word + 1)
    return word:sub(1, at) .. string.char(F.C.ij_rng_below(r, 256)) .. word:sub(at + 1)
  end
  for _ = 1, 3000 do
    local words = {}
    for i = 1, 1 + F.C.ij_rng_below(r, 2) do
      words[i] = one(all) .. "=" .. one(values)
      if F.C.ij_rng_below(r, 4) == 0 then words[i] = garbled(words[i]) end
    end
    local ok, result = pcall(config.resolve, {}, nil, words)
    if ok then
      taken = taken + 1
      lu.assertEquals(assert(loadstring(config.dump(result)))(), result)
    else
      lu.assertEquals(type(result), "string")
      lu.assertStrContains(result, "command line: ")
      lu.assertNil(result:gsub("'[^']*\n[^']*'", ""):find "\n", result)
    end
  end
  lu.assertTrue(taken > 100 and taken < 2900, taken)
end

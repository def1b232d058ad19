-- The session as a person types it, in a terminal (tmux); and as a pipe.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local support = require "support"
local Terminal = require "terminal"

local tests = {}
TestRepl = tests -- luacheck: ignore

local program, write = support.program, support.write
local folder, term

function tests.setUp()
  folder = support.folder()
  for _, name in ipairs { "state", "home" } do F.check(F.C.ij_mkdirs(folder .. "/" .. name)) end
end

function tests.tearDown()
  if term then term:close() end
  term = nil
end

-- A session in a terminal; `o`: env (more settings of it), columns, rows.
local function session(o)
  if not Terminal.available() then lu.skip "SKIPPED: tmux is not installed" end
  o = o or {}
  local home = "cd " .. folder .. "; "
  local path = program:find "^/" and program or "$OLDPWD/" .. program
  term = Terminal.open(
    ("%senv -u NO_COLOR TERM=xterm-256color HOME=%s/home XDG_STATE_HOME=%s/state %s %s"):format(
    home, folder,
    folder, o.env or "", path), o)
  term:wait "[1]>"
  return term
end

local function occurs(text, times)
  return function(screen)
    local n, at = 0, 1
    while true do
      local first, last = screen:find(text, at, true)
      if not first then return n >= times end
      n, at = n + 1, last + 1
    end
  end
end

-- ---- through a pipe

local function piped(input, words)
  return support.run({ program, words }, { input = input })
end

function tests.test_piped_input_prints_results_only()
  local status, out, err =
    piped "x = { 1, a = 'b' }\nx\nfor i = 1, 2 do\n  print(i)\nend\n1 +\n2\n'hid';\nlocal y = 7\n_, y\n"
  lu.assertEquals({ status, err }, { 0, "" })
  lu.assertEquals(out, "{ 1, a = \"b\" }\n1\n2\n3\n\"hid\"\t7\n")
end

function tests.test_piped_errors_name_their_line_and_the_rest_runs()
  local status, out, err =
    piped "print(1)\n\nfunction f()\n  error 'boom'\nend\nf()\nx = = 1\nprint(2)\n"
  lu.assertNotEquals(status, 0)
  lu.assertEquals(out, "1\n2\n")
  lu.assertStrContains(err, "stdin:4: boom\n  stdin:4: in 'f'\n  stdin:6: in the main chunk")
  lu.assertStrContains(err, "stdin:7: unexpected symbol near '='")
end

function tests.test_a_whole_program_through_a_pipe()
  local status, out, err = piped("local x = 1\nprint(x + 1)\n", "-")
  lu.assertEquals({ status, out, err }, { 0, "2\n", "" })
end

-- ---- in a terminal

function tests.test_results_have_colours_in_a_terminal_and_a_semicolon_hides_them()
  local t = session()
  t:enter "r = { 1, name = 'str' };"
  t:enter "r"
  local screen = t:wait("[3]>", true)
  lu.assertStrContains(screen, "\27[36m1\27[39m")
  lu.assertStrContains(screen, "\27[32m\"str\"")
  lu.assertStrContains(screen, "\27[34mname")
  t:enter "_.name .. '!';"
  t:enter "_ .. '?'"
  t:wait "\nstr!?\n"
  lu.assertNotStrContains(t:screen(), "\nstr!\n")
  t:enter "n = 6 * 7"
  t:wait "\nn = 42\n"
end

function tests.test_no_color()
  local t = session { env = "NO_COLOR=1" }
  t:enter "{ 1, 'str' }"
  lu.assertStrContains(t:wait("[2]>", true), '\n{ 1, "str" }\n')
end

function tests.test_a_chunk_of_several_lines_comes_back_whole_and_can_be_edited()
  local t = session()
  t:enter "function add(n)"
  t:enter "  return n + 1"
  t:enter "end"
  t:wait "[2]>"
  t:enter "add(41)"
  t:wait "\n42\n"
  t:type("", "Up", "Up")
  t:wait(occurs("function add(n)", 2))
  t:type("", "Up", unpack { "Right", "Right", "Right", "Right", "Right", "Right", "Right", "Right",
    "Right", "Right", "Right", "BSpace" })
  t:type "2"
  t:wait "n + 2"
  t:enter ""
  t:wait "[4]>"
  t:enter "add(41)"
  t:wait "\n43\n"
end

function tests.test_a_pasted_block_with_tabs_runs_as_its_lines()
  local t = session()
  t:paste "local total = 0\nfor i = 1, 3 do\n\ttotal = total + i\nend\nfunction twice()\n\treturn 2 * total\nend\ntwice()\n"
  t:wait "twice()\n"
  t:enter ""
  t:wait "\n12\n"
  t:enter "total"
  t:wait "\n6\n"
end

function tests.test_history_lasts_without_repetitions()
  local t = session()
  t:enter "first = 1"
  t:wait "[2]>"
  t:enter "for i = 1, 1 do\nend"
  t:wait "[3]>"
  t:enter "last = 2"
  t:wait "[4]>"
  t:enter "last = 2"
  t:wait "[5]>"
  t:type("", "C-d")
  t:wait "left with 0"
  t:close()
  t = session()
  t:type("", "Up")
  t:wait "[1]> last = 2"
  t:type("", "Up")
  t:wait "[1]> for i = 1, 1 do\nend"
  t:type("", "C-c")
  t:wait(occurs("[1]>", 2))
  t:type("", "C-r")
  t:type "fir"
  t:wait "first = 1"
end

function tests.test_tab_completes_names_methods_settings_and_files()
  F.check(F.C.ij_mkdirs(folder .. "/images"))
  for _, name in ipairs { "images/cat.png", "images/cow.png", "home/notes.txt" } do
    write(folder .. "/" .. name, "")
  end
  local t = session()
  t:type("ijepa.tens", "Tab")
  t:wait "ijepa.tensor"
  t:type(".zer", "Tab")
  t:type "{ 2 };"
  t:wait "ijepa.tensor.zeros{ 2 };"
  t:enter ""
  t:wait "[2]>"
  t:type("_:nar", "Tab")
  t:wait "_:narrow"
  t:type("", "C-u")
  t:type("ijepa.c", "Tab")
  t:wait "checkpoint"
  t:type("", "C-u")
  t:type("io.open('ima", "Tab")
  t:wait "io.open('images/"
  t:type("c", "Tab")
  t:wait "cat.png  cow.png"
  t:type("a", "Tab")
  t:wait "io.open('images/cat.png'"
  t:type("", "C-u")
  t:type("io.open('~/no", "Tab")
  t:wait "home/notes.txt'"
  t:type("", "C-u")
  t:type("ijepa.config { data = { ba", "Tab")
  t:wait "data = { batch ="
  t:type("", "C-u")
  t:type('"optim.war', "Tab")
  t:wait '"optim.warmup='
end

function tests.test_ctrl_c_stops_a_loop_and_drops_a_line()
  local t = session()
  t:type("x = 1 + nonsense", "C-c")
  t:wait(occurs("[1]>", 2))
  t:enter "io.write 'running'; io.flush(); while true do end"
  t:wait "\nrunning"
  t:type("", "C-c")
  t:wait "interrupted"
  t:wait "[2]>"
  t:enter "x"
  t:wait "\nnil\n"
  -- in one line: on a busy machine the key may come before what follows the print
  write(folder .. "/loop.lua", "-- comment\n\nprint 'loops' while true do end\n")
  t:enter "dofile 'loop.lua'"
  t:wait "\nloops"
  t:type("", "C-c")
  t:wait "loop.lua:3: in the main chunk"
end

function tests.test_ctrl_c_in_a_long_c_call_stops_when_it_returns()
  local t = session()
  t:enter "a, b = tensor.zeros { 1500, 1500 }, tensor.zeros { 1500, 1500 };"
  t:wait "[2]>"
  t:enter "io.write 'running'; io.flush(); for i = 1, 1e6 do local c = a:linear(b) end"
  t:wait "\nrunning"
  t:type("", "C-c")
  t:wait "interrupted"
  t:wait "[3]>"
  t:enter "a:size(1)"
  t:wait "\n1500\n"
end

function tests.test_who_polls_for_ctrl_c_stops_by_itself()
  local t = session()
  t:enter "while not ijepa.interrupted() do io.write '.'; io.flush(); for _ = 1, 2e6 do end end kept = 'state kept'; ijepa.exit(130)"
  t:wait "..."
  t:type("", "C-c")
  t:wait "interrupted"
  t:enter "kept"
  t:wait "\nstate kept\n"
end

function tests.test_errors_show_the_lines_that_were_typed()
  local t = session()
  t:enter "function f()"
  t:enter "  error 'boom'"
  t:enter "end"
  t:wait "[2]>"
  t:enter "f()"
  t:wait "[1]:2: boom\n  [1]:2: in 'f'\n  [2]:1: in the main chunk\n"
  t:enter "tensro.zeros { 1 }"
  t:wait "did you mean 'tensor'?"
  t:enter "x = )"
  t:wait "[4]:1: "
  t:enter "f?"
  t:wait(occurs("  error 'boom'", 2))
  t:enter "? tensor.zeros"
  t:wait "A new tensor of zeros"
end

function tests.test_modules_can_be_loaded_anew()
  write(folder .. "/mine.lua", "return { answer = 41 }")
  local t = session()
  t:enter "require 'mine'.answer"
  t:wait "\n41\n"
  write(folder .. "/mine.lua", "return { answer = 42 }")
  t:enter "reload 'mine'.answer"
  t:wait "\n42\n"
end

function tests.test_a_narrow_window_wraps_what_is_shown_and_typed()
  local t = session { columns = 30 }
  t:enter "{ name = 'a name', other = 'another', list = { 1, 2 } }"
  t:wait '\n{\n  list = { 1, 2 },\n  name = "a name",\n  other = "another",\n}\n'
  t:resize(60, 20)
  t:type "'typed after the window has grown'"
  t:wait "'typed after the window has grown'"
  t:enter ""
  t:wait "\ntyped after the window has grown\n"
end

function tests.test_a_image_shows_itself()
  local t = session()
  t:enter "{ width = 1, height = 1, show = function() print 'here I am' end }"
  t:wait "\nhere I am\n"
end

function tests.test_long_commands_tell_their_time()
  local t = session()
  t:enter "os.execute 'sleep 1.2';"
  -- longer on a busy machine
  t:wait(function(screen) return (tonumber(screen:match "took (%d+%.%d) s") or 0) > 1 end)
end

function tests.test_the_prompts_help_fits_a_screen()
  local t = session { columns = 80, rows = 24 }
  t:enter "?"
  local screen = t:wait "[2]>"
  lu.assertStrContains(screen, "[1]> ?")   -- the first line is still there
  for _, part in ipairs { "Ctrl-R", "mask.draw(", "? optim.lr", "Ctrl-D, quit" } do
    lu.assertStrContains(screen, part)
  end
  t:enter "help"
  t:wait "[3]>"
  t:enter "help optim.lr"
  t:wait "Learning rate after the warm-up"
  t:enter "quit"
  t:wait "left with 0"
end

function tests.test_a_failed_call_shows_its_message()
  local t = session()
  t:enter 'm = ijepa.model "runs/nope"'
  t:wait "\nm = nil\nrun 'runs/nope' is not there\n"
  t:enter 'ijepa.model "runs/nope"'
  t:wait "\nnil  run 'runs/nope' is not there\n"
  t:enter "local a, b = nil, 'kept' -- no failure"
  t:wait "\na = nil\nb = \"kept\"\n"
  t:enter "b"
  t:wait "\nkept\n"
end

function tests.test_objects_print_as_a_few_lines()
  local t = session()
  t:enter "e = jepa.encoder { width = 64, depth = 4, heads = 2, patch = 8, crop = 64 }"
  t:wait "e = ViT 4 x 64, 2 heads, patch 8, grid 8 x 8, 216,512 parameters"
  t:enter "? e"
  t:wait "methods: attention, blocks, copy_, drop_path, params, requires_grad_, size"
  t:enter "g = mask.grid(6, 10)"
  t:wait "g = mask grid of 6 x 10 patches"
  t:type("mask.draw(", "Tab")
  t:wait "mask.draw(policy, o)  Prints"
end

-- Values of the API show what they are, no addresses; long tables and help fit a screen.
function tests.test_values_and_help_fit_a_screen()
  local scenes = support.scenes { n = 40, test = 2, size = 32 }.train
  local input = ([[
d = data.open { root = "SET", batch = 8, crop = 32 }
d
data.catalogue { root = "SET" }
e = jepa.encoder { width = 16, depth = 1, heads = 2, patch = 8, crop = 32 }
features.pooled(e)
f = features.of(features.pooled(e), { root = "SET", crop = 32, cache = false })
f
mask.grid(2, 3):map(function(y, x) return y + x end)
tensors.open "tests/golden/ops.safetensors"
]]):gsub("SET", scenes)
  local status, out, err = piped(input)
  lu.assertEquals(status, 0, err)
  lu.assertEquals(out, ([[
data of 'SET': 40 images, 8 classes; batches of 32 x 32 pixels, 5 batches per epoch
catalogue of 'SET': 40 images, 8 classes
features 'pooled 0' of ViT 1 x 16, 2 heads, patch 8, grid 4 x 4, 6,656 parameters
features of 'SET': x (40, 16) f32, y (40), 8 classes
mask map of 2 x 3 weights, 0 to 3
file 'tests/golden/ops.safetensors': N tensors
]]):gsub("SET", scenes):gsub("%f[%w]N%f[%W]", out:match "(%d+) tensors"))
  local t = session { columns = 80, rows = 24 }
  t:enter "ijepa.config { out = 'x' }"
  local screen = t:wait "[2]>"
  lu.assertStrContains(screen, "[1]> ijepa.config")
  lu.assertStrMatches(screen, ".*\n  data = { %d+ fields },\n.*")
  t:enter "? mask"
  screen = t:wait "[3]>"
  lu.assertStrContains(screen, "[2]> ? mask")
  for _, part in ipairs { "functions: compare, draw,", "example: mask.compare",
      "? mask.compare prints one, ?? mask all" } do
    lu.assertStrContains(screen, part)
  end
  t:enter "? help"
  screen = t:wait "[4]>"
  lu.assertStrContains(screen, "[3]> ? help")
  lu.assertStrMatches(screen, ".*\n%.%.%. %d+ more lines: %?%? help shows all\n.*")
  t:enter "?? help"
  t:wait "Also: ijepa help SETTING"
end

function tests.test_misspelt_fields_and_methods_get_a_hint()
  local status, _, err =
    piped(table.concat({ "mask.drw(1)", "g = mask.grid(4, 4)", "g:randomblock(1)", "mask.drw", "r",
    "x = tensor.new { 1, 2 }", "x[5]" }, "\n") .. "\n")
  lu.assertNotEquals(status, 0)
  lu.assertStrContains(err, "attempt to call field 'drw' (a nil value) (did you mean 'draw'?)")
  lu.assertStrContains(err,
    "attempt to call method 'randomblock' (a nil value) (did you mean 'random_block'?)")
  lu.assertStrContains(err, "mask has no 'drw' (did you mean 'draw'?)\n")
  lu.assertNotStrContains(err, "'_'")
  lu.assertStrContains(err, "stdin:7: index 5")   -- not the line after it
end

function tests.test_the_document_runs()
  local file = assert(io.open "docs/prompt.md")
  local text, count = file:read "*a", 0
  file:close()
  for block in text:gmatch "```lua\n(.-)```" do
    count = count + 1
    local status, out, err = piped(block)
    lu.assertEquals(status, 0, err)
    lu.assertTrue(#out > 0)
    lu.assertEquals((err:gsub("run 'runs/nowhere' is not there\n", "")), "")
  end
  lu.assertEquals(count, 3)
end

-- ---- the pieces

function tests.test_show()
  local show = require "ijepa.host.show"
  local loop = { 1 }
  loop.me = loop
  lu.assertEquals(show.text(loop), "{ 1, me = <itself> }")
  lu.assertEquals(show.text "a\n\0\"", '"a\\n\\000\\""')
  lu.assertEquals(show.text({ [-1] = 1, ["a b"] = 2, [true] = 3 }),
    '{ [-1] = 1, ["a b"] = 2, [true] = 3 }')
  local numbers = {}
  for i = 1, 12 do numbers[i] = i end
  lu.assertEquals(show.text(numbers, { width = 20 }),
    "{\n  1, 2, 3, 4, 5, 6,\n  7, 8, 9, 10, 11,\n  12\n}")
  for i = 1, 1000 do numbers[i] = i end
  lu.assertStrContains(show.text(numbers), "... 1000 in all")
end

function tests.test_complete_calls_nothing_of_the_users()
  local complete = require "ijepa.host.complete"
  local called = false
  local t = setmetatable({ sub = { name = 1, nest = 2 } },
    { __index = function() called = true end })
  lu.assertEquals({ complete.tab("t.sub.na", { t = t }) }, { 0, "me" })
  lu.assertEquals({ complete.tab("t.none.x", { t = t }) }, { 0, "" })
  lu.assertFalse(called)
  lu.assertEquals({ complete.tab("l[2]['k'].ab", { l = { 1, { k = { abc = 1 } } } }) }, { 0, "c" })
  lu.assertEquals({ complete.tab("s:rep", { s = "x" }) }, { 0, "" })
  lu.assertEquals({ complete.tab("s:rev", { s = "x" }) }, { 0, "erse" })
end

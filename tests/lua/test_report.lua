-- The report of a run: what it holds, what it leaves out and says so, and that nothing from files
-- becomes markup.
local lu = require "luaunit"
local make = require "report_run"
local support = require "support"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local page, svg = require "ijepa.report.page", require "ijepa.report.svg"

-- luaunit prints the complete string of a failed search, which takes minutes for a report.
local function contains(text, part)
  if not text:find(part, 1, true) then error(("the report has no '%s'"):format(part), 2) end
end

local tests = {}
TestReport = tests -- luacheck: ignore

local slurp, write = support.read, support.write
local folder, run, whole
local function train()   -- once for all tests of this file
  if run then return run end
  folder = support.folder "file"
  run = make.train(folder)
  assert(ijepa.probe.record({ run = run, step = 24, which = "target_encoder", test = "<i>&" },
    "kNN <script>", { top1 = 12.5,
    interval = { 10, 15 }, count = 8 }))
  whole = slurp(assert(ijepa.report(run)))
  return run
end

-- A copy of parts of the run as a folder of its own.
local function part(...)
  train()
  local copy = support.folder()
  for _, name in ipairs { ... } do write(copy .. "/" .. name, slurp(run .. "/" .. name)) end
  return copy
end
local function report(copy) return slurp(assert(ijepa.report(copy))) end
local function count(html, pattern) return select(2, html:gsub(pattern, "")) end

function tests.test_sections_and_figures()
  train()
  for _, title in ipairs { "Curves", "Has it collapsed?", "Masks", "Features", "Predictions",
      "Probes", "Settings", "Provenance" } do
    contains(whole, "<h2>" .. title .. "</h2>")
  end
  for _, title in ipairs { "loss", "patches", "time per step", "learning rate", "weight decay",
      "EMA momentum",
    "effective rank", "cosine distance", "position",
    "predictor", "distance", "online probe", "masks of this run's policy", "principal components",
      "similarity",
    "attention of the last block", "predicted against actual", "loss by position" } do
    contains(whole, "<figcaption><b>" .. page.escape(title) .. "</b>")
  end
  lu.assertNotStrContains(whole, "Left out")
  lu.assertEquals(count(whole, "<figure>"), 18)
  lu.assertEquals(count(whole, "<figure>"), count(whole, "</figure>"))
  lu.assertEquals(count(whole, "<svg "), count(whole, "</svg>"))
  lu.assertEquals(count(whole, "<img "),
    count(whole, '<img alt="[^"]+" width="%d+" height="%d+" src="data:image/png;base64,[%w+/=]+">'))
  contains(whole, '<div class="verdict ')
  contains(whole, "<td class=\"number\">12.5 %</td>")
  contains(whole, "<mark>16</mark>")
  lu.assertTrue(#whole < 3e6)
end

-- Titles, colour bars and legends of figures are HTML; images are without text.
function tests.test_texts_of_figures()
  train()
  for _, words in ipairs { '<span class="row">images</span>', "</em>target 1</span>",
      "times even attention",
    '<span class="row">similarity to the framed patch</span>',
      "<span>nearest to targets</span>" } do
    lu.assertTrue(whole:find(words, 1, true) ~= nil, words)
  end
  -- similarity, attention, energy, relative energy, loss
  lu.assertEquals(count(whole, '<div class="bar">'), 5)
end

function tests.test_a_rising_loss_is_explained()
  local copy = part("config.lua")
  local rows = { "epoch,itr,loss,mask-A,mask-B,time (ms)" }
  for i = 1, 200 do
    rows[i + 1] = ("1,%d,%g,20,9,5"):format(i - 1,
      i < 100 and .5 - i * .004 or .1 + (i - 100) * .001)
  end
  write(copy .. "/jepa_r0.csv", table.concat(rows, "\n") .. "\n")
  local function diagnoses(last)
    write(copy .. "/jepa-diagnoses.csv", "step,rankme,level,text\n0,9,start,x\n100,5,ok,x\n200,"
      .. last .. ",ok,x\n")
    return slurp(assert(ijepa.report(copy)))
  end
  lu.assertTrue(diagnoses(11):find("while the effective rank grows from 5 to 11.", 1, true) ~= nil)
  lu.assertTrue(diagnoses(3):find("while the effective rank", 1, true) == nil)
  os.execute("rm -rf " .. copy)
end

function tests.test_only_the_first_check()
  local copy = part("config.lua")
  write(copy .. "/jepa-diagnoses.csv",
    "step,rankme,level,text\n0,9,start,before training: rank 9\n")
  local html = report(copy)
  contains(html, '<div class="verdict note"><span class="level">before training</span>')
  contains(html, "Before training: rank 9. The first check is made before the first step")
end

function tests.test_nothing_outside_the_file()
  train()
  lu.assertEquals(count(whole:lower(), "https?:"), 0)
  lu.assertEquals(count(whole, 'src="') - count(whole, 'src="data:'), 0)
  lu.assertEquals(count(whole, 'href="') - count(whole, 'href="#') - count(whole, 'href="data:,"'),
    0)
  lu.assertEquals(count(whole, "@import") + count(whole, "url%("), 0)
end

function tests.test_names_are_no_markup()
  train()
  lu.assertEquals(page.escape "<a b=\"c\" d='e'>&\1",
    "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;\\x01")
  lu.assertEquals(count(whole, "<script") + count(whole, "<b>&[^%w]") + count(whole, "<i>"), 0)
  contains(whole, "kNN &lt;script&gt;")
  contains(whole, "a &lt;script&gt;alert(&quot;1&quot;)")
  local copy = support.folder()
  write(copy .. "/config.lua",
    'return { tag = "jepa", data = { root = "<script>&\\"\'" }, ["<u>"] = { ["</table>"] = "<script>" } }')
  write(copy .. "/jepa-diagnoses.csv",
    'step,rankme,probe,level,text\n5,1,,"<script>","</p><script>"\n')
  local html = report(copy)
  lu.assertEquals(count(html, "<script") + count(html, "<u>"), 0)
  lu.assertEquals(count(html, "<table>"), count(html, "</table>"))
  contains(html, "&lt;/p&gt;&lt;script&gt;")
end

function tests.test_control_characters_are_escaped()
  lu.assertEquals(page.escape "a\27[31m<b>\7\194\155\nc", [[a\x1b[31m&lt;b&gt;\x07\x9b]] .. "\nc")
  local copy = part("config.lua", "jepa_r0.csv")
  local odd = copy .. "/e\27[31mvil"
  assert(os.rename(copy .. "/config.lua", copy .. "/x"))
  assert(F.try(F.C.ij_mkdirs(odd)))
  assert(os.rename(copy .. "/x", odd .. "/config.lua"))
  assert(os.rename(copy .. "/jepa_r0.csv", odd .. "/jepa_r0.csv"))
  local html = report(odd)
  contains(html, [[<h1>Run e\x1b[31mvil</h1>]])
  lu.assertNil(html:find "[%z\1-\8\11-\31\127]")
end

function tests.test_a_damaged_log_is_reported()
  train()
  lu.assertNotStrContains(whole, "could not be read")
  local copy = part "config.lua"
  local lines = slurp(run .. "/jepa_r0.csv")
  write(copy .. "/jepa_r0.csv", (lines:gsub("\n1,2,[^\n]*", "\n1,2,x")))
  lu.assertStrContains(report(copy), "1 row of log &#39;" .. copy
    .. "/jepa_r0.csv&#39; could not be read: line 4.")
end

function tests.test_without_a_checkpoint()
  local html = report(part("config.lua", "jepa_r0.csv"))
  contains(html, "Left out: No model could be loaded: there is no checkpoint yet.")
  contains(html, "no diagnosis was made")
  contains(html, "No probe of this run has been recorded")
  contains(html, "<b>masks of this run&#39;s policy</b>")
end

function tests.test_without_images()
  local copy = part("config.lua", "jepa_r0.csv", "jepa-latest.safetensors")
  write(copy .. "/config.lua",
    (slurp(copy .. "/config.lua"):gsub('root = "[^\n]*"', 'root = "gone"')))
  local html = report(copy)
  contains(html, "Left out: The images could not be read:")
  contains(html, "on a plain board, without images:")
end

function tests.test_only_a_log_with_gaps()
  local copy = part "jepa_r0.csv"
  -- being written
  local log = slurp(copy .. "/jepa_r0.csv"):gsub("\n1,2,[^,]+", "\n1,2,nan"):gsub("\n1,4,[^,]+",
    "\n1,4,inf") .. "4,9,0.1"
  write(copy .. "/jepa_r0.csv", log)
  local html = report(copy)
  contains(html, "At 2 of 24 steps the loss is not finite")
  contains(html, "<b>loss</b>")
  contains(html, "The settings are missing")
  lu.assertEquals(count(html, '[ML]%-?nan') + count(html, '[ML]%-?inf'), 0)
  copy = support.folder()
  write(copy .. "/jepa_r0.csv", "epoch,itr,loss,mask-A,mask-B,time (ms)\n1,0,nan,nan,nan,3\n")
  lu.assertStrContains(report(copy), "At 1 of 1 step the loss")
end

function tests.test_an_unfinished_run()
  local copy = part("config.lua", "jepa-latest.safetensors")
  local lines = slurp(run .. "/jepa_r0.csv")
  write(copy .. "/jepa_r0.csv", lines:match(("[^\n]*\n"):rep(11)))   -- ten steps of the four epochs
  local html = report(copy)
  contains(html, "not over: 24 steps planned")
  contains(html, ">now</text>")
end

function tests.test_broken_files_are_left_out()
  local copy = part("jepa_r0.csv")
  write(copy .. "/config.lua", "return { data = 3, tag = {}, model = 'x', optim = false }")
  write(copy .. "/jepa-latest.safetensors", "no checkpoint")
  write(copy .. "/jepa-diagnoses.csv", "step,1,2\n7,,,\n\"\n")
  write(copy .. "/probes.jsonl", "{\n[1]\n{\"name\": 3}\n"
    .. '{"name":"n","top1":1,"interval":"x","time":"y"}\n')
  local html = report(copy)
  contains(html, "<td class=\"number\">1.0 %</td>")
  contains(html, "Left out: No model could be loaded")
end

function tests.test_the_command()
  train()
  local function shell(words)
    local code, out = support.run({ support.program, "report", support.split(words) },
      { merge = true })
    return ("%sexit %d\n"):format(out, code)
  end
  local copy = part("config.lua", "jepa_r0.csv")
  lu.assertEquals(shell(copy .. "/ --out " .. copy .. "/x.html"), copy .. "/x.html\nexit 0\n")
  lu.assertEquals(shell(copy .. " out=" .. copy .. "/y.html"), copy .. "/y.html\nexit 0\n")
  lu.assertStrContains(slurp(copy .. "/y.html"), "<!doctype html>")
  lu.assertStrContains(shell(copy .. " out=" .. copy .. "/none/y.html"), "exit 1")
  lu.assertStrContains(shell(copy .. "/nowhere"), "is no folder of a run: give the folder that "
    .. "out= named, such as runs/quickstart\nexit 1")
  lu.assertStrContains(shell(copy .. " nonsense"), "exit 2")
  lu.assertStrContains(shell "", "exit 2")
  lu.assertStrContains(shell "tests", "holds no run")
end

function tests.test_charts()
  lu.assertNil(svg.chart({ { x = { 1, 2 }, y = { 0 / 0, 1 / 0 } } }, { label = "", x = "" }))
  local level = svg.chart({ { x = { 1, 2 }, y = { 0, 0 } } }, { label = "<", x = "step" })
  lu.assertStrContains(level, 'aria-label="&lt;"')
  lu.assertStrContains(level, ">1.0<")
  local gap = svg.chart({ { x = { 1, 2, 3, 4 }, y = { 1, 2, false, 4 } } }, { label = "", x = "" })
  lu.assertStrMatches(gap:match 'class="line s1" d="([^"]+)"', "M[%d. ]+L[%d. ]+M[%d. ]+h0")
  local one = svg.chart({ { x = { 7 }, y = { 3 } } }, { label = "", x = "" })
  lu.assertStrContains(one, "<circle")
  lu.assertNotStrContains(one, "nan")
end

function tests.test_numbers()
  for v, expected in pairs { [12800] = "12\194\160800", [1234567] = "1\194\160234\194\160567",
      [1234] = "1234", [0] = "0",
    [.116123] = "0.116", [17.06] = "17.1", [2e-7] = "2e-07" } do
    lu.assertEquals(page.number(v), expected)
  end
  lu.assertEquals(page.number(0 / 0), "not a number")
  local bytes = "ijepa"
  for n, expected in pairs { [3] = "aWpl", [4] = "aWplcA==", [5] = "aWplcGE=" } do
    lu.assertEquals(require "ijepa.base.text".base64(F.cast("const uint8_t *", bytes), n), expected)
  end
end

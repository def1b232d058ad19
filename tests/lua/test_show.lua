-- Images as escape sequences: what is written for a canvas of 2 x 2 pixels, and which way is
-- chosen.
local lu = require "luaunit"
local support = require "support"
local ijepa = require "ijepa"
local canvas, show = ijepa.canvas, ijepa.show

local tests = {}
TestShow = tests -- luacheck: ignore

-- red green / blue white
local function four()
  return canvas.new(2, 2):set(0, 0, 0xff0000):set(1, 0, 0x00ff00):set(0, 1, 0x0000ff)
end
local UP = "\226\150\128"   -- the upper half block

function tests.test_golden()
  lu.assertEquals(show.encode(four(), "kitty"),
    "\27_Ga=T,f=24,q=2,s=2,v=2,m=0;/wAAAP8AAAD/////\27\\\n")
  lu.assertEquals(show.encode(four(), "half"),
    "\27[38;2;255;0;0;48;2;0;0;255m" .. UP .. "\27[38;2;0;255;0;48;2;255;255;255m" .. UP
      .. "\27[0m\n")
  lu.assertEquals(show.encode(four(), "half256"),
    "\27[38;5;196;48;5;21m" .. UP .. "\27[38;5;46;48;5;231m" .. UP .. "\27[0m\n")
  lu.assertEquals(show.encode(four(), "ascii"), ":#\n")
  lu.assertEquals(show.encode(four(), "none"), "")
end

function tests.test_a_last_odd_row_and_repeated_colours()
  lu.assertEquals(show.encode(canvas.new(2, 1, 0x808080), "half"), "\27[38;2;128;128;128m" .. UP
    .. UP .. "\27[0m\n")
  lu.assertEquals(show.encode(canvas.new(1, 1, 0x808080), "half256"),
    "\27[38;5;244m" .. UP .. "\27[0m\n")
end

local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function decoded(s)
  local out, bits, n = {}, 0, 0
  for c in s:gmatch "[^=]" do
    bits, n = bits * 64 + digits:find(c, 1, true) - 1, n + 6
    if n >= 8 then
      n = n - 8
      out[#out + 1] = string.char(math.floor(bits / 2 ^ n))
      bits = bits % 2 ^ n
    end
  end
  return table.concat(out)
end

function tests.test_kitty_comes_in_parts()
  for _, width in ipairs { 61, 62, 63 } do
    local c, bytes = canvas.new(width, 61), {}
    for i = 0, width * 61 * 3 - 1 do
      c.pixels[i] = i * 7919 % 251
      bytes[i + 1] = string.char(c.pixels[i])
    end
    local data, parts, ended = {}, 0, false
    for head, part in show.encode(c, "kitty"):gmatch "\27_G([^;]*);([^\27]*)\27\\" do
      lu.assertFalse(ended)
      lu.assertTrue(#part <= 4096)
      parts, ended = parts + 1, head:find("m=0", 1, true) ~= nil
      lu.assertEquals(#part % 4, 0)
      lu.assertEquals(head:find("a=T", 1, true) ~= nil, parts == 1)
      data[parts] = part
    end
    lu.assertTrue(ended and parts == math.ceil(math.ceil(width * 61 * 3 / 3) * 4 / 4096))
    lu.assertEquals(decoded(table.concat(data)), table.concat(bytes))
  end
end

function tests.test_sixel()
  lu.skipIf(not show.has_sixel(), "SKIPPED: libsixel.so.1 is not installed (package libsixel1)")
  local c = canvas.new(12, 6, 0xff0000):rect(6, 0, 6, 6, 0x0000ff)
  local s = show.encode(c, "sixel")
  lu.assertStrMatches(s, "\27Pq\"1;1;12;6#.*\27\\\n")
  lu.assertStrContains(s, "!6~")   -- six whole columns of six pixels
  lu.assertStrContains(s, "#1;2;")
  lu.assertEquals(c:get(0, 0), 0xff0000)   -- dithering leaves the canvas alone
  -- one colour, whose number the library rounds its way; two columns of two pixels
  lu.assertStrMatches(show.encode(canvas.new(2, 2, 0xffffff), "sixel"),
    '\27Pq"1;1;2;2#0;2;%d+;%d+;%d+%-?#0BB\27\\\n')
end

function tests.test_choice()
  local function env(t) return function(name) return t[name] end end
  lu.assertEquals({ show.kind(env { IJEPA_GRAPHICS = "sixel", NO_COLOR = "1" }) },
    { "sixel", true })
  lu.assertErrorMsgContains("unknown kind of graphics 'kity' (did you mean 'kitty'?)", show.kind,
    env { IJEPA_GRAPHICS = "kity" })
  show.with "ascii"
  lu.assertEquals({ show.kind(env { IJEPA_GRAPHICS = "sixel" }) }, { "ascii", true })
  show.with(nil)
  lu.assertErrorMsgContains("show.with: unknown kind of graphics 'gif'", show.with, "gif")
end

function tests.test_answers_of_terminals()
  lu.assertEquals(show.understood "\27_Gi=31;OK\27\\\27[?62;c", "kitty")
  lu.assertEquals(show.understood "\27[?62;4;6;22c", "sixel")
  lu.assertEquals(show.understood "\27[?63;1;2;4c", "sixel")
  lu.assertNil(show.understood "\27[?64;14;24c")
  lu.assertNil(show.understood "\27_Gi=31;EBADF:no\27\\\27[?1;2c")
  lu.assertNil(show.understood "")
end

function tests.test_show()
  local parts = {}
  local function write(s) parts[#parts + 1] = s end
  four():show { with = "none", write = write }
  lu.assertStrContains(parts[1], "figure of 2 x 2 pixels")
  lu.assertStrContains(parts[1], "file = ")
  canvas.new(100, 40):show { with = "half", columns = 10, write = write }   -- 10 x 4
  lu.assertEquals(select(2, parts[2]:gsub(UP, "")), 20)
  lu.assertEquals(select(2, parts[2]:gsub("\n", "")), 2)
  local path = support.folder() .. "/x"
  lu.assertEquals(four():show { file = path .. ".png" }, path .. ".png")
  lu.assertEquals(assert(canvas.load(path .. ".png")):get(0, 1), 0x0000ff)
  local ok, message = four():show { file = "/nowhere/x.png" }
  lu.assertNil(ok)
  lu.assertStrContains(message, "/nowhere/x.png")
  lu.assertErrorMsgContains("expected a canvas, not a string", show, "x")
  lu.assertStrContains(tostring(four()), "canvas of 2 x 2 pixels")
end

-- With half blocks and letters, the texts of a figure are text, and its parts stand beside each
-- other.
function tests.test_texts_of_a_figure()
  local layout = require "ijepa.draw.layout"
  local parts = { { canvas.new(40, 40, 0), title = "left" }, { canvas.new(40, 40), title = "right",
    bar = { low = 0, high = 3, format = "%.1f", unit = "smooth L1" } } }
  local c = layout.rows(parts, { title = "The title", note = "A caption of some words.",
    legend = { { name = "target", colour = 0x0072b2 } } })
  local out
  c:show { with = "ascii", columns = 22, write = function(s) out = s end }
  local lines = {}
  for line in out:gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  lu.assertEquals({ lines[1], lines[2], lines[3] }, { "The title", "A caption of some", "words." })
  lu.assertEquals(lines[4]:gsub(" +", " "), "left right")
  local width = #lines[4]:match "left +"
  lu.assertEquals(lines[5], (" "):rep(width) .. ("@"):rep(width - 2))
  lu.assertStrContains(out, "right: 0.0 ")
  lu.assertStrContains(out, " 3.0 smooth L1\n")
  lu.assertStrContains(out, " target\n")
  c:show { with = "half", columns = 22, write = function(s) out = s end }
  lu.assertStrContains(out, "The title\nA caption of some\nwords.\nleft")
  lu.assertStrContains(out, "\27[38;2;0;114;178;48;2;0;114;178m")   -- the legend's colour
  c:show { with = "kitty", write = function(s) out = s end }
  lu.assertNotStrContains(out, "The title")
end

-- In a real terminal (a pseudo-terminal that answers nothing) and without one.
local program = support.program
local function output(argv, env)
  return (select(2, support.run(argv, { merge = true, env = env })))
end
local code = 'require "ijepa".canvas.new(2, 2, 0x336699):show()'

function tests.test_names_command_no_terminal()
  local c = require "ijepa.draw.layout".rows({ { canvas.new(8, 8), title = "b\27[2J" },
    { canvas.new(8, 8), title = "b" } }, { title = "a\27[31m", note = "c\7",
    legend = { { name = "d\194\155\27", colour = 0 } } })
  local all
  show(c, { with = "ascii", write = function(s) all = s end })
  lu.assertNil(all:find "[%z\1-\9\11-\31\127]")
  lu.assertStrContains(all, [[a\x1b[31m]])
end

function tests.test_in_a_terminal()
  lu.skipIf(not support.which "script", "SKIPPED: no program 'script' for a terminal")
  local function run(name, value)
    local env = { NO_COLOR = false, COLORTERM = false, IJEPA_GRAPHICS = false, TERM = "xterm" }
    if name then env[name] = value end
    return output({ "script", "-qec", ("%s -e '%s'"):format(program, code), "/dev/null" }, env)
  end
  lu.assertStrContains(run("COLORTERM", "truecolor"), "\27[38;2;51;102;153;48;2;51;102;153m" .. UP)
  lu.assertStrContains(run(), "\27[38;5;")
  lu.assertStrContains(run("IJEPA_GRAPHICS", "kitty"), "\27_Ga=T")
  for _, plain in ipairs { run("NO_COLOR", 1), run("TERM", "dumb") } do
    lu.assertStrContains(plain, "--")   -- two letters of that lightness
    lu.assertNotStrContains(plain, "\27[")
  end
end

function tests.test_without_a_terminal()
  local bare = output({ program, "-e", code }, { IJEPA_GRAPHICS = false })
  lu.assertStrContains(bare, "this terminal cannot show it")
  lu.assertStrContains(output({ program, "-e", code }, { IJEPA_GRAPHICS = "half" }),
    "\27[38;2;51;102;153;")
end

--- Figures in the terminal: `canvas:show()`, or ijepa.show(canvas). By kitty's graphics protocol,
-- by sixel through libsixel (package libsixel1), or with half blocks: characters whose upper half
-- is one pixel and whose lower half is the next. With half blocks, the texts of a figure are
-- printed as text. The terminal is asked once what it supports; ijepa.show.with "half" or
-- IJEPA_GRAPHICS=half sets it.
local F = require "ijepa.base.ffi"
local canvas = require "ijepa.draw.canvas"
local layout = require "ijepa.draw.layout"
local terminal = require "ijepa.base.terminal"
local text = require "ijepa.base.text"
local C = F.C
local floor, max, min = math.floor, math.max, math.min

local show = {}
local ESC = "\27"

-- ---- kitty: base64 of the pixels, 4096 characters an escape sequence ----------------------------

local function kitty(c)
  local data, parts = text.base64(c.pixels, c.width * c.height * 3), {}
  local head = ("a=T,f=24,q=2,s=%d,v=%d,"):format(c.width, c.height)
  for from = 1, #data, 4096 do
    local more = from + 4096 <= #data and 1 or 0
    parts[#parts + 1] = ("%s_G%sm=%d;%s%s\\"):format(ESC, from == 1 and head or "", more,
      data:sub(from, from + 4095), ESC)
  end
  return table.concat(parts) .. "\n"
end

-- ---- sixel --------------------------------------------------------------------------------------

local libsixel   -- false: there is none
local function sixel_library()
  if libsixel == nil then
    libsixel = F.library("libsixel.so.1", [[
      typedef int (*ijepa_sixel_write)(char *data, int size, void *priv);
      int sixel_output_new(void **output, ijepa_sixel_write write, void *priv, void *allocator);
      void sixel_output_unref(void *output);
      int sixel_dither_new(void **dither, int colours, void *allocator);
      int sixel_dither_initialize(void *dither, uint8_t *data, int width, int height, int format,
                                  int largest, int colour, int quality);
      void sixel_dither_unref(void *dither);
      int sixel_encode(uint8_t *pixels, int width, int height, int depth, void *dither,
                       void *output);
    ]]) or false
  end
  return libsixel
end

--- Whether sixel images can be made here.
---@return boolean
function show.has_sixel() return sixel_library() and true or false end

local RGB888, AUTO, ALL_PIXELS, FAILED = 3, 0, 3, 0x1000
local function sixel(c)
  local lib = sixel_library()
  if not lib then
    F.raise "show: sixel needs the library libsixel.so.1: install the package libsixel1"
  end
  local parts = {}
  local write = F.cast("ijepa_sixel_write", function(data, size)
    parts[#parts + 1] = F.string(data, size)
    return size
  end)
  local output, dither = F.new "void *[1]", F.new "void *[1]"
  local n = c.width * c.height * 3
  local pixels = F.new("uint8_t[?]", n)   -- dithering writes into them
  F.copy(pixels, c.pixels, n)
  local st = lib.sixel_output_new(output, write, nil, nil)
  if st < FAILED then st = lib.sixel_dither_new(dither, 256, nil) end
  if st < FAILED then
    st = lib.sixel_dither_initialize(dither[0], pixels, c.width, c.height, RGB888, AUTO, AUTO,
      ALL_PIXELS)
  end
  if st < FAILED then st = lib.sixel_encode(pixels, c.width, c.height, 24, dither[0], output[0]) end
  if dither[0] ~= nil then lib.sixel_dither_unref(dither[0]) end
  if output[0] ~= nil then lib.sixel_output_unref(output[0]) end
  write:free()
  if st >= FAILED then F.raise(("show: libsixel failed with %x"):format(st)) end
  return table.concat(parts) .. "\n"
end
jit.off(sixel)   -- the library calls back

-- ---- characters ---------------------------------------------------------------------------------

-- Two rows of pixels per line; colour(r, g, b): its name in an escape sequence.
local function blocks(c, colour)
  local lines, p, w = {}, c.pixels, c.width
  local function name(x, y)
    if y >= c.height then return nil end
    local i = (y * w + x) * 3
    return colour(p[i], p[i + 1], p[i + 2])
  end
  for y = 0, c.height - 1, 2 do
    local parts, above, below = {}, nil, nil
    for x = 0, w - 1 do
      local a, b, codes = name(x, y), name(x, y + 1), {}
      if a ~= above then codes[1] = "38;" .. a end
      if b ~= below then codes[#codes + 1] = "48;" .. b end
      above, below = a, b
      local change = #codes > 0 and ESC .. "[" .. table.concat(codes, ";") .. "m" or ""
      parts[#parts + 1] = change .. "\226\150\128"   -- the upper half block
    end
    lines[#lines + 1] = table.concat(parts) .. ESC .. "[0m\n"
  end
  return table.concat(lines)
end

local function direct(r, g, b) return ("2;%d;%d;%d"):format(r, g, b) end

-- The nearest of the 256 colours: 6 x 6 x 6 from 16 on, greys from 232 on.
local steps = { [0] = 0, 95, 135, 175, 215, 255 }
local function step_of(v) return v < 48 and 0 or v < 115 and 1 or floor((v - 35) / 40) end
local function indexed(r, g, b)
  local i, j, k = step_of(r), step_of(g), step_of(b)
  local grey = max(0, min(23, floor(((r + g + b) / 3 - 3) / 10)))
  local function off(x, y, z) return (x - r) ^ 2 + (y - g) ^ 2 + (z - b) ^ 2 end
  local v = 8 + 10 * grey
  if off(v, v, v) < off(steps[i], steps[j], steps[k]) then return ("5;%d"):format(232 + grey) end
  return ("5;%d"):format(16 + 36 * i + 6 * j + k)
end

local ramp = " .:-=+*#%@"
local function letters(c)
  local lines, p, w = {}, c.pixels, c.width
  for y = 0, c.height - 1, 2 do
    local line = {}
    for x = 0, w - 1 do
      local sum, n = 0, 0
      for row = y, min(y + 1, c.height - 1) do
        local i = (row * w + x) * 3
        sum, n = sum + .299 * p[i] + .587 * p[i + 1] + .114 * p[i + 2], n + 1
      end
      local at = floor(sum / n / 256 * #ramp) + 1
      line[x + 1] = ramp:sub(at, at)
    end
    lines[#lines + 1] = table.concat(line) .. "\n"
  end
  return table.concat(lines)
end

local kinds = {
  kitty = kitty, sixel = sixel, ascii = letters,
  half = function(c) return blocks(c, direct) end,
  half256 = function(c) return blocks(c, indexed) end,
}

-- ---- figures as text and characters -------------------------------------------------------------

local GAP = 2   -- characters between parts

-- A text cut or filled up to `width` characters.
local function column(s, width)
  if #s > width then s = s:sub(1, max(1, width - 1)) .. "~" end
  return s .. (" "):rep(width - #s)
end

-- Canvases side by side, each below its title, as lines.
local function row_lines(row, kind, scale)
  local blocks_of, widths, tallest = {}, {}, 0
  for i, part in ipairs(row) do
    local c = part[1]
    local small = c:resized(max(1, floor(c.width * scale)), max(1, floor(c.height * scale)))
    widths[i], blocks_of[i] = small.width, {}
    for line in kinds[kind](small):gmatch "[^\n]+" do table.insert(blocks_of[i], line) end
    tallest = max(tallest, #blocks_of[i])
  end
  local lines, titles = {}, {}
  for i, part in ipairs(row) do titles[i] = column(text.shown(part.title or ""), widths[i]) end
  if row.titled then
    lines[1] = row.heading and text.shown(row.heading)
      or table.concat(titles, (" "):rep(GAP)):gsub("%s+$", "")
  end
  for y = 1, tallest do
    local cells = {}
    for i = 1, #row do cells[i] = blocks_of[i][y] or (" "):rep(widths[i]) end
    lines[#lines + 1] = table.concat(cells, (" "):rep(GAP))
  end
  return lines
end

-- A colour bar as one line: its low end, its colours, its high end, its unit.
local function bar_line(bar, kind)
  local low, high, unit = layout.bar_texts(bar)
  local c = canvas.new(12, 2)
  for x = 0, 11 do c:rect(x, 0, 1, 2, layout.colour(x / 11)) end
  return ("%s %s %s %s"):format(low, kinds[kind](c):gsub("\n", ""), high, unit)
end

local function legend_line(legend, kind)
  local parts = {}
  for i, entry in ipairs(legend) do
    local swatch = kinds[kind](canvas.new(2, 2, entry.colour)):gsub("\n", "")
    parts[i] = swatch .. " " .. text.shown(entry.name)
  end
  return table.concat(parts, "  ")
end

-- A figure in a terminal of so many columns and lines: its parts as characters, its texts as text.
local function figure_text(figure, kind, columns, height)
  local rows, scale, tall, fixed = layout.rows_of(figure), 1, 0, 4
  for _, row in ipairs(rows) do
    local wide = 0
    for _, part in ipairs(row) do wide = wide + part[1].width end
    scale = min(scale, (columns - GAP * (#row - 1)) / wide)
    tall, fixed = tall + row.height / 2, fixed + 2
  end
  scale = max(min(scale, (height - fixed) / tall), 16 / rows[1].height)   -- at least 8 lines a part
  local lines = { figure.title and text.shown(figure.title) }
  for _, line in ipairs(layout.wrap(text.shown(figure.note or ""), columns, terminal.columns)) do
    lines[#lines + 1] = line
  end
  for _, row in ipairs(rows) do
    for _, line in ipairs(row_lines(row, kind, scale)) do lines[#lines + 1] = line end
    for _, part in ipairs(row) do
      if part.bar then
        lines[#lines + 1] = (part.title and text.shown(part.title) .. ": " or "")
          .. bar_line(part.bar, kind)
      end
    end
  end
  if figure.bar then lines[#lines + 1] = bar_line(figure.bar, kind) end
  if figure.legend then lines[#lines + 1] = legend_line(figure.legend, kind) end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- choice -------------------------------------------------------------------------------------

local function check(kind, where)
  if kind ~= "none" and not kinds[kind] then
    local names = text.keys(kinds)
    names[#names + 1] = "none"
    F.raise(("%s: unknown kind of graphics '%s'%s: one of %s"):format(where, tostring(kind),
      text.hint(tostring(kind), names), table.concat(names, ", ")))
  end
  return kind
end

local forced
--- Says how images are shown from now on: "kitty", "sixel", "half" (24-bit half blocks), "half256",
--- "ascii", "none"; nil: the value of IJEPA_GRAPHICS, else what the terminal
--- supports.
---@param kind string?
function show.with(kind) forced = kind and check(kind, "show.with") end

--- What a terminal supports by its answer: to kitty's question and to the one for its attributes (4
--- stands for sixel).
---@param answer string
---@return "kitty"|"sixel"|nil kind
function show.understood(answer)
  if answer:find(ESC .. "_Gi=31;OK", 1, true) then return "kitty" end
  local attributes = answer:match "%[%?([%d;]*)c"
  if attributes and (";" .. attributes .. ";"):find(";4;", 1, true) then return "sixel" end
end

local asked
local function ask()
  if asked == nil then
    local question = ESC .. "_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA" .. ESC .. "\\" .. ESC .. "[c"
    local answer = F.new "char[256]"
    local n = C.ij_terminal_ask(question, ("c"):byte(), .5, answer, 256)
    asked = show.understood(F.string(answer, n)) or false
    if asked == "sixel" and not show.has_sixel() then asked = false end
  end
  return asked
end

--- How an image is shown, and whether that was said (show.with, IJEPA_GRAPHICS) rather than found
--- out.
---@param getenv? fun(name: string): string?
---@return string kind, boolean said
function show.kind(getenv)
  getenv = getenv or os.getenv
  if forced then return forced, true end
  local said, term = getenv "IJEPA_GRAPHICS", getenv "TERM" or "dumb"
  if said and said ~= "" then return check(said, "IJEPA_GRAPHICS"), true end
  if C.ij_isatty(1) == 0 then return "none", false end
  if term == "dumb" or (getenv "NO_COLOR" or "") ~= "" then return "ascii", false end
  local colours = getenv "COLORTERM"
  local half = (colours == "truecolor" or colours == "24bit") and "half" or "half256"
  -- these two print questions that they don't know
  local mute = term == "linux" or getenv "TERM_PROGRAM" == "Apple_Terminal" or C.ij_isatty(0) == 0
  return not mute and ask() or half, false
end

-- ---- size ---------------------------------------------------------------------------------------

-- Columns, lines, and width and height in pixels of the terminal (0: unknown).
local function terminal_size()
  local size = F.new "int[4]"
  if C.ij_terminal_size(1, size) == 0 then size[0], size[1], size[2], size[3] = 80, 50, 0, 0 end
  return size
end

-- The canvas, smaller where the terminal is.
local function fitted(c, kind, columns)
  local size = terminal_size()
  local across, down = 1, 2   -- pixels of a cell
  if kind == "kitty" or kind == "sixel" then
    across = size[2] > 0 and size[2] / size[0] or 8
    down = size[3] > 0 and size[3] / size[1] or 16
  end
  local width, height = min(columns or size[0], size[0]) * across, max(1, size[1] - 2) * down
  local scale = min(1, width / c.width, height / c.height)
  if scale == 1 then return c end
  return c:resized(max(1, floor(c.width * scale)), max(1, floor(c.height * scale)))
end

--- The canvas as the characters that show it, in its own size.
---@param c ijepa.canvas
---@param kind string as show.with
---@return string
function show.encode(c, kind)
  check(kind, "show.encode")
  return kind == "none" and "" or kinds[kind](c)
end

--- Shows a canvas in the terminal, or writes it to a file.
---@param c ijepa.canvas
---@param o? { file: string?, with: string?, columns: integer?, write: (fun(s: string))? } file:
--- writes it there instead and returns the file's name (or nil, message, code); with: as show.with,
--- this time; columns: maximum width; write: takes the characters
local function run(_, c, o)
  if not canvas.is(c) then F.raise(("show: expected a canvas, not a %s"):format(type(c))) end
  o = o or {}
  if o.file then return layout.finish(c, o.file) end
  local write = o.write or function(s) io.stdout:write(s) end
  local kind = o.with and check(o.with, "show") or show.kind()
  if kind == "none" then
    write(("figure of %d x %d pixels: this terminal cannot show it; write it with "
      .. ":show { file = \"NAME.png\" }, or set IJEPA_GRAPHICS=half\n"):format(c.width, c.height))
    return
  end
  if c.figure and kind ~= "kitty" and kind ~= "sixel" then
    local size = terminal_size()
    write(figure_text(c.figure, kind, min(o.columns or size[0], size[0]), size[1]))
    return
  end
  write(show.encode(fitted(c, kind, o.columns), kind))
end

return setmetatable(show, { __call = run })

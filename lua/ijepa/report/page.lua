--- The HTML of the report: escaping, tables, figures, the style sheet. Texts given to these
--- functions are escaped unless a parameter is called `html`.
local F = require "ijepa.base.ffi"
local layout = require "ijepa.draw.layout"
local style = require "ijepa.draw.style"
local text = require "ijepa.base.text"

local page = {}

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
  ["'"] = "&#39;" }

--- Text for HTML, between tags or as an attribute's value in quotes. Control characters are
--- shown as \x1b; lines stay lines.
---@param value any
---@return string
function page.escape(value)
  return (tostring(value):gsub("[^\n\t]+", text.shown):gsub("[&<>\"']", ENTITIES))
end

--- A number with about three digits, or all digits of an integer, in groups of three.
---@param v number
---@return string
function page.number(v)
  if v ~= v then return "not a number" end
  if math.abs(v) == math.huge then return v > 0 and "infinite" or "-infinite" end
  if v % 1 == 0 and math.abs(v) < 1e15 then
    local digits = ("%d"):format(v)
    if #digits < 5 then return digits end
    return (digits:reverse():gsub("%d%d%d", "%0 "):reverse():gsub("^ ", ""):gsub(" ", "\194\160"))
  end
  local digits = math.max(0, 2 - math.floor(math.log10(math.abs(v))))
  return digits > 6 and ("%.3g"):format(v) or ("%." .. digits .. "f"):format(v)
end

-- The colours of style.palette by class, on light and on dark ground.
local function colours(of)
  local parts = {}
  for class, i in ipairs(of) do parts[class] = ("--s%d:#%06x;"):format(class, style.palette[i]) end
  return table.concat(parts)
end

-- The colours of a colour bar, from low to high.
local function ramp()
  local parts = {}
  for i, colour in ipairs(style.ramp) do parts[i] = ("#%06x"):format(colour) end
  return table.concat(parts, ",")
end

local STYLE = ([[
:root{color-scheme:light dark;--ground:#f6f6f4;--box:#fff;--ink:#1d1f21;--soft:#5b6066;--faint:#dcdcd8;
--ok:#00694d;--watch:#8a5a00;--collapse:#b03a00;LIGHT}
@media (prefers-color-scheme:dark){:root{--ground:#131517;--box:#1c1f22;--ink:#e8e8e6;--soft:#a4aab0;--faint:#363b40;
--ok:#4fd0a8;--watch:#f0b429;--collapse:#ff8a5b;DARK}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:72rem;margin:auto;padding:0 1rem}
header{padding-top:1.5rem}
h1{font-size:1.5rem;margin:0;line-height:1.25}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
a{color:inherit}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin-top:1rem;font-size:.9rem}
nav a{padding:.25rem 0}
.soft,figcaption,small{color:var(--soft)}
.verdict{background:var(--box);border-left:6px solid var(--level,var(--faint));border-radius:6px;padding:1rem 1.25rem;margin:1rem 0}
.verdict p{font-size:1.25rem;line-height:1.4;margin:.25rem 0;max-width:none}
.level{color:var(--level);font-weight:600}
.ok{--level:var(--ok)}.watch,.warn{--level:var(--watch)}.collapse,.error{--level:var(--collapse)}.note{--level:var(--soft)}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:1rem 0}
.facts div{background:var(--box);border-radius:6px;padding:.6rem .9rem}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{margin:0;font-size:1.2rem;font-variant-numeric:tabular-nums}
.figures,.images{display:flex;flex-wrap:wrap;gap:1rem}
.figures>*{flex:1 1 20rem;max-width:100%}.pairs>*{flex-basis:26rem}
.images>*{flex:1 1 26rem;max-width:100%}
.panels{display:grid;grid-template-columns:repeat(var(--n),minmax(0,max-content));gap:.5rem;font-size:.85rem}
.panels .row{grid-column:1/-1}.panels span{display:block;line-height:1.3;margin:.25rem 0 .15rem}
.panels .row{margin-bottom:-.35rem}
.bar{display:grid;grid-template-columns:1fr auto 1fr;max-width:15rem;margin-top:.4rem;font-size:.85rem;color:var(--soft)}
.bar div{grid-column:1/-1;height:.6rem;border-radius:2px;background:linear-gradient(90deg,RAMP)}
.bar span:last-child{text-align:right}
.legend{font-size:.85rem;color:var(--soft);margin:.5rem 0 0}
.key em{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;margin-right:.35rem;vertical-align:-1px}
figure{margin:0;background:var(--box);border-radius:6px;padding:.75rem;min-width:0;display:flex;flex-direction:column}
figure>svg{margin-top:auto}
.note-box{background:var(--box);border-radius:6px;padding:.75rem;font-size:.9rem}
figcaption{font-size:.9rem;margin-bottom:.5rem}
figcaption b{display:block;color:var(--ink)}
svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
svg .end{text-anchor:end}svg .middle{text-anchor:middle}
svg path{fill:none}
.grid{stroke:var(--faint)}.axis{stroke:var(--soft)}.mark{stroke:var(--soft);stroke-dasharray:3 3}
.line{stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.raw{stroke:var(--c);opacity:.45}
svg .band{fill:var(--c);opacity:.22}svg circle{fill:var(--c)}
.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}
.line.s2{stroke-dasharray:7 4}.line.s3{stroke-dasharray:2 4}.line.s4{stroke-dasharray:9 3 2 3}
.key{white-space:nowrap;margin-right:.9rem}
.key svg{display:inline-block;width:26px;height:8px;margin-right:.35rem;vertical-align:middle}
img{display:block;max-width:100%;height:auto;border-radius:3px}
.scroll{overflow-x:auto;background:var(--box);border-radius:6px;max-width:100%}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{text-align:left;padding:.4rem .75rem;border-bottom:1px solid var(--faint);vertical-align:top}
td.number,th.number{text-align:right;white-space:nowrap}
td.name{white-space:nowrap}
td.wide{min-width:10rem}
mark{color:inherit;background:color-mix(in srgb,var(--s1) 20%,transparent);border-radius:3px;padding:0 .25rem}
th{font-weight:600}
tr:last-child td{border-bottom:0}
summary{cursor:pointer;padding:.6rem 0}
.images h3{margin-top:0}
ul{padding-left:1.2rem;max-width:50rem}
li{margin:.4rem 0}
footer{padding:2.5rem 1rem 2rem;font-size:.85rem;color:var(--soft)}
@media (max-width:700px){.figures>*,.images>*{flex-basis:100%}h2{margin-top:2rem}
td.name{white-space:normal;overflow-wrap:anywhere}th,td{padding:.4rem .5rem}}
@media print{:root{--ground:#fff;--box:#fff;--ink:#000;--soft:#444;--faint:#ccc;--ok:#00694d;--watch:#8a5a00;--collapse:#b03a00;LIGHT}
nav{display:none}figure,.verdict,tr{break-inside:avoid}.scroll{overflow:visible}h2{break-after:avoid}}
]]):gsub("RAMP", ramp()):gsub("LIGHT", (colours { 1, 2, 3, 4 })):gsub("DARK", (colours { 6, 5, 3, 4 }))

--- The link to a section, from its title.
---@param title string
---@return string
function page.anchor(title) return (title:lower():gsub("[^%w]+", "-")) end

--- A table that scrolls inside itself.
---@param head string[] titles of the columns
---@param rows (string|number|{ html: string })[][]
---@param classes table<integer, string>? of columns: "number", "name", "wide"
---@return string html
function page.table(head, rows, classes)
  local function cell(tag, v, i)
    local class = classes and classes[i] and (' class="%s"'):format(classes[i]) or ""
    return ("<%s%s%s>%s</%s>"):format(tag, tag == "th" and ' scope="col"' or "", class,
      type(v) == "table" and v.html or page.escape(v), tag)
  end
  local function row(tag, cells)
    local parts = {}
    for i = 1, #head do parts[i] = cell(tag, cells[i] == nil and "" or cells[i], i) end
    return "<tr>" .. table.concat(parts) .. "</tr>\n"
  end
  local parts = { row("th", head) .. "</thead><tbody>\n" }
  for _, cells in ipairs(rows) do parts[#parts + 1] = row("td", cells) end
  return '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead>'
    .. table.concat(parts) .. "</tbody></table></div>\n"
end

--- A figure: title, caption, keys of its lines, and content.
---@param title string
---@param o { note: string?, keys: string[]?, html: string } keys: names of the lines, in the
--- order of their classes
---@return string html
function page.figure(title, o)
  local keys = {}
  for i, name in ipairs(o.keys or {}) do
    keys[i] = ('<span class="key"><svg viewBox="0 0 26 8" aria-hidden="true"><path class="line s%d" d="M1 4H25"/></svg>%s</span>'):format(
      i, page.escape(name))
  end
  return ("<figure><figcaption><b>%s</b>%s%s</figcaption>%s</figure>\n"):format(page.escape(title),
    o.note and page.escape(o.note) .. " " or "", table.concat(keys), o.html)
end

--- A box of text beside figures.
---@param title string
---@param note string
---@return string html
function page.note(title, note)
  return ('<div class="note-box"><b>%s</b><p>%s</p></div>\n'):format(page.escape(title),
    page.escape(note))
end

-- A canvas as an <img>, its PNG inside the page; or nil and why.
local function img(canvas, alt)
  local path = os.tmpname()
  os.remove(path)
  path = path .. ".png"
  local ok, message = canvas:save(path)
  local file = ok and io.open(path, "rb")
  if not file then return nil, message or "the image could not be written" end
  local bytes = file:read "*a"
  file:close()
  os.remove(path)
  return ('<img alt="%s" width="%d" height="%d" src="data:image/png;base64,%s">'):format(
    page.escape(alt),
    canvas.width, canvas.height, text.base64(F.cast("const uint8_t *", bytes), #bytes))
end

-- A colour bar: its colours, and its ends and its unit below them.
local function bar_html(bar)
  local low, high, unit = layout.bar_texts(bar)
  return ('<div class="bar"><div></div><span>%s</span><span>%s</span><span>%s</span></div>'):format(
    page.escape(low),
    page.escape(unit), page.escape(high))
end

local function legend_html(legend)
  local parts = {}
  for i, entry in ipairs(legend) do
    parts[i] = ('<span class="key"><em style="background:#%06x"></em>%s</span>'):format(
      entry.colour,
      page.escape(entry.name))
  end
  return '<p class="legend">' .. table.concat(parts) .. "</p>"
end

--- A figure of several parts: images without text, with titles, colour bars and legend as HTML.
---@param title string
---@param note string
---@param figure ijepa.figure as layout.rows leaves it in a canvas
---@return string? html, string? message
function page.panels(title, note, figure)
  local parts, n = { ('<div class="panels" style="--n:%d">'):format(figure.columns) }, 0
  for _, row in ipairs(layout.rows_of(figure)) do
    if row.heading then
      parts[#parts + 1] = '<span class="row">' .. page.escape(row.heading) .. "</span>"
    end
    for _, part in ipairs(row) do
      n = n + 1
      local image, message =
        img(part[1], ("%s, %s"):format(title, part.title or row.heading or "part " .. n))
      if not image then return nil, message end
      parts[#parts + 1] = ("<div>%s%s%s</div>"):format(not row.heading and part.title and
        "<span>" .. page.escape(part.title) .. "</span>" or "", image,
          part.bar and bar_html(part.bar) or "")
    end
  end
  parts[#parts + 1] = "</div>"
  if figure.bar then parts[#parts + 1] = bar_html(figure.bar) end
  if figure.legend then parts[#parts + 1] = legend_html(figure.legend) end
  return page.figure(title, { note = note, html = table.concat(parts) })
end

--- A canvas in a figure: its parts where it has several, else as one image.
---@param title string
---@param note string what it shows, also for screen readers
---@param canvas ijepa.canvas
---@return string? html, string? message
function page.image(title, note, canvas)
  if canvas.figure then return page.panels(title, note, canvas.figure) end
  local image, message = img(canvas, title .. ": " .. note)
  if not image then return nil, message end
  return page.figure(title, { note = note, html = image })
end

--- Boxes beside each other that fill their rows.
---@param boxes string[] html
---@return string html
function page.boxes(boxes)
  local count = 0
  for _, box in ipairs(boxes) do count = count + (box ~= "" and 1 or 0) end
  return ('<div class="figures%s">'):format(count % 3 == 1 and " pairs" or "")
    .. table.concat(boxes) .. "</div>\n"
end

--- A paragraph.
---@param words string
---@param class string?
---@return string html
function page.p(words, class)
  return ("<p%s>%s</p>\n"):format(class and (' class="%s"'):format(class) or "", page.escape(words))
end

--- Titles and values in a row of boxes.
---@param facts { [1]: string, [2]: string }[]
---@return string html
function page.facts(facts)
  local parts = {}
  for i, f in ipairs(facts) do
    parts[i] = ("<div><dt>%s</dt><dd>%s</dd></div>"):format(page.escape(f[1]), page.escape(f[2]))
  end
  return '<dl class="facts">' .. table.concat(parts) .. "</dl>\n"
end

--- The complete page.
---@param o { title: string, lead: string, sections: { title: string, html: string }[], foot:
--- string } lead: html above the sections
---@return string
function page.complete(o)
  local links, parts = {}, {}
  for i, s in ipairs(o.sections) do
    links[i] = ('<a href="#%s">%s</a>'):format(page.anchor(s.title), page.escape(s.title))
    parts[i] = ('<section id="%s"><h2>%s</h2>\n%s</section>\n'):format(page.anchor(s.title),
      page.escape(s.title), s.html)
  end
  return table.concat { '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width,initial-scale=1">',
    '<link rel="icon" href="data:,"><title>', page.escape(o.title), "</title>\n<style>\n", STYLE,
      "</style></head>\n<body><header><h1>",
    page.escape(o.title), "</h1>\n", o.lead, "<nav aria-label=\"sections\">",
      table.concat(links, "\n"), "</nav></header>\n<main>\n",
    table.concat(parts), "</main>\n<footer>", page.escape(o.foot), "</footer></body></html>\n" }
end

return page

-- ijepa tests/browser/report.lua [REPORT.html]: the report in headless Chromium, on a phone and on
-- a desk, light and dark: no error on the console, every figure is seen and inside the page, text
-- can be read, nothing asks for anything outside the file. A page with these faults is looked at
-- first: they must be found. Exit 77 where there is no chromium.
package.path = "tests/lua/?.lua;" .. package.path
local make = require "report_run"
local support = require "support"
local ijepa = require "ijepa"
local json = require "cjson.safe"

local browser = support.which "chromium" or support.which "chromium-browser"
if not browser then
  print "SKIPPED: chromium is not installed: nobody has looked at the report"
  os.exit(77)
end

local slurp, write = support.read, support.write

-- What the page finds out about itself, as JSON in an element of its own.
local CHECK = [[<script>addEventListener("load",()=>{
const faults=[],W=document.documentElement.clientWidth,seen=document.querySelectorAll("figure,figure>svg,img")
const rgb=c=>c.match(/[\d.]+/g).slice(0,3).map(v=>(v/=255)<=.04045?v/12.92:((v+.055)/1.055)**2.4)
const light=c=>{const[r,g,b]=rgb(c);return .2126*r+.7152*g+.0722*b}
const behind=e=>{for(;e;e=e.parentElement){const c=getComputedStyle(e).backgroundColor;if(!/, 0\)$/.test(c))return c}
return"rgb(255,255,255)"}
for(const e of seen){const r=e.getBoundingClientRect(),n=e.tagName+" "+(e.alt||e.getAttribute("aria-label")||e.innerText||"").slice(0,40)
if(!(r.width>40&&r.height>30))faults.push("no size: "+n)
if(r.left<0||r.right>W+.5)faults.push("outside: "+n)
if(e.tagName=="IMG"&&!e.naturalWidth)faults.push("no image: "+n)
if(e.tagName!="FIGURE"&&!(e.alt||e.getAttribute("aria-label")))faults.push("no words: "+n)}
for(const e of document.querySelectorAll("p,td,th,dd,dt,figcaption,.level,a,svg text")){const s=getComputedStyle(e)
const a=light(e.closest("svg")?s.fill:s.color),b=light(behind(e)),c=(Math.max(a,b)+.05)/(Math.min(a,b)+.05)
if(c<4.5)faults.push("contrast "+c.toFixed(1)+": "+e.textContent.slice(0,30))}
for(const e of document.querySelectorAll("figure>svg text"))if(e.getBoundingClientRect().height<9)faults.push("small text: "+e.textContent)
if(document.documentElement.scrollWidth>W)faults.push("the page scrolls sideways: "+document.documentElement.scrollWidth)
const dark=matchMedia("(prefers-color-scheme: dark)").matches
parent.postMessage(JSON.stringify({width:innerWidth,dark,figures:seen.length,faults}),"*")})</script>]]

-- A window is never narrower than 500: the page is looked at in a frame of the wanted width.
local FRAME = [[<!doctype html><meta charset="utf-8"><style>:root{color-scheme:light dark}</style><body><pre id="check"></pre>
<script>addEventListener("message",e=>{document.getElementById("check").textContent=e.data})</script>
<iframe src="page.html" style="width:%dpx;height:900px;border:0"></iframe>]]

local folder = support.folder()

-- Everything wrong with a page at a width, in light or dark.
local function faults_of(html, width, dark)
  local path, log = folder .. "/page.html", folder .. "/net.json"
  write(path, html .. CHECK)
  write(folder .. "/frame.html", FRAME:format(width))
  os.remove(log)
  local _, out, printed = support.run({ browser, support.split [[--headless --no-sandbox --disable-gpu
    --no-first-run --disable-extensions --disable-sync --disable-background-networking
    --disable-component-update --hide-scrollbars --enable-logging=stderr --window-size=1400,900]],
    "--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir=" .. folder .. "/profile",
    "--log-net-log=" .. log, dark and "--force-dark-mode" or {}, "--dump-dom",
    "file://" .. folder .. "/frame.html" }, { timeout = 90 })
  local text = out:match '<pre id="check">(.-)</pre>'
  local found = text and json.decode((text:gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&amp;", "&")))
  if not found then return { "the page did not load: " .. printed:sub(-500) } end
  local faults = found.faults
  local function fault(...) faults[#faults + 1] = string.format(...) end
  if found.width ~= width or found.dark ~= dark then
    fault("the window is %d wide, dark: %s", found.width, tostring(found.dark))
  end
  for line in printed:gmatch "[^\n]*CONSOLE[^\n]*" do fault("console: %s", line) end
  local net = slurp(log)
  if not net:find('file://', 1, true) then fault "the log of the network is empty" end
  -- what the browser asks for itself has "not an origin"
  for event in net:gmatch '{"initiator":"[^\n]*' do
    local by, url = event:match '"initiator":"([^"]*)"', event:match '"url":"(%a+://[^"]*)"'
    if by ~= "not an origin" and url and not url:find "^file:" then fault("request: %s", url) end
  end
  return faults, found.figures
end

local failed = false
local function say(ok, ...)
  failed = failed or not ok
  print((ok and "ok      " or "FAILED  ") .. string.format(...))
end

local bad = [[<!doctype html><meta charset="utf-8"><body><figure style="width:2000px">wide<img src="http://example.invalid/a.png"></figure>
<figure style="height:0;width:0;padding:0;overflow:hidden"></figure><p style="color:#999;background:#aaa">pale</p>
<script>console.error("x");throw 1</script>]]
local all = table.concat((faults_of(bad, 360, false)), "\n")
for _, part in ipairs { "outside: FIGURE", "no size: FIGURE", "no image: IMG", "no words: IMG",
    "contrast", "sideways", "console: ",
  "request: http://example.invalid/a.png" } do
  say(all:find(part, 1, true), "a planted fault is found: %s", part)
end
if failed then print(all) end

local path = arg[1] or assert(ijepa.report(make.train(folder)))
local html = slurp(path)
for _, width in ipairs { 360, 1280 } do
  for _, dark in ipairs { false, true } do
    local faults, figures = faults_of(html, width, dark)
    say(#faults == 0 and figures > 20, "width %d, %s: %d figures and their drawings, %d faults",
      width, dark and "dark" or "light", figures or 0,
      #faults)
    for i = 1, math.min(#faults, 12) do print("        " .. faults[i]) end
  end
end
support.finish()
os.exit(failed and 1 or 0)

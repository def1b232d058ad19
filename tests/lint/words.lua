-- luajit tests/lint/words.lua: the words of docs/glossary.md. Fails on a word of its left column in
-- prose (Markdown, comments, texts in quotes: messages and help) and in names of variables and
-- functions. Prints FILE:LINE: the word, and what to write. Prose that must show such a word (this
-- file, the glossary, the change log, tables of renamed names) is left out.
local LEFT_OUT = { ["tests/lint/words.lua"] = true, ["tests/lint/rooms.lua"] = true,
  ["docs/glossary.md"] = true,
  ["CHANGELOG.md"] = true, ["LICENSE"] = true, ["lua/ijepa/base/names.lua"] = true,
  ["lua/ijepa/config/renamed.lua"] = true,
  ["tests/golden/run_0.1.0/config.lua"] = true }   -- as version 0.1.0 wrote it

-- In prose: a Lua pattern on the text in lower case, what to write, and a pattern of places where
-- it is right.
local PROSE = {
  { "%f[%w]pictures?%f[%W]", "image (sample) or figure", "pillow" },
  { "%f[%w%-]cards?%f[%W]", "GPU, or device", "var%(%-%-card%)" },
  { "%f[%w]processors?%f[%W]", "CPU, cores, threads; SM of a GPU" },
  { "%f[%w]moving averages?%f[%W]", "EMA" },
  { "%f[%w]no numbers?%f[%W]", "not finite, NaN" },
  { "%f[%w]go on from%f[%W]", "resume from" },
  { "%f[%w]goes on%f[%W]", "continues, resumes" },
  { "%f[%w]same words%f[%W]", "same options, same arguments" },
  { "%f[%w]images a second%f[%W]", "images/s" },
  { "%f[%w]bytes a second%f[%W]", "bytes/s" },
  { "%f[%w]shares? of%f[%W]", "fraction of, percent of, ratio of" },
  { "%f[%w]ends? itself%f[%W]", "exits, stops" },
  { "%f[%w]leaves with%f[%W]", "exits with" },
  { "%f[%w]rate of learning%f[%W]", "learning rate" },
  { "%f[%w]large product%f[%W]", "large matmul" },
  { "%f[%w]products? in bf16%f[%W]", "matmul in bf16" },
  { "%f[%w]products? in f32%f[%W]", "matmul in f32" },
  { "%f[%w]broken images?%f[%W]", "corrupt image" },
  { "%f[%w]numbers of things%f[%W]", "count, number of" },
  { "%f[%w]every look%f[%W]", "every check, every diagnosis" },
  { "%f[%w]how many of%f[%W]", "number of" },
}
-- In names: parts between underscores, or names of variables as a whole.
local PARTS = { picture = "image or figure", pictures = "images or figures", card = "gpu",
  cards = "gpus" }
local VARIABLES = { room = "space, buffer, capacity", place = "position, offset", turn = "round" }

local problems, silent = 0, false
local function problem(path, line, word, instead)
  problems = problems + 1
  if silent then return end
  print(("%s:%d: '%s': write %s"):format(path, line, word, instead))
end

-- A source as a list of { kind ("prose" or "code"), text, line }. C: comments and strings; Lua
-- likewise; Markdown is prose but its code blocks, of which the comments are.
local QUOTES = { ['"'] = true, ["'"] = true }
local function pieces(text, language)
  local list, from, line, i = {}, 1, 1, 1
  local function add(kind, first, last)
    if last < first then return end
    local piece = text:sub(first, last)
    list[#list + 1] = { kind = kind, text = piece, line = line }
    line = line + select(2, piece:gsub("\n", ""))
  end
  while i <= #text do
    local c, stop = text:sub(i, i), nil
    if language == "lua" and text:find("^%-%-%[%[", i) then
      stop = select(2, text:find("]]", i, true)) or #text
    elseif language == "lua" and text:find("^%-%-", i) or language == "c" and text:find("^//", i)
      or language == "sh" and c == "#" and text:sub(i - 1, i - 1):find "^%s?$" then
      stop = (text:find("\n", i, true) or #text + 1) - 1
    elseif language == "lua" and text:find("^%[%[", i) then stop =
        select(2, text:find("]]", i, true)) or #text
    elseif language == "c" and text:find("^/%*", i) then stop = select(2, text:find("*/", i, true))
        or #text
    elseif QUOTES[c] and language ~= "sh" then
      local j = i + 1
      while j <= #text and text:sub(j, j) ~= c and text:sub(j, j) ~= "\n" do
        j = j + (text:sub(j, j) == "\\" and 2 or 1)
      end
      stop = math.min(j, #text)
    end
    if stop then
      add("code", from, i - 1)
      add("prose", i, stop)
      i, from = stop + 1, stop + 1
    else
      i = i + 1
    end
  end
  add("code", from, #text)
  return list
end

local function check_prose(path, piece)
  local text = piece.text:lower():gsub("\n[ \t*%-/]*",
    function(s) return "\n" .. (" "):rep(#s - 1) end)
  local flat = text:gsub("\n", " ")
  for _, rule in ipairs(PROSE) do
    local init, pattern = 1, rule[1]:gsub(" ", "%%s+")   -- also across a line's end
    while true do
      local a, b = flat:find(pattern, init)
      if not a then break end
      local around = flat:sub(math.max(1, a - 12), b + 12)
      if not (rule[3] and around:find(rule[3])) then
        problem(path, piece.line + select(2, text:sub(1, a):gsub("\n", "")), flat:sub(a, b),
          rule[2])
      end
      init = b + 1
    end
  end
end

local function check_code(path, piece)
  local line = piece.line
  for text in (piece.text .. "\n"):gmatch "([^\n]*)\n" do
    for name in text:gmatch "[%a_][%w_]*" do
      for part in name:lower():gmatch "[^_]+" do
        if PARTS[part] then problem(path, line, name, PARTS[part]) end
      end
    end
    for name, instead in pairs(VARIABLES) do
      if text:find("%f[%w]local [%w_, ]-%f[%w_]" .. name .. "%f[^%w_]")
          or text:find("^%s*[%w_]+ [%w_,* ]-%f[%w_]" .. name .. "%f[^%w_]%s*[=;,]") and
        not text:find "^%s*return" and not path:find "%.lua$" then
        problem(path, line, name, instead)
      end
    end
    line = line + 1
  end
end

local function language_of(path)
  if path:find "%.lua$" then return "lua" end
  if path:find "%.[ch]$" or path:find "%.cu$" or path:find "%.cpp$" then return "c" end
  if path:find "%.sh$" or path:find "%.py$" or path:find "%.cmake$" or path == "ijepa"
      or path == ".ci/run" or
    path:find "CMakeLists%.txt$" or path == "packages.txt" then return "sh" end
  if path:find "%.md$" then return "prose" end
end

local function check(path, language, text)
  for _, piece in ipairs(language == "prose" and { { kind = "prose", text = text, line = 1 } }
      or pieces(text, language)) do
    if piece.kind == "prose" then check_prose(path, piece) else check_code(path, piece) end
  end
end

-- The lint itself: what it must find, and what it must leave alone.
local function self_test()
  silent = true
  for _, case in ipairs {
    { 1, "lua", "local x = 1 -- a picture" }, { 1, "lua", "print 'two pictures'" },
      { 1, "lua", "local my_picture = 1" },
    { 0, "lua", "local images = 1 -- an image" }, { 1, "c", "int x; /* goes\n * on */" },
      { 1, "c", "size_t room = 0;" },
    { 1, "prose", "What a card needs" }, { 0, "prose", "a wildcard, a preprocessor" },
      { 1, "sh", "x=1 # the share of it" },
  } do
    problems = 0
    check(case[2] == "c" and "self.c" or "self.lua", case[2], case[3])
    assert(problems == case[1], ("words.lua: the self test '%s' finds %d, not %d"):format(case[3],
      problems, case[1]))
  end
  problems, silent = 0, false
end
self_test()

local count = 0
local project = dofile "tests/lint/files.lua"
for _, path in ipairs(project.of_project()) do
  local language = not LEFT_OUT[path] and not (arg[1] and not path:find(arg[1], 1, true))
    and language_of(path)
  local text = language and project.read(path)
  if text then
    count = count + 1
    check(path, language, text)
  end
end
print(problems == 0 and ("words: %d files, nothing to say"):format(count)
  or ("words: %d problems"):format(problems))
os.exit(problems == 0 and 0 or 1)

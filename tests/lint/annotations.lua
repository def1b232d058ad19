-- Annotations as LuaLS reads them. Every function that users can call names each parameter
-- (@param), none that isn't there, and says what it returns (@return) just when it returns a value.
-- Users can call the functions of the table that a module returns, or the one function that it
-- returns, and methods (TABLE:name), which come with values; what is documented (---) counts too.
-- Names that begin with _ are not for users.
local annotations = {}

-- Words, numbers and signs of a Lua source as { text, line }; comments and strings are left out (a
-- string is "''").
local function tokens(source)
  local list, at, line = {}, 1, 1
  local function pass(last)
    line = line + select(2, source:sub(at, last):gsub("\n", ""))
    at = last + 1
  end
  local function long(first)   -- the end of a [[ ]] or [=[ ]=] that begins there
    local level = source:match("^%[(=*)%[", first)
    return level and select(2, source:find("]" .. level .. "]", first, true))
  end
  while at <= #source do
    local c = source:sub(at, at)
    if source:find("^%-%-", at) then
      pass(long(at + 2) or (source:find("\n", at, true) or #source + 1) - 1)
    elseif c == "[" and long(at) then
      list[#list + 1] = { text = "''", line = line }
      pass(long(at))
    elseif c == "'" or c == '"' then
      local last = at
      repeat last = last + (source:sub(last, last) == "\\" and 2 or 1) until source:sub(last,
        last) == c or last > #source
      list[#list + 1] = { text = "''", line = line }
      pass(last)
    else
      local word = source:match("^[%a_][%w_]*", at) or source:match("^%.%.%.", at)
        or source:match("^%S", at)
      if word then list[#list + 1] = { text = word, line = line } end
      pass(at + #(word or " ") - 1)
    end
  end
  return list
end

local OPENS = { ["function"] = true, ["if"] = true, ["do"] = true, ["repeat"] = true }
local AFTER = { ["end"] = true, ["else"] = true, ["elseif"] = true, ["until"] = true, [";"] = true }

-- Whether the function whose body begins at tokens[i] returns a value itself, not only in functions
-- inside of it.
local function returns(list, i)
  local open = { "function" }
  local inner = 0
  while list[i] and #open > 0 do
    local word = list[i].text
    if word == "return" and inner == 0 and list[i + 1] and not AFTER[list[i + 1].text] then
      return true
    end
    if OPENS[word] then
      open[#open + 1] = word
      if word == "function" then inner = inner + 1 end
    elseif word == "end" or word == "until" then
      if table.remove(open) == "function" then inner = inner - 1 end
    end
    i = i + 1
  end
  return false
end

-- The parameters in the brackets at tokens[i], and where the body begins.
local function parameters(list, i)
  local names = {}
  while list[i].text ~= ")" do
    i = i + 1
    if list[i].text ~= "," and list[i].text ~= ")" then names[#names + 1] = list[i].text end
  end
  return names, i + 1
end

-- What the comment right above a line says: parameters' names, whether there is a @return, whether
-- there is any (---).
local function above(lines, number)
  local named, returned, documented = {}, false, false
  while number > 1 and lines[number - 1]:find "^%-%-%-" do
    number, documented = number - 1, true
    local name = lines[number]:match "^%-%-%-@param%s+([%w_]+)"
      or lines[number]:match "^%-%-%-@param%s+(%.%.%.)"
    if name then named[name] = true end
    returned = returned or lines[number]:find "^%-%-%-@return%s" ~= nil
  end
  return named, returned, documented
end

-- The name of the function that a line begins with, where it may be public, and whether it surely
-- is.
local function public(line, returned_table)
  local of, mark, name = line:match "^function%s+([%w_.]-)([.:])([%w_]+)%s*%("
  if not name then of, mark, name = line:match "^([%w_]+)(%.)([%w_]+)%s*=%s*function%s*%(" end
  if not name then of, name = returned_table, line:match "^return%s+(function)%s*%(" end
  if name and name:sub(1, 1) ~= "_" then return name, of == returned_table or mark == ":" end
end

--- Breaches in a Lua source: a list of { line, what }.
function annotations.breaches(source)
  local found, lines, list = {}, {}, tokens(source)
  local returned_table = source:match "\nreturn%s+([%w_]+)%s*$"
    or source:match "\nreturn%s+setmetatable%(([%w_]+),"
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  for i, token in ipairs(list) do
    local first = token.line ~= (list[i - 1] or {}).line or list[i - 1].text == "return"
      or list[i - 1].text == "="
    local name, sure = public(lines[token.line], returned_table)
    local named, returned, documented = above(lines, token.line)
    if first and name and token.text == "function" and (sure or documented) then
      local bracket = i
      while list[bracket].text ~= "(" do bracket = bracket + 1 end
      local wanted, body = parameters(list, bracket)
      for _, parameter in ipairs(wanted) do
        if not named[parameter] and parameter:sub(1, 1) ~= "_" then
          found[#found + 1] = {
            token.line, ("'%s' has no @param for '%s'"):format(name, parameter) }
        end
        named[parameter] = nil
      end
      for parameter in pairs(named) do
        found[#found + 1] = {
          token.line, ("'%s' has a @param '%s' that is no parameter"):format(name, parameter) }
      end
      if returns(list, body) ~= returned then
        found[#found + 1] = {
          token.line, ("'%s' %s"):format(name, returned and "has a @return, but returns nothing" or
          "returns a value, but has no @return") }
      end
    end
  end
  return found
end

-- Sources of a module m and how many breaches they hold: this check must be able to fail.
local SAMPLES = {
  { "--- Right.\n---@param a integer\n---@return integer\nfunction m.f(a) return a end", 0 },
  { "---@param a integer\nfunction m.f(a, b) end", 1 },
  { "---@param a integer\n---@param b integer\nfunction C:f(a) end", 1 },
  { "---@param a integer\n---@return integer\nfunction m.f(a)\n  if a then return end\n  g(function() return a end)\nend", 1 },
  { "function m.f()\n  -- end\n  local s = 'end' .. [[ end ]]\n  repeat until true\n  return s\nend", 1 },
  { "---@return integer\n\nfunction m.f() return 1 end", 1 },
  { "function C:f() return g(function() return 1 end) end", 1 },
  { "--- Documented.\nfunction other.f(a) end\nfunction other.g(a) return a end", 1 },
  { "m.f = function(a) end", 1 },
  { "function m._f(a) return a end\nlocal function g(a) return a end\n---@param o table\nfunction m.h(_, o) end", 0 },
  { "---@param ... any\nreturn function(...) return ... end --", 1 },
}

--- Samples of which it finds too much or too little.
function annotations.self_test()
  local wrong = {}
  for i, sample in ipairs(SAMPLES) do
    local found = #annotations.breaches(sample[1] .. "\nreturn m")
    if found ~= sample[2] then
      wrong[#wrong + 1] = ("sample %d: %d breaches found, expected %d"):format(i, found, sample[2])
    end
  end
  return wrong
end

return annotations

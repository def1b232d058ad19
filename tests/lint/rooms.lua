-- luajit tests/lint/rooms.lua [draw]: the rooms of lua/ijepa/ and what each may use. A room is a
-- folder; the head of its init.lua has a line "-- Uses: ROOM, ROOM." (or "nothing", or "every
-- room"). A require, or a use of ijepa.NAME, that leads into another room is an error; so is a room
-- that is named and not used, and a circle. `draw` prints the rooms, lowest first.
local folder = "lua/ijepa/"
local public = dofile(folder .. "base/names.lua")
local root = { exit = true, interrupted = true, memory = true, help = true, version = true,
  args = true, cross_entropy = true,
  smooth_l1 = true, concat = true, no_grad = true }   -- of init.lua itself

local rooms, problems = {}, 0
local function problem(file, fmt, ...)
  problems = problems + 1
  print(file .. ": " .. fmt:format(...))
end

local project = dofile "tests/lint/files.lua"

local function room_of(module)   -- "mask.grid", or a public name
  local path = public[module] or module
  return path:match "^[^.]+"
end

for _, path in ipairs(project.lines_of("find " .. folder .. " -mindepth 2 -name '*.lua' | sort")) do
  local name = path:match("^" .. folder .. "([^/]+)/")
  local room = rooms[name] or { name = name, used = {}, allowed = {} }
  rooms[name] = room
  local text = assert(project.read(path))
  room.lines = (room.lines or 0) + select(2, text:gsub("\n", ""))
  if path:find "/init%.lua$" then
    local head = text:match "^[-%s]*(.-)\n[^-]" or ""
    local uses = head:match "Uses:%s*(.-)%."
    room.head = uses and true
    if uses == "every room" then room.all = true
    elseif uses and uses ~= "nothing" then
      for used in uses:gsub("%s*\n%-+%s*", " "):gmatch "[%w_]+" do room.allowed[used] = true end
    end
  end
  local code = text:gsub("%-%-[^\n]*", "")
  local function uses(module)
    local target = room_of(module)
    if target:find "^_" or target == name then return end
    room.used[target] = room.used[target] or path
  end
  for module in code:gmatch "require%s*%(?%s*[\"']ijepa%.([%w_.]+)[\"']" do
    uses((module:gsub("%.$", "")))
  end
  if code:find "local ijepa = require \"ijepa\"" then
    for module in code:gmatch "%f[%w_]ijepa%.([%w_]+)" do
      if public[module] and not root[module] and not code:find("[\"'][^\"'\n]*ijepa%." .. module
          .. "[^\"'\n]*[\"']") then
        uses(module)
      end
    end
  end
end

for name, room in pairs(rooms) do
  if not room.head then
    problem(folder .. name .. "/init.lua", "its head has no line '-- Uses: ROOM, ROOM.'")
  end
  for used, path in pairs(room.used) do
    if not rooms[used] then problem(path, "uses '%s', which is no room", used)
    elseif not room.all and not room.allowed[used] then
      problem(path, "uses room '%s'; the head of %s/init.lua does not allow it", used, name)
    end
  end
  for used in pairs(room.allowed) do
    if not rooms[used] then
      problem(folder .. name .. "/init.lua", "allows '%s', which is no room", used)
    elseif not room.used[used] then problem(folder .. name .. "/init.lua",
        "allows '%s' and does not use it", used) end
  end
end

-- A room's floor is one above the highest room that it uses.
local function floor_of(name, above)
  local room = rooms[name]
  if room.floor then return room.floor end
  for i, other in ipairs(above) do
    if other == name then
      problem(folder, "a circle of rooms: %s", table.concat(above, " -> ", i) .. " -> " .. name)
      return 0
    end
  end
  above[#above + 1] = name
  local floor = 0
  for used in pairs(room.used) do
    if rooms[used] then floor = math.max(floor, floor_of(used, above) + 1) end
  end
  above[#above] = nil
  room.floor = floor
  return floor
end

local order = {}
for name in pairs(rooms) do order[#order + 1] = name end
table.sort(order)
for _, name in ipairs(order) do floor_of(name, {}) end
if arg[1] == "draw" then
  table.sort(order, function(a, b)
    a, b = rooms[a], rooms[b]
    if a.floor ~= b.floor then return a.floor < b.floor end
    return a.name < b.name
  end)
  for _, name in ipairs(order) do
    local used = {}
    for other in pairs(rooms[name].used) do used[#used + 1] = other end
    table.sort(used)
    print(("%2d  %-8s %5d lines  %s"):format(rooms[name].floor, name, rooms[name].lines,
      table.concat(used, " ")))
  end
end
print(problems == 0 and ("rooms: %d, nothing to say"):format(#order)
  or ("rooms: %d problems"):format(problems))
os.exit(problems == 0 and 0 or 1)

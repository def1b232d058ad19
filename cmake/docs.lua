-- luajit docs.lua OUT FILE...: the comments above the functions of our Lua files as the module
-- ijepa._docs: modules { NAME = text }, names { NAME = { { signature, owner, text, file, name, line
-- }, ... } }.
local out = arg[1]
local root = (arg[0]:match "^(.*/)" or "./") .. "../lua/ijepa/"
local scan = dofile(root .. "host/scan.lua")
local public = {}   -- path of a module -> its public name
local listed = dofile(root .. "base/names.lua")
for name, path in pairs(listed) do
  -- without old names, see lua/ijepa/init.lua
  if path == name or listed[path] ~= path then public[path] = name end
end
-- files whose classes users meet: names are CLASS.METHOD
local classes = { ["mask.grid"] = "grid" }
-- rooms whose files are one public module
local families = { tensor = "tensor", nn = "nn" }
local file = assert(io.open(out, "w"))
local function field(name, value) file:write(("%s = %q, "):format(name, value)) end
local modules, names = {}, {}
for i = 2, #arg do
  local path = arg[i]
  local module = path:gsub("^lua/ijepa/?", ""):gsub("/?init%.lua$", ""):gsub("%.lua$", ""):gsub("/",
    ".")
  local by_class = classes[module] ~= nil
  local part = not public[module] and families[module:match "^(%w+)%."]
  module = module == "" and "" or public[module] or classes[module] or part
  if module then   -- what is not public is not for users
    local handle = assert(io.open(path))
    local source = handle:read "*a"
    handle:close()
    if module ~= "" and not part then
      modules[module] = scan.head(source):gsub("\n?Uses: [^\n]*", "")
    end
    for _, f in ipairs(scan.functions(source)) do
      f.file = path
      local prefix = by_class and f.owner ~= "" and f.owner:lower() or module
      local key = (prefix ~= "" and prefix .. "." or "") .. f.name
      names[key] = names[key] or {}
      table.insert(names[key], f)
    end
  end
end
local function sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return ipairs(keys)
end
file:write "return { modules = {\n"
for _, k in sorted(modules) do file:write(("  [%q] = %q,\n"):format(k, modules[k])) end
file:write "}, names = {\n"
for _, k in sorted(names) do
  file:write(("  [%q] = {\n"):format(k))
  for _, entry in ipairs(names[k]) do
    file:write "    { "
    for _, name in ipairs { "signature", "owner", "text", "file" } do field(name, entry[name]) end
    file:write(("name = %q, line = %d },\n"):format(entry.name, entry.line))
  end
  file:write "  },\n"
end
file:write "} }\n"
file:close()

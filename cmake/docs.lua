-- luajit docs.lua OUT FILE...: the comments above the functions of our Lua files as the module ijepa._docs.
local out = arg[1]
local help = dofile((arg[0]:match "^(.*/)" or "./") .. "../lua/ijepa/host/help.lua")
local public = {}   -- path of a module -> its public name
for name, path in pairs(dofile((arg[0]:match "^(.*/)" or "./") .. "../lua/ijepa/base/names.lua")) do public[path] = name end
public.plot = "plot"   -- `picture` is its older name
local file = assert(io.open(out, "w"))
local function field(name, value) file:write(("%s = %q, "):format(name, value)) end
local modules, names = {}, {}
for i = 2, #arg do
  local path = arg[i]
  local module = path:gsub("^lua/ijepa/?", ""):gsub("/?init%.lua$", ""):gsub("%.lua$", ""):gsub("/", ".")
  module = module == "" and "" or public[module]
  if module then   -- what is not public is not for users
    local source = assert(io.open(path)):read "*a"
    local first, functions = help.scan(source)
    if module ~= "" then modules[module] = first:gsub("\n?Uses: [^\n]*", "") end
    for _, f in ipairs(functions) do
      f.file = path
      names[(module ~= "" and module .. "." or "") .. f.name] = f
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
  file:write(("  [%q] = { "):format(k))
  for _, name in ipairs { "signature", "text", "file" } do field(name, names[k][name]) end
  file:write(("name = %q, line = %d },\n"):format(names[k].name, names[k].line))
end
file:write "} }\n"
file:close()

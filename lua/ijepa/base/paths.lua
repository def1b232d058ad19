--- Why a path may not exist: what the shell did not expand, the nearest folder that does, and names
-- like the missing one. Nothing is expanded here.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local C = F.C

local paths = {}

-- The names in a folder, without hidden ones.
local function names_in(folder)
  local out, list = F.new "char *[1]", {}
  if C.ij_dir_list(folder, out) ~= 0 then return list end
  for name in F.string(out[0]):gmatch "[^\n]+" do
    if name:sub(1, 1) ~= "." and not name:find "%c" then list[#list + 1] = name end
  end
  C.ij_bytes_free(out[0])
  table.sort(list)
  return list
end

-- At most three of these names: those that begin with `missing`, such as train.tar, then near ones.
local function like(missing, names)
  local list, taken = {}, {}
  local function take(name)
    if #list < 3 and not taken[name] then list[#list + 1], taken[name] = name, true end
  end
  for _, name in ipairs(names) do
    if missing ~= "" and name:lower():sub(1, #missing) == missing:lower() then take(name) end
  end
  for _, name in ipairs(text.near(missing, names, 3)) do take(name) end
  return list
end

--- For the end of a message that a path does not exist: ": ..." or "".
---@param path string
---@return string
function paths.hint(path)
  if path:find "^~" then
    return (": the shell did not expand '~' (it does so only where a word begins): give the "
      .. "complete path, such as \"$HOME%s\""):format(path:match "^~[^/]*(.*)$")
  end
  local braces = path:match "{[^{}]*,[^{}]*}" or path:match "{[^{}]*%.%.[^{}]*}"
  if braces then
    return (": the shell did not expand '%s' (quotes prevent it): "
      .. "give the paths themselves"):format(braces)
  end
  local glob = path:match "[^/]*[*?%[][^/]*"
  if glob then
    return (": the shell did not expand '%s' (quotes prevent it, or nothing matches)"):format(glob)
  end
  local rest = path:gsub("/+$", "")
  repeat
    local missing = rest:match "[^/]*$"
    rest = rest:sub(1, #rest - #missing):gsub("(.)/+$", "%1")
    local folder = rest == "" and "." or rest
    local kind = C.ij_path_kind(folder)
    local shown = rest == "" and "the current folder" or ("'%s'"):format(folder)
    if kind == 1 then return (": %s is a file, not a folder"):format(shown) end
    if kind == 2 then
      local near = like(missing, names_in(folder))
      if #near > 0 then
        return (": did you mean '%s' in %s?"):format(table.concat(near, "' or '"), shown)
      end
      return (": %s exists and holds no '%s'"):format(shown, missing)
    end
  until rest == "" or rest == "/"
  return ""
end

return paths

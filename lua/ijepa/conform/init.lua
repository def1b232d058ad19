-- `ijepa conform PATH...`: compares recorded results of the published implementation with this
-- engine, item by item.
-- Uses: base, tensor, mask, optim, model, save.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local C = F.C

local conform = {}

local function kind_of(path)
  if C.ij_path_kind(path) == 2 then
    if C.ij_path_kind(path .. "/crops.json") == 1 then return "crops" end
    return "folder"
  end
  if path:match "%.safetensors$" then return "step" end
  if path:match "%-ep%d+%.pth%.tar$" then return "pth" end
  if path:match "masks[^/]*%.json$" then return "masks" end
  if path:match "crops%.json$" then return "crops" end
  return nil
end

-- The files and folders of a known form in a folder.
local function expand(path)
  local names = F.new "char *[1]"
  if not F.try(C.ij_dir_list(path, names)) then return {} end
  local listed = F.string(names[0])
  C.ij_bytes_free(names[0])
  local list = {}
  for name in listed:gmatch "[^\n]+" do
    local p = path .. "/" .. name
    local kind = kind_of(p)
    if kind and kind ~= "folder" then list[#list + 1] = p end
  end
  return list
end

--- Compares one file (or crops folder). Returns items { name, error, tolerance, ok, noise }, or nil
--- and a message.
---@param path string
---@return table[]? items, string? message
function conform.check(path)
  local kind = kind_of(path)
  if C.ij_path_kind(path) == 0 then return nil, ("'%s' does not exist"):format(path) end
  if not kind or kind == "folder" then
    return nil, ("'%s' has an unknown form, expected training steps (*.safetensors), their checkpoints (*-epN.pth.tar), masks*.json, "
      .. "a folder with crops.json"):format(path)
  end
  return require("ijepa.conform." .. kind)(path)
end

--- The command. Prints a line for each file and every item whose error is larger than its bound;
--- true when there is none.
---@param paths string[]
---@return boolean all_ok
function conform.main(paths)
  local verbose, list = false, {}
  for _, p in ipairs(paths) do
    if p == "--all" then verbose = true
    elseif kind_of(p) == "folder" then
      local parts = expand(p)
      if #parts == 0 then list[#list + 1] = p end
      for _, part in ipairs(parts) do list[#list + 1] = part end
    else list[#list + 1] = p end
  end
  local all_ok = #list > 0
  for _, path in ipairs(list) do
    local items, message = conform.check(path)
    if not items then
      all_ok = false
      print(("FAILED  %s: %s"):format(path, message))
    else
      local bad, worst = 0, nil
      for _, item in ipairs(items) do
        if not item.ok then bad = bad + 1 end
        local n = item.noise
        if n then
          print(("%s %s: error %.3g, at most %.3g, in\n"
            .. "          %s of %d (at most %d) with a recorded gradient of rounding noise"):format(
            n.count <= n.allowed and n.error <= n.tolerance and "  noise" or "  WRONG", item.name,
            n.error, n.tolerance, text.count(n.count, "element"), n.elements, n.allowed))
        end
        local ratio = item.error / item.tolerance
        if not worst or ratio > worst.ratio then worst = { ratio = ratio, item = item } end
        if verbose or not item.ok then
          print(("%s %-54s %.1e of %.0e"):format(item.ok and "  ok   " or "  WRONG",
            item.name, item.error, item.tolerance))
        end
      end
      if #items == 0 then
        bad, worst = 1, { item = { name = "nothing was compared", error = 0, tolerance = 0 } }
      end
      if bad > 0 then all_ok = false end
      print(("%s  %s: %s, %d out of bounds\n        closest to its bound: %s, error %.3g of %.3g"):format(
        bad == 0 and "ok    " or "FAILED", path, text.count(#items, "item"), bad, worst.item.name,
          worst.item.error, worst.item.tolerance))
    end
  end
  return all_ok
end

return conform

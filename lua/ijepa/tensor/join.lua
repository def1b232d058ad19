-- Joining tensors and taking them apart.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C

local MOST = 8   -- tensors that one call of the library joins

local function joined(list, dim, op)
  core.check(list, "table", ("tensor.%s(list, dim)"):format(op), "list")
  if core.is(list) or #list == 0 then F.raise(op .. ": expected a list of one tensor or more") end
  for _, x in ipairs(list) do core.want(x, "list", op) end
  list = core.promoted(list)
  if #list == 1 then
    core.dim_of(list[1], dim, op)
    return list[1]
  end
  local parts = list
  while #parts > MOST do   -- groups first
    local groups = {}
    for first = 1, #parts, MOST do
      local group = {}
      for i = first, math.min(first + MOST - 1, #parts) do group[#group + 1] = parts[i] end
      groups[#groups + 1] = joined(group, dim, op)
    end
    parts = groups
  end
  local hs = F.new("ij_tensor *[?]", #parts)
  for i, x in ipairs(parts) do hs[i - 1] = x.h end
  return core.call(C.ij_cat, hs, #parts, core.dim_of(parts[1], dim, op))
end

--- Joins tensors along a dimension, by default the first; their other sizes are equal. Of several
--- types the result has the widest.
---@torch cat | yes
---@param list ijepa.tensor[]
---@param dim integer? default 1
---@return ijepa.tensor
function tensor.cat(list, dim)
  return joined(list, dim or 1, "cat")
end
--- Joins tensors along the last dimension.
---@param list ijepa.tensor[]
---@return ijepa.tensor
function tensor.concat(list)
  return joined(list, -1, "concat")
end
--- Tensors of one shape side by side along a new dimension, by default the first.
---@torch stack | yes
---@param list ijepa.tensor[]
---@param dim integer? default 1
---@return ijepa.tensor
function tensor.stack(list, dim)
  core.check(list, "table", "tensor.stack(list, dim)", "list")
  local parts = {}
  for i, x in ipairs(list) do
    core.want(x, "list", "stack")
    parts[i] = x:unsqueeze(dim or 1)
  end
  return joined(parts, dim or 1, "stack")
end
--- Parts of a dimension (default: the first), as views: of `size` entries each, the last perhaps
--- smaller, or of the sizes of a list.
---@torch split | yes
---@param size integer|integer[]
---@param dim integer? default 1
---@return ijepa.tensor[]
function T:split(size, dim)
  dim = core.dim_of(self, dim or 1, "split") + 1
  local n, sizes, sum = self:size(dim), {}, 0
  if type(size) == "table" then
    for i, s in ipairs(size) do sizes[i], sum = s, sum + s end
    if sum ~= n then F.raise(("split: the sizes add up to %d, not %d"):format(sum, n)) end
  else
    core.check(size, "number", "x:split(size, dim)", "size")
    if size < 1 then F.raise(("split: parts of %g entries"):format(size)) end
    for first = 1, n, size do sizes[#sizes + 1] = math.min(size, n - first + 1) end
  end
  local list, first = {}, 1
  for i, s in ipairs(sizes) do
    list[i], first = self:narrow(dim, first, s), first + s
  end
  return list
end
--- A dimension (default: the first) in n parts of nearly the same size, as views.
---@torch chunk | yes
---@param n integer
---@param dim integer? default 1
---@return ijepa.tensor[]
function T:chunk(n, dim)
  core.check(n, "number", "x:chunk(n, dim)", "n")
  if n < 1 then F.raise(("chunk: %g parts"):format(n)) end
  local d = core.dim_of(self, dim or 1, "chunk") + 1
  return self:split(math.max(1, math.ceil(self:size(d) / n)), d)
end

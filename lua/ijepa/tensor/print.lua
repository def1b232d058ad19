-- Tensors as text: nested brackets as PyTorch prints them, large ones shortened.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C

local options = { precision = 4, edge = 3, threshold = 200, width = 80 }

--- How tensors print. precision: digits; edge: entries shown at either end of a dimension of a
--- tensor with more than threshold values; width: columns.
---@torch set_printoptions | - | edge, width: edgeitems, linewidth
---@param o { precision: integer?, edge: integer?, threshold: integer?, width: integer? }
function tensor.print_options(o)
  core.check(o, "table", "tensor.print_options { precision, edge, threshold, width }", "options")
  for key, value in pairs(o) do
    if not options[key] then
      F.raise(("print_options: unknown option '%s': precision, edge, threshold or width"):format(
        tostring(key)))
    end
    options[key] = core.check(value, "number", "tensor.print_options", key)
  end
end

-- The entries of a dimension that are shown; 0 stands for "...".
local function shown(size, short)
  local list = {}
  if not short or size <= 2 * options.edge then
    for i = 1, size do list[i] = i end
    return list
  end
  for i = 1, options.edge do list[i] = i end
  list[#list + 1] = 0
  for i = size - options.edge + 1, size do list[#list + 1] = i end
  return list
end

-- A function that writes a value as all shown values of the tensor are written: whole numbers,
-- fixed or exponents.
local function style(values)
  local whole, most, least = true, 0, math.huge
  for _, v in ipairs(values) do
    if v == v and math.abs(v) < math.huge then
      if v % 1 ~= 0 then whole = false end
      local a = math.abs(v)
      most = math.max(most, a)
      if a > 0 then least = math.min(least, a) end
    end
  end
  local format
  if whole and most < 1e9 then format = "%.0f"
  elseif most >= 1e5 or least < 10 ^ -options.precision and least < math.huge and most / least > 1e3
  then format = ("%%.%de"):format(options.precision)
  else format = ("%%.%df"):format(options.precision) end
  return function(v)
    if v ~= v then return "nan" end
    if math.abs(v) == math.huge then return v > 0 and "inf" or "-inf" end
    return format:format(v)
  end
end

local function body(shape, buffer, short)
  local stride, picked = {}, {}
  local size = 1
  for d = #shape, 1, -1 do
    stride[d], size = size, size * shape[d]
    picked[d] = shown(shape[d], short)
  end
  local values = {}
  local function collect(d, offset)
    if d > #shape then
      values[#values + 1] = tonumber(buffer[offset])
      return
    end
    for _, i in ipairs(picked[d]) do
      if i > 0 then collect(d + 1, offset + (i - 1) * stride[d]) end
    end
  end
  collect(1, 0)
  local write, widest = style(values), 0
  for _, v in ipairs(values) do widest = math.max(widest, #write(v)) end
  local function build(d, offset, indent)
    local parts = {}
    if d == #shape then
      local line, lines = "", {}
      for k, i in ipairs(picked[d]) do
        local text = i == 0 and "..." or ("%" .. widest .. "s"):format(
          write(tonumber(buffer[offset + (i - 1) * stride[d]])))
        if k < #picked[d] then text = text .. "," end
        if #line > 0 and indent + 1 + #line + 1 + #text > options.width then
          lines[#lines + 1], line = line, ""
        end
        line = line == "" and text or line .. " " .. text
      end
      lines[#lines + 1] = line
      return "[" .. table.concat(lines, "\n" .. (" "):rep(indent + 1)) .. "]"
    end
    for _, i in ipairs(picked[d]) do
      parts[#parts + 1] = i == 0 and "..."
        or build(d + 1, offset + (i - 1) * stride[d], indent + 1)
    end
    local gap = "," .. ("\n"):rep(math.max(1, #shape - d)) .. (" "):rep(indent + 1)
    return "[" .. table.concat(parts, gap) .. "]"
  end
  return build(1, 0, 0)
end

function T:__tostring()
  local shape = self:shape()
  local head = ("tensor %s (%s) on %s"):format(self:dtype(), table.concat(shape, ", "),
    F.string(C.ij_device_name(C.ij_tensor_device(self.h))))
  local ok, buffer, n = pcall(function()
    return (self:dtype() == "bf16" and self:detach():to "f32" or self):read()
  end)
  if not ok then return head .. ": its step has ended" end
  if n == 0 then return head .. "\n[]" end
  if #shape == 0 then return head .. "\n" .. style { tonumber(buffer[0]) }(tonumber(buffer[0])) end
  return head .. "\n" .. body(shape, buffer, n > options.threshold)
end

-- luajit docs/tensor_table.lua: the table of docs/tensor.md, from the annotations "---@torch NAME |
-- GRADIENT | DIFFERENCE" of lua/ijepa/tensor/. With the argument `write` it replaces the table in
-- the page.
local FILES = { "create", "random", "elementwise", "reduce", "shape", "index", "join", "functional",
  "grad", "linalg", "print" }
local TITLES = { create = "New tensors", random = "Random values", elementwise = "Value by value",
  reduce = "Reductions and order", shape = "Shapes and copies", index = "Parts",
  join = "Joining and splitting", functional = "Matrix products, functions, losses",
  grad = "Gradients", linalg = "Linear algebra", print = "Printing" }

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

local function rows_of(name)
  local rows, tag = {}, nil
  for line in read("lua/ijepa/tensor/" .. name .. ".lua"):gmatch "[^\n]+" do
    tag = line:match "^%-%-%-@torch (.*)$" or tag
    local owner, called = line:match "^function ([%w_]+)[.:]([%w_]+)%("
    if not owner then owner, called = line:match "^([%w_]+)%.([%w_]+) = " end
    if owner and tag then
      local torch, gradient, difference = tag:match "^(.-) | (%S+)%s*|?%s*(.*)$"
      local ours = owner == "T" and "x:" .. called or owner .. "." .. called
      rows[#rows + 1] = ("| `%s` | `%s` | %s | %s |"):format(torch, ours,
        gradient == "yes" and "yes" or "", difference)
      tag = nil
    end
    if not line:match "^%-%-" then tag = nil end
  end
  return rows
end

local parts = {}
for _, name in ipairs(FILES) do
  parts[#parts + 1] = ("**%s**\n\n| PyTorch | here | gradient | difference |\n"
    .. "|---|---|---|---|\n%s\n"):format(TITLES[name], table.concat(rows_of(name), "\n"))
end
local text = table.concat(parts, "\n")
if arg and arg[1] == "write" then
  local page = read "docs/tensor.md"
  local head, tail = page:match "^(.-<!%-%- table %-%->\n).*(<!%-%- end %-%->.*)$"
  local file = assert(io.open("docs/tensor.md", "w"))
  file:write(head, text, tail)
  file:close()
elseif arg then
  io.write(text)
end
return text

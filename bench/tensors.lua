-- build/ijepa bench/tensors.lua [n=1e7] [repeats=7]: seconds of tensor ops on n values, the median
-- of `repeats` runs each, as lines "NAME SECONDS". bench/tensors.py sets PyTorch's beside them.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor, device = ijepa.tensor, ijepa.device

local o = { n = 1e7, repeats = 7 }
for _, a in ipairs(arg) do
  local key, value = a:match "^(%w+)=(.*)$"
  if key then o[key] = tonumber(value) end
end

local rows = math.floor(o.n / 1000)
local x = tensor.randn({ rows, 1000 }, { seed = 1 })
local y = tensor.rand({ rows, 1000 }, { seed = 2 }) + .5
local row = tensor.randn({ 1000 }, { seed = 3 })
local three = x:reshape(10, rows / 10, 1000)

local ops = {
  { "exp", function() return x:exp() end }, { "log", function() return y:log() end },
  { "sqrt", function() return y:sqrt() end }, { "sin", function() return x:sin() end },
  { "tanh", function() return x:tanh() end }, { "sigmoid", function() return x:sigmoid() end },
  { "silu", function() return x:silu() end }, { "erf", function() return x:erf() end },
  { "abs", function() return x:abs() end }, { "clamp", function() return x:clamp(-1, 1) end },
  { "pow", function() return y ^ 1.7 end }, { "add", function() return x + y end },
  { "mul", function() return x * y end }, { "div", function() return x / y end },
  { "add row", function() return x + row end }, { "add number", function() return x + 1 end },
  { "maximum", function() return x:maximum(y) end }, { "lt", function() return x:lt(y) end },
  { "where", function() return tensor.where(x:lt(y), x, y) end },
  { "sum all", function() return x:sum() end }, { "sum last", function() return x:sum(2) end },
  { "sum first", function() return x:sum(1) end },
  { "sum middle", function() return three:sum(2) end },
  { "mean last", function() return x:mean(2) end }, { "var last", function() return x:var(2) end },
  { "max all", function() return x:max() end }, { "amax last", function() return x:amax(2) end },
  { "amax first", function() return x:amax(1) end },
  { "argmax last", function() return x:argmax(2) end },
  { "prod last", function() return y:prod(2) end },
  { "cumsum last", function() return x:cumsum(2) end },
  { "softmax last", function() return x:softmax(2) end },
}
for _, op in ipairs(ops) do
  local times = {}
  for i = 0, o.repeats do
    device.step(function()
      local started = F.C.ij_time()
      op[2]()
      device.wait()
      if i > 0 then times[i] = F.C.ij_time() - started end
    end)
  end
  table.sort(times)
  print(op[1], ("%.6f"):format(times[math.ceil(#times / 2)]))
end

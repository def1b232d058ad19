-- Tensors with the names of PyTorch; devices (`device`) and linear algebra (`linalg`). Dimensions
-- count from 1, or from -1 at the end. Values in tensors, such as patches and labels, count from 0
-- and are never converted. docs/tensor.md has the table of all names. Each file is a family:
-- core (the class), create, random, elementwise, reduce, shape, index, join, functional, grad,
-- print, npy.
-- Uses: base.
local core = require "ijepa.tensor.core"
require "ijepa.tensor.create"
require "ijepa.tensor.elementwise"
require "ijepa.tensor.reduce"
require "ijepa.tensor.shape"
require "ijepa.tensor.join"
require "ijepa.tensor.functional"
require "ijepa.tensor.grad"
require "ijepa.tensor.random"
require "ijepa.tensor.print"
require "ijepa.tensor.npy"
require "ijepa.tensor.index"   -- last: it defines what x.NAME finds

local tensor = core.tensor
core.strict(core.methods, "tensor.")
core.strict(tensor, "tensor.")
tensor.wrap, tensor.call, tensor.is, tensor.want = core.wrap, core.call, core.is, core.want
tensor.methods = core.methods

-- Every method is a function of the module too, as in PyTorch: tensor.exp(x). The first argument of
-- a comparison or of arithmetic may be a number.
local TWO = { add = true, sub = true, mul = true, div = true, pow = true, minimum = true,
  maximum = true, eq = true, ne = true, lt = true, le = true, gt = true, ge = true }
for name, method in pairs(core.methods) do
  if not name:find "^__" and tensor[name] == nil then
    tensor[name] = TWO[name] and method or function(x, ...)
      core.want(x, "x", name)
      return method(x, ...)
    end
    core.original[tensor[name]] = core.original[method]
  end
end

return tensor

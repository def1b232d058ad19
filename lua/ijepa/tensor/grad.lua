-- Gradients: what requires them, the backward pass, and functions with a gradient of one's own.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local device = require "ijepa.tensor.device"
local T, tensor, C = core.methods, core.tensor, F.C

--- Switches gradients for this tensor on (default) or off.
---@torch Tensor.requires_grad_ | -
---@param on boolean?
---@return ijepa.tensor
function T:requires_grad_(on)
  C.ij_tensor_require_grad(self.h, on == false and 0 or 1)
  return self
end
--- Whether gradients are computed for this tensor.
---@torch Tensor.requires_grad | - | a method
---@return boolean
function T:requires_grad() return C.ij_tensor_requires_grad(self.h) ~= 0 end
--- The gradient after backward(), or nil.
---@torch Tensor.grad | - | a method: x:grad()
---@return ijepa.tensor?
function T:grad()
  local g = C.ij_tensor_grad(self.h)
  if g == nil then return nil end
  C.ij_tensor_ref(g)
  return core.wrap(g)
end
--- The same values without a gradient: a view.
---@torch Tensor.detach | -
---@return ijepa.tensor
function T:detach()
  return core.call(C.ij_detach, self.h)
end

--- Runs f without recording for gradients; returns its results.
---@torch no_grad | -
---@param f fun(...): ...
---@param ... any arguments of f
---@return any ...
function tensor.no_grad(f, ...)
  local meta = getmetatable(f)
  if not (type(meta) == "table" and meta.__call) then   -- a module is as good as a function
    core.check(f, "function", "tensor.no_grad(f, ...)", "f")
  end
  return device.no_grad(f, ...)
end

-- ---- functions with a gradient of one's own

-- Calls that wait for their backward: id -> { ctx, backward, inputs }. A step that ends without one
-- drops them.
local waiting, last_id = {}, 0
device.at_step_end(function() waiting = {} end)

-- Runs the backward of one such call and hands its gradients over.
local function run_one(dev, id, grad)
  local call = waiting[id]
  if not call then F.raise "backward: a function's forward belongs to a step that has ended" end
  local results = { device.no_grad(call.backward, call.ctx, grad) }
  for i, x in ipairs(call.inputs) do
    local g = results[i]
    if g ~= nil and g ~= false then
      core.want(g, ("gradient %d"):format(i), "backward")
      F.check(C.ij_backward_give(dev, x.position, core.as_f32(g):contiguous().h))
    end
  end
end

--- Computes the gradients of everything that this loss depends on; the loss has one element.
---@torch Tensor.backward | -
---@param o { retain: boolean? }? retain: another backward through the same values may follow
function T:backward(o)
  local retain = false
  if o ~= nil then
    core.check(o, "table", "loss:backward { retain = true }", "options")
    for key, value in pairs(o) do
      if key ~= "retain" then
        F.raise(("backward: unknown option '%s': retain"):format(tostring(key)))
      end
      retain = value
    end
  end
  local dev = C.ij_tensor_device(self.h)
  F.check(C.ij_backward_begin(self.h, retain and 1 or 0))
  local id, grad = F.new "int64_t[1]", core.box()
  while true do
    F.check(C.ij_backward_run(dev, id, grad))
    if id[0] == 0 then break end
    C.ij_tensor_ref(grad[0])
    local ok, why = pcall(run_one, dev, tonumber(id[0]), core.wrap(grad[0]))
    if not ok then
      C.ij_backward_stop(dev)
      error(why, 0)
    end
  end
  for number in pairs(waiting) do   -- what this backward freed
    if C.ij_custom_recorded(waiting[number].dev, number) == 0 then waiting[number] = nil end
  end
end

--- A function with a gradient of one's own: forward(ctx, ...) returns a tensor and may keep what it
--- needs in ctx; backward(ctx, dy) returns the gradient of each tensor argument, or nil for none.
---@torch autograd.Function | yes
---@param o { forward: function, backward: function }
---@return fun(...): ijepa.tensor
function tensor.fn(o)
  local signature = "tensor.fn { forward = f(ctx, ...), backward = g(ctx, dy) }"
  core.check(o, "table", signature, "options")
  core.check(o.forward, "function", signature, "forward")
  core.check(o.backward, "function", signature, "backward")
  return function(...)
    local ctx, inputs, handles = {}, {}, {}
    for i = 1, select("#", ...) do
      local x = select(i, ...)
      if core.is(x) then
        -- only tensors with a gradient are inputs of the record; the results count all tensors
        local entry = { position = x:requires_grad() and #handles or nil }
        inputs[#inputs + 1] = entry
        if entry.position then handles[#handles + 1] = x.h end
      end
    end
    local y = device.no_grad(o.forward, ctx, ...)
    core.want(y, "result of forward", "tensor.fn")
    if #handles == 0 then return y end
    last_id = last_id + 1
    local list = F.new("ij_tensor *[?]", #handles)
    for i, h in ipairs(handles) do list[i - 1] = h end
    if y:dtype() ~= "f32" then
      F.raise("tensor.fn: forward gave " .. y:dtype() .. ", expected f32")
    end
    y = y:clone()   -- an output of its own: forward may return an input
    F.check(C.ij_record_custom(list, #handles, y.h, last_id))
    waiting[last_id] = { ctx = ctx, backward = o.backward, inputs = inputs,
      dev = C.ij_tensor_device(y.h) }
    return y
  end
end

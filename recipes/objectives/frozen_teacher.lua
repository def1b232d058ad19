-- A frozen teacher in place of the EMA (as in SALT, arXiv 2509.24317): the context encoder predicts
-- the features of an encoder that was trained before, published or one's own. It can't collapse.
-- After UNTIL of the run, if below 1, the EMA of the encoder takes over.
--   objective = require "recipes.objectives.frozen_teacher" or dofile(...) { teacher = "WEIGHTS" }
local ijepa = require "ijepa"
local nn, tensor, device = ijepa.nn, ijepa.tensor, ijepa.device

return function(o)
  local teacher
  local function modules(t)
    teacher = assert(ijepa.load(o.teacher))
    return { to_teacher = nn.Linear(t.encoder.width, teacher.width) }
  end
  local function loss(t, batch)
    local z = t.predictor(t.encoder(batch.images, batch.context), batch.context, batch.targets)
    local frozen = batch.step <= (o["until"] or 1) * t.last
    local h = device.no_grad(function()
      return (frozen and teacher or t.target)(batch.images):layer_norm():gather(batch.targets)
    end)
    if frozen then z = t.modules.to_teacher(z) end
    return tensor.smooth_l1(z, h, 1, batch.targets:size(1)), { frozen = frozen and 1 or 0 }
  end
  return { modules = modules, loss = loss }
end

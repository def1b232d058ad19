-- DINO (Caron et al., 2021, arXiv 2104.14294): a student that sees every view predicts which
-- prototypes a teacher, its EMA, gives to the large views (group 1 of data.views). The teacher's
-- assignments are balanced by three rounds of Sinkhorn-Knopp (SwAV, arXiv 2006.09882).
local ijepa = require "ijepa"
local nn, device = ijepa.nn, ijepa.device
local HIDDEN, OUT, PROTOTYPES = 512, 64, 256
local STUDENT, TEACHER = .1, .05              -- temperatures

local function modules(t)
  return { head = nn.Sequential { nn.Linear(t.encoder.width, HIDDEN), nn.GELU(),
    nn.Linear(HIDDEN, OUT) }, prototypes = nn.Linear(OUT, PROTOTYPES, { bias = false }) },
    { target_head = "head", target_prototypes = "prototypes" }
end

-- Cosines of pooled features with the prototypes: (n * B, PROTOTYPES).
local function scores(encoder, head, prototypes, images)
  return prototypes(head(encoder(images):mean(2)):normalize(2))
end

-- Assignments (B, PROTOTYPES) whose rows sum to 1 and whose columns are equally heavy.
local function balanced(x)
  local q = (x - x:max()):exp()
  for _ = 1, 3 do
    q = q / q:sum(1, true)
    q = q / q:sum(2, true)
  end
  return q
end

local function loss(t, batch)
  assert(batch.views[1]:size(1) >= 2 * batch.count,
    "dino needs two large views of an image: data.views = { { n = 2, crop = ... }, ... }")
  local m, B = t.modules, batch.count
  local targets = device.no_grad(function()
    local s = scores(t.target, m.target_head, m.target_prototypes, batch.views[1])
    local list = s:split(B, 1)
    for i, x in ipairs(list) do list[i] = balanced(x * (1 / TEACHER)) end
    return list
  end)
  local sum, pairs_, view = 0, 0, 0
  for _, images in ipairs(batch.views) do
    local logs = (scores(t.encoder, m.head, m.prototypes, images) * (1 / STUDENT)):log_softmax(2)
    for _, student in ipairs(logs:split(B, 1)) do
      view = view + 1
      for i, target in ipairs(targets) do
        if i ~= view then sum, pairs_ = sum - (target * student):sum(2):mean(), pairs_ + 1 end
      end
    end
  end
  return sum * (1 / pairs_)
end

return { modules = modules, loss = loss, masks = false, predictor = false }

--- The report's sections that need a model and images: features, attention, predictions.
local imagine = require "ijepa.plot.imagine"
local plot = require "ijepa.plot"
local page = require "ijepa.report.page"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C

local sections = {}
local WORK = 5e10   -- multiplications of one pass over the images: about a second on a laptop

-- Why nothing can be shown, or nil.
local function lacking(r)
  if not r.model then return "No model could be loaded: " .. tostring(r.model_message) .. "." end
  if not r.images then
    return "The images could not be read: " .. tostring(r.images_message) .. "."
  end
end

-- As many of the images as a model of this size sees in a few seconds, at least 4.
local function affordable(r)
  local e = r.model.target
  local count = math.floor(WORK / (2 * e:size() * e.grid[1] * e.grid[2]))
  return r.images:narrow(1, 1, math.min(r.images:size(1), math.max(4, count))):contiguous()
end

-- A figure that f draws, or the reason why it is missing.
local function figure(title, note, f)
  if C.ij_interrupted() ~= 0 then ijepa.exit(130) end
  local ok, canvas, more = pcall(f)
  if not ok then
    if type(canvas) == "table" then error(canvas, 0) end
    return page.figure(title, { html = page.p("Left out: " .. tostring(canvas)) })
  end
  local html, message = page.image(title, type(note) == "function" and note(more) or note, canvas)
  return html or page.figure(title, { html = page.p("Left out: " .. tostring(message)) })
end

--- Principal components, similarity, attention.
---@param r table
---@return string? html, string? message
function sections.features(r)
  local why = lacking(r)
  if why then return nil, why end
  local m, all = r.model, affordable(r)
  local few = all:narrow(1, 1, math.min(3, all:size(1))):contiguous()
  local has_attention = m.target.attention and m.target.heads
  return '<div class="images">' .. figure("principal components",
    "the first three components of the patch features; a colour means the same in all images",
    function()
      return plot.pca(m, few, { basis = plot.basis(m, all), side = 160, title = false })
    end) .. figure("similarity",
    "cosine of the features of the framed patch and of all patches of these images", function()
      return plot.similarity(m, few, { side = 160, title = false })
    end) .. (has_attention and figure("attention of the last block",
    "the mean over all patches, for each head", function()
      return plot.attention(m, few, { side = m.target.heads > 3 and 120 or 240, title = false })
    end) or "") .. "</div>\n"
end

--- What the predictor imagines, and its loss by position.
---@param r table
---@return string? html, string? message
function sections.predictions(r)
  local why = lacking(r)
  if why then return nil, why end
  local m, all = r.model, affordable(r)
  if not r.policy then
    return nil, "The masks can't be drawn: " .. tostring(r.policy_message) .. "."
  end
  return '<div class="images">' .. figure("predicted against actual", function(about)
    return tostring(about)
      .. "; targets are replaced by the patches of other images with the nearest features"
  end, function()
    local others = all:narrow(1, 3, all:size(1) - 2):contiguous()
    return imagine.imagine(m, all:narrow(1, 2, 1):contiguous(), nil, nil,
      { bank = imagine.bank(m, others), side = 160, title = false })
  end) .. figure("loss by position",
    "smooth L1, a mean over images and masks; grey: never a target", function()
    return plot.loss(m, all, { rounds = all:size(1) < 32 and 2 or 4, side = 320, title = false })
  end) .. "</div>\n"
end

return sections

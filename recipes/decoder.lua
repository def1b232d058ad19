-- Shows in pixels what a predictor predicts: trains a small decoder on the features of a run's
-- frozen target encoder, then decodes the predicted targets of held-out images and measures the
-- pixel error.
--   ijepa recipes/decoder.lua                      after recipes/quickstart.lua
--   ijepa recipes/decoder.lua run=runs/mine data=FOLDER_OR_TAR file=decoded.png
local ijepa = require "ijepa"
local plot, panel, decoder, predict = ijepa.plot, ijepa.panel, ijepa.decoder,
  require "ijepa.imagine".predict
local function leaf(kind, default, doc) return { type = kind, default = default, doc = doc } end
local o = ijepa.config({}, {
  run = leaf("string", "runs/quickstart", "Model: a run's folder or one of its checkpoints."),
  data = leaf("string", nil, "Images, a folder or tar; none: those the run was trained on."),
  images = leaf("integer", 1024, "Images that train the decoder."),
  held = leaf("integer", 64, "Held-out images that measure the error."),
  rows = leaf("integer", 5, "Images in the figure."),
  steps = leaf("integer", 1500, "Training steps of the decoder."),
  hidden = leaf("integer", 256, "Width of the decoder."),
  seed = leaf("integer", 0, "Seed of initial values and order."),
  file = leaf("string", nil, "File of the figure; none: decoder.png in the run's folder."),
})
local model = assert(ijepa.model(o.run))
local grid, P = model.target.grid, model.target.patch
local N, size = grid[1] * grid[2], P * P * 3
local x = plot.batch(o.data or model.config.data.root, model.target, { count = o.images + o.held })
local held = math.min(o.held, math.floor(x:size(1) / 2))
local train = x:narrow(1, held + 1, x:size(1) - held):contiguous()
io.stderr:write(("training a decoder on %d patches of %d image%s\n"):format(train:size(1) * N,
  train:size(1),
  train:size(1) == 1 and "" or "s"))
local d = decoder.new(model.target, o)
local seen = panel.cut(train, P)
d:train(plot.features(model.target, train), seen, o)
local mean = { 0, 0, 0 }   -- mean colour of the training images: the baseline
for i = 0, train:numel() - 1 do mean[i % 3 + 1] = mean[i % 3 + 1] + seen[i] * 3 / train:numel() end

local names = { "mean colour", "decoded truth", "decoded predictions" }
local squares, count, parts, cell = { 0, 0, 0 }, 0, {}, panel.cell(grid, 160)
for b = 1, held do
  local one = x:narrow(1, b, 1):contiguous()
  local pixels = panel.cut(one, P)
  local context, target = model.policy:for_images(one, model.target, b - 1):sample(1, b - 1)
  local patches, z, h = predict(model, one, context, target)
  local painted = { [2] = d:paint(h, patches), [3] = d:paint(z, patches) }
  for i, p in ipairs(patches) do
    for j = 0, size - 1 do
      local value = pixels[p * size + j]
      squares[1] = squares[1] + (mean[j % 3 + 1] - value) ^ 2
      for k = 2, 3 do squares[k] = squares[k] + (painted[k][(i - 1) * size + j] - value) ^ 2 end
    end
  end
  count = count + #patches * size
  if b <= o.rows then
    local function add(c, title) parts[#parts + 1] = { c, title = b == 1 and title or nil } end
    add(panel.image(one, 1, grid, cell), "image")
    add(panel.context(one, context, grid, cell), "context")
    for k = 2, 3 do
      local c = panel.context(one, context, grid, cell)
      for i, p in ipairs(patches) do
        panel.paste(c, painted[k] + (i - 1) * size, P, p, grid, cell)
      end
      add(c, names[k])
    end
  end
end
print(("pixel error in the targets of %d held-out images (root mean square, of 255):"):format(held))
for k, name in ipairs(names) do
  print(("  %-22s %5.1f"):format(name, math.sqrt(squares[k] / count)))
end
local file = o.file or model.out .. "/decoder.png"
assert(panel.rows(parts, { columns = 4, title = "Features decoded to pixels",
  note = "Targets decoded from their actual features (truth) and from predicted features. Grey: neither context nor target."
}):save(file))
print("figure: " .. file)

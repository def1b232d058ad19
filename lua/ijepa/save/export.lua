--- `ijepa export RUN_OR_FILE --format pth|hf|timm|safetensors --out PATH`: the weights for
--- other programs.
local F = require "ijepa.base.ffi"
local text = require "ijepa.base.text"
local pickle = require "ijepa.save.pickle"
local published = require "ijepa.save.published"
local tensors = require "ijepa.save.tensors"
local weights = require "ijepa.save.weights"
local json = require "cjson.safe"
local C = F.C

local export = {}
local MEAN, STD = { .485, .456, .406 }, { .229, .224, .225 }

-- All tensors of a part under our names.
local function items_of(part)
  local size, message = part:size()
  if not size then return nil, message end
  local list = {}
  for i, name in ipairs(weights.names(part.kind, size.depth)) do
    list[i], message = part:item(name)
    if not list[i] then return nil, message end
  end
  return list
end

-- The state of AdamW: { m =, v =, updates = } of the parameter "encoder.NAME", by its number for a
-- published file.
local function moments_of(file, p)
  local names
  if published.is(file) then
    names = { ("opt.state.%d.exp_avg"):format(p.number),
      ("opt.state.%d.exp_avg_sq"):format(p.number) }
  else names = { "opt.m." .. p.key, "opt.v." .. p.key } end
  if not file:info(names[1]) or not file:info(names[2]) then return nil end
  local m = weights.item(file, names[1], { names[1] }, p.shape)
  return m, m and weights.item(file, names[2], { names[2] }, p.shape)
end

-- The optimizer's part of a published checkpoint; keep(item) makes a tensor of an item.
local function optimizer(w, parts, keep)
  local file, states, groups = w.file, {}, {}
  local updates = published.is(file) and published.updates(file) or tonumber(file:meta "updates")
  if not updates then return nil end
  for g, group in ipairs(published.groups(parts)) do
    local numbers = {}
    for i, p in ipairs(group) do
      numbers[i] = p.number
      local m, v = moments_of(file, p)
      if m and v then
        local step = { dtype = "f32", shape = {}, data = F.new("float[1]", updates), bytes = 4 }
        states[#states + 1] =
          { p.number, pickle.dict { { "step", keep(step) }, { "exp_avg", keep(m) },
          { "exp_avg_sq", keep(v) } } }
      elseif p.trained then return nil end
    end
    local rest = { { "lr", pickle.float(0) }, { "betas", pickle.list({ .9, .999 }, true) },
      { "eps", 1e-8 },
      { "weight_decay", pickle.float(g > 2 and 0 or .04) }, { "amsgrad", false },
        { "foreach", pickle.none }, { "maximize", false },
      { "capturable", false }, { "differentiable", false }, { "fused", pickle.none },
        { "params", pickle.list(numbers) } }
    if g > 2 then table.insert(rest, 1, { "WD_exclude", true }) end
    groups[g] = pickle.dict(rest)
  end
  return pickle.dict { { "state", pickle.dict(states) }, { "param_groups", pickle.list(groups) } }
end

local formats = {}

-- The published layout: every model with "module." names, the optimizer where there is its state.
function formats.pth(w, out)
  local target, message = w:part()
  if not target then return nil, message end
  local items, sections, parts = {}, {}, {}
  local function keep(item)
    item.name = tostring(#items)
    items[#items + 1] = item
    return pickle.tensor(#items - 1, item.shape)
  end
  for _, label in ipairs { "encoder", "predictor", "target_encoder" } do
    local part = w:part(label) or (label ~= "predictor" and target)
    if part then
      local list, dict, shapes = items_of(part), {}, {}
      if not list then return nil, select(2, items_of(part)) end
      for i, item in ipairs(list) do
        shapes[i] = { name = item.name, shape = item.shape }
        dict[i] = { "module." .. item.name, keep(item) }
      end
      if label ~= "target_encoder" then parts[#parts + 1] = { label, shapes } end
      sections[#sections + 1] = { label, pickle.dict(dict) }
    end
  end
  local opt = optimizer(w, parts, keep)
  if opt then sections[#sections + 1] = { "opt", opt } end
  local function number(key, default) return tonumber(w.file:meta(key)) or default end
  for _, section in ipairs { { "scaler", pickle.none }, { "epoch", number("epoch", 0) },
      { "loss", pickle.float(number("loss", 0)) },
    { "batch_size", number("batch_size", 0) }, { "world_size", number("world_size", 1) },
      { "lr", pickle.float(number("lr", 0)) } } do
    sections[#sections + 1] = section
  end
  local ok
  ok, message = tensors.save_pth(out, items, pickle.dump(pickle.dict(sections)))
  return ok and ("'%s': encoder, target_encoder%s%s"):format(out,
    w:part "predictor" and ", predictor" or "",
    opt and ", opt" or "; no optimizer's state"), message
end

-- The encoder to give away and what is known of it.
local function encoder_of(w, o)
  local part, message = w:part(o.which)
  if not part then return nil, message end
  local options
  options, message = w:options(part, o)
  if not options then return nil, message end
  local items
  items, message = items_of(part)
  if not items then return nil, message end
  return items, options, part
end

local function spit(path, value)
  local s = json.encode(value) .. "\n"
  return F.try(C.ij_file_replace(path, s, #s))
end

-- What a format that holds one encoder leaves out of a file: "; left out: encoder, predictor".
local function left_out(w, taken)
  local labels = {}
  for _, part in ipairs(w.parts) do
    if part.label ~= taken.label then labels[#labels + 1] = part.label end
  end
  return #labels > 0 and "; left out: " .. table.concat(labels, ", ") or ""
end

-- A folder that transformers' IJepaModel.from_pretrained takes.
function formats.hf(w, out, o)
  local items, options, part = encoder_of(w, o)
  if not items then return nil, options end
  if options.grid[1] ~= options.grid[2] then
    return nil, ("'%s' has a grid of %d x %d: Hugging Face's model knows squares alone"):format(
      w.path, options.grid[1], options.grid[2])
  end
  local list, F_width = {}, 0
  for _, item in ipairs(items) do
    local names, shape = weights.hf(item.name), { unpack(item.shape) }
    if item.name:find "mlp%.fc1%.weight$" then F_width = shape[1] end
    shape[1] = shape[1] / #names
    for i, name in ipairs(names) do
      list[#list + 1] = { name = name, dtype = "f32", shape = shape, bytes = item.bytes / #names,
        keep = item,
        data = F.cast("const char *", item.data) + (i - 1) * item.bytes / #names }
    end
  end
  local side = options.crop[1]
  local ok, message = F.try(C.ij_mkdirs(out))
  if ok then ok, message = tensors.save(out .. "/model.safetensors", list, { format = "pt" }) end
  if ok then
    ok, message = spit(out .. "/config.json",
      { architectures = { "IJepaModel" }, model_type = "ijepa", hidden_size = options.width,
      num_hidden_layers = options.depth, num_attention_heads = options.heads,
        intermediate_size = F_width, hidden_act = "gelu",
      hidden_dropout_prob = 0, attention_probs_dropout_prob = 0, initializer_range = .02,
        layer_norm_eps = 1e-6,
      image_size = side, patch_size = options.patch, num_channels = 3, qkv_bias = true,
        torch_dtype = "float32" })
  end
  if ok then
    ok, message = spit(out .. "/preprocessor_config.json",
      { image_processor_type = "ViTImageProcessor", do_resize = true,
      size = { height = side, width = side }, resample = 2, do_rescale = true,
        rescale_factor = 1 / 255, do_normalize = true,
      image_mean = MEAN, image_std = STD })
  end
  return ok and ("'%s': %s; transformers: IJepaModel.from_pretrained(\"%s\")%s"):format(out,
    part.label, out, left_out(w, part)), message
end

-- timm's names of models with these sizes.
local TIMM = { ["1280 32 14 224"] = "vit_huge_patch14_gap_224",
  ["1280 32 16 448"] = "vit_huge_patch16_gap_448",
  ["1408 40 16 224"] = "vit_giant_patch16_gap_224" }

-- A safetensors file with timm's names for a ViT without class token.
function formats.timm(w, out, o)
  local items, options, part = encoder_of(w, o)
  if not items then return nil, options end
  local name = TIMM[("%d %d %d %d"):format(options.width, options.depth, options.patch,
    options.crop[1])]
  local ok, message = tensors.save(out, items, { format = "pt" })
  local model = name and ("timm.create_model(\"%s\", num_classes=0)"):format(name) or
    (("timm.models.vision_transformer.VisionTransformer(img_size=(%d, %d), patch_size=%d, embed_dim=%d, depth=%d, num_heads=%d, " ..
    "mlp_ratio=%.17g, class_token=False, global_pool=\"avg\", fc_norm=False, num_classes=0)"):format(options.crop[1], options.crop[2],
    options.patch, options.width, options.depth, options.heads, options.mlp_ratio))
  return ok and ("'%s': %s%s; model: %s"):format(out, part.label, left_out(w, part), model),
    message
end

-- Our own layout: every model of the file, "encoder.NAME", without the optimizer.
function formats.safetensors(w, out)
  local all = {}
  for _, part in ipairs(w.parts) do
    local items, message = items_of(part)
    if not items then return nil, message end
    for _, item in ipairs(items) do
      item.name = (part.label == "" and "target_encoder" or part.label) .. "." .. item.name
      all[#all + 1] = item
    end
  end
  local meta = { settings = w.file:meta "settings", epoch = w.file:meta "epoch" }
  for k, v in pairs(meta) do meta[k] = tostring(v) end
  local ok, message = tensors.save(out, all, meta)
  return ok and ("'%s': %s"):format(out, text.count(#all, "tensor")), message
end

--- Writes a checkpoint's weights in another layout. Returns a line that says what it wrote.
---@param path string a checkpoint of any layout, a run's folder, a Hugging Face folder
---@param o { format: "pth"|"hf"|"timm"|"safetensors", out: string, which: string?, heads: integer?, grid: integer[]? }
---@return string? said, string? message
function export.write(path, o)
  if not formats[o.format] then
    F.raise(("export: format '%s' is not one of pth, hf, timm, safetensors"):format(
      tostring(o.format)))
  end
  if type(o.out) ~= "string" or o.out == "" then
    F.raise "export: out is not set: where to write"
  end
  local w, message = weights.open(path)
  if not w then return nil, message end
  local said
  said, message = formats[o.format](w, o.out, o)
  local own = not said and w.settings and (w.settings.model or {}).encoder
  if own and own ~= "" then   -- no other program knows its architecture
    message = message .. "; an encoder of your own is written by ijepa.model(RUN).target:save(PATH)"
  end
  w:close()
  return said or nil, message
end

local OPTIONS = { format = true, out = true, which = true, heads = true, grid = true }

--- The command's arguments: a path and --format, --out, --which, --heads, --grid, each also as
--- key=value. Returns the exit code.
---@param args string[]
---@return integer code, string? usage what is wrong with the arguments
function export.main(args)
  local o, path, i = {}, nil, 1
  while i <= #args do
    local key = args[i]:match "^%-%-(%a+)$"
    local named, value = args[i]:match "^%-?%-?(%a+)=(.*)$"
    if named and OPTIONS[named] then
      o[named] = value
      i = i + 1
    elseif key then
      if not OPTIONS[key] then return 2, ("unknown option '%s'"):format(args[i]) end
      if not args[i + 1] then return 2, ("%s: its value is missing"):format(args[i]) end
      o[key] = args[i + 1]
      i = i + 2
    else
      path = path or args[i]
      i = i + 1
    end
  end
  if not path then return 2, "which run or checkpoint?" end
  if not o.out then return 2, "--out PATH is missing" end
  if not formats[o.format or "?"] then return 2, "--format is one of pth, hf, timm, safetensors" end
  if o.heads then
    if not tonumber(o.heads) then return 2, ("--heads '%s': expected a number"):format(o.heads) end
    o.heads = tonumber(o.heads)
  end
  if o.grid then
    local rows, columns = o.grid:match "^{?%s*(%d+)%s*[,x]%s*(%d+)%s*}?$"
    if not rows then return 2, ("--grid '%s': expected ROWS,COLUMNS"):format(o.grid) end
    o.grid = { tonumber(rows), tonumber(columns) }
  end
  local said, message = export.write(path, o)
  io.stderr:write(said or "ijepa: " .. message, "\n")
  return said and 0 or 1
end

return export

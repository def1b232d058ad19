-- Recipes from the YAML configurations of the published code (`ijepa import CONFIG.yaml`).
local F = require "ijepa.base.ffi"
local config = require "ijepa.config"
local text = require "ijepa.base.text"
local decode = require "cjson.safe".decode
local C = F.C

local import = {}

-- ---- values, as YAML 1.1 and the published code read them ---------------------------------------

local truth = { ["true"] = true, yes = true, on = true, ["false"] = false, no = false, off = false }

local read = {}
-- Quoted numbers are accepted too, and 1e-6, which YAML 1.1 reads as text.
function read.number(node)
  local digits = node.text and node.text:gsub("_", "")
  if not digits or not (digits:find "^[-+]?%d+%.?%d*[eE]?[-+]?%d*$"
      or digits:find "^[-+]?%.%d+[eE]?[-+]?%d*$") then
    return nil
  end
  if digits:find "^[-+]?0%d" then return nil end   -- octal
  local n = tonumber((digits:gsub("^%+", "")))
  return n and math.abs(n) < math.huge and n or nil
end
function read.integer(node)
  local n = read.number(node)
  return n and n % 1 == 0 and n or nil
end
function read.boolean(node) return node.plain and truth[node.text:lower()] end
function read.string(node) return node.text end
function read.pair(node)
  local list = node.list
  if not list or #list ~= 2 then return nil end
  local a, b = read.number(list[1]), read.number(list[2])
  return a and b and { a, b }
end

local wanted = { number = "a number", integer = "an integer", boolean = "true or false",
  string = "a text", pair = "two numbers" }

local function is_null(node)
  return node.plain and (node.text == "" or node.text == "~" or node.text:lower() == "null")
end

-- ---- keys: type (null = true: may have no value), and function(out, value) that sets it in the recipe's
-- table `out` and may return a note

local function field(section, name)
  return function(out, value) out[section][name] = value end
end

local keys = {
  data = {
    batch_size = { "integer", function(out, v) out.data.batch, out.mask.group = v, v end },
    color_jitter_strength = { "number", field("data", "jitter") },
    crop_scale = { "pair", field("data", "scale") },
    crop_size = { "integer", field("data", "crop") },
    image_folder = { "string", field("data", "folder") },
    num_workers = { "integer", field("data", "workers") },
    pin_mem = { "boolean", function() end },   -- of memory for GPUs
    root_path = { "string", field("data", "root") },
    use_color_distortion = { "boolean", field("data", "distort") },
    use_gaussian_blur = { "boolean", function(out, v) out.data.blur = v and .5 or nil end },
    use_horizontal_flip = { "boolean", function(out, v) out.data.flip = v and .5 or nil end },
  },
  logging = {
    folder = { "string", function(out, v) out.out = #v > 1 and v:gsub("/+$", "") or v end },
    write_tag = { "string", function(out, v) out.tag = v end },
  },
  mask = {
    allow_overlap = { "boolean", field("mask", "overlap") },
    aspect_ratio = { "pair", function(out, v) out.mask.target.aspect = v end },
    enc_mask_scale = { "pair", function(out, v) out.mask.context.scale = v end },
    min_keep = { "integer", field("mask", "min_keep") },
    num_enc_masks = { "integer", function(out, v) out.mask.context.n = v end },
    num_pred_masks = { "integer", function(out, v) out.mask.target.n = v end },
    patch_size = { "integer", field("model", "patch") },
    pred_mask_scale = { "pair", function(out, v) out.mask.target.scale = v end },
  },
  meta = {
    copy_data = { "boolean",
      function(_, v) return v and "copy_data: images are read where they are" end },
    load_checkpoint = { "boolean", function(_, v)
      return not v and "load_checkpoint: false: a run resumes from the newest checkpoint of its folder; resume=false starts anew"
    end },
    model_name = { "string", field("model", "arch") },
    pred_depth = { "integer", field("model", "pred_depth") },
    pred_emb_dim = { "integer", field("model", "pred_dim") },
    read_checkpoint = { "string", null = true, function(_, v)
      return v and ("read_checkpoint: '%s' is not read: a run resumes from the newest checkpoint of its folder"):format(v)
    end },
    use_bfloat16 = { "boolean", function(out, v) out.model.dtype = v and "bf16" or "f32" end },
  },
  optimization = {
    ema = { "pair", field("optim", "ema") },
    epochs = { "number", field("optim", "epochs") },
    final_lr = { "number", field("optim", "final_lr") },
    final_weight_decay = { "number", field("optim", "final_wd") },
    ipe_scale = { "number", field("optim", "ipe_scale") },
    lr = { "number", field("optim", "lr") },
    start_lr = { "number", field("optim", "start_lr") },
    warmup = { "number", field("optim", "warmup") },
    weight_decay = { "number", field("optim", "wd") },
  },
}

-- ---- the file -----------------------------------------------------------------------------------

-- The images' folder as the published code puts it together.
local function folder_of(root, folder)
  local path = folder and folder:sub(1, 1) == "/" and folder or (root or "") .. "/"
    .. (folder or "")
  path = (path .. "/train"):gsub("/%.%f[/]", ""):gsub("//+", "/")
  return (root or "") == "" and (folder or ""):sub(1, 1) ~= "/" and path:gsub("^/", "") or path
end

-- Settings that depend on several of their keys.
local function combine(out)
  local d, o = out.data, out.optim
  if d.root or d.folder then d.root = folder_of(d.root, d.folder) end
  d.folder = nil
  if d.distort then d.grey, d.jitter_p = .2, .8 else d.jitter = nil end
  d.distort = nil
  if o.wd or o.final_wd then o.wd = { o.wd or o.final_wd, o.final_wd or o.wd } end
  o.final_wd = nil
end

-- Reads the node of a section into the recipe's table. report(line, fmt, ...): a problem;
-- note(what): a note.
local function section(name, node, out, report, note)
  local known, seen = keys[name], {}
  if not node.map then
    return report(node.key_line,
      is_null(node) and "the section '%s' has no keys: remove it for the defaults"
      or "'%s' is not a section with keys", name)
  end
  for _, item in ipairs(node.map) do
    local rule = known[item.key]
    seen[item.key] = true
    if not rule then
      report(item.key_line, "unknown key '%s.%s'%s", name, item.key,
        text.hint(item.key, text.keys(known)))
    elseif is_null(item) then
      if not rule.null then
        report(item.key_line, "'%s.%s' has no value: expected %s; remove the line for the default",
          name,
          item.key, wanted[rule[1]])
      end
    else
      local value = read[rule[1]](item)
      if value == nil then
        report(item.line, "'%s.%s' is %s, expected %s", name, item.key,
          item.text and "'" .. item.text .. "'" or "not a single value",
          wanted[rule[1]])
      else
        local said = rule[2](out, value)
        if said then note(said) end
      end
    end
  end
  for _, key in ipairs(text.keys(known)) do
    if not seen[key] then note(("%s.%s is missing: the default is used"):format(name, key)) end
  end
end

--- The settings of a configuration of the published code, with all its quirks.
---@param yaml string the text
---@param name string of the file, for messages
---@return table? given the argument of ijepa.config
---@return string[]|string notes keys without a counterpart here, and why; without a table: the
--- problems, one per line
function import.settings(yaml, name)
  local json = F.new "char *[1]"
  local ok, message = F.try(C.ij_yaml_read(yaml, #yaml, name, json))
  if not ok then return nil, message end
  local tree = decode(F.string(json[0]))
  C.ij_bytes_free(json[0])
  if not tree or not tree.map then
    return nil, name .. ": no sections data, logging, mask, meta, optimization"
  end
  local problems, notes = {}, {}
  local function report(line, fmt, ...)
    problems[#problems + 1] = ("%s:%d: "):format(name, line) .. fmt:format(...)
  end
  local function note(what) notes[#notes + 1] = (what:gsub("%c", "?")) end
  local out = { quirks = "reference", data = {}, model = {}, mask = { context = {}, target = {} },
    optim = {} }
  local seen = {}
  for _, item in ipairs(tree.map) do
    seen[item.key] = true
    if keys[item.key] then section(item.key, item, out, report, note)
    else report(item.key_line, "unknown section '%s'%s", item.key,
      text.hint(item.key, text.keys(keys))) end
  end
  for _, key in ipairs(text.keys(keys)) do
    if not seen[key] then note(("the section '%s' is missing: defaults are used"):format(key)) end
  end
  if #problems > 0 then
    return nil, (table.concat(problems, "\n"):gsub("[%z\1-\9\11-\31\127]", "?"))
  end
  combine(out)
  local fits, why = pcall(config.resolve, out, nil, {})
  if not fits then return nil, ("%s: %s"):format(name, (tostring(why):gsub("^[^\n']-: '", "'"))) end
  return out, notes
end

--- The text of a recipe for a YAML configuration of the published code.
---@param path string
---@return string? recipe, string? message one line per problem
function import.recipe(path)
  local file, why = io.open(path, "rb")
  local yaml = file and file:read(2 ^ 18 + 1)
  if file then file:close() end
  if not yaml then
    return nil, ("file '%s' could not be read: %s"):format(path,
      why and why:gsub("^.*: ", "") or "it is empty or a folder")
  end
  local given, notes = import.settings(yaml, path)
  if not given then return nil, notes --[[@as string]] end
  local name = path:match "[^/]*$":gsub("%c", "?")
  local lines = { ("-- Imported from %s, a configuration of the published code, with its quirks. Any value can also be"):format(name),
    "-- given as key=value on the command line." }
  for _, said in ipairs(notes) do lines[#lines + 1] = "--   " .. said end
  lines[#lines + 1] = 'local ijepa = require "ijepa"'
  lines[#lines + 1] = "local cfg = ijepa.config " .. config.dump(given):gsub("^return ", "")
    .. "return ijepa.pretrain(cfg)\n"
  return table.concat(lines, "\n")
end

return import

-- ijepa tests/fuzz/fuzz_state.lua SECONDS [SEED [FIRST]]: what a run reads of its folder, with
-- anything in it: the metadata and the header of its checkpoint, its config.lua, its log; and words
-- of the command line. Each must be taken, or refused in a line that names no place in our sources,
-- in a few seconds. A finding says its seed and its input's number, with which it comes again, and
-- leaves its folder.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local json = require "cjson.safe"
local C = F.C
local seconds, seed, first = tonumber(ijepa.args[1]) or 60, tonumber(ijepa.args[2]) or 1,
  tonumber(ijepa.args[3]) or 0
local LONG = 10   -- seconds past which one reading hangs
ijepa.args = {}

-- ---- draws

local r = F.new "ij_rng[1]"
local function below(n) return C.ij_rng_below(r, n) end
local function one(list) return list[1 + below(#list)] end

local WORDS = { "", "0", "-1", "1e999", "nan", "-nan", "9007199254740993", "0x10", "true", "null",
  "vit_tiny", "vit_giant", "multiblock",
  "../../x", "%s%n", "a\nb", "\0", "\255\254", "{", "[", "[[", "}", "]]", "--", "--[[", "return",
    "/", "ep1", ("9"):rep(400), ("["):rep(300),
  ("{"):rep(300), ("x"):rep(70000), "f32", "bf16", "function() end", "1/0", "0/0",
    "step\nseconds\nsettings" }
local VALUES = { 0, -1, 1, .5, 3, 16384, 1e9, 2 ^ 31, 2 ^ 53, -2 ^ 63, 1e300, true, false,
  json.null, "", "x", "16", {}, { 1 }, { 32, 48 }, { 0, 0 },
  { "a" }, { -1, 1e9 }, { { { } } }, { a = 1 } }
-- of metadata
local KEYS = { "step", "epoch", "seconds", "updates", "lr_scale", "wd_scale", "ijepa",
  "ijepa.numbers", "settings" }

-- Bytes changed, left out, doubled, or a word put in.
local function garbled(text)
  for _ = 1, 1 + below(3) do
    local at, what = below(#text + 1), below(4)
    local head, tail = text:sub(1, at), text:sub(at + 1)
    if what == 0 then text = head .. string.char(below(256)) .. tail:sub(2)
    elseif what == 1 then text = head .. tail:sub(1 + below(9))
    elseif what == 2 then text = head .. one(WORDS) .. tail:sub(1 + below(2))
    else text = head .. tail:sub(1, 1 + below(40)) .. tail end
  end
  return text
end

-- One value somewhere in a tree is changed, taken away or put in.
local function shaken(tree)
  if type(tree) ~= "table" or below(8) == 0 then
    return below(2) == 0 and one(WORDS) or one(VALUES)
  end
  local keys = {}
  for k in pairs(tree) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local what = below(12)
  if #keys == 0 or what == 0 then tree[one(WORDS)] = one(VALUES)
  elseif what == 1 then tree[one(keys)] = nil
  else
    local k = one(keys)
    tree[k] = shaken(tree[k])
  end
  return tree
end

-- ---- a whole run of two kinds of files, to begin with

local folder = os.tmpname()
os.remove(folder)
F.check(C.ij_mkdirs(folder .. "/run"))
local run_folder, path = folder .. "/run", folder .. "/run/jepa-latest.safetensors"
local given = { out = run_folder, data = { root = folder, batch = 2, crop = 32 },
  optim = { steps = 2 },
  mask = { min_keep = 2, context = { scale = { .8, 1 } } },
  model = { width = 16, depth = 1, heads = 2, patch = 8, pred_depth = 1, pred_dim = 8 } }
local cfg = ijepa.config(given)
require "ijepa.pretrain"
local function models()
  local encoder, predictor, target = ijepa.jepa.models(cfg)
  return { encoder = encoder, predictor = predictor, target_encoder = target,
    opt = ijepa.optim.adamw { models = { encoder, predictor } } }
end
local whole = models()
assert(ijepa.state.save(path, whole, cfg,
  { step = 2, epoch = 1, seconds = 1.5, lr_scale = 1, wd_scale = 1 }))
local run = assert(require "ijepa.run".open(run_folder, { config = cfg, quiet = true }))
for step = 1, 3 do run:log(step, { loss = 1 / step, epoch = 1, itr = step }) end
run:close()

local function slurp(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end
local function put(name, text)
  local file = assert(io.open(name, "wb"))
  file:write(text)
  file:close()
end
local whole_file, settings, log = slurp(path), slurp(run_folder .. "/config.lua"),
  slurp(run_folder .. "/jepa_r0.csv")
local header_size = 0
for i = 8, 1, -1 do header_size = header_size * 256 + whole_file:byte(i) end
local header, body = whole_file:sub(9, 8 + header_size), whole_file:sub(9 + header_size)

local function le8(n)
  local bytes = {}
  for i = 1, 8 do
    bytes[i] = string.char(n % 256)
    n = math.floor(n / 256)
  end
  return table.concat(bytes)
end

-- A checkpoint whose header is another: its metadata, mostly; the settings in it; anything.
local function checkpoint_bytes()
  local what, text = below(8), header
  if what < 6 then
    local tree = assert(json.decode(header))
    local meta = tree.__metadata__
    if what < 2 then meta[one(KEYS)] = one(WORDS)
    elseif what < 5 then meta.settings = json.encode(shaken(assert(json.decode(meta.settings))))
        or one(WORDS)
    else tree = shaken(tree) end
    text = json.encode(tree) or one(WORDS)
  elseif what == 6 then text = garbled(header) end
  local bytes = le8(#text) .. text .. body
  if what == 7 then
    bytes = below(2) == 0 and whole_file:sub(1, below(#whole_file)) or garbled(whole_file)
  end
  return bytes
end

-- ---- readings

local function encoder_of_c()
  local out = F.new "ij_encoder *[1]"
  local ok, message = F.try(C.ij_encoder_load(ijepa.device.get(), path, nil, out))
  if ok then C.ij_encoder_free(out[0]) end
  return ok, message
end
local function resume()
  local meta, message = ijepa.state.load(path, whole)
  if meta and (type(meta.step or meta.epoch) ~= "number" or type(meta.seconds) ~= "number") then
    return nil, "a step\nthat is none"
  end
  return meta, message
end
local function words()
  local all, list = ijepa.config.keys(), {}
  for i = 1, 1 + below(3) do
    list[i] = one(all) .. "=" .. (below(2) == 0 and one(WORDS) or tostring(one(VALUES)))
  end
  if below(3) == 0 then list[1] = garbled(list[1]) end
  local t = ijepa.config.resolve({}, nil, list)
  assert(loadstring(ijepa.config.dump(t)))
  return t
end

local READINGS = {
  { "words", words }, {
    "config.lua", function() return require "ijepa.run".config(run_folder) end },
  { "log", function() return require "ijepa.run".read_log(run_folder) end },
  { "latest", function() return ijepa.checkpoint.latest(run_folder) or true end },
    { "resume", resume },
  { "load", function() return ijepa.load(path, { quiet = true }) end }, { "C", encoder_of_c },
  { "model", function() return ijepa.model(run_folder) end },
}

-- What is wrong with how a reading ended, or nil.
local function fault(ok, result, message, took)
  if took > LONG then return ("took %.0f s"):format(took) end
  if not ok then message = result end
  if ok and result then return nil end
  if type(message) ~= "string" then return "refused without a message: " .. tostring(message) end
  local shown = message:gsub("'[^']*'", "''")   -- what is quoted is the file's own text
  if shown:find "\n" or shown:find "traceback" then return "more than a line: " .. message end
  if shown:find "ijepa[%w_./]*:%d+:" then return "an error in our own code: " .. message end
end

local started, count, taken, most = C.ij_time(), first, 0, 0
while count == first or C.ij_time() - started < seconds do
  C.ij_rng_init(r, seed, C.IJ_RNG_USER, count, 0)
  local which = below(8)
  put(path, which < 4 and checkpoint_bytes() or whole_file)
  put(run_folder .. "/config.lua", which > 3 and which < 7 and garbled(settings) or settings)
  put(run_folder .. "/jepa_r0.csv", which == 7 and garbled(log) or log)
  for _, reading in ipairs(READINGS) do
    local from = os.clock()   -- CPU time: a busy machine is no hang
    local ok, result, message = pcall(reading[2])
    local wrong = fault(ok, result, message, os.clock() - from)
    if wrong then
      io.stderr:write(("%s, seed %d, input %d: %s\nthe folder: %s\n"):format(reading[1], seed,
        count, wrong, folder))
      os.exit(1)
    end
    if ok and result then taken = taken + 1 end
  end
  count = count + 1
  most = math.max(most, tonumber(C.ij_rss_peak()))
  if count % 16 == 0 then collectgarbage() end
end
os.execute("rm -rf " .. folder)
print(("fuzz_state: %d inputs, %d readings of %d taken, most memory %.0f MB"):format(count - first,
  taken, (count - first) * #READINGS, most / 1e6))

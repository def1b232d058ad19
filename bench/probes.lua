-- What probes cost, on generated features: ijepa bench/probes.lua [train=50000] [test=5000]
-- [width=192] [classes=10] [epochs=30] [rounds=3] [what=linear,knn,ridge]. Prints the median of the
-- rounds, in seconds.
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local C = F.C
local function integer(default) return { type = "integer", default = default } end
local o = ijepa.config({}, { train = integer(50000), test = integer(5000), width = integer(192),
  classes = integer(10),
  rounds = integer(3), epochs = integer(30),
  what = { type = "strings", default = { "linear", "knn", "ridge" } } })

-- Normal noise around a centre of each class.
local function generate(R, part)
  local W, n, rng = o.width, o.classes, F.new "ij_rng"
  local centres, v, y, names = F.new("float[?]", n * W), F.new("float[?]", R * W),
    F.new("int32_t[?]", R), {}
  C.ij_rng_init(rng, 0, C.IJ_RNG_USER, 0, 0)
  for i = 0, n * W - 1 do centres[i] = .15 * C.ij_rng_normal(rng) end
  C.ij_rng_init(rng, 0, C.IJ_RNG_USER, part, 0)
  for r = 0, R - 1 do
    y[r] = r % n
    for i = 0, W - 1 do v[r * W + i] = centres[y[r] * W + i] + C.ij_rng_normal(rng) end
  end
  for i = 1, n do names[i] = ("class %d"):format(i) end
  return { x = ijepa.tensor.from_pointer(v, { R, W }, "f32", true),
    y = ijepa.tensor.from_pointer(y, { R }, "i32", true),
    classes = names, root = "generated" }
end

local train, test = generate(o.train, 1), generate(o.test, 2)
print(("%d rows of %d features, %d classes, %d test rows; %s, %d threads"):format(o.train, o.width,
  o.classes, o.test,
  F.string(C.ij_cpu_isa()), C.ij_threads_get()))
local probes = {
  linear = { ("linear probe, 12 pairs, %d epochs"):format(o.epochs),
    function(a, b) return ijepa.probe.classifier(a, b, { epochs = o.epochs }) end },
  knn = { "kNN, k = 20", ijepa.probe.knn },
  ridge = { "ridge, 6 lambdas", ijepa.probe.ridge },
}
for _, name in ipairs(o.what) do
  local probe, times, r = probes[name] or error("what: linear, knn or ridge, not " .. name, 0), {},
    nil
  for i = 1, o.rounds do
    local start = C.ij_time()
    r = probe[2](train, test)
    times[i] = C.ij_time() - start
  end
  table.sort(times)
  print(("%-34s %7.2f s   top-1 %.2f %%"):format(probe[1], times[math.ceil(#times / 2)], r.top1))
end

-- Probes against computations written out here: neighbours and ridge by brute force, gradients by
-- differences, the sweep on data that it must learn; and what they say to data that can't be
-- probed.
local lu = require "luaunit"
local ijepa = require "ijepa"
local F = require "ijepa.base.ffi"
local tensor, probe, features, score = ijepa.tensor, ijepa.probe, ijepa.features, ijepa.score
local C = F.C

local tests = {}
TestProbe = tests -- luacheck: ignore

-- R rows of noise around a centre of each of n classes, `apart` standard deviations from each
-- other; shape of a row.
local function made(R, n, shape, apart, part, classes)
  local W, rng = 1, F.new "ij_rng"
  for _, s in ipairs(shape) do W = W * s end
  local x, y, names = F.new("float[?]", R * W), F.new("int32_t[?]", R), {}
  C.ij_rng_init(rng, 3, C.IJ_RNG_USER, part, 0)
  for r = 0, R - 1 do
    y[r] = r % n
    for i = 0, W - 1 do x[r * W + i] = C.ij_rng_normal(rng) + ((i % n == y[r]) and apart or 0) end
  end
  for i = 1, n do names[i] = "class" .. i end
  return { x = tensor.from_pointer(x, { R, unpack(shape) }, "f32", true),
    y = tensor.from_pointer(y, { R }, "i32", true),
    classes = classes or names, root = "part" .. part }
end

function tests.test_knn_is_the_brute_force_one()
  local n, k, temperature = 7, 5, .1
  local train, test = made(90, n, { 6 }, 1, 1), made(40, n, { 6 }, 1, 2)
  local a, b, la, lb = train.x:totable(), test.x:totable(), train.y:totable(), test.y:totable()
  local function cosine(u, v)
    local uv, uu, vv = 0, 0, 0
    for i = 1, #u do uv, uu, vv = uv + u[i] * v[i], uu + u[i] ^ 2, vv + v[i] ^ 2 end
    return uv / math.sqrt(uu * vv)
  end
  local first, five = 0, 0
  for r, row in ipairs(b) do
    local near = {}
    for i, other in ipairs(a) do near[i] = { cosine(row, other), la[i] } end
    table.sort(near, function(u, v) return u[1] > v[1] end)
    local votes, order = {}, {}
    for c = 0, n - 1 do votes[c], order[c + 1] = 0, c end
    for i = 1, k do votes[near[i][2]] = votes[near[i][2]] + math.exp(near[i][1] / temperature) end
    table.sort(order, function(u, v) return votes[u] > votes[v] or votes[u] == votes[v]
      and u < v end)
    first = first + (order[1] == lb[r] and 1 or 0)
    for i = 1, 5 do five = five + (order[i] == lb[r] and 1 or 0) end
  end
  local result = probe.knn(train, test, { k = { k, 1, 20 }, temperature = temperature })
  lu.assertAlmostEquals(result.top1, 100 * first / 40, 1e-9)
  lu.assertAlmostEquals(result.top5, 100 * five / 40, 1e-9)
  lu.assertTrue(result.top1 > 100 / n and result.top1 < 100)   -- neither chance nor trivial
  lu.assertEquals(result.by_k[5].top1, result.top1)
  lu.assertEquals(probe.knn(train, test, { k = 20 }).k, 20)
  lu.assertEquals(probe.knn(train, test, { k = 1 }).top1, result.by_k[1].top1)
end

function tests.test_ridge_is_the_normal_equations()
  local n, W, lambda = 3, 5, .3
  local train, test = made(60, n, { W }, 1, 1), made(50, n, { W }, 1, 2)
  -- standardise, then gradient descent on |x w - y|^2 / R + lambda |w|^2 to its end
  local x, labels, t, R = train.x:totable(), train.y:totable(), test.x:totable(), 60
  local mean, dev, w = {}, {}, {}
  for i = 1, W do
    local m, s = 0, 0
    for r = 1, R do m = m + x[r][i] / R end
    for r = 1, R do s = s + (x[r][i] - m) ^ 2 / (R - 1) end
    mean[i], dev[i], w[i] = m, math.sqrt(s), { 0, 0, 0 }
  end
  local function z(row, i) return (row[i] - mean[i]) / dev[i] end
  local function predict(row, c)
    local sum = 1 / n
    for i = 1, W do sum = sum + z(row, i) * w[i][c] end
    return sum
  end
  for _ = 1, 300 do
    for c = 1, n do
      local g = { 0, 0, 0, 0, 0 }
      for r = 1, R do
        local off = predict(x[r], c) - (labels[r] == c - 1 and 1 or 0)
        for i = 1, W do g[i] = g[i] + off * z(x[r], i) / R end
      end
      for i = 1, W do w[i][c] = w[i][c] - .3 * (g[i] + lambda * w[i][c]) end
    end
  end
  local right, truth = 0, test.y:totable()
  for r, row in ipairs(t) do
    local best = 1
    for c = 2, n do best = predict(row, c) > predict(row, best) and c or best end
    right = right + (best - 1 == truth[r] and 1 or 0)
  end
  local result = probe.ridge(train, test, { lambda = { lambda }, per_class = true })
  lu.assertAlmostEquals(result.top1, 100 * right / 50, 1e-9)
  lu.assertEquals(result.lambda, lambda)
  -- and the numbers themselves
  local fit = probe.ridge.decompose(train)
  local got = probe.ridge.predict(fit, test.x, lambda):totable()
  for r, row in ipairs(t) do
    -- f32 sums of 60 terms near 1
    for c = 1, n do lu.assertAlmostEquals(got[r][c], predict(row, c), 2e-5) end
  end
  local sweep = probe.ridge(train, test)
  lu.assertEquals(#sweep.sweep, 6)
  for _, s in ipairs(sweep.sweep) do lu.assertTrue(s.held <= sweep.held) end
end

-- d loss / d p of a head by differences along a random direction
local function check_head(make, shape, G, n)
  local rng, B = F.new "ij_rng", 4
  C.ij_rng_init(rng, 1, C.IJ_RNG_USER, 0, 0)
  local head = make(G, shape, n, rng)
  for _, p in ipairs(head.params) do
    -- not the start: there the classifier is 0 and stops every gradient
    local v, count = p:read()
    for i = 0, count - 1 do v[i] = v[i] + .5 * C.ij_rng_normal(rng) end
    p:copy_(tensor.from_pointer(v, p:shape()))
  end
  local x = made(B, n, shape, 0, 9).x
  local labels = tensor.new({ 0, 1, 2, 0, 1, 2, 0, 1 }, "i32")
  local function loss() return tensor.cross_entropy(head.forward(x):reshape(B * G, n), labels) end
  local function value() return ijepa.no_grad(function() return loss():item() end) end
  loss():backward()
  for which, p in ipairs(head.params) do
    local at, count = p:read()
    local g, v, buf, slope = p:grad():read(), {}, F.new("float[?]", count), 0
    for i = 0, count - 1 do
      v[i] = C.ij_rng_normal(rng)
      slope = slope + g[i] * v[i]
    end
    local h, side = 3e-3, {}
    for s = -1, 1, 2 do
      for i = 0, count - 1 do buf[i] = at[i] + s * h * v[i] end
      p:copy_(tensor.from_pointer(buf, p:shape()))
      side[s] = value()
    end
    p:copy_(tensor.from_pointer(at, p:shape()))
    local difference = (side[1] - side[-1]) / (2 * h)
    -- a loss near 1 is known to 1e-7, its difference over 2h to 2e-5; and h^2 of the third
    -- derivative
    lu.assertTrue(math.abs(slope - difference) <= 5e-3 * math.max(.1, math.abs(slope)),
      ("parameter %d: %g, by differences %g"):format(which, slope, difference))
  end
end
function tests.test_gradients_of_the_heads()
  check_head(probe.attentive_head(3), { 5, 6 }, 2, 3)
  check_head(probe.linear_head, { 7 }, 2, 3)
end

function tests.test_attentive_head_is_cross_attention()
  -- one query with keys and values written out: q k / softmax / v, with k = K x, and the head's
  -- vector K^T q
  local D, N = 4, 3
  local rng = F.new "ij_rng"
  C.ij_rng_init(rng, 2, C.IJ_RNG_USER, 0, 0)
  local head = probe.attentive_head(2)(1, { N, D }, 3, rng)
  local query, value, w = head.params[1], head.params[2], head.params[3]
  local v, count = w:read()
  for i = 0, count - 1 do v[i] = C.ij_rng_normal(rng) end
  w:copy_(tensor.from_pointer(v, w:shape()))
  local x = made(1, 3, { N, D }, 0, 4).x:totable()[1]
  local q, vals, ws, y = query:totable()[1], value:totable()[1], w:totable()[1], {}
  for a = 1, 2 do
    local p, sum = {}, 0
    for i = 1, N do
      local s = 0
      for d = 1, D do s = s + x[i][d] * q[a][d] end
      p[i] = math.exp(s)
      sum = sum + p[i]
    end
    for s = 1, D / 2 do
      local out = 0
      for i = 1, N do
        for d = 1, D do out = out + p[i] / sum * x[i][d] * vals[a][d][s] end
      end
      y[(a - 1) * D / 2 + s] = out
    end
  end
  local m, var = 0, 0
  for d = 1, D do m = m + y[d] / D end
  for d = 1, D do var = var + (y[d] - m) ^ 2 / D end
  local got = head.forward(made(1, 3, { N, D }, 0, 4).x):totable()[1][1]
  for c = 1, 3 do
    local want = 0
    for d = 1, D do want = want + ws[c][d] * (y[d] - m) / math.sqrt(var + 1e-5) end
    lu.assertAlmostEquals(got[c], want, 1e-5)
  end
end

function tests.test_sweeps_learn_and_choose()
  local train, test = made(300, 6, { 8 }, 4, 1), made(120, 6, { 8 }, 4, 2)
  for _, norm in ipairs { "data", "batch", "none" } do
    local r = probe.classifier(train, test,
      { lr = { 0, 1e-2 }, wd = { .01 }, epochs = 10, batch = 32, norm = norm, per_class = true })
    lu.assertEquals(r.lr, 1e-2)
    lu.assertTrue(r.top1 > 90 and r.top5 >= r.top1 and r.interval[1] < r.top1
      and r.interval[2] >= r.top1)
    lu.assertEquals(#r.heads, 2)
    lu.assertEquals(r.heads[2].top1, r.top1)   -- two ways of counting
    local mean, classes = 0, 0
    for _, share in pairs(r.per_class) do mean, classes = mean + share, classes + 1 end
    lu.assertEquals(classes, 6)
    lu.assertAlmostEquals(mean / 6, r.top1, 1e-9)
  end
  local sgd = probe.classifier(train, test,
    setmetatable({ batch = 32, norm = "batch" }, { __index = probe.published }))
  lu.assertTrue(sgd.top1 > 90)
  lu.assertEquals(#sgd.heads, 6)
  local again = probe.classifier(train, test,
    setmetatable({ batch = 32, norm = "batch" }, { __index = probe.published }))
  for g = 1, 6 do lu.assertEquals(again.heads[g].top1, sgd.heads[g].top1) end
end

function tests.test_attentive_probe_finds_what_pooling_hides()
  -- the class is the sign of feature 2 in the one patch whose feature 1 is large; the other patches
  -- drown it when pooled
  local function drawn(R, part)
    local N, D, rng = 12, 4, F.new "ij_rng"
    local x, y = F.new("float[?]", R * N * D), F.new("int32_t[?]", R)
    C.ij_rng_init(rng, 3, C.IJ_RNG_USER, part, 0)
    for r = 0, R - 1 do
      y[r] = r % 2
      for i = 0, N * D - 1 do
        x[r * N * D + i] = C.ij_rng_normal(rng) * (i % D == 0 and .3 or 1.5)
      end
      local p = (r * N + C.ij_rng_below(rng, N)) * D
      x[p], x[p + 1] = 4, y[r] == 0 and 2 or -2
    end
    return { x = tensor.from_pointer(x, { R, N, D }, "f32", true),
      y = tensor.from_pointer(y, { R }, "i32", true),
      classes = { "a", "b" }, root = "drawn" }
  end
  local train, test = drawn(400, 1), drawn(200, 2)
  local function pooled(f)
    return { x = f.x:mean(2):clone(true), y = f.y, classes = f.classes, root = f.root }
  end
  local linear = probe.classifier(pooled(train), pooled(test),
    { lr = { 1e-2 }, wd = { .01 }, epochs = 20, batch = 32 })
  local attentive = probe.attentive(train, test,
    { lr = { 3e-3, 3e-2 }, wd = { .01 }, epochs = 20, batch = 32 })
  lu.assertTrue(attentive.top1 > 90, attentive.top1)
  lu.assertTrue(linear.top1 < 75, linear.top1)
  lu.assertErrorMsgContains("the features are pooled", probe.attentive, pooled(train), pooled(test))
end

function tests.test_lowshot_draws_of_each_class()
  local train, test = made(300, 6, { 8 }, 3, 1), made(60, 6, { 8 }, 3, 2)
  local r = probe.lowshot(train, test, { number = 5, draws = 2, epochs = 10 })
  lu.assertEquals(r.count, 30)
  lu.assertEquals(#r.draws, 2)
  lu.assertAlmostEquals(r.top1, (r.draws[1].top1 + r.draws[2].top1) / 2, 1e-9)
  lu.assertAlmostEquals(r.deviation, math.abs(r.draws[1].top1 - r.draws[2].top1) / math.sqrt(2),
    1e-6)
  lu.assertTrue(r.top1 > 50)
  lu.assertEquals(probe.lowshot(train, test, { share = .1, draws = 1, epochs = 1 }).count, 30)
  local rows, labels, count = assert(features.few(train, { number = 5, seed = 1 })),
    train.y:totable(), {}
  for _, i in ipairs(rows) do count[labels[i + 1]] = (count[labels[i + 1]] or 0) + 1 end
  for c = 0, 5 do lu.assertEquals(count[c], 5) end
  lu.assertNotEquals(assert(features.few(train, { number = 5, seed = 2 })), rows)
  lu.assertErrorMsgContains("class 'class1' has 50 images in 'part1', not 51", probe.lowshot, train,
    test, { number = 51 })
end

function tests.test_interval()
  local low, high = score.interval(90, 100)   -- Wilson's interval as the tables have it
  lu.assertAlmostEquals(low, 82.56, .01)
  lu.assertAlmostEquals(high, 94.48, .01)
  lu.assertEquals({ score.interval(0, 0) }, { 0, 100 })
end

function tests.test_misuse_is_one_line()
  local train, test = made(30, 3, { 4 }, 1, 1), made(12, 3, { 4 }, 1, 2)
  local function refused(text, f, ...)
    local ok, message = pcall(f, ...)
    lu.assertFalse(ok)
    lu.assertStrContains(message, text)
    lu.assertNotStrContains(message, "\n")
  end
  refused("k is 31, but 'part1' has 30 images", probe.knn, train, test, { k = 31 })
  refused("temperature is 0", probe.knn, train, test, { k = 3, temperature = 0 })
  refused("'part2' has the class 'other', which 'part1' has not", probe.knn, train,
    made(12, 3, { 4 }, 1, 2, { "class1", "class2", "other" }))
  local lacking = made(30, 3, { 4 }, 1, 1, { "class1", "class2", "class3", "class4" })
  refused("class 'class4' has no training image in 'part1'", probe.classifier, lacking,
    made(12, 3, { 4 }, 1, 2, lacking.classes))
  refused("lambda is -1", probe.ridge, train, test, { lambda = { -1 } })
  refused("norm is 'layer'", probe.classifier, train, test, { norm = "layer" })
  refused("optimizer is 'lion'", probe.classifier, train, test, { optimizer = "lion" })
  refused("width 4 does not divide by 3 heads", probe.sweep, probe.attentive_head(3),
    made(30, 3, { 2, 4 }, 1, 1), made(12, 3, { 2, 4 }, 1, 2))
end

-- What tensors do in Lua beyond their ops: brackets and assignments, types, printing, random
-- values, .npy files, gradients of one's own.
local lu = require "luaunit"
local ijepa = require "ijepa"
local support = require "support"
local tensor = ijepa.tensor

local tests = {}
TestTensorLua = tests -- luacheck: ignore

local function refused(part, f)
  local ok, message = pcall(f)
  lu.assertFalse(ok)
  lu.assertStrContains(message, part)
  lu.assertStrContains(message, "test_tensor_lua.lua")
end

function tests.test_brackets_and_assignments()
  local x = tensor.arange(12):reshape(3, 4)
  lu.assertEquals(x[2]:totable(), { 4, 5, 6, 7 })
  lu.assertEquals(x[-1][-1]:item(), 11)
  lu.assertEquals(x[{ { 1, 2 }, 2 }]:totable(), { 1, 5 })
  lu.assertEquals(x[{ {}, { 3 } }]:totable(), { { 2 }, { 6 }, { 10 } })
  lu.assertEquals(x[{ 2, 3 }]:item(), 6)
  lu.assertEquals(x[x:gt(8)]:totable(), { 9, 10, 11 })
  lu.assertEquals(x[tensor.new({ 2, 0 }, "i32")]:totable(), { { 8, 9, 10, 11 }, { 0, 1, 2, 3 } })
  x[1] = 5
  x[2] = tensor.new { 1, 2, 3, 4 }
  x[3] = { 9, 8, 7, 6 }
  lu.assertEquals(x:totable(), { { 5, 5, 5, 5 }, { 1, 2, 3, 4 }, { 9, 8, 7, 6 } })
  x[2][2] = 0
  x[{ {}, 4 }] = -1
  x[{ { 1, 2 }, { 1, 2 } }] = tensor.new { { 7, 7 } }   -- broadcasts
  lu.assertEquals(x:totable(), { { 7, 7, 5, -1 }, { 7, 7, 3, -1 }, { 9, 8, 7, -1 } })
  x[x:lt(0)] = 0
  lu.assertEquals(x[{ {}, 4 }]:totable(), { 0, 0, 0 })
  x[x:gt(7)] = tensor.new { 1, 2 }
  lu.assertEquals(x[3]:totable(), { 1, 2, 7, 0 })
  refused("index 4 of dimension 1 is not in 1..3", function() return x[4] end)
  refused("index 0 of dimension 1", function() x[0] = 1 end)
  refused("3 indices for 2 dimensions", function() return x[{ 1, 1, 1 }] end)
  refused("1 values for 7 places", function() x[x:gt(2)] = tensor.new { 1 } end)
  local w = tensor.zeros(2):requires_grad_()
  refused("the gradient of (2) would be lost", function() w[1] = 3 end)
end

function tests.test_shape_is_a_list_and_a_method()
  local x = tensor.zeros(2, 3)
  lu.assertEquals(x:shape(), { 2, 3 })
  lu.assertEquals(x.shape[2], 3)
  lu.assertEquals(#x.shape, 2)
  lu.assertEquals(tostring(x.shape), "(2, 3)")
end

function tests.test_types()
  local i = tensor.new({ 3, -2 }, "i32")
  lu.assertEquals((i + 1):dtype(), "i32")
  lu.assertEquals((i + .5):totable(), { 3.5, -1.5 })
  lu.assertEquals((i / 2):totable(), { 1.5, -1 })
  lu.assertEquals((i + tensor.new { .25, .5 }):dtype(), "f32")
  lu.assertEquals((i + tensor.new({ 1, 1 }, "i64")):dtype(), "i64")
  lu.assertEquals(i:gt(0):dtype(), "u8")
  lu.assertEquals(i:gt(0):totable(), { 1, 0 })
  lu.assertEquals(tensor.lt(0, i):totable(), { 1, 0 })
  lu.assertEquals(i:abs():totable(), { 3, 2 })
  local many = tensor.full({ 300 }, 1, "u8")
  lu.assertEquals(many:sum():item(), 300)
  lu.assertEquals(many:sum():dtype(), "i64")
  lu.assertEquals(i:mean():item(), .5)
  lu.assertAlmostEquals(i:exp():totable()[1], math.exp(3), 1e-4)
  lu.assertEquals((tensor.new { 1, 2 }:to "bf16" + 1):totable(), { 2, 3 })
  lu.assertEquals((5 - i):totable(), { 2, 7 })
  lu.assertEquals((2 ^ tensor.new { 3 }):item(), 8)
end

function tests.test_creation()
  lu.assertEquals(tensor.arange(3):totable(), { 0, 1, 2 })
  lu.assertEquals(tensor.arange(5, 1, -2, "i64"):totable(), { 5, 3 })
  lu.assertEquals(tensor.linspace(0, 1, 5):totable(), { 0, .25, .5, .75, 1 })
  lu.assertEquals(tensor.eye(2, 3):totable(), { { 1, 0, 0 }, { 0, 1, 0 } })
  lu.assertEquals(tensor.ones(2, 1):totable(), { { 1 }, { 1 } })
  lu.assertEquals(tensor.full({ 2 }, 7, "u8"):totable(), { 7, 7 })
  lu.assertEquals(tensor.new({ 1, 0 }, "i32"):one_hot(3):totable(), { { 0, 1, 0 }, { 1, 0, 0 } })
  refused("value 3 is outside 0..2", function() return tensor.new({ 3 }, "i32"):one_hot(3), 1 end)
  refused("the lists differ in length", function() return tensor.new { { 1, 2 }, { 3 } } end)
  lu.assertEquals(tensor.new { { 1, 0 }, { 0, 2 } }:nonzero():totable(), { { 0, 0 }, { 1, 1 } })
  lu.assertEquals(tensor.new { 3, 1, 3, 2 }:unique():totable(), { 1, 2, 3 })
  lu.assertEquals(tensor.new { 0, 2 }:any():item(), 1)
  lu.assertEquals(tensor.new { 0, 2 }:all():item(), 0)
end

function tests.test_random_values_follow_from_the_seed()
  tensor.manual_seed(5, 2)
  local a, b = tensor.randn(1000), tensor.rand(1000)
  tensor.manual_seed(5, 2)
  lu.assertEquals(a:totable(), tensor.randn(1000):totable())
  lu.assertEquals(b:totable(), tensor.rand(1000):totable())
  lu.assertTrue((a - tensor.randn(1000)):abs():max():item() > .1)
  tensor.manual_seed(5, 3)
  lu.assertTrue((a - tensor.randn(1000)):abs():max():item() > .1)
  lu.assertAlmostEquals(a:mean():item(), 0, .12)
  lu.assertAlmostEquals(a:std():item(), 1, .1)
  lu.assertTrue(b:min():item() >= 0 and b:max():item() < 1)
  local own = tensor.randn({ 4 }, { seed = 1, step = 9 })
  tensor.manual_seed(8)
  lu.assertEquals(own:totable(), tensor.randn({ 4 }, { seed = 1, step = 9 }):totable())
  local p = tensor.randperm(50):sort(1)
  lu.assertEquals(p:totable(), tensor.arange(50):totable())
  local r = tensor.randint(-2, 3, { 500 })
  lu.assertEquals({ r:min():item(), r:max():item(), r:dtype() }, { -2, 2, "i32" })
  local x = tensor.ones(2000):dropout(.25)
  lu.assertAlmostEquals(x:mean():item(), 1, .1)
  lu.assertEquals(x:unique():numel(), 2)
  lu.assertEquals(tensor.ones(3):dropout(.5, false):totable(), { 1, 1, 1 })
  refused("unknown option 'sed'", function() return tensor.rand({ 2 }, { sed = 1 }), 1 end)
end

function tests.test_a_gradient_of_ones_own()
  local calls = 0
  local double = tensor.fn {
    forward = function(ctx, x, y, factor)
      ctx.y, ctx.factor = y, factor
      return x * y * factor
    end,
    backward = function(ctx, dy)
      calls = calls + 1
      return dy * ctx.y * ctx.factor, nil
    end,
  }
  local x, y = tensor.new { 1, 2 }:requires_grad_(), tensor.new { 3, 4 }:requires_grad_()
  local z = double(x:exp(), y, 10)
  lu.assertTrue(z:requires_grad())
  z:sum():backward()
  lu.assertAlmostEquals(x:grad():totable()[2], 40 * math.exp(2), 1e-3)
  lu.assertNil(y:grad())
  lu.assertEquals(calls, 1)
  local broken = tensor.fn { forward = function(_, v) return v * 1 end,
    backward = function() error "no such luck" end }
  local ok, why = pcall(function() broken(x):sum():backward() end)
  lu.assertFalse(ok)
  lu.assertStrContains(why, "no such luck")
  local again = (x * 2):sum()   -- a failed backward leaves nothing behind
  again:backward()
  refused("'forward' is a nil", function() tensor.fn { backward = print } end)
end

function tests.test_backward_twice()
  local x = tensor.new { 1, 2 }:requires_grad_()
  local loss = (x * x):sum()
  loss:backward { retain = true }
  loss:backward()
  lu.assertEquals(x:grad():totable(), { 4, 8 })
  refused("unknown option 'retian'", function() (x * 2):sum():backward { retian = true } end)
  local d = (x * 3):detach()
  lu.assertFalse(d:requires_grad())
  lu.assertEquals(d:totable(), { 3, 6 })
end

function tests.test_printing()
  local text = tostring(tensor.arange(8):reshape(2, 2, 2))
  lu.assertStrContains(text, "tensor f32 (2, 2, 2) on ")
  lu.assertStrContains(text, "[[[0, 1],\n  [2, 3]],\n\n [[4, 5],\n  [6, 7]]]")
  lu.assertStrContains(tostring(tensor.new { 1.5, -2 }), "[ 1.5000, -2.0000]")
  lu.assertStrContains(tostring(tensor.new { 1 / 0, 0 / 0 }), "[inf, nan]")
  lu.assertStrContains(tostring(tensor.zeros(0)), "[]")
  local large = tostring(tensor.arange(10000):reshape(100, 100))
  lu.assertStrContains(large, "...")
  lu.assertTrue(#large < 600)
  for line in large:gmatch "[^\n]+" do lu.assertTrue(#line <= 80) end
end

function tests.test_npy_files()
  local folder = support.folder()
  local path = folder .. "/x.npy"
  for _, dtype in ipairs { "f32", "i32", "i64", "u8" } do
    local x = tensor.new({ { 1, 2, 3 }, { 4, 5, 6 } }, dtype)
    assert(x:write_npy(path))
    local y = assert(tensor.read_npy(path))
    lu.assertEquals(y:dtype(), dtype)
    lu.assertEquals(y:totable(), x:totable())
    lu.assertEquals(tensor.read_npy(path, 2, 1):totable(), { { 4, 5, 6 } })
  end
  local bytes = support.read(path)
  lu.assertEquals(#bytes % 64, 6)   -- the header's end is aligned
  local function message(content)
    support.write(path, content)
    local t, why = tensor.read_npy(path)
    lu.assertNil(t)
    return why
  end
  lu.assertStrContains(message "hello", "is not an .npy file")
  lu.assertStrContains(message(bytes:sub(1, -2)), "is truncated")
  lu.assertStrContains(message((bytes:gsub("|u1", "|O1"))), "its values are '|O1'")
  -- as NumPy writes a Fortran array of doubles: 1 2 / 3 4
  local ffi = require "ijepa.base.ffi"
  local values = ffi.new("double[4]", { 1, 3, 2, 4 })
  local text = "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), }"
  text = text .. (" "):rep(127 - 10 - #text) .. "\n"
  support.write(path, "\147NUMPY\1\0" .. string.char(#text, 0) .. text .. ffi.string(values, 32))
  lu.assertEquals(tensor.read_npy(path):totable(), { { 1, 2 }, { 3, 4 } })
end

function tests.test_a_file_takes_tensors_and_their_handles()
  local path = support.folder() .. "/x.safetensors"
  local x = tensor.new { { 1, 2 }, { 3, 4 } }
  assert(ijepa.tensors.save(path, { { name = "a", tensor = x }, { name = "b", tensor = x.h } }))
  local file = assert(ijepa.tensors.open(path))
  for _, name in ipairs { "a", "b" } do
    local y = tensor.zeros(2, 2)
    assert(file:load(name, y))
    lu.assertEquals(y:totable(), { { 1, 2 }, { 3, 4 } })
  end
  file:close()
  for _, wrong in ipairs { 5, {}, "x", false } do
    refused("item 1, 'a': tensor is a " .. type(wrong) .. ", expected a tensor",
      function() ijepa.tensors.save(path, { { name = "a", tensor = wrong } }) end)
  end
end

function tests.test_the_page_and_its_table()
  local page = support.read "docs/tensor.md"
  local script = assert(loadfile "docs/tensor_table.lua")
  local table_text = setfenv(script, setmetatable({ arg = false }, { __index = _G }))()
  lu.assertTrue(page:find(table_text, 1, true) ~= nil,
    "docs/tensor.md is stale: luajit docs/tensor_table.lua write")
  local blocks = 0
  for block in page:gmatch "```lua\n(.-)```" do
    blocks = blocks + 1
    local chunk = assert(loadstring(block, "=docs/tensor.md"))
    setfenv(chunk, setmetatable({ print = tostring }, { __index = _G }))
    chunk()
  end
  lu.assertTrue(blocks >= 2)
end

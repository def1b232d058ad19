-- The writers of logs that tools read: JSON lines and TensorBoard's event files (tests/python reads
-- those with TensorBoard).
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local run = require "ijepa.run"
local support = require "support"
local decode = require "cjson.safe".decode
local crc32c = require "ijepa.run.tensorboard".crc32c

local tests = {}
TestLogs = tests -- luacheck: ignore

local slurp = support.read

function tests:setUp()
  self.out = support.folder()
  self.said = ""
  self.stream = { write = function(_, ...) self.said = self.said .. table.concat { ... } end }
end

function tests:open(resume, rank)
  return assert(run.open(self.out, { stream = self.stream, quiet = true, ipe = 4, resume = resume,
    rank = rank,
    logs = { json = true, tensorboard = true } }))
end

local diagnosis = { cosine_distance = .5, rankme = 12.5, max_rank = 64, level = "ok",
  text = 'effective "rank" 12 of 64', lidar = 0 / 0 }

local function fill(r, from, to)
  for step = from, to do
    lu.assertTrue(r:log(step, { loss = step / 7, k = 69, t = 41.5, ms = 12, lr = 1e-3, wd = .04,
      momentum = .996, images = 32,
      memory = 1, grads = step % 4 == 0 and { first = 1, last = 0 / 0 } or nil }))
    if step % 5 == 0 then
      diagnosis.step = step
      lu.assertTrue(r:diagnosis(diagnosis))
    end
  end
  r:close()
end

function tests:test_json_lines()
  fill(self:open(), 1, 8)
  local rows = {}
  for line in slurp(self.out .. "/jepa.jsonl"):gmatch "([^\n]*)\n" do
    rows[#rows + 1] = assert(decode(line), line)
  end
  lu.assertEquals(#rows, 9)
  lu.assertEquals({ rows[5].step, rows[5].epoch, rows[5].itr, rows[5].loss, rows[5].momentum }, { 5,
    2, 0, 5 / 7, .996 })
  lu.assertEquals({ rows[5].lr, rows[5].wd, rows[5].k, rows[5].t, rows[5].ms }, { 1e-3, .04, 69,
    41.5, 12 })
  lu.assertTrue(rows[5].images_per_second > 0)
  lu.assertEquals(rows[4].qkv_grads.first, 1)
  lu.assertEquals(rows[4].qkv_grads.last, require "cjson".null)
  lu.assertEquals(rows[6].step, 5)
  lu.assertEquals(rows[6].diagnosis.rankme, 12.5)
  lu.assertEquals(rows[6].diagnosis.text, 'effective "rank" 12 of 64')
end

function tests:test_resume_cuts_later_rows()
  local function steady()
    return (slurp(self.out .. "/jepa.jsonl"):gsub('"images_per_second":[^,}]*', ""))
  end
  fill(self:open(), 1, 11)
  local whole = steady()
  for resume = 1, 11 do
    local f = io.open(self.out .. "/jepa.jsonl", "ab")
    f:write '{"step":3,"epo'   -- a crash in the middle of a row
    f:close()
    fill(self:open(resume), resume + 1, 11)
    lu.assertEquals(steady(), whole)
  end
  self:open():close()
  lu.assertEquals(slurp(self.out .. "/jepa.jsonl"), "")
  lu.assertEquals((slurp(self.out .. "/jepa.old.jsonl"):gsub('"images_per_second":[^,}]*', "")),
    whole)
end

-- { length, data } of every record of an event file; its checksums must be right.
local function records(bytes)
  local list, at = {}, 1
  local function masked(s)
    local c = crc32c(s) % 2 ^ 32
    return (math.floor(c / 2 ^ 15) + c % 2 ^ 15 * 2 ^ 17 + 0xa282ead8) % 2 ^ 32
  end
  local function u32(from)
    local a, b, c, d = bytes:byte(from, from + 3)
    return a + b * 2 ^ 8 + c * 2 ^ 16 + d * 2 ^ 24
  end
  while at <= #bytes do
    local n = u32(at)
    lu.assertEquals(u32(at + 8), masked(bytes:sub(at, at + 7)))
    list[#list + 1] = bytes:sub(at + 12, at + 11 + n)
    lu.assertEquals(u32(at + 12 + n), masked(list[#list]))
    at = at + 16 + n
  end
  return list
end

function tests:test_tensorboard_records()
  lu.assertEquals(crc32c "123456789" % 2 ^ 32, 0xe3069283)
  lu.assertEquals(crc32c(("\0"):rep(32)) % 2 ^ 32, 0x8a9136aa)
  fill(self:open(), 1, 5)
  fill(self:open(3), 4, 5)
  self:open(nil, 1):close()   -- another process writes none
  local files = {}
  for _, name in ipairs(support.list(self.out)) do
    if name:find "tfevents" then files[#files + 1] = records(slurp(self.out .. "/" .. name)) end
  end
  lu.assertEquals({ #files, #files[1], #files[2] }, { 2, 8, 5 })
  lu.assertStrContains(files[1][1], "brain.Event:2")
  -- counts from step 4 on: SessionLog START
  lu.assertEquals(files[2][2]:sub(10), "\16\4" .. "\58\2\8\1")
  lu.assertStrContains(files[1][3], "train/loss\21" .. F.string(F.new("float[1]", 1 / 7), 4))
  lu.assertStrContains(files[1][8], "diagnosis/verdict")
end

function tests:test_a_full_disk_is_told_once()
  local r = self:open()
  for _, writer in ipairs(r._writers) do
    local holder = writer.rows or writer
    holder:close()
    holder.file = assert(io.open("/dev/full", "wb"))
    holder.file:setvbuf "no"
  end
  for step = 1, 3 do
    local ok, message = r:log(step, { loss = 1 })
    lu.assertNil(ok)
    lu.assertStrContains(message, "No space left")
  end
  lu.assertEquals(select(2, self.said:gsub("\n", "")), 1)
  r:close()
end

-- ijepa tests/lua/run.lua [-p NAME] [FILE ...]: runs these files of tests, or every
-- tests/lua/test_*.lua; with -p only tests whose name holds NAME. Exit 77: all skipped.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"

local here = arg[0]:match "^(.*)/" or "."
local files, only = { ... }, nil
if files[1] == "-p" then only, files = files[2], { unpack(files, 3) } end
if #files == 0 then
  local names = F.new "char *[1]"
  F.check(F.C.ij_dir_list(here, names))
  for name in F.string(names[0]):gmatch "test_[^\n]*%.lua" do
    files[#files + 1] = here .. "/" .. name
  end
  F.C.ij_bytes_free(names[0])
end
package.path = here .. "/?.lua;" .. package.path
local support = require "support"
-- an argument: the file only defines its tests
for _, file in ipairs(files) do assert(loadfile(file))(file) end

local runner = lu.LuaUnit.new()
function runner:execOneFunction(...)
  lu.LuaUnit.execOneFunction(self, ...)
  support.finish_test()
end
local options = { "--output", "text", only and "-p", only }
local code = runner:runSuite(unpack(options))   -- arguments: else it reads the command line
local result = runner.result
if code == 0 and result.runCount == 0 and result.skippedCount > 0 then code = 77 end
support.finish()
os.exit(code)

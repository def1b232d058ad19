-- Why a path does not exist, and sizes with their units.
local lu = require "luaunit"
local F = require "ijepa.base.ffi"
local paths = require "ijepa.base.paths"
local text = require "ijepa.base.text"
local data = require "ijepa.data"

local tests = {}
TestPaths = tests -- luacheck: ignore

local folder
function tests.setUp()
  folder = os.tmpname()
  os.remove(folder)
  for _, name in ipairs { "images", "imagenet", "other", ".hidden" } do
    F.check(F.C.ij_mkdirs(folder .. "/" .. name))
  end
end
function tests.tearDown() os.execute("rm -rf " .. folder) end

function tests.test_what_the_shell_did_not_expand()
  lu.assertEquals(paths.hint "~/images", ": the shell did not expand '~' (it does so only where a "
    .. "word begins): give the complete path, such as \"$HOME/images\"")
  lu.assertStrContains(paths.hint "data/{train,val}", "the shell did not expand '{train,val}'")
  lu.assertStrContains(paths.hint "shards/{000..146}.tar", "the shell did not expand '{000..146}'")
  lu.assertStrContains(paths.hint "shards/*.tar", "the shell did not expand '*.tar'")
  lu.assertStrContains(paths.hint "shards/[0-9]/x", "the shell did not expand '[0-9]'")
end

function tests.test_nearest_folder_and_similar_names()
  lu.assertEquals(paths.hint(folder .. "/imags"),
    (": did you mean 'images' in '%s'?"):format(folder))
  lu.assertEquals(paths.hint(folder .. "/imagess/train/"),
    (": did you mean 'images' in '%s'?"):format(folder))
  lu.assertEquals(paths.hint(folder .. "/xyz/train"),
    (": '%s' exists and holds no 'xyz'"):format(folder))
  lu.assertEquals(paths.hint(folder .. "/oth"), (": did you mean 'other' in '%s'?"):format(folder))
  lu.assertEquals(paths.hint(folder .. "/image"),
    (": did you mean 'imagenet' or 'images' in '%s'?"):format(folder))
  lu.assertEquals(paths.hint "/nowhere-at-all/x", ": '/' exists and holds no 'nowhere-at-all'")
  lu.assertEquals(paths.hint "nowhere-at-all",
    ": the current folder exists and holds no 'nowhere-at-all'")
  local file = assert(io.open(folder .. "/file", "w"))
  file:close()
  lu.assertEquals(paths.hint(folder .. "/file/x"),
    (": '%s/file' is a file, not a folder"):format(folder))
end

-- data.root: never expanded, always explained.
function tests.test_data_root()
  local home = os.getenv "HOME"
  for root, part in pairs { ["~"] = "did not expand '~'", ["~/x"] = "did not expand '~'",
    [folder .. "/{images,other}"] = "did not expand '{images,other}'",
    [folder .. "/*"] = "did not expand '*'", [folder .. "/imags"] = "did you mean 'images'" } do
    for _, given in ipairs { root, { folder .. "/images", root } } do
      local c, message = data.catalogue { root = given }
      lu.assertNil(c)
      lu.assertStrContains(message, ("data '%s' is not there: "):format(root))
      lu.assertStrContains(message, part)
    end
  end
  lu.assertEquals(os.getenv "HOME", home)
end

function tests.test_bytes_with_their_unit()
  for n, expected in pairs { [0] = "0 bytes", [1] = "1 byte", [999] = "999 bytes",
    [1000] = "1.00 kB", [4321] = "4.32 kB", [999499] = "999 kB", [999500] = "1.00 MB",
    [2.5e6] = "2.50 MB", [9.996e6] = "10.0 MB", [99.96e6] = "100 MB", [1.5e9] = "1.50 GB",
    [147e9] = "147 GB", [3e12] = "3.00 TB", [3e16] = "30000 TB" } do
    lu.assertEquals(text.bytes(n), expected)
  end
end

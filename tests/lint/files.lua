-- Files for the lints and for tests/cuda/sass.lua, which run in plain luajit.
local files = {}

--- A file's bytes, or nil.
function files.read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

--- The lines that a shell command prints.
function files.lines_of(command)
  local list, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

--- What belongs to the project: git's list, or all but builds and runs where there is no git.
function files.of_project()
  local list = files.lines_of "git ls-files --cached --others --exclude-standard 2>/dev/null"
  if #list > 0 then return list end
  return files.lines_of("find . -type f -not -path './.git/*' -not -path './build*' " ..
    "-not -path './runs/*' | sed 's|^\\./||'")
end

return files

--- Runs the user's functions of a mask policy so that Ctrl-C stops a loop without end, with the
--- user's line in errors.
--
-- A hook that counts instructions asks for Ctrl-C, but compiled code calls no hooks. So the user's
-- functions must run interpreted; ours stay compiled, since each of their loops ends. `interpret`
-- excludes from compilation what a policy can reach when it is made and has drawn its first group:
-- nested functions, upvalues, tables and their metatables at any depth, globals and loaded modules
-- that it names, coroutines of these. Not covered: a function that comes into reach later, such as
-- one made by loadstring in a call, or put into a table by a hook. If such a function is compiled,
-- Ctrl-C waits until it returns; so it does for one call of a C function, such as string.rep.
-- (LuaJIT would report each function that it begins to compile, but its handler must not use the
-- stack at that moment: the versions of distributions crash.)
local F = require "ijepa.base.ffi"
local code = require "ijepa.base.code"
local util = require "jit.util"
local C = F.C

local guard = {}

-- seconds that a policy may still take after Ctrl-C: a healthy one finishes the step
local PATIENCE = 1
local REACH = 100000    -- objects that a policy may reach; further ones are not looked at

-- Excludes from compilation what can be reached from `todo` (a list of any values; lost).
local function interpret(todo)
  local seen, count, k = {}, 0, 1
  local function add(v)
    local kind = type(v)
    if (kind ~= "function" and kind ~= "table") or seen[v] or count >= REACH then return end
    seen[v], count = true, count + 1
    todo[#todo + 1] = v
  end
  local function names(of, env)
    -- names of globals and modules are among the constants of functions
    for i = -1, -1e5, -1 do
      local name = util.funck(of, i)
      if name == nil then return end
      if type(name) == "proto" then names(name, env)
      elseif type(name) == "string" then
        add(rawget(env, name))
        add(rawget(_G, name))   -- a file's environment shows it too
        add(package.loaded[name])
      end
    end
  end
  seen[_G], seen[package.loaded] = true, true
  while k <= #todo do
    local v = todo[k]
    k = k + 1
    if type(v) == "table" then
      for _, field in next, v do add(field) end
      add(debug.getmetatable(v))
    elseif type(v) == "function" then
      local info = debug.getinfo(v, "S")
      if info.what ~= "C" and not F.is_internal(info.source) then
        jit.off(v, true)
        for i = 1, 255 do
          local name, value = debug.getupvalue(v, i)
          if not name then break end
          add(value)
        end
        names(v, debug.getfenv(v))
      end
    end
  end
end

--- Prepares functions that `run` will call, and what they reach now; values that are not functions
--- are fine.
---@param ... any
function guard.watch(...) interpret { ... } end

--- Where a function was written: FILE:LINE.
function guard.place_of(f)
  local at = debug.getinfo(f, "S")
  return ("%s:%d"):format(at.source:gsub("^[@=]", "", 1), at.what == "main" and at.lastlinedefined
    or at.linedefined)
end

-- Ctrl-C as an error: exit as ijepa.exit has it; place, FILE:LINE where it came.
local Interrupted = {}
Interrupted.__index = Interrupted
function Interrupted.__tostring(e)
  return ("interrupted in the mask policy%s"):format(e.place and " at " .. e.place or "")
end

local began   -- when the call that runs now began; nil: none
local function poll()
  if C.ij_interrupted() ~= 0 and C.ij_time() - began > PATIENCE then
    error(setmetatable({ exit = 130, interrupted = true, place = F.caller() }, Interrupted), 0)
  end
end

-- What xpcall keeps of an error in the user's code, Ctrl-C among them.
local function explain(e)
  if C.ij_interrupted() ~= 0 and not (type(e) == "table" and (e.exit or e.place)) then
    -- by the prompt's own means
    return setmetatable({ exit = 130, interrupted = true, place = F.caller() }, Interrupted)
  end
  return code.explain(e)
end

-- With no stack left `explain` cannot run either, and there is only Lua's own message.
local function explained(ok, a, b, c)
  if not ok and type(a) ~= "table" then a =
      { message = tostring(a)
      .. " (a stack overflow: a function that calls itself without end?)" } end
  return ok, a, b, c
end

--- f(...) with Ctrl-C watched: true and what it returns (three values), or false and what `raise`
--- takes.
function guard.run(f, ...)
  -- a hook: a debugger's, or the prompt's after Ctrl-C
  local outer, hooked = began, debug.gethook()
  began = C.ij_time()
  if not hooked then debug.sethook(poll, "", 1000) end
  local ok, a, b, c = xpcall(f, explain, ...)
  if not hooked then debug.sethook() end
  began = outer
  return explained(ok, a, b, c)
end

--- Raises what `run` gave, in one line; about: what ran, such as ", image 3".
function guard.raise(e, f, about)
  if e.exit then error(e, 0) end
  error(("%s: mask policy%s: %s"):format(e.place or guard.place_of(f), about, e.message), 0)
end

return guard

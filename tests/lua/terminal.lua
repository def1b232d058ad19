-- A program in a terminal, as a person uses it: tmux draws the screen and sends the keys. What is
-- expected is waited for, never slept for, so that a busy machine only makes it slower.
local support = require "support"
local Terminal = {}
Terminal.__index = Terminal

local PATIENCE = 60   -- seconds until the expected counts as missing

--- Whether there is a tmux.
function Terminal.available() return support.which "tmux" ~= nil end

--- Starts a shell command in a terminal of its own. o: columns (80), rows (40).
function Terminal.open(command, o)
  o = o or {}
  local t = setmetatable({ socket = support.folder() .. "/socket" }, Terminal)
  local code, text = support.run({ "tmux", "-f", "/dev/null", "-S", t.socket, "new-session", "-d",
    "-x", o.columns or 80, "-y", o.rows or 40, command .. "; echo left with $?; cat" },
    { env = { TMUX = false, TERM = "xterm-256color" }, merge = true })
  if code ~= 0 then error("no terminal: " .. text, 2) end
  return t
end

--- Runs a command of tmux; what it printed.
function Terminal:tmux(...) return (select(2, support.run { "tmux", "-S", self.socket, ... })) end

--- What the screen shows, with its colours as escape sequences when asked; blanks at line ends are
--- gone.
function Terminal:screen(colours)
  return (self:tmux("capture-pane", "-p", colours and "-e" or nil):gsub("[ \t]+\n",
    "\n"):gsub("\n+$", "\n"))
end

--- Types text as it is, then the keys named (as tmux names them: Enter, Tab, C-c, Up ...).
function Terminal:type(text, ...)
  text = text:gsub(";$", "\\;")   -- a last semicolon would end the command of tmux
  if text ~= "" then self:tmux("send-keys", "-l", "--", text) end
  for _, key in ipairs { ... } do self:tmux("send-keys", key) end
end

--- Types a line and Enter.
function Terminal:enter(text) self:type(text, "Enter") end

--- Pastes text, marked as a paste where the program asked for that.
function Terminal:paste(text)
  local path = support.write(support.folder() .. "/paste", text)
  self:tmux("load-buffer", path)
  self:tmux("paste-buffer", "-p", "-d")
end

--- Waits until the screen holds the text (or matches, when it is a function of the screen); the
--- screen.
function Terminal:wait(expected, colours)
  local until_ = os.time() + PATIENCE
  while true do
    local screen = self:screen(colours)
    local found
    if type(expected) == "function" then found = expected(screen) else found =
        screen:find(expected, 1, true) end
    if found then return screen end
    if os.time() > until_ then
      error(("waited for: %s\nthe screen:\n%s"):format(tostring(expected), screen), 2)
    end
    support.sleep(.05)
  end
end

--- Empties the screen by the program's own Ctrl-L and waits for it to be so.
function Terminal:clear()
  self:tmux("send-keys", "C-l")
  self:wait(function(screen) return select(2, screen:gsub("\n", "")) <= 1 end)
end

function Terminal:resize(columns, rows) self:tmux("resize-window", "-x", columns, "-y", rows) end

function Terminal:close() self:tmux "kill-server" end

return Terminal

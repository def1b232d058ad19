-- A program in a terminal, as a person uses it: tmux draws the screen and sends the keys. What is expected is waited for,
-- never slept for, so that a busy machine only makes it slower.
local Terminal = {}
Terminal.__index = Terminal

local PATIENCE = 60   -- seconds until the expected counts as missing

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

local function output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- Whether there is a tmux.
function Terminal.available() return output "command -v tmux" ~= "" end

local count = 0
--- Starts a shell command in a terminal of its own. o: columns (80), rows (40).
function Terminal.open(command, o)
  o, count = o or {}, count + 1
  local socket = os.tmpname()
  os.remove(socket)
  local t = setmetatable({ socket = socket }, Terminal)
  os.execute(("env -u TMUX TERM=xterm-256color tmux -f /dev/null -S %s new-session -d -x %d -y %d %s"):format(socket,
    o.columns or 80, o.rows or 40, quote(command .. "; echo left with $?; cat")))
  return t
end

function Terminal:tmux(words) return output(("tmux -S %s %s 2>/dev/null"):format(self.socket, words)) end

--- What the screen shows, with its colours as escape sequences when asked; blanks at line ends are gone.
function Terminal:screen(colours)
  return (self:tmux("capture-pane -p" .. (colours and " -e" or "")):gsub("[ \t]+\n", "\n"):gsub("\n+$", "\n"))
end

--- Types text as it is, then the keys named (as tmux names them: Enter, Tab, C-c, Up ...).
function Terminal:type(text, ...)
  text = text:gsub(";$", "\\;")   -- a last semicolon would end the command of tmux
  if text ~= "" then self:tmux("send-keys -l -- " .. quote(text)) end
  for _, key in ipairs { ... } do self:tmux("send-keys " .. key) end
end

--- Types a line and Enter.
function Terminal:enter(text) self:type(text, "Enter") end

--- Pastes text, marked as a paste where the program asked for that.
function Terminal:paste(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  self:tmux("load-buffer " .. path)
  self:tmux "paste-buffer -p -d"
  os.remove(path)
end

--- Waits until the screen holds the text (or matches, when it is a function of the screen); the screen.
function Terminal:wait(expected, colours)
  local until_ = os.time() + PATIENCE
  while true do
    local screen = self:screen(colours)
    local found
    if type(expected) == "function" then found = expected(screen) else found = screen:find(expected, 1, true) end
    if found then return screen end
    if os.time() > until_ then
      error(("waited for: %s\nthe screen:\n%s"):format(tostring(expected), screen), 2)
    end
    os.execute "sleep 0.05"
  end
end

--- Empties the screen by the program's own Ctrl-L and waits for it to be so.
function Terminal:clear()
  self:tmux "send-keys C-l"
  self:wait(function(screen) return select(2, screen:gsub("\n", "")) <= 1 end)
end

function Terminal:resize(columns, rows) self:tmux(("resize-window -x %d -y %d"):format(columns, rows)) end

function Terminal:close()
  self:tmux "kill-server"
  os.remove(self.socket)
end

return Terminal

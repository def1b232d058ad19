--- The settings as text: the sections in the order of a recipe, and docs/settings.md.
local config = require "ijepa.config"
local text = require "ijepa.base.text"

local page = {}

--- Sections: { name, what it is about }. "" holds the settings outside of a section.
page.sections = {
  { "", "The run as a whole." },
  { "data", "Images: where they are, how they are read and cropped." },
  { "model", "Encoder and predictor: sizes, types, initial values." },
  { "mask", "Masks: which patches are context and which are targets." },
  { "optim", "Length of the run, learning rate, weight decay, EMA, gradients." },
  { "dist", "Several processes." },
  { "diagnose", "Checks of the target encoder for collapse while a run trains." },
  { "log", "Console, logs and checkpoints." },
}

--- The default of a setting as Lua text; "none" where it has none.
---@param leaf table
---@return string
function page.default(leaf)
  if leaf.default == nil then return "none" end
  return (config.dump(leaf.default):gsub("^return ", ""):gsub("%s+$", ""))
end

--- The dotted keys of a section, sorted.
---@param section string
---@return string[]
function page.keys(section)
  local list = {}
  for _, key in ipairs(config.keys()) do
    if (key:match "^([^.]+)%." or "") == section then list[#list + 1] = key end
  end
  return list
end

local function cell(s) return (s:gsub("|", "\\|"):gsub("\n", " ")) end

--- All settings as Markdown: what docs/settings.md holds.
---@return string
function page.markdown()
  local lines = { "# Settings",
    "<!-- Generated: ijepa help settings --markdown. Edit lua/ijepa/config/settings.lua. -->",
    "These are the settings of a pretraining recipe. A recipe sets them in a table,",
    "`ijepa.config { data = { batch = 64 } }`; the command line overrides them with `data.batch=64`.",
    "`./ijepa help data.batch` prints one setting. `./ijepa RECIPE --help` prints what a recipe sets." }
  for _, section in ipairs(page.sections) do
    local name, what = section[1], section[2]
    lines[#lines + 1] = ("\n## %s\n%s\n"):format(name == "" and "Run" or name, what)
    lines[#lines + 1] = "| setting | type | default | meaning |\n|---|---|---|---|"
    for _, key in ipairs(page.keys(name)) do
      local leaf = config.describe(key) --[[@as table]]
      lines[#lines + 1] = ("| `%s` | %s | `%s` | %s |"):format(key,
        cell(leaf.type:gsub("|", " or ")), cell(page.default(leaf)),
        cell(leaf.doc))
    end
  end
  local known = {}
  for _, section in ipairs(page.sections) do known[section[1]] = true end
  for _, key in ipairs(text.keys(config.schema)) do   -- a new section must be listed above
    assert(known[key] or config.describe(key), key)
  end
  return table.concat(lines, "\n") .. "\n"
end

return page

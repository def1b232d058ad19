-- Counts instructions in a cubin without NVIDIA's disassembler: its ELF sections .text.KERNEL hold
-- words of 128 bits from Volta on, the opcode in the lowest 12. Which opcode is what was found by
-- compiling kernels whose instructions are known and by comparing with nvdisasm; sass.lua does both
-- again.
local decode = {}

local OPCODES = {
  [0x23c] = "HMMA", [0x83b] = "LDSM", [0xfae] = "LDGSTS", [0x981] = "LDG", [0x386] = "STG",
    [0x986] = "STG",
  [0x984] = "LDS", [0x388] = "STS", [0x988] = "STS", [0x983] = "LDL", [0x387] = "STL",
    [0x987] = "STL", [0x980] = "LD",
  [0x385] = "ST", [0x985] = "ST", [0xb1d] = "BAR", [0x389] = "SHFL", [0x589] = "SHFL",
    [0x989] = "SHFL", [0xf89] = "SHFL",
  [0x308] = "MUFU", [0x908] = "MUFU", [0xb08] = "MUFU", [0xd08] = "MUFU", [0x918] = "NOP",
}
local MEMORY = { LDG = true, STG = true, LDS = true, STS = true, LDL = true, STL = true, LD = true,
  ST = true, LDGSTS = true }
local WIDTH = { [0] = 8, 8, 16, 16, 32, 64, 128 }   -- by bits 73..75: u8, s8, u16, s16, ...
local COPY_WIDTH = { [0] = 32, 64, 128 }            -- LDGSTS on sm_100 and newer: bits 74 and 75

local function u(s, at, n)   -- n bytes at `at` (from 0), little-endian; sizes here stay under 2^53
  local v = 0
  for i = n, 1, -1 do v = v * 256 + s:byte(at + i) end
  return v
end

-- { name = bytes } of the kernels in a cubin.
local function kernels(elf)
  if elf:sub(1, 4) ~= "\127ELF" then error("no cubin: not an ELF file", 0) end
  local table_at, count, names = u(elf, 0x28, 8), u(elf, 0x3c, 2), u(elf, 0x3e, 2)
  local function section(i)
    local at = table_at + 64 * i
    return u(elf, at, 4), u(elf, at + 0x18, 8), u(elf, at + 0x20, 8)
  end
  local _, strings = section(names)
  local out = {}
  for i = 0, count - 1 do
    local name, at, bytes = section(i)
    local text = elf:match("^[^%z]*", strings + name + 1)
    if text:find "^%.text%." then out[text:sub(7)] = elf:sub(at + 1, at + bytes) end
  end
  return out
end

local function width_of(name, code, at, sm)
  local b = code:byte(at + 10)   -- bits 72..79
  if name == "LDGSTS" and sm >= 100 then return COPY_WIDTH[math.floor(b / 4) % 4] end
  return WIDTH[math.floor(b / 2) % 8]
end

--- Counts by kernel: { [mangled name] = { all = n, HMMA = n, ["LDG.128"] = n, ... } }; memory
--- instructions by their width.
---@param elf string a cubin's bytes
---@param sm integer such as 90
function decode.counts(elf, sm)
  local out = {}
  for kernel, code in pairs(kernels(elf)) do
    local c = { all = 0 }
    for at = 0, #code - 16, 16 do
      local name = OPCODES[code:byte(at + 1) + code:byte(at + 2) % 16 * 256]
      if name ~= "NOP" then c.all = c.all + 1 end
      if name and name ~= "NOP" then
        if MEMORY[name] then
          local width = width_of(name, code, at, sm)
          name = name .. "." .. (width or "?")
        end
        c[name] = (c[name] or 0) + 1
      end
    end
    out[kernel] = c
  end
  return out
end

--- The same as nvdisasm says it, from its text.
---@param lines function iterator
function decode.disassembled(lines)
  local known, out, c = {}, {}, nil
  for _, name in pairs(OPCODES) do known[name] = true end
  for line in lines do
    local section = line:match "^%s*%.section%s+%.text%.([%w_$.]+)"
    if section then
      c = { all = 0 }
      out[section] = c
    elseif line:find "^%s*%.section%s" then
      c = nil
    end
    local text = c and line:match "^%s*/%*%x+%*/%s+(.-);"
    if text then
      local op = text:gsub("^@!?U?P[%dT]+%s+", ""):match "^[%w_.]+"
      local name = op:match "^[^.]+"
      if name ~= "NOP" then c.all = c.all + 1 end
      if known[name] and name ~= "NOP" then
        if MEMORY[name] then
          local width = op:find "%.128" and 128 or op:find "%.64" and 64 or op:find "%.[US]16"
            and 16 or op:find "%.[US]8" and 8 or 32
          name = name .. "." .. width
        end
        c[name] = (c[name] or 0) + 1
      end
    end
  end
  return out
end

return decode

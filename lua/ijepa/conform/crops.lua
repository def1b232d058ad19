--- Compares crops of the published pipeline with ours: `ijepa conform FOLDER` with a crops.json in
--- it.
-- crops.json is a list of { image, top, left, height, width, size, expected }: the box of the image
-- (pixels), resized to (size, size), gives the image `expected`. Names are relative to the file.
local F = require "ijepa.base.ffi"
local json = require "cjson.safe"
local C = F.C

-- Our resize is exact to the bit; JPEG decoders may round some values differently. A box that is
-- off by one pixel differs by far more.
local tolerance = .02 -- mean absolute difference, grey levels

-- Pixels u8 (h, w, 3), h, w; or nil, message.
local function load_image(path)
  local out, h, w = F.new "uint8_t *[1]", F.new "int[1]", F.new "int[1]"
  local ok, message, code = F.try(C.ij_image_load(path, out, h, w))
  if not ok then return nil, message, code end
  return F.gc(out[0], C.ij_bytes_free), h[0], w[0]
end

local function mean_difference(a, b, n)
  local sum = 0
  for i = 0, n - 1 do sum = sum + math.abs(a[i] - b[i]) end
  return sum / n
end

-- Mean difference of one entry; or nil, message.
local function compare(folder, entry)
  if type(entry) ~= "table" then return nil, "the entry is not an object" end
  for _, key in ipairs { "image", "expected" } do
    if type(entry[key]) ~= "string" then return nil, ("'%s' is not a string"):format(key) end
  end
  for _, key in ipairs { "top", "left", "height", "width", "size" } do
    local v = entry[key]
    if type(v) ~= "number" or v % 1 ~= 0 or math.abs(v) > 2 ^ 30 then
      return nil, ("'%s' is not an integer"):format(key)
    end
  end
  local image, h, w = load_image(folder .. "/" .. entry.image)
  if not image then return nil, h end
  local expected, eh, ew = load_image(folder .. "/" .. entry.expected)
  if not expected then return nil, eh end
  if eh ~= entry.size or ew ~= entry.size then
    return nil, ("'%s' is %d x %d, but 'size' is %d"):format(entry.expected, eh, ew, entry.size)
  end
  local ours = F.new("uint8_t[?]", eh * ew * 3)
  local e = entry
  local ok, message = F.try(C.ij_image_crop(image, h, w, e.top, e.left, e.height, e.width, eh, ew,
    ours))
  if not ok then return nil, message end
  return mean_difference(ours, expected, eh * ew * 3)
end

--- Compares all crops of a folder, or of a crops.json.
---@param path string
---@return { name: string, error: number, tolerance: number, ok: boolean, message: string? }[]?
--- items
---@return string? message, integer? code
return function(path)
  local folder, file = path, path .. "/crops.json"
  if C.ij_path_kind(path) ~= 2 then
    folder, file = path:match "^(.*)/[^/]*$" or ".", path
  end
  local f, why = io.open(file, "rb")
  local text = f and f:read "*a"
  if f then f:close() end
  if not text then
    return nil, ("'%s' could not be read: %s"):format(file, why or "no file"), tonumber(C.IJ_EIO)
  end
  local list, message = json.decode(text)
  if type(list) ~= "table" then
    return nil, ("'%s' is not a list of crops: %s"):format(file, message or "no list"),
      tonumber(C.IJ_EFORMAT)
  end
  local items = {}
  for i, entry in ipairs(list) do
    local difference, reason = compare(folder, entry)
    local name = type(entry) == "table" and type(entry.expected) == "string" and entry.expected
      or ("crop %d"):format(i)
    items[i] = {
      name = reason and name .. ": " .. reason or name, error = difference or math.huge,
        tolerance = tolerance,
      ok = difference ~= nil and difference <= tolerance, message = reason,
    }
  end
  if #items == 0 then return nil, ("'%s' holds no crops"):format(file), tonumber(C.IJ_EFORMAT) end
  return items
end

-- Matrix products and the functions of PyTorch's nn.functional.
local core = require "ijepa.tensor.core"
local F = require "ijepa.base.ffi"
local T, tensor, C = core.methods, core.tensor, F.C
local call, want, opt = core.call, core.want, core.opt

-- ---- matrix products

--- x (..., K) times the transposed w (N, K), plus b (N): (..., N).
---@torch nn.functional.linear | yes
---@param w ijepa.tensor
---@param b ijepa.tensor?
---@return ijepa.tensor
function T:linear(w, b)
  return call(C.ij_linear, self.h, want(w, "w", "linear"), opt(b, "b", "linear"))
end
--- Matrix product: (..., M, K) times (..., K, N) -> (..., M, N); the dimensions in front broadcast.
--- A vector (K) counts as a row on the left and as a column on the right.
---@torch matmul | yes
---@param b ijepa.tensor
---@param ta boolean? this tensor is stored transposed: (..., K, M)
---@param tb boolean? b is stored transposed: (..., N, K)
---@return ijepa.tensor
function T:matmul(b, ta, tb)
  want(b, "b", "matmul")
  local row, column = self:dim() == 1, b:dim() == 1
  if row or column then
    if ta or tb then F.raise "matmul: a vector is not transposed" end
    local x, y = row and self:unsqueeze(1) or self, column and b:unsqueeze(2) or b
    local z = call(C.ij_matmul, x.h, y.h, 0, 0)
    if row then z = z:squeeze(column and z:dim() - 1 or -2) end
    return column and z:squeeze(-1) or z
  end
  return call(C.ij_matmul, self.h, b.h, ta and 1 or 0, tb and 1 or 0)
end
--- P matrix products: (P, M, K) times (P, K, N) -> (P, M, N).
---@torch bmm | yes
---@param b ijepa.tensor
---@return ijepa.tensor
function T:bmm(b) return self:matmul(b) end
--- Matrix product of two matrices.
---@torch mm | yes
---@param b ijepa.tensor
---@return ijepa.tensor
function T:mm(b) return self:matmul(b) end
--- The inner product of two vectors (K): one element.
---@torch dot | yes
---@param b ijepa.tensor
---@return ijepa.tensor
function T:dot(b) return (self * b):sum() end
--- All products of two vectors (M) and (N): (M, N).
---@torch outer | yes
---@param b ijepa.tensor
---@return ijepa.tensor
function T:outer(b)
  want(b, "b", "outer")
  return self:unsqueeze(2) * b:unsqueeze(1)
end

-- Letters of "bij" as a list; each once.
local function letters(text, spec)
  local list, seen = {}, {}
  for letter in text:gmatch "." do
    if not letter:find "%a" or seen[letter] then
      F.raise(("einsum: '%s': letters, each once in an operand"):format(spec))
    end
    list[#list + 1], seen[letter] = letter, true
  end
  return list, seen
end

--- Sum of products of two tensors by names of dimensions: tensor.einsum("bij,bjk->bik", x, y).
---@torch einsum | yes | two operands, no letter twice in one
---@param spec string
---@param x ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.einsum(spec, x, y)
  core.check(spec, "string", 'tensor.einsum("ij,jk->ik", x, y)', "spec")
  want(x, "x", "einsum")
  want(y, "y", "einsum")
  local left, right, out = spec:gsub("%s", ""):match "^(%a*),(%a*)%->(%a*)$"
  if not left then F.raise(("einsum: '%s' is not of the form ij,jk->ik"):format(spec)) end
  local a, in_a = letters(left, spec)
  local b, in_b = letters(right, spec)
  local c, in_c = letters(out, spec)
  if #a ~= x:dim() or #b ~= y:dim() then
    F.raise(("einsum: '%s' names %d and %d dimensions, the tensors have %d and %d"):format(spec, #a,
      #b, x:dim(), y:dim()))
  end
  local size = {}
  for i, l in ipairs(a) do size[l] = x:size(i) end
  for i, l in ipairs(b) do
    if size[l] and size[l] ~= y:size(i) then
      F.raise(("einsum: '%s' is %d in one tensor and %d in the other"):format(l, size[l],
        y:size(i)))
    end
    size[l] = y:size(i)
  end
  for _, l in ipairs(c) do
    if not size[l] then F.raise(("einsum: '%s' of the result is in no operand"):format(l)) end
  end
  -- letters of one operand alone that the result lacks are summed first
  local function summed(t, list, other)
    local kept, gone = {}, {}
    for i, l in ipairs(list) do
      if other[l] or in_c[l] then kept[#kept + 1] = l else gone[#gone + 1] = i end
    end
    return #gone > 0 and t:sum(gone) or t, kept
  end
  x, a = summed(x, a, in_b)
  y, b = summed(y, b, in_a)
  local batch, m, n, k = {}, {}, {}, {}
  for _, l in ipairs(a) do
    if in_b[l] then table.insert(in_c[l] and batch or k, l) else m[#m + 1] = l end
  end
  for _, l in ipairs(b) do
    if not in_a[l] then n[#n + 1] = l end
  end
  local function arranged(t, list, ...)
    local position, order, shape = {}, {}, {}
    for i, l in ipairs(list) do position[l] = i end
    for _, group in ipairs { ... } do
      local total = 1
      for _, l in ipairs(group) do order[#order + 1], total = position[l], total * size[l] end
      shape[#shape + 1] = total
    end
    return (#order > 1 and t:permute(order) or t):reshape(shape)
  end
  local z = arranged(x, a, batch, m, k):matmul(arranged(y, b, batch, k, n))   -- (P, M, N)
  local shape, position, order = {}, {}, {}
  for _, group in ipairs { batch, m, n } do
    for _, l in ipairs(group) do
      shape[#shape + 1] = size[l]
      position[l] = #shape
    end
  end
  for i, l in ipairs(c) do order[i] = position[l] end
  if #shape == 0 then return z:reshape(1) end
  z = z:reshape(shape)
  return #order > 1 and z:permute(order) or z
end

-- ---- activations and norms

--- GELU of each value, exact.
---@torch nn.functional.gelu | yes
---@return ijepa.tensor
function T:gelu()
  return call(C.ij_gelu, self.h)
end
--- max(x, 0) of each value.
---@torch relu | yes
---@return ijepa.tensor
function T:relu()
  return call(C.ij_relu, self.h)
end
--- Layer norm over the last dimension, with scale w (D) and shift b (D) or without both; eps 1e-5.
---@torch nn.functional.layer_norm | yes
---@param w ijepa.tensor?
---@param b ijepa.tensor?
---@param eps number?
---@return ijepa.tensor
function T:layer_norm(w, b, eps)
  return call(C.ij_layer_norm, self.h, opt(w, "w", "layer_norm"), opt(b, "b", "layer_norm"),
    eps or 1e-5)
end
--- Batch norm of x (R, D) per column; mean and var (D) are the running statistics.
---@torch nn.functional.batch_norm | yes | without weight and bias
---@param x ijepa.tensor
---@param mean ijepa.tensor
---@param var ijepa.tensor
---@param training boolean
---@param momentum number?
---@param eps number?
---@return ijepa.tensor
function tensor.batch_norm(x, mean, var, training, momentum, eps)
  return call(C.ij_batch_norm, want(x, "x", "batch_norm"), want(mean, "mean", "batch_norm"),
    want(var, "var", "batch_norm"),
    momentum or .1, eps or 1e-5, training and 1 or 0)
end
--- Self-attention of packed queries, keys and values: qkv (B, N, 3 A S) as [3][A][S] -> (B, N, A
--- S).
---@torch nn.functional.scaled_dot_product_attention | yes | packed qkv
---@param heads integer
---@return ijepa.tensor
function T:attention(heads)
  core.check(heads, "number", "qkv:attention(heads)", "heads")
  return call(C.ij_attention, self.h, heads)
end

-- f over the last dimension, applied to dimension dim.
local function along(x, dim, op, f)
  local d, n = core.dim_of(x, dim or -1, op) + 1, x:dim()
  if d == n then return f(x:contiguous()) end
  return f(x:transpose(d, n):contiguous()):transpose(d, n)
end
--- Softmax over a dimension, by default the last.
---@torch softmax | yes
---@param dim integer?
---@return ijepa.tensor
function T:softmax(dim)
  return along(self, dim, "softmax", function(x) return call(C.ij_softmax, x.h) end)
end
--- The logarithm of softmax, without overflow.
---@torch log_softmax | yes
---@param dim integer? default: the last
---@return ijepa.tensor
function T:log_softmax(dim)
  return self - self:logsumexp(dim or -1, true)
end
--- x divided by its 2-norm along a dimension (by default the last), or by eps where that is larger.
---@torch nn.functional.normalize | yes | the default dimension is the last; 2-norm
---@param dim integer?
---@param eps number? default 1e-12
---@return ijepa.tensor
function T:normalize(dim, eps)
  -- squared, so that the gradient at 0 is finite
  return self / self:square():sum(dim or -1, true):clamp((eps or 1e-12) ^ 2):sqrt()
end
--- The cosine of the angle between x and y along a dimension (by default the last).
---@torch cosine_similarity | yes | the default dimension is the last
---@param y ijepa.tensor
---@param dim integer?
---@param eps number? default 1e-8
---@return ijepa.tensor
function T:cosine_similarity(y, dim, eps)
  want(y, "y", "cosine_similarity")
  dim, eps = dim or -1, eps or 1e-8
  return (self:normalize(dim, eps) * y:normalize(dim, eps)):sum(dim)
end

-- ---- images

--- 2-D convolution by patches and a matrix product: x (B, C, H, W), w (O, C, kh, kw), b (O) -> (B,
--- O, h, w).
---@torch nn.functional.conv2d | yes | no dilation, no groups
---@param w ijepa.tensor
---@param b ijepa.tensor?
---@param stride integer? default 1
---@param padding integer? zeros on each side, default 0
---@return ijepa.tensor
function T:conv2d(w, b, stride, padding)
  local signature = "x:conv2d(w, b, stride, padding)"
  want(w, "w", "conv2d")
  stride, padding = stride or 1, padding or 0
  core.check(stride, "number", signature, "stride")
  core.check(padding, "number", signature, "padding")
  if self:dim() ~= 4 or w:dim() ~= 4 or w:size(2) ~= self:size(2) then
    F.raise(("conv2d: x (%s) and w (%s), expected (B, C, H, W) and (O, C, kh, kw)"):format(
      table.concat(self:shape(), ", "), table.concat(w:shape(), ", ")))
  end
  local B, H, W, O, kh, kw = self:size(1), self:size(3), self:size(4), w:size(1), w:size(3),
    w:size(4)
  local y = call(C.ij_im2col, self.h, kh, kw, stride, padding):linear(w:reshape(O, -1), b)
  local h = math.floor((H + 2 * padding - kh) / stride) + 1
  local wide = math.floor((W + 2 * padding - kw) / stride) + 1
  return y:transpose(2, 3):reshape(B, O, h, wide)
end
--- Means of k x k windows: x (B, C, H, W) -> (B, C, h, w).
---@torch nn.functional.avg_pool2d | yes | no padding
---@param k integer
---@param stride integer? default k
---@return ijepa.tensor
function T:avg_pool2d(k, stride)
  local signature = "x:avg_pool2d(k, stride)"
  core.check(k, "number", signature, "k")
  stride = stride or k
  if self:dim() ~= 4 then F.raise("avg_pool2d: expected (B, C, H, W)") end
  local B, c, H, W = self:size(1), self:size(2), self:size(3), self:size(4)
  local h, w = math.floor((H - k) / stride) + 1, math.floor((W - k) / stride) + 1
  local columns = call(C.ij_im2col, self:reshape(B * c, 1, H, W).h, k, k, stride, 0)
  return columns:mean(3):reshape(B, c, h, w)
end

-- The matrix (n, m) that interpolates m values at n places, pixel centres aligned as PyTorch does
-- with align_corners = false.
local function weights(n, m, mode)
  local buffer = F.new("float[?]", n * m)
  local function add(i, j, v)
    j = math.max(0, math.min(m - 1, j))
    buffer[i * m + j] = buffer[i * m + j] + v
  end
  for i = 0, n - 1 do
    local position = (i + .5) * m / n - .5
    if mode == "nearest" then add(i, math.floor(i * m / n), 1)
    elseif mode == "bilinear" then
      position = math.max(position, 0)
      local j = math.floor(position)
      add(i, j, 1 - (position - j))
      add(i, j + 1, position - j)
    else   -- bicubic, a = -0.75
      local j = math.floor(position)
      local t, a = position - j, -.75
      for k = -1, 2 do
        local d = math.abs(t - k)
        add(i, j + k, d <= 1 and ((a + 2) * d - (a + 3)) * d * d + 1
          or ((a * d - 5 * a) * d + 8 * a) * d - 4 * a)
      end
    end
  end
  return tensor.from_pointer(buffer, { n, m })
end
--- Images in another size: x (B, C, H, W) -> (B, C, h, w).
---@torch nn.functional.interpolate | yes | size only; no antialias, no align_corners
---@param size integer[] { h, w }
---@param mode string? "bilinear" (default), "nearest" or "bicubic"
---@return ijepa.tensor
function T:interpolate(size, mode)
  local signature = 'x:interpolate({ h, w }, mode)'
  core.check(size, "table", signature, "size")
  mode = mode or "bilinear"
  if mode ~= "bilinear" and mode ~= "nearest" and mode ~= "bicubic" then
    F.raise(("interpolate: mode '%s': bilinear, nearest or bicubic"):format(tostring(mode)))
  end
  if self:dim() ~= 4 or #size ~= 2 then
    F.raise "interpolate: expected (B, C, H, W) and { h, w }"
  end
  local B, c, H, W = self:size(1), self:size(2), self:size(3), self:size(4)
  local x = self:reshape(B * c, H, W):linear(weights(size[2], W, mode))           -- (B C, H, w)
  x = x:transpose(2, 3):contiguous():linear(weights(size[1], H, mode))            -- (B C, w, h)
  return x:transpose(2, 3):reshape(B, c, size[1], size[2])
end

--- Bytes u8 (B, H, W, 3) -> f32 (B, 3, H, W): (p / 255 - mean) / std, per channel.
---@param pixels ijepa.tensor
---@param mean number[]? default: ImageNet's
---@param std number[]?
---@return ijepa.tensor
function tensor.normalise(pixels, mean, std)
  return call(C.ij_normalise, want(pixels, "pixels", "normalise"),
    F.new("double[3]", mean or { .485, .456, .406 }),
    F.new("double[3]", std or { .229, .224, .225 }))
end
--- The norm of all tensors of a list together, and whether all values are finite.
---@param list ijepa.tensor[]
---@return number norm, boolean finite
function tensor.norm(list)
  if core.is(list) then F.raise "tensor.norm takes a list; of one tensor: x:norm()" end
  local hs, sum, finite = F.new("ij_tensor *[?]", math.max(#list, 1)), F.new "double[1]",
    F.new "int[1]"
  for i, t in ipairs(list) do hs[i - 1] = t.h end
  F.check(C.ij_sum_squares(hs, #list, sum, finite))
  return math.sqrt(sum[0]), finite[0] ~= 0
end

-- ---- losses: one element, the mean

--- Mean of (x - y)^2.
---@torch nn.functional.mse_loss | yes
---@param x ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.mse_loss(x, y) return (x - y):square():mean() end
--- Mean of |x - y|.
---@torch nn.functional.l1_loss | yes
---@param x ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.l1_loss(x, y) return (x - y):abs():mean() end
--- Mean smooth L1 loss (beta 1). y may repeat: x (outer, repeat, inner), y (outer, inner).
---@torch nn.functional.smooth_l1_loss | yes
---@param x ijepa.tensor
---@param y ijepa.tensor
---@param beta number?
---@param outer integer?
---@return ijepa.tensor
function tensor.smooth_l1(x, y, beta, outer)
  local signature = "tensor.smooth_l1(x, y, beta, outer)"
  if beta ~= nil then core.check(beta, "number", signature, "beta") end
  if outer ~= nil then core.check(outer, "number", signature, "outer") end
  return call(C.ij_smooth_l1, want(x, "x", "smooth_l1"), want(y, "y", "smooth_l1"), beta or 1,
    outer or 1)
end
--- Mean cross entropy of logits (R, n) and labels i32 (R), from 0; rows with a negative label are
--- ignored.
---@torch nn.functional.cross_entropy | yes | labels only; (R, n)
---@param logits ijepa.tensor
---@param label ijepa.tensor
---@param smoothing number?
---@return ijepa.tensor
function tensor.cross_entropy(logits, label, smoothing)
  if smoothing ~= nil then
    core.check(smoothing, "number", "tensor.cross_entropy(logits, label, smoothing)", "smoothing")
  end
  return call(C.ij_cross_entropy, want(logits, "logits", "cross_entropy"),
    want(label, "label", "cross_entropy"),
    smoothing or 0)
end
--- Mean binary cross entropy of probabilities p and targets y of 0 to 1.
---@torch nn.functional.binary_cross_entropy | yes
---@param p ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.bce(p, y)
  return -(y * p:log():clamp(-100) + (1 - y) * (1 - p):log():clamp(-100)):mean()
end
--- The same of logits: stable for large ones.
---@torch nn.functional.binary_cross_entropy_with_logits | yes
---@param x ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.bce_logits(x, y) return (x:relu() - x * y + (-x:abs()):exp():log1p()):mean() end
--- Kullback-Leibler divergence of targets y from log-probabilities x (R, n): its mean over rows.
---@torch nn.functional.kl_div | yes | reduction = "batchmean"
---@param x ijepa.tensor
---@param y ijepa.tensor
---@return ijepa.tensor
function tensor.kl_div(x, y)
  local logs = y:clamp(1e-38):log()
  return (tensor.where(y:gt(0), y * logs, 0) - y * x):sum() * (1 / x:size(1))
end

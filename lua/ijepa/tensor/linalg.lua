--- Small dense linear algebra in double precision, by LAPACK: for probes, principal components and
--- ranks.
-- Matrices are tensors of a few thousand rows at most. They are copied to the host: too slow for a
-- step.
local F = require "ijepa.base.ffi"
local core = require "ijepa.tensor.core"
local tensor = require "ijepa.tensor"

local C = F.C

local linalg = {}

F.cdef [[
void dsyevd_(const char *job, const char *half, const int *n, double *a, const int *lda, double
  *w, double *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t job_length,
  size_t half_length);
void dposv_(const char *half, const int *n, const int *columns, double *a, const int *lda, double
  *b, const int *ldb, int *info, size_t half_length);
void dgesv_(const int *n, const int *columns, double *a, const int *lda, int *pivots, double *b,
  const int *ldb, int *info);
void dpotrf_(const char *half, const int *n, double *a, const int *lda, int *info, size_t
  half_length);
void dgelqf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
  const int *lwork, int *info);
void dorglq_(const int *m, const int *n, const int *k, double *a, const int *lda, const double
  *tau, double *work, const int *lwork, int *info);
void dgesdd_(const char *job, const int *m, const int *n, double *a, const int *lda, double *s,
  double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork, int
  *iwork, int *info, size_t job_length);
]]

local lapack   -- loaded at the first call
local function library()
  if not lapack then
    local ok, found = pcall(F.load, "liblapack.so.3")
    if not ok then
      F.raise "linalg: the library liblapack.so.3 is missing: install the package liblapack3"
    end
    lapack = found
  end
  return lapack
end

local function int(n) return F.new("int[1]", n) end

-- t (rows, columns) as doubles, row-major, and its two sizes.
local function doubles(t, what)
  core.without_gradient(t, "linalg." .. what, "it has no gradient: use detach()")
  local rows, columns = t:size(1), t:dim() == 2 and t:size(2)
  if not columns then
    F.raise(("linalg.%s: expected a matrix, not %d dimensions"):format(what, t:dim()))
  end
  local values, n = t:read()
  local out = F.new("double[?]", n)
  for i = 0, n - 1 do
    out[i] = values[i]
    if out[i] ~= out[i] or out[i] == math.huge or out[i] == -math.huge then
      F.raise(("linalg.%s: a value of the matrix is not finite"):format(what))
    end
  end
  return out, rows, columns
end

local function from_doubles(values, shape)
  local n = 1
  for _, s in ipairs(shape) do n = n * s end
  local floats = F.new("float[?]", n)
  for i = 0, n - 1 do floats[i] = values[i] end
  return tensor.from_pointer(floats, shape, "f32", true)
end

--- Eigenvalues of a symmetric matrix, the largest first, and its unit eigenvectors if `vectors` is
--- true.
---@torch linalg.eigh | - | the largest first; vectors as rows
---@param a ijepa.tensor f32 (n, n); only one half is read
---@param vectors boolean?
---@return number[] values, ijepa.tensor? vectors f32 (n, n): row i belongs to value i
function linalg.eigh(a, vectors)
  local m, n, columns = doubles(a, "eigh")
  if n ~= columns then
    F.raise(("linalg.eigh: a matrix of %d x %d is not square"):format(n, columns))
  end
  local w, info, size, isize = F.new("double[?]", n), int(0), int(-1), int(-1)
  local best, ibest, job = F.new "double[1]", int(0), vectors and "V" or "N"
  local N = int(n)
  -- returns the size of the work space
  library().dsyevd_(job, "U", N, m, N, w, best, size, ibest, isize, info, 1, 1)
  size[0], isize[0] = best[0], ibest[0]
  library().dsyevd_(job, "U", N, m, N, w, F.new("double[?]", size[0]), size,
    F.new("int[?]", isize[0]), isize, info, 1, 1)
  if info[0] ~= 0 then F.raise(("linalg.eigh: no convergence (%d)"):format(info[0])) end
  local values = {}
  for i = 1, n do values[i] = w[n - i] end
  if not vectors then return values end
  local rows = F.new("double[?]", n * n)   -- LAPACK's columns are our rows, in ascending order
  for i = 0, n - 1 do F.copy(rows + i * n, m + (n - 1 - i) * n, n * 8) end
  return values, from_doubles(rows, { n, n })
end

-- (rows, columns) row-major as (columns, rows).
local function transposed(m, rows, columns)
  local out = F.new("double[?]", math.max(rows * columns, 1))
  for i = 0, rows - 1 do
    for j = 0, columns - 1 do out[j * rows + i] = m[i * columns + j] end
  end
  return out
end
local function system(a, b, what)
  local m, n, columns = doubles(a, what)
  local r, rows, many = doubles(b, what)
  if n ~= columns or rows ~= n then
    F.raise(("linalg.%s: a is %d x %d and b is %d x %d, expected n x n and n x m"):format(what, n,
      columns, rows, many))
  end
  return m, n, transposed(r, n, many), many   -- LAPACK stores columns one after the other
end

-- raw(...) recorded with its gradient: backward({ arguments, x = result }, dx), where one of the
-- arguments requires one.
local function recorded(raw, backward, ...)
  local wanted = false
  for i = 1, select("#", ...) do
    local t = select(i, ...)
    wanted = wanted or core.is(t) and C.ij_tensor_recording(t.h, 0) == 1
  end
  if not wanted then return raw(...) end
  local x, why = tensor.no_grad(raw, ...)
  if not x then return nil, why end
  return tensor.fn { backward = backward, forward = function(ctx, ...)
    ctx.x = x
    for i = 1, select("#", ...) do ctx[i] = select(i, ...) end
    return x
  end }(...)
end

local function cholesky_solve(a, b)
  local m, n, x, many = system(a, b, "cholesky_solve")
  local info, N = int(0), int(n)
  library().dposv_("U", N, int(many), m, N, x, N, info, 1)
  if info[0] > 0 then
    return nil, ("linalg.cholesky_solve: the matrix is not positive definite (row %d)"):format(
      info[0])
  end
  return from_doubles(transposed(x, many, n), { n, many })
end

--- Solves a x = b for a symmetric positive definite matrix a, by Cholesky. The gradient of a is
--- symmetric.
---@torch cholesky_solve | yes | takes the matrix, not its factor
---@param a ijepa.tensor f32 (n, n)
---@param b ijepa.tensor f32 (n, m)
---@return ijepa.tensor? x f32 (n, m), string? message when a is not positive definite
function linalg.cholesky_solve(a, b)
  return recorded(cholesky_solve, function(ctx, dx)
    local db = assert(cholesky_solve(ctx[1], dx))
    local da = db:matmul(ctx.x:t())
    return (da + da:t()) * -.5, db
  end, a, b)
end

local function solve(a, b)
  local m, n, x, many = system(a, b, "solve")
  local info, N = int(0), int(n)
  library().dgesv_(N, int(many), transposed(m, n, n), N, F.new("int[?]", n), x, N, info)
  if info[0] > 0 then
    return nil, ("linalg.solve: the matrix is singular (pivot %d is 0)"):format(info[0])
  end
  return from_doubles(transposed(x, many, n), { n, many })
end

--- Solves a x = b.
---@torch linalg.solve | yes
---@param a ijepa.tensor f32 (n, n)
---@param b ijepa.tensor f32 (n, m)
---@return ijepa.tensor? x f32 (n, m), string? message when a is singular
function linalg.solve(a, b)
  return recorded(solve, function(ctx, dx)
    local db = assert(solve(ctx[1]:t(), dx))
    return -db:matmul(ctx.x:t()), db
  end, a, b)
end

local function cholesky(a)
  local m, n, columns = doubles(a, "cholesky")
  if n ~= columns then
    F.raise(("linalg.cholesky: a matrix of %d x %d is not square"):format(n, columns))
  end
  local info, N = int(0), int(n)
  library().dpotrf_("U", N, m, N, info, 1)   -- its columns are our rows
  if info[0] > 0 then
    return nil, ("linalg.cholesky: the matrix is not positive definite (row %d)"):format(info[0])
  end
  for i = 0, n - 1 do
    for j = i + 1, n - 1 do m[i * n + j] = 0 end
  end
  return from_doubles(m, { n, n })
end

--- The lower triangle l of a symmetric positive definite matrix a = l l^T. The gradient of a is
--- symmetric.
---@torch linalg.cholesky | yes
---@param a ijepa.tensor f32 (n, n)
---@return ijepa.tensor? l f32 (n, n), string? message when a is not positive definite
function linalg.cholesky(a)
  return recorded(cholesky, function(ctx, dl)
    local l, n = ctx.x, a:size(1)
    local lower = tensor.arange(n):reshape(n, 1):ge(tensor.arange(n))   -- u8 (n, n)
    local half = tensor.where(lower, l:t():matmul(dl), 0) * (1 - tensor.eye(n) * .5)
    local s = solve(l:t(), assert(solve(l:t(), half:t())):t())   -- l^-T half l^-1
    return (s + s:t()) * .5
  end, a)
end

-- The size of a LAPACK work space, which f(work, size) answers.
local function with_work(f)
  local best = F.new "double[1]"
  f(best, int(-1))
  local size = math.max(1, best[0])
  f(F.new("double[?]", size), int(size))
end

--- x = q r: q (n, k) has orthonormal columns, r (k, m) is upper triangular, k the smaller size.
---@torch linalg.qr | -
---@param x ijepa.tensor f32 (n, m)
---@return ijepa.tensor q, ijepa.tensor r
function linalg.qr(x)
  local a, n, m = doubles(x, "qr")
  local k, info, lda = math.min(n, m), int(0), int(m)   -- for LAPACK a is x^T = l q^T
  local tau = F.new("double[?]", math.max(k, 1))
  with_work(function(work, size)
    library().dgelqf_(int(m), int(n), a, lda, tau, work, size, info)
  end)
  local r = F.new("double[?]", math.max(k * m, 1))
  for i = 0, k - 1 do
    for j = i, m - 1 do r[i * m + j] = a[i * m + j] end
  end
  with_work(function(work, size)
    library().dorglq_(int(k), int(n), int(k), a, lda, tau, work, size, info)
  end)
  local q = F.new("double[?]", math.max(n * k, 1))
  for i = 0, n - 1 do
    for j = 0, k - 1 do q[i * k + j] = a[i * m + j] end
  end
  return from_doubles(q, { n, k }), from_doubles(r, { k, m })
end

--- x = u diag(s) vh, the singular values s falling: u (n, k), s (k), vh (k, m), k the smaller size.
---@torch linalg.svd | - | full_matrices = False
---@param x ijepa.tensor f32 (n, m)
---@return ijepa.tensor u, ijepa.tensor s, ijepa.tensor vh
function linalg.svd(x)
  local a, n, m = doubles(x, "svd")
  local k, info = math.min(n, m), int(0)
  local s, vh = F.new("double[?]", math.max(k, 1)), F.new("double[?]", math.max(k * m, 1))
  local u, iwork = F.new("double[?]", math.max(n * k, 1)), F.new("int[?]", math.max(8 * k, 1))
  with_work(function(work, size)   -- for LAPACK a is x^T = vh^T diag(s) u^T
    library().dgesdd_("S", int(m), int(n), a, int(m), s, vh, int(m), u, int(k), work, size, iwork,
      info, 1)
  end)
  if info[0] ~= 0 then F.raise(("linalg.svd: no convergence (%d)"):format(info[0])) end
  return from_doubles(u, { n, k }), from_doubles(s, { k }), from_doubles(vh, { k, m })
end

--- The Gram matrix x^T x of a tall matrix.
---@param x ijepa.tensor f32 (R, W)
---@return ijepa.tensor gram f32 (W, W)
function linalg.gram(x)
  local t = x:transpose(1, 2):clone()
  return t:linear(t)
end

--- The covariance of the rows of x, and their mean.
---@param x ijepa.tensor f32 (R, W)
---@return ijepa.tensor covariance f32 (W, W), ijepa.tensor mean f32 (W)
function linalg.covariance(x)
  local mean = x:mean(1)
  return linalg.gram(x - mean) * (1 / x:size(1)), mean
end

return linalg

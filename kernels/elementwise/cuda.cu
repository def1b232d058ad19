/* Ops on one element at a time, conversion and strided copies. */
#include "../cuda/rows.h"

/* ---- z[i] = f(x[i], y[i]), packs first, then what they leave ---- */
enum { PACK = 4 };
template <class F> static __global__ void map_one(ij_dim n, ij_dim packs, const float *x, float *z, F f) {
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<float, PACK> a = ij_load<PACK>(x, i * PACK);
    for (int j = 0; j < PACK; j++) a.v[j] = f(a.v[j]);
    ij_store<PACK>(z, i * PACK, a);
  }
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) z[i] = f(x[i]);
}
template <class F>
static __global__ void map_two(ij_dim n, ij_dim packs, const float *x, const float *y, float *z, F f) {
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<float, PACK> a = ij_load<PACK>(x, i * PACK), b = ij_load<PACK>(y, i * PACK);
    for (int j = 0; j < PACK; j++) a.v[j] = f(a.v[j], b.v[j]);
    ij_store<PACK>(z, i * PACK, a);
  }
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) z[i] = f(x[i], y[i]);
}

template <class F> static ij_status each(ij_queue *q, const char *op, ij_dim n, const float *x, float *z, F f) {
  if (n == 0) return IJ_OK;
  ij_dim packs = ij_packs<PACK>(0, x, z) ? n / PACK : 0;
  LAUNCH(map_one<F>, ij_fill_blocks(q, packs ? (n + PACK - 1) / PACK : n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs,
         x, z, f);
  return ij_cuda_launched(op);
}
template <class F>
static ij_status each(ij_queue *q, const char *op, ij_dim n, const float *x, const float *y, float *z, F f) {
  if (n == 0) return IJ_OK;
  ij_dim packs = ij_packs<PACK>(0, x, y, z) ? n / PACK : 0;
  LAUNCH(map_two<F>, ij_fill_blocks(q, packs ? (n + PACK - 1) / PACK : n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs,
         x, y, z, f);
  return ij_cuda_launched(op);
}

namespace {
struct Affine {
  float scale, shift;
  __device__ float operator()(float x) const { return fmaf(scale, x, shift); }
};
} // namespace
ij_status ij_cuda_affine(ij_queue *q, ij_dim n, float scale, float shift, const float *x, float *z) {
  return each(q, "affine", n, x, z, Affine{scale, shift});
}

namespace {
struct Axpy {
  float scale;
  __device__ float operator()(float x, float y) const { return fmaf(scale, x, y); }
};
} // namespace
ij_status ij_cuda_axpy(ij_queue *q, ij_dim n, float scale, const float *x, float *y) {
  return each(q, "axpy", n, x, y, y, Axpy{scale});
}

namespace {
struct Relu {
  __device__ float operator()(float x) const { return x < 0 ? 0 : x; } /* NaN stays */
  __device__ float operator()(float x, float dy) const { return x > 0 ? dy : 0; }
};
} // namespace
ij_status ij_cuda_relu_fwd(ij_queue *q, ij_dim n, const float *x, float *y) {
  return each(q, "relu_fwd", n, x, y, Relu());
}
ij_status ij_cuda_relu_bwd(ij_queue *q, ij_dim n, const float *x, const float *dy, float *dx) {
  return each(q, "relu_bwd", n, x, dy, dx, Relu());
}

static __global__ void fill_all(ij_dim n, ij_dim packs, float value, float *x) {
  ij_pack<float, PACK> p;
  for (int j = 0; j < PACK; j++) p.v[j] = value;
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) ij_store<PACK>(x, i * PACK, p);
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) x[i] = value;
}
ij_status ij_cuda_fill(ij_queue *q, ij_dim n, float value, float *x) {
  if (n == 0) return IJ_OK;
  ij_dim packs = ij_packs<PACK>(0, x) ? n / PACK : 0;
  LAUNCH(fill_all, ij_fill_blocks(q, packs ? (n + PACK - 1) / PACK : n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs,
         value, x);
  return ij_cuda_launched("fill");
}

/* ---- scale_rows ---- */
template <class T, int V>
static __global__ void scale_kernel(ij_dim Q, ij_dim n, ij_dim D, const T *x, const float *b, const float *s, T *y) {
  for (ij_dim r = ij_row(); r < Q * n; r += ij_row_step()) {
    float scale = s[r / n];
    for (ij_dim c = ij_column(); c < D / V; c += ij_column_step()) {
      ij_pack<float, V> a = ij_load_f32<V>(x, r * D + c * V), add = {};
      if (b) add = ij_load<V>(b, c * V);
      for (int j = 0; j < V; j++) a.v[j] = scale * (a.v[j] + add.v[j]);
      ij_store_f32<V>(y, r * D + c * V, a);
    }
  }
}
template <class T>
static void scale_as(ij_queue *q, ij_dim Q, ij_dim n, ij_dim D, const T *x, const float *b, const float *s, T *y) {
  enum { V = 16 / sizeof(T) };
  bool pack = ij_packs<V>(D, x, b, y);
  ij_grid g = ij_rows_grid(Q * n, pack ? D / V : D);
  auto kernel = pack ? scale_kernel<T, V> : scale_kernel<T, 1>;
  LAUNCH(kernel, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, Q, n, D, x, b, s, y);
}
ij_status ij_cuda_scale_rows(ij_queue *q, ij_dtype dt, ij_dim Q, ij_dim n, ij_dim D, const void *x, const float *b,
                             const float *s, void *y) {
  if (Q * n * D == 0) return IJ_OK;
  if (dt == IJ_BF16) scale_as(q, Q, n, D, (const __nv_bfloat16 *)x, b, s, (__nv_bfloat16 *)y);
  else scale_as(q, Q, n, D, (const float *)x, b, s, (float *)y);
  return ij_cuda_launched("scale_rows");
}

/* ---- convert: through int64 between integers, through f32 else, as the reference; a NaN keeps its bits ---- */
template <class T> constexpr bool is_float = false;
template <> constexpr bool is_float<float> = true;
template <> constexpr bool is_float<__nv_bfloat16> = true;

template <class From> __device__ static float to_float(From x) {
  if constexpr (is_float<From>) return ij_get(&x, 0);
  else return (float)x;
}
template <class From> __device__ static int64_t to_integer(From x) {
  if constexpr (is_float<From>) {
    float f = to_float(x);
    return f != f ? 0 : f >= 0x1p63f ? INT64_MAX : f < -0x1p63f ? INT64_MIN : (int64_t)f;
  } else return x;
}
template <class To, class From> __device__ static To converted(From x) {
  if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    float f = to_float(x);
    return f != f ? __ushort_as_bfloat16((unsigned short)(__float_as_uint(f) >> 16 | 0x40)) : __float2bfloat16(f);
  } else if constexpr (is_float<To>) return to_float(x);
  else {
    const int64_t low = sizeof(To) == 1 ? 0 : sizeof(To) == 4 ? INT32_MIN : INT64_MIN;
    const int64_t high = sizeof(To) == 1 ? 255 : sizeof(To) == 4 ? INT32_MAX : INT64_MAX;
    int64_t v = to_integer(x);
    return (To)(v < low ? low : v > high ? high : v);
  }
}

enum { MANY = 8 };
template <class From, class To> static __global__ void convert_all(ij_dim n, ij_dim packs, const From *x, To *y) {
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<From, MANY> a = ij_load<MANY>(x, i * MANY);
    ij_pack<To, MANY> b;
    for (int j = 0; j < MANY; j++) b.v[j] = converted<To>(a.v[j]);
    ij_store<MANY>(y, i * MANY, b);
  }
  for (ij_dim i = packs * MANY + ij_at(); i < n; i += ij_step()) y[i] = converted<To>(x[i]);
}
template <class From, class To> static void convert_as(ij_queue *q, ij_dim n, const void *from, void *to) {
  const From *x = (const From *)from;
  To *y = (To *)to;
  ij_dim packs = ij_packs<MANY>(0, x, y) ? n / MANY : 0;
  auto kernel = convert_all<From, To>;
  LAUNCH(kernel, ij_fill_blocks(q, packs ? (n + MANY - 1) / MANY : n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs, x,
         y);
}
template <class From> static void convert_from(ij_queue *q, ij_dim n, const void *x, ij_dtype to, void *y) {
  if (to == IJ_F32) convert_as<From, float>(q, n, x, y);
  else if (to == IJ_BF16) convert_as<From, __nv_bfloat16>(q, n, x, y);
  else if (to == IJ_I32) convert_as<From, int32_t>(q, n, x, y);
  else if (to == IJ_I64) convert_as<From, int64_t>(q, n, x, y);
  else convert_as<From, uint8_t>(q, n, x, y);
}
ij_status ij_cuda_convert(ij_queue *q, ij_dim n, ij_dtype from, const void *x, ij_dtype to, void *y) {
  if (n == 0) return IJ_OK;
  if (from == IJ_F32) convert_from<float>(q, n, x, to, y);
  else if (from == IJ_BF16) convert_from<__nv_bfloat16>(q, n, x, to, y);
  else if (from == IJ_I32) convert_from<int32_t>(q, n, x, to, y);
  else if (from == IJ_I64) convert_from<int64_t>(q, n, x, to, y);
  else convert_from<uint8_t>(q, n, x, to, y);
  return ij_cuda_launched("convert");
}

/* ---- copy ---- */
enum { MOST_DIMS = 7 }; /* one more than the contract's: elements of an odd size get one for their bytes */
namespace {
struct Layout {
  ij_dim nd;
  ij_dim shape[MOST_DIMS], x[MOST_DIMS], y[MOST_DIMS];
};
} // namespace

static void move_dim(Layout *l, int from, int to) { /* from <= to */
  ij_dim shape = l->shape[from], x = l->x[from], y = l->y[from];
  for (int d = from; d < to; d++) l->shape[d] = l->shape[d + 1], l->x[d] = l->x[d + 1], l->y[d] = l->y[d + 1];
  l->shape[to] = shape, l->x[to] = x, l->y[to] = y;
}

static ij_dim length(ij_dim stride) { return stride < 0 ? -stride : stride; }

/* In the order of y's memory, without dimensions of 1, neighbours that continue each other as one; nd >= 1. */
static void simplify(Layout *l) {
  for (int d = (int)l->nd - 1; d >= 0; d--)
    if (l->shape[d] == 1) move_dim(l, d, (int)--l->nd);
  for (int end = (int)l->nd; end > 1; end--) {
    int least = 0; /* of equal ones the last stays last */
    for (int d = 1; d < end; d++)
      if (length(l->y[d]) <= length(l->y[least])) least = d;
    move_dim(l, least, end - 1);
  }
  for (int d = (int)l->nd - 2; d >= 0; d--) {
    ij_dim inner = l->shape[d + 1];
    if (l->x[d] != l->x[d + 1] * inner || l->y[d] != l->y[d + 1] * inner) continue;
    l->shape[d + 1] *= l->shape[d];
    move_dim(l, d, (int)--l->nd);
  }
  if (l->nd == 0) *l = {1, {1}, {1}, {1}};
}

static void split_to_bytes(Layout *l, ij_dim size) {
  for (int d = 0; d < l->nd; d++) l->x[d] *= size, l->y[d] *= size;
  l->shape[l->nd] = size, l->x[l->nd] = l->y[l->nd] = 1;
  l->nd++;
}

/* Pairs of elements as one, where all allows it. */
static bool widen(Layout *l, ij_dim size, const void *x, const void *y) {
  int last = (int)l->nd - 1;
  if (size >= 16 || l->x[last] != 1 || l->y[last] != 1 || l->shape[last] % 2) return false;
  if ((uintptr_t)x % (uintptr_t)(2 * size) || (uintptr_t)y % (uintptr_t)(2 * size)) return false;
  for (int d = 0; d < last; d++)
    if (l->x[d] % 2 || l->y[d] % 2) return false;
  for (int d = 0; d < last; d++) l->x[d] /= 2, l->y[d] /= 2;
  l->shape[last] /= 2;
  return true;
}

/* The offsets of row r of the dimensions but the last `inner` */
__device__ static void place_of(const Layout &l, int inner, ij_dim r, ij_dim *from, ij_dim *to) {
  *from = *to = 0;
  for (int d = (int)l.nd - 1 - inner; d >= 0; d--) {
    ij_dim i = r % l.shape[d];
    *from += i * l.x[d];
    *to += i * l.y[d];
    r /= l.shape[d];
  }
}

template <class T> static __global__ void copy_rows(ij_dim rows, Layout l, const T *x, T *y) {
  int last = (int)l.nd - 1;
  for (ij_dim r = ij_row(); r < rows; r += ij_row_step()) {
    ij_dim from, to;
    place_of(l, 1, r, &from, &to);
    for (ij_dim c = ij_column(); c < l.shape[last]; c += ij_column_step())
      y[to + c * l.y[last]] = x[from + c * l.x[last]];
  }
}

/* Last but one: dense in x; last: in y. Through tiles, so that both sides are read and written along. */
enum { TILE = 32, TILE_ROWS = 8 };
template <class T> static __global__ void copy_turned(ij_dim rows, Layout l, const T *x, T *y) {
  SHARED_ARRAY(T, tile, [TILE][TILE + 1]);
  int a = (int)l.nd - 1, b = a - 1, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
  ij_dim across = (l.shape[a] + TILE - 1) / TILE, down = (l.shape[b] + TILE - 1) / TILE;
  for (ij_dim w = blockIdx.x; w < rows * across * down; w += gridDim.x) {
    ij_dim from, to, at_a = w % across * TILE, at_b = w / across % down * TILE;
    place_of(l, 2, w / across / down, &from, &to);
    for (int i = ty; i < TILE; i += TILE_ROWS)
      if (at_a + i < l.shape[a] && at_b + tx < l.shape[b])
        tile[i][tx] = x[from + (at_a + i) * l.x[a] + (at_b + tx) * l.x[b]];
    __syncthreads();
    for (int i = ty; i < TILE; i += TILE_ROWS)
      if (at_a + tx < l.shape[a] && at_b + i < l.shape[b])
        y[to + (at_a + tx) * l.y[a] + (at_b + i) * l.y[b]] = tile[tx][i];
    __syncthreads();
  }
}

/* Whether reading transposed is faster; the dimension that is dense in x then becomes the last but one. */
static bool turn(Layout *l) {
  int last = (int)l->nd - 1, dense = -1;
  for (int d = 0; d < last; d++)
    if (l->x[d] == 1) dense = d;
  if (dense < 0 || length(l->x[last]) < 2 || l->shape[last] < TILE_ROWS || l->shape[dense] < TILE_ROWS) return false;
  move_dim(l, dense, last - 1);
  return true;
}

template <class T> static void copy_as(ij_queue *q, ij_dim count, Layout l, const void *x, void *y) {
  ij_dim n = l.shape[l.nd - 1];
  if (turn(&l)) {
    ij_dim rows = count / n / l.shape[l.nd - 2];
    ij_dim tiles = rows * ((n + TILE - 1) / TILE) * ((l.shape[l.nd - 2] + TILE - 1) / TILE);
    LAUNCH(copy_turned<T>, ij_blocks(tiles, 1, IJ_MOST_BLOCKS), dim3(TILE, TILE_ROWS), 0, ij_cuda_of(q)->stream, rows,
           l, (const T *)x, (T *)y);
    return;
  }
  ij_grid g = ij_rows_grid(count / n, n);
  LAUNCH(copy_rows<T>, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, count / n, l, (const T *)x, (T *)y);
}

ij_status ij_cuda_copy(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const void *x, const ij_dim *xstride,
                       void *y, const ij_dim *ystride) {
  Layout l = {nd, {}, {}, {}};
  bool odd = size > 8 || (size & (size - 1)) || (uintptr_t)x % (uintptr_t)size || (uintptr_t)y % (uintptr_t)size;
  ij_dim count = 1;
  for (int d = 0; d < nd; d++) count *= shape[d], l.shape[d] = shape[d], l.x[d] = xstride[d], l.y[d] = ystride[d];
  if (count * size == 0) return IJ_OK;
  if (odd) split_to_bytes(&l, size), count *= size, size = 1;
  simplify(&l);
  while (widen(&l, size, x, y)) size *= 2, count /= 2;
  if (size == 1) copy_as<uint8_t>(q, count, l, x, y);
  else if (size == 2) copy_as<uint16_t>(q, count, l, x, y);
  else if (size == 4) copy_as<uint32_t>(q, count, l, x, y);
  else if (size == 8) copy_as<uint64_t>(q, count, l, x, y);
  else copy_as<ij_pack<uint64_t, 2>>(q, count, l, x, y);
  return ij_cuda_launched("copy");
}

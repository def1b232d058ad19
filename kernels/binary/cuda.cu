/* Functions of two numbers with broadcasting, their derivatives, and the choice between two. */
#include "../cuda/rows.h"
#include "../whole.h"
#include <utility>

enum { PACK = 4, DIMS = 6 };
using Arithmetic = std::make_integer_sequence<int, IJ_EQ>;
using Functions = std::make_integer_sequence<int, IJ_BINARY_FNS>;

namespace {
struct Layout { /* of what is read; the result is dense */
  ij_dim nd, shape[DIMS], stride[3][DIMS];
};
struct Offsets {
  ij_dim of[3];
};
} // namespace

static Layout layout(int nd, const ij_dim *shape, const ij_dim *a, const ij_dim *b, const ij_dim *c) {
  Layout l = {};
  l.nd = nd;
  const ij_dim *stride[3] = {a, b, c};
  for (int d = 0; d < nd; d++) {
    l.shape[d] = shape[d];
    for (int k = 0; k < 3; k++) l.stride[k][d] = stride[k] ? stride[k][d] : 0;
  }
  return l;
}
static ij_dim count(const Layout &l) {
  ij_dim n = 1;
  for (int d = 0; d < l.nd; d++) n *= l.shape[d];
  return n;
}
/* Whether rows can be taken in packs: each operand lies along or repeats one element. */
template <class T, class... P> static bool packs(const Layout &l, int operands, const P *...p) {
  int last = (int)l.nd - 1;
  bool fits = ij_packs<PACK>(l.shape[last], p...);
  for (int k = 0; k < operands && fits; k++) {
    fits = l.stride[k][last] == 0 || l.stride[k][last] == 1;
    for (int d = 0; d < last && fits; d++) fits = l.stride[k][last] == 0 || l.stride[k][d] % PACK == 0;
  }
  return fits;
}
__device__ static Offsets offsets(const Layout &l, ij_dim r) { /* of row r */
  Offsets o = {};
  for (int d = (int)l.nd - 2; d >= 0; d--) {
    ij_dim i = r % l.shape[d];
    for (int k = 0; k < 3; k++) o.of[k] += i * l.stride[k][d];
    r /= l.shape[d];
  }
  return o;
}
/* V elements from column c on; x NULL: s */
template <int V, class T> __device__ static ij_pack<T, V> some(const T *x, ij_dim at, ij_dim stride, ij_dim c, T s) {
  ij_pack<T, V> v;
  if (V > 1 && x && stride == 1) return ij_load<V>(x, at + c);
  for (int j = 0; j < V; j++) v.v[j] = x ? x[at + (c + j) * stride] : s;
  return v;
}

template <int F> __device__ static inline float value(float x, float y) {
  if constexpr (F == IJ_ADD) return x + y;
  else if constexpr (F == IJ_SUB) return x - y;
  else if constexpr (F == IJ_MUL) return x * y;
  else if constexpr (F == IJ_DIV) return x / y;
  else if constexpr (F == IJ_POW) return powf(x, y);
  else if constexpr (F == IJ_MIN) return x < y || x != x ? x : y;
  else return x > y || x != x ? x : y;
}
template <class T> __device__ static inline bool compare(int f, T x, T y) {
  return f == IJ_EQ   ? x == y
         : f == IJ_NE ? x != y
         : f == IJ_LT ? x < y
         : f == IJ_LE ? x <= y
         : f == IJ_GT ? x > y
                      : x >= y;
}
namespace {
template <int F> struct OfFloats {
  __device__ float operator()(float x, float y) const { return value<F>(x, y); }
};
template <class T> struct OfWhole {
  ij_dim f;
  __device__ T operator()(T x, T y) const { return (T)ij_whole_binary((int)f, x, y); }
};
struct Compare {
  ij_dim f;
  template <class T> __device__ uint8_t operator()(T x, T y) const { return compare((int)f, x, y); }
};
} // namespace

template <int V, class T, class Z, class F>
static __global__ void binary_rows(ij_dim rows, Layout l, F f, T s, const T *x, const T *y, Z *z) {
  int last = (int)l.nd - 1;
  for (ij_dim r = ij_row(); r < rows; r += ij_row_step()) {
    Offsets o = offsets(l, r);
    for (ij_dim c = ij_column(); c < l.shape[last] / V; c += ij_column_step()) {
      ij_pack<T, V> a = some<V>(x, o.of[0], l.stride[0][last], c * V, s);
      ij_pack<T, V> b = some<V>(y, o.of[1], l.stride[1][last], c * V, s);
      ij_pack<Z, V> out;
      for (int j = 0; j < V; j++) out.v[j] = f(a.v[j], b.v[j]);
      ij_store<V>(z, r * l.shape[last] + c * V, out);
    }
  }
}
template <class T, class Z, class F>
static void apply(ij_queue *q, const Layout &l, F f, T s, const void *x, const void *y, void *z) {
  const T *a = (const T *)x, *b = (const T *)y;
  ij_dim n = l.shape[l.nd - 1], rows = count(l) / n;
  bool pack = packs<T>(l, 2, a, b) && ij_packs<PACK>(n, (Z *)z);
  ij_grid g = ij_rows_grid(rows, pack ? n / PACK : n);
  auto binary_fwd = pack ? binary_rows<PACK, T, Z, F> : binary_rows<1, T, Z, F>;
  LAUNCH(binary_fwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, rows, l, f, s, a, b, (Z *)z);
}
template <int... F>
static void floats(ij_queue *q, int f, const Layout &l, float s, const void *x, const void *y, void *z,
                   std::integer_sequence<int, F...>) {
  void (*const each[])(ij_queue *, const Layout &, float, const void *, const void *,
                       void *) = {[](ij_queue *queue, const Layout &ll, float ss, const void *a, const void *b,
                                     void *c) { apply<float, float>(queue, ll, OfFloats<F>(), ss, a, b, c); }...};
  each[f](q, l, s, x, y, z);
}
template <class T>
static void whole(ij_queue *q, int f, const Layout &l, double s, const void *x, const void *y, void *z) {
  T number = (T)ij_whole_of(s);
  if (f >= IJ_EQ) apply<T, uint8_t>(q, l, Compare{f}, number, x, y, z);
  else apply<T, T>(q, l, OfWhole<T>{f}, number, x, y, z);
}

ij_status ij_cuda_binary_fwd(ij_queue *q, int f, ij_dtype dt, int nd, const ij_dim *shape, double s, const void *x,
                             const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  Layout l = layout(nd, shape, x ? xstride : NULL, y ? ystride : NULL, NULL);
  if (count(l) == 0) return IJ_OK;
  if (dt == IJ_F32 && f >= IJ_EQ) apply<float, uint8_t>(q, l, Compare{f}, (float)s, x, y, z);
  else if (dt == IJ_F32) floats(q, f, l, (float)s, x, y, z, Arithmetic());
  else if (dt == IJ_I32) whole<int32_t>(q, f, l, s, x, y, z);
  else if (dt == IJ_I64) whole<int64_t>(q, f, l, s, x, y, z);
  else whole<uint8_t>(q, f, l, s, x, y, z);
  return ij_cuda_launched("binary_fwd");
}

/* ---- derivatives ---- */
template <int F> __device__ static inline void slopes(float x, float y, float *dx, float *dy) {
  if constexpr (F == IJ_ADD) *dx = *dy = 1;
  else if constexpr (F == IJ_SUB) *dx = 1, *dy = -1;
  else if constexpr (F == IJ_MUL) *dx = y, *dy = x;
  else if constexpr (F == IJ_DIV) *dx = 1 / y, *dy = -x / y / y;
  else if constexpr (F == IJ_POW) {
    *dx = y == 0 ? 0 : y * powf(x, y - 1);
    *dy = x == 0 && y >= 0 ? 0 : powf(x, y) * logf(x);
  } else if constexpr (F == IJ_MIN || F == IJ_MAX) {
    *dx = x == y ? 0.5f : (F == IJ_MAX) == (x > y) ? 1.0f : 0.0f;
    *dy = 1 - *dx;
  } else *dx = *dy = 0;
}
template <int V, int F>
static __global__ void binary_grads(ij_dim rows, Layout l, float s, const float *x, const float *y, const float *dz,
                                    float *dx, float *dy) {
  int last = (int)l.nd - 1;
  for (ij_dim r = ij_row(); r < rows; r += ij_row_step()) {
    Offsets o = offsets(l, r);
    for (ij_dim c = ij_column(); c < l.shape[last] / V; c += ij_column_step()) {
      ij_pack<float, V> a = some<V>(x, o.of[0], l.stride[0][last], c * V, s), ga;
      ij_pack<float, V> b = some<V>(y, o.of[1], l.stride[1][last], c * V, s), gb;
      ij_pack<float, V> g = ij_load<V>(dz, r * l.shape[last] + c * V);
      for (int j = 0; j < V; j++) {
        slopes<F>(a.v[j], b.v[j], &ga.v[j], &gb.v[j]);
        ga.v[j] *= g.v[j];
        gb.v[j] *= g.v[j];
      }
      if (dx) ij_store<V>(dx, r * l.shape[last] + c * V, ga);
      if (dy) ij_store<V>(dy, r * l.shape[last] + c * V, gb);
    }
  }
}
template <int... F>
static void gradients(ij_queue *q, int f, const Layout &l, float s, const float *x, const float *y, const float *dz,
                      float *dx, float *dy, std::integer_sequence<int, F...>) {
  ij_dim n = l.shape[l.nd - 1], rows = count(l) / n;
  bool pack = packs<float>(l, 2, x, y, dz, dx, dy);
  void (*const in_packs[])(ij_dim, Layout, float, const float *, const float *, const float *, float *,
                           float *) = {binary_grads<PACK, F>...};
  void (*const singly[])(ij_dim, Layout, float, const float *, const float *, const float *, float *,
                         float *) = {binary_grads<1, F>...};
  ij_grid g = ij_rows_grid(rows, pack ? n / PACK : n);
  auto binary_bwd = pack ? in_packs[f] : singly[f];
  LAUNCH(binary_bwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, rows, l, s, x, y, dz, dx, dy);
}
ij_status ij_cuda_binary_bwd(ij_queue *q, int f, int nd, const ij_dim *shape, double s, const float *x,
                             const ij_dim *xstride, const float *y, const ij_dim *ystride, const float *dz, float *dx,
                             float *dy) {
  Layout l = layout(nd, shape, x ? xstride : NULL, y ? ystride : NULL, NULL);
  if (count(l) == 0) return IJ_OK;
  gradients(q, f, l, (float)s, x, y, dz, dx, dy, Functions());
  return ij_cuda_launched("binary_bwd");
}

/* ---- choice ---- */
template <int V, class T>
static __global__ void choose_rows(ij_dim rows, Layout l, const uint8_t *c, const T *x, const T *y, T *z) {
  int last = (int)l.nd - 1;
  for (ij_dim r = ij_row(); r < rows; r += ij_row_step()) {
    Offsets o = offsets(l, r);
    for (ij_dim i = ij_column(); i < l.shape[last] / V; i += ij_column_step()) {
      ij_pack<uint8_t, V> first = some<V>(c, o.of[0], l.stride[0][last], i * V, (uint8_t)0);
      ij_pack<T, V> a = some<V>(x, o.of[1], l.stride[1][last], i * V, (T)0), out;
      ij_pack<T, V> b = some<V>(y, o.of[2], l.stride[2][last], i * V, (T)0);
      for (int j = 0; j < V; j++) out.v[j] = first.v[j] ? a.v[j] : b.v[j];
      ij_store<V>(z, r * l.shape[last] + i * V, out);
    }
  }
}
template <class T>
static void choose_as(ij_queue *q, const Layout &l, const uint8_t *c, const void *x, const void *y, void *z) {
  ij_dim n = l.shape[l.nd - 1], rows = count(l) / n;
  bool pack = packs<T>(l, 3, (const T *)x, (const T *)y, (T *)z) && ij_packs<PACK>(n, c);
  ij_grid g = ij_rows_grid(rows, pack ? n / PACK : n);
  auto choose = pack ? choose_rows<PACK, T> : choose_rows<1, T>;
  LAUNCH(choose, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, rows, l, c, (const T *)x, (const T *)y, (T *)z);
}
ij_status ij_cuda_choose(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const uint8_t *c, const ij_dim *cstride,
                         const void *x, const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  Layout l = layout(nd, shape, cstride, x ? xstride : NULL, y ? ystride : NULL);
  if (count(l) == 0) return IJ_OK;
  if (size == 1) choose_as<uint8_t>(q, l, c, x, y, z);
  else if (size == 4) choose_as<uint32_t>(q, l, c, x, y, z);
  else choose_as<uint64_t>(q, l, c, x, y, z);
  return ij_cuda_launched("choose");
}

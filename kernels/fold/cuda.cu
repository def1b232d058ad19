/* Folds along an axis other than f32 sums, and running sums. */
#include "../cuda/rows.h"
#include "../whole.h"

/* ---- folds: of runs of each (P, Q), then of the runs' results ---- */
namespace {
/* What a fold is at: a sum, a product or the best value, and where the best is. */
template <class A> struct State {
  A v;
  ij_dim at;
};
} // namespace

template <int F, class A> __device__ static State<A> start() { return {(A)(F == IJ_FOLD_PROD), -1}; }
/* b comes behind a. */
template <int F, class A> __device__ static State<A> join(State<A> a, State<A> b) {
  if constexpr (F == IJ_FOLD_SUM) {
    return {(A)ij_whole_add((int64_t)a.v, (int64_t)b.v), 0};
  } else if constexpr (F == IJ_FOLD_PROD) {
    if constexpr (std::is_same_v<A, double>) return {a.v * b.v, 0};
    else return {(A)ij_whole_mul((int64_t)a.v, (int64_t)b.v), 0};
  } else {
    constexpr bool largest = F == IJ_FOLD_MAX || F == IJ_FOLD_ARGMAX;
    if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
    bool first = b.at < a.at, equal = a.v == b.v || (a.v != a.v && b.v != b.v);
    if (equal) return first ? b : a;
    if (a.v != a.v || b.v != b.v) return a.v != a.v ? a : b;
    return (largest ? b.v > a.v : b.v < a.v) ? b : a;
  }
}
template <class A> __device__ static State<A> of_lane(State<A> s, int lane) {
  s.v = __shfl_sync(0xffffffffu, s.v, lane);
  s.at = __shfl_sync(0xffffffffu, s.at, lane);
  return s;
}
template <class A, class T> __device__ static State<A> load(const T *x, ij_dim i, ij_dim at) { return {(A)x[i], at}; }
template <class A> __device__ static State<A> load(const State<A> *x, ij_dim i, ij_dim) { return x[i]; }
template <int F, class A, class Y> __device__ static void store(Y *y, ij_dim i, State<A> s) {
  if constexpr (std::is_same_v<Y, State<A>>) y[i] = s;
  else y[i] = F >= IJ_FOLD_ARGMAX ? (Y)s.at : (Y)s.v;
}

/* y (P, parts, Q) = folds of runs of `run` of x (P, n, Q); a warp a run where Q is 1, else a thread */
template <int F, class A, class X, class Y>
static __global__ void fold_runs(ij_dim P, ij_dim n, ij_dim parts, ij_dim run, const X *x, Y *y) {
  for (ij_dim w = ij_group_row<1>(); w < P * parts; w += ij_group_step<1>()) {
    ij_dim from = w % parts * run, to = n - from < run ? n : from + run;
    State<A> s = start<F, A>();
    for (ij_dim i = from + threadIdx.x % 32; i < to; i += 32) s = join<F>(s, load<A>(x, w / parts * n + i, i));
    for (int d = 16; d; d >>= 1) s = join<F>(s, of_lane(s, (int)threadIdx.x % 32 ^ d));
    if (threadIdx.x % 32 == 0) store<F>(y, w, s);
  }
}
template <int F, class A, class X, class Y>
static __global__ void fold_columns(ij_dim P, ij_dim n, ij_dim Q, ij_dim parts, ij_dim run, const X *x, Y *y) {
  for (ij_dim w = ij_at(); w < P * parts * Q; w += ij_step()) {
    ij_dim j = w % Q, k = w / Q, from = k % parts * run, to = n - from < run ? n : from + run;
    State<A> s = start<F, A>();
    for (ij_dim i = from; i < to; i++) s = join<F>(s, load<A>(x, (k / parts * n + i) * Q + j, i));
    store<F>(y, w, s);
  }
}
template <int F, class A, class X, class Y>
static void fold_stage(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, ij_dim parts, ij_dim run, const X *x, Y *y) {
  cudaStream_t stream = ij_cuda_of(q)->stream;
  auto runs = fold_runs<F, A, X, Y>;
  auto columns = fold_columns<F, A, X, Y>;
  if (Q == 1) LAUNCH(runs, ij_group_blocks(P * parts, false), IJ_BLOCK, 0, stream, P, n, parts, run, x, y);
  else LAUNCH(columns, ij_fill_blocks(q, P * parts * Q), IJ_BLOCK, 0, stream, P, n, Q, parts, run, x, y);
}
template <int F, class A, class T, class Y>
static ij_status fold(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  ij_dim parts = ij_fold_parts(P, n, Q), run = ij_ceil_div(n, parts);
  if (parts == 1) {
    fold_stage<F, A, T, Y>(q, P, n, Q, 1, n, (const T *)x, (Y *)y);
    return ij_cuda_launched("fold_fwd");
  }
  State<A> *part = (State<A> *)ij_cuda_scratch(q, 0, ij_fold_scratch(P, n, Q));
  if (!part) return IJ_ENOMEM;
  fold_stage<F, A, T, State<A>>(q, P, n, Q, parts, run, (const T *)x, part);
  fold_stage<F, A, State<A>, Y>(q, P, parts, Q, 1, parts, part, (Y *)y);
  return ij_cuda_launched("fold_fwd");
}
template <class A, class T>
static ij_status order(ij_queue *q, int f, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  if (f == IJ_FOLD_MAX) return fold<IJ_FOLD_MAX, A, T, T>(q, P, n, Q, x, y);
  if (f == IJ_FOLD_MIN) return fold<IJ_FOLD_MIN, A, T, T>(q, P, n, Q, x, y);
  if (f == IJ_FOLD_ARGMAX) return fold<IJ_FOLD_ARGMAX, A, T, int32_t>(q, P, n, Q, x, y);
  return fold<IJ_FOLD_ARGMIN, A, T, int32_t>(q, P, n, Q, x, y);
}
template <class T> static ij_status whole(ij_queue *q, int f, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  if (f == IJ_FOLD_SUM) return fold<IJ_FOLD_SUM, ij_dim, T, T>(q, P, n, Q, x, y);
  if (f == IJ_FOLD_PROD) return fold<IJ_FOLD_PROD, ij_dim, T, T>(q, P, n, Q, x, y);
  return order<ij_dim, T>(q, f, P, n, Q, x, y);
}

ij_status ij_cuda_fold_fwd(ij_queue *q, int f, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  if (P * Q == 0) return IJ_OK;
  if (dt == IJ_I32) return whole<int32_t>(q, f, P, n, Q, x, y);
  if (dt == IJ_I64) return whole<int64_t>(q, f, P, n, Q, x, y);
  if (dt == IJ_U8) return whole<uint8_t>(q, f, P, n, Q, x, y);
  if (f == IJ_FOLD_PROD) return fold<IJ_FOLD_PROD, double, float, float>(q, P, n, Q, x, y);
  return order<double, float>(q, f, P, n, Q, x, y);
}

/* ---- their derivatives ---- */
namespace {
/* Of one fold: the product of what is not 0, how many are 0, how many equal the result. */
struct Counts {
  double product;
  ij_dim zeros, equal;
};
} // namespace
__device__ static bool hits(float v, float y) { return v == y || (v != v && y != y); }
__device__ static void note(Counts *c, float v, float y) {
  if (v == 0) c->zeros++;
  else c->product *= (double)v;
  c->equal += hits(v, y);
}
__device__ static float share_of(bool prod, const Counts &c, float v, float y, float dy) {
  if (!prod) return hits(v, y) ? (float)((double)dy / (double)c.equal) : 0;
  double rest = v == 0 ? c.zeros == 1 ? c.product : 0 : c.zeros ? 0 : c.product / (double)v;
  return (float)((double)dy * rest);
}
/* A warp a fold where Q is 1, else a thread */
static __global__ void unfold_rows(ij_dim prod, ij_dim P, ij_dim n, const float *x, const float *y, const float *dy,
                                   float *dx) {
  int lane = (int)threadIdx.x % 32;
  for (ij_dim r = ij_group_row<1>(); r < P; r += ij_group_step<1>()) {
    Counts c = {1, 0, 0};
    for (ij_dim i = lane; i < n; i += 32) note(&c, x[r * n + i], y[r]);
    for (int d = 16; d; d >>= 1) {
      c.product *= __shfl_xor_sync(0xffffffffu, c.product, d);
      c.zeros += __shfl_xor_sync(0xffffffffu, c.zeros, d);
      c.equal += __shfl_xor_sync(0xffffffffu, c.equal, d);
    }
    for (ij_dim i = lane; i < n; i += 32) dx[r * n + i] = share_of(prod != 0, c, x[r * n + i], y[r], dy[r]);
  }
}
static __global__ void unfold_columns(ij_dim prod, ij_dim P, ij_dim n, ij_dim Q, const float *x, const float *y,
                                      const float *dy, float *dx) {
  for (ij_dim r = ij_at(); r < P * Q; r += ij_step()) {
    Counts c = {1, 0, 0};
    ij_dim from = r / Q * n * Q + r % Q;
    for (ij_dim i = 0; i < n; i++) note(&c, x[from + i * Q], y[r]);
    for (ij_dim i = 0; i < n; i++) dx[from + i * Q] = share_of(prod != 0, c, x[from + i * Q], y[r], dy[r]);
  }
}
ij_status ij_cuda_fold_bwd(ij_queue *q, int f, ij_dim P, ij_dim n, ij_dim Q, const float *x, const float *y,
                           const float *dy, float *dx) {
  ij_dim prod = f == IJ_FOLD_PROD;
  cudaStream_t stream = ij_cuda_of(q)->stream;
  if (P * n * Q == 0) return IJ_OK;
  if (Q == 1) LAUNCH(unfold_rows, ij_group_blocks(P, false), IJ_BLOCK, 0, stream, prod, P, n, x, y, dy, dx);
  else LAUNCH(unfold_columns, ij_fill_blocks(q, P * Q), IJ_BLOCK, 0, stream, prod, P, n, Q, x, y, dy, dx);
  return ij_cuda_launched("fold_bwd");
}

/* ---- running sums: a warp a row, 32 elements at a time; columns a thread each ---- */
template <class A> __device__ static A plus(A a, A b) {
  if constexpr (std::is_same_v<A, double>) return a + b;
  else return (A)ij_whole_add(a, b);
}
template <class T, class A> static __global__ void scan_rows(ij_dim P, ij_dim n, ij_dim reverse, const T *x, T *y) {
  int lane = (int)threadIdx.x % 32;
  for (ij_dim r = ij_group_row<1>(); r < P; r += ij_group_step<1>()) {
    A before = 0;
    for (ij_dim from = 0; from < n; from += 32) {
      ij_dim k = from + lane, i = r * n + (reverse ? n - 1 - k : k);
      A v = k < n ? (A)x[i] : (A)0;
      for (int d = 1; d < 32; d <<= 1) {
        A other = __shfl_up_sync(0xffffffffu, v, d);
        if (lane >= d) v = plus(v, other);
      }
      v = plus(before, v);
      if (k < n) y[i] = (T)v;
      before = __shfl_sync(0xffffffffu, v, 31);
    }
  }
}
template <class T, class A>
static __global__ void scan_columns(ij_dim P, ij_dim n, ij_dim Q, ij_dim reverse, const T *x, T *y) {
  for (ij_dim r = ij_at(); r < P * Q; r += ij_step()) {
    A sum = 0;
    for (ij_dim k = 0; k < n; k++) {
      ij_dim i = (r / Q * n + (reverse ? n - 1 - k : k)) * Q + r % Q;
      y[i] = (T)(sum = plus(sum, (A)x[i]));
    }
  }
}
template <class T, class A>
static void scan_as(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, ij_dim reverse, const void *from, void *to) {
  cudaStream_t stream = ij_cuda_of(q)->stream;
  const T *x = (const T *)from;
  T *y = (T *)to;
  auto rows = scan_rows<T, A>;
  auto columns = scan_columns<T, A>;
  if (Q == 1) LAUNCH(rows, ij_group_blocks(P, false), IJ_BLOCK, 0, stream, P, n, reverse, x, y);
  else LAUNCH(columns, ij_fill_blocks(q, P * Q), IJ_BLOCK, 0, stream, P, n, Q, reverse, x, y);
}
ij_status ij_cuda_scan(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, int reverse, const void *x, void *y) {
  if (P * n * Q == 0) return IJ_OK;
  if (dt == IJ_F32) scan_as<float, double>(q, P, n, Q, reverse, x, y);
  else if (dt == IJ_I32) scan_as<int32_t, ij_dim>(q, P, n, Q, reverse, x, y);
  else scan_as<int64_t, ij_dim>(q, P, n, Q, reverse, x, y);
  return ij_cuda_launched("scan");
}

/* SwiGLU: memory alone counts. bf16: forward 6 bytes an output, backward 12. */
#include "../cuda/cuda.h"
#include "../cuda/rows.h"
#include "../cuda/stripes.h"

enum { THREADS = 256 };

/* n packs of V outputs, `columns` of them a row */
template <class T, int V>
static __global__ void __launch_bounds__(THREADS) fwd(ij_dim n, ij_dim columns, const T *x, const float *b, T *y) {
  ij_dim F = columns * V;
  for (ij_dim i = (ij_dim)blockIdx.x * THREADS + threadIdx.x; i < n; i += (ij_dim)gridDim.x * THREADS) {
    ij_dim r = i / columns, f = i % columns * V;
    float u[V], v[V], bu[V], bv[V];
    ij_load(u, x + r * 2 * F + f), ij_load(v, x + r * 2 * F + F + f);
    ij_load(bu, b + f), ij_load(bv, b + F + f);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float a = u[k] + bu[k];
      u[k] = a / (1 + __expf(-a)) * (v[k] + bv[k]);
    }
    ij_store(y + r * F + f, u);
  }
}

/* dx may be x: a thread reads both of its elements before it writes them */
template <class T, int V>
static __global__ void __launch_bounds__(THREADS)
    bwd(ij_dim n, ij_dim columns, const T *x, const float *b, const T *dy, T *dx, T *y) {
  ij_dim F = columns * V;
  for (ij_dim i = (ij_dim)blockIdx.x * THREADS + threadIdx.x; i < n; i += (ij_dim)gridDim.x * THREADS) {
    ij_dim r = i / columns, f = i % columns * V;
    float u[V], v[V], bu[V], bv[V], g[V], out[V];
    ij_load(u, x + r * 2 * F + f), ij_load(v, x + r * 2 * F + F + f);
    ij_load(bu, b + f), ij_load(bv, b + F + f);
    ij_load(g, dy + r * F + f);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float a = u[k] + bu[k], c = v[k] + bv[k], s = 1 / (1 + __expf(-a));
      out[k] = a * s * c;
      u[k] = g[k] * c * s * (1 + a * (1 - s));
      v[k] = g[k] * a * s;
    }
    ij_store(y + r * F + f, out);
    ij_store(dx + r * 2 * F + f, u), ij_store(dx + r * 2 * F + F + f, v);
  }
}

template <class T, int V> static void launch_fwd(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, T *y) {
  ij_dim n = R * (F / V);
  LAUNCH((fwd<T, V>), ij_fill_blocks(q, n), THREADS, 0, ij_cuda_of(q)->stream, n, F / V, x, b, y);
}
template <class T> static ij_status fwd_of(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, T *y) {
  constexpr int V = ij_width<T>;
  if (F % V == 0 && ij_aligned(16, x, b, y)) launch_fwd<T, V>(q, R, F, x, b, y);
  else launch_fwd<T, 1>(q, R, F, x, b, y);
  return ij_cuda_launched("swiglu_fwd");
}
extern "C" ij_status ij_cuda_swiglu_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                        void *y) {
  if (R * F == 0) return IJ_OK;
  if (dt == IJ_BF16) return fwd_of(q, R, F, (const __nv_bfloat16 *)x, b, (__nv_bfloat16 *)y);
  return fwd_of(q, R, F, (const float *)x, b, (float *)y);
}

template <class T, int V>
static void launch_bwd(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, const T *dy, T *dx, T *y) {
  ij_dim n = R * (F / V);
  LAUNCH((bwd<T, V>), ij_fill_blocks(q, n), THREADS, 0, ij_cuda_of(q)->stream, n, F / V, x, b, dy, dx, y);
}
template <class T>
static ij_status bwd_of(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const T *x, const float *b, const T *dy, T *dx,
                        T *y, float *db) {
  constexpr int V = ij_width<T>;
  if (F % V == 0 && ij_aligned(16, x, b, dy, dx, y)) launch_bwd<T, V>(q, R, F, x, b, dy, dx, y);
  else launch_bwd<T, 1>(q, R, F, x, b, dy, dx, y);
  IJ_TRY(ij_cuda_launched("swiglu_bwd"));
  return ij_cuda_column_sum(q, 0, dt, R, 2 * F, dx, db);
}
extern "C" ij_status ij_cuda_swiglu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                        const void *dy, void *dx, void *y, float *db) {
  typedef __nv_bfloat16 T;
  if (R * F == 0) return IJ_OK;
  if (dt == IJ_BF16) return bwd_of(q, dt, R, F, (const T *)x, b, (const T *)dy, (T *)dx, (T *)y, db);
  return bwd_of(q, dt, R, F, (const float *)x, b, (const float *)dy, (float *)dx, (float *)y, db);
}

/* Linear layers: matmuls by cublasLt; bf16 takes w as a bf16 copy that is kept for its version. */
#include "../cuda/cuda.h"
#include "../cuda/stripes.h"
#include "cuda_products.h"

enum { SUMS_SLOT = 0, THREADS = 256 };

/* w in the type of the matmuls of dt; NULL: out of memory */
static const void *weight_in(ij_queue *q, ij_dtype dt, ij_dim n, const float *w, uint64_t version) {
  return dt == IJ_BF16 ? (const void *)ij_cuda_weight(q, w, n, version) : w;
}

extern "C" ij_status ij_cuda_linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x,
                                        const float *w, uint64_t version, void *y) {
  if (R == 0) return IJ_OK;
  const void *factor = weight_in(q, dt, N * K, w, version);
  if (!factor) return IJ_ENOMEM;
  ij_cuda_product p = {1, R, N, K, false, true, false, dt, dt};
  return ij_cuda_multiply(q, &p, x, factor, y, NULL);
}

extern "C" ij_status ij_cuda_linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy,
                                          const float *w, uint64_t version, void *dx) {
  if (R == 0) return IJ_OK;
  const void *factor = weight_in(q, dt, N * K, w, version);
  if (!factor) return IJ_ENOMEM;
  ij_cuda_product p = {1, R, K, N, false, false, false, dt, dt};
  return ij_cuda_multiply(q, &p, dy, factor, dx, NULL);
}

/* dw and db in one pass over dy, which the matmul reads anyway: the library gives bias gradients as f32 beside an f32
 * result. It overwrites, so that they go through scratch. IJ_EUNSUPPORTED: not for this shape. */
static ij_status both(ij_queue *q, const ij_cuda_product *p, const void *dy, const void *x, float *dw, float *db) {
  float *sums = (float *)ij_cuda_scratch(q, SUMS_SLOT, (size_t)p->M * sizeof *sums);
  if (!sums) return IJ_ENOMEM;
  ij_status st = ij_cuda_multiply(q, p, dy, x, dw, sums);
  if (st != IJ_OK) return st;
  ij_cuda_rows_add(q, 1, p->M, sums, db);
  return ij_cuda_launched("linear_bwd_w");
}

extern "C" ij_status ij_cuda_linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy,
                                          const void *x, float *dw, float *db) {
  if (R == 0) return IJ_OK;
  ij_cuda_product p = {1, N, K, R, true, false, true, dt, IJ_F32};
  bool fits = ij_linear_sums_fit(dt, N, K) && ((uintptr_t)dy | (uintptr_t)x | (uintptr_t)dw) % 16 == 0;
  if (dw && db && fits) {
    ij_status st = both(q, &p, dy, x, dw, db);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  ij_status st = db ? ij_cuda_column_sum(q, SUMS_SLOT, dt, R, N, dy, db) : IJ_OK;
  return st == IJ_OK && dw ? ij_cuda_multiply(q, &p, dy, x, dw, NULL) : st;
}

/* As gelu's forward: n groups of V elements, `columns` of them a row */
template <class T, int V>
static __global__ void __launch_bounds__(THREADS) add_bias(ij_dim n, ij_dim columns, const float *b, T *y) {
  ij_dim i = (ij_dim)blockIdx.x * THREADS + threadIdx.x, step = (ij_dim)gridDim.x * THREADS;
  ij_dim column = i % columns, further = step % columns;
  for (; i < n; i += step) {
    float v[V], bias[V];
    ij_load(v, y + i * V);
    ij_load(bias, b + column * V);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] += bias[k];
    ij_store(y + i * V, v);
    column += further;
    if (column >= columns) column -= columns;
  }
}
template <class T, int V> static ij_status launch_bias(ij_queue *q, ij_dim R, ij_dim N, const float *b, T *y) {
  ij_cuda *c = ij_cuda_of(q);
  ij_dim n = R * (N / V);
  LAUNCH((add_bias<T, V>), ij_blocks(n, THREADS, 16 * c->sms), THREADS, 0, c->stream, n, N / V, b, y);
  return ij_cuda_launched("bias_add");
}
template <class T> static ij_status bias_of(ij_queue *q, ij_dim R, ij_dim N, const float *b, T *y) {
  constexpr int V = ij_width<T>;
  if (N % V == 0 && ij_aligned(16, b, y)) return launch_bias<T, V>(q, R, N, b, y);
  return launch_bias<T, 1>(q, R, N, b, y);
}
extern "C" ij_status ij_cuda_bias_add(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, const float *b, void *y) {
  if (R * N == 0) return IJ_OK;
  if (dt == IJ_BF16) return bias_of(q, R, N, b, (__nv_bfloat16 *)y);
  return bias_of(q, R, N, b, (float *)y);
}

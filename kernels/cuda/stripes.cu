/* Sums over rows: a pass over the matrix at the memory's speed, then one over some hundred rows of sums. */
#include "stripes.h"

enum { ADD_WARPS = 32 };

unsigned ij_cuda_stripes(ij_queue *q, ij_dim R, ij_dim blocks) {
  return (unsigned)ij_stripe_count(ij_cuda_of(q)->sms, R, blocks);
}

static __global__ void __launch_bounds__(32 * ADD_WARPS) rows_add(ij_dim rows, ij_dim D, const float *part, float *to) {
  SHARED_ARRAY(float, all, [ADD_WARPS][32]);
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  ij_dim d = (ij_dim)blockIdx.x * 32 + lane;
  float sum = 0;
#pragma unroll 4
  for (ij_dim r = warp; d < D && r < rows; r += ADD_WARPS) sum += part[r * D + d];
  all[warp][lane] = sum;
  __syncthreads();
  if (warp || d >= D) return;
  for (int w = 1; w < ADD_WARPS; w++) sum += all[w][lane];
  to[d] += sum;
}

void ij_cuda_rows_add(ij_queue *q, ij_dim rows, ij_dim D, const float *part, float *to) {
  if (D == 0) return;
  LAUNCH(rows_add, (unsigned)((D + 31) / 32), 32 * ADD_WARPS, 0, ij_cuda_of(q)->stream, rows, D, part, to);
}

template <class T, int V>
static __global__ void __launch_bounds__(IJ_STRIPE_THREADS) stripes(ij_dim R, ij_dim D, const T *x, float *part) {
  ij_dim first = (ij_dim)blockIdx.x * 32 * V, d = first + (ij_dim)(threadIdx.x % 32) * V;
  float sum[V] = {}, v[V];
#pragma unroll 4
  for (ij_dim r = (ij_dim)blockIdx.y * IJ_STRIPE_WARPS + threadIdx.x / 32; d < D && r < R;
       r += (ij_dim)gridDim.y * IJ_STRIPE_WARPS) {
    ij_load(v, x + r * D + d);
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] += v[i];
  }
  ij_stripe_sum(sum, first, D, part + (ij_dim)blockIdx.y * D);
}

template <class T, int V>
static ij_status column_sum(ij_queue *q, int slot, ij_dim R, ij_dim D, const T *x, float *to) {
  ij_dim blocks = (D + 32 * V - 1) / (32 * V);
  unsigned count = ij_cuda_stripes(q, R, blocks);
  float *part = (float *)ij_cuda_scratch(q, slot, ij_column_sum_scratch(ij_cuda_of(q)->sms, R, D, V)); /* (count, D) */
  if (!part) return IJ_ENOMEM;
  LAUNCH((stripes<T, V>), dim3((unsigned)blocks, count), IJ_STRIPE_THREADS, 0, ij_cuda_of(q)->stream, R, D, x, part);
  ij_cuda_rows_add(q, count, D, part, to);
  return ij_cuda_launched("column sums");
}
template <class T> static ij_status column_sum_of(ij_queue *q, int slot, ij_dim R, ij_dim D, const T *x, float *to) {
  constexpr int V = ij_width<T>;
  if (D % V == 0 && ij_aligned(16, x)) return column_sum<T, V>(q, slot, R, D, x, to);
  return column_sum<T, 1>(q, slot, R, D, x, to);
}
ij_status ij_cuda_column_sum(ij_queue *q, int slot, ij_dtype dt, ij_dim R, ij_dim D, const void *x, float *to) {
  if (R == 0 || D == 0) return IJ_OK;
  if (dt == IJ_BF16) return column_sum_of(q, slot, R, D, (const __nv_bfloat16 *)x, to);
  return column_sum_of(q, slot, R, D, (const float *)x, to);
}

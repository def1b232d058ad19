/* Sums over the rows of a matrix, the same in every run: blocks of 32 x 8 threads each sum a stripe of rows, and a
 * second kernel adds the stripes' sums in their order. */
#ifndef IJ_STRIPES_H
#define IJ_STRIPES_H
#include "vector.h"

/* Into how many stripes R rows go, where each takes `blocks` blocks side by side */
unsigned ij_cuda_stripes(ij_queue *q, ij_dim R, ij_dim blocks);
/* to (D) += sum over rows of part (rows, D) */
void ij_cuda_rows_add(ij_queue *q, ij_dim rows, ij_dim D, const float *part, float *to);
/* to (D) += sum over rows of x (R, D) [dt]; takes a scratch slot */
ij_status ij_cuda_column_sum(ij_queue *q, int slot, ij_dtype dt, ij_dim R, ij_dim D, const void *x, float *to);

/* The block's sum of each of its 32 * V columns into part (columns `first` on, D in all). A thread has those of its
 * lane, first + lane * V on; all threads of the block must come. */
template <int V>
__device__ static inline void ij_stripe_sum(const float (&sum)[V], ij_dim first, ij_dim D, float *part) {
  SHARED_ARRAY_ALIGNED(16, float, all, [IJ_STRIPE_WARPS][32 * V]);
  int t = (int)threadIdx.x;
  __syncthreads(); /* of the last call */
#pragma unroll
  for (int i = 0; i < V; i++) all[t / 32][t % 32 * V + i] = sum[i];
  __syncthreads();
  if (t >= 32 * V || first + t >= D) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < IJ_STRIPE_WARPS; w++) total += all[w][t];
  part[first + t] = total;
}
#endif

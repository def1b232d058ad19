/* A factor of each row of a weight: as small as the weight itself, so plain loops, a block to a row. */
#include "../cuda/cuda.h"
#include "../cuda/rows.h"

static __global__ void __launch_bounds__(IJ_BLOCK)
    fwd(ij_dim N, ij_dim K, const float *g, const float *w, const float *b, float *ws, float *bs) {
  for (ij_dim n = blockIdx.x; n < N; n += gridDim.x) {
    for (ij_dim k = threadIdx.x; k < K; k += IJ_BLOCK) ws[n * K + k] = g[n] * w[n * K + k];
    if (threadIdx.x == 0) bs[n] = g[n] * b[n];
  }
}
extern "C" ij_status ij_cuda_weight_scale_fwd(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w,
                                              const float *b, float *ws, float *bs) {
  if (N == 0) return IJ_OK;
  LAUNCH(fwd, ij_blocks(N, 1, IJ_MOST_BLOCKS), IJ_BLOCK, 0, ij_cuda_of(q)->stream, N, K, g, w, b, ws, bs);
  return ij_cuda_launched("weight_scale_fwd");
}

static __global__ void __launch_bounds__(IJ_BLOCK)
    bwd(ij_dim N, ij_dim K, const float *g, const float *w, const float *b, const float *dws, const float *dbs,
        float *dg, float *dw, float *db) {
  for (ij_dim n = blockIdx.x; n < N; n += gridDim.x) {
    float sum = 0;
    for (ij_dim k = threadIdx.x; k < K; k += IJ_BLOCK) {
      float d = dws[n * K + k];
      sum += d * w[n * K + k];
      dw[n * K + k] += g[n] * d;
    }
    sum = ij_block_sum(sum);
    if (threadIdx.x == 0) {
      dg[n] += sum + dbs[n] * b[n];
      db[n] += g[n] * dbs[n];
    }
  }
}
extern "C" ij_status ij_cuda_weight_scale_bwd(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w,
                                              const float *b, const float *dws, const float *dbs, float *dg, float *dw,
                                              float *db) {
  if (N == 0) return IJ_OK;
  LAUNCH(bwd, ij_blocks(N, 1, IJ_MOST_BLOCKS), IJ_BLOCK, 0, ij_cuda_of(q)->stream, N, K, g, w, b, dws, dbs, dg, dw, db);
  return ij_cuda_launched("weight_scale_bwd");
}

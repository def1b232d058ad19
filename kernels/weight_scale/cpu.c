/* A factor of each row of a weight. */
#include "../cpu/rows.h"

ij_status IJ_CPU(weight_scale_fwd)(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b,
                                   float *ws, float *bs) {
  (void)q;
#pragma omp parallel for schedule(static) if (N * K >= SMALL)
  for (ij_dim n = 0; n < N; n++) {
    const float *from = w + n * K;
    float *to = ws + n * K;
#pragma omp simd
    for (ij_dim k = 0; k < K; k++) to[k] = g[n] * from[k];
    bs[n] = g[n] * b[n];
  }
  return IJ_OK;
}

ij_status IJ_CPU(weight_scale_bwd)(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b,
                                   const float *dws, const float *dbs, float *dg, float *dw, float *db) {
  (void)q;
#pragma omp parallel for schedule(static) if (N * K >= SMALL)
  for (ij_dim n = 0; n < N; n++) {
    const float *of = w + n * K, *d = dws + n * K;
    float *to = dw + n * K, sum = 0;
#pragma omp simd reduction(+ : sum)
    for (ij_dim k = 0; k < K; k++) {
      sum += d[k] * of[k];
      to[k] += g[n] * d[k];
    }
    dg[n] += sum + dbs[n] * b[n];
    db[n] += g[n] * dbs[n];
  }
  return IJ_OK;
}

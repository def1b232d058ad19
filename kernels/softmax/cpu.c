/* Softmax: a thread computes complete rows. */
#include "../cpu/rows.h"
#include "../cpu/softmax.h"

ij_status IJ_CPU(softmax_fwd)(ij_queue *q, ij_dim R, ij_dim n, const float *x, float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * n >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    float *row = y + r * n, scale = 1 / row_exp(n, x + r * n, row_top(n, x + r * n), row);
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) row[i] *= scale;
  }
  return IJ_OK;
}

ij_status IJ_CPU(softmax_bwd)(ij_queue *q, ij_dim R, ij_dim n, const float *y, const float *dy, float *dx) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * n >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    const float *p = y + r * n, *g = dy + r * n;
    float mean = 0;
#pragma omp simd reduction(+ : mean)
    for (ij_dim i = 0; i < n; i++) mean += p[i] * g[i];
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) dx[r * n + i] = p[i] * (g[i] - mean);
  }
  return IJ_OK;
}

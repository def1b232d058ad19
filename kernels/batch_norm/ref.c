/* Batch norm without affine: each column of x (R, D) by its mean and variance. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_batch_norm_fwd(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x, float *m,
                                float *s, float *y) {
  (void)q;
  for (ij_dim d = 0; d < D; d++) {
    double mean = m[d], var = s[d];
    if (training) {
      mean = var = 0;
      for (ij_dim r = 0; r < R; r++) mean += x[r * D + d] / (double)R;
      for (ij_dim r = 0; r < R; r++) var += (x[r * D + d] - mean) * (x[r * D + d] - mean) / (double)R;
      m[d] = (float)mean;
      s[d] = (float)var;
    }
    for (ij_dim r = 0; r < R; r++) y[r * D + d] = (float)((x[r * D + d] - mean) / sqrt(var + eps));
  }
  return IJ_OK;
}

ij_status ij_ref_batch_norm_bwd(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x,
                                const float *m, const float *s, const float *dy, float *dx) {
  (void)q;
  for (ij_dim d = 0; d < D; d++) {
    /* n = (x - m) * rstd; given statistics don't depend on x, those of the batch do */
    double rstd = 1 / sqrt((double)s[d] + eps), mean_g = 0, mean_gn = 0;
    for (ij_dim r = 0; training && r < R; r++) {
      mean_g += dy[r * D + d] / (double)R;
      mean_gn += dy[r * D + d] * ((double)x[r * D + d] - m[d]) * rstd / (double)R;
    }
    for (ij_dim r = 0; r < R; r++) {
      double n = ((double)x[r * D + d] - m[d]) * rstd;
      dx[r * D + d] = (float)(rstd * (dy[r * D + d] - mean_g - n * mean_gn));
    }
  }
  return IJ_OK;
}

/* Sums along an axis, the largest ones of a row, and the check of gradients. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_sum_fwd(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  (void)q;
  for (ij_dim p = 0; p < P; p++)
    for (ij_dim j = 0; j < Q; j++) {
      double sum = 0;
      for (ij_dim i = 0; i < n; i++) sum += x[(p * n + i) * Q + j];
      y[p * Q + j] = (float)(scale * sum);
    }
  return IJ_OK;
}

ij_status ij_ref_sum_bwd(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *dy, float *dx) {
  (void)q;
  for (ij_dim p = 0; p < P; p++)
    for (ij_dim i = 0; i < n; i++)
      for (ij_dim j = 0; j < Q; j++) dx[(p * n + i) * Q + j] = scale * dy[p * Q + j];
  return IJ_OK;
}

static float rank_of(float x) { return isnan(x) ? -INFINITY : x; }

ij_status ij_ref_topk(ij_queue *q, ij_dim R, ij_dim n, ij_dim k, const float *x, float *v, int32_t *index) {
  unsigned char *taken = ij_queue_scratch(q, 0, (size_t)(n ? n : 1));
  if (!taken) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++) {
    for (ij_dim i = 0; i < n; i++) taken[i] = 0;
    for (ij_dim j = 0; j < k; j++) {
      ij_dim best = -1;
      for (ij_dim i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || rank_of(x[r * n + i]) > rank_of(x[r * n + best]))) best = i;
      taken[best] = 1;
      v[r * k + j] = x[r * n + best];
      index[r * k + j] = (int32_t)best;
    }
  }
  return IJ_OK;
}

ij_status ij_ref_sum_squares(ij_queue *q, ij_dim n, const float *x, double *out) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) {
    out[0] += (double)x[i] * x[i];
    out[1] += isfinite(x[i]) ? 0 : 1;
  }
  return IJ_OK;
}

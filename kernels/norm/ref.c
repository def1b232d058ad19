/* Layer norm, with the addition to the residual stream in front of it. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_norm_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *x, const void *add,
                          const float *add_b, const float *w, const float *b, float eps, float *sum, void *y,
                          float *mean, float *rstd) {
  float *s = ij_queue_scratch(q, 0, (size_t)D * sizeof *s); /* one row: sum may be NULL, or x itself */
  if (!s) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++) {
    double m = 0, var = 0;
    for (ij_dim d = 0; d < D; d++) {
      double v = x[r * D + d];
      if (add) v += ij_ref_get(dt, add, r * D + d);
      if (add && add_b) v += add_b[d];
      s[d] = (float)v;
      m += s[d];
    }
    m /= (double)D;
    for (ij_dim d = 0; d < D; d++) var += (s[d] - m) * (s[d] - m);
    var /= (double)D;
    double scale = 1 / sqrt(var + eps);
    for (ij_dim d = 0; sum && d < D; d++) sum[r * D + d] = s[d];
    for (ij_dim d = 0; y && d < D; d++)
      ij_ref_set(dt, y, r * D + d, (s[d] - m) * scale * (w ? w[d] : 1) + (b ? b[d] : 0));
    if (mean) mean[r] = (float)m;
    if (rstd) rstd[r] = (float)scale;
  }
  return IJ_OK;
}

ij_status ij_ref_norm_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean,
                          const float *rstd, const float *w, const void *dy, const float *res, float *dx, void *dx_dt,
                          float *dw, float *db) {
  double *dw_sum = ij_ref_sums(q, 0, D), *db_sum = ij_ref_sums(q, 1, D);
  if (!dw_sum || !db_sum) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++) {
    /* n = (s - mean) * rstd, g = dy * w: ds = rstd * (g - mean of g - n * mean of g n) */
    double mean_g = 0, mean_gn = 0;
    for (ij_dim d = 0; d < D; d++) {
      double grad = ij_ref_get(dt, dy, r * D + d), n = ((double)s[r * D + d] - mean[r]) * rstd[r];
      double g = grad * (w ? w[d] : 1);
      mean_g += g / (double)D;
      mean_gn += g * n / (double)D;
      dw_sum[d] += grad * n;
      db_sum[d] += grad;
    }
    for (ij_dim d = 0; d < D; d++) {
      double n = ((double)s[r * D + d] - mean[r]) * rstd[r];
      double g = (double)ij_ref_get(dt, dy, r * D + d) * (w ? w[d] : 1);
      double v = (res ? res[r * D + d] : 0) + rstd[r] * (g - mean_g - n * mean_gn);
      dx[r * D + d] = (float)v;
      if (dx_dt) ij_ref_set(dt, dx_dt, r * D + d, dx[r * D + d]);
    }
  }
  for (ij_dim d = 0; dw && d < D; d++) dw[d] = (float)(dw[d] + dw_sum[d]);
  for (ij_dim d = 0; db && d < D; d++) db[d] = (float)(db[d] + db_sum[d]);
  return IJ_OK;
}

/* Matmuls with a weight w (N, K), and the bias. */
#include "../ref.h"

/* Eight sums side by side, only because one alone waits for itself. */
static double dot(ij_dtype dt, const void *x, ij_dim at, const float *w, ij_dim K) {
  double part[8] = {0}, sum = 0;
  ij_dim k = 0;
  for (; k + 8 <= K; k += 8)
    for (int i = 0; i < 8; i++) part[i] += (double)ij_ref_get(dt, x, at + k + i) * w[k + i];
  for (; k < K; k++) sum += (double)ij_ref_get(dt, x, at + k) * w[k];
  for (int i = 0; i < 8; i++) sum += part[i];
  return sum;
}

ij_status ij_ref_linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                            uint64_t version, void *y) {
  (void)q;
  (void)version;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim n = 0; n < N; n++) ij_ref_set(dt, y, r * N + n, dot(dt, x, r * K, w + n * K, K));
  return IJ_OK;
}

ij_status ij_ref_linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                              uint64_t version, void *dx) {
  (void)version;
  for (ij_dim r = 0; r < R; r++) {
    double *sum = ij_ref_sums(q, 0, K); /* one row of dx */
    if (!sum) return IJ_ENOMEM;
    for (ij_dim n = 0; n < N; n++) {
      double g = ij_ref_get(dt, dy, r * N + n);
      for (ij_dim k = 0; k < K; k++) sum[k] += g * w[n * K + k];
    }
    for (ij_dim k = 0; k < K; k++) ij_ref_set(dt, dx, r * K + k, sum[k]);
  }
  return IJ_OK;
}

ij_status ij_ref_linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                              float *dw, float *db) {
  for (ij_dim n = 0; n < N; n++) {
    double *sum = ij_ref_sums(q, 0, K), sum_b = 0; /* one row of dw */
    if (!sum) return IJ_ENOMEM;
    for (ij_dim r = 0; r < R; r++) {
      double g = ij_ref_get(dt, dy, r * N + n);
      sum_b += g;
      for (ij_dim k = 0; dw && k < K; k++) sum[k] += g * ij_ref_get(dt, x, r * K + k);
    }
    for (ij_dim k = 0; dw && k < K; k++) dw[n * K + k] = (float)(dw[n * K + k] + sum[k]);
    if (db) db[n] = (float)(db[n] + sum_b);
  }
  return IJ_OK;
}

ij_status ij_ref_bias_add(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, const float *b, void *y) {
  (void)q;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim n = 0; n < N; n++) ij_ref_set(dt, y, r * N + n, (double)ij_ref_get(dt, y, r * N + n) + b[n]);
  return IJ_OK;
}

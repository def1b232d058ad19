/* Sums along an axis and the check of gradients. */
#include "../cpu/rows.h"

ij_status IJ_CPU(sum_fwd)(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  (void)q;
  enum { COLUMNS = 256, RUN = 1024 };
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
  for (ij_dim k = 0; k < P * blocks; k++) {
    ij_dim p = k / blocks, at = k % blocks * COLUMNS, count = Q - at < COLUMNS ? Q - at : COLUMNS;
    double sum[COLUMNS] = {0};
    if (Q == 1) { /* a plain sum: in f32 over short runs */
      for (ij_dim i = 0; i < n; i += RUN) {
        const float *v = x + p * n + i;
        ij_dim length = n - i < RUN ? n - i : RUN;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (ij_dim j = 0; j < length; j++) part += v[j];
        sum[0] += part;
      }
    } else {
      for (ij_dim i = 0; i < n; i++) {
        const float *v = x + (p * n + i) * Q + at;
#pragma omp simd
        for (ij_dim j = 0; j < count; j++) sum[j] += v[j];
      }
    }
    for (ij_dim j = 0; j < count; j++) y[p * Q + at + j] = (float)(scale * sum[j]);
  }
  return IJ_OK;
}

ij_status IJ_CPU(sum_bwd)(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *dy, float *dx) {
  (void)q;
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
  for (ij_dim p = 0; p < P; p++)
    for (ij_dim i = 0; i < n; i++) {
      const float *g = dy + p * Q;
      float *row = dx + (p * n + i) * Q;
#pragma omp simd
      for (ij_dim j = 0; j < Q; j++) row[j] = scale * g[j];
    }
  return IJ_OK;
}

ij_status IJ_CPU(sum_squares)(ij_queue *q, ij_dim n, const float *x, double *out) {
  (void)q;
  enum { PARTS = 64 }; /* fixed: the same sum for any number of threads */
  double part[PARTS];
  ij_dim wrong[PARTS];
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (int p = 0; p < PARTS; p++) {
    ij_dim from, to, bad = 0;
    share(n, p, PARTS, &from, &to);
    double sum = 0;
#pragma omp simd reduction(+ : sum, bad)
    for (ij_dim i = from; i < to; i++) {
      uint32_t u;
      memcpy(&u, &x[i], 4);
      sum += (double)x[i] * (double)x[i];
      bad += (u & 0x7f800000u) == 0x7f800000u;
    }
    part[p] = sum;
    wrong[p] = bad;
  }
  for (int p = 0; p < PARTS; p++) {
    out[0] += part[p];
    out[1] += (double)wrong[p];
  }
  return IJ_OK;
}

/* Batch norm: a thread takes some columns, all rows of them; sums in double, so that any number of rows will do. */
#include "../cpu/rows.h"
#include <math.h>

enum { COLUMNS = 32 };

static ij_dim columns_at(ij_dim D, ij_dim at) { return D - at < COLUMNS ? D - at : COLUMNS; }

static void statistics(ij_dim R, ij_dim D, ij_dim count, const float *x, double *mean, double *var) {
  for (ij_dim r = 0; r < R; r++) {
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) mean[j] += x[r * D + j];
  }
  for (ij_dim j = 0; j < count; j++) mean[j] /= (double)R;
  for (ij_dim r = 0; r < R; r++) {
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) var[j] += (x[r * D + j] - mean[j]) * (x[r * D + j] - mean[j]);
  }
  for (ij_dim j = 0; j < count; j++) var[j] /= (double)R;
}

ij_status IJ_CPU(batch_norm_fwd)(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x, float *m,
                                 float *s, float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * D >= SMALL)
  for (ij_dim at = 0; at < D; at += COLUMNS) {
    ij_dim count = columns_at(D, at);
    if (training) {
      double mean[COLUMNS] = {0}, var[COLUMNS] = {0};
      statistics(R, D, count, x + at, mean, var);
      for (ij_dim j = 0; j < count; j++) m[at + j] = (float)mean[j], s[at + j] = (float)var[j];
    }
    float rstd[COLUMNS];
    for (ij_dim j = 0; j < count; j++) rstd[j] = 1 / sqrtf(s[at + j] + eps);
    for (ij_dim r = 0; r < R; r++) {
      const float *from = x + r * D + at;
      float *to = y + r * D + at;
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) to[j] = (from[j] - m[at + j]) * rstd[j];
    }
  }
  return IJ_OK;
}

ij_status IJ_CPU(batch_norm_bwd)(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x,
                                 const float *m, const float *s, const float *dy, float *dx) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * D >= SMALL)
  for (ij_dim at = 0; at < D; at += COLUMNS) {
    ij_dim count = columns_at(D, at);
    double g[COLUMNS] = {0}, gn[COLUMNS] = {0}; /* means of dy and of dy times the output */
    float rstd[COLUMNS], mean_g[COLUMNS] = {0}, mean_gn[COLUMNS] = {0};
    for (ij_dim j = 0; j < count; j++) rstd[j] = 1 / sqrtf(s[at + j] + eps);
    for (ij_dim r = 0; training && r < R; r++) {
      const float *v = x + r * D + at, *d = dy + r * D + at;
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) {
        g[j] += d[j];
        gn[j] += d[j] * ((v[j] - m[at + j]) * rstd[j]);
      }
    }
    for (ij_dim j = 0; training && j < count; j++) {
      mean_g[j] = (float)(g[j] / (double)R);
      mean_gn[j] = (float)(gn[j] / (double)R);
    }
    for (ij_dim r = 0; r < R; r++) {
      const float *v = x + r * D + at, *d = dy + r * D + at;
      float *to = dx + r * D + at;
#pragma omp simd
      for (ij_dim j = 0; j < count; j++)
        to[j] = rstd[j] * (d[j] - mean_g[j] - (v[j] - m[at + j]) * rstd[j] * mean_gn[j]);
    }
  }
  return IJ_OK;
}

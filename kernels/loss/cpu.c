/* Smooth L1. Sums are taken in f32 over short runs, in double over these. */
#include "../cpu/rows.h"

enum { RUN = 1024, PARTS = 64 };

static double run_loss(ij_dim n, float beta, float half_inverse, const float *x, const float *y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (ij_dim i = 0; i < n; i++) {
    float d = x[i] - y[i], a = d < 0 ? -d : d;
    sum += a < beta ? a * a * half_inverse : a - 0.5f * beta;
  }
  return sum;
}

ij_status IJ_CPU(smooth_l1_fwd)(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                const float *y, float *loss) {
  (void)q;
  ij_dim rows = outer * repeat, runs = (inner + RUN - 1) / RUN, n = rows * inner;
  double part[PARTS]; /* a fixed number of parts: the same sum for any number of threads */
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (int p = 0; p < PARTS; p++) {
    ij_dim from, to;
    share(rows * runs, p, PARTS, &from, &to);
    part[p] = 0;
    for (ij_dim k = from; k < to; k++) {
      ij_dim row = k / runs, at = k % runs * RUN, count = inner - at < RUN ? inner - at : RUN;
      part[p] += run_loss(count, beta, 0.5f / beta, x + row * inner + at, y + row / repeat * inner + at);
    }
  }
  double sum = 0;
  for (int p = 0; p < PARTS; p++) sum += part[p];
  loss[0] = n ? (float)(sum / (double)n) : 0;
  return IJ_OK;
}

static void run_grad(ij_dim n, float beta, float scale, const float *x, const float *y, float *dx) {
  float inverse = 1 / beta;
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    float s = (x[i] - y[i]) * inverse;
    s = s > 1 ? 1 : s;
    s = s < -1 ? -1 : s; /* NaN stays */
    dx[i] = s * scale;
  }
}

ij_status IJ_CPU(smooth_l1_bwd)(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                const float *y, const float *scale, float *dx, float *dy) {
  (void)q;
  ij_dim runs = (inner + RUN - 1) / RUN, n = outer * repeat * inner;
  float per_element = (float)(scale[0] / (double)(n ? n : 1));
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim k = 0; k < outer * runs; k++) {
    ij_dim o = k / runs, at = k % runs * RUN, count = inner - at < RUN ? inner - at : RUN;
    float *sum = dy ? dy + o * inner + at : NULL;
    if (sum) memset(sum, 0, (size_t)count * sizeof *sum);
    for (ij_dim r = 0; r < repeat; r++) {
      float *g = dx + (o * repeat + r) * inner + at;
      run_grad(count, beta, per_element, x + (o * repeat + r) * inner + at, y + o * inner + at, g);
      for (ij_dim i = 0; sum && i < count; i++) sum[i] -= g[i];
    }
  }
  return IJ_OK;
}

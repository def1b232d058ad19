/* Smooth L1 and cross entropy. Sums are taken in f32 over short runs or a row, in double over these. */
#include "../cpu/rows.h"
#include "../cpu/softmax.h"

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

static ij_dim labelled(ij_dim R, const int32_t *label) {
  ij_dim count = 0;
  for (ij_dim r = 0; r < R; r++) count += label[r] >= 0;
  return count;
}

ij_status IJ_CPU(cross_entropy_fwd)(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                    float *loss) {
  (void)q;
  double part[PARTS];
#pragma omp parallel for schedule(static) if (R * n >= SMALL)
  for (int p = 0; p < PARTS; p++) {
    ij_dim from, to;
    share(R, p, PARTS, &from, &to);
    part[p] = 0;
    for (ij_dim r = from; r < to; r++) {
      const float *row = x + r * n;
      if (label[r] < 0) continue;
      float top = row_top(n, row), rest = 0; /* rest: sum of top - x, for the smoothed part of the target */
      if (s > 0) {
#pragma omp simd reduction(+ : rest)
        for (ij_dim i = 0; i < n; i++) rest += top - row[i];
      }
      part[p] += logf(row_exp(n, row, top, NULL)) + (1 - s) * (top - row[label[r]]) + s * rest / (float)n;
    }
  }
  double sum = 0;
  for (int p = 0; p < PARTS; p++) sum += part[p];
  ij_dim count = labelled(R, label);
  loss[0] = count ? (float)(sum / (double)count) : 0;
  return IJ_OK;
}

ij_status IJ_CPU(cross_entropy_bwd)(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                    const float *scale, float *dx) {
  (void)q;
  ij_dim count = labelled(R, label);
  float g = count ? scale[0] / (float)count : 0;
#pragma omp parallel for schedule(static) if (R * n >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    float *row = dx + r * n;
    if (label[r] < 0) {
      memset(row, 0, (size_t)n * sizeof *row);
      continue;
    }
    float share_of = 1 / row_exp(n, x + r * n, row_top(n, x + r * n), row), even = s / (float)n;
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) row[i] = g * (row[i] * share_of - even);
    row[label[r]] -= g * (1 - s);
  }
  return IJ_OK;
}

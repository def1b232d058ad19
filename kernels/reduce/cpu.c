/* Sums along an axis, the largest ones of a row, and the check of gradients. */
#include "../cpu/rows.h"
#include "../cpu/softmax.h"
#include "../cpu/vector.h"

enum { COLUMNS = 1024, RUN = 1024, ENOUGH = 64, LANES = 64 };

/* A short run, in f32: LANES sums side by side, then halves of these onto each other: the same for all widths of
 * vectors */
static float sum_run(ij_dim n, const float *x) {
  enum { WIDE = LANES / VL };
  vf v[WIDE] = {{0}};
  ij_dim i = 0;
  for (; i + LANES <= n; i += LANES) {
#pragma GCC unroll 16
    for (int j = 0; j < WIDE; j++) v[j] += vf_load(x + i + j * VL);
  }
#pragma GCC unroll 16
  for (int j = 0; j < WIDE; j++) {
    ij_dim left = n - i - j * VL;
    if (left > 0) v[j] += left < VL ? vf_load_some(x + i + j * VL, left) : vf_load(x + i + j * VL);
  }
#pragma GCC unroll 16
  for (int half = WIDE / 2; half; half /= 2)
    for (int j = 0; j < half; j++) v[j] += v[j + half];
  return vf_sum(v[0]);
}
/* sum (count) = sums of rows [from, to) of x, rows Q apart */
static void sum_columns(ij_dim from, ij_dim to, ij_dim Q, ij_dim count, const float *x, double *sum) {
  memset(sum, 0, (size_t)count * sizeof *sum);
  for (ij_dim i = from; i < to; i++) {
    const float *v = x + i * Q;
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) sum[j] += v[j];
  }
}

/* A few long sums: runs, or chunks of rows, in parallel, which are added in their order: the same for any number of
 * threads. */
static ij_status sum_long(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  if (Q == 1) {
    ij_dim runs = (n + RUN - 1) / RUN;
    float *part = ij_queue_scratch(q, 0, (size_t)(P * runs) * sizeof *part);
    if (!part) return IJ_ENOMEM;
#pragma omp parallel for schedule(static)
    for (ij_dim k = 0; k < P * runs; k++) {
      ij_dim from = k % runs * RUN;
      part[k] = sum_run(n - from < RUN ? n - from : RUN, x + k / runs * n + from);
    }
    for (ij_dim p = 0; p < P; p++) {
      double sum = 0;
      for (ij_dim k = 0; k < runs; k++) sum += part[p * runs + k];
      y[p] = (float)(scale * sum);
    }
    return IJ_OK;
  }
  double *part = ij_queue_scratch(q, 0, (size_t)(P * ENOUGH * Q) * sizeof *part); /* (P, ENOUGH, Q) */
  if (!part) return IJ_ENOMEM;
#pragma omp parallel for schedule(static)
  for (ij_dim k = 0; k < P * ENOUGH; k++) {
    ij_dim from, to;
    share(n, (int)(k % ENOUGH), ENOUGH, &from, &to);
    for (ij_dim c = 0; c < Q; c += COLUMNS)
      sum_columns(from, to, Q, Q - c < COLUMNS ? Q - c : COLUMNS, x + k / ENOUGH * n * Q + c, part + k * Q + c);
  }
  for (ij_dim r = 0; r < P * Q; r++) {
    double sum = 0;
    for (ij_dim k = 0; k < ENOUGH; k++) sum += part[(r / Q * ENOUGH + k) * Q + r % Q];
    y[r] = (float)(scale * sum);
  }
  return IJ_OK;
}

ij_status IJ_CPU(sum_fwd)(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS;
  if (P * blocks < ENOUGH && n >= ENOUGH * (Q == 1 ? RUN : 16) && n * Q >= ENOUGH * RUN)
    return sum_long(q, P, n, Q, scale, x, y);
  if (Q == 1) {
#pragma omp parallel for schedule(static) if (P * n >= SMALL)
    for (ij_dim p = 0; p < P; p++) {
      double sum = 0;
      for (ij_dim i = 0; i < n; i += RUN) sum += sum_run(n - i < RUN ? n - i : RUN, x + p * n + i);
      y[p] = (float)(scale * sum);
    }
    return IJ_OK;
  }
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
  for (ij_dim k = 0; k < P * blocks; k++) {
    ij_dim p = k / blocks, c = k % blocks * COLUMNS, count = Q - c < COLUMNS ? Q - c : COLUMNS;
    double sum[COLUMNS];
    sum_columns(0, n, Q, count, x + p * n * Q + c, sum);
    for (ij_dim j = 0; j < count; j++) y[p * Q + c + j] = (float)(scale * sum[j]);
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

static float rank_of(float x) { return x == x ? x : -INFINITY; }

/* Inserts x[i] among the `held` <= k best, in order; where they are k the last one is dropped. */
static void topk_insert(ij_dim held, ij_dim k, const float *x, ij_dim i, float *v, int32_t *index) {
  ij_dim at = held < k ? held : k - 1;
  for (; at > 0 && rank_of(x[i]) > rank_of(v[at - 1]); at--) {
    v[at] = v[at - 1];
    index[at] = index[at - 1];
  }
  v[at] = x[i];
  index[at] = (int32_t)i;
}

/* Most runs of a long row hold nothing larger than the k-th so far: one vector comparison finds that. */
ij_status IJ_CPU(topk)(ij_queue *q, ij_dim R, ij_dim n, ij_dim k, const float *x, float *v, int32_t *index) {
  (void)q;
  enum { SHORT = 64 };
#pragma omp parallel for schedule(static) if (R * n >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    const float *row = x + r * n;
    float *best = v + r * k;
    int32_t *at = index + r * k;
    for (ij_dim i = 0; i < k; i++) topk_insert(i, k, row, i, best, at);
    for (ij_dim i = k; i < n; i += SHORT) {
      ij_dim count = n - i < SHORT ? n - i : SHORT;
      float least = rank_of(best[k - 1]);
      int larger = 0;
#pragma omp simd reduction(| : larger)
      for (ij_dim j = 0; j < count; j++) larger |= row[i + j] > least;
      for (ij_dim j = i; larger && j < i + count; j++)
        if (row[j] > rank_of(best[k - 1])) topk_insert(k, k, row, j, best, at);
    }
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

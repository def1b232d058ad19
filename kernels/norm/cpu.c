/* Layer norm. A row stays in the first cache for all of its passes. */
#include "../cpu/rows.h"
#include "../cpu/vector.h"
#include <math.h>

/* Sums run in four vectors side by side: one alone waits for each of its additions. */
enum { WIDE = 4 * VL };

/* s = x + add (+ add_b, may be NULL); s may be x */
static void row_add(ij_dim D, const float *x, const float *add, const float *add_b, float *s) {
  if (add_b) {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) s[d] = x[d] + add[d] + add_b[d];
  } else {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) s[d] = x[d] + add[d];
  }
}

static float row_sum(ij_dim D, const float *s) {
  vf sum[4] = {{0}};
  float rest = 0;
  ij_dim d = 0;
  for (; d + WIDE <= D; d += WIDE)
    for (int i = 0; i < 4; i++) sum[i] += vf_load(s + d + i * VL);
  for (; d + VL <= D; d += VL) sum[0] += vf_load(s + d);
  for (; d < D; d++) rest += s[d];
  return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

static float row_variance(ij_dim D, const float *s, float mean) {
  vf sum[4] = {{0}};
  float rest = 0;
  ij_dim d = 0;
  for (; d + WIDE <= D; d += WIDE)
    for (int i = 0; i < 4; i++) {
      vf v = vf_load(s + d + i * VL) - mean;
      sum[i] += v * v;
    }
  for (; d + VL <= D; d += VL) {
    vf v = vf_load(s + d) - mean;
    sum[0] += v * v;
  }
  for (; d < D; d++) rest += (s[d] - mean) * (s[d] - mean);
  return (vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest) / (float)D;
}

static void row_scale(ij_dim D, const float *s, float mean, float rstd, const float *w, const float *b, float *y) {
  if (w) {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = (s[d] - mean) * rstd * w[d] + b[d];
  } else {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = (s[d] - mean) * rstd;
  }
}

ij_status IJ_CPU(norm_fwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *x, const void *add,
                           const float *add_b, const float *w, const float *b, float eps, float *sum, void *y,
                           float *mean, float *rstd) {
  int threads = R * D < SMALL ? 1 : omp_get_max_threads();
  float *rows = ij_queue_scratch(q, 0, (size_t)(threads * 3 * D) * sizeof *rows); /* (threads, 3, D) */
  if (!rows) return IJ_ENOMEM;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *adds = rows + omp_get_thread_num() * 3 * D, *sums = adds + D, *ys = sums + D;
#pragma omp for schedule(static)
    for (ij_dim r = 0; r < R; r++) {
      const float *s = x + r * D;
      if (add) {
        float *out = sum ? sum + r * D : sums;
        row_add(D, s, row_get(dt, add, r * D, D, adds), add_b, out);
        s = out;
      } else if (sum && sum != x) memcpy(sum + r * D, s, (size_t)D * sizeof *s);
      if (!y && !mean && !rstd) continue;
      float m = row_sum(D, s) / (float)D, scale = 1 / sqrtf(row_variance(D, s, m) + eps);
      if (y) {
        row_scale(D, s, m, scale, w, b, row_out(dt, y, r * D, ys));
        row_put(dt, y, r * D, D, ys);
      }
      if (mean) mean[r] = m;
      if (rstd) rstd[r] = scale;
    }
  }
  return IJ_OK;
}

/* Adds this row's terms to dw, db and returns the sums of g = dy w and of g n, n = (s - mean) rstd. */
static void row_grads(ij_dim D, const float *s, float mean, float rstd, const float *w, const float *dy, float *dw,
                      float *db, float *sum_g, float *sum_gn) {
  vf sum[4] = {{0}}, sum_n[4] = {{0}};
  float rest = 0, rest_n = 0;
  ij_dim d = 0;
  for (; d + WIDE <= D; d += WIDE)
    for (int i = 0; i < 4; i++) {
      ij_dim at = d + i * VL;
      vf n = (vf_load(s + at) - mean) * rstd, y = vf_load(dy + at), g = y * vf_load(w + at);
      vf_store(dw + at, vf_load(dw + at) + y * n);
      vf_store(db + at, vf_load(db + at) + y);
      sum[i] += g;
      sum_n[i] += g * n;
    }
  for (; d < D; d++) {
    float n = (s[d] - mean) * rstd, g = dy[d] * w[d];
    dw[d] += dy[d] * n;
    db[d] += dy[d];
    rest += g;
    rest_n += g * n;
  }
  *sum_g = vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
  *sum_gn = vf_sum((sum_n[0] + sum_n[1]) + (sum_n[2] + sum_n[3])) + rest_n;
}

static void row_dx(ij_dim D, const float *s, float mean, float rstd, const float *w, const float *dy, float mean_g,
                   float mean_gn, const float *res, float *dx) {
  if (res) {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) dx[d] = res[d] + rstd * (dy[d] * w[d] - mean_g - (s[d] - mean) * rstd * mean_gn);
  } else {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) dx[d] = rstd * (dy[d] * w[d] - mean_g - (s[d] - mean) * rstd * mean_gn);
  }
}

ij_status IJ_CPU(norm_bwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean,
                           const float *rstd, const float *w, const void *dy, const float *res, float *dx, void *dx_dt,
                           float *dw, float *db) {
  int threads = R * D < SMALL ? 1 : omp_get_max_threads();
  /* (D) ones for w NULL; (2, threads, D): dw and db of each thread; (threads, D): a row of dy */
  float *ones = ij_queue_scratch(q, 0, (size_t)((1 + 3 * threads) * D) * sizeof *ones);
  if (!ones) return IJ_ENOMEM;
  float *dws = ones + D, *dbs = dws + threads * D, *dys = dbs + threads * D;
  memset(dws, 0, (size_t)(2 * threads * D) * sizeof *dws);
  if (!w) {
    for (ij_dim d = 0; d < D; d++) ones[d] = 1;
    w = ones;
  }
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    ij_dim from, to;
    share(R, t, threads, &from, &to);
    for (ij_dim r = from; r < to; r++) {
      const float *g = row_get(dt, dy, r * D, D, dys + t * D);
      float sum_g, sum_gn;
      row_grads(D, s + r * D, mean[r], rstd[r], w, g, dws + t * D, dbs + t * D, &sum_g, &sum_gn);
      row_dx(D, s + r * D, mean[r], rstd[r], w, g, sum_g / (float)D, sum_gn / (float)D, res ? res + r * D : NULL,
             dx + r * D);
      if (dx_dt && dt == IJ_BF16) bf16_from_f32(D, dx + r * D, (uint16_t *)dx_dt + r * D);
      else if (dx_dt) memcpy((float *)dx_dt + r * D, dx + r * D, (size_t)D * sizeof *dx);
    }
  }
  if (dw) IJ_CPU(rows_add)(threads, D, dws, dw);
  if (db) IJ_CPU(rows_add)(threads, D, dbs, db);
  return IJ_OK;
}

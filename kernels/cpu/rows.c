/* Sums over rows. */
#include "rows.h"

void IJ_CPU(rows_add)(ij_dim R, ij_dim N, const float *part, float *out) {
  for (ij_dim r = 0; r < R; r++) {
    const float *x = part + r * N;
#pragma omp simd
    for (ij_dim n = 0; n < N; n++) out[n] += x[n];
  }
}

/* sum (N) = rows [from, to) of x, four at a time: one load and store of the sum for four of x. */
static void sum_rows(ij_dtype dt, ij_dim from, ij_dim to, ij_dim N, const void *x, float *restrict sum) {
  memset(sum, 0, (size_t)N * sizeof *sum);
  ij_dim r = from;
  for (; r + 4 <= to; r += 4) {
    if (dt == IJ_BF16) {
      const uint16_t *h = (const uint16_t *)x + r * N;
#pragma omp simd
      for (ij_dim n = 0; n < N; n++)
        sum[n] += (ij_bf16_to_f32(h[n]) + ij_bf16_to_f32(h[n + N])) +
                  (ij_bf16_to_f32(h[n + 2 * N]) + ij_bf16_to_f32(h[n + 3 * N]));
    } else {
      const float *f = (const float *)x + r * N;
#pragma omp simd
      for (ij_dim n = 0; n < N; n++) sum[n] += (f[n] + f[n + N]) + (f[n + 2 * N] + f[n + 3 * N]);
    }
  }
  for (; r < to; r++) {
    if (dt == IJ_BF16) {
      const uint16_t *h = (const uint16_t *)x + r * N;
#pragma omp simd
      for (ij_dim n = 0; n < N; n++) sum[n] += ij_bf16_to_f32(h[n]);
    } else {
      const float *f = (const float *)x + r * N;
#pragma omp simd
      for (ij_dim n = 0; n < N; n++) sum[n] += f[n];
    }
  }
}

ij_status IJ_CPU(column_sum)(ij_queue *q, int slot, ij_dtype dt, ij_dim R, ij_dim N, const void *x, float *out) {
  if (R == 0) return IJ_OK;
  int threads = R * N < SMALL ? 1 : omp_get_max_threads();
  float *part = ij_queue_scratch(q, slot, (size_t)threads * (size_t)N * sizeof *part);
  if (!part) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    ij_dim from, to;
    share(R, t, threads, &from, &to);
    sum_rows(dt, from, to, N, x, part + t * N);
  }
  IJ_CPU(rows_add)(threads, N, part, out);
  return IJ_OK;
}

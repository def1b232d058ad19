/* Rows that get positions, rows that are picked, and the predictor's sequences: each thread computes complete rows. */
#include "../cpu/rows.h"

/* y (D) = x (D) [dt] + b (D) or nothing + pos (D) */
static void row_add(ij_dtype dt, ij_dim D, const void *x, ij_dim at, const float *b, const float *pos, float *y) {
  const float *xf = row_get(dt, x, at, D, y); /* bf16 is converted into y first */
  if (b) {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = xf[d] + b[d] + pos[d];
  } else {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = xf[d] + pos[d];
  }
}

static void row_plus(ij_dim D, const float *x, float *y) {
#pragma omp simd
  for (ij_dim d = 0; d < D; d++) y[d] += x[d];
}

ij_status IJ_CPU(pos_add)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, ij_dim N, const void *x, const float *b,
                          const float *pos, const int32_t *index, float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * D >= SMALL)
  for (ij_dim r = 0; r < R; r++) row_add(dt, D, x, r * D, b, pos + (index ? index[r] : r % N) * D, y + r * D);
  return IJ_OK;
}

ij_status IJ_CPU(tokens_fwd)(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                             const void *x, const float *b, const float *token, const float *pos,
                             const int32_t *context, const int32_t *target, float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (M * C * B * (K + T) * E >= SMALL)
  for (ij_dim s = 0; s < M * C * B; s++) {
    float *rows = y + s * (K + T) * E; /* (K + T, E) */
    const int32_t *picked = target + (s / (C * B) * B + s % B) * T;
    for (ij_dim k = 0; k < K; k++) {
      ij_dim r = s % (C * B) * K + k;
      row_add(dt, E, x, r * E, b, pos + context[r] * E, rows + k * E);
    }
    for (ij_dim t = 0; t < T; t++) row_add(IJ_F32, E, token, 0, NULL, pos + picked[t] * E, rows + (K + t) * E);
  }
  return IJ_OK;
}

ij_status IJ_CPU(tokens_bwd)(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                             const float *dy, void *dx, float *dtoken) {
  if (M == 0) return ij_ref_tokens_bwd(q, dt, M, C, B, K, T, E, dy, dx, dtoken);
  int threads = M * C * B * (K + T) * E < SMALL ? 1 : omp_get_max_threads();
  float *part = ij_queue_scratch(q, 0, (size_t)(2 * threads * E) * sizeof *part); /* (threads, E), then a row each */
  if (!part) return IJ_ENOMEM;
  memset(part, 0, (size_t)(threads * E) * sizeof *part);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    float *row = part + (threads + t) * E;
    ij_dim from, to;
    share(C * B, t, threads, &from, &to);
    for (ij_dim s = from; s < to; s++)
      for (ij_dim k = 0; k < K; k++) {
        float *sum = row_out(dt, dx, (s * K + k) * E, row);
        memcpy(sum, dy + (s * (K + T) + k) * E, (size_t)E * sizeof *sum);
        for (ij_dim m = 1; m < M; m++) row_plus(E, dy + ((m * C * B + s) * (K + T) + k) * E, sum);
        row_put(dt, dx, (s * K + k) * E, E, row);
      }
    share(M * C * B, t, threads, &from, &to);
    for (ij_dim s = from; s < to; s++)
      for (ij_dim k = K; k < K + T; k++) row_plus(E, dy + (s * (K + T) + k) * E, part + t * E);
  }
  IJ_CPU(rows_add)(threads, E, part, dtoken);
  return IJ_OK;
}

ij_status IJ_CPU(tail_fwd)(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *x, float *y) {
  (void)q;
  ij_dim n = (N - first) * D;
#pragma omp parallel for schedule(static) if (Q * n >= SMALL)
  for (ij_dim i = 0; i < Q; i++) memcpy(y + i * n, x + (i * N + first) * D, (size_t)n * sizeof *y);
  return IJ_OK;
}

ij_status IJ_CPU(tail_bwd)(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *dy, float *dx) {
  (void)q;
  ij_dim n = (N - first) * D;
#pragma omp parallel for schedule(static) if (Q * N * D >= SMALL)
  for (ij_dim i = 0; i < Q; i++) {
    memset(dx + i * N * D, 0, (size_t)(first * D) * sizeof *dx);
    memcpy(dx + (i * N + first) * D, dy + i * n, (size_t)n * sizeof *dx);
  }
  return IJ_OK;
}

ij_status IJ_CPU(gather_fwd)(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *x,
                             const int32_t *index, float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (M * B * T * D >= SMALL)
  for (ij_dim r = 0; r < M * B * T; r++) memcpy(y + r * D, x + (r / T % B * N + index[r]) * D, (size_t)D * sizeof *y);
  return IJ_OK;
}

/* A thread computes complete images, so that no two threads add to the same row. */
ij_status IJ_CPU(gather_bwd)(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *dy,
                             const int32_t *index, float *dx) {
  (void)q;
#pragma omp parallel for schedule(static) if (M * B * T * D >= SMALL)
  for (ij_dim b = 0; b < B; b++)
    for (ij_dim m = 0; m < M; m++)
      for (ij_dim t = 0; t < T; t++) {
        ij_dim r = (m * B + b) * T + t;
        row_plus(D, dy + r * D, dx + (b * N + index[r]) * D);
      }
  return IJ_OK;
}

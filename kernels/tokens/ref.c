/* Rows that get positions, rows that are picked, and the predictor's sequences. */
#include "../ref.h"

ij_status ij_ref_pos_add(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, ij_dim N, const void *x, const float *b,
                         const float *pos, const int32_t *index, float *y) {
  (void)q;
  for (ij_dim r = 0; r < R; r++) {
    const float *row = pos + (index ? index[r] : r % N) * D;
    for (ij_dim d = 0; d < D; d++)
      y[r * D + d] = (float)((double)ij_ref_get(dt, x, r * D + d) + (b ? b[d] : 0) + row[d]);
  }
  return IJ_OK;
}

ij_status ij_ref_tokens_fwd(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                            const void *x, const float *b, const float *token, const float *pos, const int32_t *context,
                            const int32_t *target, float *y) {
  (void)q;
  for (ij_dim m = 0; m < M; m++)
    for (ij_dim c = 0; c < C; c++)
      for (ij_dim i = 0; i < B; i++) {
        float *rows = y + ((m * C + c) * B + i) * (K + T) * E; /* (K + T, E) */
        for (ij_dim k = 0; k < K; k++) {
          ij_dim r = (c * B + i) * K + k;
          for (ij_dim e = 0; e < E; e++)
            rows[k * E + e] = (float)((double)ij_ref_get(dt, x, r * E + e) + b[e] + pos[context[r] * E + e]);
        }
        for (ij_dim t = 0; t < T; t++)
          for (ij_dim e = 0; e < E; e++) rows[(K + t) * E + e] = token[e] + pos[target[(m * B + i) * T + t] * E + e];
      }
  return IJ_OK;
}

ij_status ij_ref_tokens_bwd(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                            const float *dy, void *dx, float *dtoken) {
  double *sum = ij_ref_sums(q, 0, E);
  if (!sum) return IJ_ENOMEM;
  for (ij_dim s = 0; s < C * B; s++) /* dy is (M, C * B, K + T, E) */
    for (ij_dim k = 0; k < K; k++)
      for (ij_dim e = 0; e < E; e++) {
        double v = 0;
        for (ij_dim m = 0; m < M; m++) v += dy[((m * C * B + s) * (K + T) + k) * E + e];
        ij_ref_set(dt, dx, (s * K + k) * E + e, v);
      }
  for (ij_dim s = 0; s < M * C * B; s++)
    for (ij_dim t = K; t < K + T; t++)
      for (ij_dim e = 0; e < E; e++) sum[e] += dy[(s * (K + T) + t) * E + e];
  for (ij_dim e = 0; e < E; e++) dtoken[e] = (float)(dtoken[e] + sum[e]);
  return IJ_OK;
}

ij_status ij_ref_tail_fwd(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *x, float *y) {
  (void)q;
  for (ij_dim i = 0; i < Q; i++)
    for (ij_dim n = first; n < N; n++)
      for (ij_dim d = 0; d < D; d++) y[(i * (N - first) + n - first) * D + d] = x[(i * N + n) * D + d];
  return IJ_OK;
}

ij_status ij_ref_tail_bwd(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *dy, float *dx) {
  (void)q;
  for (ij_dim i = 0; i < Q; i++)
    for (ij_dim n = 0; n < N; n++)
      for (ij_dim d = 0; d < D; d++)
        dx[(i * N + n) * D + d] = n < first ? 0 : dy[(i * (N - first) + n - first) * D + d];
  return IJ_OK;
}

ij_status ij_ref_gather_fwd(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *x,
                            const int32_t *index, float *y) {
  (void)q;
  for (ij_dim r = 0; r < M * B * T; r++) {
    ij_dim b = r / T % B;
    for (ij_dim d = 0; d < D; d++) y[r * D + d] = x[(b * N + index[r]) * D + d];
  }
  return IJ_OK;
}

ij_status ij_ref_gather_bwd(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *dy,
                            const int32_t *index, float *dx) {
  (void)q;
  for (ij_dim r = 0; r < M * B * T; r++) {
    ij_dim b = r / T % B;
    for (ij_dim d = 0; d < D; d++) dx[(b * N + index[r]) * D + d] += dy[r * D + d];
  }
  return IJ_OK;
}

/* Elements at positions along an axis, and sums at such positions. */
#include "../cpu/rows.h"
#include "../ref.h"

static void take_row(ij_dim size, ij_dim Q, const char *x, const int32_t *index, char *y) { /* x (N, Q) */
  if (size == 4)
    for (ij_dim j = 0; j < Q; j++) memcpy(y + 4 * j, x + 4 * (index[j] * Q + j), 4);
  else
    for (ij_dim j = 0; j < Q; j++) memcpy(y + size * j, x + size * (index[j] * Q + j), (size_t)size);
}

ij_status IJ_CPU(take)(ij_queue *q, ij_dim size, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared, const void *x,
                       const int32_t *index, void *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (P * T * Q >= SMALL)
  for (ij_dim r = 0; r < P * T; r++) {
    const char *from = (const char *)x + r / T * N * Q * size;
    char *to = (char *)y + r * Q * size;
    if (shared) memcpy(to, from + index[r % T] * Q * size, (size_t)(Q * size));
    else take_row(size, Q, from, index + r * Q, to);
  }
  return IJ_OK;
}

/* A thread adds up some columns of some p, so that no two threads add to one element. */
ij_status IJ_CPU(scatter_add)(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared,
                              const void *x, const int32_t *index, void *y) {
  if (dt != IJ_F32) return ij_ref_scatter_add(q, dt, P, T, N, Q, shared, x, index, y);
  enum { COLUMNS = 64 };
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (P * T * Q >= SMALL)
  for (ij_dim k = 0; k < P * blocks; k++) {
    ij_dim p = k / blocks, c = k % blocks * COLUMNS, count = Q - c < COLUMNS ? Q - c : COLUMNS;
    for (ij_dim t = 0; t < T; t++) {
      const float *from = (const float *)x + (p * T + t) * Q + c;
      float *to = (float *)y + p * N * Q + c;
      if (shared) {
        to += index[t] * Q;
#pragma omp simd
        for (ij_dim j = 0; j < count; j++) to[j] += from[j];
      } else {
        const int32_t *at = index + (p * T + t) * Q + c;
        for (ij_dim j = 0; j < count; j++) to[at[j] * Q + j] += from[j];
      }
    }
  }
  return IJ_OK;
}

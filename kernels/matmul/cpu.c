/* Many small matmuls: a thread computes complete rows of the results. */
#include "../cpu/rows.h"

/* c (N) += the sum of four, or of one, of x[k] times row k of b (K, N) */
static void row_times(ij_dim N, ij_dim K, const float *x, const float *b, float *restrict c) {
  ij_dim k = 0;
  for (; k + 4 <= K; k += 4, b += 4 * N) {
#pragma omp simd
    for (ij_dim n = 0; n < N; n++)
      c[n] += (x[k] * b[n] + x[k + 1] * b[n + N]) + (x[k + 2] * b[n + 2 * N] + x[k + 3] * b[n + 3 * N]);
  }
  for (; k < K; k++, b += N) {
#pragma omp simd
    for (ij_dim n = 0; n < N; n++) c[n] += x[k] * b[n];
  }
}

static float dot(ij_dim K, const float *x, const float *y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (ij_dim k = 0; k < K; k++) sum += x[k] * y[k];
  return sum;
}

ij_status IJ_CPU(matmul)(ij_queue *q, ij_dim P, ij_dim M, ij_dim N, ij_dim K, int ta, int tb, const float *a,
                         const float *b, float *c) {
  int threads = P * M * N * K < SMALL ? 1 : omp_get_max_threads();
  float *columns = ta ? ij_queue_scratch(q, 0, (size_t)(threads * K + 1) * sizeof *columns) : NULL; /* (threads, K) */
  if (ta && !columns) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    ij_dim from, to;
    share(P * M, t, threads, &from, &to);
    for (ij_dim r = from; r < to; r++) {
      ij_dim p = r / M, m = r % M;
      const float *x = a + r * K, *right = b + p * K * N;
      if (ta) { /* a column of a, packed */
        float *packed = columns + t * K;
        for (ij_dim k = 0; k < K; k++) packed[k] = a[(p * K + k) * M + m];
        x = packed;
      }
      float *row = c + r * N;
      if (tb) {
        for (ij_dim n = 0; n < N; n++) row[n] = dot(K, x, right + n * K);
      } else {
        memset(row, 0, (size_t)N * sizeof *row);
        row_times(N, K, x, right, row);
      }
    }
  }
  return IJ_OK;
}

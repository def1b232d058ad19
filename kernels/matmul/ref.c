/* Matrix products of two tensors, many at a time. */
#include "../ref.h"

ij_status ij_ref_matmul(ij_queue *q, ij_dim P, ij_dim M, ij_dim N, ij_dim K, int ta, int tb, const float *a,
                        const float *b, float *c) {
  (void)q;
  for (ij_dim p = 0; p < P; p++, a += M * K, b += K * N, c += M * N)
    for (ij_dim m = 0; m < M; m++)
      for (ij_dim n = 0; n < N; n++) {
        double sum = 0;
        for (ij_dim k = 0; k < K; k++) sum += (double)a[ta ? k * M + m : m * K + k] * b[tb ? n * K + k : k * N + n];
        c[m * N + n] = (float)sum;
      }
  return IJ_OK;
}

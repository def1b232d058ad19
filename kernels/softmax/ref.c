/* Softmax over rows. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_softmax_fwd(ij_queue *q, ij_dim R, ij_dim n, const float *x, float *y) {
  (void)q;
  for (ij_dim r = 0; r < R; r++) {
    double top = -INFINITY, sum = 0;
    for (ij_dim i = 0; i < n; i++) top = x[r * n + i] > top ? x[r * n + i] : top;
    for (ij_dim i = 0; i < n; i++) sum += exp(x[r * n + i] - top);
    for (ij_dim i = 0; i < n; i++) y[r * n + i] = (float)(exp(x[r * n + i] - top) / sum);
  }
  return IJ_OK;
}

ij_status ij_ref_softmax_bwd(ij_queue *q, ij_dim R, ij_dim n, const float *y, const float *dy, float *dx) {
  (void)q;
  for (ij_dim r = 0; r < R; r++) {
    double mean = 0; /* of dy under y */
    for (ij_dim i = 0; i < n; i++) mean += (double)y[r * n + i] * dy[r * n + i];
    for (ij_dim i = 0; i < n; i++) dx[r * n + i] = (float)(y[r * n + i] * (dy[r * n + i] - mean));
  }
  return IJ_OK;
}

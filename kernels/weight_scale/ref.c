/* A factor of each output of a linear layer, taken into its weights: no pass over the activations. */
#include "../ref.h"

ij_status ij_ref_weight_scale_fwd(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b,
                                  float *ws, float *bs) {
  (void)q;
  for (ij_dim n = 0; n < N; n++) {
    for (ij_dim k = 0; k < K; k++) ws[n * K + k] = g[n] * w[n * K + k];
    bs[n] = g[n] * b[n];
  }
  return IJ_OK;
}

ij_status ij_ref_weight_scale_bwd(ij_queue *q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b,
                                  const float *dws, const float *dbs, float *dg, float *dw, float *db) {
  (void)q;
  for (ij_dim n = 0; n < N; n++) {
    double sum = (double)dbs[n] * b[n];
    for (ij_dim k = 0; k < K; k++) {
      sum += (double)dws[n * K + k] * w[n * K + k];
      dw[n * K + k] += g[n] * dws[n * K + k];
    }
    db[n] += g[n] * dbs[n];
    dg[n] = (float)(dg[n] + sum);
  }
  return IJ_OK;
}

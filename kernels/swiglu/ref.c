/* SwiGLU: one half of a layer's outputs, through SiLU, opens the other half; with the bias of the layer before it. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_swiglu_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  (void)q;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim f = 0; f < F; f++) {
      double u = (double)ij_ref_get(dt, x, r * 2 * F + f) + b[f];
      double v = (double)ij_ref_get(dt, x, (r * 2 + 1) * F + f) + b[F + f];
      ij_ref_set(dt, y, r * F + f, u / (1 + exp(-u)) * v);
    }
  return IJ_OK;
}

ij_status ij_ref_swiglu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,
                            void *dx, void *y, float *db) {
  double *sum = ij_ref_sums(q, 0, 2 * F);
  if (!sum) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim f = 0; f < F; f++) {
      ij_dim left = r * 2 * F + f, right = left + F;
      double u = (double)ij_ref_get(dt, x, left) + b[f], v = (double)ij_ref_get(dt, x, right) + b[F + f];
      double s = 1 / (1 + exp(-u)), g = ij_ref_get(dt, dy, r * F + f);
      double du = g * v * s * (1 + u * (1 - s)), dv = g * u * s;
      ij_ref_set(dt, dx, left, du);
      ij_ref_set(dt, dx, right, dv);
      ij_ref_set(dt, y, r * F + f, u * s * v);
      sum[f] += du;
      sum[F + f] += dv;
    }
  for (ij_dim f = 0; f < 2 * F; f++) db[f] = (float)(db[f] + sum[f]);
  return IJ_OK;
}

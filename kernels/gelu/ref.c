/* GELU in its exact form, u * Phi(u), with the bias of the layer before it. */
#include "../ref.h"
#include <math.h>

static double phi(double u) { return 0.5 * erfc(-u * 0.70710678118654752440); } /* normal distribution function */
static double density(double u) { return 0.39894228040143267794 * exp(-0.5 * u * u); }

ij_status ij_ref_gelu_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  (void)q;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim f = 0; f < F; f++) {
      double u = (double)ij_ref_get(dt, x, r * F + f) + (b ? b[f] : 0);
      ij_ref_set(dt, y, r * F + f, u * phi(u));
    }
  return IJ_OK;
}

ij_status ij_ref_gelu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,
                          void *dx, void *y, float *db) {
  double *sum = ij_ref_sums(q, 0, F);
  if (!sum) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim f = 0; f < F; f++) {
      double u = (double)ij_ref_get(dt, x, r * F + f) + (b ? b[f] : 0);
      double g = ij_ref_get(dt, dy, r * F + f) * (phi(u) + u * density(u));
      ij_ref_set(dt, dx, r * F + f, g);
      if (y) ij_ref_set(dt, y, r * F + f, u * phi(u));
      sum[f] += g;
    }
  for (ij_dim f = 0; db && f < F; f++) db[f] = (float)(db[f] + sum[f]);
  return IJ_OK;
}

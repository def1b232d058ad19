/* Random numbers by position. */
#include "../ref.h"
#include "philox.h"
#include <math.h>

/* Number j of a block; pairs 0, 1 and 2, 3 make two normal numbers each. */
static double number(int normal, const ij_philox4 *r, int j) {
  if (!normal) return ij_philox_uniform(r->v[j]);
  double radius = sqrt(-2 * log(1 - (double)ij_philox_uniform(r->v[j & 2])));
  double angle = 6.28318530717958647693 * ij_philox_uniform(r->v[(j & 2) + 1]);
  return radius * (j & 1 ? sin(angle) : cos(angle));
}

ij_status ij_ref_random(ij_queue *q, int normal, ij_dim n, uint64_t seed, uint64_t offset, float *x) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) {
    uint64_t k = offset + (uint64_t)i;
    ij_philox4 r = ij_philox(seed, k / 4);
    x[i] = (float)number(normal, &r, (int)(k % 4));
  }
  return IJ_OK;
}

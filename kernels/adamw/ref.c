/* One step of AdamW (decoupled decay), and of the average that follows the parameters. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_adamw(ij_queue *q, ij_dim count, const ij_adamw_item *item, ij_dim t, double beta1, double beta2,
                       double eps, double gscale, double mom, const float *gate) {
  (void)q;
  double correct1 = 1 - pow(beta1, (double)t), correct2 = 1 - pow(beta2, (double)t);
  for (const ij_adamw_item *e = item; e < item + count; e++)
    for (ij_dim i = 0; i < e->n; i++) {
      double grad = gscale * e->g[i];
      e->g[i] = 0;
      if (gate && !isfinite(*gate)) continue;
      e->m[i] = (float)(beta1 * e->m[i] + (1 - beta1) * grad);
      e->v[i] = (float)(beta2 * e->v[i] + (1 - beta2) * grad * grad);
      double decayed = e->p[i] - e->lr * e->wd * e->p[i];
      e->p[i] = (float)(decayed - e->lr * (e->m[i] / correct1) / (sqrt(e->v[i] / correct2) + eps));
      if (e->avg) e->avg[i] = (float)(mom * e->avg[i] + (1 - mom) * e->p[i]);
    }
  return IJ_OK;
}

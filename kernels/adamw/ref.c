/* One step of AdamW (decoupled decay), and of the average that follows the parameters. */
#include "../ref.h"
#include <math.h>

ij_status ij_ref_adamw(ij_queue *q, ij_dim n, ij_dim t, double lr, double wd, double beta1, double beta2, double eps,
                       double gscale, double mom, float *p, float *g, float *m, float *v, float *avg) {
  (void)q;
  double correct1 = 1 - pow(beta1, (double)t), correct2 = 1 - pow(beta2, (double)t);
  for (ij_dim i = 0; i < n; i++) {
    double grad = gscale * g[i];
    m[i] = (float)(beta1 * m[i] + (1 - beta1) * grad);
    v[i] = (float)(beta2 * v[i] + (1 - beta2) * grad * grad);
    double decayed = p[i] - lr * wd * p[i];
    p[i] = (float)(decayed - lr * (m[i] / correct1) / (sqrt(v[i] / correct2) + eps));
    g[i] = 0;
    if (avg) avg[i] = (float)(mom * avg[i] + (1 - mom) * p[i]);
  }
  return IJ_OK;
}

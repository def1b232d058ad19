/* One step of an optimizer, and of the average that follows the parameters. */
#include "../ref.h"
#include <math.h>

typedef struct factors { /* of one tensor */
  double lr, wd, ratio, correct1, correct2;
} factors;

static double adamw(const ij_update *u, const factors *f, double p, double g, float *m, float *v) {
  *m = (float)(u->beta1 * *m + (1 - u->beta1) * g);
  *v = (float)(u->beta2 * *v + (1 - u->beta2) * g * g);
  return p - f->lr * f->wd * p - f->lr * (*m / f->correct1) / (sqrt(*v / f->correct2) + u->eps);
}
static double sgd(const ij_update *u, const factors *f, double p, double g, float *m) {
  double d = f->ratio * (g + f->wd * p);
  if (m) {
    *m = (float)(u->beta1 * *m + d);
    d = u->nesterov ? d + u->beta1 * *m : *m;
  }
  return p - f->lr * d;
}
static double lion(const ij_update *u, const factors *f, double p, double g, float *m) {
  double c = u->beta1 * *m + (1 - u->beta1) * g, sign = c > 0 ? 1 : c < 0 ? -1 : c;
  *m = (float)(u->beta2 * *m + (1 - u->beta2) * g);
  return p - f->lr * (sign + f->wd * p);
}

ij_status ij_ref_update(ij_queue *q, ij_dim count, const ij_update_item *item, const ij_update *u) {
  (void)q;
  bool shut = u->gate && !isfinite(*u->gate);
  for (const ij_update_item *e = item; e < item + count; e++) {
    factors f = {e->lr, e->wd, e->ratio ? (double)*e->ratio : 1, 1 - pow(u->beta1, (double)u->t),
                 1 - pow(u->beta2, (double)u->t)};
    for (ij_dim i = 0; i < e->n; i++) {
      if (e->g) {
        double p = e->p[i], g = u->gscale * e->g[i];
        e->g[i] = 0;
        if (shut) continue;
        if (u->kind == IJ_UPDATE_ADAMW) p = adamw(u, &f, p, g, e->m + i, e->v + i);
        else if (u->kind == IJ_UPDATE_SGD) p = sgd(u, &f, p, g, e->m ? e->m + i : NULL);
        else p = lion(u, &f, p, g, e->m + i);
        e->p[i] = (float)p;
      }
      if (e->avg && !shut) e->avg[i] = (float)(u->mom * e->avg[i] + (1 - u->mom) * e->p[i]);
    }
  }
  return IJ_OK;
}

ij_status ij_ref_trust(ij_queue *q, ij_dim count, const ij_update_item *item, double gscale, double trust) {
  (void)q;
  for (const ij_update_item *e = item; e < item + count; e++) {
    if (!e->ratio) continue;
    double p2 = 0, d2 = 0;
    for (ij_dim i = 0; i < e->n; i++) {
      double p = e->p[i], d = gscale * e->g[i] + e->wd * p;
      p2 += p * p;
      d2 += d * d;
    }
    *e->ratio = p2 > 0 && d2 > 0 ? (float)(trust * sqrt(p2) / sqrt(d2)) : 1;
  }
  return IJ_OK;
}

/* AdamW and the EMA in one pass. The double settings become f32 factors of small terms only, never of the
 * whole value: p -= (lr wd) p instead of p *= 1 - lr wd, so that their rounding does not drift over many steps. */
#include "../cpu/rows.h"
#include <math.h>
#include <string.h>

typedef struct factors {
  float decay, step, gscale, beta1c, beta2c, correct2, eps, momc;
} factors;

static void update(ij_dim n, const factors *f, float *restrict p, float *restrict g, float *restrict m,
                   float *restrict v) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    float grad = g[i] * f->gscale;
    float m1 = m[i] + f->beta1c * (grad - m[i]), v1 = v[i] + f->beta2c * (grad * grad - v[i]);
    m[i] = m1;
    v[i] = v1;
    p[i] -= f->decay * p[i] + f->step * m1 / (sqrtf(v1 * f->correct2) + f->eps);
    g[i] = 0;
  }
}

static void average(ij_dim n, float momc, const float *restrict p, float *restrict avg) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) avg[i] += momc * (p[i] - avg[i]);
}

static void update_one(const ij_adamw_item *e, factors f, double lr, double wd) {
  enum { CHUNK = 1024 };
  ij_dim n = e->n;
  f.decay = (float)(lr * wd);
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK) {
    ij_dim count = n - i < CHUNK ? n - i : CHUNK;
    update(count, &f, e->p + i, e->g + i, e->m + i, e->v + i);
    if (e->avg) average(count, f.momc, e->p + i, e->avg + i);
  }
}

ij_status IJ_CPU(adamw)(ij_queue *q, ij_dim count, const ij_adamw_item *item, ij_dim t, double beta1, double beta2,
                        double eps, double gscale, double mom, const float *gate) {
  (void)q;
  bool shut = gate && !isfinite(*gate);
  double correct1 = 1 - pow(beta1, (double)t);
  factors f = {.gscale = (float)gscale,
               .beta1c = (float)(1 - beta1),
               .beta2c = (float)(1 - beta2),
               .correct2 = (float)(1 / (1 - pow(beta2, (double)t))),
               .eps = (float)eps,
               .momc = (float)(1 - mom)};
  for (const ij_adamw_item *e = item; e < item + count; e++) {
    if (shut) {
      memset(e->g, 0, (size_t)e->n * sizeof *e->g);
      continue;
    }
    f.step = (float)(e->lr / correct1);
    update_one(e, f, e->lr, e->wd);
  }
  return IJ_OK;
}

/* AdamW and the moving average in one pass. The double settings become f32 factors of small terms only, never of the
 * whole value: p -= (lr wd) p instead of p *= 1 - lr wd, so that their rounding does not drift over many steps. */
#include "../cpu/rows.h"
#include <math.h>

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

ij_status IJ_CPU(adamw)(ij_queue *q, ij_dim n, ij_dim t, double lr, double wd, double beta1, double beta2, double eps,
                        double gscale, double mom, float *p, float *g, float *m, float *v, float *avg) {
  (void)q;
  enum { CHUNK = 1024 };
  factors f = {.decay = (float)(lr * wd),
               .step = (float)(lr / (1 - pow(beta1, (double)t))),
               .gscale = (float)gscale,
               .beta1c = (float)(1 - beta1),
               .beta2c = (float)(1 - beta2),
               .correct2 = (float)(1 / (1 - pow(beta2, (double)t))),
               .eps = (float)eps,
               .momc = (float)(1 - mom)};
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK) {
    ij_dim count = n - i < CHUNK ? n - i : CHUNK;
    update(count, &f, p + i, g + i, m + i, v + i);
    if (avg) average(count, f.momc, p + i, avg + i);
  }
  return IJ_OK;
}

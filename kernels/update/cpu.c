/* The optimizers' updates and the EMA in one pass. The double settings become f32 factors of small terms only, never
 * of the whole value: p -= (lr wd) p instead of p *= 1 - lr wd, so that their rounding does not drift over many
 * steps. */
#include "../cpu/rows.h"
#include <math.h>
#include <string.h>

typedef struct factors {
  float decay, step, gscale, beta1c, beta2c, correct2, eps, momc; /* decay: lr wd, of SGD ratio wd */
  float ratio, momentum;                                          /* of SGD */
  bool nesterov;
} factors;

static void adamw(ij_dim n, const factors *f, float *restrict p, float *restrict g, float *restrict m,
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

static void sgd(ij_dim n, const factors *f, float *restrict p, float *restrict g) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    p[i] -= f->step * (f->ratio * (g[i] * f->gscale) + f->decay * p[i]);
    g[i] = 0;
  }
}
static void sgd_momentum(ij_dim n, const factors *f, float *restrict p, float *restrict g, float *restrict m) {
  float ahead = f->nesterov ? f->momentum : 1, now = f->nesterov ? 1 : 0; /* p -= lr (ahead m + now d) */
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    float d = f->ratio * (g[i] * f->gscale) + f->decay * p[i], m1 = f->momentum * m[i] + d;
    m[i] = m1;
    p[i] -= f->step * (ahead * m1 + now * d);
    g[i] = 0;
  }
}

static void lion(ij_dim n, const factors *f, float *restrict p, float *restrict g, float *restrict m) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    float grad = g[i] * f->gscale, d = grad - m[i], c = m[i] + f->beta1c * d;
    float sign = c > 0 ? 1 : c < 0 ? -1 : c; /* NaN stays NaN */
    m[i] += f->beta2c * d;
    p[i] -= f->decay * p[i] + f->step * sign;
    g[i] = 0;
  }
}

static void average(ij_dim n, float momc, const float *restrict p, float *restrict avg) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) avg[i] += momc * (p[i] - avg[i]);
}

static void update_one(const ij_update_item *e, const factors *f, ij_update_kind kind) {
  enum { CHUNK = 1024 };
  ij_dim n = e->n;
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK) {
    ij_dim count = n - i < CHUNK ? n - i : CHUNK;
    if (!e->g) { /* nothing but the average */
    } else if (kind == IJ_UPDATE_ADAMW) adamw(count, f, e->p + i, e->g + i, e->m + i, e->v + i);
    else if (kind == IJ_UPDATE_LION) lion(count, f, e->p + i, e->g + i, e->m + i);
    else if (e->m) sgd_momentum(count, f, e->p + i, e->g + i, e->m + i);
    else sgd(count, f, e->p + i, e->g + i);
    if (e->avg) average(count, f->momc, e->p + i, e->avg + i);
  }
}

ij_status IJ_CPU(update)(ij_queue *q, ij_dim count, const ij_update_item *item, const ij_update *u) {
  (void)q;
  bool shut = u->gate && !isfinite(*u->gate);
  double correct1 = u->kind == IJ_UPDATE_ADAMW ? 1 - pow(u->beta1, (double)u->t) : 1;
  factors f = {.gscale = (float)u->gscale,
               .beta1c = (float)(1 - u->beta1),
               .beta2c = (float)(1 - u->beta2),
               .correct2 = (float)(1 / (1 - pow(u->beta2, (double)u->t))),
               .eps = (float)u->eps,
               .momc = (float)(1 - u->mom),
               .momentum = (float)u->beta1,
               .nesterov = u->nesterov};
  for (const ij_update_item *e = item; e < item + count; e++) {
    if (shut) {
      if (e->g) memset(e->g, 0, (size_t)e->n * sizeof *e->g);
      continue;
    }
    f.step = (float)(e->lr / correct1);
    f.ratio = e->ratio ? *e->ratio : 1;
    f.decay = (float)(u->kind == IJ_UPDATE_SGD ? (double)f.ratio * e->wd : e->lr * e->wd);
    update_one(e, &f, u->kind);
  }
  return IJ_OK;
}

static void trust_one(const ij_update_item *e, float gscale, double trust) {
  enum { PARTS = 64 }; /* fixed: the same sum for any number of threads */
  double part[2][PARTS], p2 = 0, d2 = 0;
  float wd = (float)e->wd;
#pragma omp parallel for schedule(static) if (e->n >= SMALL)
  for (int k = 0; k < PARTS; k++) {
    ij_dim from, to;
    share(e->n, k, PARTS, &from, &to);
    double ps = 0, ds = 0;
#pragma omp simd reduction(+ : ps, ds)
    for (ij_dim i = from; i < to; i++) {
      double p = (double)e->p[i], d = (double)(gscale * e->g[i] + wd * e->p[i]);
      ps += p * p;
      ds += d * d;
    }
    part[0][k] = ps;
    part[1][k] = ds;
  }
  for (int k = 0; k < PARTS; k++) {
    p2 += part[0][k];
    d2 += part[1][k];
  }
  *e->ratio = p2 > 0 && d2 > 0 ? (float)(trust * sqrt(p2) / sqrt(d2)) : 1;
}

ij_status IJ_CPU(trust)(ij_queue *q, ij_dim count, const ij_update_item *item, double gscale, double trust) {
  (void)q;
  for (const ij_update_item *e = item; e < item + count; e++)
    if (e->ratio) trust_one(e, (float)gscale, trust);
  return IJ_OK;
}

/* SwiGLU, a piece of a row at a time. */
#include "../cpu/rows.h"
#include "../cpu/vector.h"

enum { CHUNK = 512 }; /* columns at a time: all of them stay in the first cache */

/* With e = exp(-|u|), since vf_exp takes no u above 0: 1 / (1 + e), or e / (1 + e) where u < 0. */
static inline vf sigmoid(vf u) {
  vf e = vf_exp(0.0f - vf_abs(u)), positive = 0.5f + vf_sign(vf_all(0.5f), u); /* 0 or 1 */
  return (e + positive * (1.0f - e)) / (1.0f + e);
}

/* Vectors of n elements; the last one holds n % VL. */
static inline vf get(const float *x, ij_dim i, ij_dim n) {
  return i + VL <= n ? vf_load(x + i) : vf_load_some(x + i, n - i);
}
static inline void put(float *y, ij_dim i, ij_dim n, vf v) {
  if (i + VL <= n) vf_store(y + i, v);
  else vf_store_some(y + i, v, n - i);
}

static void fwd_chunk(ij_dim n, const float *u, const float *v, const float *bu, const float *bv, float *y) {
  for (ij_dim i = 0; i < n; i += VL) {
    vf a = get(u, i, n) + get(bu, i, n), b = get(v, i, n) + get(bv, i, n);
    put(y, i, n, a * sigmoid(a) * b);
  }
}

ij_status IJ_CPU(swiglu_fwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * F >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    float us[CHUNK], vs[CHUNK], ys[CHUNK];
    for (ij_dim f = 0; f < F; f += CHUNK) {
      ij_dim n = F - f < CHUNK ? F - f : CHUNK, left = r * 2 * F + f, at = r * F + f;
      fwd_chunk(n, row_get(dt, x, left, n, us), row_get(dt, x, left + F, n, vs), b + f, b + F + f,
                row_out(dt, y, at, ys));
      row_put(dt, y, at, n, ys);
    }
  }
  return IJ_OK;
}

/* The halves u, v with biases bu, bv; sums su, sv of their gradients du, dv, which may be u and v */
typedef struct halves {
  const float *u, *v, *bu, *bv;
  float *du, *dv, *su, *sv;
} halves;
static void bwd_chunk(ij_dim n, const halves *h, const float *dy, float *y) {
  for (ij_dim i = 0; i < n; i += VL) {
    vf a = get(h->u, i, n) + get(h->bu, i, n), b = get(h->v, i, n) + get(h->bv, i, n), g = get(dy, i, n);
    vf s = sigmoid(a), du = g * b * s * (1.0f + a * (1.0f - s)), dv = g * a * s;
    put(y, i, n, a * s * b);
    put(h->su, i, n, get(h->su, i, n) + du);
    put(h->sv, i, n, get(h->sv, i, n) + dv);
    put(h->du, i, n, du);
    put(h->dv, i, n, dv);
  }
}

ij_status IJ_CPU(swiglu_bwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                             const void *dy, void *dx, void *y, float *db) {
  int threads = R * F < SMALL ? 1 : omp_get_max_threads();
  float *part = ij_queue_scratch(q, 0, (size_t)(threads * 2 * F) * sizeof *part); /* (threads, 2 F) */
  if (!part) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    float us[CHUNK], vs[CHUNK], dys[CHUNK], dus[CHUNK], dvs[CHUNK], ys[CHUNK], *sum = part + t * 2 * F;
    ij_dim from, to;
    share(R, t, threads, &from, &to);
    memset(sum, 0, (size_t)(2 * F) * sizeof *sum);
    for (ij_dim r = from; r < to; r++)
      for (ij_dim f = 0; f < F; f += CHUNK) {
        ij_dim n = F - f < CHUNK ? F - f : CHUNK, left = r * 2 * F + f, at = r * F + f;
        halves h = {row_get(dt, x, left, n, us), row_get(dt, x, left + F, n, vs), b + f,   b + F + f,
                    row_out(dt, dx, left, dus),  row_out(dt, dx, left + F, dvs),  sum + f, sum + F + f};
        bwd_chunk(n, &h, row_get(dt, dy, at, n, dys), row_out(dt, y, at, ys));
        row_put(dt, y, at, n, ys);
        row_put(dt, dx, left, n, dus);
        row_put(dt, dx, left + F, n, dvs);
      }
  }
  IJ_CPU(rows_add)(threads, 2 * F, part, db);
  return IJ_OK;
}

/* GELU, u Phi(u). The upper tail of the normal distribution is exp(-z^2/2) times a polynomial in 1/(1 + .33 z), fitted
 * so that z times its error stays below 1.4e-7; the derivative uses the same exponential. */
#include "../cpu/rows.h"
#include "../cpu/vector.h"

enum { CHUNK = 512 }; /* columns at a time: all rows of a chunk stay in the first cache */

typedef struct normal {
  vf phi, density;
} normal;

static inline normal normal_at(vf u) {
  vf e = vf_exp2(u * u * -0.72134752f), t = 1.0f / (1.0f + 0.33f * vf_abs(u));
  vf p = -0.11000483f * t + 0.37711847f;
  p = p * t - 0.093635586f;
  p = p * t + 0.20485343f;
  p = p * t + 0.12166865f;
  p = p * t * e;
  vf step = 0.5f + vf_sign(vf_all(0.5f), u); /* 0 or 1: p or 1 - p */
  return (normal){step - vf_sign(p, u), 0.39894228f * e};
}

/* y = gelu(x + b), b may be NULL */
static void fwd_chunk(ij_dim n, const float *x, const float *b, float *y) {
  ij_dim i = 0;
  for (; i + VL <= n; i += VL) {
    vf u = vf_load(x + i);
    if (b) u += vf_load(b + i);
    vf_store(y + i, u * normal_at(u).phi);
  }
  if (i < n) {
    vf u = vf_load_some(x + i, n - i);
    if (b) u += vf_load_some(b + i, n - i);
    vf_store_some(y + i, u * normal_at(u).phi, n - i);
  }
}

ij_status IJ_CPU(gelu_fwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (R * F >= SMALL)
  for (ij_dim r = 0; r < R; r++) {
    float xs[CHUNK], ys[CHUNK];
    for (ij_dim f = 0; f < F; f += CHUNK) {
      ij_dim n = F - f < CHUNK ? F - f : CHUNK, at = r * F + f;
      fwd_chunk(n, row_get(dt, x, at, n, xs), b ? b + f : NULL, row_out(dt, y, at, ys));
      row_put(dt, y, at, n, ys);
    }
  }
  return IJ_OK;
}

/* One vector: dx, y and the sum of dx for u = x + b. */
static inline void bwd_vector(vf u, vf dy, vf *dx, vf *y, vf *db) {
  normal p = normal_at(u);
  *y = u * p.phi;
  *dx = dy * (p.phi + u * p.density);
  *db += *dx;
}

/* dx and y may be x or dy: each element is read before it is written. */
static void bwd_chunk(ij_dim n, const float *x, const float *b, const float *dy, float *dx, float *y, float *db) {
  ij_dim i = 0;
  vf g, v, sum;
  for (; i + VL <= n; i += VL) {
    sum = vf_load(db + i);
    bwd_vector(vf_load(x + i) + vf_load(b + i), vf_load(dy + i), &g, &v, &sum);
    vf_store(y + i, v);
    vf_store(dx + i, g);
    vf_store(db + i, sum);
  }
  if (i < n) {
    sum = vf_load_some(db + i, n - i);
    bwd_vector(vf_load_some(x + i, n - i) + vf_load_some(b + i, n - i), vf_load_some(dy + i, n - i), &g, &v, &sum);
    vf_store_some(y + i, v, n - i);
    vf_store_some(dx + i, g, n - i);
    vf_store_some(db + i, sum, n - i);
  }
}

ij_status IJ_CPU(gelu_bwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,
                           void *dx, void *y, float *db) {
  int threads = R * F < SMALL ? 1 : omp_get_max_threads();
  float *part = ij_queue_scratch(q, 0, (size_t)(threads * F) * sizeof *part); /* (threads, F) */
  if (!part) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    float xs[CHUNK], dys[CHUNK], dxs[CHUNK], ys[CHUNK];
    static const float zeros[CHUNK];
    ij_dim from, to;
    share(R, t, threads, &from, &to);
    memset(part + t * F, 0, (size_t)F * sizeof *part);
    for (ij_dim r = from; r < to; r++)
      for (ij_dim f = 0; f < F; f += CHUNK) {
        ij_dim n = F - f < CHUNK ? F - f : CHUNK, at = r * F + f;
        const float *xr = row_get(dt, x, at, n, xs), *dyr = row_get(dt, dy, at, n, dys);
        bwd_chunk(n, xr, b ? b + f : zeros, dyr, row_out(dt, dx, at, dxs), y ? row_out(dt, y, at, ys) : ys,
                  part + t * F + f);
        row_put(dt, dx, at, n, dxs);
        if (y) row_put(dt, y, at, n, ys);
      }
  }
  if (db) IJ_CPU(rows_add)(threads, F, part, db);
  return IJ_OK;
}

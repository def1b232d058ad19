/* Bias, layer norm and rotation of queries and keys: a head of a token at a time, which stays in the first cache. */
#include "../cpu/rows.h"
#include <math.h>

typedef struct heads { /* the arguments that both ways share */
  ij_dtype dt;
  ij_dim B, N, A, S, K, W;
  float eps;
  const void *qkv;
  const float *bias, *norm, *rope;
  const int32_t *pos;
} heads;

/* Rows of the table for token r of all, NULL: it has no place. */
static const float *tables(const heads *a, ij_dim r, const float **column) {
  ij_dim k = r % a->N - (a->N - a->K);
  if (!a->rope || k < 0) return NULL;
  ij_dim p = a->pos ? a->pos[r / a->N * a->K + k] : k;
  *column = a->rope + p % a->W * (a->S / 2);
  return a->rope + p / a->W * (a->S / 2);
}

/* Pairs u, v (n) turn by the angles of t (2, n): cosines, then sines times `way`. */
static inline void rotate(ij_dim n, const float *restrict t, float way, float *restrict u, float *restrict v) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    float c = t[i], s = way * t[n + i], a = u[i], b = v[i];
    u[i] = a * c - b * s;
    v[i] = a * s + b * c;
  }
}
static void rotate_head(ij_dim S, const float *row, const float *column, float way, float *u) {
  if (!row) return;
  ij_dim n = S / 4;
  rotate(n, row, way, u, u + 2 * n);
  rotate(n, column, way, u + n, u + 3 * n);
}

/* u becomes normalised; returns 1 / standard deviation */
static float normalise(ij_dim S, float eps, float *u) {
  float mean = 0, var = 0;
#pragma omp simd reduction(+ : mean)
  for (ij_dim i = 0; i < S; i++) mean += u[i];
  mean /= (float)S;
#pragma omp simd reduction(+ : var)
  for (ij_dim i = 0; i < S; i++) var += (u[i] - mean) * (u[i] - mean);
  float rstd = 1 / sqrtf(var / (float)S + eps);
#pragma omp simd
  for (ij_dim i = 0; i < S; i++) u[i] = (u[i] - mean) * rstd;
  return rstd;
}

/* u (S) = head h of token r, with its bias */
static void load(const heads *a, ij_dim r, ij_dim h, float *u) {
  ij_dim S = a->S, at = (r * 3 * a->A + h) * S;
  if (a->dt == IJ_BF16) f32_from_bf16(S, (const uint16_t *)a->qkv + at, u);
  else memcpy(u, (const float *)a->qkv + at, (size_t)S * sizeof *u);
  if (!a->bias) return;
  const float *b = a->bias + h * S;
#pragma omp simd
  for (ij_dim i = 0; i < S; i++) u[i] += b[i];
}
static void store(ij_dtype dt, void *y, ij_dim at, ij_dim S, const float *u) {
  if (dt == IJ_BF16) bf16_from_f32(S, u, (uint16_t *)y + at);
  else memcpy((float *)y + at, u, (size_t)S * sizeof *u);
}

static int threads_for(ij_dim elements) { return elements < SMALL ? 1 : omp_get_max_threads(); }

ij_status IJ_CPU(heads_fwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W,
                            float eps, const void *qkv, const float *bias, const float *norm, const float *rope,
                            const int32_t *pos, void *out) {
  const heads a = {dt, B, N, A, S, K, W, eps, qkv, bias, norm, rope, pos};
  int threads = threads_for(B * N * A * S);
  float *buffers = ij_queue_scratch(q, 0, (size_t)(threads * S) * sizeof *buffers); /* (threads, S) */
  if (!buffers) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    float *u = buffers + t * S;
    ij_dim from, to;
    share(B * N, t, threads, &from, &to);
    for (ij_dim r = from; r < to; r++) {
      const float *column = NULL, *row = tables(&a, r, &column);
      for (ij_dim h = 0; h < 3 * A; h++) {
        load(&a, r, h, u);
        if (norm && h < 2 * A) {
          const float *w = norm + h / A * 2 * S;
          normalise(S, eps, u);
#pragma omp simd
          for (ij_dim i = 0; i < S; i++) u[i] = u[i] * w[i] + w[S + i];
        }
        if (h < 2 * A) rotate_head(S, row, column, 1, u);
        store(dt, out, (r * 3 * A + h) * S, S, u);
      }
    }
  }
  return IJ_OK;
}

/* g (S): the gradient of a normalised head's output becomes that of its input; sums (2, S) of weight and shift. n: the
 * normalised input. */
static void norm_grad(ij_dim S, float rstd, const float *restrict w, const float *restrict n, float *restrict g,
                      float *restrict sums) {
  float mean = 0, along = 0;
#pragma omp simd reduction(+ : mean, along)
  for (ij_dim i = 0; i < S; i++) {
    sums[i] += g[i] * n[i];
    sums[S + i] += g[i];
    g[i] *= w[i];
    mean += g[i];
    along += g[i] * n[i];
  }
  mean /= (float)S;
  along /= (float)S;
#pragma omp simd
  for (ij_dim i = 0; i < S; i++) g[i] = rstd * (g[i] - mean - n[i] * along);
}

ij_status IJ_CPU(heads_bwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W,
                            float eps, const void *qkv, const float *bias, const float *norm, const float *rope,
                            const int32_t *pos, const void *dout, void *dqkv, float *dbias, float *dnorm) {
  const heads a = {dt, B, N, A, S, K, W, eps, qkv, bias, norm, rope, pos},
              grads = {dt, B, N, A, S, K, W, eps, dout, NULL, NULL, NULL, NULL};
  int threads = threads_for(B * N * A * S);
  ij_dim wide = 3 * A * S;
  float *buffers = ij_queue_scratch(q, 0, (size_t)(threads * 2 * S) * sizeof *buffers); /* (threads, 2, S) */
  float *part = ij_queue_scratch(q, 1, (size_t)(threads * wide) * sizeof *part);        /* (threads, 3, A, S) */
  float *norms = ij_queue_scratch(q, 2, (size_t)(threads * 4 * S) * sizeof *norms);     /* (threads, 4, S) */
  if (!buffers || !part || !norms) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    float *g = buffers + t * 2 * S, *n = g + S, *sum = part + t * wide, *of_norm = norms + t * 4 * S;
    ij_dim from, to;
    share(B * N, t, threads, &from, &to);
    memset(sum, 0, (size_t)wide * sizeof *sum);
    memset(of_norm, 0, (size_t)(4 * S) * sizeof *of_norm);
    for (ij_dim r = from; r < to; r++) {
      const float *column = NULL, *row = tables(&a, r, &column);
      for (ij_dim h = 0; h < 3 * A; h++) {
        load(&grads, r, h, g);
        if (h < 2 * A) rotate_head(S, row, column, -1, g);
        if (norm && h < 2 * A) {
          load(&a, r, h, n);
          float rstd = normalise(S, eps, n);
          norm_grad(S, rstd, norm + h / A * 2 * S, n, g, of_norm + h / A * 2 * S);
        }
        float *into = sum + h * S;
#pragma omp simd
        for (ij_dim i = 0; i < S; i++) into[i] += g[i];
        store(dt, dqkv, (r * 3 * A + h) * S, S, g);
      }
    }
  }
  if (dbias) IJ_CPU(rows_add)(threads, wide, part, dbias);
  if (dnorm) IJ_CPU(rows_add)(threads, 4 * S, norms, dnorm);
  return IJ_OK;
}

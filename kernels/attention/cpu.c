/* Attention, one head of one image at a time by one thread. Its queries, keys and values are packed as f32 with their
 * bias; a block of query rows meets all keys, so that logits live in the thread's caches alone. Queries are packed
 * times S^-1/2. */
#include "../cpu/rows.h"
#include "../cpu/tile.h"
#include <math.h>

enum { BLOCK = 48 }; /* query rows of a block: a multiple of every TILE_M */

typedef struct heads {
  ij_dtype dt;
  ij_dim N, A, S;
  ij_dim rows, keys, width, ends; /* keys: N up to a multiple of TILE_N; width: S likewise; rows: space for complete
                                 tiles; ends: N up to a multiple of VL, the columns that tiles write */
  const void *qkv;                /* (B, N, 3, A, S) [dt] */
  const float *bias;              /* (3, A, S), NULL: none */
} heads;

static heads heads_of(ij_dtype dt, ij_dim N, ij_dim A, ij_dim S, const void *qkv, const float *bias) {
  return (heads){
      dt, N, A, S, round_up(N, TILE_N) + TILE_M, round_up(N, TILE_N), round_up(S, TILE_N), round_up(N, VL), qkv, bias};
}

/* y (S) = (x[at ...] [dt] + b) * scale, zeros up to width; b may be NULL */
static void row_pack(ij_dtype dt, const void *x, ij_dim at, ij_dim S, const float *b, float scale, ij_dim width,
                     float *y) {
  const float *f = row_get(dt, x, at, S, y);
  if (b) {
#pragma omp simd
    for (ij_dim s = 0; s < S; s++) y[s] = (f[s] + b[s]) * scale;
  } else {
#pragma omp simd
    for (ij_dim s = 0; s < S; s++) y[s] = f[s] * scale;
  }
  for (ij_dim s = S; s < width; s++) y[s] = 0;
}

static ij_dim part_at(const heads *h, ij_dim b, ij_dim n, int part, ij_dim a) {
  return (((b * h->N + n) * 3 + part) * h->A + a) * h->S;
}

/* part (0 query, 1 key, 2 value) of head a of image b -> y (rows, width), rows from N on are 0 */
static void part_rows(const heads *h, ij_dim b, int part, ij_dim a, float scale, float *y) {
  const float *bias = h->bias ? h->bias + (part * h->A + a) * h->S : NULL;
  for (ij_dim n = 0; n < h->N; n++) {
    row_pack(h->dt, h->qkv, part_at(h, b, n, part, a), h->S, bias, scale, h->width, y + n * h->width);
  }
  memset(y + h->N * h->width, 0, (size_t)((h->rows - h->N) * h->width) * sizeof *y);
}

/* x (rows, width) -> panels (width / TILE_N, N, TILE_N) */
static void panels_of(const heads *h, const float *x, float *y) {
  for (ij_dim s = 0; s < h->width; s += TILE_N) IJ_CPU(panel_rows)(TILE_N, h->N, x + s, h->width, y + s * h->N);
}

/* x (rows, width) -> its transpose in panels (keys / TILE_N, S, TILE_N) */
static void transposed_panels_of(const heads *h, const float *x, float *y) {
  for (ij_dim n = 0; n < h->keys; n += TILE_N)
    IJ_CPU(panel_transposed)(TILE_N, h->S, x + n * h->width, h->width, y + n * h->S);
}

/* Logits x (N) are followed by others up to ends, which get no weight. */
static void row_end(const heads *h, float *x) {
  for (ij_dim n = h->N; n < h->ends; n++) x[n] = -INFINITY;
}

/* x (n) becomes exp(x - top); returns the sum. */
static float row_exp(ij_dim n, float top, float *x) {
  vf sum = {0};
  for (ij_dim i = 0; i < n; i += VL) {
    vf e = vf_exp(vf_load(x + i) - top);
    vf_store(x + i, e);
    sum += e;
  }
  return vf_sum(sum);
}

static float row_top(ij_dim n, const float *x) {
  vf top = vf_load(x);
  for (ij_dim i = VL; i < n; i += VL) top = vf_max(top, vf_load(x + i));
  return vf_top(top);
}

/* y[at ...] (S) [dt] = x (S) * scale */
static void row_unpack(ij_dtype dt, ij_dim S, float *x, float scale, void *y, ij_dim at) {
  float *to = row_out(dt, y, at, x);
#pragma omp simd
  for (ij_dim s = 0; s < S; s++) to[s] = x[s] * scale;
  row_put(dt, y, at, S, x);
}

ij_status IJ_CPU(attention_fwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                const void *qkv, const float *bias, void *out, float *lse) {
  if (B * A == 0 || first_q >= N) return IJ_OK;
  heads h = heads_of(dt, N, A, S, qkv, bias);
  int threads = B * A * N * S < SMALL ? 1 : omp_get_max_threads();
  /* of a thread: a part as rows; queries; transposed keys; values; logits and output of a block */
  ij_dim rows = h.rows * h.width, keys = h.keys * S, need = 2 * rows + keys + rows + BLOCK * (h.keys + h.width);
  need = round_up(need + 16, 16);
  float *scratch = ij_queue_scratch(q, 0, (size_t)(threads * need) * sizeof *scratch);
  if (!scratch) return IJ_ENOMEM;
  float scale = (float)(1 / sqrt((double)S));
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *part = scratch + omp_get_thread_num() * need, *qs = part + rows, *ks = qs + rows, *vs = ks + keys;
    float *p = vs + rows, *o = p + BLOCK * h.keys; /* (BLOCK, keys), (BLOCK, width) */
#pragma omp for schedule(static)
    for (ij_dim i = 0; i < B * A; i++) {
      ij_dim b = i / A, a = i % A;
      part_rows(&h, b, 0, a, scale, qs);
      part_rows(&h, b, 1, a, 1, part);
      transposed_panels_of(&h, part, ks);
      part_rows(&h, b, 2, a, 1, part);
      panels_of(&h, part, vs);
      for (ij_dim at = first_q; at < N; at += BLOCK) {
        ij_dim count = N - at < BLOCK ? N - at : BLOCK;
        float sums[BLOCK];
        IJ_CPU(product)
        (count, N, S, left_rows(qs + at * h.width, h.width), (right){ks, S * TILE_N}, p, h.keys, false);
        for (ij_dim r = 0; r < count; r++) {
          row_end(&h, p + r * h.keys);
          float top = row_top(h.ends, p + r * h.keys);
          sums[r] = row_exp(h.ends, top, p + r * h.keys);
          if (lse) lse[i * N + at + r] = top + logf(sums[r]);
        }
        IJ_CPU(product)(count, S, N, left_rows(p, h.keys), (right){vs, N * TILE_N}, o, h.width, false);
        for (ij_dim r = 0; r < count; r++)
          row_unpack(dt, S, o + r * h.width, 1 / sums[r], out, ((b * N + at + r) * A + a) * S);
      }
    }
  }
  return IJ_OK;
}

/* p becomes exp(p - lse), d p (d - sum of p d). The sum could be had from out and dout, but is not as exact then. */
static void row_grad(ij_dim n, float lse, float *p, float *d) {
  vf sum = {0};
  for (ij_dim i = 0; i < n; i += VL) {
    vf e = vf_exp(vf_load(p + i) - lse);
    vf_store(p + i, e);
    sum += e * vf_load(d + i);
  }
  float total = vf_sum(sum);
  for (ij_dim i = 0; i < n; i += VL) vf_store(d + i, vf_load(p + i) * (vf_load(d + i) - total));
}

/* x (N, width) * scale -> part of head a of image b of dqkv; its sum over rows is added to dbias (3, A, S), but for the
 * keys' (part 1), which is 0 */
static void part_unpack(const heads *h, ij_dim b, int part, ij_dim a, float scale, float *x, void *dqkv, float *dbias) {
  float *sum = dbias + (part * h->A + a) * h->S;
  for (ij_dim n = 0; n < h->N; n++) {
    float *row = x + n * h->width;
    if (part != 1) {
#pragma omp simd
      for (ij_dim s = 0; s < h->S; s++) sum[s] += row[s] * scale;
    }
    row_unpack(h->dt, h->S, row, scale, dqkv, part_at(h, b, n, part, a));
  }
}

/* A thread's memory in the backward pass. */
typedef struct back {
  float *part, *qs, *gs, *dq, *dk, *dv; /* (rows, width): any part, queries, dout, gradients */
  float *keys_t, *values_t;             /* panels (S, keys) */
  float *keys, *qs_panels, *gs_panels;  /* panels (N, width) */
  float *p, *d;                         /* (BLOCK, keys): probabilities and gradients of logits */
  float *dbias;                         /* (3, A, S) */
} back;

/* Lays out the memory from `at` on and returns its size. */
static ij_dim back_layout(const heads *h, float *at, back *w) {
  ij_dim rows = h->rows * h->width, keys = h->keys * h->S, block = BLOCK * h->keys;
  const ij_dim sizes[] = {rows, rows, rows, rows, rows, rows, keys, keys, rows, rows, rows, block, block};
  float **const places[] = {&w->part,     &w->qs,   &w->gs,        &w->dq,        &w->dk, &w->dv, &w->keys_t,
                            &w->values_t, &w->keys, &w->qs_panels, &w->gs_panels, &w->p,  &w->d};
  ij_dim used = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    *places[i] = at ? at + used : NULL;
    used += round_up(sizes[i], 16);
  }
  return used + 16;
}

static void head_load(const heads *h, ij_dim b, ij_dim a, ij_dim first_q, const void *dout, back *w) {
  part_rows(h, b, 0, a, (float)(1 / sqrt((double)h->S)), w->qs);
  part_rows(h, b, 1, a, 1, w->part);
  transposed_panels_of(h, w->part, w->keys_t);
  panels_of(h, w->part, w->keys);
  part_rows(h, b, 2, a, 1, w->part);
  transposed_panels_of(h, w->part, w->values_t);
  for (ij_dim n = first_q; n < h->N; n++)
    row_pack(h->dt, dout, ((b * h->N + n) * h->A + a) * h->S, h->S, NULL, 1, h->width, w->gs + n * h->width);
  panels_of(h, w->qs, w->qs_panels);
  panels_of(h, w->gs, w->gs_panels);
}

/* lse (N) of this head */
static void head_bwd(const heads *h, ij_dim first_q, const float *lse, back *w) {
  ij_dim N = h->N, S = h->S, width = h->width;
  for (ij_dim at = first_q; at < N; at += BLOCK) {
    ij_dim count = N - at < BLOCK ? N - at : BLOCK;
    bool add = at > first_q;
    float *qs = w->qs + at * width, *gs = w->gs + at * width;
    IJ_CPU(product)(count, N, S, left_rows(qs, width), (right){w->keys_t, S * TILE_N}, w->p, h->keys, false);
    IJ_CPU(product)(count, N, S, left_rows(gs, width), (right){w->values_t, S * TILE_N}, w->d, h->keys, false);
    for (ij_dim r = 0; r < count; r++) {
      row_end(h, w->p + r * h->keys);
      row_grad(h->ends, lse[at + r], w->p + r * h->keys, w->d + r * h->keys);
    }
    IJ_CPU(product)
    (count, S, N, left_rows(w->d, h->keys), (right){w->keys, N * TILE_N}, w->dq + at * width, width, false);
    IJ_CPU(product)
    (N, S, count, left_columns(w->p, h->keys), (right){w->gs_panels + at * TILE_N, N * TILE_N}, w->dv, width, add);
    IJ_CPU(product)
    (N, S, count, left_columns(w->d, h->keys), (right){w->qs_panels + at * TILE_N, N * TILE_N}, w->dk, width, add);
  }
}

ij_status IJ_CPU(attention_bwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,
                                void *dqkv, float *dbias) {
  (void)out;
  if (B * A * N == 0) return IJ_OK;
  heads h = heads_of(dt, N, A, S, qkv, bias);
  back w;
  int threads = B * A * N * S < SMALL ? 1 : omp_get_max_threads();
  ij_dim need = back_layout(&h, NULL, &w), size = 3 * A * S;
  float *scratch = ij_queue_scratch(q, 0, (size_t)(threads * (need + size)) * sizeof *scratch);
  if (!scratch) return IJ_ENOMEM;
  float *dbiases = scratch + threads * need; /* (threads, 3, A, S) */
  memset(dbiases, 0, (size_t)(threads * size) * sizeof *dbiases);
#pragma omp parallel num_threads(threads) if (threads > 1) private(w)
  {
    back_layout(&h, scratch + omp_get_thread_num() * need, &w);
    w.dbias = dbiases + omp_get_thread_num() * size;
    memset(w.dq, 0, (size_t)(h.rows * h.width) * sizeof *w.dq); /* rows before first_q stay 0 */
#pragma omp for schedule(static)
    for (ij_dim i = 0; i < B * A; i++) {
      ij_dim b = i / A, a = i % A;
      head_load(&h, b, a, first_q, dout, &w);
      if (first_q >= N) {
        memset(w.dk, 0, (size_t)(h.rows * h.width) * sizeof *w.dk);
        memset(w.dv, 0, (size_t)(h.rows * h.width) * sizeof *w.dv);
      }
      head_bwd(&h, first_q, lse + i * N, &w);
      part_unpack(&h, b, 0, a, (float)(1 / sqrt((double)S)), w.dq, dqkv, w.dbias);
      part_unpack(&h, b, 1, a, 1, w.dk, dqkv, w.dbias);
      part_unpack(&h, b, 2, a, 1, w.dv, dqkv, w.dbias);
    }
  }
  if (dbias) IJ_CPU(rows_add)(threads, size, dbiases, dbias);
  return IJ_OK;
}

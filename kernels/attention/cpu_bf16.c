/* Attention in bf16 by dot products of pairs (AVX-512 BF16), one head of one image at a time by one thread. Queries,
 * keys and values are multiplied as they are; what their biases add to logits, results and gradients is computed in f32
 * beside that. So only probabilities and their gradients are rounded to bf16.
 *
 * A unit is two neighbours in bf16, in the 32 bits of a float whose value means nothing: neighbours of a row, or the
 * elements of two rows in one column. Products of units are those of tile.h with half the depth. */
#include "../cpu/rows.h"
#include "../cpu/tile.h"
#include <math.h>

enum { BLOCK = 48 }; /* query rows of a block: a multiple of TILE_M, and even */

ij_status ij_cpu_avx512_attention_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                      const void *qkv, const float *bias, void *out, float *lse);
ij_status ij_cpu_avx512_attention_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                      const void *qkv, const float *bias, const void *out, const float *lse,
                                      const void *dout, void *dqkv, float *dbias);

typedef struct heads {
  ij_dim N, A, S, units;          /* units of a row: S / 2 */
  ij_dim rows, keys, width, ends; /* N up to a multiple of TILE_M, of TILE_N; S likewise; N up to one of VL */
  float scale;                    /* of logits: S^-1/2 */
  const uint16_t *qkv;            /* (B, N, 3, A, S) */
  const float *bias;              /* (3, A, S), NULL: none */
} heads;
static heads heads_of(ij_dim N, ij_dim A, ij_dim S, const void *qkv, const float *bias) {
  return (heads){N,
                 A,
                 S,
                 S / 2,
                 round_up(N, TILE_M),
                 round_up(N, TILE_N),
                 round_up(S, TILE_N),
                 round_up(N, VL),
                 (float)(1 / sqrt((double)S)),
                 qkv,
                 bias};
}

static ij_dim part_at(const heads *h, ij_dim b, ij_dim n, int part, ij_dim a) {
  return (((b * h->N + n) * 3 + part) * h->A + a) * h->S;
}
static ij_dim part_stride(const heads *h) { return 3 * h->A * h->S; } /* from one image patch's row to the next */
static const float *bias_of(const heads *h, int part, ij_dim a) {
  return h->bias ? h->bias + (part * h->A + a) * h->S : NULL;
}

/* ---- products of units: see tile_body */
__attribute__((always_inline)) static inline vf dot(vf a, vf b, vf c) {
  return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
__attribute__((always_inline)) static inline void unit_tile(int nv, ij_dim depth, const float *a, ij_dim ai, ij_dim ak,
                                                            const float *b, float *c, ij_dim ci, bool add) {
  vf low[TILE_M], high[TILE_M];
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) low[i] = high[i] = (vf){0};
#pragma GCC unroll 2
  for (ij_dim k = 0; k < depth; k++, a += ak, b += TILE_N) {
    vf b0 = vf_load(b), b1 = nv == 2 ? vf_load(b + VL) : b0;
#pragma GCC unroll 16
    for (int i = 0; i < TILE_M; i++) {
      vf x = vf_all(a[i * ai]);
      low[i] = dot(x, b0, low[i]);
      if (nv == 2) high[i] = dot(x, b1, high[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) {
    float *row = c + i * ci;
    vf_store(row, add ? low[i] + vf_load(row) : low[i]);
    if (nv == 2) vf_store(row + VL, add ? high[i] + vf_load(row + VL) : high[i]);
  }
}
static void rows_2(ij_dim depth, const float *a, ij_dim ai, const float *b, float *c, ij_dim ci, bool add) {
  unit_tile(2, depth, a, ai, 1, b, c, ci, add);
}
static void rows_1(ij_dim depth, const float *a, ij_dim ai, const float *b, float *c, ij_dim ci, bool add) {
  unit_tile(1, depth, a, ai, 1, b, c, ci, add);
}
static void columns_2(ij_dim depth, const float *a, ij_dim ak, const float *b, float *c, ij_dim ci, bool add) {
  unit_tile(2, depth, a, 1, ak, b, c, ci, add);
}
static void columns_1(ij_dim depth, const float *a, ij_dim ak, const float *b, float *c, ij_dim ci, bool add) {
  unit_tile(1, depth, a, 1, ak, b, c, ci, add);
}
/* C (m, n) = or += A (m, depth units) B (depth units, n); otherwise as IJ_CPU(product) */
static void unit_product(ij_dim m, ij_dim n, ij_dim depth, left x, right y, float *c, ij_dim ci, bool add) {
  bool rows = x.ak == 1;
  ij_dim stride = rows ? x.ai : x.ak;
  for (ij_dim j = 0; j < n; j += TILE_N, y.b += y.bp) {
    void (*tile)(ij_dim, const float *, ij_dim, const float *, float *, ij_dim, bool) =
        n - j <= VL ? (rows ? rows_1 : columns_1)
        : rows      ? rows_2
                    : columns_2;
    for (ij_dim i = 0; i < m; i += TILE_M) tile(depth, x.a + i / TILE_M * x.at, stride, y.b, c + i * ci + j, ci, add);
  }
}

/* ---- factors from rows of bf16: x, `stride` elements from row to row */
/* x (N, S) -> y (N up to a multiple of TILE_M, units), further rows 0 */
static void rows_of(const heads *h, ij_dim N, const uint16_t *x, ij_dim stride, float *y) {
  for (ij_dim n = 0; n < N; n++) memcpy(y + n * h->units, x + n * stride, (size_t)h->S * sizeof *x);
  memset(y + N * h->units, 0, (size_t)((round_up(N, TILE_M) - N) * h->units) * sizeof *y);
}
/* x (N, S) -> the transpose of its units in panels (keys / TILE_N, units, TILE_N) */
static void transposed_of(const heads *h, const uint16_t *x, ij_dim stride, float *y) {
  for (ij_dim n = 0; n < h->N; n += TILE_N) IJ_CPU(panel_transposed)
  (h->N - n < TILE_N ? h->N - n : TILE_N, h->units, (const float *)(const void *)(x + n * stride), stride / 2,
   y + n * h->units);
}
/* x (N, S) -> units of two rows in panels (width / TILE_N, (N + 1) / 2, TILE_N) */
static void pairs_of(const heads *h, ij_dim N, const uint16_t *x, ij_dim stride, float *y) {
  static const uint16_t none[TILE_N]; /* behind an odd last row */
  for (ij_dim s = 0; s < h->S; s += TILE_N)
    for (ij_dim n = 0; n < N; n += 2, y += TILE_N) {
      ij_dim count = h->S - s < TILE_N ? h->S - s : TILE_N;
      const uint16_t *first = x + n * stride + s, *second = n + 1 < N ? first + stride : none;
      uint32_t unit[TILE_N] = {0};
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) unit[j] = first[j] | (uint32_t)second[j] << 16;
      memcpy(y, unit, sizeof unit);
    }
}
/* y (N) = scale * (x (N, S) times w (S) + more); w NULL: 0 */
static void dots_of(const heads *h, const uint16_t *x, ij_dim stride, const float *w, float more, float *y) {
  for (ij_dim n = 0; n < h->N; n++) {
    float sum = more;
    const uint16_t *row = x + n * stride;
    if (w) {
#pragma omp simd reduction(+ : sum)
      for (ij_dim s = 0; s < h->S; s++) sum += ij_bf16_to_f32(row[s]) * w[s];
    }
    y[n] = h->scale * sum;
  }
}
static float dot_of(ij_dim n, const float *x, const float *y) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (ij_dim i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

static void vf_to_bf16(uint16_t *to, vf x) {
  __m256bh y = _mm512_cvtneps_pbh((__m512)x);
  memcpy(to, &y, sizeof y);
}
/* y (ends) in bf16 from x (ends) */
static void row_round(ij_dim n, const float *x, uint16_t *y) {
  for (ij_dim i = 0; i < n; i += VL) vf_to_bf16(y + i, vf_load(x + i));
}
/* Units of two rows: y (n) from a and b (n); b NULL: zeros */
static void rows_pair(ij_dim n, const float *a, const float *b, float *y) {
  for (ij_dim i = 0; i < n; i += VL) {
    __m256bh low = _mm512_cvtneps_pbh((__m512)vf_load(a + i));
    __m256bh high = _mm512_cvtneps_pbh(b ? (__m512)vf_load(b + i) : _mm512_setzero_ps());
    __m512i unit = _mm512_or_si512(_mm512_cvtepu16_epi32((__m256i)low),
                                   _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)high), 16));
    vf_store(y + i, (vf)unit);
  }
}

/* ---- forward */
/* The logits x (ends) of one query become exp(logit - top), with what the query's bias adds (ends); the sum of these.
 */
static float row_exp(const heads *h, const float *adds, float *x, float *top) {
  vf most = vf_all(-INFINITY), sum = {0};
  for (ij_dim i = 0; i < h->ends; i += VL) {
    vf v = vf_fma(vf_load(x + i), vf_all(h->scale), vf_load(adds + i)); /* -inf behind the last key */
    vf_store(x + i, v);
    most = vf_max(v, most);
  }
  *top = vf_top(most);
  for (ij_dim i = 0; i < h->ends; i += VL) {
    vf e = vf_exp(vf_load(x + i) - *top);
    vf_store(x + i, e);
    sum += e;
  }
  return vf_sum(sum);
}

/* What the biases add: to the logits of each key (ends; -inf behind the last), to those of each query (N) */
static void adds_of(const heads *h, ij_dim b, ij_dim a, float *of_keys, float *of_queries) {
  const float *bq = bias_of(h, 0, a), *bk = bias_of(h, 1, a);
  dots_of(h, h->qkv + part_at(h, b, 0, 1, a), part_stride(h), bq, 0, of_keys);
  for (ij_dim n = h->N; n < h->ends; n++) of_keys[n] = -INFINITY;
  dots_of(h, h->qkv + part_at(h, b, 0, 0, a), part_stride(h), bk, bq ? dot_of(h->S, bq, bk) : 0, of_queries);
}

/* y [bf16] (S) = x (S) * scale (+ bias) */
static void row_out_of(ij_dim S, const float *x, float scale, const float *bias, uint16_t *y, float *buffer) {
  if (bias) {
#pragma omp simd
    for (ij_dim s = 0; s < S; s++) buffer[s] = x[s] * scale + bias[s];
  } else {
#pragma omp simd
    for (ij_dim s = 0; s < S; s++) buffer[s] = x[s] * scale;
  }
  bf16_from_f32(S, buffer, y);
}

/* Space for a block of logits, or for a row of a result. */
static ij_dim block_of(const heads *h) { return BLOCK * h->keys > h->width ? BLOCK * h->keys : h->width; }

typedef struct forward {  /* a thread's memory */
  float *qs;              /* (rows, units) */
  float *keys_t;          /* panels (units, keys) */
  float *values;          /* panels (units of two keys, width) */
  float *p, *p_units, *o; /* (BLOCK, keys), (BLOCK, keys / 2), (BLOCK, width) */
  float *of_keys, *of_queries;
} forward;
static ij_dim forward_layout(const heads *h, float *at, forward *w) {
  ij_dim pairs = (h->N + 1) / 2;
  const ij_dim sizes[] = {h->rows * h->units,  h->keys * h->units, pairs * h->width, block_of(h),
                          BLOCK * h->keys / 2, BLOCK * h->width,   h->ends,          h->N};
  float **const places[] = {&w->qs, &w->keys_t, &w->values, &w->p, &w->p_units, &w->o, &w->of_keys, &w->of_queries};
  ij_dim used = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    *places[i] = at ? at + used : NULL;
    used += round_up(sizes[i], 16);
  }
  return used + 16;
}

static void head_fwd(const heads *h, ij_dim b, ij_dim a, ij_dim first_q, forward *w, uint16_t *out, float *lse) {
  ij_dim N = h->N, S = h->S, pairs = (N + 1) / 2, stride = part_stride(h);
  rows_of(h, N - first_q, h->qkv + part_at(h, b, first_q, 0, a), stride, w->qs);
  transposed_of(h, h->qkv + part_at(h, b, 0, 1, a), stride, w->keys_t);
  pairs_of(h, N, h->qkv + part_at(h, b, 0, 2, a), stride, w->values);
  adds_of(h, b, a, w->of_keys, w->of_queries);
  for (ij_dim at = first_q; at < N; at += BLOCK) {
    ij_dim count = N - at < BLOCK ? N - at : BLOCK;
    float sums[BLOCK], top;
    unit_product(count, N, h->units, left_rows(w->qs + (at - first_q) * h->units, h->units),
                 (right){w->keys_t, h->units * TILE_N}, w->p, h->keys, false);
    for (ij_dim r = 0; r < count; r++) {
      sums[r] = row_exp(h, w->of_keys, w->p + r * h->keys, &top);
      if (lse) lse[at + r] = top + logf(sums[r]) + w->of_queries[at + r];
      row_round(h->ends, w->p + r * h->keys, (uint16_t *)(void *)(w->p_units + r * h->keys / 2));
    }
    unit_product(count, S, pairs, left_rows(w->p_units, h->keys / 2), (right){w->values, pairs * TILE_N}, w->o,
                 h->width, false);
    for (ij_dim r = 0; r < count; r++)
      row_out_of(S, w->o + r * h->width, 1 / sums[r], bias_of(h, 2, a), out + ((b * N + at + r) * h->A + a) * S, w->p);
  }
}

ij_status IJ_CPU(attention_fwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                const void *qkv, const float *bias, void *out, float *lse) {
  if (dt != IJ_BF16 || S % 2) return ij_cpu_avx512_attention_fwd(q, dt, B, N, A, S, first_q, qkv, bias, out, lse);
  if (B * A == 0 || first_q >= N) return IJ_OK;
  heads h = heads_of(N, A, S, qkv, bias);
  forward w;
  int threads = B * A * N * S < SMALL ? 1 : omp_get_max_threads();
  ij_dim need = forward_layout(&h, NULL, &w);
  float *scratch = ij_queue_scratch(q, 0, (size_t)(threads * need) * sizeof *scratch);
  if (!scratch) return IJ_ENOMEM;
#pragma omp parallel num_threads(threads) if (threads > 1) private(w)
  {
    forward_layout(&h, scratch + omp_get_thread_num() * need, &w);
#pragma omp for schedule(static)
    for (ij_dim i = 0; i < B * A; i++) head_fwd(&h, i / A, i % A, first_q, &w, out, lse ? lse + i * N : NULL);
  }
  return IJ_OK;
}

/* ---- backward */
typedef struct back {
  float *qs, *gs;                         /* (rows, units): queries, dout, from first_q on */
  float *keys_t, *values_t;               /* panels (units, keys) */
  float *keys, *q_pairs, *g_pairs;        /* panels (units of two rows, width) */
  float *dq, *dk, *dv;                    /* (rows, width): gradients */
  float *p, *d;                           /* (BLOCK, keys): probabilities and gradients of logits */
  float *units;                           /* (BLOCK, keys): these in bf16 */
  float *of_keys, *of_queries, *key_sums; /* (ends), (N), (ends): sums of d over queries */
  float *dbias;                           /* (3, A, S) */
} back;
static ij_dim back_layout(const heads *h, float *at, back *w) {
  ij_dim rows = (h->rows + TILE_M) * h->width, units = h->rows * h->units, pairs = (h->N + 1) / 2 * h->width;
  ij_dim keys = h->keys * h->units, block = block_of(h);
  const ij_dim sizes[] = {units, units, keys,  keys,  pairs, pairs,   pairs, rows,
                          rows,  rows,  block, block, block, h->ends, h->N,  h->ends};
  float **const places[] = {&w->qs,      &w->gs,      &w->keys_t,     &w->values_t, &w->keys, &w->q_pairs,
                            &w->g_pairs, &w->dq,      &w->dk,         &w->dv,       &w->p,    &w->d,
                            &w->units,   &w->of_keys, &w->of_queries, &w->key_sums};
  ij_dim used = 0;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    *places[i] = at ? at + used : NULL;
    used += round_up(sizes[i], 16);
  }
  return used + 16;
}

static void head_load(const heads *h, ij_dim b, ij_dim a, ij_dim first_q, const uint16_t *dout, back *w) {
  ij_dim N = h->N, stride = part_stride(h), queries = N - first_q;
  const uint16_t *q = h->qkv + part_at(h, b, first_q, 0, a), *k = h->qkv + part_at(h, b, 0, 1, a),
                 *v = h->qkv + part_at(h, b, 0, 2, a), *g = dout + ((b * N + first_q) * h->A + a) * h->S;
  rows_of(h, queries, q, stride, w->qs);
  pairs_of(h, queries, q, stride, w->q_pairs);
  rows_of(h, queries, g, h->A * h->S, w->gs);
  pairs_of(h, queries, g, h->A * h->S, w->g_pairs);
  transposed_of(h, k, stride, w->keys_t);
  pairs_of(h, N, k, stride, w->keys);
  transposed_of(h, v, stride, w->values_t);
  adds_of(h, b, a, w->of_keys, w->of_queries);
}

/* x (ends): logits without biases become probabilities; d: gradients of these become those of the logits. What the
 * values' bias adds to all of a row's d drops out. */
static void row_grad(const heads *h, const float *adds, float less, float *x, float *d, float *sums) {
  vf sum = {0};
  for (ij_dim i = 0; i < h->ends; i += VL) {
    vf e = vf_exp(vf_fma(vf_load(x + i), vf_all(h->scale), vf_load(adds + i)) - less);
    vf_store(x + i, e);
    sum += e * vf_load(d + i);
  }
  float total = vf_sum(sum);
  for (ij_dim i = 0; i < h->ends; i += VL) {
    vf g = vf_load(x + i) * (vf_load(d + i) - total);
    vf_store(d + i, g);
    vf_store(sums + i, vf_load(sums + i) + g);
  }
}

/* Rows [0, count) of x (BLOCK, keys) -> units of two rows ((count + 1) / 2, keys) */
static void block_pairs(const heads *h, ij_dim count, const float *x, float *y) {
  for (ij_dim r = 0; r < count; r += 2)
    rows_pair(h->ends, x + r * h->keys, r + 1 < count ? x + (r + 1) * h->keys : NULL, y + r / 2 * h->keys);
}

/* lse (N) of this head */
static void head_bwd(const heads *h, ij_dim first_q, const float *lse, back *w) {
  ij_dim N = h->N, S = h->S, width = h->width, pairs = (N + 1) / 2, query_pairs = (N - first_q + 1) / 2;
  memset(w->key_sums, 0, (size_t)h->ends * sizeof *w->key_sums);
  for (ij_dim at = first_q; at < N; at += BLOCK) {
    ij_dim count = N - at < BLOCK ? N - at : BLOCK, from = at - first_q, half = (count + 1) / 2;
    bool add = from > 0;
    unit_product(count, N, h->units, left_rows(w->qs + from * h->units, h->units),
                 (right){w->keys_t, h->units * TILE_N}, w->p, h->keys, false);
    unit_product(count, N, h->units, left_rows(w->gs + from * h->units, h->units),
                 (right){w->values_t, h->units * TILE_N}, w->d, h->keys, false);
    for (ij_dim r = 0; r < count; r++)
      row_grad(h, w->of_keys, lse[at + r] - w->of_queries[at + r], w->p + r * h->keys, w->d + r * h->keys, w->key_sums);
    for (ij_dim r = 0; r < count; r++)
      row_round(h->ends, w->d + r * h->keys, (uint16_t *)(void *)(w->units + r * h->keys / 2));
    unit_product(count, S, pairs, left_rows(w->units, h->keys / 2), (right){w->keys, pairs * TILE_N},
                 w->dq + at * width, width, false);
    block_pairs(h, count, w->p, w->units);
    unit_product(N, S, half, left_columns(w->units, h->keys),
                 (right){w->g_pairs + from / 2 * TILE_N, query_pairs * TILE_N}, w->dv, width, add);
    block_pairs(h, count, w->d, w->units);
    unit_product(N, S, half, left_columns(w->units, h->keys),
                 (right){w->q_pairs + from / 2 * TILE_N, query_pairs * TILE_N}, w->dk, width, add);
  }
}

/* dk (N, width) also has what the queries' bias brings: its rows times the sums of d */
static void keys_bias(const heads *h, ij_dim a, back *w) {
  const float *bq = bias_of(h, 0, a);
  for (ij_dim n = 0; bq && n < h->N; n++) {
#pragma omp simd
    for (ij_dim s = 0; s < h->S; s++) w->dk[n * h->width + s] += w->key_sums[n] * bq[s];
  }
}

/* x (N, width) * scale -> part of head a of image b of dqkv; its sum over rows is added to dbias (3, A, S), but for the
 * keys' (part 1), which is 0 */
static void part_unpack(const heads *h, ij_dim b, int part, ij_dim a, float scale, const float *x, uint16_t *dqkv,
                        back *w) {
  float *sum = w->dbias + (part * h->A + a) * h->S;
  for (ij_dim n = 0; n < h->N; n++) {
    const float *row = x + n * h->width;
    if (part != 1) {
#pragma omp simd
      for (ij_dim s = 0; s < h->S; s++) sum[s] += row[s] * scale;
    }
    row_out_of(h->S, row, scale, NULL, dqkv + part_at(h, b, n, part, a), w->p);
  }
}

ij_status IJ_CPU(attention_bwd)(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,
                                void *dqkv, float *dbias) {
  if (dt != IJ_BF16 || S % 2 || first_q >= N)
    return ij_cpu_avx512_attention_bwd(q, dt, B, N, A, S, first_q, qkv, bias, out, lse, dout, dqkv, dbias);
  if (B * A * N == 0) return IJ_OK;
  heads h = heads_of(N, A, S, qkv, bias);
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
      head_bwd(&h, first_q, lse + i * N, &w);
      keys_bias(&h, a, &w);
      part_unpack(&h, b, 0, a, h.scale, w.dq, dqkv, &w);
      part_unpack(&h, b, 1, a, h.scale, w.dk, dqkv, &w);
      part_unpack(&h, b, 2, a, 1, w.dv, dqkv, &w);
    }
  }
  if (dbias) IJ_CPU(rows_add)(threads, size, dbiases, dbias);
  return IJ_OK;
}

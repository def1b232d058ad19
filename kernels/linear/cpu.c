/* Linear layers. Products of the processor's own f32 run here: the right factor is packed into panels that stay in the
 * first cache, blocks of rows of the left one stay in the second. bf16 is converted while packing. Where the machine
 * multiplies bf16 itself, the library gets it. */
#include "../cpu/rows.h"
#include "../cpu/tile.h"
#include "onednn.h"

/* Rows of a block of the left factor, a multiple of every TILE_M, and the depth worked on at once. */
enum { ROWS = 120, DEPTH = 384 };

static ij_dim least(ij_dim a, ij_dim b) { return a < b ? a : b; }

/* ---- y (R, n) = x (R, k) times w -------------------------------------------------------------------------------- */

/* The right factor w: (n, k) used transposed, or (k, n). Packed: for each DEPTH of k, panels (n / TILE_N, depth,
 * TILE_N). */
typedef struct weights {
  bool transposed;
  ij_dim n, k, panels;
  const float *w;
  float *packed;
} weights;

/* Panel p of the depth from k0 on: where it lies; pack makes it. */
static float *panel_at(const weights *v, ij_dim p, ij_dim k0, ij_dim depth) {
  return v->packed + (k0 * v->panels + p * depth) * TILE_N;
}

static void panel_pack(const weights *v, ij_dim p, ij_dim k0) {
  ij_dim depth = least(DEPTH, v->k - k0), j = p * TILE_N, n = least(TILE_N, v->n - j);
  float *y = panel_at(v, p, k0, depth);
  if (v->transposed) IJ_CPU(panel_transposed)(n, depth, v->w + j * v->k + k0, v->k, y);
  else IJ_CPU(panel_rows)(n, depth, v->w + k0 * v->n + j, v->n, y);
}

/* Rows [from, from + rows) of the product. x and y are used where they lie when they are f32 and whole tiles, else
 * through x_copy (ROWS, k) and y_copy (ROWS, n up to whole panels). */
static void rows_multiply(const weights *v, ij_dtype dt, ij_dim from, ij_dim rows, const void *x, void *y,
                          float *x_copy, float *y_copy) {
  ij_dim k = v->k, n = v->n;
  bool whole = dt == IJ_F32 && rows % TILE_M == 0;
  const float *a = (const float *)x + from * k;
  if (!whole) {
    for (ij_dim r = 0; r < rows; r++) {
      const float *row = row_get(dt, x, (from + r) * k, k, x_copy + r * k);
      if (row != x_copy + r * k) memcpy(x_copy + r * k, row, (size_t)k * sizeof *row);
    }
    memset(x_copy + rows * k, 0, (size_t)((round_up(rows, TILE_M) - rows) * k) * sizeof *x_copy);
    a = x_copy;
  }
  bool in_place = whole && n % VL == 0;
  float *c = in_place ? (float *)y + from * n : y_copy;
  ij_dim ci = in_place ? n : v->panels * TILE_N;
  for (ij_dim k0 = 0; k0 < k; k0 += DEPTH) {
    ij_dim depth = least(DEPTH, k - k0);
    IJ_CPU(product)
    (rows, n, depth, left_rows(a + k0, k), (right){panel_at(v, 0, k0, depth), depth * TILE_N}, c, ci, k0 > 0);
  }
  for (ij_dim r = 0; !in_place && r < rows; r++) {
    if (dt == IJ_BF16) bf16_from_f32(n, c + r * ci, (uint16_t *)y + (from + r) * n);
    else memcpy((float *)y + (from + r) * n, c + r * ci, (size_t)n * sizeof *c);
  }
}

static ij_status multiply(ij_queue *q, bool transposed, ij_dtype dt, ij_dim R, ij_dim n, ij_dim k, const void *x,
                          const float *w, void *y) {
  if (R == 0) return IJ_OK;
  ij_dim panels = (n + TILE_N - 1) / TILE_N, depths = (k + DEPTH - 1) / DEPTH, copy = ROWS * (k + panels * TILE_N);
  int threads = R * n * k < SMALL ? 1 : omp_get_max_threads();
  /* a few blocks for each thread, so that none waits long for the others */
  ij_dim rows = least(ROWS, round_up((R + 4 * threads - 1) / (4 * threads), TILE_M));
  float *packed = ij_queue_scratch(q, 0, (size_t)(panels * TILE_N * k) * sizeof *packed);
  float *copies = ij_queue_scratch(q, 1, (size_t)(threads * copy) * sizeof *copies);
  if (!packed || !copies) return IJ_ENOMEM;
  weights v = {transposed, n, k, panels, w, packed};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *x_copy = copies + omp_get_thread_num() * copy, *y_copy = x_copy + ROWS * k;
#pragma omp for schedule(static)
    for (ij_dim i = 0; i < panels * depths; i++) panel_pack(&v, i % panels, i / panels * DEPTH);
#pragma omp for schedule(dynamic)
    for (ij_dim from = 0; from < R; from += rows)
      rows_multiply(&v, dt, from, least(rows, R - from), x, y, x_copy, y_copy);
  }
  return IJ_OK;
}

ij_status IJ_CPU(linear_fwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                             uint64_t version, void *y) {
  if (ij_onednn_takes(dt)) {
    ij_status st = ij_onednn_linear_fwd(q, dt, R, N, K, x, w, version, y);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  return multiply(q, true, dt, R, N, K, x, w, y);
}

ij_status IJ_CPU(linear_bwd_x)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                               uint64_t version, void *dx) {
  if (ij_onednn_takes(dt)) {
    ij_status st = ij_onednn_linear_bwd_x(q, dt, R, N, K, dy, w, version, dx);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  return multiply(q, false, dt, R, K, N, dy, w, dx);
}

/* ---- dw (N, K) += dy (R, N) transposed times x (R, K) ----------------------------------------------------------- */

/* y: panels (n / TILE_M, depth, TILE_M) of rows [r0, r0 + depth), columns [j0, j0 + n) of x (R, N) [dt]; zeros behind.
 * rows: (4, n). Four rows at a time, so that what is written to a panel fills cache lines. */
static void left_pack(ij_dtype dt, const void *x, ij_dim N, ij_dim r0, ij_dim depth, ij_dim j0, ij_dim n, float *rows,
                      float *y) {
  for (ij_dim r = 0; r < depth; r += 4) {
    const float *v[4];
    int count = (int)least(4, depth - r);
    for (int i = 0; i < count; i++) v[i] = row_get(dt, x, (r0 + r + i) * N + j0, n, rows + i * n);
    for (ij_dim j = 0; j < n; j += TILE_M)
      for (int i = 0; i < count; i++) {
        float *to = y + j * depth + (r + i) * TILE_M;
        if (j + TILE_M <= n) memcpy(to, v[i] + j, TILE_M * sizeof *to);
        else
          for (ij_dim c = 0; c < TILE_M; c++) to[c] = j + c < n ? v[i][j + c] : 0;
      }
  }
}

/* y: panels (k / TILE_N, depth, TILE_N) likewise */
static void right_pack(ij_dtype dt, const void *x, ij_dim K, ij_dim r0, ij_dim depth, ij_dim j0, ij_dim k, float *row,
                       float *y) {
  for (ij_dim r = 0; r < depth; r++) {
    const float *v = row_get(dt, x, (r0 + r) * K + j0, k, row);
    ij_dim j = 0;
    for (; j + TILE_N <= k; j += TILE_N) {
      float *to = y + j * depth + r * TILE_N;
      vf_store(to, vf_load(v + j));
      vf_store(to + VL, vf_load(v + j + VL));
    }
    for (ij_dim c = 0; j < k && c < TILE_N; c++) y[j * depth + r * TILE_N + c] = j + c < k ? v[j + c] : 0;
  }
}

enum { BLOCK_N = 192, BLOCK_K = 384, ROWS_DEEP = 256 }; /* of dw's blocks, and the rows of dy and x packed at once */

/* dw cut into blocks of n by k, tn by tk of them. */
typedef struct grid {
  ij_dim n, k, tn, tk;
} grid;

static grid grid_of(ij_dim N, ij_dim K, int threads) {
  grid g = {.tn = (N + BLOCK_N - 1) / BLOCK_N, .tk = (K + BLOCK_K - 1) / BLOCK_K};
  for (;;) { /* as many for each thread, or many */
    g.n = round_up((N + g.tn - 1) / g.tn, TILE_M);
    g.k = round_up((K + g.tk - 1) / g.tk, TILE_N);
    ij_dim tasks = g.tn * g.tk;
    if (tasks % threads == 0 || tasks >= 4 * threads || (g.n <= TILE_M && g.k <= TILE_N)) break;
    if (g.n >= g.k || g.k <= TILE_N) g.tn++;
    else g.tk++;
  }
  g.tn = (N + g.n - 1) / g.n;
  g.tk = (K + g.k - 1) / g.k;
  return g;
}

/* One block of dw, rows from n0, columns from k0 on. left, right: packed slices of dy and x; c (g.n, g.k): for a block
 * that is not whole tiles; rows: four rows of a slice. */
static void block_multiply(const grid *g, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, ij_dim n0, ij_dim k0,
                           const void *dy, const void *x, float *dw, float *packed_dy, float *packed_x, float *c,
                           float *rows) {
  ij_dim n = least(g->n, N - n0), k = least(g->k, K - k0);
  bool in_place = n % TILE_M == 0 && k % VL == 0;
  for (ij_dim r0 = 0; r0 < R; r0 += ROWS_DEEP) {
    ij_dim depth = least(ROWS_DEEP, R - r0);
    left_pack(dt, dy, N, r0, depth, n0, n, rows, packed_dy);
    right_pack(dt, x, K, r0, depth, k0, k, rows, packed_x);
    right r = {packed_x, depth * TILE_N};
    if (in_place) IJ_CPU(product)(n, k, depth, left_panels(packed_dy, depth), r, dw + n0 * K + k0, K, true);
    else IJ_CPU(product)(n, k, depth, left_panels(packed_dy, depth), r, c, g->k, r0 > 0);
  }
  for (ij_dim i = 0; !in_place && i < n; i++)
    for (ij_dim j = 0; j < k; j++) dw[(n0 + i) * K + k0 + j] += c[i * g->k + j];
}

static ij_status gradient(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                          float *dw) {
  int threads = R * N * K < SMALL ? 1 : omp_get_max_threads();
  grid g = grid_of(N, K, threads);
  ij_dim widest = g.n > g.k ? g.n : g.k;
  ij_dim need = round_up(ROWS_DEEP * (g.n + g.k) + g.n * g.k + 4 * widest, 16);
  float *scratch = ij_queue_scratch(q, 0, (size_t)(threads * need) * sizeof *scratch);
  if (!scratch) return IJ_ENOMEM;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *packed_dy = scratch + omp_get_thread_num() * need, *packed_x = packed_dy + ROWS_DEEP * g.n;
    float *c = packed_x + ROWS_DEEP * g.k, *rows = c + g.n * g.k;
#pragma omp for schedule(dynamic)
    for (ij_dim t = 0; t < g.tn * g.tk; t++)
      block_multiply(&g, dt, R, N, K, t / g.tk * g.n, t % g.tk * g.k, dy, x, dw, packed_dy, packed_x, c, rows);
  }
  return IJ_OK;
}

ij_status IJ_CPU(linear_bwd_w)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                               float *dw, float *db) {
  if (R == 0) return IJ_OK;
  if (db) IJ_TRY(IJ_CPU(column_sum)(q, 4, dt, R, N, dy, db));
  if (!dw) return IJ_OK;
  if (ij_onednn_takes(dt)) {
    ij_status st = ij_onednn_linear_bwd_w(q, dt, R, N, K, dy, x, dw);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  return gradient(q, dt, R, N, K, dy, x, dw);
}

ij_status IJ_CPU(bias_add)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, const float *b, void *y) {
  (void)q;
  enum { COLUMNS = 512 };
#pragma omp parallel for schedule(static) if (R * N >= SMALL)
  for (ij_dim r = 0; r < R; r++)
    for (ij_dim i = 0; i < N; i += COLUMNS) {
      float buf[COLUMNS];
      ij_dim n = N - i < COLUMNS ? N - i : COLUMNS;
      const float *from = row_get(dt, y, r * N + i, n, buf);
      float *to = row_out(dt, y, r * N + i, buf);
#pragma omp simd
      for (ij_dim j = 0; j < n; j++) to[j] = from[j] + b[i + j];
      row_put(dt, y, r * N + i, n, buf);
    }
  return IJ_OK;
}

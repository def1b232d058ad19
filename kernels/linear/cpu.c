/* Linear layers. f32 matmuls go through the library's sgemm; rows are handed to the threads in blocks as these get
 * free, so that a core which others use too (the loader's workers) does not hold up the rest. bf16 goes to the library
 * as it is where the machine multiplies it; elsewhere it is converted to f32, a block at a time. */
#include "../cpu/rows.h"
#include "onednn.h"

enum { ROWS = 1024 }; /* most rows of a block */

static ij_dim least(ij_dim a, ij_dim b) { return a < b ? a : b; }

static void from_bf16(ij_dim n, const uint16_t *x, float *y) {
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += 4096) f32_from_bf16(least(4096, n - i), x + i, y + i);
}

/* y (rows, n) [dt] = x (rows, k) [dt] times w, which is (n, k) where transposed, else (k, n); copy (rows, k + n) */
static ij_status block_multiply(bool transposed, ij_dtype dt, ij_dim rows, ij_dim n, ij_dim k, const void *x,
                                const float *w, void *y, float *copy) {
  float *out = row_out(dt, y, 0, copy ? copy + rows * k : NULL);
  IJ_TRY(ij_onednn_sgemm(false, transposed, rows, n, k, row_get(dt, x, 0, rows * k, copy), w, 0, out));
  row_put(dt, y, 0, rows * n, out);
  return IJ_OK;
}

static ij_status multiply(ij_queue *q, bool transposed, ij_dtype dt, ij_dim R, ij_dim n, ij_dim k, const void *x,
                          const float *w, void *y) {
  if (R == 0) return IJ_OK;
  int threads = R * n * k < 64 * SMALL ? 1 : omp_get_max_threads();
  /* three blocks a thread: the library packs w for each, which costs some 30 rows' worth */
  ij_dim rows = least(ROWS, (R + 3 * threads - 1) / (3 * threads));
  if (threads == 1 || rows < 128) rows = least(ROWS, R); /* the library's own threads then */
  ij_dim blocks = (R + rows - 1) / rows;
  bool ours = threads > 1 && blocks >= 3 * threads;
  float *copies = NULL; /* (threads, rows, k + n) */
  if (dt == IJ_BF16) {
    copies = ij_queue_scratch(q, 0, (size_t)(threads * rows * (k + n)) * sizeof *copies);
    if (!copies) return IJ_ENOMEM;
  }
  int failed = IJ_OK;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (ours)
  for (ij_dim b = 0; b < blocks; b++) {
    float *copy = copies ? copies + omp_get_thread_num() * rows * (k + n) : NULL;
    ij_status st = block_multiply(transposed, dt, least(rows, R - b * rows), n, k, at_const(dt, x, b * rows * k), w,
                                  at_mut(dt, y, b * rows * n), copy);
    if (st != IJ_OK) {
#pragma omp atomic write
      failed = st;
    }
  }
  return failed == IJ_OK ? IJ_OK : ij_fail(IJ_ENOMEM, "out of memory in a matrix product");
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

static ij_status gradient_bf16(ij_queue *q, ij_dim R, ij_dim N, ij_dim K, const uint16_t *dy, const uint16_t *x,
                               float *dw) {
  for (ij_dim r = 0; r < R; r += ROWS) {
    ij_dim rows = least(ROWS, R - r);
    float *dyf = ij_queue_scratch(q, 2, (size_t)(rows * N) * sizeof *dyf);
    float *xf = ij_queue_scratch(q, 3, (size_t)(rows * K) * sizeof *xf);
    if (!dyf || !xf) return IJ_ENOMEM;
    from_bf16(rows * N, dy + r * N, dyf);
    from_bf16(rows * K, x + r * K, xf);
    IJ_TRY(ij_onednn_sgemm(true, false, N, K, rows, dyf, xf, 1, dw));
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
  if (dt == IJ_BF16) return gradient_bf16(q, R, N, K, dy, x, dw);
  return ij_onednn_sgemm(true, false, N, K, R, dy, x, 1, dw);
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

/* Linear layers: which product library gets the work, and bias sums. bf16 on a machine without bf16 products is
 * converted to f32, some rows at a time. */
#include "../cpu/rows.h"
#include "onednn.h"

enum { ROWS = 1024 }; /* of the conversion to f32; scratch slots 2 and 3 hold them */

static void convert_rows(ij_dim n, const uint16_t *x, float *y) {
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += 4096) f32_from_bf16(n - i < 4096 ? n - i : 4096, x + i, y + i);
}

static void round_rows(ij_dim n, const float *x, uint16_t *y) {
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += 4096) bf16_from_f32(n - i < 4096 ? n - i : 4096, x + i, y + i);
}

/* y (R, n) bf16 = x (R, k) bf16 times w, (n, k) transposed when wt, else (k, n) */
static ij_status product_bf16(ij_queue *q, bool wt, ij_dim R, ij_dim n, ij_dim k, const uint16_t *x, const float *w,
                              uint16_t *y) {
  for (ij_dim r = 0; r < R; r += ROWS) {
    ij_dim rows = R - r < ROWS ? R - r : ROWS;
    float *xf = ij_queue_scratch(q, 2, (size_t)(rows * k) * sizeof *xf);
    float *yf = ij_queue_scratch(q, 3, (size_t)(rows * n) * sizeof *yf);
    if (!xf || !yf) return IJ_ENOMEM;
    convert_rows(rows * k, x + r * k, xf);
    IJ_TRY(ij_onednn_sgemm(false, wt, rows, n, k, xf, w, 0, yf));
    round_rows(rows * n, yf, y + r * n);
  }
  return IJ_OK;
}

ij_status IJ_CPU(linear_fwd)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                             uint64_t version, void *y) {
  if (ij_onednn_takes(dt)) {
    ij_status st = ij_onednn_linear_fwd(q, dt, R, N, K, x, w, version, y);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  if (dt == IJ_BF16) return product_bf16(q, true, R, N, K, x, w, y);
  return ij_onednn_sgemm(false, true, R, N, K, x, w, 0, y);
}

ij_status IJ_CPU(linear_bwd_x)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                               uint64_t version, void *dx) {
  if (ij_onednn_takes(dt)) {
    ij_status st = ij_onednn_linear_bwd_x(q, dt, R, N, K, dy, w, version, dx);
    if (st != IJ_EUNSUPPORTED) return st;
  }
  if (dt == IJ_BF16) return product_bf16(q, false, R, K, N, dy, w, dx);
  return ij_onednn_sgemm(false, false, R, K, N, dy, w, 0, dx);
}

static ij_status grad_bf16(ij_queue *q, ij_dim R, ij_dim N, ij_dim K, const uint16_t *dy, const uint16_t *x,
                           float *dw) {
  for (ij_dim r = 0; r < R; r += ROWS) {
    ij_dim rows = R - r < ROWS ? R - r : ROWS;
    float *dyf = ij_queue_scratch(q, 2, (size_t)(rows * N) * sizeof *dyf);
    float *xf = ij_queue_scratch(q, 3, (size_t)(rows * K) * sizeof *xf);
    if (!dyf || !xf) return IJ_ENOMEM;
    convert_rows(rows * N, dy + r * N, dyf);
    convert_rows(rows * K, x + r * K, xf);
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
  if (dt == IJ_BF16) return grad_bf16(q, R, N, K, dy, x, dw);
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

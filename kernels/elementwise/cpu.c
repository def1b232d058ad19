/* Ops on one element at a time, conversion and strided copies. */
#include "../cpu/rows.h"
#include "../ref.h"

enum { CHUNK = 4096 }; /* elements a thread takes at a time */

ij_status IJ_CPU(affine)(ij_queue *q, ij_dim n, float scale, float shift, const float *x, float *z) {
  (void)q;
#pragma omp parallel for simd schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i++) z[i] = scale * x[i] + shift;
  return IJ_OK;
}

ij_status IJ_CPU(axpy)(ij_queue *q, ij_dim n, float scale, const float *x, float *y) {
  (void)q;
#pragma omp parallel for simd schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i++) y[i] += scale * x[i];
  return IJ_OK;
}

ij_status IJ_CPU(relu_fwd)(ij_queue *q, ij_dim n, const float *x, float *y) {
  (void)q;
#pragma omp parallel for simd schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i];
  return IJ_OK;
}

ij_status IJ_CPU(relu_bwd)(ij_queue *q, ij_dim n, const float *x, const float *dy, float *dx) {
  (void)q;
#pragma omp parallel for simd schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i++) dx[i] = x[i] > 0 ? dy[i] : 0;
  return IJ_OK;
}

ij_status IJ_CPU(fill)(ij_queue *q, ij_dim n, float value, float *x) {
  (void)q;
#pragma omp parallel for simd schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i++) x[i] = value;
  return IJ_OK;
}

static size_t size_of(ij_dtype t) { return t == IJ_U8 ? 1 : t == IJ_BF16 ? 2 : t == IJ_I64 ? 8 : 4; }

static void convert_chunk(ij_dim n, ij_dtype from, const void *x, ij_dtype to, void *y) {
  if (from == to) memcpy(y, x, (size_t)n * size_of(to));
  else if (from == IJ_F32) bf16_from_f32(n, x, y);
  else f32_from_bf16(n, x, y);
}

ij_status IJ_CPU(convert)(ij_queue *q, ij_dim n, ij_dtype from, const void *x, ij_dtype to, void *y) {
  bool floats = (from == IJ_F32 || from == IJ_BF16) && (to == IJ_F32 || to == IJ_BF16);
  if (from != to && !floats) return ij_ref_convert(q, n, from, x, to, y);
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK)
    convert_chunk(n - i < CHUNK ? n - i : CHUNK, from, (const char *)x + (size_t)i * size_of(from), to,
                  (char *)y + (size_t)i * size_of(to));
  return IJ_OK;
}

/* The last dimension: one memcpy where both sides are dense. */
static void copy_run(ij_dim n, ij_dim size, const char *x, ij_dim xstride, char *y, ij_dim ystride) {
  if (xstride == 1 && ystride == 1) memcpy(y, x, (size_t)(n * size));
  else if (size == 4)
    for (ij_dim i = 0; i < n; i++) memcpy(y + 4 * i * ystride, x + 4 * i * xstride, 4);
  else
    for (ij_dim i = 0; i < n; i++) memcpy(y + size * i * ystride, x + size * i * xstride, (size_t)size);
}

ij_status IJ_CPU(copy)(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const void *x, const ij_dim *xstride,
                       void *y, const ij_dim *ystride) {
  if (nd == 0) return ij_ref_copy(q, nd, shape, size, x, xstride, y, ystride);
  ij_dim rows = 1, n = shape[nd - 1];
  for (int d = 0; d < nd - 1; d++) rows *= shape[d];
#pragma omp parallel for schedule(static) if (rows * n >= SMALL)
  for (ij_dim r = 0; r < rows; r++) {
    ij_dim rest = r, from = 0, to = 0;
    for (int d = nd - 2; d >= 0; d--) {
      from += rest % shape[d] * xstride[d];
      to += rest % shape[d] * ystride[d];
      rest /= shape[d];
    }
    copy_run(n, size, (const char *)x + from * size, xstride[nd - 1], (char *)y + to * size, ystride[nd - 1]);
  }
  return IJ_OK;
}

/* y (D) = s * (x (D) + b (D)), b NULL: none */
static void scale_row(ij_dim D, const float *x, const float *b, float s, float *y) {
  if (b) {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = s * (x[d] + b[d]);
  } else {
#pragma omp simd
    for (ij_dim d = 0; d < D; d++) y[d] = s * x[d];
  }
}

ij_status IJ_CPU(scale_rows)(ij_queue *q, ij_dtype dt, ij_dim Q, ij_dim n, ij_dim D, const void *x, const float *b,
                             const float *s, void *y) {
  int threads = Q * n * D < SMALL ? 1 : omp_get_max_threads();
  float *rows = dt == IJ_BF16 ? ij_queue_scratch(q, 0, (size_t)(threads * D + 1) * sizeof *rows) : NULL; /* one each */
  if (dt == IJ_BF16 && !rows) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    ij_dim from, to;
    share(Q * n, t, threads, &from, &to);
    float *row = rows ? rows + t * D : NULL;
    for (ij_dim r = from; r < to; r++) {
      scale_row(D, row_get(dt, x, r * D, D, row), b, s[r / n], row_out(dt, y, r * D, row));
      row_put(dt, y, r * D, D, row);
    }
  }
  return IJ_OK;
}

/* Ops on one element at a time, conversion and strided copies. */
#include "../ref.h"
#include <string.h>

ij_status ij_ref_affine(ij_queue *q, ij_dim n, float scale, float shift, const float *x, float *z) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) z[i] = (float)((double)scale * x[i] + shift);
  return IJ_OK;
}

ij_status ij_ref_axpy(ij_queue *q, ij_dim n, float scale, const float *x, float *y) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) y[i] = (float)((double)scale * x[i] + y[i]);
  return IJ_OK;
}

ij_status ij_ref_relu_fwd(ij_queue *q, ij_dim n, const float *x, float *y) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays */
  return IJ_OK;
}

ij_status ij_ref_relu_bwd(ij_queue *q, ij_dim n, const float *x, const float *dy, float *dx) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) dx[i] = x[i] > 0 ? dy[i] : 0;
  return IJ_OK;
}

ij_status ij_ref_fill(ij_queue *q, ij_dim n, float value, float *x) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) x[i] = value;
  return IJ_OK;
}

/* Through int64 between integers, through f32 else. What an integer type can't hold becomes its nearest value, NaN 0.
 */
static int64_t get_int(ij_dtype t, const void *x, ij_dim i) {
  if (t == IJ_I32) return ((const int32_t *)x)[i];
  if (t == IJ_I64) return ((const int64_t *)x)[i];
  if (t == IJ_U8) return ((const uint8_t *)x)[i];
  float f = ij_ref_get(t, x, i);
  return f != f ? 0 : f >= 0x1p63f ? INT64_MAX : f < -0x1p63f ? INT64_MIN : (int64_t)f;
}

ij_status ij_ref_convert(ij_queue *q, ij_dim n, ij_dtype from, const void *x, ij_dtype to, void *y) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) {
    if (to == IJ_F32 || to == IJ_BF16) {
      ij_ref_set(to, y, i, from == IJ_F32 || from == IJ_BF16 ? ij_ref_get(from, x, i) : (float)get_int(from, x, i));
      continue;
    }
    int64_t v = get_int(from, x, i);
    if (to == IJ_I64) ((int64_t *)y)[i] = v;
    else if (to == IJ_I32) ((int32_t *)y)[i] = (int32_t)(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v);
    else ((uint8_t *)y)[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
  }
  return IJ_OK;
}

ij_status ij_ref_copy(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const void *x, const ij_dim *xstride,
                      void *y, const ij_dim *ystride) {
  (void)q;
  ij_dim count = 1;
  for (int d = 0; d < nd; d++) count *= shape[d];
  for (ij_dim i = 0; i < count; i++) {
    ij_dim rest = i, from = 0, to = 0;
    for (int d = nd - 1; d >= 0; d--) {
      from += rest % shape[d] * xstride[d];
      to += rest % shape[d] * ystride[d];
      rest /= shape[d];
    }
    memcpy((char *)y + to * size, (const char *)x + from * size, (size_t)size);
  }
  return IJ_OK;
}

ij_status ij_ref_scale_rows(ij_queue *q, ij_dtype dt, ij_dim Q, ij_dim n, ij_dim D, const void *x, const float *b,
                            const float *s, void *y) {
  (void)q;
  for (ij_dim i = 0; i < Q * n * D; i++)
    ij_ref_set(dt, y, i, s[i / (n * D)] * ((double)ij_ref_get(dt, x, i) + (b ? b[i % D] : 0)));
  return IJ_OK;
}

/* Ops without a gradient: in place, from bytes, and sums over many tensors. */
#include "tensor.h"
#include <math.h>

ij_status ij_fill(ij_tensor *t, double value) {
  IJ_TRY(ij_want("fill", "tensor", t, IJ_F32));
  ij_device *dev = ij_device_of(t);
  ij_tensor_touched(t);
  return dev->ops.fill(&dev->queue, ij_tensor_count(t), (float)value, ij_f32_of(t));
}

ij_status ij_add_scaled(ij_tensor *y, ij_tensor *x, double scale) {
  IJ_TRY(ij_want("add_scaled", "y", y, IJ_F32));
  IJ_TRY(ij_want_shape("add_scaled", "x", x, IJ_F32, y->ndim, y->shape));
  ij_device *dev = ij_device_of(y);
  IJ_TRY(ij_want_device("add_scaled", "x", x, dev, "y"));
  ij_tensor_touched(y);
  return dev->ops.axpy(&dev->queue, ij_tensor_count(y), (float)scale, ij_f32_of(x), ij_f32_of(y));
}

ij_status ij_normalise(ij_tensor *pixels, const double *mean, const double *std, ij_tensor **out) {
  ij_op op = ij_begin("normalise", NULL, out);
  IJ_TRY(ij_in_shape(&op, "pixels", pixels, IJ_U8, 4, (int64_t[]){-1, -1, -1, 3}));
  const int64_t B = pixels->shape[0], H = pixels->shape[1], W = pixels->shape[2];
  float scale[6]; /* (3, 2): factor and summand per channel */
  for (int c = 0; c < 3; c++) {
    if (!(std[c] > 0)) return ij_fail(IJ_EINVAL, "normalise: std is %g, expected more than 0", std[c]);
    scale[2 * c] = (float)(1 / (255 * std[c]));
    scale[2 * c + 1] = (float)(-mean[c] / std[c]);
  }
  float *k = ij_save(&op, IJ_F32, 1, (int64_t[]){6}), *y = ij_out(&op, IJ_F32, 4, (int64_t[]){B, 3, H, W});
  if (ij_ready(&op)) op.status = ij_tensor_write(op.node.saved[0], scale, sizeof scale);
  if (op.status == IJ_OK) op.status = op.dev->ops.normalise(&op.dev->queue, B, H, W, ij_data_of(pixels), k, y);
  return ij_end(&op);
}

ij_status ij_sum_squares(ij_tensor **t, int count, double *sum, int *finite) {
  *sum = 0;
  *finite = 1;
  if (count < 1) return IJ_OK;
  for (int i = 0; i < count; i++) {
    IJ_TRY(ij_want("sum_squares", "tensor", t[i], IJ_F32));
    IJ_TRY(ij_want_device("sum_squares", "tensor", t[i], ij_device_of(t[0]), "tensor"));
  }
  ij_device *dev = ij_device_of(t[0]);
  double out[2] = {0, 0}; /* the sum; the count of values that are not finite */
  ij_tensor *acc;
  IJ_TRY(ij_tensor_make(dev, IJ_I64, 1, (int64_t[]){2}, false, &acc)); /* two doubles: eight bytes each */
  ij_status st = ij_tensor_write(acc, out, sizeof out);
  for (int i = 0; i < count && st == IJ_OK; i++)
    st = dev->ops.sum_squares(&dev->queue, ij_tensor_count(t[i]), ij_f32_of(t[i]), ij_data_of(acc));
  if (st == IJ_OK) st = ij_tensor_read(acc, out, sizeof out);
  ij_tensor_free(acc);
  *sum = isnan(out[0]) ? NAN : out[0]; /* the plain one: ij_plain_nans says why */
  *finite = out[1] == 0;
  return st;
}

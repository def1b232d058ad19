/* Ops without a gradient: in place, from bytes, and looks at many tensors at once. */
#include "tensor.h"

ij_status ij_fill(ij_tensor *t, double value) {
  IJ_TRY(ij_want("fill", "tensor", t, IJ_F32));
  ij_device *dev = t->storage->dev;
  ij_tensor_touched(t);
  return dev->ops.fill(&dev->queue, ij_tensor_count(t), (float)value, ij_f32_of(t));
}

ij_status ij_add_scaled(ij_tensor *y, ij_tensor *x, double scale) {
  IJ_TRY(ij_want("add_scaled", "y", y, IJ_F32));
  IJ_TRY(ij_want_shape("add_scaled", "x", x, IJ_F32, y->ndim, y->shape));
  ij_device *dev = y->storage->dev;
  ij_tensor_touched(y);
  return dev->ops.axpy(&dev->queue, ij_tensor_count(y), (float)scale, ij_f32_of(x), ij_f32_of(y));
}

ij_status ij_normalise(ij_tensor *pixels, const double *mean, const double *std, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_shape("normalise", "pixels", pixels, IJ_U8, 4, (int64_t[]){-1, -1, -1, 3}));
  ij_device *dev = pixels->storage->dev;
  const int64_t *s = pixels->shape;
  float scale6[6];
  for (int c = 0; c < 3; c++) {
    if (!(std[c] > 0)) return ij_fail(IJ_EINVAL, "normalise: std is %g, expected more than 0", std[c]);
    scale6[2 * c] = (float)(1 / (255 * std[c]));
    scale6[2 * c + 1] = (float)(-mean[c] / std[c]);
  }
  ij_tensor *k = ij_make1(dev, IJ_F32, 6), *y = ij_make(dev, IJ_F32, 4, (int64_t[]){s[0], 3, s[1], s[2]}, false);
  ij_status st = k && y ? ij_tensor_write(k, scale6, sizeof scale6) : IJ_ENOMEM;
  if (st == IJ_OK)
    st = dev->ops.normalise(&dev->queue, s[0], s[1], s[2], ij_data_of(pixels), ij_f32_of(k), ij_f32_of(y));
  ij_tensor_free(k);
  if (st != IJ_OK) ij_drop(&y);
  *out = y;
  return st;
}

ij_status ij_sum_squares(ij_tensor **t, int count, double *sum, int *finite) {
  *sum = 0;
  *finite = 1;
  if (count < 1) return IJ_OK;
  for (int i = 0; i < count; i++) IJ_TRY(ij_want("sum_squares", "tensor", t[i], IJ_F32));
  ij_device *dev = t[0]->storage->dev;
  double out[2] = {0, 0};
  ij_tensor *acc = ij_make1(dev, IJ_I64, 2); /* two doubles: eight bytes each */
  ij_status st = acc ? ij_tensor_write(acc, out, sizeof out) : IJ_ENOMEM;
  for (int i = 0; i < count && st == IJ_OK; i++)
    st = dev->ops.sum_squares(&dev->queue, ij_tensor_count(t[i]), ij_f32_of(t[i]), ij_data_of(acc));
  if (st == IJ_OK) st = ij_tensor_read(acc, out, sizeof out);
  ij_tensor_free(acc);
  *sum = out[0];
  *finite = out[1] == 0;
  return st;
}

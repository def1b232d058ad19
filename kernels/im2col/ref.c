/* The windows of a convolution as rows, and back. */
#include "../ref.h"

/* Where element i of all windows lies in x; false: on the border. */
static bool position(ij_dim i, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride, ij_dim pad,
                     ij_dim *from) {
  ij_dim oh = (H + 2 * pad - kh) / stride + 1, ow = (W + 2 * pad - kw) / stride + 1;
  ij_dim dx = i % kw, dy = i / kw % kh, c = i / (kw * kh) % C, window = i / (kw * kh * C);
  ij_dim column = window % ow * stride + dx - pad, row = window / ow % oh * stride + dy - pad, b = window / (ow * oh);
  *from = ((b * C + c) * H + row) * W + column;
  return row >= 0 && row < H && column >= 0 && column < W;
}
static ij_dim count(ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride, ij_dim pad) {
  return B * ((H + 2 * pad - kh) / stride + 1) * ((W + 2 * pad - kw) / stride + 1) * C * kh * kw;
}

ij_status ij_ref_im2col_fwd(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                            ij_dim pad, const float *x, float *y) {
  (void)q;
  ij_dim n = count(B, C, H, W, kh, kw, stride, pad), from;
  for (ij_dim i = 0; i < n; i++) y[i] = position(i, C, H, W, kh, kw, stride, pad, &from) ? x[from] : 0;
  return IJ_OK;
}

ij_status ij_ref_im2col_bwd(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                            ij_dim pad, const float *dy, float *dx) {
  double *sum = ij_ref_sums(q, 0, B * C * H * W);
  if (!sum) return IJ_ENOMEM;
  ij_dim n = count(B, C, H, W, kh, kw, stride, pad), to;
  for (ij_dim i = 0; i < n; i++)
    if (position(i, C, H, W, kh, kw, stride, pad, &to)) sum[to] += dy[i];
  for (ij_dim i = 0; i < B * C * H * W; i++) dx[i] = (float)sum[i];
  return IJ_OK;
}

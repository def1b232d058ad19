/* The windows of a convolution as rows, and back. */
#include "../cuda/rows.h"

namespace {
struct Windows {
  ij_dim C, H, W, kh, kw, stride, pad, oh, ow;
};
} // namespace
static Windows windows(ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride, ij_dim pad) {
  return {C, H, W, kh, kw, stride, pad, (H + 2 * pad - kh) / stride + 1, (W + 2 * pad - kw) / stride + 1};
}

static __global__ void to_columns(ij_dim n, Windows w, const float *x, float *y) {
  for (ij_dim i = ij_at(); i < n; i += ij_step()) {
    ij_dim dx = i % w.kw, dy = i / w.kw % w.kh, c = i / (w.kw * w.kh) % w.C, k = i / (w.kw * w.kh * w.C);
    ij_dim column = k % w.ow * w.stride + dx - w.pad, row = k / w.ow % w.oh * w.stride + dy - w.pad;
    bool inside = row >= 0 && row < w.H && column >= 0 && column < w.W;
    y[i] = inside ? x[((k / (w.ow * w.oh) * w.C + c) * w.H + row) * w.W + column] : 0;
  }
}
ij_status ij_cuda_im2col_fwd(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                             ij_dim pad, const float *x, float *y) {
  Windows w = windows(C, H, W, kh, kw, stride, pad);
  ij_dim n = B * w.oh * w.ow * C * kh * kw;
  if (n == 0) return IJ_OK;
  LAUNCH(to_columns, ij_fill_blocks(q, n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, w, x, y);
  return ij_cuda_launched("im2col_fwd");
}

/* Each element of dx adds up those windows that it lies in. */
static __global__ void from_columns(ij_dim n, Windows w, const float *dy, float *dx) {
  for (ij_dim i = ij_at(); i < n; i += ij_step()) {
    ij_dim column = i % w.W + w.pad, row = i / w.W % w.H + w.pad, c = i / (w.W * w.H) % w.C, b = i / (w.W * w.H * w.C);
    float sum = 0;
    for (ij_dim y = 0; y < w.kh; y++) {
      ij_dim down = row - y;
      if (down < 0 || down % w.stride || down / w.stride >= w.oh) continue;
      for (ij_dim x = 0; x < w.kw; x++) {
        ij_dim along = column - x;
        if (along < 0 || along % w.stride || along / w.stride >= w.ow) continue;
        ij_dim k = (b * w.oh + down / w.stride) * w.ow + along / w.stride;
        sum += dy[((k * w.C + c) * w.kh + y) * w.kw + x];
      }
    }
    dx[i] = sum;
  }
}
ij_status ij_cuda_im2col_bwd(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                             ij_dim pad, const float *dy, float *dx) {
  Windows w = windows(C, H, W, kh, kw, stride, pad);
  ij_dim n = B * C * H * W;
  if (n == 0) return IJ_OK;
  LAUNCH(from_columns, ij_fill_blocks(q, n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, w, dy, dx);
  return ij_cuda_launched("im2col_bwd");
}

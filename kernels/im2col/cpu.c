/* The windows of a convolution as rows, and back: a thread does whole images, or rows of windows of one. */
#include "../cpu/rows.h"

typedef struct windows {
  ij_dim C, H, W, kh, kw, stride, pad, oh, ow;
} windows;
static windows windows_of(ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride, ij_dim pad) {
  return (windows){C, H, W, kh, kw, stride, pad, (H + 2 * pad - kh) / stride + 1, (W + 2 * pad - kw) / stride + 1};
}
/* The part [*from, *to) of a window of `size` from `first` on that lies within n. */
static void inside(ij_dim first, ij_dim size, ij_dim n, ij_dim *from, ij_dim *to) {
  *from = first < 0 ? -first : 0;
  *to = first + size > n ? n - first : size;
  if (*from > size) *from = size;
  if (*to < *from) *to = *from;
}

ij_status IJ_CPU(im2col_fwd)(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                             ij_dim pad, const float *x, float *y) {
  (void)q;
  windows w = windows_of(C, H, W, kh, kw, stride, pad);
  ij_dim width = C * kh * kw;
#pragma omp parallel for schedule(static) if (B * w.oh * w.ow * width >= SMALL)
  for (ij_dim k = 0; k < B * w.oh; k++)
    for (ij_dim o = 0; o < w.ow; o++) {
      ij_dim row = k % w.oh * stride - pad, column = o * stride - pad, top, bottom, left, right;
      float *to = y + (k * w.ow + o) * width;
      inside(row, kh, H, &top, &bottom);
      inside(column, kw, W, &left, &right);
      memset(to, 0, (size_t)width * sizeof *to);
      for (ij_dim c = 0; c < C; c++)
        for (ij_dim i = top; i < bottom; i++) {
          const float *from = x + ((k / w.oh * C + c) * H + row + i) * W + column;
          for (ij_dim j = left; j < right; j++) to[(c * kh + i) * kw + j] = from[j];
        }
    }
  return IJ_OK;
}

ij_status IJ_CPU(im2col_bwd)(ij_queue *q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,
                             ij_dim pad, const float *dy, float *dx) {
  (void)q;
  windows w = windows_of(C, H, W, kh, kw, stride, pad);
  ij_dim width = C * kh * kw;
#pragma omp parallel for schedule(static) if (B * w.oh * w.ow * width >= SMALL)
  for (ij_dim b = 0; b < B; b++) {
    memset(dx + b * C * H * W, 0, (size_t)(C * H * W) * sizeof *dx);
    for (ij_dim k = 0; k < w.oh * w.ow; k++) {
      ij_dim row = k / w.ow * stride - pad, column = k % w.ow * stride - pad, top, bottom, left, right;
      const float *from = dy + (b * w.oh * w.ow + k) * width;
      inside(row, kh, H, &top, &bottom);
      inside(column, kw, W, &left, &right);
      for (ij_dim c = 0; c < C; c++)
        for (ij_dim i = top; i < bottom; i++) {
          float *to = dx + ((b * C + c) * H + row + i) * W + column;
          for (ij_dim j = left; j < right; j++) to[j] += from[(c * kh + i) * kw + j];
        }
    }
  }
  return IJ_OK;
}

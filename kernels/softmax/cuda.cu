/* Softmax over rows: a warp a row, or a block where rows are long. */
#include "../cuda/rows.h"

template <int W, int V> static __global__ void fwd(ij_dim R, ij_dim n, const float *x, float *y) {
  for (ij_dim r = ij_group_row<W>(); r < R; r += ij_group_step<W>()) {
    const float *row = x + r * n;
    float top = -INFINITY, sum = 0;
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> a = ij_load<V>(row, c * V);
      for (int j = 0; j < V; j++) top = fmaxf(top, a.v[j]);
    }
    top = ij_group_max<W>(top);
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> a = ij_load<V>(row, c * V);
      for (int j = 0; j < V; j++) sum += expf(a.v[j] - top);
    }
    sum = ij_group_sum<W>(sum);
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> a = ij_load<V>(row, c * V);
      for (int j = 0; j < V; j++) a.v[j] = expf(a.v[j] - top) / sum;
      ij_store<V>(y, r * n + c * V, a);
    }
  }
}

ij_status ij_cuda_softmax_fwd(ij_queue *q, ij_dim R, ij_dim n, const float *x, float *y) {
  if (R == 0) return IJ_OK;
  bool pack = ij_packs<4>(n, x, y), wide = ij_wide(n);
  auto softmax_fwd = wide ? (pack ? fwd<IJ_WARPS, 4> : fwd<IJ_WARPS, 1>) : (pack ? fwd<1, 4> : fwd<1, 1>);
  LAUNCH(softmax_fwd, ij_group_blocks(R, wide), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, x, y);
  return ij_cuda_launched("softmax_fwd");
}

template <int W, int V> static __global__ void bwd(ij_dim R, ij_dim n, const float *y, const float *dy, float *dx) {
  for (ij_dim r = ij_group_row<W>(); r < R; r += ij_group_step<W>()) {
    float mean = 0; /* of dy under y */
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> p = ij_load<V>(y, r * n + c * V), g = ij_load<V>(dy, r * n + c * V);
      for (int j = 0; j < V; j++) mean = fmaf(p.v[j], g.v[j], mean);
    }
    mean = ij_group_sum<W>(mean);
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> p = ij_load<V>(y, r * n + c * V), g = ij_load<V>(dy, r * n + c * V);
      for (int j = 0; j < V; j++) g.v[j] = p.v[j] * (g.v[j] - mean);
      ij_store<V>(dx, r * n + c * V, g);
    }
  }
}

ij_status ij_cuda_softmax_bwd(ij_queue *q, ij_dim R, ij_dim n, const float *y, const float *dy, float *dx) {
  if (R == 0) return IJ_OK;
  bool pack = ij_packs<4>(n, y, dy, dx), wide = ij_wide(n);
  auto softmax_bwd = wide ? (pack ? bwd<IJ_WARPS, 4> : bwd<IJ_WARPS, 1>) : (pack ? bwd<1, 4> : bwd<1, 1>);
  LAUNCH(softmax_bwd, ij_group_blocks(R, wide), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, y, dy, dx);
  return ij_cuda_launched("softmax_bwd");
}

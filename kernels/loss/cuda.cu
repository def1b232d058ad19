/* Smooth L1 and cross entropy. Sums are taken in f32 over a pack or a row, in double over these, in two stages. */
#include "../cuda/rows.h"

enum { PACK = 4 };

/* loss = sum of part (n) / count; 0 where count is */
static __global__ void finish_mean(ij_dim n, double count, const double *part, float *loss) {
  double sum = 0;
  for (ij_dim i = threadIdx.x; i < n; i += IJ_BLOCK) sum += part[i];
  sum = ij_block_sum(sum);
  if (threadIdx.x == 0) *loss = count > 0 ? (float)(sum / count) : 0;
}

template <int V>
static __global__ void smooth_l1_parts(ij_dim n, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                       const float *y, double *part) {
  float half_inverse = 0.5f / beta;
  double sum = 0;
  for (ij_dim p = ij_at(); p < n / V; p += ij_step()) {
    ij_dim i = p * V, partner = repeat == 1 ? i : i / (repeat * inner) * inner + i % inner;
    ij_pack<float, V> a = ij_load<V>(x, i), b = ij_load<V>(y, partner);
    float few = 0;
    for (int j = 0; j < V; j++) {
      float d = fabsf(a.v[j] - b.v[j]);
      few += d < beta ? d * d * half_inverse : d - 0.5f * beta;
    }
    sum += few;
  }
  sum = ij_block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

ij_status ij_cuda_smooth_l1_fwd(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                const float *y, float *loss) {
  if (repeat == 1) inner *= outer, outer = 1;
  ij_dim n = outer * repeat * inner;
  bool pack = ij_packs<PACK>(inner, x, y);
  unsigned blocks = n ? ij_blocks(n, (ij_dim)IJ_BLOCK * PACK, IJ_LOSS_PARTS) : 0;
  double *part = (double *)ij_cuda_scratch(q, 0, ij_smooth_l1_scratch()); /* (blocks) */
  if (!part) return IJ_ENOMEM;
  auto smooth_l1 = pack ? smooth_l1_parts<PACK> : smooth_l1_parts<1>;
  if (blocks) LAUNCH(smooth_l1, blocks, IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, repeat, inner, beta, x, y, part);
  LAUNCH(finish_mean, 1, IJ_BLOCK, 0, ij_cuda_of(q)->stream, (ij_dim)blocks, (double)n, part, loss);
  return ij_cuda_launched("smooth_l1_fwd");
}

/* A thread takes the elements of x that share one of y. */
template <int V>
static __global__ void smooth_l1_grad(ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                      const float *y, const float *scale, float *dx, float *dy) {
  float inverse = 1 / beta, share = (float)(*scale / (double)(outer * repeat * inner));
  for (ij_dim o = ij_row(); o < outer; o += ij_row_step())
    for (ij_dim c = ij_column(); c < inner / V; c += ij_column_step()) {
      ij_pack<float, V> b = ij_load<V>(y, o * inner + c * V), sum = {};
      for (ij_dim r = 0; r < repeat; r++) {
        ij_dim i = (o * repeat + r) * inner + c * V;
        ij_pack<float, V> a = ij_load<V>(x, i);
        for (int j = 0; j < V; j++) {
          float slope = (a.v[j] - b.v[j]) * inverse;
          slope = slope > 1 ? 1 : slope < -1 ? -1 : slope; /* NaN stays */
          a.v[j] = slope * share;
          sum.v[j] -= a.v[j];
        }
        ij_store<V>(dx, i, a);
      }
      if (dy) ij_store<V>(dy, o * inner + c * V, sum);
    }
}

ij_status ij_cuda_smooth_l1_bwd(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                                const float *y, const float *scale, float *dx, float *dy) {
  if (repeat == 1) inner *= outer, outer = 1;
  if (outer * inner == 0) return IJ_OK;
  bool pack = ij_packs<PACK>(inner, x, y, dx, dy);
  ij_grid g = ij_rows_grid(outer, pack ? inner / PACK : inner);
  auto smooth_l1_bwd = pack ? smooth_l1_grad<PACK> : smooth_l1_grad<1>;
  LAUNCH(smooth_l1_bwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, outer, repeat, inner, beta, x, y, scale, dx, dy);
  return ij_cuda_launched("smooth_l1_bwd");
}

/* ---- cross entropy: a warp a row, or a block where rows are long ---- */
/* Largest of x (n) and the sum of exp(x - it), for all of the group */
template <int W, int V> __device__ static void row_sums(ij_dim n, const float *x, float *top, float *sum) {
  float most = -INFINITY, s = 0;
  for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
    ij_pack<float, V> a = ij_load<V>(x, c * V);
    for (int j = 0; j < V; j++) most = fmaxf(most, a.v[j]);
  }
  most = ij_group_max<W>(most);
  for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
    ij_pack<float, V> a = ij_load<V>(x, c * V);
    for (int j = 0; j < V; j++) s += expf(a.v[j] - most);
  }
  *top = most;
  *sum = ij_group_sum<W>(s);
}

template <int W, int V>
static __global__ void row_losses(ij_dim R, ij_dim n, float s, const float *x, const int32_t *label, float *part) {
  for (ij_dim r = ij_group_row<W>(); r < R; r += ij_group_step<W>()) {
    const float *row = x + r * n;
    float top, sum, rest = 0; /* rest: sum of top - x, for the smoothed part of the target */
    if (label[r] < 0) continue;
    row_sums<W, V>(n, row, &top, &sum);
    if (s > 0) {
      for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
        ij_pack<float, V> a = ij_load<V>(row, c * V);
        for (int j = 0; j < V; j++) rest += top - a.v[j];
      }
      rest = ij_group_sum<W>(rest) * s / (float)n;
    }
    if (ij_group_lane<W>() == 0) part[r] = logf(sum) + (1 - s) * (top - row[label[r]]) + rest;
  }
}

static __global__ void finish_labelled(ij_dim R, const float *part, const int32_t *label, float *loss) {
  double sum = 0, count = 0;
  for (ij_dim r = threadIdx.x; r < R; r += IJ_BLOCK)
    if (label[r] >= 0) sum += part[r], count++;
  sum = ij_block_sum(sum);
  count = ij_block_sum(count);
  if (threadIdx.x == 0) *loss = count > 0 ? (float)(sum / count) : 0;
}

ij_status ij_cuda_cross_entropy_fwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                    float *loss) {
  float *part = (float *)ij_cuda_scratch(q, 0, ij_cross_entropy_scratch(R)); /* (R) */
  if (!part) return IJ_ENOMEM;
  bool pack = ij_packs<PACK>(n, x), wide = ij_wide(n);
  auto losses = wide ? (pack ? row_losses<IJ_WARPS, PACK> : row_losses<IJ_WARPS, 1>)
                     : (pack ? row_losses<1, PACK> : row_losses<1, 1>);
  if (R) LAUNCH(losses, ij_group_blocks(R, wide), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, s, x, label, part);
  LAUNCH(finish_labelled, 1, IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, part, label, loss);
  return ij_cuda_launched("cross_entropy_fwd");
}

/* The factor of a row's gradient: scale / rows with a label */
static __global__ void row_share(ij_dim R, const int32_t *label, const float *scale, float *share) {
  double count = 0;
  for (ij_dim r = threadIdx.x; r < R; r += IJ_BLOCK) count += label[r] >= 0;
  count = ij_block_sum(count);
  if (threadIdx.x == 0) *share = count > 0 ? (float)(*scale / count) : 0;
}

template <int W, int V>
static __global__ void row_grads(ij_dim R, ij_dim n, float s, const float *x, const int32_t *label, const float *share,
                                 float *dx) {
  float g = *share, even = s / (float)n;
  for (ij_dim r = ij_group_row<W>(); r < R; r += ij_group_step<W>()) {
    float top = 0, sum = 1;
    int at = label[r];
    if (at >= 0) row_sums<W, V>(n, x + r * n, &top, &sum);
    for (ij_dim c = ij_group_lane<W>(); c < n / V; c += 32 * W) {
      ij_pack<float, V> a = ij_load<V>(x, r * n + c * V);
      for (int j = 0; j < V; j++) {
        float target = even + (c * V + j == at ? 1 - s : 0);
        a.v[j] = at < 0 ? 0 : g * (expf(a.v[j] - top) / sum - target);
      }
      ij_store<V>(dx, r * n + c * V, a);
    }
  }
}

ij_status ij_cuda_cross_entropy_bwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                    const float *scale, float *dx) {
  if (R * n == 0) return IJ_OK;
  float *share = (float *)ij_cuda_scratch(q, 0, sizeof *share);
  if (!share) return IJ_ENOMEM;
  bool pack = ij_packs<PACK>(n, x, dx), wide = ij_wide(n);
  auto grads = wide ? (pack ? row_grads<IJ_WARPS, PACK> : row_grads<IJ_WARPS, 1>)
                    : (pack ? row_grads<1, PACK> : row_grads<1, 1>);
  LAUNCH(row_share, 1, IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, label, scale, share);
  LAUNCH(grads, ij_group_blocks(R, wide), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, s, x, label, share, dx);
  return ij_cuda_launched("cross_entropy_bwd");
}

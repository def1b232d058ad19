/* Bias, layer norm and rotation of queries and keys. A warp has a head of a token: it goes over its values twice for
 * the norm, from the caches, and once more to write; lane i has values i, i + 32, ... and those S / 2 further, the
 * other halves of its pairs, so that out may be the input. */
#include "../cuda/cuda.h"
#include "../cuda/rows.h"
#include "../cuda/stripes.h"

template <class T> struct heads { /* the arguments that all kernels share */
  ij_dim B, N, A, S, K, W;
  float eps;
  const T *qkv;
  const float *bias, *norm, *rope;
  const int32_t *pos;
};

/* A head of a token: its rows of the table of angles, NULL where it does not turn */
struct spot {
  const float *row, *column;
};
template <class T> __device__ static inline spot spot_of(const heads<T> &a, ij_dim r, ij_dim h) {
  ij_dim k = r % a.N - (a.N - a.K);
  if (!a.rope || k < 0 || h >= 2 * a.A) return {NULL, NULL};
  ij_dim p = a.pos ? a.pos[r / a.N * a.K + k] : k;
  return {a.rope + p / a.W * (a.S / 2), a.rope + p % a.W * (a.S / 2)};
}
/* Pair i of a head turns by its angle, or, back, by its opposite. */
__device__ static inline void rotate(const spot &s, ij_dim S, ij_dim i, bool back, float *u, float *v) {
  ij_dim quarter = S / 4;
  const float *t = i < quarter ? s.row : s.column;
  float c = t[i % quarter], d = t[quarter + i % quarter], a = *u, b = *v;
  if (back) d = -d;
  *u = a * c - b * d;
  *v = a * d + b * c;
}

/* Value i of head `at` with its bias */
template <class T> __device__ static inline float value(const heads<T> &a, ij_dim at, ij_dim h, ij_dim i) {
  return ij_get(a.qkv, at + i) + (a.bias ? a.bias[h * a.S + i] : 0);
}
/* Mean and 1 / standard deviation of a head, by a warp. Afterwards its lanes may write over the values. */
template <class T>
__device__ static inline void stats_of(const heads<T> &a, ij_dim at, ij_dim h, int lane, float *mean, float *rstd) {
  float sum = 0, squares = 0;
  for (ij_dim i = lane; i < a.S; i += 32) sum += value(a, at, h, i);
  *mean = ij_warp_sum(sum) / (float)a.S;
  for (ij_dim i = lane; i < a.S; i += 32) {
    float off = value(a, at, h, i) - *mean;
    squares += off * off;
  }
  *rstd = 1 / sqrtf(ij_warp_sum(squares) / (float)a.S + a.eps);
  __syncwarp(); /* a shuffle orders no accesses to memory */
}

template <class T> static __global__ void __launch_bounds__(IJ_BLOCK) fwd(const heads<T> a, T *out) {
  int lane = (int)threadIdx.x % 32;
  ij_dim half = a.S / 2, rows = a.B * a.N * 3 * a.A;
  for (ij_dim id = (ij_dim)blockIdx.x * IJ_WARPS + threadIdx.x / 32; id < rows; id += (ij_dim)gridDim.x * IJ_WARPS) {
    ij_dim r = id / (3 * a.A), h = id % (3 * a.A), at = id * a.S;
    const float *w = a.norm && h < 2 * a.A ? a.norm + h / a.A * 2 * a.S : NULL;
    spot s = spot_of(a, r, h);
    float mean = 0, rstd = 1;
    if (w) stats_of(a, at, h, lane, &mean, &rstd);
    for (ij_dim i = lane; i < a.S - half; i += 32) { /* an odd S has a last one alone */
      bool pair = i < half;
      float u = value(a, at, h, i), v = pair ? value(a, at, h, a.S - half + i) : 0;
      if (w) {
        u = (u - mean) * rstd * w[i] + w[a.S + i];
        if (pair) v = (v - mean) * rstd * w[a.S - half + i] + w[2 * a.S - half + i];
      }
      if (s.row) rotate(s, a.S, i, false, &u, &v);
      ij_set(out, at + i, u);
      if (pair) ij_set(out, at + a.S - half + i, v);
    }
  }
}

/* dqkv may be dout. */
template <class T> static __global__ void __launch_bounds__(IJ_BLOCK) bwd(const heads<T> a, const T *dout, T *dqkv) {
  int lane = (int)threadIdx.x % 32;
  ij_dim half = a.S / 2, rows = a.B * a.N * 3 * a.A;
  for (ij_dim id = (ij_dim)blockIdx.x * IJ_WARPS + threadIdx.x / 32; id < rows; id += (ij_dim)gridDim.x * IJ_WARPS) {
    ij_dim r = id / (3 * a.A), h = id % (3 * a.A), at = id * a.S;
    const float *w = a.norm && h < 2 * a.A ? a.norm + h / a.A * 2 * a.S : NULL;
    spot s = spot_of(a, r, h);
    float mean = 0, rstd = 1, sum = 0, along = 0;
    if (w) {
      stats_of(a, at, h, lane, &mean, &rstd);
      for (ij_dim i = lane; i < a.S - half; i += 32) {
        bool pair = i < half;
        float g = ij_get(dout, at + i), f = pair ? ij_get(dout, at + a.S - half + i) : 0;
        if (s.row) rotate(s, a.S, i, true, &g, &f);
        g *= w[i];
        sum += g;
        along += g * (value(a, at, h, i) - mean) * rstd;
        if (!pair) continue;
        f *= w[a.S - half + i];
        sum += f;
        along += f * (value(a, at, h, a.S - half + i) - mean) * rstd;
      }
      sum = ij_warp_sum(sum) / (float)a.S;
      along = ij_warp_sum(along) / (float)a.S;
    }
    for (ij_dim i = lane; i < a.S - half; i += 32) {
      bool pair = i < half;
      float g = ij_get(dout, at + i), f = pair ? ij_get(dout, at + a.S - half + i) : 0;
      if (s.row) rotate(s, a.S, i, true, &g, &f);
      if (w) {
        g = rstd * (g * w[i] - sum - (value(a, at, h, i) - mean) * rstd * along);
        if (pair) {
          float n = (value(a, at, h, a.S - half + i) - mean) * rstd;
          f = rstd * (f * w[a.S - half + i] - sum - n * along);
        }
      }
      ij_set(dqkv, at + i, g);
      if (pair) ij_set(dqkv, at + a.S - half + i, f);
    }
  }
}

/* stats (B * N, 2, A, 2): mean and 1 / standard deviation of queries and keys. Then part (blocks, 4, S): the sums of
 * the norms' gradients over each block's stripe of tokens, in their order, so they are the same in every run. */
template <class T> static __global__ void __launch_bounds__(IJ_BLOCK) norm_stats(const heads<T> a, float *stats) {
  int lane = (int)threadIdx.x % 32;
  ij_dim rows = a.B * a.N * 2 * a.A;
  for (ij_dim id = (ij_dim)blockIdx.x * IJ_WARPS + threadIdx.x / 32; id < rows; id += (ij_dim)gridDim.x * IJ_WARPS) {
    ij_dim r = id / (2 * a.A), h = id % (2 * a.A);
    float mean, rstd;
    stats_of(a, (r * 3 * a.A + h) * a.S, h, lane, &mean, &rstd);
    if (lane == 0) stats[2 * id] = mean, stats[2 * id + 1] = rstd;
  }
}
template <class T>
static __global__ void __launch_bounds__(IJ_BLOCK)
    norm_sums(const heads<T> a, const T *dout, const float *stats, float *part) {
  ij_dim half = a.S / 2, tokens = a.B * a.N, from = tokens * blockIdx.x / gridDim.x,
         to = tokens * (blockIdx.x + 1) / gridDim.x;
  float *mine = part + (ij_dim)blockIdx.x * 4 * a.S;
  /* a thread has a column of queries or of keys: value i of their heads */
  for (ij_dim c = threadIdx.x; c < 2 * a.S; c += IJ_BLOCK) {
    ij_dim which = c / a.S, i = c % a.S;
    float sum = 0, shift = 0;
    for (ij_dim r = from; r < to; r++) {
      spot s = spot_of(a, r, which * a.A);
      for (ij_dim h = which * a.A; h < (which + 1) * a.A; h++) {
        ij_dim at = (r * 3 * a.A + h) * a.S;
        float g = ij_get(dout, at + i);
        if (s.row) {
          bool first = i < half;
          float other = ij_get(dout, first ? at + i + half : at + i - half);
          if (first) rotate(s, a.S, i, true, &g, &other);
          else rotate(s, a.S, i - half, true, &other, &g);
        }
        const float *st = stats + (r * 2 * a.A + h) * 2;
        sum += g * (value(a, at, h, i) - st[0]) * st[1];
        shift += g;
      }
    }
    mine[which * 2 * a.S + i] = sum;
    mine[(which * 2 + 1) * a.S + i] = shift;
  }
}

template <class T> static ij_status fwd_of(ij_queue *q, const heads<T> &a, T *out) {
  LAUNCH(fwd<T>, ij_group_blocks(a.B * a.N * 3 * a.A, false), IJ_BLOCK, 0, ij_cuda_of(q)->stream, a, out);
  return ij_cuda_launched("heads_fwd");
}
extern "C" ij_status ij_cuda_heads_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K,
                                       ij_dim W, float eps, const void *qkv, const float *bias, const float *norm,
                                       const float *rope, const int32_t *pos, void *out) {
  typedef __nv_bfloat16 T;
  if (B * N * A * S == 0) return IJ_OK;
  if (dt == IJ_BF16) return fwd_of<T>(q, {B, N, A, S, K, W, eps, (const T *)qkv, bias, norm, rope, pos}, (T *)out);
  return fwd_of<float>(q, {B, N, A, S, K, W, eps, (const float *)qkv, bias, norm, rope, pos}, (float *)out);
}

template <class T>
static ij_status bwd_of(ij_queue *q, ij_dtype dt, const heads<T> &a, const T *dout, T *dqkv, float *dbias,
                        float *dnorm) {
  ij_cuda *c = ij_cuda_of(q);
  ij_dim R = a.B * a.N;
  if (a.norm && dnorm) { /* before dqkv overwrites dout */
    unsigned parts = (unsigned)ij_heads_parts(c->sms, R);
    float *stats = (float *)ij_cuda_scratch(q, 1, ij_heads_stats_scratch(R, a.A));
    float *part = (float *)ij_cuda_scratch(q, 2, ij_heads_sums_scratch(c->sms, R, a.S));
    if (!stats || !part) return IJ_ENOMEM;
    LAUNCH(norm_stats<T>, ij_group_blocks(R * 2 * a.A, false), IJ_BLOCK, 0, c->stream, a, stats);
    LAUNCH(norm_sums<T>, parts, IJ_BLOCK, 0, c->stream, a, dout, stats, part);
    ij_cuda_rows_add(q, parts, 4 * a.S, part, dnorm);
  }
  LAUNCH(bwd<T>, ij_group_blocks(R * 3 * a.A, false), IJ_BLOCK, 0, c->stream, a, dout, dqkv);
  IJ_TRY(ij_cuda_launched("heads_bwd"));
  return dbias ? ij_cuda_column_sum(q, 0, dt, R, 3 * a.A * a.S, dqkv, dbias) : IJ_OK;
}
extern "C" ij_status ij_cuda_heads_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K,
                                       ij_dim W, float eps, const void *qkv, const float *bias, const float *norm,
                                       const float *rope, const int32_t *pos, const void *dout, void *dqkv,
                                       float *dbias, float *dnorm) {
  typedef __nv_bfloat16 T;
  if (B * N * A * S == 0) return IJ_OK;
  if (dt == IJ_BF16)
    return bwd_of<T>(q, dt, {B, N, A, S, K, W, eps, (const T *)qkv, bias, norm, rope, pos}, (const T *)dout, (T *)dqkv,
                     dbias, dnorm);
  return bwd_of<float>(q, dt, {B, N, A, S, K, W, eps, (const float *)qkv, bias, norm, rope, pos}, (const float *)dout,
                       (float *)dqkv, dbias, dnorm);
}

/* Attention in f32 proper, without tensor cores (their TF32 keeps 10 bits): tiles as in cuda_mma.h, thread (ty, tx)
 * of 16 x 16 has rows ty + 16 i and columns tx + 16 j of every product. A row's probabilities are written and read by
 * one half of a warp. Rows of tiles are 4 numbers longer than W: 16-byte loads down a column meet different banks. */
#ifndef IJ_ATTENTION_SIMT_H
#define IJ_ATTENTION_SIMT_H
#include "cuda_tile.h"

enum { SIDE = 16, SIMT_THREADS = SIDE * SIDE };

/* Tiles of own rows (queries, or keys for their gradients), of the others', and of probabilities or the like */
template <int W, int OWNS = 2, int PS = 2> struct simt_shared {
  enum {
    STEP = W + 4,
    OWN = W > IJ_ATTENTION_F32_WIDE ? IJ_ATTENTION_F32_WIDE_ROWS : IJ_ATTENTION_ROWS,
    OTHER = 32,
    P_STEP = OTHER + 4,
    I = OWN / SIDE,
    J = OTHER / SIDE
  };
  float own[OWNS][OWN * STEP], other[2][OTHER * STEP], p[PS][OWN * P_STEP], stat[2][OTHER];
};

/* c[i][j] = row ty + 16 i of a times row tx + 16 j of b, W long */
template <int W, int I, int J>
__device__ __forceinline__ void simt_times_rows(float (&c)[I][J], const float *a, const float *b) {
  constexpr int STEP = W + 4;
  a += threadIdx.x / SIDE * STEP;
  b += threadIdx.x % SIDE * STEP;
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) c[i][j] = 0;
#pragma unroll 1
  for (int s = 0; s < W; s += 4) {
    float4 x[I], y[J];
#pragma unroll
    for (int i = 0; i < I; i++) x[i] = *reinterpret_cast<const float4 *>(a + SIDE * i * STEP + s);
#pragma unroll
    for (int j = 0; j < J; j++) y[j] = *reinterpret_cast<const float4 *>(b + SIDE * j * STEP + s);
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
      for (int j = 0; j < J; j++) {
        c[i][j] = fmaf(x[i].x, y[j].x, c[i][j]);
        c[i][j] = fmaf(x[i].y, y[j].y, c[i][j]);
        c[i][j] = fmaf(x[i].z, y[j].z, c[i][j]);
        c[i][j] = fmaf(x[i].w, y[j].w, c[i][j]);
      }
  }
}

/* c[i][j] += row ty + 16 i of p (rows, OTHER) times column tx + 16 j of b (OTHER, W) */
template <int W, int I>
__device__ __forceinline__ void simt_times_columns(float (&c)[I][W / SIDE], const float *p, const float *b) {
  typedef simt_shared<W> shared;
  p += threadIdx.x / SIDE * shared::P_STEP;
  b += threadIdx.x % SIDE;
#pragma unroll 1
  for (int k = 0; k < shared::OTHER; k += 4) {
    float4 x[I];
#pragma unroll
    for (int i = 0; i < I; i++) x[i] = *reinterpret_cast<const float4 *>(p + SIDE * i * shared::P_STEP + k);
#pragma unroll
    for (int j = 0; j < W / SIDE; j++) {
      const float *y = b + k * shared::STEP + SIDE * j;
#pragma unroll
      for (int i = 0; i < I; i++) {
        c[i][j] = fmaf(x[i].x, y[0], c[i][j]);
        c[i][j] = fmaf(x[i].y, y[shared::STEP], c[i][j]);
        c[i][j] = fmaf(x[i].z, y[2 * shared::STEP], c[i][j]);
        c[i][j] = fmaf(x[i].w, y[3 * shared::STEP], c[i][j]);
      }
    }
  }
}

/* The thread's part of a tile of p */
template <int W, int I, int J> __device__ __forceinline__ void p_store(float *p, const float (&c)[I][J]) {
  p += threadIdx.x / SIDE * simt_shared<W>::P_STEP + threadIdx.x % SIDE;
#pragma unroll
  for (int i = 0; i < I; i++)
#pragma unroll
    for (int j = 0; j < J; j++) p[SIDE * i * simt_shared<W>::P_STEP + SIDE * j] = c[i][j];
}

/* c times a number a row, plus bias times another -> rows of x from `first` on */
template <int W, int I>
__device__ __forceinline__ void simt_store(const float (&c)[I][W / SIDE], const float (&scale)[I], const float *bias,
                                           const float (&weight)[I], rows<float> x, int first, const heads &h) {
#pragma unroll
  for (int i = 0; i < I; i++) {
    int r = first + (int)threadIdx.x / SIDE + SIDE * i;
#pragma unroll
    for (int j = 0; j < W / SIDE; j++) {
      int s = threadIdx.x % SIDE + SIDE * j;
      if (r < h.N && s < h.S) x[r][s] = c[i][j] * scale[i] + weight[i] * bias_at(bias, s);
    }
  }
}

__device__ __forceinline__ float half_warp_sum(float v) {
  for (int d = SIDE / 2; d; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
__device__ __forceinline__ float half_warp_max(float v) {
  for (int d = SIDE / 2; d; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}

/* A block a tile of queries. */
template <int W>
__global__ void __launch_bounds__(SIMT_THREADS, 2)
    simt_fwd(heads h, const float *qkv, const float *bias, float *out, float *lse) {
  typedef simt_shared<W, 1, 1> shared;
  constexpr int STEP = shared::STEP, KEYS = shared::OTHER, I = shared::I, J = shared::J;
  SHARED_DYN(shared, sh);
  place at = place_of(h, h.first, shared::OWN);
  rows<const float> ks = part_of(h, qkv, at.b, 1, at.a), vs = part_of(h, qkv, at.b, 2, at.a);
  int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
  float scale = h.scale2, o[I][W / SIDE] = {}, top[I], sum[I];
  query_load<shared::OWN, W, STEP>(sh->own[0], part_of(h, qkv, at.b, 0, at.a), at.row, h.N, h.S, h.wide,
                                   bias_of(h, bias, 0, at.a));
#pragma unroll
  for (int i = 0; i < I; i++) {
    top[i] = -INFINITY;
    sum[i] = 0;
  }
  for (int key = 0; key < h.N; key += KEYS) {
    __syncthreads();
    tile_load<KEYS, W, STEP>(sh->other[0], ks, key, h.N, h.S, h.wide);
    tile_load<KEYS, W, STEP>(sh->other[1], vs, key, h.N, h.S, h.wide);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    float s[I][J];
    simt_times_rows<W>(s, sh->own[0], sh->other[0]);
#pragma unroll
    for (int i = 0; i < I; i++) {
      float most = top[i];
#pragma unroll
      for (int j = 0; j < J; j++) {
        if (key + tx + SIDE * j >= h.N) s[i][j] = -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = half_warp_max(most);
      float shrink = exp2f((top[i] - most) * scale);
      sum[i] *= shrink;
      top[i] = most;
#pragma unroll
      for (int j = 0; j < J; j++) sum[i] += s[i][j] = exp2f((s[i][j] - most) * scale);
#pragma unroll
      for (int j = 0; j < W / SIDE; j++) o[i][j] *= shrink;
    }
    p_store<W>(sh->p[0], s);
    __syncwarp();
    simt_times_columns<W>(o, sh->p[0], sh->other[1]);
    __syncwarp();
  }
  const float *kb = bias_of(h, bias, 1, at.a);
  float ones[I];
#pragma unroll
  for (int i = 0; i < I; i++) {
    float shift = 0;
    int r = ty + SIDE * i;
    for (int s = tx; kb && s < h.S; s += SIDE) shift += sh->own[0][r * STEP + s] * kb[s];
    shift = half_warp_sum(shift);
    sum[i] = half_warp_sum(sum[i]);
    if (lse && tx == 0 && at.row + r < h.N)
      lse[(at.b * h.A + at.a) * h.N + at.row + r] = (top[i] + shift) * h.scale + logf(sum[i]);
    sum[i] = 1 / sum[i];
    ones[i] = 1;
  }
  simt_store<W>(o, sum, bias_of(h, bias, 2, at.a), ones, out_of(h, out, at.b, at.a), at.row, h);
}

/* As column_sums of cuda_mma.h */
template <int W, int I>
__device__ __forceinline__ void simt_column_sums(const heads &h, const float (&dq)[I][W / SIDE], simt_shared<W> *sh,
                                                 float *to) {
  typedef simt_shared<W> shared;
  float *sum = reinterpret_cast<float *>(sh->p); /* (SIDE, W) */
  __syncthreads();
#pragma unroll
  for (int j = 0; j < W / SIDE; j++) {
    float v = 0;
#pragma unroll
    for (int i = 0; i < I; i++) v += dq[i][j];
    sum[threadIdx.x / SIDE * W + threadIdx.x % SIDE + SIDE * j] = v;
  }
  __syncthreads();
  for (int s = threadIdx.x; s < h.S; s += SIMT_THREADS) {
    float v = 0, g = 0;
    for (int y = 0; y < SIDE; y++) v += sum[y * W + s];
    for (int r = 0; r < shared::OWN; r++) g += sh->own[1][r * shared::STEP + s];
    to[s] = v * h.grad_scale;
    to[h.A * h.S + s] = g;
  }
}

/* dq, a block a tile of queries */
template <int W> __global__ void __launch_bounds__(SIMT_THREADS, 1) simt_bwd_q(backward<float> k) {
  typedef simt_shared<W> shared;
  constexpr int STEP = shared::STEP, KEYS = shared::OTHER, OWN = shared::OWN, I = shared::I, J = shared::J;
  SHARED_DYN(shared, sh);
  const heads &h = k.h;
  place at = place_of(h, h.first, OWN);
  rows<const float> ks = part_of(h, k.qkv, at.b, 1, at.a), vs = part_of(h, k.qkv, at.b, 2, at.a);
  rows<const float> qs = own_of<const float>(h, k.queries, at.b, at.a), gs = out_of(h, k.dout, at.b, at.a);
  float dq[I][W / SIDE] = {}, x[I], d[I], scales[I], scale = h.scale2;
  tile_load<OWN, W, STEP>(sh->own[0], qs, at.row, h.N, h.S, h.wide);
  tile_load<OWN, W, STEP>(sh->own[1], gs, at.row, h.N, h.S, h.wide);
  __pipeline_commit();
#pragma unroll
  for (int i = 0; i < I; i++) {
    int r = at.row + threadIdx.x / SIDE + SIDE * i;
    x[i] = stat_at(h, at, k.exponent, r, INFINITY);
    d[i] = stat_at(h, at, k.delta, r, 0);
    scales[i] = h.grad_scale;
  }
  for (int key = 0; key < h.N; key += KEYS) {
    __syncthreads();
    tile_load<KEYS, W, STEP>(sh->other[0], ks, key, h.N, h.S, h.wide);
    tile_load<KEYS, W, STEP>(sh->other[1], vs, key, h.N, h.S, h.wide);
    __pipeline_commit();
    stat_load(sh->stat[0], h, at, k.shift, key, -INFINITY);
    __pipeline_wait_prior(0);
    __syncthreads();
    float s[I][J], dp[I][J];
    simt_times_rows<W>(s, sh->own[0], sh->other[0]);
    simt_times_rows<W>(dp, sh->own[1], sh->other[1]);
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
      for (int j = 0; j < J; j++) {
        float shift = sh->stat[0][threadIdx.x % SIDE + SIDE * j];
        s[i][j] = exp2f(s[i][j] * scale + (shift - x[i])) * (dp[i][j] - d[i]);
      }
    p_store<W>(sh->p[0], s);
    __syncwarp();
    simt_times_columns<W>(dq, sh->p[0], sh->other[0]);
    __syncwarp();
  }
  if (k.sums) simt_column_sums<W>(h, dq, sh, sums_of(h, k.sums, at, OWN));
  simt_store<W>(dq, scales, nullptr, scales, part_of(h, k.dqkv, at.b, 0, at.a), at.row, h);
}

/* dk and dv, a block a tile of keys, whose rows nobody else reads: dqkv may be qkv. Rows of logits are keys. */
template <int W> __global__ void __launch_bounds__(SIMT_THREADS, 1) simt_bwd_kv(backward<float> k) {
  typedef simt_shared<W> shared;
  constexpr int STEP = shared::STEP, QUERIES = shared::OTHER, OWN = shared::OWN, I = shared::I, J = shared::J;
  SHARED_DYN(shared, sh);
  const heads &h = k.h;
  place at = place_of(h, 0, OWN);
  rows<const float> qs = own_of<const float>(h, k.queries, at.b, at.a), gs = out_of(h, k.dout, at.b, at.a);
  float dk[I][W / SIDE] = {}, dv[I][W / SIDE] = {}, weight[I] = {}, shift[I], scale = h.scale2;
  tile_load<OWN, W, STEP>(sh->own[0], part_of(h, k.qkv, at.b, 1, at.a), at.row, h.N, h.S, h.wide);
  tile_load<OWN, W, STEP>(sh->own[1], part_of(h, k.qkv, at.b, 2, at.a), at.row, h.N, h.S, h.wide);
  __pipeline_commit();
#pragma unroll
  for (int i = 0; i < I; i++) shift[i] = stat_at(h, at, k.shift, at.row + threadIdx.x / SIDE + SIDE * i, 0);
  for (int query = h.first; query < h.N; query += QUERIES) {
    __syncthreads();
    tile_load<QUERIES, W, STEP>(sh->other[0], qs, query, h.N, h.S, h.wide);
    tile_load<QUERIES, W, STEP>(sh->other[1], gs, query, h.N, h.S, h.wide);
    __pipeline_commit();
    stat_load(sh->stat[0], h, at, k.exponent, query, INFINITY);
    stat_load(sh->stat[1], h, at, k.delta, query, 0);
    __pipeline_wait_prior(0);
    __syncthreads();
    float s[I][J], dp[I][J];
    simt_times_rows<W>(s, sh->own[0], sh->other[0]);
    simt_times_rows<W>(dp, sh->own[1], sh->other[1]);
#pragma unroll
    for (int i = 0; i < I; i++)
#pragma unroll
      for (int j = 0; j < J; j++) {
        int q = threadIdx.x % SIDE + SIDE * j;
        s[i][j] = exp2f(s[i][j] * scale + (shift[i] - sh->stat[0][q]));
        dp[i][j] = s[i][j] * (dp[i][j] - sh->stat[1][q]);
        weight[i] += dp[i][j];
      }
    p_store<W>(sh->p[0], s);
    p_store<W>(sh->p[1], dp);
    __syncwarp();
    simt_times_columns<W>(dv, sh->p[0], sh->other[1]);
    simt_times_columns<W>(dk, sh->p[1], sh->other[0]);
    __syncwarp();
  }
  float scales[I], ones[I];
#pragma unroll
  for (int i = 0; i < I; i++) {
    weight[i] = half_warp_sum(weight[i]) * h.grad_scale;
    scales[i] = h.grad_scale;
    ones[i] = 1;
  }
  const float *bias = bias_of(h, k.bias, 0, at.a);
  simt_store<W>(dk, scales, bias, weight, part_of(h, k.dqkv, at.b, 1, at.a), at.row, h);
  simt_store<W>(dv, ones, nullptr, ones, part_of(h, k.dqkv, at.b, 2, at.a), at.row, h);
}
#endif

/* Attention in bf16 on tensor cores: logits, probabilities and results live in the registers of mma's fragments. WARPS
 * warps a block; a warp owns 16 M rows (queries, or keys for their gradients) and meets tiles of the other side, which
 * are copied into one half of shared memory while it works on the other. Widths S are padded to W by zeros. Rows of
 * tiles are 16 bytes longer than W, an odd number of them, so that the 8 rows of a matrix lie in different banks.
 *
 * In a fragment c[m][n][e] of lane l, row is 16 m + l / 4 + 8 (e / 2), column 8 n + 2 (l % 4) + e % 2. */
#ifndef IJ_ATTENTION_MMA_H
#define IJ_ATTENTION_MMA_H
#include "cuda_tile.h"

enum { WARPS = 4, THREADS = 32 * WARPS };
/* Blocks that fit the registers of an SM: 168 per thread, or 255. As many fit its shared memory at
 * the usual widths: 228 KiB on sm_90 and sm_100. */
enum { MORE_BLOCKS = 3, FEW_BLOCKS = 2 };

/* c (16 M, COLS) = a (16 M, W) times b (COLS, W) transposed */
template <int M, int COLS, int W>
__device__ __forceinline__ void times_rows(float (&c)[M][COLS / 8][4], const bf16 *a, const bf16 *b) {
  constexpr int STEP = W + 8;
  int lane = threadIdx.x & 31;
  a += (lane & 15) * STEP + (lane >> 4) * 8;
  b += ((lane & 7) + (lane >> 4) * 8) * STEP + (lane >> 3 & 1) * 8;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < COLS / 8; n++) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
#pragma unroll
  for (int k = 0; k < W; k += 16) {
    unsigned x[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) ij_ldmatrix_x4(x[m], a + m * 16 * STEP + k);
#pragma unroll
    for (int n = 0; n < COLS / 8; n += 2) {
      unsigned y[4];
      ij_ldmatrix_x4(y, b + n * 8 * STEP + k);
#pragma unroll
      for (int m = 0; m < M; m++) {
        ij_mma_bf16(c[m][n], x[m], y[0], y[1]);
        ij_mma_bf16(c[m][n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

__device__ __forceinline__ unsigned pair(float low, float high) {
  __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
  unsigned u;
  memcpy(&u, &h, sizeof u);
  return u;
}

/* c (16 M, W) += p (16 M, ROWS), rounded, times b (ROWS, W) */
template <int M, int ROWS, int W>
__device__ __forceinline__ void times_columns(float (&c)[M][W / 8][4], const float (&p)[M][ROWS / 8][4],
                                              const bf16 *b) {
  constexpr int STEP = W + 8;
  int lane = threadIdx.x & 31;
  b += (lane & 15) * STEP + (lane >> 4) * 8;
#pragma unroll
  for (int k = 0; k < ROWS / 16; k++) {
    unsigned x[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *v = &p[m][2 * k + i / 2][i % 2 * 2];
        x[m][i] = pair(v[0], v[1]);
      }
#pragma unroll
    for (int n = 0; n < W / 8; n += 2) {
      unsigned y[4];
      ij_ldmatrix_x4_trans(y, b + k * 16 * STEP + n * 8);
#pragma unroll
      for (int m = 0; m < M; m++) {
        ij_mma_bf16(c[m][n], x[m], y[0], y[1]);
        ij_mma_bf16(c[m][n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

/* c (16 M, W) times a number a row, plus bias times another -> rows of x, by way of the warp's own rows of a tile */
template <int M, int W>
__device__ __forceinline__ void fragment_store(const float (&c)[M][W / 8][4], const float (&scale)[M][2],
                                               const float *bias, const float (&weight)[M][2], bf16 *tile, rows<bf16> x,
                                               int first, const heads &h) {
  constexpr int STEP = W + 8;
  int lane = threadIdx.x & 31;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < W / 8; n++) {
    int s = n * 8 + lane % 4 * 2;
    float b0 = s < h.S ? bias_at(bias, s) : 0, b1 = s + 1 < h.S ? bias_at(bias, s + 1) : 0;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float v0 = c[m][n][2 * e] * scale[m][e] + b0 * weight[m][e];
        float v1 = c[m][n][2 * e + 1] * scale[m][e] + b1 * weight[m][e];
        bf16 *to = tile + (m * 16 + lane / 4 + 8 * e) * STEP + s;
        *reinterpret_cast<__nv_bfloat162 *>(to) = __floats2bfloat162_rn(v0, v1);
      }
  }
  __syncwarp();
  for (int i = lane; i < 16 * M * W / 8; i += 32) {
    int r = i / (W / 8), s = i % (W / 8) * 8;
    if (first + r >= h.N || s >= h.S) continue;
    chunk<bf16> v = *reinterpret_cast<const chunk<bf16> *>(tile + r * STEP + s);
    bf16 *to = x[first + r] + s;
    if (h.wide) *reinterpret_cast<chunk<bf16> *>(to) = v;
    else
      for (int e = 0; e < 8; e++)
        if (s + e < h.S) to[e] = v.v[e];
  }
}

template <int W, int M> struct mma_fwd_shared {
  enum { STEP = W + 8, OWN = 16 * M * WARPS, KEYS = 64 };
  bf16 q[OWN * STEP], k[2][KEYS * STEP], v[2][KEYS * STEP];
};

/* One tile of keys more: logits s (16 M, COLS) become exponentials, and what was summed up is brought down to the new
 * maximum. Sums are a lane's own until the end. */
template <int M, int COLS, int W>
__device__ __forceinline__ void softmax_step(float (&s)[M][COLS / 8][4], float (&o)[M][W / 8][4], float (&top)[M][2],
                                             float (&sum)[M][2], float scale) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float most = top[m][e], part = 0;
#pragma unroll
      for (int n = 0; n < COLS / 8; n++) most = fmaxf(most, fmaxf(s[m][n][2 * e], s[m][n][2 * e + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
      float shrink = exp2f((top[m][e] - most) * scale);
#pragma unroll
      for (int n = 0; n < COLS / 8; n++)
#pragma unroll
        for (int i = 2 * e; i < 2 * e + 2; i++) {
          s[m][n][i] = exp2f(s[m][n][i] * scale - most * scale);
          part += s[m][n][i];
        }
#pragma unroll
      for (int n = 0; n < W / 8; n++) {
        o[m][n][2 * e] *= shrink;
        o[m][n][2 * e + 1] *= shrink;
      }
      sum[m][e] = sum[m][e] * shrink + part;
      top[m][e] = most;
    }
}

/* Columns that are no keys get no weight. */
template <int M, int COLS> __device__ __forceinline__ void mask_columns(float (&s)[M][COLS / 8][4], int count) {
  int t = threadIdx.x % 4 * 2;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < COLS / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (n * 8 + t + i % 2 >= count) s[m][n][i] = -INFINITY;
}

/* A block a tile of queries. */
template <int W, int M>
__global__ void __launch_bounds__(THREADS, M == 1 && W < 128 ? MORE_BLOCKS : FEW_BLOCKS)
    mma_fwd(heads h, const bf16 *qkv, const float *bias, bf16 *out, float *lse) {
  typedef mma_fwd_shared<W, M> shared;
  constexpr int STEP = shared::STEP, KEYS = shared::KEYS;
  SHARED_DYN(shared, sh);
  place at = place_of(h, h.first, shared::OWN);
  rows<const bf16> ks = part_of(h, qkv, at.b, 1, at.a), vs = part_of(h, qkv, at.b, 2, at.a);
  int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 * M, tiles = (h.N + KEYS - 1) / KEYS;
  tile_load<KEYS, W, STEP>(sh->k[0], ks, 0, h.N, h.S, h.wide);
  tile_load<KEYS, W, STEP>(sh->v[0], vs, 0, h.N, h.S, h.wide);
  __pipeline_commit();
  query_load<shared::OWN, W, STEP>(sh->q, part_of(h, qkv, at.b, 0, at.a), at.row, h.N, h.S, h.wide,
                                   bias_of(h, bias, 0, at.a));
  bf16 *q = sh->q + own * STEP;
  float o[M][W / 8][4] = {}, top[M][2], sum[M][2];
#pragma unroll
  for (int m = 0; m < M; m++) {
    top[m][0] = top[m][1] = -INFINITY;
    sum[m][0] = sum[m][1] = 0;
  }
  for (int j = 0; j < tiles; j++) {
    __pipeline_wait_prior(0);
    __syncthreads();
    if (j + 1 < tiles) { /* into what tile j - 1 has left */
      tile_load<KEYS, W, STEP>(sh->k[(j + 1) & 1], ks, (j + 1) * KEYS, h.N, h.S, h.wide);
      tile_load<KEYS, W, STEP>(sh->v[(j + 1) & 1], vs, (j + 1) * KEYS, h.N, h.S, h.wide);
    }
    __pipeline_commit();
    float s[M][KEYS / 8][4];
    times_rows<M, KEYS, W>(s, q, sh->k[j & 1]);
    if ((j + 1) * KEYS > h.N) mask_columns<M, KEYS>(s, h.N - j * KEYS);
    softmax_step<M, KEYS, W>(s, o, top, sum, h.scale2);
    times_columns<M, KEYS, W>(o, s, sh->v[j & 1]);
  }
  const float *kb = bias_of(h, bias, 1, at.a);
  float ones[M][2];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int r = m * 16 + lane / 4 + 8 * e;
      float shift = 0, total = sum[m][e];
      for (int s = lane % 4; kb && s < h.S; s += 4) shift += ij_get(q, r * STEP + s) * kb[s];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      shift += __shfl_xor_sync(0xffffffffu, shift, 1);
      shift += __shfl_xor_sync(0xffffffffu, shift, 2);
      sum[m][e] = 1 / total;
      ones[m][e] = 1;
      if (lse && lane % 4 == 0 && at.row + own + r < h.N)
        lse[(at.b * h.A + at.a) * h.N + at.row + own + r] = (top[m][e] + shift) * h.scale + logf(total);
    }
  fragment_store<M, W>(o, sum, bias_of(h, bias, 2, at.a), ones, q, out_of(h, out, at.b, at.a), at.row + own, h);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */
/* For the gradients of queries (own: queries, other: keys) and of keys and values (the other way round). Narrow tiles
 * where wide ones would take the registers and the shared memory of a third block. */
template <int W> struct mma_bwd_shared {
  enum { STEP = W + 8, OWN = 16 * WARPS, OTHER = W > 64 ? 32 : 64 };
  bf16 own[2][OWN * STEP], other[2][2][OTHER * STEP]; /* own: q, dout or k, v; other: [half], k, v or q, dout */
  float stat[2][2][OTHER];                            /* [half], shift, or exponent and delta of others */
  float sum[WARPS][W];                                /* of columns, a warp's */
};

/* The sums of dq's columns and, over the tile g, of dout's -> to (2, A, S) */
template <int W>
__device__ __forceinline__ void column_sums(const heads &h, const float (&dq)[1][W / 8][4], mma_bwd_shared<W> *sh,
                                            float *to) {
  typedef mma_bwd_shared<W> shared;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int n = 0; n < W / 8; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float v = dq[0][n][e] + dq[0][n][e + 2];
      for (int d = 4; d < 32; d *= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
      if (lane < 4) sh->sum[warp][n * 8 + lane * 2 + e] = v;
    }
  __syncthreads();
  for (int s = threadIdx.x; s < h.S; s += THREADS) {
    float v = 0, g = 0;
    for (int w = 0; w < WARPS; w++) v += sh->sum[w][s];
    for (int r = 0; r < shared::OWN; r++) g += ij_get(sh->own[1], r * shared::STEP + s);
    to[s] = v * h.grad_scale;
    to[h.A * h.S + s] = g;
  }
}

/* dq, a block a tile of queries */
template <int W>
__global__ void __launch_bounds__(THREADS, W < 128 ? MORE_BLOCKS : FEW_BLOCKS) mma_bwd_q(backward<bf16> k) {
  typedef mma_bwd_shared<W> shared;
  constexpr int STEP = shared::STEP, KEYS = shared::OTHER, OWN = shared::OWN;
  SHARED_DYN(shared, sh);
  const heads &h = k.h;
  place at = place_of(h, h.first, OWN);
  rows<const bf16> ks = part_of(h, k.qkv, at.b, 1, at.a), vs = part_of(h, k.qkv, at.b, 2, at.a);
  rows<const bf16> qs = own_of<const bf16>(h, k.queries, at.b, at.a), gs = out_of(h, k.dout, at.b, at.a);
  int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, tiles = (h.N + KEYS - 1) / KEYS;
  tile_load<OWN, W, STEP>(sh->own[0], qs, at.row, h.N, h.S, h.wide);
  tile_load<OWN, W, STEP>(sh->own[1], gs, at.row, h.N, h.S, h.wide);
  tile_load<KEYS, W, STEP>(sh->other[0][0], ks, 0, h.N, h.S, h.wide);
  tile_load<KEYS, W, STEP>(sh->other[0][1], vs, 0, h.N, h.S, h.wide);
  __pipeline_commit();
  stat_load(sh->stat[0][0], h, at, k.shift, 0, 0);
  bf16 *q = sh->own[0] + own * STEP, *g = sh->own[1] + own * STEP;
  float dq[1][W / 8][4] = {}, x[2], d[2], scale = h.scale2;
#pragma unroll
  for (int e = 0; e < 2; e++) {
    int r = at.row + own + lane / 4 + 8 * e;
    x[e] = stat_at(h, at, k.exponent, r, INFINITY);
    d[e] = stat_at(h, at, k.delta, r, 0);
  }
  for (int j = 0; j < tiles; j++) {
    __pipeline_wait_prior(0);
    __syncthreads();
    if (j + 1 < tiles) { /* into what tile j - 1 has left */
      int half = (j + 1) & 1, row = (j + 1) * KEYS;
      tile_load<KEYS, W, STEP>(sh->other[half][0], ks, row, h.N, h.S, h.wide);
      tile_load<KEYS, W, STEP>(sh->other[half][1], vs, row, h.N, h.S, h.wide);
      stat_load(sh->stat[half][0], h, at, k.shift, row, 0);
    }
    __pipeline_commit();
    float s[1][KEYS / 8][4], dp[1][KEYS / 8][4];
    times_rows<1, KEYS, W>(s, q, sh->other[j & 1][0]);
    times_rows<1, KEYS, W>(dp, g, sh->other[j & 1][1]);
    if ((j + 1) * KEYS > h.N) mask_columns<1, KEYS>(s, h.N - j * KEYS);
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float shift = sh->stat[j & 1][0][n * 8 + lane % 4 * 2 + i % 2];
        s[0][n][i] = exp2f(s[0][n][i] * scale + (shift - x[i / 2])) * (dp[0][n][i] - d[i / 2]);
      }
    times_columns<1, KEYS, W>(dq, s, sh->other[j & 1][0]);
  }
  if (k.sums) column_sums<W>(h, dq, sh, sums_of(h, k.sums, at, OWN));
  const float scales[1][2] = {{h.grad_scale, h.grad_scale}};
  fragment_store<1, W>(dq, scales, nullptr, scales, q, part_of(h, k.dqkv, at.b, 0, at.a), at.row + own, h);
}

/* dk and dv, a block a tile of keys. It reads keys and values of its own rows alone, before it writes there: dqkv may
 * be qkv. Logits are transposed: rows are keys. dk is ds times queries with their bias. */
template <int W> __global__ void __launch_bounds__(THREADS, FEW_BLOCKS) mma_bwd_kv(backward<bf16> k) {
  typedef mma_bwd_shared<W> shared;
  constexpr int STEP = shared::STEP, QUERIES = shared::OTHER, OWN = shared::OWN;
  SHARED_DYN(shared, sh);
  const heads &h = k.h;
  place at = place_of(h, 0, OWN);
  rows<const bf16> qs = own_of<const bf16>(h, k.queries, at.b, at.a), gs = out_of(h, k.dout, at.b, at.a);
  int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16, tiles = (h.N - h.first + QUERIES - 1) / QUERIES;
  tile_load<OWN, W, STEP>(sh->own[0], part_of(h, k.qkv, at.b, 1, at.a), at.row, h.N, h.S, h.wide);
  tile_load<OWN, W, STEP>(sh->own[1], part_of(h, k.qkv, at.b, 2, at.a), at.row, h.N, h.S, h.wide);
  tile_load<QUERIES, W, STEP>(sh->other[0][0], qs, h.first, h.N, h.S, h.wide);
  tile_load<QUERIES, W, STEP>(sh->other[0][1], gs, h.first, h.N, h.S, h.wide);
  __pipeline_commit();
  stat_load(sh->stat[0][0], h, at, k.exponent, h.first, INFINITY);
  stat_load(sh->stat[0][1], h, at, k.delta, h.first, 0);
  bf16 *keys = sh->own[0] + own * STEP, *values = sh->own[1] + own * STEP;
  float dk[1][W / 8][4] = {}, dv[1][W / 8][4] = {}, weight[1][2] = {}, scale = h.scale2, shift[2];
#pragma unroll
  for (int e = 0; e < 2; e++) shift[e] = stat_at(h, at, k.shift, at.row + own + lane / 4 + 8 * e, 0);
  for (int j = 0; j < tiles; j++) {
    __pipeline_wait_prior(0);
    __syncthreads();
    if (j + 1 < tiles) { /* into what tile j - 1 has left */
      int half = (j + 1) & 1, row = h.first + (j + 1) * QUERIES;
      tile_load<QUERIES, W, STEP>(sh->other[half][0], qs, row, h.N, h.S, h.wide);
      tile_load<QUERIES, W, STEP>(sh->other[half][1], gs, row, h.N, h.S, h.wide);
      stat_load(sh->stat[half][0], h, at, k.exponent, row, INFINITY);
      stat_load(sh->stat[half][1], h, at, k.delta, row, 0);
    }
    __pipeline_commit();
    const float *x = sh->stat[j & 1][0], *d = sh->stat[j & 1][1];
    float s[1][QUERIES / 8][4], dp[1][QUERIES / 8][4];
    times_rows<1, QUERIES, W>(s, keys, sh->other[j & 1][0]);
    times_rows<1, QUERIES, W>(dp, values, sh->other[j & 1][1]);
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int query = n * 8 + lane % 4 * 2 + i % 2;
        s[0][n][i] = exp2f(s[0][n][i] * scale + (shift[i / 2] - x[query]));
        dp[0][n][i] = s[0][n][i] * (dp[0][n][i] - d[query]);
        weight[0][i / 2] += dp[0][n][i];
      }
    times_columns<1, QUERIES, W>(dv, s, sh->other[j & 1][1]);
    times_columns<1, QUERIES, W>(dk, dp, sh->other[j & 1][0]);
  }
  const float scales[1][2] = {{h.grad_scale, h.grad_scale}}, ones[1][2] = {{1, 1}};
#pragma unroll
  for (int e = 0; e < 2; e++) {
    weight[0][e] += __shfl_xor_sync(0xffffffffu, weight[0][e], 1);
    weight[0][e] += __shfl_xor_sync(0xffffffffu, weight[0][e], 2);
    weight[0][e] *= h.grad_scale;
  }
  const float *bias = bias_of(h, k.bias, 0, at.a);
  fragment_store<1, W>(dk, scales, bias, weight, keys, part_of(h, k.dqkv, at.b, 1, at.a), at.row + own, h);
  fragment_store<1, W>(dv, ones, nullptr, ones, values, part_of(h, k.dqkv, at.b, 2, at.a), at.row + own, h);
}
#endif

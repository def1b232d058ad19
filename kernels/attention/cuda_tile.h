/* What attention's CUDA kernels share.
 *
 * The biases of keys and values are never added to anything that is N long: a key's adds to all logits of a query the
 * same number (only lse shows it) and a value's goes through as it is, since probabilities add up to 1. So tiles of
 * keys and values come from memory as they are, by asynchronous copies. The gradients likewise: p (dp - delta) keeps
 * its value when both terms lose dout times the values' bias. Queries get their bias on the way into a tile in the
 * forward pass, rounded to the activations' type. The gradients are more sensitive: there the bias takes part as a
 * number a key, (bias . key), beside (query . key), which no rounding touches (in bf16 this halves the largest error).
 */
#ifndef IJ_ATTENTION_TILE_H
#define IJ_ATTENTION_TILE_H
#include "../cuda/cuda.h"
#include <math.h>

typedef __nv_bfloat16 bf16;
static constexpr float LOG2_E = 1.4426950408889634f;

struct heads {
  int N, A, S, first; /* queries from `first` on */
  int wide;           /* rows and pointers allow 16 bytes at a time */
  /* of logits; the same for exp2; of their gradients: 0 where N is 1, since then the softmax is constant */
  float scale, scale2, grad_scale;
};

/* Row n of one head of one image starts at at + n * step. */
template <class T> struct rows {
  T *at;
  ij_dim step;
  __device__ __forceinline__ T *operator[](int n) const { return at + n * step; }
};
template <class T> __device__ __forceinline__ rows<T> part_of(const heads &h, T *qkv, ij_dim b, int part, int a) {
  return {qkv + ((b * h.N * 3 + part) * h.A + a) * h.S, (ij_dim)3 * h.A * h.S};
}
template <class T> __device__ __forceinline__ rows<T> out_of(const heads &h, T *x, ij_dim b, int a) { /* (B, N, A, S) */
  return {x + (b * h.N * h.A + a) * h.S, (ij_dim)h.A * h.S};
}
template <class T> __device__ __forceinline__ rows<T> own_of(const heads &h, T *x, ij_dim b, int a) { /* (B, A, N, S) */
  return {x + (b * h.A + a) * h.N * h.S, h.S};
}
/* bias (3, A, S) of a part of a head; NULL: none */
__device__ __forceinline__ const float *bias_of(const heads &h, const float *bias, int part, int a) {
  return bias ? bias + ((ij_dim)part * h.A + a) * h.S : nullptr;
}
__device__ __forceinline__ float bias_at(const float *bias, int s) { return bias ? bias[s] : 0; }

/* A block's part of the work: head a of image b, rows from `row` on. Neighbours share a head, and so its keys in L2. */
struct place {
  ij_dim b;
  int a, row;
};
__device__ __forceinline__ place place_of(const heads &h, int from, int tile) {
  int tiles = (h.N - from + tile - 1) / tile, head = (int)blockIdx.x / tiles;
  return {head / h.A, head % h.A, from + (int)blockIdx.x % tiles * tile};
}

/* Where a block leaves its part of the sums of dq and dout over rows: sums (B, tiles, 2, A, S) */
__device__ __forceinline__ float *sums_of(const heads &h, float *sums, const place &at, int tile) {
  int tiles = (h.N - h.first + tile - 1) / tile;
  return sums + ((at.b * tiles + (at.row - h.first) / tile) * 2 * h.A + at.a) * h.S;
}

/* What the backward kernels get, all of the first kernel's making but qkv, dout and dqkv. A probability of its tiles is
 * exp2(scale / ln 2 (query . key) + shift of the key - exponent of the query), the gradient of its logit p (dp -
 * delta). */
template <class T> struct backward {
  heads h;
  ij_dim B;
  const T *qkv, *dout;
  T *dqkv;
  const float *bias;
  T *queries, *keys, *values;      /* (B, A, N, S) copies; keys and values where the head is too wide for tiles */
  float *shift, *exponent, *delta; /* (B, A, N) */
  float *sums;                     /* see sums_of; NULL: no gradient of the bias */
};

/* 16 bytes */
template <class T> struct alignas(16) chunk {
  enum { SIZE = 16 / sizeof(T) };
  T v[SIZE];
};
/* 8 values of a row of S from x[c] on; 0 past its end */
template <class T> __device__ __forceinline__ void load8(const T *x, int c, int S, bool wide, float (&v)[8]) {
  typedef chunk<T> wide_t;
  if (wide) {
#pragma unroll
    for (int k = 0; k < 8; k += wide_t::SIZE) {
      bool in = c + k < S;
      wide_t w = in ? *reinterpret_cast<const wide_t *>(x + c + k) : wide_t();
#pragma unroll
      for (int e = 0; e < wide_t::SIZE; e++) v[k + e] = in ? ij_get(w.v, e) : 0;
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = c + e < S ? ij_get(x, c + e) : 0;
  }
}
template <class T> __device__ __forceinline__ void store8(T *x, int c, int S, bool wide, const float (&v)[8]) {
  typedef chunk<T> wide_t;
  if (wide) {
#pragma unroll
    for (int k = 0; k < 8; k += wide_t::SIZE) {
      wide_t w;
#pragma unroll
      for (int e = 0; e < wide_t::SIZE; e++) ij_set(w.v, e, v[k + e]);
      if (c + k < S) *reinterpret_cast<wide_t *>(x + c + k) = w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; e++)
      if (c + e < S) ij_set(x, c + e, v[e]);
  }
}
__device__ __forceinline__ void add_bias8(const float *bias, int c, int S, float (&v)[8]) {
#pragma unroll
  for (int e = 0; e < 8; e++)
    if (bias && c + e < S) v[e] += bias[c + e];
}

/* What the type of the activations makes of a number. */
__device__ __forceinline__ float rounded(const float *, float v) { return v; }
__device__ __forceinline__ float rounded(const bf16 *, float v) { return __bfloat162float(__float2bfloat16(v)); }

/* ROWS rows of x from `first` on -> tile (ROWS, STEP), begun but not waited for; 0 where a row or column is none of x's
 */
template <int ROWS, int W, int STEP, class T>
__device__ __forceinline__ void tile_load(T *tile, rows<const T> x, int first, int end, int S, bool wide) {
  constexpr int SIZE = chunk<T>::SIZE;
  if (wide) {
    for (int i = threadIdx.x; i < ROWS * W / SIZE; i += blockDim.x) {
      int r = i / (W / SIZE), c = i % (W / SIZE) * SIZE;
      bool in = first + r < end && c < S;
      __pipeline_memcpy_async(tile + r * STEP + c, in ? x[first + r] + c : x.at, 16, in ? 0 : 16);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * W; i += blockDim.x) {
      int r = i / W, c = i % W;
      tile[r * STEP + c] = first + r < end && c < S ? x[first + r][c] : T(0.0f);
    }
  }
}
/* The same of queries, with their bias */
template <int ROWS, int W, int STEP, class T>
__device__ __forceinline__ void query_load(T *tile, rows<const T> x, int first, int end, int S, bool wide,
                                           const float *bias) {
  for (int i = threadIdx.x; i < ROWS * W / 8; i += blockDim.x) {
    int r = i / (W / 8), c = i % (W / 8) * 8;
    float v[8] = {};
    if (first + r < end) {
      load8(x[first + r], c, S, wide, v);
      add_bias8(bias, c, S, v);
    }
    store8(tile + r * STEP, c, W, true, v);
  }
}

/* x (B, A, N) of a block's head from row `first` on -> to (COUNT), `none` behind its end */
template <int COUNT>
__device__ __forceinline__ void stat_load(float (&to)[COUNT], const heads &h, const place &at, const float *x,
                                          int first, float none) {
  for (int i = threadIdx.x; i < COUNT; i += blockDim.x)
    to[i] = first + i < h.N ? x[(at.b * h.A + at.a) * h.N + first + i] : none;
}
__device__ __forceinline__ float stat_at(const heads &h, const place &at, const float *x, int row, float none) {
  return row < h.N ? x[(at.b * h.A + at.a) * h.N + row] : none;
}
#endif

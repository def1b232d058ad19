/* Attention at any width, slowly: a warp per row, in f32. A row of results wider than the warp's registers is made in
 * pieces of 128 columns (blockIdx.y), each of which finds the logits anew. */
#ifndef IJ_ATTENTION_ANY_H
#define IJ_ATTENTION_ANY_H
#include "cuda_tile.h"

enum { ANY_COLUMNS = 128, ANY_E = ANY_COLUMNS / 32 };

/* x (S) times y (S) */
template <class X, class Y> __device__ __forceinline__ float warp_dot(const X *x, const Y *y, int S) {
  float sum = 0;
  for (int s = threadIdx.x % 32; s < S; s += 32) sum = fmaf(ij_get(x, s), ij_get(y, s), sum);
  return ij_warp_sum(sum);
}
/* The same of a query that still lacks its bias */
template <class T> __device__ __forceinline__ float warp_dot_biased(const T *q, const float *bias, const T *y, int S) {
  float sum = 0;
  for (int s = threadIdx.x % 32; s < S; s += 32) {
    sum = fmaf(rounded(q, ij_get(q, s) + bias_at(bias, s)), ij_get(y, s), sum);
  }
  return ij_warp_sum(sum);
}

/* c += f * x in this block's columns */
template <class T> __device__ __forceinline__ void any_add(float (&c)[ANY_E], float f, const T *x, int S) {
#pragma unroll
  for (int e = 0; e < ANY_E; e++) {
    int s = blockIdx.y * ANY_COLUMNS + threadIdx.x + 32 * e;
    if (s < S) c[e] = fmaf(f, ij_get(x, s), c[e]);
  }
}
template <class T>
__device__ __forceinline__ void any_store(const float (&c)[ANY_E], float f, const float *bias, float weight, T *x,
                                          int S) {
#pragma unroll
  for (int e = 0; e < ANY_E; e++) {
    int s = blockIdx.y * ANY_COLUMNS + threadIdx.x + 32 * e;
    if (s < S) ij_set(x, s, c[e] * f + weight * bias_at(bias, s));
  }
}

template <class T>
__global__ void __launch_bounds__(32) any_fwd(heads h, const T *qkv, const float *bias, T *out, float *lse) {
  place at = place_of(h, h.first, 1);
  rows<const T> ks = part_of(h, qkv, at.b, 1, at.a), vs = part_of(h, qkv, at.b, 2, at.a);
  const T *q = part_of(h, qkv, at.b, 0, at.a)[at.row];
  const float *qb = bias_of(h, bias, 0, at.a), *kb = bias_of(h, bias, 1, at.a);
  float o[ANY_E] = {}, top = -INFINITY, sum = 0, shift = 0;
  for (int j = 0; j < h.N; j++) {
    float x = h.scale * warp_dot_biased(q, qb, ks[j], h.S), most = fmaxf(top, x);
    float shrink = expf(top - most), p = expf(x - most);
    for (int e = 0; e < ANY_E; e++) o[e] *= shrink;
    sum = sum * shrink + p;
    top = most;
    any_add(o, p, vs[j], h.S);
  }
  any_store(o, 1 / sum, bias_of(h, bias, 2, at.a), 1, out_of(h, out, at.b, at.a)[at.row], h.S);
  if (!lse || blockIdx.y) return;
  for (int s = threadIdx.x; kb && s < h.S; s += 32) shift += rounded(q, ij_get(q, s) + bias_at(qb, s)) * kb[s];
  shift = ij_warp_sum(shift);
  if (threadIdx.x == 0) lse[(at.b * h.A + at.a) * h.N + at.row] = top + h.scale * shift + logf(sum);
}

template <class T> __global__ void __launch_bounds__(32) any_bwd_q(backward<T> k) {
  const heads &h = k.h;
  place at = place_of(h, h.first, 1);
  ij_dim head = (at.b * h.A + at.a) * h.N, row = head + at.row;
  rows<const T> ks = part_of(h, k.qkv, at.b, 1, at.a), vs = part_of(h, k.qkv, at.b, 2, at.a);
  const T *q = own_of(h, k.queries, at.b, at.a)[at.row], *g = out_of(h, k.dout, at.b, at.a)[at.row];
  float dq[ANY_E] = {}, dsum[ANY_E] = {};
  for (int j = 0; j < h.N; j++) {
    float p = exp2f(warp_dot(q, ks[j], h.S) * h.scale2 + (k.shift[head + j] - k.exponent[row]));
    float dp = warp_dot(g, vs[j], h.S);
    any_add(dq, p * (dp - k.delta[row]), ks[j], h.S);
  }
  any_store(dq, h.grad_scale, nullptr, 0, part_of(h, k.dqkv, at.b, 0, at.a)[at.row], h.S);
  if (!k.sums) return;
  float *to = sums_of(h, k.sums, at, 1);
  any_add(dsum, 1, g, h.S);
  any_store(dq, h.grad_scale, nullptr, 0, to, h.S);
  any_store(dsum, 1, nullptr, 0, to + h.A * h.S, h.S);
}

/* dk and dv of one key. One piece of columns still reads what another may have written, were dqkv qkv: keys and values
 * are copies. */
template <class T> __global__ void __launch_bounds__(32) any_bwd_kv(backward<T> k) {
  const heads &h = k.h;
  place at = place_of(h, 0, 1);
  ij_dim head = (at.b * h.A + at.a) * h.N;
  rows<const T> qs = own_of<const T>(h, k.queries, at.b, at.a), gs = out_of(h, k.dout, at.b, at.a);
  const T *key = own_of(h, k.keys, at.b, at.a)[at.row], *value = own_of(h, k.values, at.b, at.a)[at.row];
  float dk[ANY_E] = {}, dv[ANY_E] = {}, weight = 0;
  for (int i = h.first; i < h.N; i++) {
    float shift = k.shift[head + at.row] - k.exponent[head + i];
    float p = exp2f(warp_dot(qs[i], key, h.S) * h.scale2 + shift);
    float ds = p * (warp_dot(gs[i], value, h.S) - k.delta[head + i]);
    any_add(dk, ds, qs[i], h.S);
    any_add(dv, p, gs[i], h.S);
    weight += ds;
  }
  T *to = part_of(h, k.dqkv, at.b, 1, at.a)[at.row];
  any_store(dk, h.grad_scale, bias_of(h, k.bias, 0, at.a), weight * h.grad_scale, to, h.S);
  any_store(dv, 1, nullptr, 0, part_of(h, k.dqkv, at.b, 2, at.a)[at.row], h.S);
}
#endif

/* Attention that never writes the N x N matrix: bf16 on tensor cores, f32 by f32 arithmetic, heads wider than 128
 * slowly.
 *
 * The backward pass is a kernel for the gradients of queries, which meets all keys, and one for those of keys and
 * values, which meets all queries: probabilities are computed twice, but nothing is added up across blocks, so that
 * results are the same in every run. Its first kernel copies the queries into scratch memory (a sixteenth of what all
 * three kernels move): from then on qkv's are not read, so their gradients may be written there, and the last kernel's
 * blocks read keys and values of their own rows alone before they write there. dqkv may thus be qkv. */
#include "../cuda/cuda.h"
#include "cuda_any.h"
#include "cuda_mma.h"
#include "cuda_simt.h"
#include <initializer_list>
#include <type_traits>

enum { WIDEST = IJ_ATTENTION_WIDEST, PREPARE_THREADS = 256, WEIGHTS_THREADS = 128, SUM_ROWS = 8 };

/* x . bias of 8 columns */
__device__ __forceinline__ float dot8(const float (&x)[8], const float *bias, int c, int S) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < 8; e++)
    if (bias && c + e < S) sum = fmaf(x[e], bias[c + e], sum);
  return sum;
}

/* A row of one head, `lanes` lanes: copies, shift, exponent and delta; dq = 0 before `first`. */
template <class T>
__global__ void __launch_bounds__(PREPARE_THREADS, 1)
    prepare(backward<T> k, int lanes, const T *out, const float *lse) {
  const heads &h = k.h;
  ij_dim i = ((ij_dim)blockIdx.x * PREPARE_THREADS + threadIdx.x) / lanes, b = i / h.A / h.N;
  int lane = threadIdx.x % lanes, a = (int)(i % h.A), n = (int)(i / h.A % h.N);
  bool in = b < k.B, asked = in && n >= h.first;
  const float *qb = bias_of(h, k.bias, 0, a), *kb = bias_of(h, k.bias, 1, a), *vb = bias_of(h, k.bias, 2, a);
  float shift = 0, of_keys = 0, delta = 0;
  for (int s = 8 * lane; in && s < h.S; s += 8 * lanes) {
    float x[8], y[8];
    load8(part_of(h, k.qkv, b, 1, a)[n], s, h.S, h.wide, x);
    shift += dot8(x, qb, s, h.S);
    if (k.keys) {
      store8(own_of(h, k.keys, b, a)[n], s, h.S, h.wide, x);
      load8(part_of(h, k.qkv, b, 2, a)[n], s, h.S, h.wide, x);
      store8(own_of(h, k.values, b, a)[n], s, h.S, h.wide, x);
    }
    if (!asked) {
      const float zeros[8] = {};
      store8(part_of(h, k.dqkv, b, 0, a)[n], s, h.S, h.wide, zeros);
      continue;
    }
    load8(part_of(h, k.qkv, b, 0, a)[n], s, h.S, h.wide, x);
    store8(own_of(h, k.queries, b, a)[n], s, h.S, h.wide, x);
    add_bias8(qb, s, h.S, x);
    of_keys += dot8(x, kb, s, h.S);
    load8(out_of(h, out, b, a)[n], s, h.S, h.wide, x);
    load8(out_of(h, k.dout, b, a)[n], s, h.S, h.wide, y);
#pragma unroll
    for (int e = 0; e < 8; e++) delta = fmaf(y[e], x[e] - (s + e < h.S ? bias_at(vb, s + e) : 0), delta);
  }
  for (int d = lanes / 2; d; d /= 2) {
    shift += __shfl_xor_sync(0xffffffffu, shift, d);
    of_keys += __shfl_xor_sync(0xffffffffu, of_keys, d);
    delta += __shfl_xor_sync(0xffffffffu, delta, d);
  }
  if (!in || lane) return;
  ij_dim at = (b * h.A + a) * h.N + n;
  k.shift[at] = h.scale2 * shift;
  if (!asked) return;
  k.exponent[at] = (lse[at] - h.scale * of_keys) * LOG2_E;
  k.delta[at] = delta;
}

/* dbias (3, A, S) += the sums over rows of sums (rows, 2, A, S): queries' and values' parts */
__global__ void __launch_bounds__(32 * SUM_ROWS) bias_sums(ij_dim count, int part, const float *sums, float *dbias) {
  SHARED_ARRAY(float, room, [SUM_ROWS][32]);
  int lane = threadIdx.x % 32, y = threadIdx.x / 32;
  ij_dim c = (ij_dim)blockIdx.x * 32 + lane;
  float v = 0;
  for (ij_dim r = y; r < count && c < 2 * part; r += SUM_ROWS) v += sums[r * 2 * part + c];
  room[y][lane] = v;
  __syncthreads();
  if (y || c >= 2 * part) return;
  for (int k = 1; k < SUM_ROWS; k++) v += room[k][lane];
  dbias[c < part ? c : c + part] += v;
}

/* p (B, A, N, N), a warp per row: logits, then their softmax, each lane in place on its own values */
template <class T>
__global__ void __launch_bounds__(WEIGHTS_THREADS)
    weights_rows(heads h, ij_dim count, const T *qkv, const float *bias, float *p) {
  ij_dim i = ((ij_dim)blockIdx.x * WEIGHTS_THREADS + threadIdx.x) / 32, b = i / h.N / h.A;
  if (i >= count) return;
  int lane = threadIdx.x % 32, n = (int)(i % h.N), a = (int)(i / h.N % h.A);
  rows<const T> ks = part_of(h, qkv, b, 1, a);
  const T *q = part_of(h, qkv, b, 0, a)[n];
  const float *qb = bias_of(h, bias, 0, a);
  float top = -INFINITY, sum = 0, own = 0;
  p += i * h.N;
  for (int j = 0; j < h.N; j++) {
    float x = h.scale * warp_dot_biased(q, qb, ks[j], h.S);
    if (lane == j % 32) own = x;
    if (j % 32 < 31 && j + 1 < h.N) continue;
    if (j - j % 32 + lane < h.N) {
      p[j - j % 32 + lane] = own;
      top = fmaxf(top, own);
    }
  }
  top = ij_warp_max(top);
  for (int j = lane; j < h.N; j += 32) sum += p[j] = expf(p[j] - top);
  sum = ij_warp_sum(sum);
  for (int j = lane; j < h.N; j += 32) p[j] /= sum;
}

/* ---- launches ---------------------------------------------------------------------------------------------------- */
static heads heads_of(ij_dim N, ij_dim A, ij_dim S, ij_dim first, size_t size,
                      std::initializer_list<const void *> all) {
  float scale = (float)(1 / sqrt((double)S));
  bool wide = (size_t)S * size % 16 == 0;
  for (const void *p : all) wide = wide && (uintptr_t)p % 16 == 0;
  return {(int)N, (int)A, (int)S, (int)first, wide, scale, scale * LOG2_E, N > 1 ? scale : 0};
}
static ij_dim tiles_of(ij_dim n, ij_dim tile) { return (n + tile - 1) / tile; }

/* f of the narrowest width of tiles that holds S <= WIDEST */
template <class F> static void with_width(int S, F f) {
  if (S <= 32) f(std::integral_constant<int, 32>());
  else if (S <= 64) f(std::integral_constant<int, 64>());
  else if (S <= 80) f(std::integral_constant<int, 80>());
  else if (S <= 96) f(std::integral_constant<int, 96>());
  else f(std::integral_constant<int, WIDEST>());
}

/* Tiles of `tile` of `rows` rows in all heads, a block each */
template <class Kernel, class... Args>
static void launch(ij_queue *q, Kernel kernel, ij_dim all_heads, ij_dim rows, int tile, int threads, size_t bytes,
                   Args... args) {
  unsigned blocks = (unsigned)(all_heads * tiles_of(rows, tile));
  ij_cuda_allow_shared(ij_cuda_of(q), (const void *)kernel, bytes); /* the bytes of a kernel are always the same */
  LAUNCH(kernel, blocks, threads, bytes, ij_cuda_of(q)->stream, args...);
}
template <class Kernel, class... Args>
static void launch_any(ij_queue *q, Kernel kernel, ij_dim all_rows, int S, Args... args) {
  dim3 blocks((unsigned)all_rows, (unsigned)tiles_of(S, ANY_COLUMNS));
  LAUNCH(kernel, blocks, 32, 0, ij_cuda_of(q)->stream, args...);
}

/* Blocks of 128 queries load half as much from shared memory per product, but not where the last would be half empty.
 */
template <int W>
static void tiled_fwd(ij_queue *q, const heads &h, ij_dim B, const bf16 *qkv, const float *bias, bf16 *out,
                      float *lse) {
  typedef mma_fwd_shared<W, 1> narrow;
  ij_dim n = h.N - h.first;
  if constexpr (W <= 80) { /* wider: not enough registers */
    typedef mma_fwd_shared<W, 2> shared;
    if (tiles_of(n, narrow::OWN) % 2 == 0)
      return launch(q, mma_fwd<W, 2>, B * h.A, n, shared::OWN, THREADS, sizeof(shared), h, qkv, bias, out, lse);
  }
  launch(q, mma_fwd<W, 1>, B * h.A, n, narrow::OWN, THREADS, sizeof(narrow), h, qkv, bias, out, lse);
}
template <int W>
static void tiled_fwd(ij_queue *q, const heads &h, ij_dim B, const float *qkv, const float *bias, float *out,
                      float *lse) {
  typedef simt_shared<W, 1, 1> shared;
  launch(q, simt_fwd<W>, B * h.A, h.N - h.first, shared::OWN, SIMT_THREADS, sizeof(shared), h, qkv, bias, out, lse);
}

template <class T>
static ij_status forward(ij_queue *q, const heads &h, ij_dim B, const T *qkv, const float *bias, T *out, float *lse) {
  if (h.S > WIDEST) launch_any(q, any_fwd<T>, B * h.A * (h.N - h.first), h.S, h, qkv, bias, out, lse);
  else with_width(h.S, [&](auto w) { tiled_fwd<decltype(w)::value>(q, h, B, qkv, bias, out, lse); });
  return ij_cuda_launched("attention_fwd");
}

extern "C" ij_status ij_cuda_attention_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S,
                                           ij_dim first_q, const void *qkv, const float *bias, void *out, float *lse) {
  if (B * A * S == 0 || first_q >= N) return IJ_OK;
  heads h = heads_of(N, A, S, first_q, dt == IJ_BF16 ? 2 : 4, {qkv, out});
  if (dt == IJ_BF16) return forward(q, h, B, (const bf16 *)qkv, bias, (bf16 *)out, lse);
  return forward(q, h, B, (const float *)qkv, bias, (float *)out, lse);
}

template <class T> static constexpr ij_dtype DTYPE = std::is_same<T, bf16>::value ? IJ_BF16 : IJ_F32;

template <int W> static void tiled_bwd(ij_queue *q, const backward<bf16> &k) {
  typedef mma_bwd_shared<W> shared;
  static_assert((int)shared::OWN == IJ_ATTENTION_ROWS, "costs.h counts tiles of other rows");
  ij_dim all = k.B * k.h.A;
  launch(q, mma_bwd_q<W>, all, k.h.N - k.h.first, shared::OWN, THREADS, sizeof(shared), k);
  launch(q, mma_bwd_kv<W>, all, k.h.N, shared::OWN, THREADS, sizeof(shared), k);
}
template <int W> static void tiled_bwd(ij_queue *q, const backward<float> &k) {
  typedef simt_shared<W> shared;
  static_assert((int)shared::OWN == (W > IJ_ATTENTION_F32_WIDE ? IJ_ATTENTION_F32_WIDE_ROWS : IJ_ATTENTION_ROWS),
                "costs.h counts tiles of other rows");
  ij_dim all = k.B * k.h.A;
  launch(q, simt_bwd_q<W>, all, k.h.N - k.h.first, shared::OWN, SIMT_THREADS, sizeof(shared), k);
  launch(q, simt_bwd_kv<W>, all, k.h.N, shared::OWN, SIMT_THREADS, sizeof(shared), k);
}
template <class T> static void any_bwd(ij_queue *q, const backward<T> &k) {
  launch_any(q, any_bwd_q<T>, k.B * k.h.A * (k.h.N - k.h.first), k.h.S, k);
  launch_any(q, any_bwd_kv<T>, k.B * k.h.A * k.h.N, k.h.S, k);
}

template <class T>
static backward<T> backward_of(const heads &h, ij_dim B, const T *qkv, const float *bias, const T *dout, T *dqkv) {
  backward<T> k = {};
  k.h = h;
  k.B = B;
  k.qkv = qkv;
  k.bias = bias;
  k.dout = dout;
  k.dqkv = dqkv;
  return k;
}

/* Scratch memory of a backward pass. False: out of memory. */
template <class T> static bool scratch_of(ij_queue *q, backward<T> &k, bool sums) {
  const heads &h = k.h;
  ij_dim all = k.B * h.A * h.N;
  ij_attention_costs costs = ij_attention_bwd_scratch(DTYPE<T>, k.B, h.N, h.A, h.S, h.first);
  char *copies = (char *)ij_cuda_scratch(q, 0, costs.copies);
  float *stats = (float *)ij_cuda_scratch(q, 1, costs.stats);
  k.sums = sums ? (float *)ij_cuda_scratch(q, 2, costs.sums) : nullptr;
  if (!copies || !stats || (sums && !k.sums)) return false;
  k.queries = (T *)copies;
  k.keys = h.S > WIDEST ? (T *)(copies + costs.copy) : nullptr;
  k.values = h.S > WIDEST ? (T *)(copies + 2 * costs.copy) : nullptr;
  k.shift = stats;
  k.exponent = stats + all;
  k.delta = stats + 2 * all;
  return true;
}

template <class T>
static ij_status gradients(ij_queue *q, backward<T> k, const T *out, const float *lse, float *dbias) {
  const heads &h = k.h;
  cudaStream_t stream = ij_cuda_of(q)->stream;
  if (!scratch_of(q, k, dbias != nullptr)) return IJ_ENOMEM;
  int lanes = 1, part = h.A * h.S;
  while (lanes < 32 && 8 * lanes < h.S) lanes *= 2;
  LAUNCH(prepare<T>, (unsigned)tiles_of(k.B * h.A * h.N * lanes, PREPARE_THREADS), PREPARE_THREADS, 0, stream, k, lanes,
         out, lse);
  if (h.S > WIDEST) any_bwd(q, k);
  else with_width(h.S, [&](auto w) { tiled_bwd<decltype(w)::value>(q, k); });
  if (dbias) {
    ij_dim blocks = k.B * tiles_of(h.N - h.first, ij_attention_rows(DTYPE<T>, h.S));
    LAUNCH(bias_sums, (unsigned)tiles_of(2 * (ij_dim)part, 32), 32 * SUM_ROWS, 0, stream, blocks, part, k.sums, dbias);
  }
  return ij_cuda_launched("attention_bwd");
}

extern "C" ij_status ij_cuda_attention_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S,
                                           ij_dim first_q, const void *qkv, const float *bias, const void *out,
                                           const float *lse, const void *dout, void *dqkv, float *dbias) {
  if (B * N * A * S == 0) return IJ_OK;
  if (first_q >= N) { /* no query, no gradient */
    cudaMemsetAsync(dqkv, 0, (size_t)(B * N * 3 * A * S) * (dt == IJ_BF16 ? 2 : 4), ij_cuda_of(q)->stream);
    return ij_cuda_launched("attention_bwd");
  }
  heads h = heads_of(N, A, S, first_q, dt == IJ_BF16 ? 2 : 4, {qkv, out, dout, dqkv});
  if (dt == IJ_BF16) {
    backward<bf16> k = backward_of(h, B, (const bf16 *)qkv, bias, (const bf16 *)dout, (bf16 *)dqkv);
    return gradients(q, k, (const bf16 *)out, lse, dbias);
  }
  backward<float> k = backward_of(h, B, (const float *)qkv, bias, (const float *)dout, (float *)dqkv);
  return gradients(q, k, (const float *)out, lse, dbias);
}

extern "C" ij_status ij_cuda_attention_weights(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S,
                                               const void *qkv, const float *bias, float *p) {
  ij_dim count = B * A * N;
  if (count == 0) return IJ_OK;
  heads h = heads_of(N, A, S, 0, dt == IJ_BF16 ? 2 : 4, {qkv});
  cudaStream_t stream = ij_cuda_of(q)->stream;
  unsigned blocks = (unsigned)tiles_of(count, WEIGHTS_THREADS / 32);
  if (dt == IJ_BF16)
    LAUNCH(weights_rows<bf16>, blocks, WEIGHTS_THREADS, 0, stream, h, count, (const bf16 *)qkv, bias, p);
  else LAUNCH(weights_rows<float>, blocks, WEIGHTS_THREADS, 0, stream, h, count, (const float *)qkv, bias, p);
  return ij_cuda_launched("attention_weights");
}

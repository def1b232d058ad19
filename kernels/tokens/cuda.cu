/* Rows that get positions, rows that are picked, and the predictor's sequences. */
#include "../cuda/rows.h"

enum { PACK = 4 };

/* y[i..] = x[i..] (+ b) + pos */
template <class T, int V>
__device__ static void add_at(const T *x, const float *b, const float *pos, float *y, ij_dim i) {
  ij_pack<float, V> a = ij_load_f32<V>(x, i), p = ij_load<V>(pos, i), add = {};
  if (b) add = ij_load<V>(b, i);
  for (int j = 0; j < V; j++) a.v[j] += add.v[j] + p.v[j];
  ij_store<V>(y, i, a);
}

template <class T, int V>
static __global__ void pos_kernel(ij_dim R, ij_dim D, ij_dim N, const T *__restrict__ x, const float *__restrict__ b,
                                  const float *__restrict__ pos, const int32_t *__restrict__ index,
                                  float *__restrict__ y) {
  for (ij_dim r = ij_row(); r < R; r += ij_row_step()) {
    const float *row = pos + (index ? index[r] : r % N) * D;
    for (ij_dim c = ij_column(); c < D / V; c += ij_column_step()) add_at<T, V>(x + r * D, b, row, y + r * D, c * V);
  }
}
template <class T>
static void pos_as(ij_queue *q, ij_dim R, ij_dim D, ij_dim N, const T *x, const float *b, const float *pos,
                   const int32_t *index, float *y) {
  bool pack = ij_packs<PACK>(D, x, b, pos, y);
  ij_grid g = ij_rows_grid(R, pack ? D / PACK : D);
  auto pos_add = pack ? pos_kernel<T, PACK> : pos_kernel<T, 1>;
  LAUNCH(pos_add, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, R, D, N, x, b, pos, index, y);
}
ij_status ij_cuda_pos_add(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, ij_dim N, const void *x, const float *b,
                          const float *pos, const int32_t *index, float *y) {
  if (R * D == 0) return IJ_OK;
  if (dt == IJ_BF16) pos_as(q, R, D, N, (const __nv_bfloat16 *)x, b, pos, index, y);
  else pos_as(q, R, D, N, (const float *)x, b, pos, index, y);
  return ij_cuda_launched("pos_add");
}

/* ---- the predictor's sequences ---- */
namespace {
struct Sequences {
  ij_dim M, C, B, K, T, E;
};
} // namespace

template <class X, int V>
static __global__ void sequences(Sequences d, const X *__restrict__ x, const float *__restrict__ b,
                                 const float *__restrict__ token, const float *__restrict__ pos,
                                 const int32_t *__restrict__ context, const int32_t *__restrict__ target,
                                 float *__restrict__ y) {
  ij_dim E = d.E, rows = d.M * d.C * d.B * (d.K + d.T);
  for (ij_dim r = ij_row(); r < rows; r += ij_row_step()) {
    ij_dim s = r / (d.K + d.T), k = r % (d.K + d.T), of_x = s % (d.C * d.B) * d.K + k;
    float *out = y + r * E;
    if (k < d.K) {
      const float *at = pos + context[of_x] * E;
      for (ij_dim c = ij_column(); c < E / V; c += ij_column_step()) add_at<X, V>(x + of_x * E, b, at, out, c * V);
    } else {
      const float *at = pos + target[(s / (d.C * d.B) * d.B + s % d.B) * d.T + k - d.K] * E;
      for (ij_dim c = ij_column(); c < E / V; c += ij_column_step()) add_at<float, V>(token, NULL, at, out, c * V);
    }
  }
}
template <class X>
static void tokens_as(ij_queue *q, Sequences d, const X *x, const float *b, const float *token, const float *pos,
                      const int32_t *context, const int32_t *target, float *y) {
  bool pack = ij_packs<PACK>(d.E, x, b, token, pos, y);
  ij_grid g = ij_rows_grid(d.M * d.C * d.B * (d.K + d.T), pack ? d.E / PACK : d.E);
  auto tokens_fwd = pack ? sequences<X, PACK> : sequences<X, 1>;
  LAUNCH(tokens_fwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, d, x, b, token, pos, context, target, y);
}
ij_status ij_cuda_tokens_fwd(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                             const void *x, const float *b, const float *token, const float *pos,
                             const int32_t *context, const int32_t *target, float *y) {
  Sequences d = {M, C, B, K, T, E};
  if (M * C * B * (K + T) * E == 0) return IJ_OK;
  if (dt == IJ_BF16) tokens_as(q, d, (const __nv_bfloat16 *)x, b, token, pos, context, target, y);
  else tokens_as(q, d, (const float *)x, b, token, pos, context, target, y);
  return ij_cuda_launched("tokens_fwd");
}

template <class X, int V> static __global__ void context_grads(Sequences d, const float *dy, X *dx) {
  for (ij_dim r = ij_row(); r < d.C * d.B * d.K; r += ij_row_step())
    for (ij_dim c = ij_column(); c < d.E / V; c += ij_column_step()) {
      const float *g = dy + (r / d.K * (d.K + d.T) + r % d.K) * d.E + c * V;
      ij_pack<float, V> sum = {};
      for (ij_dim m = 0; m < d.M; m++) {
        ij_pack<float, V> a = ij_load<V>(g, m * d.C * d.B * (d.K + d.T) * d.E);
        for (int j = 0; j < V; j++) sum.v[j] += a.v[j];
      }
      ij_store_f32<V>(dx, r * d.E + c * V, sum);
    }
}
template <class X> static void context_as(ij_queue *q, Sequences d, const float *dy, X *dx) {
  bool pack = ij_packs<PACK>(d.E, dy, dx);
  ij_grid g = ij_rows_grid(d.C * d.B * d.K, pack ? d.E / PACK : d.E);
  auto tokens_bwd = pack ? context_grads<X, PACK> : context_grads<X, 1>;
  LAUNCH(tokens_bwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, d, dy, dx);
}
ij_status ij_cuda_tokens_bwd(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                             const float *dy, void *dx, float *dtoken) {
  Sequences d = {M, C, B, K, T, E};
  ij_dim sequences = M * C * B;
  if (C * B * K * E > 0) {
    if (dt == IJ_BF16) context_as(q, d, dy, (__nv_bfloat16 *)dx);
    else context_as(q, d, dy, (float *)dx);
  }
  if (sequences * T * E == 0) return ij_cuda_launched("tokens_bwd");
  float *part = (float *)ij_cuda_scratch(q, 2, ij_tokens_bwd_scratch(sequences, E)); /* (M, C, B, E) */
  if (!part) return IJ_ENOMEM;
  ij_status st = ij_cuda_sum(q, sequences, T, E, (K + T) * E, 1, false, dy + K * E, part);
  return st ? st : ij_cuda_sum(q, 1, sequences, E, 0, 1, true, part, dtoken);
}

/* ---- the last rows of each sequence ---- */
ij_status ij_cuda_tail_fwd(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *x, float *y) {
  ij_dim n = (N - first) * D, shape[] = {Q, n}, of_x[] = {N * D, 1}, of_y[] = {n, 1};
  return ij_cuda_copy(q, 2, shape, sizeof *x, x + first * D, of_x, y, of_y);
}

template <int V>
static __global__ void tail_grads(ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *dy, float *dx) {
  for (ij_dim r = ij_row(); r < Q * N; r += ij_row_step()) {
    ij_dim i = r / N, n = r % N;
    const float *row = dy + (i * (N - first) + n - first) * D;
    for (ij_dim c = ij_column(); c < D / V; c += ij_column_step()) {
      ij_pack<float, V> g = {};
      if (n >= first) g = ij_load<V>(row, c * V);
      ij_store<V>(dx, r * D + c * V, g);
    }
  }
}
ij_status ij_cuda_tail_bwd(ij_queue *q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *dy, float *dx) {
  if (Q * N * D == 0) return IJ_OK;
  bool pack = ij_packs<PACK>(D, dy, dx);
  ij_grid g = ij_rows_grid(Q * N, pack ? D / PACK : D);
  auto tail_bwd = pack ? tail_grads<PACK> : tail_grads<1>;
  LAUNCH(tail_bwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, Q, N, first, D, dy, dx);
  return ij_cuda_launched("tail_bwd");
}

/* ---- picked rows ---- */
template <int V>
static __global__ void gather_rows(ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *__restrict__ x,
                                   const int32_t *__restrict__ index, float *__restrict__ y) {
  for (ij_dim r = ij_row(); r < M * B * T; r += ij_row_step()) {
    const float *row = x + (r / T % B * N + index[r]) * D;
    for (ij_dim c = ij_column(); c < D / V; c += ij_column_step())
      ij_store<V>(y, r * D + c * V, ij_load<V>(row, c * V));
  }
}
ij_status ij_cuda_gather_fwd(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *x,
                             const int32_t *index, float *y) {
  if (M * B * T * D == 0) return IJ_OK;
  bool pack = ij_packs<PACK>(D, x, y);
  ij_grid g = ij_rows_grid(M * B * T, pack ? D / PACK : D);
  auto gather_fwd = pack ? gather_rows<PACK> : gather_rows<1>;
  LAUNCH(gather_fwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, M, B, T, N, D, x, index, y);
  return ij_cuda_launched("gather_fwd");
}

/* A warp per row of dx: it searches the row among its image's picks, 32 at a time, and adds in their order. */
template <int V>
static __global__ void gather_grads(ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *dy,
                                    const int32_t *index, float *dx) {
  int lane = (int)threadIdx.x % 32;
  for (ij_dim r = ij_group_row<1>(); r < B * N; r += ij_group_step<1>()) {
    ij_dim b = r / N;
    for (ij_dim at = 0; at < M * T; at += 32) {
      ij_dim i = at + lane, pick = i < M * T ? (i / T * B + b) * T + i % T : -1;
      unsigned found = __ballot_sync(0xffffffffu, pick >= 0 && index[pick] == r % N);
      for (; found; found &= found - 1) {
        ij_dim from = at + __ffs((int)found) - 1;
        const float *g = dy + ((from / T * B + b) * T + from % T) * D;
        for (ij_dim c = lane; c < D / V; c += 32) {
          ij_pack<float, V> sum = ij_load<V>(dx, r * D + c * V), a = ij_load<V>(g, c * V);
          for (int j = 0; j < V; j++) sum.v[j] += a.v[j];
          ij_store<V>(dx, r * D + c * V, sum);
        }
      }
    }
  }
}
ij_status ij_cuda_gather_bwd(ij_queue *q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *dy,
                             const int32_t *index, float *dx) {
  if (M * B * T * N * D == 0) return IJ_OK;
  auto gather_bwd = ij_packs<PACK>(D, dy, dx) ? gather_grads<PACK> : gather_grads<1>;
  LAUNCH(gather_bwd, ij_group_blocks(B * N, false), IJ_BLOCK, 0, ij_cuda_of(q)->stream, M, B, T, N, D, dy, index, dx);
  return ij_cuda_launched("gather_bwd");
}

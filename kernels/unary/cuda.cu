/* Functions of one number, and their derivatives. */
#include "../cuda/rows.h"
#include "../whole.h"
#include <utility>

enum { PACK = 4 };
using Functions = std::make_integer_sequence<int, IJ_UNARY_FNS>;
namespace {
struct Constants {
  float a, b;
};
} // namespace

__device__ static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <int F> __device__ static inline float value(float x, Constants k) {
  if constexpr (F == IJ_EXP) return expf(x);
  else if constexpr (F == IJ_LOG) return logf(x);
  else if constexpr (F == IJ_SQRT) return sqrtf(x);
  else if constexpr (F == IJ_RSQRT) return 1.0f / sqrtf(x);
  else if constexpr (F == IJ_ABS) return fabsf(x);
  else if constexpr (F == IJ_SIGN) return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
  else if constexpr (F == IJ_FLOOR) return floorf(x);
  else if constexpr (F == IJ_CEIL) return ceilf(x);
  else if constexpr (F == IJ_ROUND) return rintf(x);
  else if constexpr (F == IJ_SIN) return sinf(x);
  else if constexpr (F == IJ_COS) return cosf(x);
  else if constexpr (F == IJ_TANH) return tanhf(x);
  else if constexpr (F == IJ_SIGMOID) return sigmoid(x);
  else if constexpr (F == IJ_SILU) return x * sigmoid(x);
  else if constexpr (F == IJ_ERF) return erff(x);
  else if constexpr (F == IJ_NEG) return -x;
  else if constexpr (F == IJ_RECIPROCAL) return 1.0f / x;
  else if constexpr (F == IJ_LOG1P) return log1pf(x);
  else if constexpr (F == IJ_EXPM1) return expm1f(x);
  else if constexpr (F == IJ_SQUARE) return x * x;
  else if constexpr (F == IJ_POWER) return powf(x, k.a);
  else return x < k.a ? k.a : x > k.b ? k.b : x;
}

/* y = f(x) */
template <int F> __device__ static inline float slope(float x, float y, Constants k) {
  if constexpr (F == IJ_EXP) return y;
  else if constexpr (F == IJ_LOG) return 1.0f / x;
  else if constexpr (F == IJ_SQRT) return 0.5f / y;
  else if constexpr (F == IJ_RSQRT) return -0.5f * y * y * y;
  else if constexpr (F == IJ_ABS) return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f;
  else if constexpr (F == IJ_SIN) return cosf(x);
  else if constexpr (F == IJ_COS) return -sinf(x);
  else if constexpr (F == IJ_TANH) return 1.0f - y * y;
  else if constexpr (F == IJ_SIGMOID) return y * (1.0f - y);
  else if constexpr (F == IJ_SILU) return sigmoid(x) * (1.0f + x * (1.0f - sigmoid(x)));
  else if constexpr (F == IJ_ERF) return 1.12837917f * expf(-x * x);
  else if constexpr (F == IJ_NEG) return -1.0f;
  else if constexpr (F == IJ_RECIPROCAL) return -y * y;
  else if constexpr (F == IJ_LOG1P) return 1.0f / (1.0f + x);
  else if constexpr (F == IJ_EXPM1) return y + 1.0f;
  else if constexpr (F == IJ_SQUARE) return 2.0f * x;
  else if constexpr (F == IJ_POWER) return k.a == 0 ? 0.0f : k.a * powf(x, k.a - 1.0f);
  else if constexpr (F == IJ_CLAMP) return x >= k.a && x <= k.b ? 1.0f : 0.0f;
  else return 0.0f;
}

template <int F> static __global__ void unary_all(ij_dim n, ij_dim packs, Constants k, const float *x, float *y) {
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<float, PACK> v = ij_load<PACK>(x, i * PACK);
    for (int j = 0; j < PACK; j++) v.v[j] = value<F>(v.v[j], k);
    ij_store<PACK>(y, i * PACK, v);
  }
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) y[i] = value<F>(x[i], k);
}
template <int F>
static __global__ void unary_grads(ij_dim n, ij_dim packs, Constants k, const float *x, const float *y, const float *dy,
                                   float *dx) {
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<float, PACK> v = ij_load<PACK>(x, i * PACK), w = ij_load<PACK>(y, i * PACK),
                         g = ij_load<PACK>(dy, i * PACK);
    for (int j = 0; j < PACK; j++) g.v[j] *= slope<F>(v.v[j], w.v[j], k);
    ij_store<PACK>(dx, i * PACK, g);
  }
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) dx[i] = dy[i] * slope<F>(x[i], y[i], k);
}

static unsigned blocks_for(ij_queue *q, ij_dim n, ij_dim packs) {
  return ij_fill_blocks(q, packs ? (n + PACK - 1) / PACK : n);
}
template <int... F>
static void forward(ij_queue *q, int f, ij_dim n, Constants k, const float *x, float *y,
                    std::integer_sequence<int, F...>) {
  ij_dim packs = ij_packs<PACK>(0, x, y) ? n / PACK : 0;
  void (*const kernels[])(ij_dim, ij_dim, Constants, const float *, float *) = {unary_all<F>...};
  auto unary_fwd = kernels[f];
  LAUNCH(unary_fwd, blocks_for(q, n, packs), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs, k, x, y);
}
template <int... F>
static void backward(ij_queue *q, int f, ij_dim n, Constants k, const float *x, const float *y, const float *dy,
                     float *dx, std::integer_sequence<int, F...>) {
  ij_dim packs = ij_packs<PACK>(0, x, y, dy, dx) ? n / PACK : 0;
  void (*const kernels[])(ij_dim, ij_dim, Constants, const float *, const float *, const float *,
                          float *) = {unary_grads<F>...};
  auto unary_bwd = kernels[f];
  LAUNCH(unary_bwd, blocks_for(q, n, packs), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs, k, x, y, dy, dx);
}

template <class T> static __global__ void whole_all(ij_dim n, ij_dim f, int64_t a, int64_t b, const T *x, T *y) {
  for (ij_dim i = ij_at(); i < n; i += ij_step()) y[i] = (T)ij_whole_unary((int)f, x[i], a, b);
}
template <class T> static void whole(ij_queue *q, ij_dim n, int f, double a, double b, const void *x, void *y) {
  LAUNCH(whole_all<T>, ij_fill_blocks(q, n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, (ij_dim)f, ij_whole_of(a),
         ij_whole_of(b), (const T *)x, (T *)y);
}

ij_status ij_cuda_unary_fwd(ij_queue *q, int f, ij_dtype dt, ij_dim n, double a, double b, const void *x, void *y) {
  if (n == 0) return IJ_OK;
  if (dt == IJ_F32) forward(q, f, n, {(float)a, (float)b}, (const float *)x, (float *)y, Functions());
  else if (dt == IJ_I32) whole<int32_t>(q, n, f, a, b, x, y);
  else if (dt == IJ_I64) whole<int64_t>(q, n, f, a, b, x, y);
  else whole<uint8_t>(q, n, f, a, b, x, y);
  return ij_cuda_launched("unary_fwd");
}
ij_status ij_cuda_unary_bwd(ij_queue *q, int f, ij_dim n, double a, double b, const float *x, const float *y,
                            const float *dy, float *dx) {
  if (n == 0) return IJ_OK;
  backward(q, f, n, {(float)a, (float)b}, x, y, dy, dx, Functions());
  return ij_cuda_launched("unary_bwd");
}

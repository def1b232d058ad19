/* GELU, u Phi(u), in its exact form: cublasLt's epilogues can't be used, since theirs is the tanh approximation (off by
 * up to 5e-4).
 *
 * bf16: forward 4 bytes an element, backward 8; a GPU of 3.3 TB/s and 29e12 f32 operations a second has 35 and 70 of
 * them for an element. So Phi costs one exponential, one reciprocal and a polynomial, as on the CPU: the upper tail of
 * the normal distribution is exp(-z^2/2) times a polynomial in 1/(1 + .33 z), z times its error below 1.4e-7. */
#include "../cuda/cuda.h"
#include "../cuda/stripes.h"

enum { THREADS = 256 };

/* Phi(u) and the normal density at u */
__device__ static inline void normal_at(float u, float *phi, float *density) {
  float e = __expf(-0.5f * u * u), t = __fdividef(1.0f, 1.0f + 0.33f * fabsf(u));
  float p = -0.11000483f * t + 0.37711847f;
  p = p * t - 0.093635586f;
  p = p * t + 0.20485343f;
  p = p * t + 0.12166865f;
  p = p * t * e;
  *phi = u < 0 ? p : 1 - p;
  *density = 0.39894228f * e;
}

/* n groups of V elements, `columns` of them a row. A thread's column moves on by the same step each time: no division.
 */
template <class T, int V>
static __global__ void __launch_bounds__(THREADS) fwd(ij_dim n, ij_dim columns, const T *x, const float *b, T *y) {
  ij_dim i = (ij_dim)blockIdx.x * THREADS + threadIdx.x, step = (ij_dim)gridDim.x * THREADS;
  ij_dim column = i % columns, further = step % columns;
  for (; i < n; i += step) {
    float u[V], bias[V] = {}, phi, density;
    ij_load(u, x + i * V);
    if (b) ij_load(bias, b + column * V);
#pragma unroll
    for (int k = 0; k < V; k++) {
      u[k] += bias[k];
      normal_at(u[k], &phi, &density);
      u[k] *= phi;
    }
    ij_store(y + i * V, u);
    column += further;
    if (column >= columns) column -= columns;
  }
}

template <class T, int V>
static ij_status launch_fwd(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, T *y) {
  ij_cuda *c = ij_cuda_of(q);
  ij_dim n = R * (F / V);
  LAUNCH((fwd<T, V>), ij_blocks(n, THREADS, 16 * c->sms), THREADS, 0, c->stream, n, F / V, x, b, y);
  return ij_cuda_launched("gelu_fwd");
}
template <class T> static ij_status fwd_of(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, T *y) {
  constexpr int V = ij_width<T>;
  if (F % V == 0 && ij_aligned(16, x, b, y)) return launch_fwd<T, V>(q, R, F, x, b, y);
  return launch_fwd<T, 1>(q, R, F, x, b, y);
}
extern "C" ij_status ij_cuda_gelu_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                      void *y) {
  if (R * F == 0) return IJ_OK;
  if (dt == IJ_BF16) return fwd_of(q, R, F, (const __nv_bfloat16 *)x, b, (__nv_bfloat16 *)y);
  return fwd_of(q, R, F, (const float *)x, b, (float *)y);
}

/* A warp's lanes have V columns each and go down their stripe's rows; dx, y may be x or dy: each thread reads an
 * element before it writes it, and nobody else does. part (stripes, F): column sums of dx, NULL: none. */
template <class T, int V>
static __global__ void __launch_bounds__(IJ_STRIPE_THREADS)
    bwd(ij_dim R, ij_dim F, const T *x, const float *b, const T *dy, T *dx, T *y, float *part) {
  ij_dim first = (ij_dim)blockIdx.x * 32 * V, f = first + (ij_dim)(threadIdx.x % 32) * V;
  float bias[V] = {}, sum[V] = {};
  if (b && f < F) ij_load(bias, b + f);
  for (ij_dim r = (ij_dim)blockIdx.y * IJ_STRIPE_WARPS + threadIdx.x / 32; f < F && r < R;
       r += (ij_dim)gridDim.y * IJ_STRIPE_WARPS) {
    float u[V], g[V], phi, density;
    ij_load(u, x + r * F + f);
    ij_load(g, dy + r * F + f);
#pragma unroll
    for (int k = 0; k < V; k++) {
      u[k] += bias[k];
      normal_at(u[k], &phi, &density);
      g[k] *= phi + u[k] * density;
      sum[k] += g[k];
      u[k] *= phi;
    }
    ij_store(dx + r * F + f, g);
    if (y) ij_store(y + r * F + f, u);
  }
  if (part) ij_stripe_sum(sum, first, F, part + (ij_dim)blockIdx.y * F);
}

template <class T, int V>
static ij_status launch_bwd(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, const T *dy, T *dx, T *y,
                            float *db) {
  ij_dim blocks = (F + 32 * V - 1) / (32 * V);
  unsigned count = ij_cuda_stripes(q, R, blocks);
  float *part =
      db ? (float *)ij_cuda_scratch(q, 0, ij_column_sum_scratch(ij_cuda_of(q)->sms, R, F, V)) : NULL; /* (count, F) */
  if (db && !part) return IJ_ENOMEM;
  LAUNCH((bwd<T, V>), dim3((unsigned)blocks, count), IJ_STRIPE_THREADS, 0, ij_cuda_of(q)->stream, R, F, x, b, dy, dx, y,
         part);
  if (db) ij_cuda_rows_add(q, count, F, part, db);
  return ij_cuda_launched("gelu_bwd");
}
template <class T>
static ij_status bwd_of(ij_queue *q, ij_dim R, ij_dim F, const T *x, const float *b, const T *dy, T *dx, T *y,
                        float *db) {
  constexpr int V = ij_width<T>;
  if (F % V == 0 && ij_aligned(16, x, b, dy, dx, y)) return launch_bwd<T, V>(q, R, F, x, b, dy, dx, y, db);
  return launch_bwd<T, 1>(q, R, F, x, b, dy, dx, y, db);
}
extern "C" ij_status ij_cuda_gelu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                      const void *dy, void *dx, void *y, float *db) {
  typedef __nv_bfloat16 T;
  if (R * F == 0) return IJ_OK;
  if (dt == IJ_BF16) return bwd_of(q, R, F, (const T *)x, b, (const T *)dy, (T *)dx, (T *)y, db);
  return bwd_of(q, R, F, (const float *)x, b, (const float *)dy, (float *)dx, (float *)y, db);
}

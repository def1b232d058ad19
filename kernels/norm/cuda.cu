/* Layer norm, and the addition in front of it.
 *
 * Bytes decide. Forward in bf16: x 4, add 2, sum 4, y 2 an element. A warp keeps a row in registers, D / 32 numbers a
 * lane, and reads it once; its sums need no barrier. Backward: s 4, dy 2, res 4, dx 4, its copy 2. There a block takes
 * four rows at a time and a thread has four columns of each, so that dw and db gather in registers: sums by columns in
 * a pass of their own would read s and dy again, 22 bytes instead of 16. Rows that fit neither (odd or very wide, views
 * at odd places) take the plain kernels below. */
#include "../cuda/cuda.h"
#include "../cuda/stripes.h"

enum { WARPS = 4, MOST_WIDE = IJ_NORM_WIDEST, GROUP = IJ_NORM_GROUP, PLAIN_THREADS = 256 };

/* ---- forward ---------------------------------------------------------------------------------------------------- */
template <class T> struct forward { /* the op's arguments */
  const float *x;
  const T *add;
  const float *add_b, *w, *b;
  float eps;
  float *sum;
  T *y;
  float *mean, *rstd;
};

/* A row of D values, a multiple of 4, in a warp's registers: C groups of four a lane, group c at 4 * (lane + 32 c) */
template <class T, int C> __device__ static inline void add_groups(float (&s)[C][4], const T *x, int lane, int D) {
#pragma unroll
  for (int c = 0; c < C; c++)
    if (int d = 4 * (lane + 32 * c); d < D) {
      float v[4];
      ij_load(v, x + d);
      for (int i = 0; i < 4; i++) s[c][i] += v[i];
    }
}
template <class T, int C> __device__ static inline void store_groups(T *y, const float (&s)[C][4], int lane, int D) {
#pragma unroll
  for (int c = 0; c < C; c++)
    if (int d = 4 * (lane + 32 * c); d < D) ij_store(y + d, s[c]);
}

template <class T, int C>
static __global__ void __launch_bounds__(32 * WARPS) fwd(ij_dim R, int D, const forward<T> a) {
  int lane = (int)threadIdx.x % 32;
  for (ij_dim r = (ij_dim)blockIdx.x * WARPS + threadIdx.x / 32; r < R; r += (ij_dim)gridDim.x * WARPS) {
    float s[C][4] = {}, total = 0, squares = 0;
    add_groups(s, a.x + r * D, lane, D);
    if (a.add) add_groups(s, a.add + r * D, lane, D);
    if (a.add && a.add_b) add_groups(s, a.add_b, lane, D);
    if (a.sum) store_groups(a.sum + r * D, s, lane, D);
    if (!a.y && !a.mean && !a.rstd) continue;
#pragma unroll
    for (int c = 0; c < C; c++) total += (s[c][0] + s[c][1]) + (s[c][2] + s[c][3]);
    float mean = ij_warp_sum(total) / (float)D;
#pragma unroll
    for (int c = 0; c < C; c++)
      if (4 * (lane + 32 * c) < D)
        for (int i = 0; i < 4; i++) squares += (s[c][i] - mean) * (s[c][i] - mean);
    float rstd = 1 / sqrtf(ij_warp_sum(squares) / (float)D + a.eps);
    if (a.mean && lane == 0) a.mean[r] = mean;
    if (a.rstd && lane == 0) a.rstd[r] = rstd;
    if (!a.y) continue;
#pragma unroll
    for (int c = 0; c < C; c++)
      if (int d = 4 * (lane + 32 * c); d < D) {
        float w[4] = {1, 1, 1, 1}, b[4] = {};
        if (a.w) ij_load(w, a.w + d);
        if (a.b) ij_load(b, a.b + d);
        for (int i = 0; i < 4; i++) s[c][i] = (s[c][i] - mean) * rstd * w[i] + b[i];
      }
    store_groups(a.y + r * D, s, lane, D);
  }
}

/* All threads of the block get the sum of their values; plain kernels only. */
__device__ static inline float block_sum(float v) {
  SHARED_ARRAY(float, part, [PLAIN_THREADS / 32]);
  v = ij_warp_sum(v);
  __syncthreads(); /* of the last call */
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = part[0];
  for (int i = 1; i < PLAIN_THREADS / 32; i++) v += part[i];
  return v;
}

/* Any row: a block a row. s is added up anew in each pass, the memory of the first still in the caches; the last pass
 * alone writes, since sum may be x. */
template <class T> __device__ static inline float sum_at(const forward<T> &a, ij_dim row, ij_dim d) {
  float s = a.x[row + d];
  if (a.add) s += ij_get(a.add, row + d);
  return a.add && a.add_b ? s + a.add_b[d] : s;
}
template <class T>
static __global__ void __launch_bounds__(PLAIN_THREADS) fwd_plain(ij_dim R, ij_dim D, const forward<T> a) {
  for (ij_dim r = blockIdx.x; r < R; r += gridDim.x) {
    float total = 0, squares = 0;
    for (ij_dim d = threadIdx.x; d < D; d += PLAIN_THREADS) total += sum_at(a, r * D, d);
    float mean = block_sum(total) / (float)D;
    for (ij_dim d = threadIdx.x; d < D; d += PLAIN_THREADS) {
      float off = sum_at(a, r * D, d) - mean;
      squares += off * off;
    }
    float rstd = 1 / sqrtf(block_sum(squares) / (float)D + a.eps);
    for (ij_dim d = threadIdx.x; d < D; d += PLAIN_THREADS) {
      float s = sum_at(a, r * D, d), y = (s - mean) * rstd;
      if (a.sum) a.sum[r * D + d] = s;
      if (a.y) ij_set(a.y, r * D + d, y * (a.w ? a.w[d] : 1) + (a.b ? a.b[d] : 0));
    }
    if (threadIdx.x) continue;
    if (a.mean) a.mean[r] = mean;
    if (a.rstd) a.rstd[r] = rstd;
  }
}

template <class T, int C> static void launch_fwd(ij_cuda *c, ij_dim R, ij_dim D, const forward<T> &a) {
  LAUNCH((fwd<T, C>), ij_blocks(R, WARPS, 1 << 30), 32 * WARPS, 0, c->stream, R, (int)D, a);
}
template <class T> static ij_status fwd_of(ij_queue *q, ij_dim R, ij_dim D, const forward<T> &a) {
  ij_cuda *c = ij_cuda_of(q);
  bool wide = D % 4 == 0 && D <= MOST_WIDE && ij_aligned(16, a.x, a.add_b, a.w, a.b, a.sum) &&
              ij_aligned(4 * sizeof(T), a.add, a.y);
  if (!wide) LAUNCH(fwd_plain<T>, ij_blocks(R, 1, 1 << 30), PLAIN_THREADS, 0, c->stream, R, D, a);
  else if (D <= 256) launch_fwd<T, 2>(c, R, D, a);
  else if (D <= 384) launch_fwd<T, 3>(c, R, D, a);
  else if (D <= 768) launch_fwd<T, 6>(c, R, D, a);
  else if (D <= 1024) launch_fwd<T, 8>(c, R, D, a);
  else if (D <= 1280) launch_fwd<T, 10>(c, R, D, a);
  else if (D <= 1536) launch_fwd<T, 12>(c, R, D, a);
  else launch_fwd<T, 16>(c, R, D, a);
  return ij_cuda_launched("norm_fwd");
}
extern "C" ij_status ij_cuda_norm_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *x, const void *add,
                                      const float *add_b, const float *w, const float *b, float eps, float *sum,
                                      void *y, float *mean, float *rstd) {
  typedef __nv_bfloat16 T;
  if (R == 0) return IJ_OK;
  if (dt == IJ_BF16) return fwd_of<T>(q, R, D, {x, (const T *)add, add_b, w, b, eps, sum, (T *)y, mean, rstd});
  return fwd_of<float>(q, R, D, {x, (const float *)add, add_b, w, b, eps, sum, (float *)y, mean, rstd});
}

/* ---- backward --------------------------------------------------------------------------------------------------- */
template <class T> struct backward { /* the op's arguments; dx may be res */
  const float *s, *mean, *rstd, *w;
  const T *dy;
  const float *res;
  float *dx;
  T *dx_dt;
  float *dw, *db;
};

/* With n = (s - mean) rstd and g = dy w: dx = res + rstd (g - mean of g - n mean of g n). A block takes GROUP rows at a
 * time; thread t has columns 4 t .. 4 t + 3, D <= 4 blockDim.x. part (2, gridDim.x, D): the block's terms of dw, db;
 * NULL: not wanted. */
template <class T>
static __global__ void __launch_bounds__(MOST_WIDE / 4) bwd(ij_dim R, int D, const backward<T> a, float *part) {
  SHARED_ARRAY(float, sums, [2][MOST_WIDE / 128][2 * GROUP]); /* two buffers in alternation: one barrier per group */
  int d = 4 * (int)threadIdx.x, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, turn = 0;
  float w[4] = {1, 1, 1, 1}, dw[4] = {}, db[4] = {};
  if (a.w && d < D) ij_load(w, a.w + d);
  for (ij_dim first = (ij_dim)blockIdx.x * GROUP; first < R; first += (ij_dim)gridDim.x * GROUP, turn ^= 1) {
    float n[GROUP][4] = {}, g[GROUP][4] = {}, rstd[GROUP] = {}, sum[2 * GROUP] = {};
#pragma unroll
    for (int j = 0; j < GROUP; j++) {
      if (d >= D || first + j >= R) continue;
      float mean = a.mean[first + j];
      rstd[j] = a.rstd[first + j];
      ij_load(n[j], a.s + (first + j) * D + d);
      ij_load(g[j], a.dy + (first + j) * D + d);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        n[j][i] = (n[j][i] - mean) * rstd[j];
        dw[i] += g[j][i] * n[j][i];
        db[i] += g[j][i];
        g[j][i] *= w[i];
        sum[2 * j] += g[j][i];
        sum[2 * j + 1] += g[j][i] * n[j][i];
      }
    }
#pragma unroll
    for (int k = 0; k < 2 * GROUP; k++) {
      sum[k] = ij_warp_sum(sum[k]);
      if (threadIdx.x % 32 == 0) sums[turn][warp][k] = sum[k];
      sum[k] = 0;
    }
    __syncthreads();
    for (int i = 0; i < warps; i++)
#pragma unroll
      for (int k = 0; k < 2 * GROUP; k++) sum[k] += sums[turn][i][k];
#pragma unroll
    for (int j = 0; j < GROUP; j++) {
      if (d >= D || first + j >= R) continue;
      float dx[4] = {}, mean_g = sum[2 * j] / (float)D, mean_gn = sum[2 * j + 1] / (float)D;
      if (a.res) ij_load(dx, a.res + (first + j) * D + d);
#pragma unroll
      for (int i = 0; i < 4; i++) dx[i] += rstd[j] * (g[j][i] - mean_g - n[j][i] * mean_gn);
      ij_store(a.dx + (first + j) * D + d, dx);
      if (a.dx_dt) ij_store(a.dx_dt + (first + j) * D + d, dx);
    }
  }
  if (!part || d >= D) return;
  ij_store(part + (ij_dim)blockIdx.x * D + d, dw);
  ij_store(part + ((ij_dim)gridDim.x + blockIdx.x) * D + d, db);
}

template <class T>
static __global__ void __launch_bounds__(PLAIN_THREADS) bwd_plain(ij_dim R, ij_dim D, const backward<T> a) {
  for (ij_dim r = blockIdx.x; r < R; r += gridDim.x) {
    float mean = a.mean[r], rstd = a.rstd[r], sum_g = 0, sum_gn = 0;
    for (ij_dim d = threadIdx.x; d < D; d += PLAIN_THREADS) {
      float g = ij_get(a.dy, r * D + d) * (a.w ? a.w[d] : 1);
      sum_g += g;
      sum_gn += g * ((a.s[r * D + d] - mean) * rstd);
    }
    float mean_g = block_sum(sum_g) / (float)D;
    float mean_gn = block_sum(sum_gn) / (float)D;
    for (ij_dim d = threadIdx.x; d < D; d += PLAIN_THREADS) {
      float g = ij_get(a.dy, r * D + d) * (a.w ? a.w[d] : 1), n = (a.s[r * D + d] - mean) * rstd;
      float dx = (a.res ? a.res[r * D + d] : 0) + rstd * (g - mean_g - n * mean_gn);
      a.dx[r * D + d] = dx;
      if (a.dx_dt) ij_set(a.dx_dt, r * D + d, dx);
    }
  }
}
/* part (2, gridDim.y, D): the stripes' terms of dw and db */
template <class T>
static __global__ void __launch_bounds__(IJ_STRIPE_THREADS)
    bwd_sums(ij_dim R, ij_dim D, const backward<T> a, float *part) {
  ij_dim first = (ij_dim)blockIdx.x * 32, d = first + threadIdx.x % 32;
  float dw[1] = {}, db[1] = {};
  for (ij_dim r = (ij_dim)blockIdx.y * IJ_STRIPE_WARPS + threadIdx.x / 32; d < D && r < R;
       r += (ij_dim)gridDim.y * IJ_STRIPE_WARPS) {
    float g = ij_get(a.dy, r * D + d);
    dw[0] += g * ((a.s[r * D + d] - a.mean[r]) * a.rstd[r]);
    db[0] += g;
  }
  ij_stripe_sum(dw, first, D, part + (ij_dim)blockIdx.y * D);
  ij_stripe_sum(db, first, D, part + ((ij_dim)gridDim.y + blockIdx.y) * D);
}

template <class T> static ij_status bwd_of(ij_queue *q, ij_dim R, ij_dim D, const backward<T> &a) {
  ij_cuda *c = ij_cuda_of(q);
  bool wide = ij_norm_wide(D) && ij_aligned(16, a.s, a.w, a.res, a.dx) && ij_aligned(4 * sizeof(T), a.dy, a.dx_dt);
  unsigned threads = (unsigned)(D / 4 + 31) / 32 * 32, columns = (unsigned)((D + 31) / 32);
  unsigned blocks = (unsigned)ij_norm_bwd_blocks(c->sms, R, D, wide);
  float *part = NULL; /* (2, blocks, D) */
  if (a.dw || a.db) {
    part = (float *)ij_cuda_scratch(q, 0, ij_norm_bwd_scratch(c->sms, R, D, wide));
    if (!part) return IJ_ENOMEM;
  }
  if (wide) {
    LAUNCH(bwd<T>, blocks, threads, 0, c->stream, R, (int)D, a, part);
  } else {
    if (part) LAUNCH(bwd_sums<T>, dim3(columns, blocks), IJ_STRIPE_THREADS, 0, c->stream, R, D, a, part);
    LAUNCH(bwd_plain<T>, ij_blocks(R, 1, 1 << 30), PLAIN_THREADS, 0, c->stream, R, D, a);
  }
  if (a.dw) ij_cuda_rows_add(q, blocks, D, part, a.dw);
  if (a.db) ij_cuda_rows_add(q, blocks, D, part + (ij_dim)blocks * D, a.db);
  return ij_cuda_launched("norm_bwd");
}
extern "C" ij_status ij_cuda_norm_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean,
                                      const float *rstd, const float *w, const void *dy, const float *res, float *dx,
                                      void *dx_dt, float *dw, float *db) {
  typedef __nv_bfloat16 T;
  if (R == 0) return IJ_OK;
  if (dt == IJ_BF16) return bwd_of<T>(q, R, D, {s, mean, rstd, w, (const T *)dy, res, dx, (T *)dx_dt, dw, db});
  return bwd_of<float>(q, R, D, {s, mean, rstd, w, (const float *)dy, res, dx, (float *)dx_dt, dw, db});
}

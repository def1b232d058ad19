/* Matmuls by cuBLASLt, which is column-major: it sees a row-major matrix as its transpose, so c^T = B^T A^T is what it
 * is asked for, with b as its first operand. What it has no algorithm for (bf16 in odd widths or places, products of
 * nothing) is multiplied by a plain kernel here. */
#include "cuda_plans.h"

/* ---- what the library does not do ------------------------------------------------------------------------------- */
enum { TILE = 64, DEPTH = 16, EACH = 4, THREADS = 256 }; /* a thread has EACH x EACH of a tile of c */

typedef struct strides { /* of A by row and column, of B by row and column */
  ij_dim am, ak, bk, bn;
} strides;

/* tile [DEPTH][TILE]: elements (i0 + i, k0 + k) of x with strides si, sk; 0 outside of (I, K). Neighbouring threads
 * take neighbours in memory. */
template <class T>
__device__ static inline void tile_load(float (*tile)[TILE + 4], const T *x, ij_dim i0, ij_dim k0, ij_dim I, ij_dim K,
                                        ij_dim si, ij_dim sk) {
#pragma unroll
  for (int j = 0; j < TILE * DEPTH / THREADS; j++) {
    int at = (int)threadIdx.x + j * THREADS;
    int i = sk == 1 ? at / DEPTH : at % TILE, k = sk == 1 ? at % DEPTH : at / TILE;
    bool inside = i0 + i < I && k0 + k < K;
    tile[k][i] = inside ? ij_get(x, (i0 + i) * si + (k0 + k) * sk) : 0;
  }
}

/* A block per tile of c, in grid.x by row of tiles; products in grid.y. */
template <class In, class Out>
static __global__ void __launch_bounds__(THREADS)
    tiles(ij_dim P, ij_dim M, ij_dim N, ij_dim K, strides s, const In *a, const In *b, Out *c, int add) {
  SHARED_ARRAY_ALIGNED(16, float, as, [DEPTH][TILE + 4]);
  SHARED_ARRAY_ALIGNED(16, float, bs, [DEPTH][TILE + 4]);
  ij_dim across = (N + TILE - 1) / TILE, m0 = blockIdx.x / across * TILE, n0 = blockIdx.x % across * TILE;
  int mt = (int)threadIdx.x / 16 * EACH, nt = (int)threadIdx.x % 16 * EACH;
  for (ij_dim p = blockIdx.y; p < P; p += gridDim.y) {
    float sum[EACH][EACH] = {};
    for (ij_dim k0 = 0; k0 < K; k0 += DEPTH) {
      tile_load(as, a + p * M * K, m0, k0, M, K, s.am, s.ak);
      tile_load(bs, b + p * K * N, n0, k0, N, K, s.bn, s.bk);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < DEPTH; k++)
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
          for (int j = 0; j < EACH; j++) sum[i][j] += as[k][mt + i] * bs[k][nt + j];
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        ij_dim m = m0 + mt + i, n = n0 + nt + j, at = (p * M + m) * N + n;
        if (m < M && n < N) ij_set(c, at, add ? ij_get(c, at) + sum[i][j] : sum[i][j]);
      }
  }
}

template <class In, class Out>
static ij_status launch_tiles(ij_cuda *c, const ij_cuda_product *x, const void *a, const void *b, void *to) {
  ij_dim count = (x->M + TILE - 1) / TILE * ((x->N + TILE - 1) / TILE);
  strides s = {x->ta ? 1 : x->K, x->ta ? x->M : 1, x->tb ? 1 : x->N, x->tb ? x->K : 1};
  dim3 grid((unsigned)count, (unsigned)(x->P < 65535 ? x->P : 65535));
  LAUNCH((tiles<In, Out>), grid, THREADS, 0, c->stream, x->P, x->M, x->N, x->K, s, (const In *)a, (const In *)b,
         (Out *)to, x->add);
  return ij_cuda_launched("a product");
}
static ij_status multiply_plainly(ij_cuda *c, const ij_cuda_product *x, const void *a, const void *b, void *to) {
  typedef __nv_bfloat16 T;
  if (x->in == IJ_F32) return launch_tiles<float, float>(c, x, a, b, to);
  if (x->out == IJ_F32) return launch_tiles<T, float>(c, x, a, b, to);
  return launch_tiles<T, T>(c, x, a, b, to);
}

/* ---- */
ij_status ij_cuda_multiply(ij_queue *q, const ij_cuda_product *x, const void *a, const void *b, void *c, float *sums) {
  ij_cuda *cuda = ij_cuda_of(q);
  ij_plan *p = NULL;
  if (x->P * x->M * x->N == 0) return IJ_OK;
  if (cuda->plain_matmul && sums) return IJ_EUNSUPPORTED;
  if (x->K == 0 || cuda->plain_matmul) return multiply_plainly(cuda, x, a, b, c);
  ij_status st = ij_cuda_plan(q, x, a, b, c, sums, &p);
  if (st != IJ_OK) return st;
  cublasStatus_t e = CUBLAS_STATUS_NOT_SUPPORTED;
  if (!p->refused) {
    e = sums ? ij_cuda_plan_sums(cuda, p, sums) : CUBLAS_STATUS_SUCCESS;
    if (!e) e = ij_cuda_plan_run(cuda, p, &p->algorithm, a, b, c);
  }
  if (e == CUBLAS_STATUS_NOT_SUPPORTED) { /* it may also say so only now */
    p->refused = true;
    p->refusals++;
    return sums ? IJ_EUNSUPPORTED : multiply_plainly(cuda, x, a, b, c);
  }
  if (!e) return IJ_OK;
  return ij_cuda_host->fail(e == CUBLAS_STATUS_ALLOC_FAILED ? IJ_ENOMEM : IJ_EIO,
                            "cuda: cuBLASLt fails at a product of (%lld, %lld) and (%lld, %lld): %s", (long long)x->M,
                            (long long)x->K, (long long)x->K, (long long)x->N, cuda->blas->cublasLtGetStatusString(e));
}

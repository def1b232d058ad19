/* Matmuls by cublasLt, which is column-major: it sees a row-major matrix as its transpose, so c^T = B^T A^T is what it
 * is asked for, with b as its first operand.
 *
 * Asking for the best algorithm costs it tens of microseconds, and the number of rows changes with every step's masks:
 * the answers are kept by shape, in a table of fixed size whose oldest go. What it has no algorithm for (bf16 in odd
 * widths or places, products of nothing) is multiplied by a plain kernel here. */
#include "cuda_products.h"
#include "../cuda/memory.h"
#include <string.h>

/* ---- plans ------------------------------------------------------------------------------------------------------ */
enum { SETS = 512, WAYS = 4 };

typedef struct plan_key { /* all that the choice depends on; compared as bytes */
  ij_dim P, M, N, K;
  uint8_t ta, tb, add, in, out, sums;
  uint8_t align[3]; /* of a, b, c: 0 for 256 bytes, 1 for 16, 2 for an element */
  uint8_t none[7];
} plan_key;
typedef struct plan {
  plan_key key;
  uint64_t used; /* 0: empty */
  bool refused;  /* the library has no algorithm */
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
} plan;
struct ij_cuda_products {
  uint64_t clock;
  plan plans[SETS * WAYS];
};

static void plan_drop(plan *p) {
  if (p->product) cublasLtMatmulDescDestroy(p->product);
  if (p->a) cublasLtMatrixLayoutDestroy(p->a);
  if (p->b) cublasLtMatrixLayoutDestroy(p->b);
  if (p->c) cublasLtMatrixLayoutDestroy(p->c);
  memset(p, 0, sizeof *p);
}
void ij_cuda_plans_release(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  if (!c->products) return;
  for (int i = 0; i < SETS * WAYS; i++) plan_drop(&c->products->plans[i]);
  ij_cuda_host->free(c->products);
  c->products = NULL;
}

/* The slot of a key: its own, or the least recently used one of its set, then emptied. */
static plan *plan_of(ij_cuda_products *all, const plan_key *k) {
  uint64_t h = 0xcbf29ce484222325u;
  const uint64_t *words = (const uint64_t *)k;
  for (size_t i = 0; i < sizeof *k / 8; i++) h = (h ^ words[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
  plan *set = all->plans + h % SETS * WAYS, *oldest = set;
  for (plan *p = set; p < set + WAYS; p++) {
    if (p->used && !memcmp(&p->key, k, sizeof *k)) return p;
    if (p->used < oldest->used) oldest = p;
  }
  plan_drop(oldest);
  return oldest;
}

static cudaDataType_t type_of(unsigned dt) { return dt == IJ_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* A (rows, columns) matrix by row, P of them, as the library sees it */
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, unsigned dt, ij_dim rows, ij_dim columns, ij_dim P) {
  int32_t count = (int32_t)P;
  int64_t stride = rows * columns;
  cublasStatus_t st = cublasLtMatrixLayoutCreate(out, type_of(dt), (uint64_t)columns, (uint64_t)rows, columns);
  if (st || P == 1) return st;
  st = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  if (st) return st;
  return cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
}

static cublasStatus_t set(plan *p, cublasLtMatmulDescAttributes_t what, const void *value, size_t size) {
  return cublasLtMatmulDescSetAttribute(p->product, what, value, size);
}
static cublasStatus_t describe(plan *p, float *sums) {
  const plan_key *k = &p->key;
  int32_t first = k->tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = k->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_BGRADB; /* sums over the inner dimension of the library's B, our A */
  /* plain f32 for f32: none of the reduced types that the library could be allowed */
  cublasStatus_t st = cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (!st) st = set(p, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
  if (!st) st = set(p, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
  if (!st && sums) st = set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (!st && sums) st = set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &sums, sizeof sums);
  if (!st) st = layout(&p->a, k->in, k->ta ? k->K : k->M, k->ta ? k->M : k->K, k->P);
  if (!st) st = layout(&p->b, k->in, k->tb ? k->N : k->K, k->tb ? k->K : k->N, k->P);
  if (!st) st = layout(&p->c, k->out, k->M, k->N, k->P);
  return st;
}

/* The alignment of the operands is part of the query: the library assumes 256 bytes otherwise. */
static cublasStatus_t prefer(cublasLtMatmulPreference_t pref, const plan_key *k, size_t workspace) {
  uint32_t in = k->in == IJ_BF16 ? 2 : 4, out = k->out == IJ_BF16 ? 2 : 4;
  uint32_t bytes[3] = {in, in, out};
  for (int i = 0; i < 3; i++)
    if (k->align[i] < 2) bytes[i] = k->align[i] ? 16 : 256;
  const struct {
    cublasLtMatmulPreferenceAttributes_t what;
    uint32_t value;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes[1]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes[0]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes[2]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes[2]}};
  uint64_t most = workspace;
  cublasStatus_t st =
      cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  for (const auto &w : wishes)
    if (!st) st = cublasLtMatmulPreferenceSetAttribute(pref, w.what, &w.value, sizeof w.value);
  return st;
}

static ij_status failed(cublasStatus_t st, const plan_key *k) {
  return ij_cuda_host->fail(st == CUBLAS_STATUS_ALLOC_FAILED ? IJ_ENOMEM : IJ_EIO,
                            "cuda: cublas refuses a product of (%lld, %lld) and (%lld, %lld): %s", (long long)k->M,
                            (long long)k->K, (long long)k->K, (long long)k->N, cublasLtGetStatusString(st));
}

/* Asks the library; p->refused where it has no algorithm. */
static ij_status choose(ij_cuda *c, plan *p, float *sums) {
  cublasLtMatmulPreference_t pref = NULL;
  cublasLtMatmulHeuristicResult_t best = {};
  int found = 0;
  cublasStatus_t st = describe(p, sums);
  if (!st) st = cublasLtMatmulPreferenceCreate(&pref);
  if (!st) st = prefer(pref, &p->key, c->workspace_bytes);
  if (!st) {
    st = cublasLtMatmulAlgoGetHeuristic(c->lt, p->product, p->b, p->a, p->c, p->c, pref, 1, &best, &found);
    p->refused = st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE ||
                 (!st && (!found || best.state != CUBLAS_STATUS_SUCCESS));
    if (p->refused) st = CUBLAS_STATUS_SUCCESS;
  }
  p->algorithm = best.algo;
  if (pref) cublasLtMatmulPreferenceDestroy(pref);
  return st ? failed(st, &p->key) : IJ_OK;
}

static uint8_t align_of(const void *p) { return (uintptr_t)p % 16 ? 2 : (uintptr_t)p % 256 ? 1 : 0; }

static ij_status plan_get(ij_cuda *c, const ij_cuda_product *x, const void *a, const void *b, const void *d,
                          float *sums, plan **out) {
  plan_key k;
  memset(&k, 0, sizeof k);
  k.P = x->P, k.M = x->M, k.N = x->N, k.K = x->K;
  k.ta = x->ta, k.tb = x->tb, k.add = x->add, k.sums = sums != NULL;
  k.in = (uint8_t)x->in, k.out = (uint8_t)x->out;
  k.align[0] = align_of(a), k.align[1] = align_of(b), k.align[2] = align_of(d);
  if (!c->products) {
    c->products = (ij_cuda_products *)ij_cuda_host->alloc(sizeof *c->products);
    if (!c->products) return IJ_ENOMEM;
    memset(c->products, 0, sizeof *c->products);
  }
  plan *p = plan_of(c->products, &k);
  if (!p->used) {
    p->key = k;
    ij_status st = choose(c, p, sums);
    if (st != IJ_OK) {
      plan_drop(p);
      return st;
    }
  }
  p->used = ++c->products->clock;
  *out = p;
  return IJ_OK;
}

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
  static const float one = 1, zero = 0;
  ij_cuda *cuda = ij_cuda_of(q);
  if (x->P * x->M * x->N == 0) return IJ_OK;
  if (x->K == 0) return multiply_plainly(cuda, x, a, b, c);
  plan *p = NULL;
  ij_status st = plan_get(cuda, x, a, b, c, sums, &p);
  if (st != IJ_OK) return st;
  if (p->refused) return sums ? IJ_EUNSUPPORTED : multiply_plainly(cuda, x, a, b, c);
  cublasStatus_t e = sums ? set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &sums, sizeof sums) : CUBLAS_STATUS_SUCCESS;
  if (!e)
    e = cublasLtMatmul(cuda->lt, p->product, &one, b, p->b, a, p->a, x->add ? &one : &zero, c, p->c, c, p->c,
                       &p->algorithm, cuda->workspace, cuda->workspace_bytes, cuda->stream);
  return e ? failed(e, &p->key) : IJ_OK;
}

#include "cuda_plans.h"
#include <string.h>

/* The most plans that are kept: a run has some thousands (ViT-H/14: 57 lengths of contexts and 101 pairs of lengths).
 * One takes about 1 KiB. */
enum { FIRST = 1024, MOST = 1 << 16 };

struct ij_cuda_products {
  ij_plan **bucket;
  size_t buckets, count;
  uint64_t calls, refusals, dropped; /* of the plans that were dropped */
  ij_cuda_tune *tune;
};

static void plan_free(const ij_cuda *c, ij_plan *p) {
  if (p->product) c->blas->cublasLtMatmulDescDestroy(p->product);
  if (p->a) c->blas->cublasLtMatrixLayoutDestroy(p->a);
  if (p->b) c->blas->cublasLtMatrixLayoutDestroy(p->b);
  if (p->c) c->blas->cublasLtMatrixLayoutDestroy(p->c);
  ij_cuda_host->free(p);
}
static void drop_all(const ij_cuda *c) {
  ij_cuda_products *all = c->products;
  for (size_t i = 0; i < all->buckets; i++)
    for (ij_plan *p = all->bucket[i], *next; p; p = next) {
      next = p->next;
      all->calls += p->calls;
      all->refusals += p->refusals;
      plan_free(c, p);
    }
  if (all->bucket) memset(all->bucket, 0, all->buckets * sizeof(ij_plan *));
  all->dropped += all->count;
  all->count = 0;
}
void ij_cuda_plans_release(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  if (!c->products) return;
  drop_all(c);
  ij_cuda_tune_close(c->products->tune);
  ij_cuda_host->free(c->products->bucket);
  ij_cuda_host->free(c->products);
  c->products = NULL;
}

static uint64_t hash_of(const ij_plan_key *k) {
  uint64_t h = 0xcbf29ce484222325u;
  const uint64_t *words = (const uint64_t *)k;
  for (size_t i = 0; i < sizeof *k / 8; i++) h = (h ^ words[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
  return h;
}
/* Twice as many buckets, once there are as many plans. Without memory for them the chains become longer. */
static void grow(ij_cuda_products *all) {
  size_t buckets = all->buckets ? 2 * all->buckets : (size_t)FIRST;
  if (all->count < all->buckets) return;
  ij_plan **bucket = (ij_plan **)ij_cuda_host->alloc(buckets * sizeof *bucket);
  if (!bucket) return;
  memset(bucket, 0, buckets * sizeof *bucket);
  for (size_t i = 0; i < all->buckets; i++)
    for (ij_plan *p = all->bucket[i], *next; p; p = next) {
      ij_plan **to = &bucket[hash_of(&p->key) % buckets];
      next = p->next;
      p->next = *to;
      *to = p;
    }
  ij_cuda_host->free(all->bucket);
  all->bucket = bucket;
  all->buckets = buckets;
}

/* ---- asking the library ------------------------------------------------------------------------------------------ */
static cudaDataType_t type_of(unsigned dt) { return dt == IJ_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* A (rows, columns) matrix by row, P of them, as the library sees it */
static cublasStatus_t layout(const ij_cuda_blas *lib, cublasLtMatrixLayout_t *out, unsigned dt, ij_dim rows,
                             ij_dim columns, ij_dim P) {
  int32_t count = (int32_t)P;
  int64_t stride = rows * columns;
  cublasStatus_t st = lib->cublasLtMatrixLayoutCreate(out, type_of(dt), (uint64_t)columns, (uint64_t)rows, columns);
  if (st || P == 1) return st;
  st = lib->cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  if (st) return st;
  return lib->cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                               sizeof stride);
}

static cublasStatus_t set(const ij_cuda_blas *lib, ij_plan *p, cublasLtMatmulDescAttributes_t what, const void *value,
                          size_t size) {
  return lib->cublasLtMatmulDescSetAttribute(p->product, what, value, size);
}
cublasStatus_t ij_cuda_plan_sums(const ij_cuda *c, ij_plan *p, float *sums) {
  return set(c->blas, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &sums, sizeof sums);
}
static cublasStatus_t describe(const ij_cuda *c, ij_plan *p, float *sums) {
  const ij_cuda_blas *lib = c->blas;
  const ij_plan_key *k = &p->key;
  int32_t first = k->tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = k->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_BGRADB; /* sums over the inner dimension of the library's B, our A */
  /* plain f32 for f32: none of the reduced types that the library could be allowed */
  cublasStatus_t st = lib->cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (!st) st = set(lib, p, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
  if (!st) st = set(lib, p, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
  if (!st && sums) st = set(lib, p, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (!st && sums) st = ij_cuda_plan_sums(c, p, sums);
  if (!st) st = layout(lib, &p->a, k->in, k->ta ? k->K : k->M, k->ta ? k->M : k->K, k->P);
  if (!st) st = layout(lib, &p->b, k->in, k->tb ? k->N : k->K, k->tb ? k->K : k->N, k->P);
  if (!st) st = layout(lib, &p->c, k->out, k->M, k->N, k->P);
  return st;
}

/* The alignment of the operands is part of the query: the library assumes 256 bytes otherwise. Where it splits K, parts
 * are added in f32: by default it may add them in the result's bf16. */
static cublasStatus_t prefer(const ij_cuda *c, cublasLtMatmulPreference_t pref, const ij_plan_key *k) {
  uint32_t in = k->in == IJ_BF16 ? 2 : 4, out = k->out == IJ_BF16 ? 2 : 4;
  uint32_t bytes[3] = {in, in, out};
  for (int i = 0; i < 3; i++)
    if (k->align[i] < 2) bytes[i] = k->align[i] ? 16 : 256;
  const struct {
    cublasLtMatmulPreferenceAttributes_t what;
    uint32_t value;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, bytes[1]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, bytes[0]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, bytes[2]},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, bytes[2]}};
  uint64_t most = c->workspace_bytes;
  cublasStatus_t st =
      c->blas->cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  for (const auto &w : wishes)
    if (!st) st = c->blas->cublasLtMatmulPreferenceSetAttribute(pref, w.what, &w.value, sizeof w.value);
  return st;
}

/* Asks the library; p->refused where it has no algorithm. */
static ij_status choose(ij_queue *q, ij_plan *p, const void *a, const void *b, float *sums) {
  ij_cuda *c = ij_cuda_of(q);
  const ij_cuda_blas *lib = c->blas;
  ij_cuda_tune *tune = c->products->tune;
  cublasLtMatmulPreference_t pref = NULL;
  cublasLtMatmulHeuristicResult_t all[IJ_CANDIDATES] = {};
  int found = 0;
  cublasStatus_t st = describe(c, p, sums);
  if (!st) st = lib->cublasLtMatmulPreferenceCreate(&pref);
  if (!st) st = prefer(c, pref, &p->key);
  if (!st) {
    st = lib->cublasLtMatmulAlgoGetHeuristic(c->blas->handle, p->product, p->b, p->a, p->c, p->c, pref,
                                             tune ? IJ_CANDIDATES : 1, all, &found);
    p->refused = st == CUBLAS_STATUS_NOT_SUPPORTED || st == CUBLAS_STATUS_INVALID_VALUE ||
                 (!st && (!found || all[0].state != CUBLAS_STATUS_SUCCESS));
    if (p->refused) st = CUBLAS_STATUS_SUCCESS;
  }
  if (pref) lib->cublasLtMatmulPreferenceDestroy(pref);
  if (st)
    return ij_cuda_host->fail(st == CUBLAS_STATUS_ALLOC_FAILED ? IJ_ENOMEM : IJ_EIO,
                              "cuda: cuBLASLt does not plan a product of (%lld, %lld) and (%lld, %lld): %s",
                              (long long)p->key.M, (long long)p->key.K, (long long)p->key.K, (long long)p->key.N,
                              lib->cublasLtGetStatusString(st));
  p->algorithm = all[0].algo;
  return tune && !p->refused ? ij_cuda_tune_choose(q, tune, p, all, found, a, b) : IJ_OK;
}

/* ---- */
static ij_status open_products(ij_cuda *c) {
  if (c->products) return IJ_OK;
  ij_cuda_products *all = (ij_cuda_products *)ij_cuda_host->alloc(sizeof *all);
  if (!all) return IJ_ENOMEM;
  memset(all, 0, sizeof *all);
  ij_status st = ij_cuda_tune_open(c, &all->tune);
  if (st == IJ_OK) c->products = all;
  else ij_cuda_host->free(all);
  return st;
}
static uint8_t align_of(const void *p) { return (uintptr_t)p % 16 ? 2 : (uintptr_t)p % 256 ? 1 : 0; }

ij_status ij_cuda_plan(ij_queue *q, const ij_cuda_product *x, const void *a, const void *b, const void *d, float *sums,
                       ij_plan **out) {
  ij_cuda *c = ij_cuda_of(q);
  ij_plan_key k;
  memset(&k, 0, sizeof k);
  k.P = x->P, k.M = x->M, k.N = x->N, k.K = x->K;
  k.ta = x->ta, k.tb = x->tb, k.add = x->add, k.sums = sums != NULL;
  k.in = (uint8_t)x->in, k.out = (uint8_t)x->out;
  k.align[0] = align_of(a), k.align[1] = align_of(b), k.align[2] = align_of(d);
  ij_status st = open_products(c);
  if (st != IJ_OK) return st;
  ij_cuda_products *all = c->products;
  if (all->count >= MOST) drop_all(c);
  grow(all);
  if (!all->buckets) return IJ_ENOMEM;
  ij_plan **first = &all->bucket[hash_of(&k) % all->buckets], *p = *first;
  while (p && memcmp(&p->key, &k, sizeof k)) p = p->next;
  if (!p) {
    if (!(p = (ij_plan *)ij_cuda_host->alloc(sizeof *p))) return IJ_ENOMEM;
    memset(p, 0, sizeof *p);
    p->key = k;
    if ((st = choose(q, p, a, b, sums)) != IJ_OK) {
      plan_free(c, p);
      return st;
    }
    p->next = *first;
    *first = p;
    all->count++;
  }
  p->calls++;
  *out = p;
  return IJ_OK;
}

cublasStatus_t ij_cuda_plan_run(const ij_cuda *c, const ij_plan *p, const cublasLtMatmulAlgo_t *a, const void *x,
                                const void *y, void *to) {
  static const float one = 1, zero = 0;
  return c->blas->cublasLtMatmul(c->blas->handle, p->product, &one, y, p->b, x, p->a, p->key.add ? &one : &zero, to,
                                 p->c, to, p->c, a, c->workspace, c->workspace_bytes, c->stream);
}

bool ij_cuda_plans_report(ij_cuda *c, struct ij_cuda_text *out) {
  static const char *const aligned[] = {"256", "16", "element"};
  ij_cuda_products *all = c->products;
  uint64_t calls = all ? all->calls : 0, refusals = all ? all->refusals : 0;
  for (size_t i = 0; all && i < all->buckets; i++)
    for (const ij_plan *p = all->bucket[i]; p; p = p->next) {
      const ij_plan_key *k = &p->key;
      calls += p->calls;
      refusals += p->refusals;
      if (p->refusals &&
          !ij_cuda_say(out, "matmul\t%lld\t%lld\t%lld\t%lld\t%s %s\t%c%c%s%s %s,%s,%s\t%llu\t%llu\n", (long long)k->P,
                       (long long)k->M, (long long)k->N, (long long)k->K, k->in == IJ_BF16 ? "bf16" : "f32",
                       k->out == IJ_BF16 ? "bf16" : "f32", k->ta ? 't' : 'n', k->tb ? 't' : 'n', k->add ? "+" : "",
                       k->sums ? "s" : "", aligned[k->align[0]], aligned[k->align[1]], aligned[k->align[2]],
                       (unsigned long long)p->calls, (unsigned long long)p->refusals))
        return false;
    }
  return ij_cuda_say(out, "matmuls\t%llu\t%llu\t%llu\n", (unsigned long long)(all ? all->count + all->dropped : 0),
                     (unsigned long long)calls, (unsigned long long)refusals);
}

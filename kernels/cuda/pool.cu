#include "pool.h"
#include "memory.h"
#include <string.h>

/* Sizes of the plain allocator: eight to a doubling, so that at most an eighth is lost and blocks of one size are
 * interchangeable; lengths vary from step to step. */
enum { STEPS = 16, DOUBLINGS = 36 };

typedef struct spare {
  struct spare *next;
  void *p;
} spare;
struct ij_cuda_pool {
  bool plain;
  cudaMemPool_t driver;
  spare *list[STEPS * DOUBLINGS];
  uint64_t held, top; /* bytes of cudaMalloc's: now, and the peak */
};

/* The size of the block for n bytes, and its list. What it gives is its own size: a block is found by either. */
static size_t rounded(size_t n, int *which) {
  size_t step = IJ_POOL_UNIT;
  int doubling = 0;
  while (16 * step <= n) step *= 2, doubling++;
  n = (n + step - 1) / step * step;
  if (n == 16 * step) step *= 2, doubling++;
  *which = doubling * STEPS + (int)(n / step);
  return n;
}

cudaError_t ij_cuda_pool_open(ij_cuda *c) {
  int pools = 0;
  uint64_t keep = UINT64_MAX; /* the pool gives nothing back to the driver between steps */
  c->pool = (ij_cuda_pool *)ij_cuda_host->alloc(sizeof *c->pool);
  if (!c->pool) return cudaErrorMemoryAllocation;
  memset(c->pool, 0, sizeof *c->pool);
  cudaError_t e = cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, c->device);
  c->pool->plain = !pools;
  if (e != cudaSuccess || !pools) return e;
  e = cudaDeviceGetDefaultMemPool(&c->pool->driver, c->device);
  return e == cudaSuccess ? cudaMemPoolSetAttribute(c->pool->driver, cudaMemPoolAttrReleaseThreshold, &keep) : e;
}

static void release_spare(ij_cuda_pool *pool) {
  for (int i = 0; i < STEPS * DOUBLINGS; i++)
    while (pool->list[i]) {
      spare *s = pool->list[i];
      pool->list[i] = s->next;
      pool->held -= (size_t)(i % STEPS) * ((size_t)IJ_POOL_UNIT << i / STEPS);
      cudaFree(s->p);
      ij_cuda_host->free(s);
    }
}
void ij_cuda_pool_trim(ij_cuda *c) {
  cudaStreamSynchronize(c->stream);
  if (c->pool->plain) release_spare(c->pool);
  else cudaMemPoolTrimTo(c->pool->driver, 0);
}
void ij_cuda_pool_close(ij_cuda *c) {
  if (!c->pool) return;
  release_spare(c->pool);
  ij_cuda_host->free(c->pool);
  c->pool = NULL;
}

cudaError_t ij_cuda_pool_take(ij_cuda *c, size_t bytes, void **out) {
  ij_cuda_pool *pool = c->pool;
  if (!pool->plain) return cudaMallocAsync(out, bytes, c->stream);
  int which;
  size_t n = rounded(bytes, &which);
  spare *s = pool->list[which];
  if (s) {
    pool->list[which] = s->next;
    *out = s->p;
    ij_cuda_host->free(s);
    return cudaSuccess;
  }
  cudaError_t e = cudaMalloc(out, n);
  if (e == cudaSuccess) pool->held += n;
  if (pool->held > pool->top) pool->top = pool->held;
  return e;
}
void ij_cuda_pool_give(ij_cuda *c, void *p, size_t bytes) {
  if (!c->pool->plain) {
    cudaFreeAsync(p, c->stream);
    return;
  }
  int which;
  size_t n = rounded(bytes, &which);
  spare *s = (spare *)ij_cuda_host->alloc(sizeof *s);
  if (!s) { /* not to be remembered: the driver takes it, when the GPU has finished */
    cudaFree(p);
    c->pool->held -= n;
    return;
  }
  s->p = p;
  s->next = c->pool->list[which];
  c->pool->list[which] = s;
}

void ij_cuda_pool_info(ij_cuda *c, ij_device_info *out) {
  const ij_cuda_pool *pool = c->pool;
  if (pool->plain) {
    out->memory_held = pool->held;
    out->memory_held_top = pool->top;
    return;
  }
  cudaMemPoolGetAttribute(pool->driver, cudaMemPoolAttrReservedMemCurrent, &out->memory_held);
  cudaMemPoolGetAttribute(pool->driver, cudaMemPoolAttrReservedMemHigh, &out->memory_held_top);
  cudaMemPoolGetAttribute(pool->driver, cudaMemPoolAttrUsedMemHigh, &out->memory_pool_top);
}
const char *ij_cuda_pool_name(const ij_cuda *c) {
  return c->pool->plain ? "cudaMalloc (this GPU has no memory pools)" : "the driver's memory pool";
}

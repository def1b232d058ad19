/* bf16 copies of weights. The w of a matmul is f32 and stays the same for a step: it is converted once for all products
 * of its version, or by update in the pass that makes the version. A copy that no product has asked for in some steps
 * (its model is gone, or rests) is dropped: to make it again costs less than a thousandth of a step.
 *
 * Entries go by address and number of elements. Memory that became another tensor's is known by its version, which is
 * never the same twice in a process. */
#include "../cuda/memory.h"
#include "../cuda/vector.h"
#include <string.h>

/* A step of three models asks some 500 times (ViT-H: 130 weights of the encoder, forward and backward, as many of the
 * target, 50 of the predictor). */
enum { BUCKETS = 1024, REST = 4096, SWEEP = 1024, THREADS = 256, EACH = 8 };

typedef struct copy {
  struct copy *next;
  const float *w;
  ij_dim n;
  uint64_t version, used; /* used: the time of the last matmul */
  void *data;
} copy;
struct ij_cuda_weights {
  uint64_t clock, bytes; /* bytes: of all copies */
  copy *bucket[BUCKETS];
};

static __global__ void __launch_bounds__(THREADS) to_bf16(ij_dim n, int wide, const float *w, __nv_bfloat16 *y) {
  for (ij_dim i = ((ij_dim)blockIdx.x * THREADS + threadIdx.x) * EACH; i < n; i += (ij_dim)gridDim.x * THREADS * EACH) {
    if (wide && i + EACH <= n) {
      float v[EACH];
      ij_load(v, w + i);
      ij_store(y + i, v);
    } else {
      for (ij_dim k = i; k < n && k < i + EACH; k++) y[k] = __float2bfloat16(w[k]);
    }
  }
}
static void convert(ij_queue *q, const float *w, ij_dim n, void *y) {
  ij_cuda *c = ij_cuda_of(q);
  LAUNCH(to_bf16, ij_blocks(n, THREADS * EACH, 16 * c->sms), THREADS, 0, c->stream, n, ij_aligned(16, w), w,
         (__nv_bfloat16 *)y);
}

/* ---- entries: what p points to leads to the next one, so that one can be taken out */
static copy **place_of(ij_cuda_weights *all, const float *w) {
  copy **p = &all->bucket[((uintptr_t)w >> 2) * (size_t)0x9e3779b97f4a7c15u >> 54];
  while (*p && (*p)->w != w) p = &(*p)->next;
  return p;
}
static void drop(ij_queue *q, copy **p) {
  copy *e = *p;
  *p = e->next;
  ij_cuda_of(q)->weights->bytes -= ij_pool_bytes(ij_weight_bytes(e->n));
  ij_cuda_free(q, e->data); /* in the order of the stream: after the matmuls that read it */
  ij_cuda_host->free(e);
}
/* Those not used since the clock's time `since` */
static void drop_before(ij_queue *q, uint64_t since) {
  ij_cuda_weights *all = ij_cuda_of(q)->weights;
  for (int b = 0; b < BUCKETS; b++)
    for (copy **p = &all->bucket[b]; *p;)
      if ((*p)->used < since) drop(q, p);
      else p = &(*p)->next;
}
static copy *add(ij_queue *q, const float *w, ij_dim n) {
  ij_cuda_weights *all = ij_cuda_of(q)->weights;
  copy *e = (copy *)ij_cuda_host->alloc(sizeof *e);
  if (!e) return NULL;
  memset(e, 0, sizeof *e);
  e->w = w;
  e->n = n;
  if (ij_cuda_alloc(q, ij_weight_bytes(n), &e->data) != IJ_OK) {
    drop_before(q, UINT64_MAX); /* all have to be made again, one by one, but the step continues */
    if (ij_cuda_alloc(q, ij_weight_bytes(n), &e->data) != IJ_OK) {
      ij_cuda_host->free(e);
      return NULL;
    }
  }
  copy **p = place_of(all, w);
  e->next = *p;
  all->bytes += ij_pool_bytes(ij_weight_bytes(n));
  return *p = e;
}

static bool open_weights(ij_cuda *c) {
  if (c->weights) return true;
  c->weights = (ij_cuda_weights *)ij_cuda_host->alloc(sizeof *c->weights);
  if (c->weights) memset(c->weights, 0, sizeof *c->weights);
  return c->weights != NULL;
}

__nv_bfloat16 *ij_cuda_weight(ij_queue *q, const float *w, ij_dim n, uint64_t version) {
  ij_cuda *c = ij_cuda_of(q);
  if (!version) {
    void *y = ij_cuda_scratch(q, IJ_WEIGHT_SLOT, ij_weight_bytes(n));
    if (y) convert(q, w, n, y);
    return (__nv_bfloat16 *)y;
  }
  if (!open_weights(c)) return NULL;
  ij_cuda_weights *all = c->weights;
  if (++all->clock % SWEEP == 0 && all->clock > REST) drop_before(q, all->clock - REST);
  copy **p = place_of(all, w), *e = *p;
  if (e && e->n != n) {
    drop(q, p);
    e = NULL;
  }
  if (!e && !(e = add(q, w, n))) return NULL;
  if (e->version != version) convert(q, w, n, e->data);
  e->version = version;
  e->used = all->clock;
  return (__nv_bfloat16 *)e->data;
}

__nv_bfloat16 *ij_cuda_weight_renewed(ij_queue *q, const float *w, ij_dim n, uint64_t version) {
  ij_cuda_weights *all = ij_cuda_of(q)->weights;
  copy *e = all && version ? *place_of(all, w) : NULL;
  if (!e || e->n != n) return NULL;
  e->version = version;
  return (__nv_bfloat16 *)e->data;
}

uint64_t ij_cuda_weights_bytes(ij_queue *q) {
  ij_cuda_weights *all = ij_cuda_of(q)->weights;
  return all ? all->bytes : 0;
}

void ij_cuda_weights_release(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  if (!c->weights) return;
  drop_before(q, UINT64_MAX);
  ij_cuda_host->free(c->weights);
  c->weights = NULL;
}

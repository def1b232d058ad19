/* The optimizers' updates, the EMA and the bf16 copies that matmuls use, in one pass over many tensors: their
 * descriptions travel as the kernel's parameter (below the 4 KiB that every GPU takes), so that nothing is copied to
 * the GPU. Of AdamW an element moves p, g, m, v and avg in and out, 40 bytes, and 2 for each copy: memory bandwidth is
 * the limit to win. */
#include "../cuda/rows.h"
#include <math.h>

enum { THREADS = 256, CHUNK = 4096, ITEMS = 48 }; /* CHUNK: elements a block */

typedef struct item {
  float *p, *g, *m, *avg;
  union {
    float *v;           /* of AdamW */
    const float *ratio; /* of SGD; NULL: 1 */
  };
  __nv_bfloat16 *p16, *avg16; /* NULL: no copy is kept */
  ij_dim n;
  float decay, step;
  unsigned first; /* its first block */
  int wide;       /* all pointers are 16-byte aligned */
} item;
typedef struct batch {
  float gscale, beta1c, beta2c, correct2, eps, momc; /* small terms only, as on the CPU */
  float momentum;                                    /* of SGD */
  int nesterov, count;
  const float *gate;
  item items[ITEMS];
} batch;
static_assert(sizeof(batch) <= 4096, "a kernel's parameters");

template <int V>
__device__ static inline void sgd(const batch &t, const item &e, ij_dim i, float (&p)[V], float (&g)[V]) {
  float m[V], ratio = e.ratio ? *e.ratio : 1.0f, decay = ratio * e.decay;
  if (e.m) ij_load(m, e.m + i);
#pragma unroll
  for (int k = 0; k < V; k++) {
    float d = ratio * (g[k] * t.gscale) + decay * p[k];
    if (e.m) {
      m[k] = t.momentum * m[k] + d;
      d = t.nesterov ? t.momentum * m[k] + d : m[k];
    }
    p[k] -= e.step * d;
  }
  if (e.m) ij_store(e.m + i, m);
}

template <int V>
__device__ static inline void lion(const batch &t, const item &e, ij_dim i, float (&p)[V], float (&g)[V]) {
  float m[V];
  ij_load(m, e.m + i);
#pragma unroll
  for (int k = 0; k < V; k++) {
    float d = g[k] * t.gscale - m[k], c = m[k] + t.beta1c * d;
    m[k] += t.beta2c * d;
    p[k] -= e.decay * p[k] + e.step * (c > 0 ? 1.0f : c < 0 ? -1.0f : c); /* NaN stays NaN */
  }
  ij_store(e.m + i, m);
}

template <int V>
__device__ static inline void adamw(const batch &t, const item &e, ij_dim i, float (&p)[V], float (&g)[V]) {
  float m[V], v[V];
  ij_load(m, e.m + i);
  ij_load(v, e.v + i);
#pragma unroll
  for (int k = 0; k < V; k++) {
    g[k] *= t.gscale;
    m[k] += t.beta1c * (g[k] - m[k]);
    v[k] += t.beta2c * (g[k] * g[k] - v[k]);
    p[k] -= e.decay * p[k] + e.step * m[k] / (sqrtf(v[k] * t.correct2) + t.eps);
  }
  ij_store(e.m + i, m);
  ij_store(e.v + i, v);
}

/* Elements i .. i + V - 1. Where the gate is shut, copies are still made: they count as the new version's. */
template <int KIND, int V>
__device__ static inline void update_some(const batch &t, const item &e, bool shut, ij_dim i) {
  float p[V] = {}, g[V], a[V], zero[V] = {};
  if (!shut || e.p16) ij_load(p, e.p + i);
  if (!shut && e.g) {
    ij_load(g, e.g + i);
    if constexpr (KIND == IJ_UPDATE_ADAMW) adamw(t, e, i, p, g);
    else if constexpr (KIND == IJ_UPDATE_SGD) sgd(t, e, i, p, g);
    else lion(t, e, i, p, g);
    ij_store(e.p + i, p);
  }
  if (e.g) ij_store(e.g + i, zero);
  if (e.p16) ij_store(e.p16 + i, p);
  if (!e.avg || (shut && !e.avg16)) return;
  ij_load(a, e.avg + i);
  if (!shut) {
#pragma unroll
    for (int k = 0; k < V; k++) a[k] += t.momc * (p[k] - a[k]);
    ij_store(e.avg + i, a);
  }
  if (e.avg16) ij_store(e.avg16 + i, a);
}

/* The last item whose first block is not behind this one. */
template <class B> __device__ static inline int item_of_block(const B &t) {
  int at = 0;
  for (int step = 32; step; step >>= 1)
    if (at + step < t.count && t.items[at + step].first <= blockIdx.x) at += step;
  return at;
}

template <int KIND> static __global__ void __launch_bounds__(THREADS) update(const batch t) {
  bool shut = t.gate && (__float_as_uint(*t.gate) & 0x7f800000u) == 0x7f800000u; /* not finite */
  const item &e = t.items[item_of_block(t)];
  ij_dim from = (ij_dim)(blockIdx.x - e.first) * CHUNK, to = from + CHUNK < e.n ? from + CHUNK : e.n;
  for (ij_dim i = from + 4 * (ij_dim)threadIdx.x; i < to; i += 4 * THREADS) {
    if (e.wide && i + 4 <= to) update_some<KIND, 4>(t, e, shut, i);
    else
      for (ij_dim k = i; k < to && k < i + 4; k++) update_some<KIND, 1>(t, e, shut, k);
  }
}

static item describe(ij_queue *q, const ij_update_item *from, ij_update_kind kind, double correct1, unsigned first) {
  item e = {};
  e.p = from->p, e.g = from->g, e.m = from->m, e.avg = from->avg;
  if (kind == IJ_UPDATE_SGD) e.ratio = from->ratio;
  else e.v = from->v;
  e.p16 = ij_cuda_weight_renewed(q, from->p, from->n, from->version);
  if (e.avg) e.avg16 = ij_cuda_weight_renewed(q, from->avg, from->n, from->avg_version);
  e.n = from->n;
  e.decay = (float)(kind == IJ_UPDATE_SGD ? from->wd : from->lr * from->wd);
  e.step = (float)(from->lr / correct1);
  e.first = first;
  e.wide = ij_aligned(16, e.p, e.g, e.m, from->v, e.avg);
  return e;
}

extern "C" ij_status ij_cuda_update(ij_queue *q, ij_dim count, const ij_update_item *from, const ij_update *u) {
  auto kernel = u->kind == IJ_UPDATE_ADAMW ? update<IJ_UPDATE_ADAMW>
                : u->kind == IJ_UPDATE_SGD ? update<IJ_UPDATE_SGD>
                                           : update<IJ_UPDATE_LION>;
  double correct1 = u->kind == IJ_UPDATE_ADAMW ? 1 - pow(u->beta1, (double)u->t) : 1;
  batch b = {};
  b.gscale = (float)u->gscale;
  b.beta1c = (float)(1 - u->beta1);
  b.beta2c = (float)(1 - u->beta2);
  b.correct2 = (float)(1 / (1 - pow(u->beta2, (double)u->t)));
  b.eps = (float)u->eps;
  b.momc = (float)(1 - u->mom);
  b.momentum = (float)u->beta1;
  b.nesterov = u->nesterov;
  b.gate = u->gate;
  unsigned blocks = 0;
  for (ij_dim i = 0; i < count; i++) {
    if (from[i].n) {
      b.items[b.count++] = describe(q, &from[i], u->kind, correct1, blocks);
      blocks += (unsigned)((from[i].n + CHUNK - 1) / CHUNK);
    }
    if (b.count == 0 || (b.count < ITEMS && i + 1 < count)) continue;
    LAUNCH(kernel, blocks, THREADS, 0, ij_cuda_of(q)->stream, b);
    b.count = 0;
    blocks = 0;
  }
  return ij_cuda_launched("update");
}

/* ---- trust ratios: sums of each block's part of a tensor, then of these in their order ---- */
typedef struct norms_item {
  const float *p, *g;
  float *ratio;
  ij_dim n;
  float wd;
  unsigned first, blocks;
} norms_item;
typedef struct norms_batch {
  float gscale;
  double trust;
  int count;
  double *part; /* (blocks, 2) */
  norms_item items[ITEMS];
} norms_batch;
static_assert(sizeof(norms_batch) <= 4096, "a kernel's parameters");

static __global__ void __launch_bounds__(IJ_BLOCK) trust_parts(const norms_batch t) {
  const norms_item &e = t.items[item_of_block(t)];
  ij_dim from = (ij_dim)(blockIdx.x - e.first) * IJ_TRUST_CHUNK;
  ij_dim to = from + IJ_TRUST_CHUNK < e.n ? from + IJ_TRUST_CHUNK : e.n;
  double p2 = 0, d2 = 0;
  for (ij_dim i = from + (ij_dim)threadIdx.x; i < to; i += IJ_BLOCK) {
    double p = (double)e.p[i], d = (double)(t.gscale * e.g[i] + e.wd * e.p[i]);
    p2 += p * p;
    d2 += d * d;
  }
  p2 = ij_block_sum(p2);
  d2 = ij_block_sum(d2);
  if (threadIdx.x == 0) t.part[2 * blockIdx.x] = p2, t.part[2 * blockIdx.x + 1] = d2;
}
static __global__ void __launch_bounds__(IJ_BLOCK) trust_ratios(const norms_batch t) {
  const norms_item &e = t.items[blockIdx.x];
  double p2 = 0, d2 = 0;
  for (unsigned i = threadIdx.x; i < e.blocks; i += IJ_BLOCK) {
    p2 += t.part[2 * (e.first + i)];
    d2 += t.part[2 * (e.first + i) + 1];
  }
  p2 = ij_block_sum(p2);
  d2 = ij_block_sum(d2);
  if (threadIdx.x == 0) *e.ratio = p2 > 0 && d2 > 0 ? (float)(t.trust * sqrt(p2) / sqrt(d2)) : 1.0f;
}

extern "C" ij_status ij_cuda_trust(ij_queue *q, ij_dim count, const ij_update_item *from, double gscale, double trust) {
  size_t all = 0;
  for (ij_dim i = 0; i < count; i++) all += from[i].ratio ? ij_trust_blocks(from[i].n) : 0;
  if (!all) return IJ_OK;
  norms_batch b = {};
  b.gscale = (float)gscale;
  b.trust = trust;
  if (!(b.part = (double *)ij_cuda_scratch(q, 0, ij_trust_scratch(all)))) return IJ_ENOMEM;
  unsigned blocks = 0;
  for (ij_dim i = 0; i < count; i++) {
    if (from[i].ratio) {
      norms_item e = {from[i].p, from[i].g, from[i].ratio, from[i].n, (float)from[i].wd, blocks, 0};
      e.blocks = (unsigned)ij_trust_blocks(e.n);
      b.items[b.count++] = e;
      blocks += e.blocks;
    }
    if (b.count == 0 || (b.count < ITEMS && i + 1 < count)) continue;
    LAUNCH(trust_parts, blocks, IJ_BLOCK, 0, ij_cuda_of(q)->stream, b);
    LAUNCH(trust_ratios, (unsigned)b.count, IJ_BLOCK, 0, ij_cuda_of(q)->stream, b);
    b.count = 0;
    blocks = 0;
  }
  return ij_cuda_launched("trust");
}

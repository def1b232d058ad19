/* AdamW, the EMA and the bf16 copies that matmuls use, in one pass over many tensors: their descriptions
 * travel as the kernel's parameter (below the 4 KiB that every GPU takes), so that nothing is copied to the GPU. An
 * element moves p, g, m, v and avg in and out, 40 bytes, and 2 for each copy: memory bandwidth is the limit to
 * win. */
#include "../cuda/cuda.h"
#include "../cuda/vector.h"
#include <math.h>

enum { THREADS = 256, CHUNK = 4096, ITEMS = 48 }; /* CHUNK: elements a block */

typedef struct item {
  float *p, *g, *m, *v, *avg;
  __nv_bfloat16 *p16, *avg16; /* NULL: no copy is kept */
  ij_dim n;
  float decay, step;
  unsigned first; /* its first block */
  int wide;       /* all pointers are 16-byte aligned */
} item;
typedef struct batch {
  float gscale, beta1c, beta2c, correct2, eps, momc; /* small terms only, as on the CPU */
  int count;
  const float *gate;
  item items[ITEMS];
} batch;
static_assert(sizeof(batch) <= 4096, "a kernel's parameters");

/* Elements i .. i + V - 1. Where the gate is shut, copies are still made: they count as the new version's. */
template <int V> __device__ static inline void update(const batch &t, const item &e, bool shut, ij_dim i) {
  float p[V] = {}, g[V], m[V], v[V], zero[V] = {};
  if (!shut || e.p16) ij_load(p, e.p + i);
  if (!shut) {
    ij_load(g, e.g + i);
    ij_load(m, e.m + i);
    ij_load(v, e.v + i);
#pragma unroll
    for (int k = 0; k < V; k++) {
      g[k] *= t.gscale;
      m[k] += t.beta1c * (g[k] - m[k]);
      v[k] += t.beta2c * (g[k] * g[k] - v[k]);
      p[k] -= e.decay * p[k] + e.step * m[k] / (sqrtf(v[k] * t.correct2) + t.eps);
    }
    ij_store(e.p + i, p);
    ij_store(e.m + i, m);
    ij_store(e.v + i, v);
  }
  ij_store(e.g + i, zero);
  if (e.p16) ij_store(e.p16 + i, p);
  if (!e.avg || (shut && !e.avg16)) return;
  ij_load(m, e.avg + i);
  if (!shut) {
#pragma unroll
    for (int k = 0; k < V; k++) m[k] += t.momc * (p[k] - m[k]);
    ij_store(e.avg + i, m);
  }
  if (e.avg16) ij_store(e.avg16 + i, m);
}

static __global__ void __launch_bounds__(THREADS) adamw(const batch t) {
  bool shut = t.gate && (__float_as_uint(*t.gate) & 0x7f800000u) == 0x7f800000u; /* not finite */
  int at = 0; /* the last item whose first block is not behind this one */
  for (int step = 32; step; step >>= 1)
    if (at + step < t.count && t.items[at + step].first <= blockIdx.x) at += step;
  const item &e = t.items[at];
  ij_dim from = (ij_dim)(blockIdx.x - e.first) * CHUNK, to = from + CHUNK < e.n ? from + CHUNK : e.n;
  for (ij_dim i = from + 4 * (ij_dim)threadIdx.x; i < to; i += 4 * THREADS) {
    if (e.wide && i + 4 <= to) update<4>(t, e, shut, i);
    else
      for (ij_dim k = i; k < to && k < i + 4; k++) update<1>(t, e, shut, k);
  }
}

static item describe(ij_queue *q, const ij_adamw_item *from, double correct1, unsigned first) {
  item e = {};
  e.p = from->p, e.g = from->g, e.m = from->m, e.v = from->v, e.avg = from->avg;
  e.p16 = ij_cuda_weight_renewed(q, from->p, from->n, from->version);
  if (e.avg) e.avg16 = ij_cuda_weight_renewed(q, from->avg, from->n, from->avg_version);
  e.n = from->n;
  e.decay = (float)(from->lr * from->wd);
  e.step = (float)(from->lr / correct1);
  e.first = first;
  e.wide = ij_aligned(16, e.p, e.g, e.m, e.v, e.avg);
  return e;
}

extern "C" ij_status ij_cuda_adamw(ij_queue *q, ij_dim count, const ij_adamw_item *from, ij_dim t, double beta1,
                                   double beta2, double eps, double gscale, double mom, const float *gate) {
  double correct1 = 1 - pow(beta1, (double)t);
  batch b = {};
  b.gscale = (float)gscale;
  b.beta1c = (float)(1 - beta1);
  b.beta2c = (float)(1 - beta2);
  b.correct2 = (float)(1 / (1 - pow(beta2, (double)t)));
  b.eps = (float)eps;
  b.momc = (float)(1 - mom);
  b.gate = gate;
  unsigned blocks = 0;
  for (ij_dim i = 0; i < count; i++) {
    if (from[i].n) {
      b.items[b.count++] = describe(q, &from[i], correct1, blocks);
      blocks += (unsigned)((from[i].n + CHUNK - 1) / CHUNK);
    }
    if (b.count == 0 || (b.count < ITEMS && i + 1 < count)) continue;
    LAUNCH(adamw, blocks, THREADS, 0, ij_cuda_of(q)->stream, b);
    b.count = 0;
    blocks = 0;
  }
  return ij_cuda_launched("adamw");
}

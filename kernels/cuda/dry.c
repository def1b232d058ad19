/* The device "dry": a GPU's memory without a GPU. It hands out addresses, computes nothing, and records what the
 * plug-in would take for the same calls: tensors, bf16 copies of weights, scratch (by costs.h) and staging buffers. */
#include "costs.h"
#include <stdio.h>
#include <string.h>

enum { SMS = 132 }; /* of an H100; scratch for partial sums grows with it, a few MiB in all */

typedef struct weight { /* a weight that has a copy in bf16 */
  struct weight *next;
  const float *w;
  ij_dim n;
  void *copy;
} weight;
typedef struct block { /* an allocation: an address, and bytes; 0: freed */
  uintptr_t address;
  size_t bytes;
} block;
typedef struct dry {
  uint64_t used, top, weight_bytes;
  uintptr_t next; /* the address after all blocks: none is given twice, and what lies inside a block is no other's */
  block *blocks;  /* by address */
  size_t n_blocks, blocks_max, live;
  void *workspace;
  ij_stage_counts counts;
  size_t stage[IJ_STAGES]; /* bytes */
  weight *weights;
} dry;

/* ---- memory */
static ij_status blocks_reserve(dry *d) {
  if (d->n_blocks < d->blocks_max) return IJ_OK;
  if (2 * d->live < d->n_blocks) {
    size_t n = 0;
    for (size_t i = 0; i < d->n_blocks; i++)
      if (d->blocks[i].bytes) d->blocks[n++] = d->blocks[i];
    d->n_blocks = n;
    return IJ_OK;
  }
  size_t most = d->blocks_max ? 2 * d->blocks_max : 1024;
  block *grown = ij_calloc(most, sizeof *grown);
  if (!grown) return IJ_ENOMEM;
  if (d->n_blocks) memcpy(grown, d->blocks, d->n_blocks * sizeof *grown);
  ij_free(d->blocks);
  d->blocks = grown;
  d->blocks_max = most;
  return IJ_OK;
}
static ij_status dry_alloc(ij_queue *q, size_t bytes, void **out) {
  dry *d = q->stream;
  *out = NULL;
  IJ_TRY(blocks_reserve(d));
  bytes = ij_pool_bytes(bytes);
  d->blocks[d->n_blocks++] = (block){d->next, bytes};
  d->live++;
  *out = (void *)d->next;
  d->next += bytes;
  d->used += bytes;
  if (d->used > d->top) d->top = d->used;
  return IJ_OK;
}
static void dry_free(ij_queue *q, void *p) {
  dry *d = q->stream;
  size_t low = 0, high = d->n_blocks;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (d->blocks[mid].address < (uintptr_t)p) low = mid + 1;
    else high = mid;
  }
  if (!p || low == d->n_blocks || d->blocks[low].address != (uintptr_t)p || !d->blocks[low].bytes) return;
  d->used -= d->blocks[low].bytes;
  d->blocks[low].bytes = 0;
  d->live--;
}
static ij_status scratch(ij_queue *q, int slot, size_t bytes) {
  if (q->slot[slot] && q->slot_bytes[slot] >= bytes) return IJ_OK;
  dry_free(q, q->slot[slot]);
  q->slot[slot] = NULL;
  q->slot_bytes[slot] = 0;
  bytes = ij_scratch_bytes(bytes);
  IJ_TRY(dry_alloc(q, bytes, &q->slot[slot]));
  q->slot_bytes[slot] = bytes;
  return IJ_OK;
}
/* Copies are never dropped, as on a GPU within the 4096 uses after which an unused one is. */
static ij_status bf16_copy(ij_queue *q, ij_dtype dt, const float *w, ij_dim n, uint64_t version) {
  dry *d = q->stream;
  if (dt != IJ_BF16) return IJ_OK;
  if (!version) return scratch(q, IJ_WEIGHT_SLOT, ij_weight_bytes(n));
  for (weight *e = d->weights; e; e = e->next)
    if (e->w == w && e->n == n) return IJ_OK;
  weight *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  *e = (weight){d->weights, w, n, NULL};
  d->weights = e;
  d->weight_bytes += ij_pool_bytes(ij_weight_bytes(n));
  return dry_alloc(q, ij_weight_bytes(n), &e->copy);
}

static void dry_close(ij_queue *q) {
  dry *d = q->stream;
  for (weight *e = d->weights, *next; e; e = next) {
    next = e->next;
    dry_free(q, e->copy);
    ij_free(e);
  }
  for (size_t i = 0; i < sizeof q->slot / sizeof *q->slot; i++) dry_free(q, q->slot[i]);
  dry_free(q, d->workspace);
  ij_free(d->blocks);
  ij_free(d);
  *q = (ij_queue){0};
}
static ij_status dry_open(int index, ij_queue *q) {
  (void)index;
  dry *d = q->stream = ij_calloc(1, sizeof(dry));
  if (!d) return IJ_ENOMEM;
  d->next = 1 << 16; /* not NULL */
  ij_status st = dry_alloc(q, IJ_CUDA_WORKSPACE, &d->workspace);
  if (st != IJ_OK) dry_close(q);
  return st;
}

/* ---- bytes in and out: no byte is touched */
static ij_status dry_write(ij_queue *q, void *to, const void *host, size_t n) {
  (void)to, (void)host;
  dry *d = q->stream;
  for (size_t offset = 0; offset < n; offset += IJ_LARGEST_COPY) {
    size_t piece = n - offset < IJ_LARGEST_COPY ? n - offset : IJ_LARGEST_COPY, *stage;
    stage = &d->stage[ij_next_stage(&d->counts, piece)];
    if (*stage < piece) *stage = ij_stage_bytes(piece);
  }
  return IJ_OK;
}
static ij_status dry_read(ij_queue *q, const void *from, void *host, size_t n) {
  (void)q, (void)from;
  memset(host, 0, n);
  return IJ_OK;
}
static ij_status dry_read_begin(ij_queue *q, const void *from, size_t n, void **ticket) {
  (void)q, (void)from;
  return (*ticket = ij_calloc(1, n)) ? IJ_OK : IJ_ENOMEM;
}
static ij_status dry_read_end(ij_queue *q, void *ticket, void *host, size_t n) {
  (void)q;
  if (host) memcpy(host, ticket, n);
  ij_free(ticket);
  return IJ_OK;
}
static ij_status dry_wait(ij_queue *q) {
  (void)q;
  return IJ_OK;
}
static void dry_info(ij_queue *q, ij_device_info *out) {
  dry *d = q->stream;
  snprintf(out->name, sizeof out->name, "a GPU's memory, counted");
  out->memory_used = d->used;
  out->memory_top = d->top;
  out->memory_weights = d->weight_bytes;
  out->memory_scratch = IJ_CUDA_WORKSPACE;
  for (size_t i = 0; i < sizeof q->slot / sizeof *q->slot; i++) out->memory_scratch += ij_pool_bytes(q->slot_bytes[i]);
  for (int i = 0; i < IJ_STAGES; i++) out->memory_staging += d->stage[i];
  out->bf16 = 1;
  out->ahead = 1;
}

/* ---- ops: each takes the scratch that its kernel takes (kernels/<op>/cuda.cu), in the same slots */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter" /* of the table's parameters only the sizes are used */
#define IJ_OP(name, params, args)                                                                                      \
  static ij_status no_##name params { return IJ_OK; }
IJ_OPS(IJ_OP)
#undef IJ_OP

static ij_status column_sum(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D) {
  return scratch(q, 0, ij_column_sum_scratch(SMS, R, D, ij_stripe_width(dt, D)));
}
static ij_status sum(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q) {
  if (P * Q == 0) return IJ_OK;
  ij_dim parts = ij_sum_parts(n, Q);
  for (int slot = 0; parts > 1; slot ^= 1, parts = ij_sum_parts(parts, Q))
    IJ_TRY(scratch(q, slot, ij_sum_scratch(P, parts, Q)));
  return IJ_OK;
}

static ij_status linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                            uint64_t version, void *y) {
  return R ? bf16_copy(q, dt, w, N * K, version) : IJ_OK;
}
static ij_status linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                              uint64_t version, void *dx) {
  return R ? bf16_copy(q, dt, w, N * K, version) : IJ_OK;
}
static ij_status linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                              float *dw, float *db) {
  if (!R || !db) return IJ_OK;
  return dw && ij_linear_sums_fit(dt, N, K) ? scratch(q, 0, (size_t)N * sizeof(float)) : column_sum(q, dt, R, N);
}
static ij_status norm_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean,
                          const float *rstd, const float *w, const void *dy, const float *res, float *dx, void *dx_dt,
                          float *dw, float *db) {
  return R && (dw || db) ? scratch(q, 0, ij_norm_bwd_scratch(SMS, R, D, ij_norm_wide(D))) : IJ_OK;
}
static ij_status gelu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,
                          void *dx, void *y, float *db) {
  return R > 0 && F > 0 && db ? column_sum(q, dt, R, F) : IJ_OK;
}
static ij_status attention_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first,
                               const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,
                               void *dqkv, float *dbias) {
  if (B * N * A * S == 0 || first >= N) return IJ_OK;
  ij_attention_costs c = ij_attention_bwd_scratch(dt, B, N, A, S, first);
  IJ_TRY(scratch(q, 0, c.copies));
  IJ_TRY(scratch(q, 1, c.stats));
  return dbias ? scratch(q, 2, c.sums) : IJ_OK;
}
static ij_status heads_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W,
                           float eps, const void *qkv, const float *bias, const float *norm, const float *rope,
                           const int32_t *pos, const void *dout, void *dqkv, float *dbias, float *dnorm) {
  ij_dim R = B * N;
  if (R * A * S == 0) return IJ_OK;
  if (norm && dnorm) {
    IJ_TRY(scratch(q, 1, ij_heads_stats_scratch(R, A)));
    IJ_TRY(scratch(q, 2, ij_heads_sums_scratch(SMS, R, S)));
  }
  return dbias ? column_sum(q, dt, R, 3 * A * S) : IJ_OK;
}
static ij_status swiglu_bwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,
                            void *dx, void *y, float *db) {
  return R > 0 && F > 0 ? column_sum(q, dt, R, 2 * F) : IJ_OK;
}
static ij_status tokens_bwd(ij_queue *q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,
                            const float *dy, void *dx, float *dtoken) {
  ij_dim sequences = M * C * B;
  if (sequences * T * E == 0) return IJ_OK;
  IJ_TRY(scratch(q, 2, ij_tokens_bwd_scratch(sequences, E)));
  IJ_TRY(sum(q, sequences, T, E));
  return sum(q, 1, sequences, E);
}
static ij_status smooth_l1_fwd(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                               const float *y, float *loss) {
  return scratch(q, 0, ij_smooth_l1_scratch());
}
static ij_status cross_entropy_fwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                   float *loss) {
  return scratch(q, 0, ij_cross_entropy_scratch(R));
}
static ij_status cross_entropy_bwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                   const float *scale, float *dx) {
  return R > 0 && n > 0 ? scratch(q, 0, sizeof(float)) : IJ_OK;
}
static ij_status sum_fwd(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  return sum(q, P, n, Q);
}
static ij_status fold_fwd(ij_queue *q, int f, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  return P * Q > 0 && ij_fold_parts(P, n, Q) > 1 ? scratch(q, 0, ij_fold_scratch(P, n, Q)) : IJ_OK;
}
static ij_status sort(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, int descending, const void *x, void *v,
                      int32_t *index) {
  return R * n > 0 ? scratch(q, 0, ij_sort_scratch(R, n)) : IJ_OK;
}
static ij_status scatter_add(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared,
                             const void *x, const int32_t *index, void *y) {
  bool orders = P * T * Q > 0 && ij_scatter_orders(P, T, Q, shared);
  return orders ? scratch(q, 0, 2 * ij_sort_scratch(shared ? 1 : P, T)) : IJ_OK;
}
static ij_status sum_squares(ij_queue *q, ij_dim n, const float *x, double *out) {
  return n ? scratch(q, 0, ij_sum_squares_scratch()) : IJ_OK;
}
static ij_status trust(ij_queue *q, ij_dim count, const ij_update_item *item, double gscale, double eta) {
  size_t blocks = 0;
  for (ij_dim i = 0; i < count; i++) blocks += item[i].ratio ? ij_trust_blocks(item[i].n) : 0;
  return blocks ? scratch(q, 0, ij_trust_scratch(blocks)) : IJ_OK;
}
#pragma GCC diagnostic pop

static ij_op_table dry_table(void) {
  ij_op_table t = {
#define IJ_OP(name, params, args) .name = no_##name,
      IJ_OPS(IJ_OP)
#undef IJ_OP
  };
  t.linear_fwd = linear_fwd;
  t.linear_bwd_x = linear_bwd_x;
  t.linear_bwd_w = linear_bwd_w;
  t.norm_bwd = norm_bwd;
  t.gelu_bwd = gelu_bwd;
  t.heads_bwd = heads_bwd;
  t.swiglu_bwd = swiglu_bwd;
  t.attention_bwd = attention_bwd;
  t.tokens_bwd = tokens_bwd;
  t.smooth_l1_fwd = smooth_l1_fwd;
  t.cross_entropy_fwd = cross_entropy_fwd;
  t.cross_entropy_bwd = cross_entropy_bwd;
  t.sum_fwd = sum_fwd;
  t.sum_squares = sum_squares;
  t.fold_fwd = fold_fwd;
  t.sort = sort;
  t.scatter_add = scatter_add;
  t.trust = trust;
  return t;
}

ij_backend ij_backend_dry(void) {
  return (ij_backend){.abi = IJ_BACKEND_ABI,
                      .ops = dry_table(),
                      .open = dry_open,
                      .close = dry_close,
                      .alloc = dry_alloc,
                      .free = dry_free,
                      .write = dry_write,
                      .read = dry_read,
                      .read_begin = dry_read_begin,
                      .read_end = dry_read_end,
                      .wait = dry_wait,
                      .info = dry_info};
}

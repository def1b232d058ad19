/* Where a device's time goes. While a profile runs, the device's ops are functions that take the time of the backend's
 * and count calls, seconds and, of matmuls and attention, operations, under the phase that the caller has set. */
#include "tensor.h"
#include <stddef.h>
#include <string.h>

enum {
#define IJ_OP(name, params, args) OP_##name,
  IJ_OPS(IJ_OP)
#undef IJ_OP
      OPS
};
static const char *const op_names[OPS] = {
#define IJ_OP(name, params, args) #name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

/* An op on a backend that runs behind the caller: its time is known when it is done. */
typedef struct pending {
  int phase, op;
  double host;     /* when it was begun */
  void *from, *to; /* the backend's marks */
} pending;
struct ij_profile {
  int phase;
  double began, since, seconds[IJ_PHASES]; /* of the host; since: the phase began or was last counted */
  ij_profile_entry by[IJ_PHASES][OPS];
  ij_profile_event *events;
  int64_t n_events, max_events;
  pending *pending; /* marks are made once and used again */
  int64_t n_pending, max_pending;
};

static ij_device *device_of(ij_queue *q) { return (ij_device *)(void *)((char *)q - offsetof(ij_device, queue)); }

static void event(ij_profile *p, const char *name, int phase, double start, double seconds) {
  if (p->n_events < p->max_events) p->events[p->n_events++] = (ij_profile_event){name, phase, start, seconds};
}
static void count_op(ij_profile *p, int phase, int op, double start, double seconds) {
  p->by[phase][op].calls++;
  p->by[phase][op].seconds += seconds;
  event(p, op_names[op], phase, start, seconds);
}

/* ---- one op: begin gives its place among the pending, or the time on a backend that works at once */
static ij_status reserve(ij_profile *p) {
  if (p->n_pending < p->max_pending) return IJ_OK;
  int64_t most = p->max_pending ? 2 * p->max_pending : 256;
  pending *more = ij_realloc(p->pending, (size_t)most * sizeof *more);
  if (!more) return IJ_ENOMEM;
  memset(more + p->max_pending, 0, (size_t)(most - p->max_pending) * sizeof *more);
  p->pending = more;
  p->max_pending = most;
  return IJ_OK;
}
static ij_status op_begin(ij_device *dev, double *start) {
  ij_profile *p = dev->profile;
  *start = ij_time();
  if (!dev->backend.mark) return IJ_OK;
  IJ_TRY(reserve(p));
  return dev->backend.mark(&dev->queue, &p->pending[p->n_pending].from);
}
static ij_status op_end(ij_device *dev, int op, double start) {
  ij_profile *p = dev->profile;
  if (!dev->backend.mark) {
    count_op(p, p->phase, op, start - p->began, ij_time() - start);
    return IJ_OK;
  }
  pending *o = &p->pending[p->n_pending];
  o->phase = p->phase;
  o->op = op;
  o->host = start - p->began;
  IJ_TRY(dev->backend.mark(&dev->queue, &o->to));
  p->n_pending++;
  return IJ_OK;
}
static void count_flops(ij_queue *q, int op, double flops) {
  ij_profile *p = device_of(q)->profile;
  p->by[p->phase][op].flops += flops;
}

/* ---- the ops: timed_NAME calls the backend's NAME */
#define IJ_OP(name, params, args)                                                                                      \
  static ij_status timed_##name params {                                                                               \
    ij_device *dev = device_of(q);                                                                                     \
    double start;                                                                                                      \
    IJ_TRY(op_begin(dev, &start));                                                                                     \
    IJ_TRY(dev->backend.ops.name args);                                                                                \
    return op_end(dev, OP_##name, start);                                                                              \
  }
IJ_OPS(IJ_OP)
#undef IJ_OP

/* Those with a known number of operations: a multiplication and an addition are two. */
static ij_status linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                            uint64_t version, void *y) {
  count_flops(q, OP_linear_fwd, 2.0 * (double)R * (double)N * (double)K);
  return timed_linear_fwd(q, dt, R, N, K, x, w, version, y);
}
static ij_status linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                              uint64_t version, void *dx) {
  count_flops(q, OP_linear_bwd_x, 2.0 * (double)R * (double)N * (double)K);
  return timed_linear_bwd_x(q, dt, R, N, K, dy, w, version, dx);
}
static ij_status linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                              float *dw, float *db) {
  if (dw) count_flops(q, OP_linear_bwd_w, 2.0 * (double)R * (double)N * (double)K);
  return timed_linear_bwd_w(q, dt, R, N, K, dy, x, dw, db);
}
static ij_status matmul(ij_queue *q, ij_dim P, ij_dim M, ij_dim N, ij_dim K, int ta, int tb, const float *a,
                        const float *b, float *c) {
  count_flops(q, OP_matmul, 2.0 * (double)P * (double)M * (double)N * (double)K);
  return timed_matmul(q, P, M, N, K, ta, tb, a, b, c);
}
/* two products of (N - first) x N x S a head forward, five backward */
static ij_status attention_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                               const void *qkv, const float *bias, void *out, float *lse) {
  count_flops(q, OP_attention_fwd, 4.0 * (double)(B * A * S) * (double)(N - first_q) * (double)N);
  return timed_attention_fwd(q, dt, B, N, A, S, first_q, qkv, bias, out, lse);
}
static ij_status attention_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                               const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,
                               void *dqkv, float *dbias) {
  count_flops(q, OP_attention_bwd, 10.0 * (double)(B * A * S) * (double)(N - first_q) * (double)N);
  return timed_attention_bwd(q, dt, B, N, A, S, first_q, qkv, bias, out, lse, dout, dqkv, dbias);
}

static ij_op_table timed_table(void) {
  ij_op_table t = {
#define IJ_OP(name, params, args) .name = timed_##name,
      IJ_OPS(IJ_OP)
#undef IJ_OP
  };
  t.linear_fwd = linear_fwd;
  t.linear_bwd_x = linear_bwd_x;
  t.linear_bwd_w = linear_bwd_w;
  t.matmul = matmul;
  t.attention_fwd = attention_fwd;
  t.attention_bwd = attention_bwd;
  return t;
}

/* ---- the profile */
ij_status ij_profile_begin(ij_device *dev, int64_t events) {
  if (dev->profile) return ij_fail(IJ_EINVAL, "profile: another profile of this device has not ended");
  if (events < 0) return ij_fail(IJ_EINVAL, "profile: %lld events", (long long)events);
  ij_profile *p = ij_calloc(1, sizeof *p);
  if (!p) return IJ_ENOMEM;
  if (events && !(p->events = ij_calloc((size_t)events, sizeof *p->events))) {
    ij_free(p);
    return IJ_ENOMEM;
  }
  p->max_events = events;
  for (int phase = 0; phase < IJ_PHASES; phase++)
    for (int op = 0; op < OPS; op++) p->by[phase][op] = (ij_profile_entry){.name = op_names[op], .phase = phase};
  ij_status st = dev->backend.wait(&dev->queue);
  p->began = p->since = ij_time();
  dev->profile = p;
  dev->ops = timed_table();
  if (st != IJ_OK) ij_profile_end(dev);
  return st;
}

int ij_profile_phase(ij_device *dev, int phase, const char *name) {
  ij_profile *p = dev->profile;
  if (!p || phase < 0 || phase >= IJ_PHASES) return 0;
  int before = p->phase;
  double now = ij_time();
  p->seconds[before] += now - p->since;
  if (name) event(p, name, -1 - before, p->since - p->began, now - p->since);
  p->since = now;
  p->phase = phase;
  return before;
}

ij_status ij_profile_settle(ij_device *dev) {
  ij_profile *p = dev->profile;
  if (!p || !dev->backend.mark) return IJ_OK;
  for (int64_t i = 0; i < p->n_pending; i++) {
    pending *o = &p->pending[i];
    double start, seconds;
    IJ_TRY(dev->backend.between(&dev->queue, p->pending[0].from, o->from, &start));
    IJ_TRY(dev->backend.between(&dev->queue, o->from, o->to, &seconds));
    count_op(p, o->phase, o->op, p->pending[0].host + start, seconds);
  }
  p->n_pending = 0;
  return IJ_OK;
}

double ij_profile_seconds(ij_device *dev, int phase) {
  return dev->profile && phase >= 0 && phase < IJ_PHASES ? dev->profile->seconds[phase] : 0;
}
int64_t ij_profile_entries(ij_device *dev, ij_profile_entry *out, int64_t max) {
  int64_t n = 0;
  for (int i = 0; dev->profile && i < IJ_PHASES * OPS; i++) {
    const ij_profile_entry *e = &dev->profile->by[i / OPS][i % OPS];
    if (!e->calls) continue;
    if (n < max) out[n] = *e;
    n++;
  }
  return n;
}
int64_t ij_profile_events(ij_device *dev, const ij_profile_event **out) {
  *out = dev->profile ? dev->profile->events : NULL;
  return dev->profile ? dev->profile->n_events : 0;
}

void ij_profile_end(ij_device *dev) {
  ij_profile *p = dev->profile;
  if (!p) return;
  for (int64_t i = 0; i < p->max_pending; i++) {
    if (p->pending[i].from) dev->backend.unmark(&dev->queue, p->pending[i].from);
    if (p->pending[i].to) dev->backend.unmark(&dev->queue, p->pending[i].to);
  }
  dev->ops = dev->backend.ops;
  dev->profile = NULL;
  ij_free(p->pending);
  ij_free(p->events);
  ij_free(p);
}

/* Gradients of several processes: packed into buckets, summed while the backward goes on, then used for the update by
 * all, or, with shard, by the one process that has the moments, which hands out the new parameters. */
#include "optim.h"
#include <math.h>
#include <string.h>

static bool mine(const ij_optim *o, const ij_bucket *b) { return b->owner < 0 || b->owner == o->d->rank; }

/* The smallest bucket that is not in use and has room, or a new one, at place o->used. */
static ij_status bucket_for(ij_optim *o, int64_t n, ij_device *dev) {
  int best = -1;
  for (int i = o->used; i < o->buckets; i++)
    if (o->bucket[i]->room >= n && (best < 0 || o->bucket[i]->room < o->bucket[best]->room)) best = i;
  if (best < 0) {
    if (o->buckets == o->bucket_cap) {
      int cap = o->bucket_cap ? 2 * o->bucket_cap : 16;
      ij_bucket **more = ij_realloc(o->bucket, (size_t)cap * sizeof *more);
      if (!more) return IJ_ENOMEM;
      o->bucket = more;
      o->bucket_cap = cap;
    }
    ij_bucket *b = ij_calloc(1, sizeof *b);
    if (!b || !(b->x = ij_make(dev, IJ_F32, 1, &n, true))) {
      ij_free(b);
      return IJ_ENOMEM;
    }
    b->room = n;
    best = o->buckets++;
    o->bucket[best] = b;
  }
  ij_bucket *b = o->bucket[best];
  o->bucket[best] = o->bucket[o->used];
  o->bucket[o->used] = b;
  return IJ_OK;
}

ij_status ij_bucket_send(ij_optim *o, ij_group *g, int owner) {
  if (g->count == 0) return IJ_OK;
  ij_device *dev = g->e[0]->p->storage->dev;
  IJ_TRY(bucket_for(o, g->total, dev));
  ij_bucket *b = o->bucket[o->used];
  for (int i = 0; i < g->count; i++) {
    ij_entry *e = g->e[i];
    float *to = ij_f32_of(b->x) + e->at;
    int64_t end = i + 1 < g->count ? g->e[i + 1]->at : g->total, gap = end - e->at - e->count;
    IJ_TRY(dev->ops.convert(&dev->queue, e->count, IJ_F32, ij_f32_of(e->grad), IJ_F32, to));
    if (gap) IJ_TRY(dev->ops.fill(&dev->queue, gap, 0, to + e->count)); /* it is summed too */
    ij_drop(&e->grad);
  }
  ij_group empty = b->in;
  empty.count = 0;
  empty.total = 0;
  b->in = *g;
  *g = empty; /* the lists change places */
  b->owner = owner;
  b->here = false;
  o->used++;
  return ij_dist_sum_begin(o->d, b->x, b->in.total, owner, &b->ticket);
}

static ij_status gates_begin(ij_optim *o) {
  if (!o->gate) return IJ_OK;
  ij_device *dev = o->gate->storage->dev;
  if (!o->gates && !(o->gates = ij_make(dev, IJ_F32, 1, (int64_t[]){1}, true))) return IJ_ENOMEM;
  IJ_TRY(ij_tensor_copy(o->gates, o->gate)); /* the caller's goes on adding up */
  return ij_dist_sum_begin(o->d, o->gates, 1, -1, &o->gates_ticket);
}

ij_status ij_bucket_gather(ij_optim *o) {
  if (o->gathered) return IJ_OK;
  for (int i = 0; i < o->count; i++) {
    ij_entry *e = o->e[i];
    if (e->done) continue;
    if (!ij_grad_of(e->p)) return IJ_ENOMEM; /* zeros where nothing used it */
    e->grad = ij_hold(e->p->grad);
    ij_drop(&e->p->grad);
    e->done = true;
    ij_group *g = &o->group[o->load ? e->owner : 0];
    IJ_TRY(ij_group_add(g, e));
    if (g->total >= o->limit) IJ_TRY(ij_bucket_send(o, g, e->owner));
  }
  for (int i = 0; i < o->groups; i++) IJ_TRY(ij_bucket_send(o, &o->group[i], o->load ? i : -1));
  IJ_TRY(gates_begin(o));
  o->gathered = true;
  return IJ_OK;
}

static ij_status arrive(ij_optim *o, ij_bucket *b) {
  if (b->here) return IJ_OK;
  IJ_TRY(ij_dist_finish(o->d, b->ticket));
  b->here = true;
  return IJ_OK;
}

ij_status ij_bucket_norm(ij_optim *o, double *norm, int *finite) {
  double sum[2] = {0, 0}; /* squares; processes that met what is not finite */
  IJ_TRY(ij_bucket_gather(o));
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    double part;
    int fine;
    ij_tensor *all;
    IJ_TRY(arrive(o, b));
    if (!mine(o, b)) continue;
    IJ_TRY(ij_tensor_narrow(b->x, 0, 0, b->in.total, &all)); /* the gaps hold zeros */
    ij_status st = ij_sum_squares(&all, 1, &part, &fine);
    ij_tensor_free(all);
    if (st != IJ_OK) return st;
    sum[0] += part;
    sum[1] += !fine;
  }
  if (o->load) IJ_TRY(ij_dist_sum(o->d, sum, 2));
  *norm = sqrt(sum[0]);
  *finite = sum[1] == 0;
  return IJ_OK;
}

/* With shard: the bucket's parameters to or from the bucket. */
static ij_status move(ij_bucket *b, bool in) {
  for (int i = 0; i < b->in.count; i++) {
    ij_entry *e = b->in.e[i];
    ij_device *dev = e->p->storage->dev;
    float *p = ij_f32_of(e->p), *x = ij_f32_of(b->x) + e->at;
    IJ_TRY(dev->ops.convert(&dev->queue, e->count, IJ_F32, in ? p : x, IJ_F32, in ? x : p));
  }
  return IJ_OK;
}

static ij_status zeros_make(ij_optim *o, ij_device *dev, int64_t *most) {
  *most = 0;
  for (int i = 0; i < o->count; i++)
    if (o->e[i]->average && o->e[i]->count > *most) *most = (o->e[i]->count + 63) / 64 * 64;
  if (o->zeros || !*most) return IJ_OK;
  if (!(o->zeros = ij_make(dev, IJ_F32, 1, (int64_t[]){2 * *most}, true))) return IJ_ENOMEM;
  return ij_fill(o->zeros, 0);
}

/* The moving averages of a bucket's parameters, in each process, by the same code as where an update makes them on the
 * way: an update that changes nothing else. */
static ij_status average(ij_optim *o, ij_bucket *b, const ij_numbers *k, const float *gate) {
  ij_device *dev = b->x->storage->dev;
  int64_t most;
  int n = 0;
  IJ_TRY(zeros_make(o, dev, &most));
  IJ_TRY(dev->ops.fill(&dev->queue, b->in.total, 0, ij_f32_of(b->x)));
  for (int i = 0; i < b->in.count; i++) {
    ij_entry *e = b->in.e[i];
    if (!e->average) continue;
    float *zero = ij_f32_of(o->zeros);
    ij_adamw_item item = {.n = e->count,
                          .p = ij_f32_of(e->p),
                          .g = ij_f32_of(b->x) + e->at,
                          .m = zero,
                          .v = zero + most,
                          .avg = ij_f32_of(e->average),
                          .version = o->version,
                          .avg_version = o->version};
    o->item[n++] = item;
  }
  if (n == 0) return IJ_OK;
  return dev->ops.adamw(&dev->queue, n, o->item, o->steps, o->c.beta1, o->c.beta2, o->c.eps, 1, k->momentum, gate);
}

static ij_status hand_out(ij_optim *o, const ij_numbers *k, const float *gate) {
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    IJ_TRY(arrive(o, b));
    if (!mine(o, b)) IJ_TRY(move(b, false));
    IJ_TRY(average(o, b, k, gate));
  }
  return IJ_OK;
}

/* With shard only owners have the norms that are watched. */
static ij_status share_norms(ij_optim *o) {
  int n = 0, at = 0;
  for (int i = 0; i < o->count; i++) n += o->e[i]->watched;
  if (n == 0) return IJ_OK;
  double *norm = ij_calloc((size_t)n, sizeof *norm);
  if (!norm) return IJ_ENOMEM;
  for (int i = 0; i < o->count; i++)
    if (o->e[i]->watched) norm[at++] = o->e[i]->owner == o->d->rank ? o->e[i]->grad_norm : 0;
  ij_status st = ij_dist_sum(o->d, norm, n);
  for (int i = at = 0; i < o->count; i++)
    if (o->e[i]->watched) o->e[i]->grad_norm = norm[at++];
  ij_free(norm);
  return st;
}

ij_status ij_bucket_step(ij_optim *o, const ij_numbers *k) {
  IJ_TRY(ij_bucket_gather(o));
  if (o->gate) IJ_TRY(ij_dist_finish(o->d, o->gates_ticket));
  const float *gate = o->gate ? ij_f32_of(o->gates) : NULL;
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    IJ_TRY(arrive(o, b));
    if (mine(o, b)) IJ_TRY(ij_optim_update(o, &b->in, b->x, k, gate));
    if (!o->load) continue;
    if (mine(o, b)) IJ_TRY(move(b, true));
    b->here = false;
    IJ_TRY(ij_dist_send_begin(o->d, b->x, b->in.total, b->owner, &b->ticket));
  }
  if (!o->load) return IJ_OK;
  IJ_TRY(hand_out(o, k, gate));
  return share_norms(o);
}

void ij_bucket_reset(ij_optim *o) {
  bool under_way = false;
  for (int i = 0; i < o->used; i++) under_way |= !o->bucket[i]->here;
  if (under_way) ij_dist_settle(o->d);
  o->used = 0;
  o->gathered = false;
}

void ij_bucket_free(ij_optim *o) {
  ij_dist_settle(o->d);
  for (int i = 0; i < o->buckets; i++) {
    ij_tensor_free(o->bucket[i]->x);
    ij_free(o->bucket[i]->in.e);
    ij_free(o->bucket[i]);
  }
  ij_free(o->bucket);
  ij_tensor_free(o->gates);
  ij_tensor_free(o->zeros);
}

/* Gradients of several processes: packed into buckets and summed while the backward continues. Then each process
 * updates all parameters, or, with shard, the process that has the moments updates its own and broadcasts them. */
#include "optim.h"
#include <math.h>
#include <string.h>

static bool owned_here(const ij_optim *o, const ij_bucket *b) { return b->owner < 0 || b->owner == o->dist->rank; }

/* Puts at o->used the smallest free bucket with space for n elements, or a new one. */
static ij_status bucket_for(ij_optim *o, int64_t n, ij_device *dev) {
  int best = -1;
  for (int i = o->used; i < o->buckets; i++)
    if (o->bucket[i]->space >= n && (best < 0 || o->bucket[i]->space < o->bucket[best]->space)) best = i;
  if (best < 0) {
    if (o->buckets == o->bucket_cap) {
      int cap = o->bucket_cap ? 2 * o->bucket_cap : 16;
      ij_bucket **more = ij_realloc(o->bucket, (size_t)cap * sizeof *more);
      if (!more) return IJ_ENOMEM;
      o->bucket = more;
      o->bucket_cap = cap;
    }
    ij_bucket *b = ij_calloc(1, sizeof *b);
    if (!b) return IJ_ENOMEM;
    ij_status st = ij_tensor_make(dev, IJ_F32, 1, &n, true, &b->x);
    if (st != IJ_OK) {
      ij_free(b);
      return st;
    }
    b->space = n;
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
  ij_device *dev = g->entry[0]->p->storage->dev;
  IJ_TRY(bucket_for(o, g->total, dev));
  ij_bucket *b = o->bucket[o->used];
  for (int i = 0; i < g->count; i++) {
    ij_update_entry *e = g->entry[i];
    float *to = ij_f32_of(b->x) + e->offset;
    int64_t end = i + 1 < g->count ? g->entry[i + 1]->offset : g->total, gap = end - e->offset - e->count;
    IJ_TRY(dev->ops.convert(&dev->queue, e->count, IJ_F32, ij_f32_of(e->grad), IJ_F32, to));
    if (gap) IJ_TRY(dev->ops.fill(&dev->queue, gap, 0, to + e->count)); /* the gap is summed too */
    ij_drop(&e->grad);
  }
  ij_group empty = b->group;
  empty.count = 0;
  empty.total = 0;
  b->group = *g;
  *g = empty; /* the bucket's old list serves the group again */
  b->owner = owner;
  b->summed = false;
  o->used++;
  return ij_dist_sum_begin(o->dist, b->x, b->group.total, owner, &b->ticket);
}

static ij_status gates_begin(ij_optim *o) {
  if (!o->gate) return IJ_OK;
  ij_device *dev = ij_device_of(o->gate);
  if (!o->gates) IJ_TRY(ij_tensor_make(dev, IJ_F32, 1, (int64_t[]){1}, true, &o->gates));
  IJ_TRY(ij_tensor_copy(o->gates, o->gate)); /* the caller may change its own gate during the sum */
  return ij_dist_sum_begin(o->dist, o->gates, 1, -1, &o->gates_ticket);
}

ij_status ij_bucket_gather(ij_optim *o) {
  if (o->gathered) return IJ_OK;
  for (int i = 0; i < o->count; i++) {
    ij_update_entry *e = o->entry[i];
    if (e->taken) continue;
    float *unused;
    IJ_TRY(ij_grad_into(e->p, &unused)); /* zeros where the parameter was not used */
    e->grad = ij_hold(e->p->grad);
    ij_drop(&e->p->grad);
    e->taken = true;
    ij_group *g = &o->group[o->load ? e->owner : 0];
    IJ_TRY(ij_group_add(g, e));
    if (g->total >= o->limit) IJ_TRY(ij_bucket_send(o, g, e->owner));
  }
  for (int i = 0; i < o->groups; i++) IJ_TRY(ij_bucket_send(o, &o->group[i], o->load ? i : -1));
  IJ_TRY(gates_begin(o));
  o->gathered = true;
  return IJ_OK;
}

static ij_status wait_for(ij_optim *o, ij_bucket *b) {
  if (b->summed) return IJ_OK;
  IJ_TRY(ij_dist_finish(o->dist, b->ticket));
  b->summed = true;
  return IJ_OK;
}

ij_status ij_bucket_norm(ij_optim *o, double *norm, int *finite) {
  double sum[2] = {0, 0}; /* squares; buckets with a value that is not finite */
  IJ_TRY(ij_bucket_gather(o));
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    double part;
    int fine;
    ij_tensor *all;
    IJ_TRY(wait_for(o, b));
    if (!owned_here(o, b)) continue;
    IJ_TRY(ij_tensor_narrow(b->x, 0, 0, b->group.total, &all)); /* the gaps hold zeros */
    ij_status st = ij_sum_squares(&all, 1, &part, &fine);
    ij_tensor_free(all);
    if (st != IJ_OK) return st;
    sum[0] += part;
    sum[1] += !fine;
  }
  if (o->load) IJ_TRY(ij_dist_sum(o->dist, sum, 2));
  *norm = sqrt(sum[0]);
  *finite = sum[1] == 0;
  return IJ_OK;
}

/* With shard: copies the entries' parameters into the bucket, or from it. */
static ij_status copy_parameters(ij_bucket *b, bool in) {
  for (int i = 0; i < b->group.count; i++) {
    ij_update_entry *e = b->group.entry[i];
    ij_device *dev = ij_device_of(e->p);
    float *p = ij_f32_of(e->p), *x = ij_f32_of(b->x) + e->offset;
    IJ_TRY(dev->ops.convert(&dev->queue, e->count, IJ_F32, in ? p : x, IJ_F32, in ? x : p));
  }
  return IJ_OK;
}

/* Takes over the parameters that other processes have updated, and moves the averages of all, in each process. */
static ij_status receive_parameters(ij_optim *o, const ij_settings *k, const float *gate) {
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    IJ_TRY(wait_for(o, b));
    if (!owned_here(o, b)) IJ_TRY(copy_parameters(b, false));
    IJ_TRY(ij_optim_average(o, b->group.entry, b->group.count, k, gate));
  }
  return IJ_OK;
}

/* With shard only its owner has the norm of a watched gradient: sends it to all. */
static ij_status send_norms(ij_optim *o) {
  int n = 0, next = 0;
  for (int i = 0; i < o->count; i++) n += o->entry[i]->watched;
  if (n == 0) return IJ_OK;
  double *norm = ij_calloc((size_t)n, sizeof *norm);
  if (!norm) return IJ_ENOMEM;
  for (int i = 0; i < o->count; i++)
    if (o->entry[i]->watched) norm[next++] = o->entry[i]->owner == o->dist->rank ? o->entry[i]->grad_norm : 0;
  ij_status st = ij_dist_sum(o->dist, norm, n);
  for (int i = next = 0; i < o->count; i++)
    if (o->entry[i]->watched) o->entry[i]->grad_norm = norm[next++];
  ij_free(norm);
  return st;
}

ij_status ij_bucket_step(ij_optim *o, const ij_settings *k) {
  IJ_TRY(ij_bucket_gather(o));
  if (o->gate) IJ_TRY(ij_dist_finish(o->dist, o->gates_ticket));
  const float *gate = o->gate ? ij_f32_of(o->gates) : NULL;
  for (int i = 0; i < o->used; i++) {
    ij_bucket *b = o->bucket[i];
    IJ_TRY(wait_for(o, b));
    if (owned_here(o, b)) IJ_TRY(ij_optim_update(o, &b->group, b->x, k, gate));
    if (!o->load) continue;
    if (owned_here(o, b)) IJ_TRY(copy_parameters(b, true));
    b->summed = false;
    IJ_TRY(ij_dist_send_begin(o->dist, b->x, b->group.total, b->owner, &b->ticket));
  }
  if (!o->load) return IJ_OK;
  IJ_TRY(receive_parameters(o, k, gate));
  return send_norms(o);
}

void ij_bucket_reset(ij_optim *o) {
  bool under_way = false;
  for (int i = 0; i < o->used; i++) under_way |= !o->bucket[i]->summed;
  if (under_way) ij_dist_settle(o->dist);
  o->used = 0;
  o->gathered = false;
}

void ij_bucket_free(ij_optim *o) {
  ij_dist_settle(o->dist);
  for (int i = 0; i < o->buckets; i++) {
    ij_tensor_free(o->bucket[i]->x);
    ij_free(o->bucket[i]->group.entry);
    ij_free(o->bucket[i]);
  }
  ij_free(o->bucket);
  ij_tensor_free(o->gates);
}

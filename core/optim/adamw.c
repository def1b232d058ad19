/* AdamW with decoupled decay; each tensor's update, its gradient's reset and its moving average in one pass. */
#include "optim.h"
#include <math.h>
#include <string.h>

enum { COLLECT = 2 << 20, BUCKET = 25 << 18, BUCKET_LEAST = 1 << 18 }; /* elements */

ij_status ij_group_add(ij_group *g, ij_entry *e) {
  if (g->count == g->cap) {
    int cap = g->cap ? 2 * g->cap : 16;
    ij_entry **more = ij_realloc(g->e, (size_t)cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    g->e = more;
    g->cap = cap;
  }
  e->at = g->total;
  g->total += (e->count + 63) / 64 * 64;
  g->e[g->count++] = e;
  return IJ_OK;
}
void ij_group_clear(ij_group *g) {
  for (int i = 0; i < g->count; i++) ij_drop(&g->e[i]->grad);
  g->count = 0;
  g->total = 0;
}

static ij_status groups_make(ij_optim *o) {
  ij_dist_info at = {.size = 1};
  if (o->c.dist) ij_dist_look(o->c.dist, &at);
  int64_t bucket = o->c.bucket ? (int64_t)(o->c.bucket / sizeof(float)) : BUCKET;
  o->limit = COLLECT;
  o->groups = 1;
  if (at.size > 1) {
    o->d = o->c.dist;
    ij_dist_ref(o->d);
    o->limit = bucket;
    if (o->c.shard) { /* each owner has buckets of its own: smaller ones, so that they fill up before the end */
      o->groups = at.size;
      if (bucket / at.size > BUCKET_LEAST) o->limit = bucket / at.size;
      else if (bucket > BUCKET_LEAST) o->limit = BUCKET_LEAST;
      if (!(o->load = ij_calloc((size_t)at.size, sizeof *o->load))) return IJ_ENOMEM;
    }
  }
  return (o->group = ij_calloc((size_t)o->groups, sizeof *o->group)) ? IJ_OK : IJ_ENOMEM;
}

ij_status ij_adamw_new(const ij_optim_config *c, ij_optim **out) {
  *out = NULL;
  ij_optim_config k = c ? *c : (ij_optim_config){0};
  if (k.beta1 == 0) k.beta1 = .9;
  if (k.beta2 == 0) k.beta2 = .999;
  if (k.eps == 0) k.eps = 1e-8;
  if (!(k.beta1 >= 0 && k.beta1 < 1 && k.beta2 >= 0 && k.beta2 < 1 && k.eps > 0))
    return ij_fail(IJ_EINVAL, "adamw: betas %g and %g, eps %g: betas are 0 up to 1, eps more than 0", k.beta1, k.beta2,
                   k.eps);
  ij_optim *o = ij_calloc(1, sizeof *o);
  if (!o) return IJ_ENOMEM;
  o->c = k;
  if (groups_make(o) != IJ_OK) {
    ij_optim_free(o);
    return IJ_ENOMEM;
  }
  *out = o;
  return IJ_OK;
}

/* With its sink goes a gradient that nobody took: it is memory of the step. */
static void forget_sink(ij_entry *e) {
  if (e->p->sink != &e->sink) return;
  e->p->sink = NULL;
  ij_drop(&e->p->grad);
}

static void entry_free(ij_entry *e) {
  if (!e) return;
  if (e->p) forget_sink(e);
  ij_tensor_free(e->grad);
  ij_tensor_free(e->p);
  ij_tensor_free(e->average);
  ij_tensor_free(e->m);
  ij_tensor_free(e->v);
  ij_free(e);
}

void ij_optim_free(ij_optim *o) {
  if (!o) return;
  if (o->d) ij_bucket_free(o);
  for (int i = 0; i < o->count; i++) entry_free(o->e[i]);
  for (int i = 0; o->group && i < o->groups; i++) ij_free(o->group[i].e);
  ij_tensor_free(o->gate);
  ij_dist_drop(o->d);
  ij_free(o->group);
  ij_free(o->load);
  ij_free(o->item);
  ij_free(o->e);
  ij_free(o);
}

static ij_status grow(ij_optim *o) {
  if (o->count < o->cap) return IJ_OK;
  int cap = o->cap ? 2 * o->cap : 32;
  ij_entry **more = ij_realloc(o->e, (size_t)cap * sizeof *more);
  if (more) o->e = more;
  ij_adamw_item *items = more ? ij_realloc(o->item, (size_t)cap * sizeof *items) : NULL;
  if (!items) return IJ_ENOMEM;
  o->item = items;
  o->cap = cap;
  return IJ_OK;
}

/* The process that owns least so far. */
static int next_owner(const ij_optim *o) {
  int least = 0;
  for (int r = 1; r < o->groups; r++)
    if (o->load[r] < o->load[least]) least = r;
  return least;
}

static ij_status moments_make(ij_entry *e, int ndim, const int64_t *shape) {
  ij_device *dev = e->p->storage->dev;
  if (!(e->m = ij_make(dev, IJ_F32, ndim, shape, true)) || !(e->v = ij_make(dev, IJ_F32, ndim, shape, true)))
    return IJ_ENOMEM;
  IJ_TRY(ij_fill(e->m, 0));
  return ij_fill(e->v, 0);
}

/* A new last entry like `like`, whose p, average and numbers are set; ndim and shape are those of the moments. */
static ij_status append(ij_optim *o, const ij_entry *like, int ndim, const int64_t *shape) {
  ij_dist_info at = {0};
  IJ_TRY(grow(o));
  ij_entry *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  *e = *like;
  e->o = o;
  e->owner = o->load ? next_owner(o) : -1;
  ij_hold(e->p);
  ij_hold(e->average);
  if (o->load) ij_dist_look(o->d, &at);
  ij_status st = e->owner < 0 || e->owner == at.rank ? moments_make(e, ndim, shape) : IJ_OK;
  if (st != IJ_OK) {
    entry_free(e);
    return st;
  }
  if (o->load) o->load[e->owner] += e->count;
  o->e[o->count++] = e;
  return IJ_OK;
}

ij_status ij_optim_add(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average) {
  IJ_TRY(ij_want("adamw", "parameter", p, IJ_F32));
  if (average) IJ_TRY(ij_want_shape("adamw", "average", average, IJ_F32, p->ndim, p->shape));
  ij_entry e = {.p = p, .average = average, .count = ij_tensor_count(p), .lr_scale = 1, .wd_scale = decayed ? 1 : 0};
  return append(o, &e, p->ndim, p->shape);
}

ij_status ij_optim_add_part(ij_optim *o, ij_tensor *p, int64_t first, int64_t count, double lr_scale, double wd_scale) {
  IJ_TRY(ij_want("adamw", "parameter", p, IJ_F32));
  int64_t n = ij_tensor_count(p);
  if (o->d) return ij_fail(IJ_EUNSUPPORTED, "adamw: parts of tensors are for one process alone");
  if (first < 0 || count < 0 || first > n || count > n - first)
    return ij_fail(IJ_ESHAPE, "adamw: a part of %lld from %lld of a tensor of %lld", (long long)count, (long long)first,
                   (long long)n);
  ij_entry e = {.p = p, .first = first, .count = count, .lr_scale = lr_scale, .wd_scale = wd_scale, .part = true};
  return append(o, &e, 1, &count);
}

static ij_status watch_norm(ij_entry *e, ij_tensor *x) {
  ij_tensor *g = e->grad;
  double sum;
  int finite;
  if (x) IJ_TRY(ij_tensor_narrow(x, 0, e->at, e->count, &g));
  ij_status st = ij_sum_squares(&g, 1, &sum, &finite);
  if (x) ij_tensor_free(g);
  if (st == IJ_OK) e->grad_norm = sqrt(sum);
  return st;
}

ij_status ij_optim_update(ij_optim *o, const ij_group *g, ij_tensor *x, const ij_numbers *k, const float *gate) {
  if (g->count == 0) return IJ_OK;
  ij_device *dev = g->e[0]->p->storage->dev;
  for (int i = 0; i < g->count; i++) {
    ij_entry *e = g->e[i];
    if (e->watched) IJ_TRY(watch_norm(e, x));
    o->item[i] = (ij_adamw_item){.n = e->count,
                                 .lr = k->lr * e->lr_scale,
                                 .wd = k->wd * e->wd_scale,
                                 .p = ij_f32_of(e->p) + e->first,
                                 .g = x ? ij_f32_of(x) + e->at : ij_f32_of(e->grad) + e->first,
                                 .m = ij_f32_of(e->m),
                                 .v = ij_f32_of(e->v),
                                 .avg = e->average && !o->load ? ij_f32_of(e->average) : NULL,
                                 .version = o->version,
                                 .avg_version = o->version};
  }
  return dev->ops.adamw(&dev->queue, g->count, o->item, o->steps, o->c.beta1, o->c.beta2, o->c.eps, k->grad_scale,
                        k->momentum, gate);
}

/* The group's gradients are used up, or begin their way to the other processes. */
static ij_status use(ij_optim *o, ij_group *g, int owner, const ij_numbers *k) {
  if (o->d) return ij_bucket_send(o, g, owner);
  ij_status st = ij_optim_update(o, g, NULL, k, o->gate ? ij_f32_of(o->gate) : NULL);
  ij_group_clear(g);
  return st;
}

static ij_status take(ij_sink *s, ij_tensor *t) {
  ij_entry *e = (ij_entry *)(void *)s;
  ij_optim *o = e->o;
  ij_group *g = &o->group[o->load ? e->owner : 0];
  /* t's version changes in ij_optim_step: what this backward still reads of its storage is as it was */
  IJ_TRY(ij_group_add(g, e));
  e->done = true;
  e->grad = ij_hold(t->grad);
  return g->total < o->limit ? IJ_OK : use(o, g, e->owner, &o->now);
}

static void groups_clear(ij_optim *o) {
  for (int i = 0; i < o->groups; i++) ij_group_clear(&o->group[i]);
  if (o->d) ij_bucket_reset(o);
  for (int i = 0; i < o->count; i++) o->e[i]->done = false;
}

/* A new update: the version that what it changes will have is known from here on, see ij_adamw_item. */
static void begin(ij_optim *o) {
  o->steps++;
  o->version = ij_new_version();
}

ij_status ij_optim_eager(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  o->now = (ij_numbers){lr, wd, momentum, grad_scale};
  if (!o->eager) begin(o);
  o->eager = true;
  groups_clear(o); /* of a backward that failed */
  for (int i = 0; i < o->count; i++) {
    ij_entry *e = o->e[i];
    e->sink.take = take;
    forget_sink(e);
    if (!e->part && !e->p->grad) e->p->sink = &e->sink;
  }
  return IJ_OK;
}

/* Entries whose gradients no sink has taken; where nothing used a parameter there are zeros. */
static ij_status update_rest(ij_optim *o, const ij_numbers *k) {
  ij_group *g = &o->group[0];
  for (int i = 0; i < o->count; i++) {
    ij_entry *e = o->e[i];
    if (e->done) continue;
    if (!ij_grad_of(e->p)) return IJ_ENOMEM;
    e->grad = ij_hold(e->p->grad);
    IJ_TRY(ij_group_add(g, e));
  }
  return use(o, g, -1, k);
}

ij_status ij_optim_step(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  ij_numbers k = {lr, wd, momentum, grad_scale};
  if (!o->eager) begin(o);
  else if (memcmp(&k, &o->now, sizeof k))
    return ij_fail(IJ_EINVAL, "adamw: the step's numbers are not those that ij_optim_eager got");
  IJ_TRY(o->d ? ij_bucket_step(o, &k) : update_rest(o, &k));
  for (int i = 0; i < o->count; i++) {
    ij_entry *e = o->e[i];
    forget_sink(e);
    e->p->storage->version = o->version;
    if (e->average) e->average->storage->version = o->version;
  }
  o->eager = false;
  groups_clear(o);
  return IJ_OK;
}

ij_status ij_optim_norm(ij_optim *o, double *norm, int *finite) {
  if (o->d) return ij_bucket_norm(o, norm, finite);
  ij_tensor **g = ij_alloc((size_t)(o->count + 1) * sizeof *g);
  int n = 0;
  if (!g) return IJ_ENOMEM;
  for (int i = 0; i < o->count; i++)
    if (o->e[i]->p->grad) g[n++] = o->e[i]->p->grad;
  ij_status st = ij_sum_squares(g, n, norm, finite);
  ij_free(g);
  *norm = sqrt(*norm);
  return st;
}

ij_status ij_optim_gate(ij_optim *o, ij_tensor *gate) {
  if (gate) IJ_TRY(ij_want_shape("adamw", "gate", gate, IJ_F32, 1, (int64_t[]){1}));
  ij_hold(gate);
  ij_tensor_free(o->gate);
  o->gate = gate;
  return IJ_OK;
}

void ij_optim_watch(ij_optim *o, int i, int on) {
  if (i >= 0 && i < o->count) o->e[i]->watched = on != 0;
}
double ij_optim_grad_norm(const ij_optim *o, int i) { return i < 0 || i >= o->count ? 0 : o->e[i]->grad_norm; }
int ij_optim_count(const ij_optim *o) { return o->count; }
int ij_optim_owner(const ij_optim *o, int i) { return i < 0 || i >= o->count ? -1 : o->e[i]->owner; }
ij_tensor *ij_optim_state(ij_optim *o, int i, int which) {
  return i < 0 || i >= o->count ? NULL : which ? o->e[i]->v : o->e[i]->m;
}
int64_t ij_optim_steps(const ij_optim *o) { return o->steps; }
void ij_optim_set_steps(ij_optim *o, int64_t n) { o->steps = n; }

/* Optimizers: the update of a tensor, the reset of its gradient and its average (EMA) in one pass. */
#include "optim.h"
#include <math.h>
#include <string.h>

enum { COLLECT = 2 << 20, BUCKET = 25 << 18, BUCKET_LEAST = 1 << 18 }; /* elements */

static ij_status groups_make(ij_optim *o) {
  ij_dist_info at = {.size = 1};
  if (o->config.dist) ij_dist_look(o->config.dist, &at);
  int64_t bucket = o->config.bucket ? (int64_t)(o->config.bucket / sizeof(float)) : BUCKET;
  o->limit = COLLECT;
  o->groups = 1;
  if (at.size > 1) {
    o->dist = o->config.dist;
    ij_dist_ref(o->dist);
    o->limit = bucket;
    if (o->config.shard) { /* each owner has its own buckets: smaller ones, so that they fill up before the end */
      o->groups = at.size;
      if (bucket / at.size > BUCKET_LEAST) o->limit = bucket / at.size;
      else if (bucket > BUCKET_LEAST) o->limit = BUCKET_LEAST;
      if (!(o->load = ij_calloc((size_t)at.size, sizeof *o->load))) return IJ_ENOMEM;
    }
  }
  return (o->group = ij_calloc((size_t)o->groups, sizeof *o->group)) ? IJ_OK : IJ_ENOMEM;
}

static const char *name_of(const ij_optim *o) {
  static const char *const name[] = {[IJ_ADAMW] = "adamw", [IJ_SGD] = "sgd", [IJ_LARS] = "lars", [IJ_LION] = "lion"};
  return name[o->config.kind];
}

/* Fills in what 0 stands for. */
static ij_status config_check(ij_optim_config *k) {
  bool steady = k->kind == IJ_SGD || k->kind == IJ_LARS;
  if (k->kind < IJ_ADAMW || k->kind > IJ_LION)
    return ij_fail(IJ_EINVAL, "optimizer: there is no kind %d", (int)k->kind);
  if (k->beta1 == 0 && !steady) k->beta1 = .9;
  if (k->beta2 == 0) k->beta2 = k->kind == IJ_LION ? .99 : .999;
  if (k->eps == 0) k->eps = 1e-8;
  if (k->trust == 0) k->trust = .001;
  if (steady && !(k->beta1 >= 0 && k->beta1 < 1))
    return ij_fail(IJ_EINVAL, "optimizer: momentum %g: expected it in [0, 1)", k->beta1);
  if (k->nesterov && !(steady && k->beta1 > 0))
    return ij_fail(IJ_EINVAL, "optimizer: nesterov is for sgd and lars with a momentum");
  if (!(k->trust > 0 && k->trust < HUGE_VAL))
    return ij_fail(IJ_EINVAL, "lars: trust coefficient %g: expected it above 0", k->trust);
  if (!(k->beta1 >= 0 && k->beta1 < 1 && k->beta2 >= 0 && k->beta2 < 1 && k->eps > 0))
    return ij_fail(IJ_EINVAL, "%s: betas %g and %g, eps %g: expected betas in [0, 1) and eps above 0",
                   k->kind == IJ_LION ? "lion" : "adamw", k->beta1, k->beta2, k->eps);
  return IJ_OK;
}

ij_status ij_adamw_new(const ij_optim_config *c, ij_optim **out) {
  *out = NULL;
  if (c && c->kind != IJ_ADAMW) return ij_fail(IJ_EINVAL, "adamw: the configuration is of another optimizer");
  return ij_optim_new(c, out);
}

ij_status ij_optim_new(const ij_optim_config *c, ij_optim **out) {
  *out = NULL;
  ij_optim_config k = c ? *c : (ij_optim_config){0};
  IJ_TRY(config_check(&k));
  ij_optim *o = ij_calloc(1, sizeof *o);
  if (!o) return IJ_ENOMEM;
  o->config = k;
  o->moments = k.kind == IJ_ADAMW ? 2 : k.kind == IJ_LION || k.beta1 > 0;
  if (groups_make(o) != IJ_OK) {
    ij_optim_free(o);
    return IJ_ENOMEM;
  }
  *out = o;
  return IJ_OK;
}

/* Drops with the sink a gradient that was not taken: its memory is the step's. */
static void forget_sink(ij_update_entry *e) {
  if (e->p->sink != &e->sink) return;
  e->p->sink = NULL;
  ij_drop(&e->p->grad);
}

static void entry_free(ij_update_entry *e) {
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
  if (o->dist) ij_bucket_free(o);
  for (int i = 0; i < o->count; i++) entry_free(o->entry[i]);
  for (int i = 0; i < o->followers; i++) entry_free(o->follower[i]);
  for (int i = 0; o->group && i < o->groups; i++) ij_free(o->group[i].entry);
  ij_tensor_free(o->gate);
  ij_dist_drop(o->dist);
  ij_free(o->group);
  ij_free(o->load);
  ij_tensor_free(o->ratio);
  ij_free(o->follower);
  ij_free(o->item);
  ij_free(o->entry);
  ij_free(o);
}

static ij_status grow(ij_optim *o) {
  if (o->count + o->followers < o->cap) return IJ_OK; /* items: also for one call of all followers */
  int cap = o->cap ? 2 * o->cap : 32;
  ij_update_entry **more = ij_realloc(o->entry, (size_t)cap * sizeof *more);
  if (more) o->entry = more;
  ij_update_item *items = more ? ij_realloc(o->item, (size_t)cap * sizeof *items) : NULL;
  if (!items) return IJ_ENOMEM;
  o->item = items;
  o->cap = cap;
  return IJ_OK;
}

/* The process that owns the fewest elements so far. */
static int next_owner(const ij_optim *o) {
  int least = 0;
  for (int r = 1; r < o->groups; r++)
    if (o->load[r] < o->load[least]) least = r;
  return least;
}

static ij_status moments_make(ij_update_entry *e, int moments, int ndim, const int64_t *shape) {
  ij_device *dev = ij_device_of(e->p);
  if (moments > 0) IJ_TRY(ij_tensor_make(dev, IJ_F32, ndim, shape, true, &e->m));
  if (moments > 1) IJ_TRY(ij_tensor_make(dev, IJ_F32, ndim, shape, true, &e->v));
  if (moments > 0) IJ_TRY(ij_fill(e->m, 0));
  return moments > 1 ? ij_fill(e->v, 0) : IJ_OK;
}

/* All tensors of an optimizer share a device: that of its first parameter. */
static ij_status want_device(const ij_optim *o, const char *arg, const ij_tensor *t) {
  const ij_update_entry *first = o->count ? o->entry[0] : o->followers ? o->follower[0] : NULL;
  return first ? ij_want_device(name_of(o), arg, t, ij_device_of(first->p), "first parameter") : IJ_OK;
}
static ij_status want_parameter(const ij_optim *o, const ij_tensor *p) {
  if (o->started)
    return ij_fail(IJ_EINVAL, "%s: tensors can't be added after the first update: make a new optimizer", name_of(o));
  IJ_TRY(ij_want(name_of(o), "parameter", p, IJ_F32));
  return want_device(o, "parameter", p);
}

/* A new last entry like `like`, whose p, average, range and scales are set; ndim and shape are those of the moments. */
static ij_status append(ij_optim *o, const ij_update_entry *like, int ndim, const int64_t *shape) {
  ij_dist_info at = {0};
  IJ_TRY(grow(o));
  ij_update_entry *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  *e = *like;
  e->optim = o;
  e->owner = o->load ? next_owner(o) : -1;
  ij_hold(e->p);
  ij_hold(e->average);
  if (o->load) ij_dist_look(o->dist, &at);
  ij_status st = e->owner < 0 || e->owner == at.rank ? moments_make(e, o->moments, ndim, shape) : IJ_OK;
  if (st != IJ_OK) {
    entry_free(e);
    return st;
  }
  if (o->load) o->load[e->owner] += e->count;
  o->entry[o->count++] = e;
  return IJ_OK;
}

static ij_status want_average(const ij_optim *o, const ij_tensor *p, const ij_tensor *average) {
  IJ_TRY(ij_want_shape(name_of(o), "average", average, IJ_F32, p->ndim, p->shape));
  return ij_want_device(name_of(o), "average", average, ij_device_of(p), "parameter");
}

static ij_status want_scales(const ij_optim *o, double lr_scale, double wd_scale) {
  if (lr_scale >= 0 && lr_scale < HUGE_VAL && wd_scale >= 0 && wd_scale < HUGE_VAL) return IJ_OK;
  return ij_fail(IJ_EINVAL, "%s: factors %g of the learning rate and %g of the weight decay: expected 0 or more",
                 name_of(o), lr_scale, wd_scale);
}

ij_status ij_optim_add_scaled(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average, double lr_scale,
                              double wd_scale) {
  IJ_TRY(want_parameter(o, p));
  if (average) IJ_TRY(want_average(o, p, average));
  IJ_TRY(want_scales(o, lr_scale, wd_scale));
  ij_update_entry e = {.p = p,
                       .average = average,
                       .count = ij_tensor_count(p),
                       .lr_scale = lr_scale,
                       .wd_scale = wd_scale,
                       .adapted = decayed != 0};
  return append(o, &e, p->ndim, p->shape);
}

ij_status ij_optim_add(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average) {
  return ij_optim_add_scaled(o, p, decayed, average, 1, decayed ? 1 : 0);
}

ij_status ij_optim_follow(ij_optim *o, ij_tensor *p, ij_tensor *average) {
  IJ_TRY(want_parameter(o, p));
  IJ_TRY(want_average(o, p, average));
  IJ_TRY(grow(o));
  if (o->followers == o->follower_cap) {
    int cap = o->follower_cap ? 2 * o->follower_cap : 32;
    ij_update_entry **more = ij_realloc(o->follower, (size_t)cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    o->follower = more;
    o->follower_cap = cap;
  }
  ij_update_entry *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  *e = (ij_update_entry){
      .optim = o, .p = ij_hold(p), .average = ij_hold(average), .count = ij_tensor_count(p), .owner = -1};
  o->follower[o->followers++] = e;
  return IJ_OK;
}

ij_status ij_optim_add_part(ij_optim *o, ij_tensor *p, int64_t first, int64_t count, double lr_scale, double wd_scale) {
  IJ_TRY(want_parameter(o, p));
  int64_t n = ij_tensor_count(p);
  if (o->dist)
    return ij_fail(IJ_EUNSUPPORTED, "%s: parts of tensors can't be updated by several processes: use one process",
                   name_of(o));
  if (first < 0 || count < 0 || first > n || count > n - first)
    return ij_fail(IJ_ESHAPE, "%s: %lld elements from %lld on are outside a tensor of %lld", name_of(o),
                   (long long)count, (long long)first, (long long)n);
  ij_update_entry e = {.p = p,
                       .first = first,
                       .count = count,
                       .lr_scale = lr_scale,
                       .wd_scale = wd_scale,
                       .adapted = p->ndim > 1,
                       .part = true};
  return append(o, &e, 1, &count);
}

/* Updates with the group's gradients, or begins their sum over the processes; then the group is empty. */
static ij_status use_group(ij_optim *o, ij_group *g, int owner, const ij_settings *k) {
  if (o->dist) return ij_bucket_send(o, g, owner);
  ij_status st = ij_optim_update(o, g, NULL, k, o->gate ? ij_f32_of(o->gate) : NULL);
  ij_group_clear(g);
  return st;
}

static ij_status take(ij_sink *s, ij_tensor *t) {
  ij_update_entry *e = (ij_update_entry *)(void *)s;
  ij_optim *o = e->optim;
  ij_group *g = &o->group[o->load ? e->owner : 0];
  /* t's version changes in ij_optim_step: until then this backward reads its storage as it was */
  IJ_TRY(ij_group_add(g, e));
  e->taken = true;
  e->grad = ij_hold(t->grad);
  return g->total < o->limit ? IJ_OK : use_group(o, g, e->owner, &o->settings);
}

static void groups_clear(ij_optim *o) {
  for (int i = 0; i < o->groups; i++) ij_group_clear(&o->group[i]);
  if (o->dist) ij_bucket_reset(o);
  for (int i = 0; i < o->count; i++) o->entry[i]->taken = false;
}

/* A new update: the version that its tensors will have is known from here on, see ij_update_item. */
static void begin_update(ij_optim *o) {
  o->started = true;
  o->steps++;
  o->version = ij_new_version();
}

ij_status ij_optim_eager(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  o->settings = (ij_settings){lr, wd, momentum, grad_scale};
  if (!o->eager) begin_update(o);
  o->eager = true;
  groups_clear(o); /* of a backward that failed */
  for (int i = 0; i < o->count; i++) {
    ij_update_entry *e = o->entry[i];
    e->sink.take = take;
    forget_sink(e);
    if (!e->part && !e->p->grad) e->p->sink = &e->sink;
  }
  return IJ_OK;
}

/* Entries whose gradients no sink has taken; the gradient of a parameter that was not used is zeros. */
static ij_status update_rest(ij_optim *o, const ij_settings *k) {
  ij_group *g = &o->group[0];
  for (int i = 0; i < o->count; i++) {
    ij_update_entry *e = o->entry[i];
    if (e->taken) continue;
    float *unused;
    IJ_TRY(ij_grad_into(e->p, &unused));
    e->grad = ij_hold(e->p->grad);
    IJ_TRY(ij_group_add(g, e));
  }
  return use_group(o, g, -1, k);
}

/* What opens an update: with several processes the sum of their gates. */
static const float *gate_of(const ij_optim *o) {
  if (!o->gate) return NULL;
  return ij_f32_of(o->dist ? o->gates : o->gate);
}

ij_status ij_optim_step(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  ij_settings k = {lr, wd, momentum, grad_scale};
  if (!o->eager) begin_update(o);
  else if (memcmp(&k, &o->settings, sizeof k))
    return ij_fail(IJ_EINVAL,
                   "%s: learning rate, weight decay, momentum or gradient scale is not what ij_optim_eager got",
                   name_of(o));
  IJ_TRY(o->dist ? ij_bucket_step(o, &k) : update_rest(o, &k));
  IJ_TRY(ij_optim_average(o, o->follower, o->followers, &k, gate_of(o)));
  for (int i = 0; i < o->count; i++) {
    ij_update_entry *e = o->entry[i];
    forget_sink(e);
    e->p->storage->version = o->version;
    if (e->average) e->average->storage->version = o->version;
  }
  for (int i = 0; i < o->followers; i++) {
    o->follower[i]->p->storage->version = o->version;
    o->follower[i]->average->storage->version = o->version;
  }
  o->eager = false;
  groups_clear(o);
  return IJ_OK;
}

ij_status ij_optim_norm(ij_optim *o, double *norm, int *finite) {
  if (o->dist) return ij_bucket_norm(o, norm, finite);
  ij_tensor **g = ij_alloc((size_t)(o->count + 1) * sizeof *g);
  int n = 0;
  if (!g) return IJ_ENOMEM;
  for (int i = 0; i < o->count; i++)
    if (o->entry[i]->p->grad) g[n++] = o->entry[i]->p->grad;
  ij_status st = ij_sum_squares(g, n, norm, finite);
  ij_free(g);
  *norm = sqrt(*norm);
  return st;
}

ij_status ij_optim_gate(ij_optim *o, ij_tensor *gate) {
  if (gate) IJ_TRY(ij_want_shape(name_of(o), "gate", gate, IJ_F32, 1, (int64_t[]){1}));
  if (gate) IJ_TRY(want_device(o, "gate", gate));
  ij_hold(gate);
  ij_tensor_free(o->gate);
  o->gate = gate;
  return IJ_OK;
}

ij_status ij_optim_momentum(ij_optim *o, double momentum) {
  if ((o->config.kind != IJ_SGD && o->config.kind != IJ_LARS) || !o->moments)
    return ij_fail(IJ_EINVAL, "%s: a momentum can be set for sgd and lars that began with one", name_of(o));
  if (!(momentum >= 0 && momentum < 1))
    return ij_fail(IJ_EINVAL, "%s: momentum %g: expected it in [0, 1)", name_of(o), momentum);
  o->config.beta1 = momentum;
  return IJ_OK;
}

void ij_optim_watch(ij_optim *o, int i, int on) {
  if (i >= 0 && i < o->count) o->entry[i]->watched = on != 0;
}
double ij_optim_grad_norm(const ij_optim *o, int i) { return i < 0 || i >= o->count ? 0 : o->entry[i]->grad_norm; }
int ij_optim_count(const ij_optim *o) { return o->count; }
int ij_optim_owner(const ij_optim *o, int i) { return i < 0 || i >= o->count ? -1 : o->entry[i]->owner; }
ij_tensor *ij_optim_state(ij_optim *o, int i, int which) {
  return i < 0 || i >= o->count ? NULL : which ? o->entry[i]->v : o->entry[i]->m;
}
int ij_optim_moments(const ij_optim *o) { return o->moments; }
int64_t ij_optim_steps(const ij_optim *o) { return o->steps; }
void ij_optim_set_steps(ij_optim *o, int64_t n) { o->steps = n; }

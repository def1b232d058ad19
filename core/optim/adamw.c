/* AdamW with decoupled decay; each tensor's update, its gradient's reset and its moving average in one pass. */
#include "../tensor/tensor.h"
#include <math.h>
#include <string.h>

typedef struct entry {
  ij_sink sink; /* first, so that take() finds its entry */
  ij_optim *o;
  ij_tensor *p, *average; /* held */
  ij_tensor *m, *v;       /* f32, p's shape, or (count) of a part */
  int64_t first, count;   /* elements of p */
  double lr_scale, wd_scale;
  double grad_norm;
  bool part, watched, done; /* done: of this update, which is an eager one */
} entry;
typedef struct numbers { /* of one update */
  double lr, wd, momentum, grad_scale;
} numbers;
struct ij_optim {
  ij_optim_config c;
  entry **e;
  int count, cap;
  int64_t steps;
  bool eager; /* between ij_optim_eager and ij_optim_step */
  numbers now;
};

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
  *out = o;
  return IJ_OK;
}

/* With its sink goes a gradient that nobody took: it is memory of the step. */
static void forget_sink(entry *e) {
  if (e->p->sink != &e->sink) return;
  e->p->sink = NULL;
  ij_drop(&e->p->grad);
}

static void entry_free(entry *e) {
  if (!e) return;
  if (e->p) forget_sink(e);
  ij_tensor_free(e->p);
  ij_tensor_free(e->average);
  ij_tensor_free(e->m);
  ij_tensor_free(e->v);
  ij_free(e);
}

void ij_optim_free(ij_optim *o) {
  if (!o) return;
  for (int i = 0; i < o->count; i++) entry_free(o->e[i]);
  ij_free(o->e);
  ij_free(o);
}

/* A new last entry like `like`, whose p, average and numbers are set; ndim and shape are those of the moments. */
static ij_status append(ij_optim *o, const entry *like, int ndim, const int64_t *shape) {
  if (o->count == o->cap) {
    int cap = o->cap ? 2 * o->cap : 32;
    entry **more = ij_realloc(o->e, (size_t)cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    o->e = more;
    o->cap = cap;
  }
  entry *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  *e = *like;
  e->o = o;
  ij_hold(e->p);
  ij_hold(e->average);
  ij_device *dev = e->p->storage->dev;
  ij_status st = IJ_ENOMEM;
  if ((e->m = ij_make(dev, IJ_F32, ndim, shape, true)) && (e->v = ij_make(dev, IJ_F32, ndim, shape, true))) {
    st = ij_fill(e->m, 0);
    if (st == IJ_OK) st = ij_fill(e->v, 0);
  }
  if (st != IJ_OK) {
    entry_free(e);
    return st;
  }
  o->e[o->count++] = e;
  return IJ_OK;
}

ij_status ij_optim_add(ij_optim *o, ij_tensor *p, int decayed, ij_tensor *average) {
  IJ_TRY(ij_want("adamw", "parameter", p, IJ_F32));
  if (average) IJ_TRY(ij_want_shape("adamw", "average", average, IJ_F32, p->ndim, p->shape));
  entry e = {.p = p, .average = average, .count = ij_tensor_count(p), .lr_scale = 1, .wd_scale = decayed ? 1 : 0};
  return append(o, &e, p->ndim, p->shape);
}

ij_status ij_optim_add_part(ij_optim *o, ij_tensor *p, int64_t first, int64_t count, double lr_scale, double wd_scale) {
  IJ_TRY(ij_want("adamw", "parameter", p, IJ_F32));
  int64_t n = ij_tensor_count(p);
  if (first < 0 || count < 0 || first > n || count > n - first)
    return ij_fail(IJ_ESHAPE, "adamw: a part of %lld from %lld of a tensor of %lld", (long long)count, (long long)first,
                   (long long)n);
  entry e = {.p = p, .first = first, .count = count, .lr_scale = lr_scale, .wd_scale = wd_scale, .part = true};
  return append(o, &e, 1, &count);
}

static ij_status update(ij_optim *o, entry *e, const numbers *k) {
  ij_device *dev = e->p->storage->dev;
  float *g = ij_grad_of(e->p); /* a parameter that nothing used has zeros */
  if (!g) return IJ_ENOMEM;
  if (e->watched) {
    double sum;
    int finite;
    IJ_TRY(ij_sum_squares(&e->p->grad, 1, &sum, &finite));
    e->grad_norm = sqrt(sum);
  }
  ij_adamw_item item = {.n = e->count,
                        .lr = k->lr * e->lr_scale,
                        .wd = k->wd * e->wd_scale,
                        .p = ij_f32_of(e->p) + e->first,
                        .g = g + e->first,
                        .m = ij_f32_of(e->m),
                        .v = ij_f32_of(e->v),
                        .avg = e->average ? ij_f32_of(e->average) : NULL};
  return dev->ops.adamw(&dev->queue, 1, &item, o->steps, o->c.beta1, o->c.beta2, o->c.eps, k->grad_scale, k->momentum,
                        NULL);
}

static ij_status take(ij_sink *s, ij_tensor *t) {
  entry *e = (entry *)(void *)s;
  (void)t; /* e->p; its version changes in ij_optim_step: what this backward still reads of its storage is as it was */
  e->done = true;
  return update(e->o, e, &e->o->now);
}

ij_status ij_optim_eager(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  o->now = (numbers){lr, wd, momentum, grad_scale};
  if (!o->eager) o->steps++;
  o->eager = true;
  for (int i = 0; i < o->count; i++) {
    entry *e = o->e[i];
    e->done = false;
    e->sink.take = take;
    forget_sink(e); /* of a backward that failed */
    if (!e->part && !e->p->grad) e->p->sink = &e->sink;
  }
  return IJ_OK;
}

ij_status ij_optim_step(ij_optim *o, double lr, double wd, double momentum, double grad_scale) {
  numbers k = {lr, wd, momentum, grad_scale};
  if (!o->eager) o->steps++;
  else if (memcmp(&k, &o->now, sizeof k))
    return ij_fail(IJ_EINVAL, "adamw: the step's numbers are not those that ij_optim_eager got");
  for (int i = 0; i < o->count; i++) {
    entry *e = o->e[i];
    if (!o->eager || !e->done) IJ_TRY(update(o, e, &k));
    forget_sink(e);
    ij_tensor_touched(e->p);
    if (e->average) ij_tensor_touched(e->average);
  }
  o->eager = false;
  return IJ_OK;
}

void ij_optim_watch(ij_optim *o, int i, int on) {
  if (i >= 0 && i < o->count) o->e[i]->watched = on != 0;
}
double ij_optim_grad_norm(const ij_optim *o, int i) { return i < 0 || i >= o->count ? 0 : o->e[i]->grad_norm; }
int ij_optim_count(const ij_optim *o) { return o->count; }
ij_tensor *ij_optim_state(ij_optim *o, int i, int which) {
  return i < 0 || i >= o->count ? NULL : which ? o->e[i]->v : o->e[i]->m;
}
int64_t ij_optim_steps(const ij_optim *o) { return o->steps; }
void ij_optim_set_steps(ij_optim *o, int64_t n) { o->steps = n; }

/* The lowest part of an optimizer: groups of gradients, and one call of the device's kernel for a group. */
#include "optim.h"
#include <math.h>

ij_status ij_group_add(ij_group *g, ij_update_entry *e) {
  if (g->count == g->cap) {
    int cap = g->cap ? 2 * g->cap : 16;
    ij_update_entry **more = ij_realloc(g->entry, (size_t)cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    g->entry = more;
    g->cap = cap;
  }
  e->offset = g->total;
  g->total += (e->count + 63) / 64 * 64;
  g->entry[g->count++] = e;
  return IJ_OK;
}
void ij_group_clear(ij_group *g) {
  for (int i = 0; i < g->count; i++) ij_drop(&g->entry[i]->grad);
  g->count = 0;
  g->total = 0;
}

static ij_status watch_norm(ij_update_entry *e, ij_tensor *x) {
  ij_tensor *g = e->grad;
  double sum;
  int finite;
  if (x) IJ_TRY(ij_tensor_narrow(x, 0, e->offset, e->count, &g));
  ij_status st = ij_sum_squares(&g, 1, &sum, &finite);
  if (x) ij_tensor_free(g);
  if (st == IJ_OK) e->grad_norm = sqrt(sum);
  return st;
}

ij_update ij_update_of(const ij_optim *o, const ij_settings *k, const float *gate) {
  static const ij_update_kind kind[] = {
      [IJ_ADAMW] = IJ_UPDATE_ADAMW, [IJ_SGD] = IJ_UPDATE_SGD, [IJ_LARS] = IJ_UPDATE_SGD, [IJ_LION] = IJ_UPDATE_LION};
  const ij_optim_config *c = &o->config;
  return (ij_update){kind[c->kind], c->nesterov != 0, o->steps,    c->beta1, c->beta2,
                     c->eps,        k->grad_scale,    k->momentum, gate};
}

ij_status ij_optim_average(ij_optim *o, ij_update_entry *const *entry, int count, const ij_settings *k,
                           const float *gate) {
  int n = 0;
  ij_update u = ij_update_of(o, k, gate);
  for (int i = 0; i < count; i++) {
    ij_update_entry *e = entry[i];
    if (!e->average) continue;
    ij_update_item item = {.n = e->count, .p = ij_f32_of(e->p), .avg = ij_f32_of(e->average)};
    item.version = item.avg_version = o->version;
    o->item[n] = item;
    n++;
  }
  if (n == 0) return IJ_OK;
  ij_device *dev = ij_device_of(entry[0]->p);
  return dev->ops.update(&dev->queue, n, o->item, &u);
}

/* LARS: the factors of the first n items of o->item. */
static ij_status adapt(ij_optim *o, const ij_group *g, const ij_settings *k) {
  ij_device *dev = ij_device_of(g->entry[0]->p);
  int64_t cap = o->cap;
  if (!o->ratio || o->ratio->shape[0] < cap) {
    ij_tensor_free(o->ratio);
    o->ratio = NULL;
    IJ_TRY(ij_tensor_make(dev, IJ_F32, 1, &cap, true, &o->ratio));
  }
  for (int i = 0; i < g->count; i++)
    if (g->entry[i]->adapted) o->item[i].ratio = ij_f32_of(o->ratio) + i;
  return dev->ops.trust(&dev->queue, g->count, o->item, k->grad_scale, o->config.trust);
}

ij_status ij_optim_update(ij_optim *o, const ij_group *g, ij_tensor *x, const ij_settings *k, const float *gate) {
  if (g->count == 0) return IJ_OK;
  ij_device *dev = ij_device_of(g->entry[0]->p);
  ij_update u = ij_update_of(o, k, gate);
  for (int i = 0; i < g->count; i++) {
    ij_update_entry *e = g->entry[i];
    if (e->watched) IJ_TRY(watch_norm(e, x));
    o->item[i] = (ij_update_item){.n = e->count,
                                  .lr = k->lr * e->lr_scale,
                                  .wd = k->wd * e->wd_scale,
                                  .p = ij_f32_of(e->p) + e->first,
                                  .g = x ? ij_f32_of(x) + e->offset : ij_f32_of(e->grad) + e->first,
                                  .m = e->m ? ij_f32_of(e->m) : NULL,
                                  .v = e->v ? ij_f32_of(e->v) : NULL,
                                  .avg = e->average && !o->load ? ij_f32_of(e->average) : NULL,
                                  .version = o->version,
                                  .avg_version = o->version};
  }
  if (o->config.kind == IJ_LARS) IJ_TRY(adapt(o, g, k));
  return dev->ops.update(&dev->queue, g->count, o->item, &u);
}

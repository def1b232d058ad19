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

ij_status ij_optim_update(ij_optim *o, const ij_group *g, ij_tensor *x, const ij_settings *k, const float *gate) {
  if (g->count == 0) return IJ_OK;
  ij_device *dev = ij_device_of(g->entry[0]->p);
  for (int i = 0; i < g->count; i++) {
    ij_update_entry *e = g->entry[i];
    if (e->watched) IJ_TRY(watch_norm(e, x));
    o->item[i] = (ij_adamw_item){.n = e->count,
                                 .lr = k->lr * e->lr_scale,
                                 .wd = k->wd * e->wd_scale,
                                 .p = ij_f32_of(e->p) + e->first,
                                 .g = x ? ij_f32_of(x) + e->offset : ij_f32_of(e->grad) + e->first,
                                 .m = ij_f32_of(e->m),
                                 .v = ij_f32_of(e->v),
                                 .avg = e->average && !o->load ? ij_f32_of(e->average) : NULL,
                                 .version = o->version,
                                 .avg_version = o->version};
  }
  return dev->ops.adamw(&dev->queue, g->count, o->item, o->steps, o->config.beta1, o->config.beta2, o->config.eps,
                        k->grad_scale, k->momentum, gate);
}

#include "model.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

int ij_params_count(const ij_params *p) { return p->count; }
const char *ij_params_name(const ij_params *p, int i) { return i >= 0 && i < p->count ? p->p[i].name : NULL; }
ij_tensor *ij_params_tensor(ij_params *p, int i) { return i >= 0 && i < p->count ? p->p[i].t : NULL; }
int ij_params_trained(const ij_params *p, int i) { return i >= 0 && i < p->count && p->p[i].trained; }
int ij_params_decayed(const ij_params *p, int i) { return i >= 0 && i < p->count && p->p[i].decayed; }

ij_status ij_params_add(ij_params *ps, bool trained, int ndim, const int64_t *shape, const char *fmt, ...) {
  char name[128];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(name, sizeof name, fmt, ap);
  va_end(ap);
  if (ps->count == ps->cap) {
    int cap = ps->cap ? 2 * ps->cap : 32;
    ij_param *more = ij_realloc(ps->p, (size_t)cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    ps->p = more;
    ps->cap = cap;
  }
  ij_param *p = &ps->p[ps->count];
  *p = (ij_param){.trained = trained, .decayed = trained && ndim > 1};
  /* until ij_params_build the tensor is a shape without storage */
  if (!(p->name = ij_strdup(name)) || !(p->t = ij_calloc(1, sizeof *p->t))) {
    ij_free(p->name);
    return IJ_ENOMEM;
  }
  p->t->refs = 1;
  p->t->ndim = ndim;
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    p->t->shape[i] = shape[i];
    p->t->stride[i] = step;
    step *= shape[i];
  }
  ps->count++;
  return IJ_OK;
}

static int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; } /* tensors begin at cache lines */

/* Blocks of fixed size have a stream of their own, so the values don't depend on the count of threads. */
static void draw_normal(float *v, int64_t n, double std, uint64_t seed, uint32_t which) {
  enum { BLOCK = 1 << 16 };
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < (n + BLOCK - 1) / BLOCK; b++) {
    ij_rng r;
    ij_rng_init(&r, seed, IJ_RNG_INIT, which, (uint32_t)b);
    for (int64_t i = b * BLOCK; i < n && i < (b + 1) * BLOCK; i++) {
      double x;
      do x = std * ij_rng_normal(&r);
      while (fabs(x) > 2);
      v[i] = (float)x;
    }
  }
}

static double std_of(const ij_param *p, const ij_vit_config *c) {
  double gain = strstr(p->name, "patch_embed") ? c->patch_gain : strstr(p->name, "mask_token") ? 0 : c->init_gain;
  int64_t fan_in = ij_tensor_count(p->t) / p->t->shape[0];
  return gain > 0 ? gain / sqrt((double)fan_in) : 0.02;
}

static ij_status fill_initial(ij_param *p, const ij_vit_config *c, uint32_t which) {
  if (c->blank) return IJ_OK;
  int64_t n = ij_tensor_count(p->t);
  size_t bytes = (size_t)n * 4;
  float *v = ij_calloc((size_t)n, 4);
  if (!v) return IJ_ENOMEM;
  bool norm_weight = strstr(p->name, "norm") && strstr(p->name, ".weight");
  if (norm_weight)
    for (int64_t i = 0; i < n; i++) v[i] = 1;
  else if (strstr(p->name, ".gamma"))
    for (int64_t i = 0; i < n; i++) v[i] = (float)c->layer_scale;
  else if (p->decayed) draw_normal(v, n, std_of(p, c), c->seed, which);
  ij_status st = ij_tensor_write(p->t, v, bytes);
  ij_free(v);
  return st;
}

ij_status ij_params_build(ij_params *ps, ij_device *dev, const ij_vit_config *c) {
  int64_t total = 0, offset = 0;
  for (int i = 0; i < ps->count; i++)
    if (ps->p[i].trained) total += rounded(ij_tensor_count(ps->p[i].t));
  if (!(ps->flat = ij_make(dev, IJ_F32, 1, &total, true))) return IJ_ENOMEM;
  for (int i = 0; i < ps->count; i++) {
    ij_param *p = &ps->p[i];
    ij_tensor *shape = p->t;
    if (p->trained) {
      shape->storage = ps->flat->storage;
      shape->storage->refs++;
      shape->offset = offset;
      shape->requires_grad = true;
      offset += rounded(ij_tensor_count(shape));
    } else {
      ij_tensor *own = ij_make(dev, IJ_F32, shape->ndim, shape->shape, true);
      if (!own) return IJ_ENOMEM;
      ij_free(shape);
      p->t = own;
    }
    IJ_TRY(fill_initial(p, c, (uint32_t)i));
  }
  return IJ_OK;
}

void ij_params_release(ij_params *ps) {
  for (int i = 0; i < ps->count; i++) {
    if (ps->p[i].t->storage) ij_tensor_free(ps->p[i].t);
    else ij_free(ps->p[i].t);
    ij_free(ps->p[i].name);
  }
  ij_free(ps->p);
  ij_drop(&ps->flat);
  *ps = (ij_params){0};
}

ij_tensor *ij_params_get(ij_params *ps, const char *fmt, ...) {
  char name[128];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(name, sizeof name, fmt, ap);
  va_end(ap);
  for (int i = 0; i < ps->count; i++)
    if (!strcmp(ps->p[i].name, name)) return ps->p[i].t;
  IJ_BUG(name);
}

ij_status ij_as_dtype(ij_tensor *t, ij_dtype dt, ij_tensor **out) {
  if (t->dtype == dt) {
    *out = ij_hold(t);
    return IJ_OK;
  }
  ij_device *dev = t->storage->dev;
  *out = ij_make(dev, dt, t->ndim, t->shape, false);
  if (!*out) return IJ_ENOMEM;
  ij_status st = dev->ops.convert(&dev->queue, ij_tensor_count(t), t->dtype, ij_data_of(t), dt, ij_data_of(*out));
  if (st != IJ_OK) ij_drop(out);
  return st;
}

/* ---- positions */
static void positions_fill(float *pos, int grid_h, int grid_w, int D) {
  int quarter = D / 4;
  for (int y = 0; y < grid_h; y++)
    for (int x = 0; x < grid_w; x++) {
      float *p = pos + ((int64_t)y * grid_w + x) * D;
      for (int i = 0; i < quarter; i++) {
        double omega = pow(10000.0, -(double)i / (D / 4.0));
        p[i] = (float)sin(x * omega);
        p[quarter + i] = (float)cos(x * omega);
        p[2 * quarter + i] = (float)sin(y * omega);
        p[3 * quarter + i] = (float)cos(y * omega);
      }
    }
}

ij_status ij_positions_init(ij_positions *p, ij_tensor *table, int grid_h, int grid_w) {
  size_t bytes = (size_t)ij_tensor_count(table) * 4;
  float *v = ij_alloc(bytes);
  if (!v) return IJ_ENOMEM;
  positions_fill(v, grid_h, grid_w, (int)table->shape[2]);
  ij_status st = ij_tensor_write(table, v, bytes);
  ij_free(v);
  *p = (ij_positions){.table = table, .grid_h = grid_h, .grid_w = grid_w};
  return st;
}

ij_status ij_positions_get(ij_positions *p, int grid_h, int grid_w, ij_tensor **table) {
  if (grid_h == p->grid_h && grid_w == p->grid_w) {
    *table = p->table;
    return IJ_OK;
  }
  if (!p->other || grid_h != p->other_h || grid_w != p->other_w) {
    ij_tensor *t =
        ij_make(p->table->storage->dev, IJ_F32, 3, (int64_t[]){1, (int64_t)grid_h * grid_w, p->table->shape[2]}, true);
    if (!t) return IJ_ENOMEM;
    ij_positions made;
    ij_status st = ij_positions_init(&made, t, grid_h, grid_w);
    if (st != IJ_OK) {
      ij_tensor_free(t);
      return st;
    }
    ij_drop(&p->other);
    p->other = t;
    p->other_h = grid_h;
    p->other_w = grid_w;
  }
  *table = p->other;
  return IJ_OK;
}

/* The published sizes. */
static const struct size {
  const char *name;
  int width, depth, heads;
  double mlp_ratio;
} sizes[] = {{"vit_tiny", 192, 12, 3, 4},    {"vit_small", 384, 12, 6, 4},  {"vit_base", 768, 12, 12, 4},
             {"vit_large", 1024, 24, 16, 4}, {"vit_huge", 1280, 32, 16, 4}, {"vit_giant", 1408, 40, 16, 48. / 11}};

ij_status ij_vit_size(const char *arch, ij_vit_config *c) {
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    if (strcmp(arch, sizes[i].name)) continue;
    c->width = sizes[i].width;
    c->depth = sizes[i].depth;
    c->heads = sizes[i].heads;
    c->mlp_ratio = sizes[i].mlp_ratio;
    return IJ_OK;
  }
  return ij_fail(IJ_EINVAL, "unknown arch '%s': one of vit_tiny, vit_small, vit_base, vit_large, vit_huge, vit_giant",
                 arch);
}

int64_t ij_mlp_width(const ij_vit_config *c) { return (int64_t)(c->width * c->mlp_ratio); }

ij_status ij_vit_config_check(const ij_vit_config *c, const char *what) {
  if (c->width < 4 || c->width > 16384 || c->width % 4)
    return ij_fail(IJ_EINVAL, "%s: width %d is not a multiple of 4 between 4 and 16384", what, c->width);
  if (c->heads < 1 || c->width % c->heads)
    return ij_fail(IJ_EINVAL, "%s: width %d does not divide by %d heads", what, c->width, c->heads);
  if (c->depth < 1 || c->depth > 1000) return ij_fail(IJ_EINVAL, "%s: depth %d, expected 1 to 1000", what, c->depth);
  if (!(c->mlp_ratio > 0 && c->mlp_ratio <= 64) || ij_mlp_width(c) < 1)
    return ij_fail(IJ_EINVAL, "%s: mlp ratio %g, expected more than 0 and at most 64", what, c->mlp_ratio);
  if (c->patch < 1 || c->patch > 1024) return ij_fail(IJ_EINVAL, "%s: patch %d, expected 1 to 1024", what, c->patch);
  if (c->channels != 3) return ij_fail(IJ_EINVAL, "%s: %d channels, expected 3", what, c->channels);
  if (c->grid_h < 1 || c->grid_w < 1 || c->grid_h > 4096 || c->grid_w > 4096)
    return ij_fail(IJ_EINVAL, "%s: a grid of %d x %d patches, expected 1 to 4096 a side", what, c->grid_h, c->grid_w);
  if (!(c->init_gain >= 0 && c->patch_gain >= 0)) return ij_fail(IJ_EINVAL, "%s: a gain below 0", what);
  if (c->dtype != IJ_F32 && c->dtype != IJ_BF16) return ij_fail(IJ_EINVAL, "%s: dtype must be f32 or bf16", what);
  if (!(c->layer_scale >= 0 && c->layer_scale < HUGE_VAL))
    return ij_fail(IJ_EINVAL, "%s: layer_scale %g, expected 0 or more", what, c->layer_scale);
  if (!(c->rope == 0 || (c->rope > 1 && c->rope < HUGE_VAL)))
    return ij_fail(IJ_EINVAL, "%s: rope %g, expected 0 or a base above 1", what, c->rope);
  if (c->rope > 0 && c->width / c->heads % 4)
    return ij_fail(IJ_EINVAL, "%s: rope: heads are %d wide, which does not divide by 4", what, c->width / c->heads);
  return IJ_OK;
}

ij_status ij_model_output(ij_tensor *y, ij_tensor *const *in, int n, ij_status (*backward)(ij_node *), void *ctx,
                          void (*drop)(void *), ij_tensor **out) {
  if (ctx) {
    ij_node node = {
        .name = "the model", .backward = backward, .out = y, .ctx = ctx, .drop = drop, .reads = IJ_READS_INPUTS};
    for (int i = 0; i < n; i++) node.in[i] = in[i];
    IJ_TRY(ij_record(&node));
  }
  *out = ij_hold(y);
  return IJ_OK;
}

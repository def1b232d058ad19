/* The encoder: patches -> linear -> + positions -> blocks -> norm. Only the context's patches are embedded when there
 * are some: the same as dropping the others afterwards, for less. */
#include "model.h"

struct ij_encoder {
  ij_vit_config c;
  int refs; /* its owner and each recorded forward whose backward is still to come */
  ij_device *dev;
  ij_params params;
  ij_stack stack;
  ij_positions pos;
  ij_tensor *embed_w, *embed_b; /* (D, 3, P, P), (D) */
  ij_tensor *scale6;            /* (6): bytes -> normalised, ImageNet's mean and std */
};

static const double MEAN[3] = {.485, .456, .406}, STD[3] = {.229, .224, .225};

ij_params *ij_encoder_params(ij_encoder *e) { return &e->params; }
const ij_vit_config *ij_encoder_config(const ij_encoder *e) { return &e->c; }

void ij_encoder_free(ij_encoder *e) {
  if (!e || --e->refs > 0) return;
  ij_stack_release(&e->stack);
  ij_params_release(&e->params);
  ij_drop(&e->pos.other);
  ij_drop(&e->scale6);
  ij_free(e);
}

ij_status ij_encoder_new(ij_device *dev, const ij_vit_config *c, ij_encoder **out) {
  *out = NULL;
  IJ_TRY(ij_vit_config_check(c, "encoder"));
  ij_encoder *e = ij_calloc(1, sizeof *e);
  if (!e) return IJ_ENOMEM;
  e->refs = 1;
  e->c = *c;
  e->dev = dev;
  int64_t D = c->width, P = c->patch, N = (int64_t)c->grid_h * c->grid_w;
  ij_params *ps = &e->params;
  ij_status st;
  IJ_TRY_TO(failed, st, ij_params_add(ps, false, 3, (int64_t[]){1, N, D}, "pos_embed"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 4, (int64_t[]){D, 3, P, P}, "patch_embed.proj.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "patch_embed.proj.bias"));
  IJ_TRY_TO(failed, st, ij_stack_declare(ps, c, "blocks"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "norm.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "norm.bias"));
  IJ_TRY_TO(failed, st, ij_params_build(ps, dev, c));
  IJ_TRY_TO(failed, st, ij_stack_init(&e->stack, dev, ps, c, "blocks", "norm"));
  e->embed_w = ij_params_get(ps, "patch_embed.proj.weight");
  e->embed_b = ij_params_get(ps, "patch_embed.proj.bias");
  IJ_TRY_TO(failed, st, ij_positions_init(&e->pos, ij_params_get(ps, "pos_embed"), c->grid_h, c->grid_w));
  float scale6[6];
  for (int i = 0; i < 3; i++) {
    scale6[2 * i] = (float)(1 / (255 * STD[i]));
    scale6[2 * i + 1] = (float)(-MEAN[i] / STD[i]);
  }
  IJ_TRY_TO(failed, st, ij_tensor_new_kept(dev, IJ_F32, 1, (int64_t[]){6}, &e->scale6));
  IJ_TRY_TO(failed, st, ij_tensor_write(e->scale6, scale6, sizeof scale6));
  *out = e;
  return IJ_OK;
failed:
  ij_encoder_free(e);
  return st;
}

ij_status ij_encoder_copy(ij_encoder *dst, ij_encoder *src) {
  if (dst->params.count != src->params.count) return ij_fail(IJ_ESHAPE, "copy: the encoders have other depths");
  for (int i = 0; i < dst->params.count; i++) IJ_TRY(ij_tensor_copy(dst->params.p[i].t, src->params.p[i].t));
  return IJ_OK;
}

ij_status ij_encoder_drop_path(ij_encoder *e, double rate, uint64_t seed, uint32_t step) {
  if (!(rate >= 0 && rate < 1)) return ij_fail(IJ_EINVAL, "drop_path: rate is %g, expected 0 up to 1", rate);
  e->stack.drop = (ij_drop_path){rate, seed, step};
  return IJ_OK;
}

/* ---- forward */
typedef struct geometry { /* of one call */
  int64_t C, B, K, H, W, gh, gw;
  int u8;
} geometry;

static ij_status measure(ij_encoder *e, ij_tensor *images, ij_tensor *context, geometry *g) {
  g->u8 = images->dtype == IJ_U8;
  if (g->u8) IJ_TRY(ij_want_shape("encoder", "images", images, IJ_U8, 4, (int64_t[]){-1, -1, -1, 3}));
  else IJ_TRY(ij_want_shape("encoder", "images", images, IJ_F32, 4, (int64_t[]){-1, 3, -1, -1}));
  IJ_TRY(ij_want_device("encoder", "images", images, e->dev, "the model"));
  g->B = images->shape[0];
  g->H = images->shape[g->u8 ? 1 : 2];
  g->W = images->shape[g->u8 ? 2 : 3];
  int64_t P = e->c.patch;
  if (!g->B || g->H < P || g->W < P || g->H % P || g->W % P)
    return ij_fail(IJ_ESHAPE, "encoder: %lld images of %lld x %lld are not whole patches of %lld", (long long)g->B,
                   (long long)g->H, (long long)g->W, (long long)P);
  g->gh = g->H / P;
  g->gw = g->W / P;
  g->C = 1;
  g->K = g->gh * g->gw;
  if (context) {
    IJ_TRY(ij_want_shape("encoder", "context", context, IJ_I32, 3, (int64_t[]){-1, g->B, -1}));
    IJ_TRY(ij_want_device("encoder", "context", context, e->dev, "the model"));
    IJ_TRY(ij_check_index("encoder", context, g->K));
    g->C = context->shape[0];
    g->K = context->shape[2];
    if (!g->C || !g->K) return ij_fail(IJ_ESHAPE, "encoder: an empty context");
  }
  return IJ_OK;
}

static ij_status patches_of(ij_encoder *e, const geometry *g, ij_tensor *images, ij_tensor *context, ij_tensor **p) {
  ij_device *dev = e->dev;
  int64_t P = e->c.patch;
  if (!(*p = ij_make2(dev, e->c.dtype, g->C * g->B * g->K, 3 * P * P))) return IJ_ENOMEM;
  return dev->ops.patchify(&dev->queue, e->c.dtype, g->C, g->B, g->K, g->H, g->W, P, g->u8, ij_data_of(images),
                           context ? ij_data_of(context) : NULL, ij_f32_of(e->scale6), ij_data_of(*p));
}

/* Patches, embedded, with positions: (C * B, K, D) f32. */
static ij_status embed(ij_encoder *e, const geometry *g, ij_tensor *images, ij_tensor *context, ij_tensor **x) {
  ij_device *dev = e->dev;
  ij_dtype dt = e->c.dtype;
  int64_t R = g->C * g->B * g->K, D = e->c.width, P = e->c.patch;
  ij_tensor *p = NULL, *y = NULL, *pos;
  ij_status st;
  IJ_TRY_TO(out, st, ij_positions_get(&e->pos, (int)g->gh, (int)g->gw, &pos));
  IJ_TRY_TO(out, st, patches_of(e, g, images, context, &p));
  st = IJ_ENOMEM;
  if (!(y = ij_make2(dev, dt, R, D)) || !(*x = ij_make3(dev, IJ_F32, g->C * g->B, g->K, D))) goto out;
  st = dev->ops.linear_fwd(&dev->queue, dt, R, D, 3 * P * P, ij_data_of(p), ij_f32_of(e->embed_w),
                           e->embed_w->storage->version, ij_data_of(y));
  if (st == IJ_OK)
    st = dev->ops.pos_add(&dev->queue, dt, R, D, g->gh * g->gw, ij_data_of(y), ij_f32_of(e->embed_b), ij_f32_of(pos),
                          context ? ij_data_of(context) : NULL, ij_f32_of(*x));
out:
  ij_tensor_free(p);
  ij_tensor_free(y);
  return st;
}

typedef struct saved {
  ij_encoder *e;
  geometry g;
  ij_stack_saved *stack;
  bool embedded; /* the patch embedding gets gradients */
} saved;
static void saved_free(void *ctx) {
  saved *s = ctx;
  ij_stack_saved_free(s->stack);
  ij_encoder_free(s->e);
  ij_free(s);
}

static ij_status encoder_backward(ij_node *n) { /* in: images, context */
  saved *s = n->ctx;
  ij_encoder *e = s->e;
  ij_device *dev = e->dev;
  const geometry *g = &s->g;
  ij_dtype dt = e->c.dtype;
  ij_tensor *dx = NULL, *dx_dt = NULL, *p = NULL;
  IJ_TRY(ij_stack_bwd(&e->stack, s->stack, n->out->grad, &dx, &dx_dt));
  ij_status st = IJ_OK;
  float *dw, *db;
  if (!s->embedded) goto out;
  st = patches_of(e, g, n->in[0], n->in[1], &p); /* again, rather than kept */
  if (st == IJ_OK) st = ij_grad_into(e->embed_w, &dw);
  if (st == IJ_OK) st = ij_grad_into(e->embed_b, &db);
  if (st == IJ_OK)
    st = dev->ops.linear_bwd_w(&dev->queue, dt, g->C * g->B * g->K, e->c.width, 3 * (int64_t)e->c.patch * e->c.patch,
                               ij_data_of(dx_dt), ij_data_of(p), dw, db);
  if (st == IJ_OK && e->stack.recorded == 1) st = ij_grad_whole(e->embed_w);
  if (st == IJ_OK && e->stack.recorded == 1) st = ij_grad_whole(e->embed_b);
out:
  if (dx_dt != dx) ij_tensor_free(dx_dt);
  ij_tensor_free(dx);
  ij_tensor_free(p);
  return st;
}

/* The first blocks that need no gradient, where the patch embedding needs none either: their number. */
static int frozen_blocks(const ij_encoder *e) {
  int n = 0;
  if (e->embed_w->requires_grad) return 0;
  while (n < e->c.depth && !e->stack.blocks[n].qkv_w->requires_grad) n++;
  return n;
}

ij_status ij_encoder_forward(ij_encoder *e, ij_tensor *images, ij_tensor *context, ij_tensor **out) {
  *out = NULL;
  geometry g;
  IJ_TRY(measure(e, images, context, &g));
  ij_tensor *x = NULL, *y = NULL, *y3 = NULL;
  saved *s = NULL;
  e->stack.frozen = frozen_blocks(e);
  bool record = e->dev->grad_on && (e->stack.frozen < e->c.depth || e->stack.norm_w->requires_grad);
  ij_status st;
  IJ_TRY_TO(out, st, embed(e, &g, images, context, &x));
  st = IJ_ENOMEM;
  if (record && !(s = ij_calloc(1, sizeof *s))) goto out;
  if (s) s->e = e, e->refs++;
  ij_tensor *taken = x; /* the stack takes it over */
  x = NULL;
  IJ_TRY_TO(out, st, ij_stack_fwd(&e->stack, g.C * g.B, g.K, 0, taken, IJ_F32, &y, s ? &s->stack : NULL, 0, NULL));
  IJ_TRY_TO(out, st, ij_tensor_reshape(y, 3, (int64_t[]){g.C * g.B, g.K, e->c.width}, &y3));
  if (s) s->g = g, s->embedded = e->embed_w->requires_grad;
  st = ij_model_output(y3, (ij_tensor *[]){images, context}, 2, encoder_backward, s, saved_free, out);
  s = NULL;
out:
  if (s) saved_free(s);
  ij_tensor_free(x);
  ij_tensor_free(y);
  ij_tensor_free(y3);
  return st;
}

ij_status ij_encoder_blocks(ij_encoder *e, ij_tensor *images, int last, ij_tensor **out) {
  for (int i = 0; i < last; i++) out[i] = NULL;
  if (last < 1 || last > e->c.depth) return ij_fail(IJ_EINVAL, "encoder: the last %d of %d blocks", last, e->c.depth);
  geometry g;
  IJ_TRY(measure(e, images, NULL, &g));
  ij_tensor *x = NULL;
  ij_status st = embed(e, &g, images, NULL, &x);
  if (st != IJ_OK) {
    ij_tensor_free(x);
    return st;
  }
  int was = ij_grad_enable(e->dev, 0);
  st = ij_stack_fwd(&e->stack, g.B, g.K, 0, x, IJ_F32, NULL, NULL, last, out);
  ij_grad_enable(e->dev, was);
  return st;
}

ij_status ij_encoder_attention(ij_encoder *e, ij_tensor *images, int block, ij_tensor **out) {
  *out = NULL;
  if (block < 0 || block >= e->c.depth) return ij_fail(IJ_EINVAL, "encoder: no block %d of %d", block + 1, e->c.depth);
  geometry g;
  IJ_TRY(measure(e, images, NULL, &g));
  ij_tensor *x = NULL;
  ij_status st = embed(e, &g, images, NULL, &x);
  if (st != IJ_OK) {
    ij_tensor_free(x);
    return st;
  }
  return ij_stack_attention(&e->stack, g.B, g.K, block, x, out);
}

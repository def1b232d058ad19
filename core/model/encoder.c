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
typedef struct saved {
  ij_encoder *e;
  ij_embed_sizes g;
  ij_stack_saved *stack;
  bool embedded; /* the patch embedding gets gradients */
} saved;
static void saved_free(void *ctx) {
  saved *s = ctx;
  ij_stack_saved_free(s->stack);
  ij_encoder_free(s->e);
  ij_free(s);
}

static ij_embedding embedding_of(ij_encoder *e) {
  return (ij_embedding){
      .name = "encoder", .dev = e->dev, .dt = e->c.dtype, .w = e->embed_w, .b = e->embed_b, .scale6 = e->scale6};
}

/* Patches, embedded, with positions: (C * B, K, D) f32. */
static ij_status embed(ij_encoder *e, ij_tensor *images, ij_tensor *context, ij_embed_sizes *g, ij_tensor **x) {
  ij_embedding m = embedding_of(e);
  ij_tensor *pos;
  IJ_TRY(ij_embed_measure(&m, images, context, g));
  IJ_TRY(ij_positions_get(&e->pos, (int)g->gh, (int)g->gw, &pos));
  return ij_embed_fwd(&m, g, images, context, pos, x);
}

static ij_status encoder_backward(ij_node *n) { /* in: images, context */
  saved *s = n->ctx;
  ij_embedding m = embedding_of(s->e);
  ij_tensor *dx = NULL, *dx_dt = NULL;
  IJ_TRY(ij_stack_bwd(&s->e->stack, s->stack, n->out->grad, &dx, &dx_dt));
  ij_status st = IJ_OK;
  if (s->embedded) st = ij_embed_bwd(&m, &s->g, n->in[0], n->in[1], dx_dt, s->e->stack.recorded == 1);
  if (dx_dt != dx) ij_tensor_free(dx_dt);
  ij_tensor_free(dx);
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
  ij_embed_sizes g;
  ij_tensor *x = NULL, *y = NULL, *y3 = NULL;
  saved *s = NULL;
  e->stack.frozen = frozen_blocks(e);
  bool record = e->dev->grad_on && (e->stack.frozen < e->c.depth || e->stack.norm_w->requires_grad);
  ij_status st;
  IJ_TRY_TO(out, st, embed(e, images, context, &g, &x));
  st = IJ_ENOMEM;
  if (record && !(s = ij_calloc(1, sizeof *s))) goto out;
  if (s) s->e = e, e->refs++;
  IJ_TRY_TO(out, st, ij_stack_places(&e->stack, "encoder", g.C * g.B, g.K, context, g.gh, g.gw));
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
  ij_embed_sizes g;
  ij_tensor *x = NULL;
  IJ_TRY(embed(e, images, NULL, &g, &x));
  ij_status st = ij_stack_places(&e->stack, "encoder", g.B, g.K, NULL, g.gh, g.gw);
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
  ij_embed_sizes g;
  ij_tensor *x = NULL;
  IJ_TRY(embed(e, images, NULL, &g, &x));
  ij_status st = ij_stack_places(&e->stack, "encoder", g.B, g.K, NULL, g.gh, g.gw);
  if (st != IJ_OK) {
    ij_tensor_free(x);
    return st;
  }
  return ij_stack_attention(&e->stack, g.B, g.K, block, x, out);
}

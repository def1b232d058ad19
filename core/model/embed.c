/* Patches of images -> linear -> + positions: how every encoder begins, and a recorded op of its own. Only the
 * context's patches are embedded when there are some: the same as dropping the others afterwards, for less. */
#include "model.h"

static ij_status measure(const ij_embedding *e, ij_tensor *images, ij_tensor *context, ij_embed_sizes *g) {
  const char *op = e->name;
  g->u8 = images->dtype == IJ_U8;
  if (g->u8) IJ_TRY(ij_want_shape(op, "images", images, IJ_U8, 4, (int64_t[]){-1, -1, -1, 3}));
  else IJ_TRY(ij_want_shape(op, "images", images, IJ_F32, 4, (int64_t[]){-1, 3, -1, -1}));
  IJ_TRY(ij_want_device(op, "images", images, e->dev, "the model"));
  g->B = images->shape[0];
  g->H = images->shape[g->u8 ? 1 : 2];
  g->W = images->shape[g->u8 ? 2 : 3];
  int64_t P = e->w->shape[2];
  if (!g->B || g->H < P || g->W < P || g->H % P || g->W % P)
    return ij_fail(IJ_ESHAPE, "%s: %lld images of %lld x %lld are not whole patches of %lld", op, (long long)g->B,
                   (long long)g->H, (long long)g->W, (long long)P);
  g->gh = g->H / P;
  g->gw = g->W / P;
  g->C = 1;
  g->K = g->gh * g->gw;
  if (context) {
    IJ_TRY(ij_want_shape(op, "context", context, IJ_I32, 3, (int64_t[]){-1, g->B, -1}));
    IJ_TRY(ij_want_device(op, "context", context, e->dev, "the model"));
    IJ_TRY(ij_check_index(op, context, g->K));
    g->C = context->shape[0];
    g->K = context->shape[2];
    if (!g->C || !g->K) return ij_fail(IJ_ESHAPE, "%s: an empty context", op);
  }
  return IJ_OK;
}

static ij_status patches_of(const ij_embedding *e, const ij_embed_sizes *g, ij_tensor *images, ij_tensor *context,
                            ij_tensor **p) {
  ij_device *dev = e->dev;
  int64_t P = e->w->shape[2];
  if (!(*p = ij_make2(dev, e->dt, g->C * g->B * g->K, 3 * P * P))) return IJ_ENOMEM;
  return dev->ops.patchify(&dev->queue, e->dt, g->C, g->B, g->K, g->H, g->W, P, g->u8, ij_data_of(images),
                           context ? ij_data_of(context) : NULL, ij_f32_of(e->scale6), ij_data_of(*p));
}

ij_status ij_embed_measure(const ij_embedding *e, ij_tensor *images, ij_tensor *context, ij_embed_sizes *g) {
  return measure(e, images, context, g);
}

ij_status ij_embed_fwd(const ij_embedding *e, const ij_embed_sizes *g, ij_tensor *images, ij_tensor *context,
                       ij_tensor *pos, ij_tensor **x) {
  ij_device *dev = e->dev;
  int64_t R = g->C * g->B * g->K, D = e->w->shape[0], P = e->w->shape[2];
  ij_tensor *p = NULL, *y = NULL;
  ij_status st;
  *x = NULL;
  IJ_TRY_TO(out, st, patches_of(e, g, images, context, &p));
  st = IJ_ENOMEM;
  if (!(y = ij_make2(dev, e->dt, R, D)) || !(*x = ij_make3(dev, IJ_F32, g->C * g->B, g->K, D))) goto out;
  st = dev->ops.linear_fwd(&dev->queue, e->dt, R, D, 3 * P * P, ij_data_of(p), ij_f32_of(e->w), e->w->storage->version,
                           ij_data_of(y));
  if (st == IJ_OK)
    st = dev->ops.pos_add(&dev->queue, e->dt, R, D, g->gh * g->gw, ij_data_of(y), ij_f32_of(e->b), ij_f32_of(pos),
                          context ? ij_data_of(context) : NULL, ij_f32_of(*x));
out:
  ij_tensor_free(p);
  ij_tensor_free(y);
  if (st != IJ_OK) ij_drop(x);
  return st;
}

ij_status ij_embed_bwd(const ij_embedding *e, const ij_embed_sizes *g, ij_tensor *images, ij_tensor *context,
                       ij_tensor *dx_dt, bool last) {
  ij_device *dev = e->dev;
  int64_t P = e->w->shape[2];
  ij_tensor *p = NULL;
  float *dw, *db;
  ij_status st = patches_of(e, g, images, context, &p); /* again, rather than kept */
  if (st == IJ_OK) st = ij_grad_into(e->w, &dw);
  if (st == IJ_OK) st = ij_grad_into(e->b, &db);
  if (st == IJ_OK)
    st = dev->ops.linear_bwd_w(&dev->queue, e->dt, g->C * g->B * g->K, e->w->shape[0], 3 * P * P, ij_data_of(dx_dt),
                               ij_data_of(p), dw, db);
  if (st == IJ_OK && last) st = ij_grad_whole(e->w);
  if (st == IJ_OK && last) st = ij_grad_whole(e->b);
  ij_tensor_free(p);
  return st;
}

/* ---- the op */
struct patch_embed { /* node.in: images, context or NULL, w, b, pos, scale6 */
  ij_dtype dt;
};
static ij_embedding embedding_of(ij_tensor *const *in, ij_dtype dt) {
  return (ij_embedding){
      .name = "patch_embed", .dev = ij_device_of(in[2]), .dt = dt, .w = in[2], .b = in[3], .scale6 = in[5]};
}
static ij_status patch_embed_backward(ij_node *n) {
  const struct patch_embed *a = (const void *)n->attr;
  ij_embedding e = embedding_of(n->in, a->dt);
  ij_embed_sizes g;
  IJ_TRY(measure(&e, n->in[0], n->in[1], &g));
  ij_tensor *dy;
  IJ_TRY(ij_as_dtype(n->out->grad, a->dt, &dy));
  ij_status st = ij_embed_bwd(&e, &g, n->in[0], n->in[1], dy, false);
  ij_tensor_free(dy);
  return st;
}
ij_status ij_patch_embed(ij_tensor *images, ij_tensor *context, ij_tensor *w, ij_tensor *b, ij_tensor *pos,
                         ij_tensor *scale6, ij_dtype dt, ij_tensor **out) {
  *out = NULL;
  const char *op = "patch_embed";
  IJ_TRY(ij_want_shape(op, "w", w, IJ_F32, 4, (int64_t[]){-1, 3, -1, -1}));
  int64_t D = w->shape[0], P = w->shape[2];
  if (dt != IJ_F32 && dt != IJ_BF16) return ij_fail(IJ_EINVAL, "%s: the type is f32 or bf16", op);
  if (!D || !P || w->shape[3] != P) return ij_fail(IJ_ESHAPE, "%s: 'w' is not (D, 3, P, P)", op);
  IJ_TRY(ij_want_shape(op, "b", b, IJ_F32, 1, &D));
  IJ_TRY(ij_want_shape(op, "scale6", scale6, IJ_F32, 1, (int64_t[]){6}));
  IJ_TRY(ij_want_alive(op, "images", images));
  ij_tensor *in[] = {images, context, w, b, pos, scale6};
  ij_embedding e = embedding_of(in, dt);
  IJ_TRY(ij_want_device(op, "b", b, e.dev, "'w'"));
  IJ_TRY(ij_want_device(op, "scale6", scale6, e.dev, "'w'"));
  ij_embed_sizes g;
  IJ_TRY(measure(&e, images, context, &g));
  IJ_TRY(ij_want_shape(op, "pos", pos, IJ_F32, 3, (int64_t[]){1, g.gh * g.gw, D}));
  IJ_TRY(ij_want_device(op, "pos", pos, e.dev, "'w'"));
  ij_tensor *x;
  IJ_TRY(ij_embed_fwd(&e, &g, images, context, pos, &x));
  ij_status st = IJ_OK;
  if (e.dev->grad_on && (w->requires_grad || b->requires_grad)) {
    ij_node node = {.name = "patch_embed", .backward = patch_embed_backward, .out = x, .reads = IJ_READS_INPUTS};
    for (int i = 0; i < 6; i++) node.in[i] = in[i];
    struct patch_embed a = {dt};
    __builtin_memcpy(node.attr, &a, sizeof a);
    st = ij_record(&node);
  }
  if (st == IJ_OK) *out = x;
  else ij_tensor_free(x);
  return st;
}

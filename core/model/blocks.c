/* The transformer blocks of an encoder as one recorded op, for models that are put together in Lua. */
#include "model.h"

struct ij_vit_blocks {
  ij_vit_config c;
  int refs; /* its owner and each recorded forward whose backward is still to come */
  ij_device *dev;
  ij_params params;
  ij_stack stack;
  ij_tensor *context; /* of ij_vit_blocks_places */
  int grid_h, grid_w;
};

ij_params *ij_vit_blocks_params(ij_vit_blocks *b) { return &b->params; }

void ij_vit_blocks_free(ij_vit_blocks *b) {
  if (!b || --b->refs > 0) return;
  ij_stack_release(&b->stack);
  ij_params_release(&b->params);
  ij_drop(&b->context);
  ij_free(b);
}

ij_status ij_vit_blocks_places(ij_vit_blocks *b, ij_tensor *context, int grid_h, int grid_w) {
  if (!grid_h && !grid_w) {
    grid_h = b->c.grid_h;
    grid_w = b->c.grid_w;
  }
  if (grid_h < 1 || grid_w < 1 || grid_h > 4096 || grid_w > 4096)
    return ij_fail(IJ_EINVAL, "blocks: a grid of %d x %d patches, expected 1 to 4096 a side", grid_h, grid_w);
  ij_hold(context);
  ij_drop(&b->context);
  b->context = context;
  b->grid_h = grid_h;
  b->grid_w = grid_w;
  return IJ_OK;
}

ij_status ij_vit_blocks_new(ij_device *dev, const ij_vit_config *given, ij_vit_blocks **out) {
  *out = NULL;
  ij_vit_config c = *given;
  c.patch = 1; /* of no meaning here */
  c.channels = 3;
  if (!(c.rope > 0)) c.grid_h = c.grid_w = 1;
  IJ_TRY(ij_vit_config_check(&c, "blocks"));
  ij_vit_blocks *b = ij_calloc(1, sizeof *b);
  if (!b) return IJ_ENOMEM;
  *b = (ij_vit_blocks){.c = c, .refs = 1, .dev = dev, .grid_h = c.grid_h, .grid_w = c.grid_w};
  int64_t D = c.width;
  ij_params *ps = &b->params;
  ij_status st;
  IJ_TRY_TO(failed, st, ij_stack_declare(ps, &c, "blocks"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "norm.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "norm.bias"));
  IJ_TRY_TO(failed, st, ij_params_build(ps, dev, &c));
  IJ_TRY_TO(failed, st, ij_stack_init(&b->stack, dev, ps, &c, "blocks", "norm"));
  *out = b;
  return IJ_OK;
failed:
  ij_vit_blocks_free(b);
  return st;
}

ij_status ij_vit_blocks_drop_path(ij_vit_blocks *b, double rate, uint64_t seed, uint32_t step) {
  if (!(rate >= 0 && rate < 1)) return ij_fail(IJ_EINVAL, "drop_path: rate is %g, expected 0 up to 1", rate);
  b->stack.drop = (ij_drop_path){rate, seed, step};
  return IJ_OK;
}

/* x (Q, N, D) as a tensor that the stack may take over: it writes its sums over a tensor that nobody else holds. */
static ij_status take(ij_vit_blocks *b, ij_tensor *x, ij_tensor **own) {
  *own = NULL;
  IJ_TRY(ij_want_shape("blocks", "x", x, IJ_F32, 3, (int64_t[]){-1, -1, b->c.width}));
  IJ_TRY(ij_want_device("blocks", "x", x, b->dev, "the model"));
  if (!x->shape[0] || !x->shape[1]) return ij_fail(IJ_ESHAPE, "blocks: 'x' is empty");
  IJ_TRY(ij_stack_places(&b->stack, "blocks", x->shape[0], x->shape[1], b->context, b->grid_h, b->grid_w));
  *own = ij_hold(x);
  return IJ_OK;
}

typedef struct saved {
  ij_vit_blocks *b;
  ij_stack_saved *stack;
} saved;
static void saved_free(void *ctx) {
  saved *s = ctx;
  ij_stack_saved_free(s->stack);
  ij_vit_blocks_free(s->b);
  ij_free(s);
}

static ij_status blocks_backward(ij_node *n) { /* in: x (Q, N, D) */
  saved *s = n->ctx;
  ij_tensor *x = n->in[0], *dx = NULL, *dx_dt = NULL, *dx3 = NULL;
  IJ_TRY(ij_stack_bwd(&s->b->stack, s->stack, n->out->grad, &dx, &dx_dt));
  if (dx_dt != dx) ij_tensor_free(dx_dt);
  ij_status st = IJ_OK;
  for (int i = 0; i < s->b->params.count; i++) /* frozen ones keep none */
    if (!s->b->params.p[i].t->requires_grad) ij_drop(&s->b->params.p[i].t->grad);
  if (x->requires_grad) st = ij_tensor_reshape(dx, 3, x->shape, &dx3);
  ij_tensor_free(dx);
  return dx3 ? ij_grad_add(x, dx3) : st;
}

ij_status ij_vit_blocks_forward(ij_vit_blocks *b, ij_tensor *x, int64_t first, ij_tensor **out) {
  *out = NULL;
  ij_tensor *own, *y = NULL, *y3 = NULL;
  saved *s = NULL;
  IJ_TRY(take(b, x, &own));
  int64_t Q = x->shape[0], N = x->shape[1];
  ij_status st = IJ_OK;
  if (first < 0 || first >= N)
    st = ij_fail(IJ_EINVAL, "blocks: first is %lld, expected 0 to below %lld", (long long)first, (long long)N);
  bool record = b->dev->grad_on && (x->requires_grad || b->params.p[0].t->requires_grad);
  if (st == IJ_OK && record && !(s = ij_calloc(1, sizeof *s))) st = IJ_ENOMEM;
  if (st != IJ_OK) {
    ij_tensor_free(own);
    return st;
  }
  if (s) s->b = b, b->refs++;
  IJ_TRY_TO(out, st, ij_stack_fwd(&b->stack, Q, N, first, own, IJ_F32, &y, s ? &s->stack : NULL, 0, NULL));
  IJ_TRY_TO(out, st, ij_tensor_reshape(y, 3, (int64_t[]){Q, N - first, b->c.width}, &y3));
  st = ij_model_output(y3, (ij_tensor *[]){x}, 1, blocks_backward, s, saved_free, out);
  s = NULL;
out:
  if (s) saved_free(s);
  ij_tensor_free(y);
  ij_tensor_free(y3);
  return st;
}

ij_status ij_vit_blocks_outputs(ij_vit_blocks *b, ij_tensor *x, int last, ij_tensor **out) {
  for (int i = 0; i < last; i++) out[i] = NULL;
  if (last < 1 || last > b->c.depth) return ij_fail(IJ_EINVAL, "blocks: the last %d of %d blocks", last, b->c.depth);
  ij_tensor *own;
  IJ_TRY(take(b, x, &own));
  int was = ij_grad_enable(b->dev, 0);
  ij_status st = ij_stack_fwd(&b->stack, x->shape[0], x->shape[1], 0, own, IJ_F32, NULL, NULL, last, out);
  ij_grad_enable(b->dev, was);
  return st;
}

ij_status ij_vit_blocks_attention(ij_vit_blocks *b, ij_tensor *x, int block, ij_tensor **out) {
  *out = NULL;
  if (block < 0 || block >= b->c.depth) return ij_fail(IJ_EINVAL, "blocks: no block %d of %d", block + 1, b->c.depth);
  ij_tensor *own;
  IJ_TRY(take(b, x, &own));
  return ij_stack_attention(&b->stack, x->shape[0], x->shape[1], block, own, out);
}

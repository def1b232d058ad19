/* The predictor: from the context's representations and the places of a target's patches to their representations. For
 * each target block a sequence of its own, [context tokens ; mask tokens]; the mask tokens' outputs count. */
#include "model.h"

struct ij_predictor {
  ij_predictor_config c;
  int refs; /* its owner and each recorded forward whose backward is still to come */
  ij_device *dev;
  ij_params params;
  ij_stack stack;
  ij_positions pos;
  ij_tensor *embed_w, *embed_b; /* (E, D), (E) */
  ij_tensor *proj_w, *proj_b;   /* (D, E), (D) */
  ij_tensor *token;             /* (1, 1, E) */
};

ij_params *ij_predictor_params(ij_predictor *p) { return &p->params; }

void ij_predictor_free(ij_predictor *p) {
  if (!p || --p->refs > 0) return;
  ij_stack_release(&p->stack);
  ij_params_release(&p->params);
  ij_drop(&p->pos.other);
  ij_free(p);
}

ij_status ij_predictor_new(ij_device *dev, const ij_predictor_config *c, ij_predictor **out) {
  *out = NULL;
  const ij_vit_config *v = &c->vit;
  IJ_TRY(ij_vit_config_check(v, "predictor"));
  if (v->rope > 0) return ij_fail(IJ_EINVAL, "predictor: rope is for encoders");
  if (c->encoder_width < 1) return ij_fail(IJ_EINVAL, "predictor: encoder width %d", c->encoder_width);
  ij_predictor *p = ij_calloc(1, sizeof *p);
  if (!p) return IJ_ENOMEM;
  p->refs = 1;
  p->c = *c;
  p->dev = dev;
  int64_t E = v->width, D = c->encoder_width, N = (int64_t)v->grid_h * v->grid_w;
  ij_params *ps = &p->params;
  ij_status st;
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 3, (int64_t[]){1, 1, E}, "mask_token"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, false, 3, (int64_t[]){1, N, E}, "predictor_pos_embed"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 2, (int64_t[]){E, D}, "predictor_embed.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &E, "predictor_embed.bias"));
  IJ_TRY_TO(failed, st, ij_stack_declare(ps, v, "predictor_blocks"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &E, "predictor_norm.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &E, "predictor_norm.bias"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 2, (int64_t[]){D, E}, "predictor_proj.weight"));
  IJ_TRY_TO(failed, st, ij_params_add(ps, true, 1, &D, "predictor_proj.bias"));
  IJ_TRY_TO(failed, st, ij_params_build(ps, dev, v));
  IJ_TRY_TO(failed, st, ij_stack_init(&p->stack, dev, ps, v, "predictor_blocks", "predictor_norm"));
  p->embed_w = ij_params_get(ps, "predictor_embed.weight");
  p->embed_b = ij_params_get(ps, "predictor_embed.bias");
  p->proj_w = ij_params_get(ps, "predictor_proj.weight");
  p->proj_b = ij_params_get(ps, "predictor_proj.bias");
  p->token = ij_params_get(ps, "mask_token");
  IJ_TRY_TO(failed, st, ij_positions_init(&p->pos, ij_params_get(ps, "predictor_pos_embed"), v->grid_h, v->grid_w));
  *out = p;
  return IJ_OK;
failed:
  ij_predictor_free(p);
  return st;
}

typedef struct saved {
  ij_predictor *p;
  int64_t M, C, B, K, T;
  ij_tensor *x_dt; /* (C * B * K, D) [dt] */
  ij_tensor *z;    /* (M * C * B * T, E) [dt]: after the norm */
  ij_stack_saved *stack;
} saved;
static void saved_free(void *ctx) {
  saved *s = ctx;
  ij_tensor_free(s->x_dt);
  ij_tensor_free(s->z);
  ij_stack_saved_free(s->stack);
  ij_predictor_free(s->p);
  ij_free(s);
}

static ij_status predictor_backward(ij_node *n) { /* in: x, context, target */
  saved *s = n->ctx;
  ij_predictor *p = s->p;
  ij_device *dev = p->dev;
  ij_queue *q = &dev->queue;
  ij_dtype dt = p->c.vit.dtype;
  int64_t E = p->c.vit.width, D = p->c.encoder_width, R = s->M * s->C * s->B * s->T, Rc = s->C * s->B * s->K;
  ij_tensor *x = n->in[0], *dy = NULL, *dz = NULL, *dt_tokens = NULL, *d_tokens = NULL, *demb = NULL, *dx_dt = NULL;
  float *dw, *db, *dew, *deb, *dtoken;
  ij_status st;
  IJ_TRY_TO(out, st, ij_grad_into(p->proj_w, &dw));
  IJ_TRY_TO(out, st, ij_grad_into(p->proj_b, &db));
  IJ_TRY_TO(out, st, ij_grad_into(p->embed_w, &dew));
  IJ_TRY_TO(out, st, ij_grad_into(p->embed_b, &deb));
  IJ_TRY_TO(out, st, ij_grad_into(p->token, &dtoken));
  IJ_TRY_TO(out, st, ij_as_dtype(n->out->grad, dt, &dy));
  IJ_TRY_TO(out, st, dev->ops.linear_bwd_w(q, dt, R, D, E, ij_data_of(dy), ij_data_of(s->z), dw, db));
  st = IJ_ENOMEM;
  if (!(dz = ij_make2(dev, dt, R, E))) goto out;
  IJ_TRY_TO(out, st,
            dev->ops.linear_bwd_x(q, dt, R, D, E, ij_data_of(dy), ij_f32_of(p->proj_w), p->proj_w->storage->version,
                                  ij_data_of(dz)));
  ij_drop(&dy);
  ij_drop(&s->z);
  IJ_TRY_TO(out, st, ij_stack_bwd(&p->stack, s->stack, dz, &d_tokens, &dt_tokens));
  ij_drop(&dz);
  st = IJ_ENOMEM;
  if (!(demb = ij_make2(dev, dt, Rc, E))) goto out;
  IJ_TRY_TO(out, st,
            dev->ops.tokens_bwd(q, dt, s->M, s->C, s->B, s->K, s->T, E, ij_f32_of(d_tokens), ij_data_of(demb), dtoken));
  IJ_TRY_TO(out, st, dev->ops.linear_bwd_w(q, dt, Rc, E, D, ij_data_of(demb), ij_data_of(s->x_dt), dew, deb));
  if (x->requires_grad) {
    st = IJ_ENOMEM;
    if (!(dx_dt = ij_make(dev, dt, x->ndim, x->shape, false))) goto out;
    IJ_TRY_TO(out, st,
              dev->ops.linear_bwd_x(q, dt, Rc, E, D, ij_data_of(demb), ij_f32_of(p->embed_w),
                                    p->embed_w->storage->version, ij_data_of(dx_dt)));
    ij_tensor *dx;
    IJ_TRY_TO(out, st, ij_as_dtype(dx_dt, IJ_F32, &dx));
    if (dx == dx_dt) ij_drop(&dx_dt);
    IJ_TRY_TO(out, st, ij_grad_add(x, dx));
  }
  ij_tensor *own[] = {p->proj_w, p->proj_b, p->embed_w, p->embed_b, p->token};
  for (int i = 0; i < 5 && st == IJ_OK && p->stack.recorded == 1; i++) st = ij_grad_whole(own[i]);
out:
  ij_tensor_free(dy);
  ij_tensor_free(dz);
  if (dt_tokens != d_tokens) ij_tensor_free(dt_tokens);
  ij_tensor_free(d_tokens);
  ij_tensor_free(demb);
  ij_tensor_free(dx_dt);
  return st;
}

ij_status ij_predictor_forward(ij_predictor *p, ij_tensor *x, ij_tensor *context, ij_tensor *target, int grid_h,
                               int grid_w, ij_tensor **out) {
  *out = NULL;
  ij_device *dev = p->dev;
  ij_queue *q = &dev->queue;
  ij_dtype dt = p->c.vit.dtype;
  if (!grid_h && !grid_w) {
    grid_h = p->c.vit.grid_h;
    grid_w = p->c.vit.grid_w;
  }
  if (grid_h < 1 || grid_w < 1 || grid_h > 4096 || grid_w > 4096)
    return ij_fail(IJ_EINVAL, "predictor: a grid of %d x %d", grid_h, grid_w);
  int64_t E = p->c.vit.width, D = p->c.encoder_width, N = (int64_t)grid_h * grid_w;
  IJ_TRY(ij_want_shape("predictor", "context", context, IJ_I32, 3, (int64_t[]){-1, -1, -1}));
  int64_t C = context->shape[0], B = context->shape[1], K = context->shape[2];
  IJ_TRY(ij_want_shape("predictor", "target", target, IJ_I32, 3, (int64_t[]){-1, B, -1}));
  int64_t M = target->shape[0], T = target->shape[2];
  IJ_TRY(ij_want_shape("predictor", "x", x, IJ_F32, 3, (int64_t[]){C * B, K, D}));
  IJ_TRY(ij_want_device("predictor", "x", x, dev, "the model"));
  IJ_TRY(ij_want_device("predictor", "context", context, dev, "the model"));
  IJ_TRY(ij_want_device("predictor", "target", target, dev, "the model"));
  if (!C || !B || !K || !M || !T) return ij_fail(IJ_ESHAPE, "predictor: an empty context or target");
  IJ_TRY(ij_check_index("predictor", context, N));
  IJ_TRY(ij_check_index("predictor", target, N));
  bool record = dev->grad_on && (x->requires_grad || p->token->requires_grad);
  int64_t R = M * C * B * T, Rc = C * B * K;
  ij_tensor *pos, *x_dt = NULL, *emb = NULL, *tokens = NULL, *z = NULL, *y = NULL, *y32 = NULL;
  saved *s = NULL;
  ij_status st;
  IJ_TRY_TO(out, st, ij_positions_get(&p->pos, grid_h, grid_w, &pos));
  IJ_TRY_TO(out, st, ij_as_dtype(x, dt, &x_dt));
  st = IJ_ENOMEM;
  if (record && !(s = ij_calloc(1, sizeof *s))) goto out;
  if (s) s->p = p, p->refs++;
  if (!(emb = ij_make2(dev, dt, Rc, E)) || !(tokens = ij_make3(dev, IJ_F32, M * C * B, K + T, E))) goto out;
  IJ_TRY_TO(out, st,
            dev->ops.linear_fwd(q, dt, Rc, E, D, ij_data_of(x_dt), ij_f32_of(p->embed_w), p->embed_w->storage->version,
                                ij_data_of(emb)));
  IJ_TRY_TO(out, st,
            dev->ops.tokens_fwd(q, dt, M, C, B, K, T, E, ij_data_of(emb), ij_f32_of(p->embed_b), ij_f32_of(p->token),
                                ij_f32_of(pos), ij_data_of(context), ij_data_of(target), ij_f32_of(tokens)));
  ij_drop(&emb);
  ij_tensor *taken = tokens; /* the stack takes it over */
  tokens = NULL;
  IJ_TRY_TO(out, st, ij_stack_fwd(&p->stack, M * C * B, K + T, K, taken, dt, &z, s ? &s->stack : NULL, 0, NULL));
  st = IJ_ENOMEM;
  if (!(y = ij_make3(dev, dt, M * C * B, T, D))) goto out;
  IJ_TRY_TO(out, st,
            dev->ops.linear_fwd(q, dt, R, D, E, ij_data_of(z), ij_f32_of(p->proj_w), p->proj_w->storage->version,
                                ij_data_of(y)));
  IJ_TRY_TO(out, st, dev->ops.bias_add(q, dt, R, D, ij_f32_of(p->proj_b), ij_data_of(y)));
  IJ_TRY_TO(out, st, ij_as_dtype(y, IJ_F32, &y32));
  if (s) {
    *s = (saved){.p = p, .M = M, .C = C, .B = B, .K = K, .T = T, .x_dt = x_dt, .z = z, .stack = s->stack};
    x_dt = z = NULL;
  }
  st = ij_model_output(y32, (ij_tensor *[]){x, context, target}, 3, predictor_backward, s, saved_free, out);
  s = NULL;
out:
  if (s) saved_free(s);
  ij_tensor_free(x_dt);
  ij_tensor_free(emb);
  ij_tensor_free(tokens);
  ij_tensor_free(z);
  ij_tensor_free(y);
  ij_tensor_free(y32);
  return st;
}

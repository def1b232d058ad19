/* The transformer blocks, forward and backward.
 *
 *   x += proj(attention(norm1 x));  x += fc2(gelu(fc1(norm2 x)))
 *
 * Written by hand rather than as recorded ops, so that memory is passed over as seldom as can be: a branch's output is
 * added to the residual stream by the norm that reads it next (with its bias), biases of qkv and fc1 are added by the
 * attention and the GELU, and the backward computes the norms' and the GELU's outputs again instead of keeping them.
 * Kept for a block: s1 (D), qkv (3D), attention's output (D), s2 (D), fc1's output (F), and a few numbers a row. */
#include "model.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const float EPS = 1e-6f;

/* What one block keeps; shapes with R = Q * N rows, r = Q * n rows after the last block's cut. */
typedef struct saved_block {
  ij_tensor *s1, *mean1, *rstd1; /* (R, D) f32: input of norm1; (R) */
  ij_tensor *qkv, *att, *lse;    /* (R, 3D), (R, D) [dt], (Q, A, N) */
  ij_tensor *s2, *mean2, *rstd2; /* (r, D) f32: input of norm2; (r) */
  ij_tensor *pre;                /* (r, F) [dt]: fc1 without its bias */
  ij_tensor *keep1, *keep2;      /* (Q) f32, with drop path: each branch's factor, 0 or 1 / the chance to stay */
} saved_block;
struct ij_stack_saved {
  ij_stack *stack;
  int64_t Q, N, first;
  ij_dtype y_dt;
  ij_places places; /* holds the context */
  saved_block *blocks;
  ij_tensor *last, *mean, *rstd; /* input of the last norm (r, D) f32 */
  int depth, frozen;
};

static void drop_block(saved_block *b) {
  ij_tensor **all[] = {&b->s1, &b->mean1, &b->rstd1, &b->qkv, &b->att,   &b->lse,
                       &b->s2, &b->mean2, &b->rstd2, &b->pre, &b->keep1, &b->keep2};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) ij_drop(all[i]);
}
void ij_stack_saved_free(void *p) {
  ij_stack_saved *s = p;
  if (!s) return;
  s->stack->recorded--;
  for (int i = 0; s->blocks && i < s->depth; i++) drop_block(&s->blocks[i]);
  ij_tensor_free(s->places.context);
  ij_drop(&s->last);
  ij_drop(&s->mean);
  ij_drop(&s->rstd);
  ij_free(s->blocks);
  ij_free(s);
}

/* ---- parameters */
static const char *const QK_NORM[] = {"q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"};
ij_status ij_stack_declare(ij_params *ps, const ij_vit_config *c, const char *prefix) {
  int64_t D = c->width, F = ij_mlp_width(c), F1 = c->swiglu ? 2 * F : F, D3 = 3 * D, S = D / c->heads;
  for (int i = 0; i < c->depth; i++) {
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.norm1.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.norm1.bias", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 2, (int64_t[]){D3, D}, "%s.%d.attn.qkv.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D3, "%s.%d.attn.qkv.bias", prefix, i));
    for (int j = 0; c->qk_norm && j < 4; j++)
      IJ_TRY(ij_params_add(ps, true, 1, &S, "%s.%d.attn.%s", prefix, i, QK_NORM[j]));
    IJ_TRY(ij_params_add(ps, true, 2, (int64_t[]){D, D}, "%s.%d.attn.proj.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.attn.proj.bias", prefix, i));
    if (c->layer_scale > 0) IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.ls1.gamma", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.norm2.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.norm2.bias", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 2, (int64_t[]){F1, D}, "%s.%d.mlp.fc1.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &F1, "%s.%d.mlp.fc1.bias", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 2, (int64_t[]){D, F}, "%s.%d.mlp.fc2.weight", prefix, i));
    IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.mlp.fc2.bias", prefix, i));
    if (c->layer_scale > 0) IJ_TRY(ij_params_add(ps, true, 1, &D, "%s.%d.ls2.gamma", prefix, i));
  }
  return IJ_OK;
}

ij_status ij_stack_init(ij_stack *s, ij_device *dev, ij_params *ps, const ij_vit_config *c, const char *prefix,
                        const char *norm) {
  *s = (ij_stack){.dev = dev,
                  .depth = c->depth,
                  .D = c->width,
                  .F = ij_mlp_width(c),
                  .A = c->heads,
                  .S = c->width / c->heads,
                  .dt = c->dtype,
                  .recompute = c->recompute != 0,
                  .swiglu = c->swiglu != 0,
                  .rope = c->rope};
  if (!(s->blocks = ij_calloc((size_t)c->depth, sizeof *s->blocks))) return IJ_ENOMEM;
  for (int i = 0; i < c->depth; i++) {
    ij_block *b = &s->blocks[i];
    b->norm1_w = ij_params_get(ps, "%s.%d.norm1.weight", prefix, i);
    b->norm1_b = ij_params_get(ps, "%s.%d.norm1.bias", prefix, i);
    b->qkv_w = ij_params_get(ps, "%s.%d.attn.qkv.weight", prefix, i);
    b->qkv_b = ij_params_get(ps, "%s.%d.attn.qkv.bias", prefix, i);
    b->proj_w = ij_params_get(ps, "%s.%d.attn.proj.weight", prefix, i);
    b->proj_b = ij_params_get(ps, "%s.%d.attn.proj.bias", prefix, i);
    b->norm2_w = ij_params_get(ps, "%s.%d.norm2.weight", prefix, i);
    b->norm2_b = ij_params_get(ps, "%s.%d.norm2.bias", prefix, i);
    b->fc1_w = ij_params_get(ps, "%s.%d.mlp.fc1.weight", prefix, i);
    b->fc1_b = ij_params_get(ps, "%s.%d.mlp.fc1.bias", prefix, i);
    b->fc2_w = ij_params_get(ps, "%s.%d.mlp.fc2.weight", prefix, i);
    b->fc2_b = ij_params_get(ps, "%s.%d.mlp.fc2.bias", prefix, i);
    for (int j = 0; c->qk_norm && j < 4; j++) b->qk_norm[j] = ij_params_get(ps, "%s.%d.attn.%s", prefix, i, QK_NORM[j]);
    if (c->layer_scale > 0) {
      b->ls1 = ij_params_get(ps, "%s.%d.ls1.gamma", prefix, i);
      b->ls2 = ij_params_get(ps, "%s.%d.ls2.gamma", prefix, i);
    }
    if (c->depth_scaled_init) {
      double k = 1 / sqrt(2.0 * (i + 1));
      ij_tensor *scaled[] = {b->proj_w, b->fc2_w};
      for (int j = 0; j < 2; j++)
        IJ_TRY(dev->ops.affine(&dev->queue, ij_tensor_count(scaled[j]), (float)k, 0, ij_f32_of(scaled[j]),
                               ij_f32_of(scaled[j])));
    }
  }
  s->norm_w = ij_params_get(ps, "%s.weight", norm);
  s->norm_b = ij_params_get(ps, "%s.bias", norm);
  return IJ_OK;
}
void ij_stack_release(ij_stack *s) {
  ij_free(s->blocks);
  s->blocks = NULL;
  ij_drop(&s->rope_table);
}

/* ---- forward */
/* The residual stream between norms: its value is x + add + add_b. */
typedef struct stream {
  ij_tensor *x;     /* (R, D) f32 */
  ij_tensor *add;   /* (R, D) [dt], or NULL */
  ij_tensor *add_b; /* (D), with add; NULL: add has it already */
} stream;
static void drop_add(stream *st) {
  ij_drop(&st->add);
  ij_drop(&st->add_b);
}
static const float *bias_of(const stream *st) { return st->add_b ? ij_f32_of(st->add_b) : NULL; }

static ij_status linear(ij_stack *s, int64_t R, ij_tensor *x, ij_tensor *w, ij_tensor **y) {
  int64_t N = w->shape[0], K = w->shape[1];
  if (!(*y = ij_make2(s->dev, s->dt, R, N))) return IJ_ENOMEM;
  return s->dev->ops.linear_fwd(&s->dev->queue, s->dt, R, N, K, ij_data_of(x), ij_f32_of(w), w->storage->version,
                                ij_data_of(*y));
}

/* The last layer of a branch, with its factor gamma (NULL: none): its output is what the stream adds next. */
static ij_status branch_out(ij_stack *s, int64_t R, ij_tensor *x, ij_tensor *w, ij_tensor *b, ij_tensor *gamma,
                            stream *st) {
  ij_tensor *ws = NULL;
  uint64_t version;
  ij_status e;
  IJ_TRY_TO(out, e, ij_scaled_weight(s, w, b, gamma, &ws, &st->add_b, &version));
  e = IJ_ENOMEM;
  if (!(st->add = ij_make2(s->dev, s->dt, R, w->shape[0]))) goto out;
  e = s->dev->ops.linear_fwd(&s->dev->queue, s->dt, R, w->shape[0], w->shape[1], ij_data_of(x), ij_f32_of(ws), version,
                             ij_data_of(st->add));
out:
  ij_tensor_free(ws);
  return e;
}

/* Where a sum of the stream goes: over its x, unless someone keeps that. */
static ij_tensor *sum_target(ij_stack *s, stream *st, int64_t R) {
  return st->x->refs == 1 && st->x->storage->refs == 1 ? ij_hold(st->x) : ij_make2(s->dev, IJ_F32, R, s->D);
}

/* The stream's sum into *sum (st is empty afterwards) and its norm into *y; mean and rstd when keep. */
static ij_status add_norm(ij_stack *s, stream *st, int64_t R, ij_tensor *w, ij_tensor *b, ij_dtype y_dt, bool keep,
                          ij_tensor **sum, ij_tensor **y, ij_tensor **mean, ij_tensor **rstd) {
  ij_device *dev = s->dev;
  ij_queue *q = &dev->queue;
  ij_status e = IJ_ENOMEM;
  ij_tensor *target = st->add ? sum_target(s, st, R) : ij_hold(st->x);
  if (!target || !(*y = ij_make2(dev, y_dt, R, s->D))) goto out;
  if (keep && (!(*mean = ij_make1(dev, IJ_F32, R)) || !(*rstd = ij_make1(dev, IJ_F32, R)))) goto out;
  float *m = keep ? ij_f32_of(*mean) : NULL, *d = keep ? ij_f32_of(*rstd) : NULL, *t = ij_f32_of(target);
  bool split = st->add && y_dt != s->dt; /* one type a call */
  e = IJ_OK;
  if (st->add)
    e = dev->ops.norm_fwd(q, s->dt, R, s->D, ij_f32_of(st->x), ij_data_of(st->add), bias_of(st), ij_f32_of(w),
                          ij_f32_of(b), EPS, t, split ? NULL : ij_data_of(*y), m, d);
  if (e == IJ_OK && (!st->add || split))
    e = dev->ops.norm_fwd(q, y_dt, R, s->D, t, NULL, NULL, ij_f32_of(w), ij_f32_of(b), EPS, NULL, ij_data_of(*y), m, d);
out:
  drop_add(st);
  ij_drop(&st->x);
  *sum = target;
  return e;
}

/* The stream's pending sum, without a norm: afterwards add is gone. */
static ij_status settle(ij_stack *s, stream *st, int64_t R) {
  if (!st->add) return IJ_OK;
  ij_device *dev = s->dev;
  ij_tensor *sum = sum_target(s, st, R);
  if (!sum) return IJ_ENOMEM;
  ij_status e = dev->ops.norm_fwd(&dev->queue, s->dt, R, s->D, ij_f32_of(st->x), ij_data_of(st->add), bias_of(st), NULL,
                                  NULL, EPS, ij_f32_of(sum), NULL, NULL, NULL);
  drop_add(st);
  ij_drop(&st->x);
  st->x = sum;
  return e;
}

/* Rows first..N-1 of each of Q sequences, (Q, N, D) -> (Q * n, D), in place of t. */
static ij_status cut(ij_stack *s, int64_t Q, int64_t N, int64_t first, ij_tensor *t, ij_tensor **out) {
  ij_device *dev = s->dev;
  int64_t n = N - first, D = s->D, shape[3] = {Q, n, D}, from[3] = {N * D, D, 1}, to[3] = {n * D, D, 1};
  if (!(*out = ij_make2(dev, t->dtype, Q * n, D))) return IJ_ENOMEM;
  size_t size = ij_dtype_size(t->dtype);
  return dev->ops.copy(&dev->queue, 3, shape, (ij_dim)size, (char *)ij_data_of(t) + size * (size_t)(first * D), from,
                       ij_data_of(*out), to);
}

/* ---- drop path */
static ij_status draw_keep(ij_stack *s, int64_t Q, int block, int branch, ij_tensor **keep) {
  double stay = 1 - s->drop.rate * block / (s->depth > 1 ? s->depth - 1 : 1);
  float *v = ij_alloc((size_t)Q * sizeof *v);
  ij_rng r;
  if (!v || !(*keep = ij_make1(s->dev, IJ_F32, Q))) {
    ij_free(v);
    return IJ_ENOMEM;
  }
  ij_rng_init(&r, s->drop.seed, IJ_RNG_DROP, s->drop.step, (uint32_t)(2 * block + branch));
  for (int64_t i = 0; i < Q; i++) v[i] = ij_rng_uniform(&r) < stay ? (float)(1 / stay) : 0;
  ij_status e = ij_tensor_write(*keep, v, (size_t)Q * sizeof *v);
  ij_free(v);
  return e;
}

/* The stream's pending branch of n rows a sequence, with its bias, times keep (Q). */
static ij_status drop_branch(ij_stack *s, ij_tensor *keep, int64_t Q, int64_t n, stream *st) {
  if (!keep) return IJ_OK;
  void *o = ij_data_of(st->add);
  ij_status e = s->dev->ops.scale_rows(&s->dev->queue, s->dt, Q, n, s->D, o, ij_f32_of(st->add_b), ij_f32_of(keep), o);
  ij_drop(&st->add_b);
  return e;
}

/* The gradient of a branch's output, one more reference: dx_dt itself or, with keep, a scaled copy. */
static ij_status branch_grad(ij_stack *s, ij_tensor *keep, int64_t Q, int64_t n, ij_tensor *dx_dt, ij_tensor **g) {
  if (!keep) {
    *g = ij_hold(dx_dt);
    return IJ_OK;
  }
  if (!(*g = ij_make2(s->dev, s->dt, Q * n, s->D))) return IJ_ENOMEM;
  return s->dev->ops.scale_rows(&s->dev->queue, s->dt, Q, n, s->D, ij_data_of(dx_dt), NULL, ij_f32_of(keep),
                                ij_data_of(*g));
}

/* One block. st: in and out. keep: b receives what the backward needs; else it is empty afterwards. */
static ij_status block_fwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, int64_t first, stream *st, bool keep,
                           saved_block *b) {
  ij_device *dev = s->dev;
  ij_queue *q = &dev->queue;
  int64_t R = Q * N, r = Q * (N - first), D = s->D;
  ij_tensor *h = NULL, *act = NULL, *heads = NULL;
  bool special = ij_heads_special(s, w);
  ij_status e;
  IJ_TRY_TO(out, e, add_norm(s, st, R, w->norm1_w, w->norm1_b, s->dt, keep, &b->s1, &h, &b->mean1, &b->rstd1));
  IJ_TRY_TO(out, e, linear(s, R, h, w->qkv_w, &b->qkv));
  ij_drop(&h);
  if (!(b->att = ij_make2(dev, s->dt, R, D)) || (keep && !(b->lse = ij_make3(dev, IJ_F32, Q, s->A, N)))) goto memory;
  if (special) IJ_TRY_TO(out, e, ij_heads_fwd(s, w, Q, N, b->qkv, keep, &heads));
  else heads = ij_hold(b->qkv);
  IJ_TRY_TO(out, e,
            dev->ops.attention_fwd(q, s->dt, Q, N, s->A, s->S, first, ij_data_of(heads),
                                   special ? NULL : ij_f32_of(w->qkv_b), ij_data_of(b->att),
                                   keep ? ij_f32_of(b->lse) : NULL));
  ij_drop(&heads);
  if (!keep) ij_drop(&b->qkv);
  /* from here on only the rows that matter: the last T of each sequence in the predictor's last block */
  st->x = ij_hold(b->s1);
  if (first) {
    ij_drop(&st->x);
    IJ_TRY_TO(out, e, cut(s, Q, N, first, b->s1, &st->x));
    IJ_TRY_TO(out, e, cut(s, Q, N, first, b->att, &h));
  } else {
    h = ij_hold(b->att);
  }
  if (!keep) ij_drop(&b->s1);
  if (!keep) ij_drop(&b->att);
  IJ_TRY_TO(out, e, branch_out(s, r, h, w->proj_w, w->proj_b, w->ls1, st));
  ij_drop(&h);
  IJ_TRY_TO(out, e, drop_branch(s, b->keep1, Q, N - first, st));
  IJ_TRY_TO(out, e, add_norm(s, st, r, w->norm2_w, w->norm2_b, s->dt, keep, &b->s2, &h, &b->mean2, &b->rstd2));
  IJ_TRY_TO(out, e, linear(s, r, h, w->fc1_w, &b->pre));
  ij_drop(&h);
  act = keep || s->swiglu ? ij_make2(dev, s->dt, r, s->F) : ij_hold(b->pre);
  if (!act) goto memory;
  e = (s->swiglu ? dev->ops.swiglu_fwd : dev->ops.gelu_fwd)(q, s->dt, r, s->F, ij_data_of(b->pre), ij_f32_of(w->fc1_b),
                                                            ij_data_of(act));
  if (e != IJ_OK) goto out;
  *st = (stream){.x = ij_hold(b->s2)};
  IJ_TRY_TO(out, e, branch_out(s, r, act, w->fc2_w, w->fc2_b, w->ls2, st));
  IJ_TRY_TO(out, e, drop_branch(s, b->keep2, Q, N - first, st));
  if (!keep) ij_drop(&b->s2);
  if (!keep) ij_drop(&b->pre);
  goto out;
memory:
  e = IJ_ENOMEM;
out:
  ij_drop(&h);
  ij_drop(&heads);
  ij_drop(&act);
  return e;
}

ij_status ij_stack_fwd(ij_stack *s, int64_t Q, int64_t N, int64_t first, ij_tensor *x, ij_dtype y_dt, ij_tensor **y,
                       ij_stack_saved **saved, int n_taps, ij_tensor **taps) {
  stream st = {.x = x};
  ij_stack_saved *v = NULL;
  ij_status e = IJ_OK;
  int64_t R = Q * N, r = Q * (N - first);
  if (y) *y = NULL;
  if (saved) {
    *saved = NULL;
    if (!(v = ij_calloc(1, sizeof *v))) goto memory;
    v->stack = s;
    s->recorded++;
    if (!(v->blocks = ij_calloc((size_t)s->depth, sizeof *v->blocks))) goto memory;
    v->depth = s->depth;
    v->frozen = s->frozen;
    v->Q = Q;
    v->N = N;
    v->first = first;
    v->y_dt = y_dt;
    v->places = s->places;
    ij_hold(v->places.context);
  }
  for (int i = 0; i < s->depth; i++) {
    bool frozen = v && i < v->frozen;
    saved_block none = {0}, *b = v && !s->recompute && !frozen ? &v->blocks[i] : &none;
    if (v && s->drop.rate > 0 && i > 0) {
      saved_block *to = frozen ? &none : &v->blocks[i];
      e = draw_keep(s, Q, i, 0, &to->keep1);
      if (e == IJ_OK) e = draw_keep(s, Q, i, 1, &to->keep2);
      if (e != IJ_OK) {
        drop_block(&none);
        goto out;
      }
    }
    if (v && s->recompute && !frozen) { /* keeps its input alone */
      IJ_TRY_TO(out, e, settle(s, &st, R));
      v->blocks[i].s1 = ij_hold(st.x);
      none.keep1 = ij_hold(v->blocks[i].keep1);
      none.keep2 = ij_hold(v->blocks[i].keep2);
    }
    e = block_fwd(s, &s->blocks[i], Q, N, i == s->depth - 1 ? first : 0, &st, b != &none, b);
    drop_block(&none);
    if (e != IJ_OK) goto out;
    if (i >= s->depth - n_taps) {
      IJ_TRY_TO(out, e, settle(s, &st, R));
      IJ_TRY_TO(out, e, ij_tensor_reshape(st.x, 3, (int64_t[]){Q, N, s->D}, &taps[i - (s->depth - n_taps)]));
    }
  }
  if (y) {
    ij_tensor *sum = NULL;
    e = add_norm(s, &st, r, s->norm_w, s->norm_b, y_dt, v != NULL, &sum, y, v ? &v->mean : NULL, v ? &v->rstd : NULL);
    if (v) v->last = sum;
    else ij_tensor_free(sum);
  }
  goto out;
memory:
  e = IJ_ENOMEM;
out:
  ij_drop(&st.x);
  drop_add(&st);
  if (e != IJ_OK) {
    if (y) ij_drop(y);
    ij_stack_saved_free(v);
    for (int i = 0; i < n_taps; i++) ij_drop(&taps[i]);
  } else if (saved) {
    *saved = v;
  }
  return e;
}

ij_status ij_stack_attention(ij_stack *s, int64_t Q, int64_t N, int block, ij_tensor *x, ij_tensor **p) {
  ij_device *dev = s->dev;
  const ij_block *w = &s->blocks[block];
  stream st = {.x = x};
  ij_tensor *h = NULL, *qkv = NULL, *sum = NULL, *heads = NULL;
  bool special = ij_heads_special(s, w);
  ij_status e = IJ_OK;
  *p = NULL;
  for (int i = 0; i < block; i++) {
    saved_block none = {0};
    e = block_fwd(s, &s->blocks[i], Q, N, 0, &st, false, &none);
    drop_block(&none);
    if (e != IJ_OK) goto out;
  }
  IJ_TRY_TO(out, e, add_norm(s, &st, Q * N, w->norm1_w, w->norm1_b, s->dt, false, &sum, &h, NULL, NULL));
  IJ_TRY_TO(out, e, linear(s, Q * N, h, w->qkv_w, &qkv));
  if (special) {
    IJ_TRY_TO(out, e, ij_heads_fwd(s, w, Q, N, qkv, false, &heads));
    ij_drop(&qkv);
    qkv = heads;
  }
  e = IJ_ENOMEM;
  if ((*p = ij_make(dev, IJ_F32, 4, (int64_t[]){Q, s->A, N, N}, false)))
    e = dev->ops.attention_weights(&dev->queue, s->dt, Q, N, s->A, s->S, ij_data_of(qkv),
                                   special ? NULL : ij_f32_of(w->qkv_b), ij_f32_of(*p));
out:
  if (e != IJ_OK) ij_drop(p);
  ij_drop(&st.x);
  drop_add(&st);
  ij_drop(&sum);
  ij_drop(&h);
  ij_drop(&qkv);
  return e;
}

/* ---- backward */
/* dw += dy^T x, db += sum dy, for parameters that require it. x, dy: rows [dt]. */
static ij_status linear_w(ij_stack *s, int64_t R, ij_tensor *dy, ij_tensor *x, ij_tensor *w, ij_tensor *b) {
  float *dw, *db = NULL;
  IJ_TRY(ij_grad_into(w, &dw));
  if (b) IJ_TRY(ij_grad_into(b, &db));
  return s->dev->ops.linear_bwd_w(&s->dev->queue, s->dt, R, w->shape[0], w->shape[1], ij_data_of(dy), ij_data_of(x), dw,
                                  db);
}
static ij_status linear_x(ij_stack *s, int64_t R, ij_tensor *dy, ij_tensor *w, ij_tensor **dx) {
  if (!(*dx = ij_make2(s->dev, s->dt, R, w->shape[1]))) return IJ_ENOMEM;
  return s->dev->ops.linear_bwd_x(&s->dev->queue, s->dt, R, w->shape[0], w->shape[1], ij_data_of(dy), ij_f32_of(w),
                                  w->storage->version, ij_data_of(*dx));
}
static ij_status norm_again(ij_stack *s, int64_t R, ij_tensor *sum, ij_tensor *w, ij_tensor *b, ij_tensor **h) {
  if (!(*h = ij_make2(s->dev, s->dt, R, s->D))) return IJ_ENOMEM;
  return s->dev->ops.norm_fwd(&s->dev->queue, s->dt, R, s->D, ij_f32_of(sum), NULL, NULL, ij_f32_of(w), ij_f32_of(b),
                              EPS, NULL, ij_data_of(*h), NULL, NULL);
}
static ij_status norm_grad(ij_stack *s, int64_t R, ij_tensor *sum, ij_tensor *mean, ij_tensor *rstd, ij_tensor *w,
                           ij_tensor *b, ij_tensor *dh, ij_tensor *dx, ij_tensor *dx_dt) {
  float *dw, *db;
  IJ_TRY(ij_grad_into(w, &dw));
  IJ_TRY(ij_grad_into(b, &db));
  return s->dev->ops.norm_bwd(&s->dev->queue, s->dt, R, s->D, ij_f32_of(sum), ij_f32_of(mean), ij_f32_of(rstd),
                              ij_f32_of(w), ij_data_of(dh), ij_f32_of(dx), ij_f32_of(dx),
                              dx_dt == dx ? NULL : ij_data_of(dx_dt), dw, db);
}

/* The gradient of a branch's last layer for its input */
static ij_status branch_x(ij_stack *s, int64_t R, ij_tensor *dy, ij_tensor *w, ij_tensor *b, ij_tensor *gamma,
                          ij_tensor **dx) {
  ij_tensor *ws = NULL, *bs = NULL;
  uint64_t version;
  ij_status e = ij_scaled_weight(s, w, b, gamma, &ws, &bs, &version);
  if (e == IJ_OK && !(*dx = ij_make2(s->dev, s->dt, R, w->shape[1]))) e = IJ_ENOMEM;
  if (e == IJ_OK)
    e = s->dev->ops.linear_bwd_x(&s->dev->queue, s->dt, R, w->shape[0], w->shape[1], ij_data_of(dy), ij_f32_of(ws),
                                 version, ij_data_of(*dx));
  ij_tensor_free(ws);
  ij_tensor_free(bs);
  return e;
}

/* dx, dx_dt: gradient of the block's output, (r, D) on entry, of its input, (R, D) on return; owned by the caller. */
static ij_status block_bwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, int64_t first, saved_block *b,
                           ij_tensor **dx, ij_tensor **dx_dt) {
  ij_device *dev = s->dev;
  ij_queue *q = &dev->queue;
  int64_t R = Q * N, r = Q * (N - first), D = s->D;
  ij_tensor *d = NULL, *dh = NULL, *h = NULL, *act = NULL, *g = NULL; /* g: gradient of a branch's output */
  ij_status e;
  /* mlp */
  float *db1, *dbqkv;
  IJ_TRY(ij_grad_into(w->fc1_b, &db1));
  IJ_TRY_TO(out, e, branch_grad(s, b->keep2, Q, N - first, *dx_dt, &g));
  IJ_TRY_TO(out, e, branch_x(s, r, g, w->fc2_w, w->fc2_b, w->ls2, &d));
  act = b->pre;
  b->pre = NULL;
  if (s->swiglu) { /* the gradient lies over its input, the output in memory of its own */
    ij_tensor *y = ij_make2(dev, s->dt, r, s->F);
    if (!y) goto memory;
    e = dev->ops.swiglu_bwd(q, s->dt, r, s->F, ij_data_of(act), ij_f32_of(w->fc1_b), ij_data_of(d), ij_data_of(act),
                            ij_data_of(y), db1);
    ij_tensor_free(d);
    d = act;
    act = y;
  } else { /* the other way round */
    e = dev->ops.gelu_bwd(q, s->dt, r, s->F, ij_data_of(act), ij_f32_of(w->fc1_b), ij_data_of(d), ij_data_of(d),
                          ij_data_of(act), db1);
  }
  if (e != IJ_OK) goto out;
  IJ_TRY_TO(out, e, ij_scaled_weight_bwd(s, r, g, act, w->fc2_w, w->fc2_b, w->ls2));
  ij_drop(&g);
  ij_drop(&act);
  IJ_TRY_TO(out, e, norm_again(s, r, b->s2, w->norm2_w, w->norm2_b, &h));
  IJ_TRY_TO(out, e, linear_w(s, r, d, h, w->fc1_w, NULL));
  ij_drop(&h);
  IJ_TRY_TO(out, e, linear_x(s, r, d, w->fc1_w, &dh));
  ij_drop(&d);
  IJ_TRY_TO(out, e, norm_grad(s, r, b->s2, b->mean2, b->rstd2, w->norm2_w, w->norm2_b, dh, *dx, *dx_dt));
  ij_drop(&dh);
  ij_drop(&b->s2);
  /* attention */
  IJ_TRY_TO(out, e, branch_grad(s, b->keep1, Q, N - first, *dx_dt, &g));
  IJ_TRY_TO(out, e,
            branch_x(s, r, g, w->proj_w, w->proj_b, w->ls1, &d)); /* gradient of the attention's output, (r, D) */
  if (first) {
    IJ_TRY_TO(out, e, cut(s, Q, N, first, b->att, &h));
    IJ_TRY_TO(out, e, ij_scaled_weight_bwd(s, r, g, h, w->proj_w, w->proj_b, w->ls1));
    ij_drop(&h);
    /* back to complete sequences: rows before first get no gradient from the residual stream */
    ij_tensor *wide = ij_make2(dev, s->dt, R, D), *dx_wide = ij_make2(dev, IJ_F32, R, D);
    if (!wide || !dx_wide) {
      ij_tensor_free(wide);
      ij_tensor_free(dx_wide);
      goto memory;
    }
    int64_t n = N - first, shape[3] = {Q, n, D}, from[3] = {n * D, D, 1}, to[3] = {N * D, D, 1};
    size_t size = ij_dtype_size(s->dt);
    e = dev->ops.copy(q, 3, shape, (ij_dim)size, ij_data_of(d), from,
                      (char *)ij_data_of(wide) + size * (size_t)(first * D), to);
    if (e == IJ_OK) e = dev->ops.tail_bwd(q, Q, N, first, D, ij_f32_of(*dx), ij_f32_of(dx_wide));
    ij_tensor_free(d);
    d = wide;
    bool same = *dx == *dx_dt;
    ij_tensor_free(*dx);
    *dx = dx_wide;
    if (same) {
      *dx_dt = *dx;
    } else {
      ij_tensor_free(*dx_dt);
      if (!(*dx_dt = ij_make2(dev, s->dt, R, D))) goto memory;
    }
    if (e != IJ_OK) goto out;
  } else {
    IJ_TRY_TO(out, e, ij_scaled_weight_bwd(s, R, g, b->att, w->proj_w, w->proj_b, w->ls1));
  }
  ij_drop(&g);
  if (ij_heads_special(s, w)) {
    if (w->qk_norm[0]) IJ_TRY_TO(out, e, ij_heads_fwd(s, w, Q, N, b->qkv, true, &h));
    else h = ij_hold(b->qkv); /* turned already */
    IJ_TRY_TO(out, e,
              dev->ops.attention_bwd(q, s->dt, Q, N, s->A, s->S, first, ij_data_of(h), NULL, ij_data_of(b->att),
                                     ij_f32_of(b->lse), ij_data_of(d), ij_data_of(h), NULL));
    IJ_TRY_TO(out, e, ij_heads_bwd(s, w, Q, N, b->qkv, h));
    ij_drop(&b->qkv);
    b->qkv = h;
    h = NULL;
  } else {
    IJ_TRY_TO(out, e, ij_grad_into(w->qkv_b, &dbqkv));
    IJ_TRY_TO(out, e,
              dev->ops.attention_bwd(q, s->dt, Q, N, s->A, s->S, first, ij_data_of(b->qkv), ij_f32_of(w->qkv_b),
                                     ij_data_of(b->att), ij_f32_of(b->lse), ij_data_of(d), ij_data_of(b->qkv), dbqkv));
  }
  ij_drop(&d);
  ij_drop(&b->att);
  IJ_TRY_TO(out, e, norm_again(s, R, b->s1, w->norm1_w, w->norm1_b, &h));
  IJ_TRY_TO(out, e, linear_w(s, R, b->qkv, h, w->qkv_w, NULL));
  ij_drop(&h);
  IJ_TRY_TO(out, e, linear_x(s, R, b->qkv, w->qkv_w, &dh));
  ij_drop(&b->qkv);
  IJ_TRY_TO(out, e, norm_grad(s, R, b->s1, b->mean1, b->rstd1, w->norm1_w, w->norm1_b, dh, *dx, *dx_dt));
  goto out;
memory:
  e = IJ_ENOMEM;
out:
  ij_drop(&g);
  ij_drop(&d);
  ij_drop(&act);
  ij_drop(&dh);
  ij_drop(&h);
  return e;
}

static ij_status block_whole(const ij_block *b) {
  ij_tensor *options[] = {b->ls1, b->ls2, b->qk_norm[0], b->qk_norm[1], b->qk_norm[2], b->qk_norm[3]};
  for (size_t i = 0; i < sizeof options / sizeof *options; i++)
    if (options[i]) IJ_TRY(ij_grad_whole(options[i]));
  ij_tensor *all[] = {b->norm1_w, b->norm1_b, b->qkv_w, b->qkv_b, b->proj_w, b->proj_b,
                      b->norm2_w, b->norm2_b, b->fc1_w, b->fc1_b, b->fc2_w,  b->fc2_b};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) IJ_TRY(ij_grad_whole(all[i]));
  return IJ_OK;
}

ij_status ij_stack_bwd(ij_stack *s, ij_stack_saved *v, ij_tensor *dy, ij_tensor **dx, ij_tensor **dx_dt) {
  ij_device *dev = s->dev;
  int64_t r = v->Q * (v->N - v->first);
  float *dw, *db;
  ij_status e;
  s->places = v->places;
  *dx = *dx_dt = NULL;
  IJ_TRY_TO(out, e, ij_grad_into(s->norm_w, &dw));
  IJ_TRY_TO(out, e, ij_grad_into(s->norm_b, &db));
  IJ_TRY_TO(out, e, ij_tensor_make(dev, IJ_F32, 2, (int64_t[]){r, s->D}, false, dx));
  e = dev->ops.norm_bwd(&dev->queue, v->y_dt, r, s->D, ij_f32_of(v->last), ij_f32_of(v->mean), ij_f32_of(v->rstd),
                        ij_f32_of(s->norm_w), ij_data_of(dy), NULL, ij_f32_of(*dx), NULL, dw, db);
  ij_drop(&v->last);
  if (e != IJ_OK) goto out;
  if (s->dt == IJ_F32) *dx_dt = *dx;
  else IJ_TRY_TO(out, e, ij_as_dtype(*dx, s->dt, dx_dt));
  for (int i = s->depth - 1; i >= v->frozen && e == IJ_OK; i--) {
    saved_block *b = &v->blocks[i];
    int64_t cut_at = i == s->depth - 1 ? v->first : 0;
    if (s->recompute) {
      stream st = {.x = b->s1};
      b->s1 = NULL;
      e = block_fwd(s, &s->blocks[i], v->Q, v->N, cut_at, &st, true, b);
      ij_drop(&st.x);
      drop_add(&st);
    }
    if (e == IJ_OK) e = block_bwd(s, &s->blocks[i], v->Q, v->N, cut_at, b, dx, dx_dt);
    if (e == IJ_OK && s->recorded == 1) e = block_whole(&s->blocks[i]);
    drop_block(b);
  }
  if (e == IJ_OK && s->recorded == 1) e = ij_grad_whole(s->norm_w);
  if (e == IJ_OK && s->recorded == 1) e = ij_grad_whole(s->norm_b);
out:
  if (e != IJ_OK) {
    if (*dx_dt != *dx) ij_drop(dx_dt);
    ij_drop(dx);
    *dx_dt = NULL;
  }
  return e;
}

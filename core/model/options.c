/* What a transformer block can have besides: norms of queries and keys, rotary positions, factors of its branches. */
#include "model.h"
#include <math.h>

static const float EPS = 1e-6f;

/* ---- queries and keys */
bool ij_heads_special(const ij_stack *s, const ij_block *w) { return w->qk_norm[0] || s->rope > 0; }

/* Rows of L places: cosines and sines of place * base^(-i / (S / 4)). */
static ij_status make_table(ij_stack *s, int64_t L) {
  int64_t quarter = s->S / 4;
  if (s->rope_table && s->rope_table->shape[0] >= L) return IJ_OK;
  size_t bytes = (size_t)(L * 2 * quarter) * sizeof(float);
  float *v = ij_alloc(bytes);
  ij_tensor *t = v ? ij_make(s->dev, IJ_F32, 3, (int64_t[]){L, 2, quarter}, true) : NULL;
  ij_status st = IJ_ENOMEM;
  if (!t) goto out;
  for (int64_t p = 0; p < L; p++)
    for (int64_t i = 0; i < quarter; i++) {
      double angle = (double)p * pow(s->rope, -(double)i / (double)quarter);
      v[p * 2 * quarter + i] = (float)cos(angle);
      v[(p * 2 + 1) * quarter + i] = (float)sin(angle);
    }
  st = ij_tensor_write(t, v, bytes);
  if (st == IJ_OK) {
    ij_tensor_free(s->rope_table);
    s->rope_table = ij_hold(t);
  }
out:
  ij_tensor_free(t);
  ij_free(v);
  return st;
}

ij_status ij_stack_places(ij_stack *s, const char *what, int64_t Q, int64_t N, ij_tensor *context, int64_t grid_h,
                          int64_t grid_w) {
  if (!(s->rope > 0)) return IJ_OK;
  int64_t K = grid_h * grid_w;
  if (context) {
    IJ_TRY(ij_want_shape(what, "context", context, IJ_I32, 3, (int64_t[]){-1, -1, -1}));
    IJ_TRY(ij_want_device(what, "context", context, s->dev, "the model"));
    IJ_TRY(ij_check_index(what, context, K));
    K = context->shape[2];
    if (context->shape[0] * context->shape[1] != Q)
      return ij_fail(IJ_ESHAPE, "%s: 'context' is of %lld sequences, but 'x' has %lld", what,
                     (long long)(context->shape[0] * context->shape[1]), (long long)Q);
  }
  if (K > N)
    return ij_fail(IJ_ESHAPE, "%s: %lld patches, but sequences of %lld tokens: rope needs the patches' context", what,
                   (long long)K, (long long)N);
  IJ_TRY(make_table(s, grid_h > grid_w ? grid_h : grid_w));
  s->places = (ij_places){context, K, grid_w};
  return IJ_OK;
}

/* The norms' parameters in one: (4, S). */
static ij_status norms_of(ij_stack *s, const ij_block *w, ij_tensor **norm) {
  *norm = NULL;
  if (!w->qk_norm[0]) return IJ_OK;
  if (!(*norm = ij_make2(s->dev, IJ_F32, 4, s->S))) return IJ_ENOMEM;
  for (int i = 0; i < 4; i++)
    IJ_TRY(s->dev->ops.convert(&s->dev->queue, s->S, IJ_F32, ij_f32_of(w->qk_norm[i]), IJ_F32,
                               ij_f32_of(*norm) + i * s->S));
  return IJ_OK;
}

static const float *table_of(const ij_stack *s) { return s->rope > 0 ? ij_f32_of(s->rope_table) : NULL; }
static const int32_t *patches_of(const ij_stack *s) { return s->places.context ? ij_data_of(s->places.context) : NULL; }

ij_status ij_heads_fwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, ij_tensor *qkv, bool stays,
                       ij_tensor **out) {
  ij_tensor *norm = NULL;
  int64_t W = s->rope > 0 ? s->places.W : 1;
  ij_status st = norms_of(s, w, &norm);
  /* a rotation alone has no need of its input for its backward */
  *out = stays && w->qk_norm[0] ? ij_make2(s->dev, s->dt, Q * N, 3 * s->D) : ij_hold(qkv);
  if (st == IJ_OK && !*out) st = IJ_ENOMEM;
  if (st == IJ_OK)
    st = s->dev->ops.heads_fwd(&s->dev->queue, s->dt, Q, N, s->A, s->S, s->places.K, W, EPS, ij_data_of(qkv),
                               ij_f32_of(w->qkv_b), norm ? ij_f32_of(norm) : NULL, table_of(s), patches_of(s),
                               ij_data_of(*out));
  ij_tensor_free(norm);
  if (st != IJ_OK) ij_drop(out);
  return st;
}

ij_status ij_heads_bwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, ij_tensor *qkv, ij_tensor *d) {
  ij_device *dev = s->dev;
  ij_tensor *norm = NULL, *dnorm = NULL;
  int64_t W = s->rope > 0 ? s->places.W : 1;
  float *db, *into;
  ij_status st;
  IJ_TRY(ij_grad_into(w->qkv_b, &db));
  IJ_TRY_TO(out, st, norms_of(s, w, &norm));
  if (norm) {
    st = IJ_ENOMEM;
    if (!(dnorm = ij_make2(dev, IJ_F32, 4, s->S))) goto out;
    IJ_TRY_TO(out, st, dev->ops.fill(&dev->queue, 4 * s->S, 0, ij_f32_of(dnorm)));
  }
  IJ_TRY_TO(out, st,
            dev->ops.heads_bwd(&dev->queue, s->dt, Q, N, s->A, s->S, s->places.K, W, EPS, ij_data_of(qkv),
                               ij_f32_of(w->qkv_b), norm ? ij_f32_of(norm) : NULL, table_of(s), patches_of(s),
                               ij_data_of(d), ij_data_of(d), db, dnorm ? ij_f32_of(dnorm) : NULL));
  for (int i = 0; dnorm && i < 4; i++) {
    IJ_TRY_TO(out, st, ij_grad_into(w->qk_norm[i], &into));
    IJ_TRY_TO(out, st, dev->ops.axpy(&dev->queue, s->S, 1, ij_f32_of(dnorm) + i * s->S, into));
  }
out:
  ij_tensor_free(norm);
  ij_tensor_free(dnorm);
  return st;
}

/* ---- factors of branches */
ij_status ij_scaled_weight(ij_stack *s, ij_tensor *w, ij_tensor *b, ij_tensor *gamma, ij_tensor **ws, ij_tensor **bs,
                           uint64_t *version) {
  if (!gamma) {
    *ws = ij_hold(w);
    *bs = ij_hold(b);
    *version = w->storage->version;
    return IJ_OK;
  }
  int64_t N = w->shape[0], K = w->shape[1];
  *version = 0;
  *ws = ij_make2(s->dev, IJ_F32, N, K);
  *bs = ij_make1(s->dev, IJ_F32, N);
  if (!*ws || !*bs) return IJ_ENOMEM;
  return s->dev->ops.weight_scale_fwd(&s->dev->queue, N, K, ij_f32_of(gamma), ij_f32_of(w), ij_f32_of(b),
                                      ij_f32_of(*ws), ij_f32_of(*bs));
}

ij_status ij_scaled_weight_bwd(ij_stack *s, int64_t R, ij_tensor *dy, ij_tensor *x, ij_tensor *w, ij_tensor *b,
                               ij_tensor *gamma) {
  ij_device *dev = s->dev;
  int64_t N = w->shape[0], K = w->shape[1];
  float *dw, *db, *dg;
  IJ_TRY(ij_grad_into(w, &dw));
  IJ_TRY(ij_grad_into(b, &db));
  if (!gamma) return dev->ops.linear_bwd_w(&dev->queue, s->dt, R, N, K, ij_data_of(dy), ij_data_of(x), dw, db);
  IJ_TRY(ij_grad_into(gamma, &dg));
  /* the gradients of the scaled weight, from which those of weight and factor follow */
  ij_tensor *dws = ij_make2(dev, IJ_F32, N, K), *dbs = ij_make1(dev, IJ_F32, N);
  ij_status st = dws && dbs ? IJ_OK : IJ_ENOMEM;
  if (st == IJ_OK) st = dev->ops.fill(&dev->queue, N * K, 0, ij_f32_of(dws));
  if (st == IJ_OK) st = dev->ops.fill(&dev->queue, N, 0, ij_f32_of(dbs));
  if (st == IJ_OK)
    st = dev->ops.linear_bwd_w(&dev->queue, s->dt, R, N, K, ij_data_of(dy), ij_data_of(x), ij_f32_of(dws),
                               ij_f32_of(dbs));
  if (st == IJ_OK)
    st = dev->ops.weight_scale_bwd(&dev->queue, N, K, ij_f32_of(gamma), ij_f32_of(w), ij_f32_of(b), ij_f32_of(dws),
                                   ij_f32_of(dbs), dg, dw, db);
  ij_tensor_free(dws);
  ij_tensor_free(dbs);
  return st;
}

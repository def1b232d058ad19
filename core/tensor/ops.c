/* The ops that recipes and probes call: shapes are checked here and nowhere else, then the device's kernel runs. */
#include "tensor.h"
#include <string.h>

static ij_device *device_of(const ij_tensor *t) { return t->storage->dev; }
static int64_t last_size(const ij_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
static int64_t rows_of(const ij_tensor *t) {
  return t->ndim ? ij_tensor_count(t) / (last_size(t) ? last_size(t) : 1) : 1;
}

/* Leaves *out made and recorded, or NULL with nothing held. */
static ij_status finish(ij_status st, ij_tensor *y, ij_tensor *const *in, int n, ij_status (*backward)(ij_node *),
                        ij_node **node, ij_tensor **out) {
  const ij_tensor *seen[8] = {0};
  for (int i = 0; i < n; i++) seen[i] = in[i];
  *node = NULL;
  if (st == IJ_OK && !y) st = IJ_ENOMEM;
  if (st == IJ_OK && backward && ij_recording(seen, n)) st = ij_record(y, in, n, backward, NULL, NULL, node);
  if (st != IJ_OK) ij_drop(&y);
  *out = y;
  return st;
}

/* A gradient tensor like t, filled by the statement `run` (which sees it as g), then added to t's gradient. */
static ij_status grad_like(ij_tensor *t, ij_tensor **g) {
  *g = ij_make(device_of(t), IJ_F32, t->ndim, t->shape, false);
  return *g ? IJ_OK : IJ_ENOMEM;
}
static ij_status grad_done(ij_status st, ij_tensor *t, ij_tensor *g) {
  if (st == IJ_OK) return ij_grad_add(t, g);
  ij_tensor_free(g);
  return st;
}

/* ---- linear */
static ij_status linear_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2], *g;
  ij_device *dev = device_of(x);
  int64_t K = w->shape[1], N = w->shape[0], R = rows_of(x);
  const float *dy = ij_f32_of(n->out->grad);
  if (w->requires_grad || (b && b->requires_grad)) {
    float *dw = w->requires_grad ? ij_grad_of(w) : NULL, *db = b && b->requires_grad ? ij_grad_of(b) : NULL;
    if ((w->requires_grad && !dw) || (b && b->requires_grad && !db)) return IJ_ENOMEM;
    IJ_TRY(dev->ops.linear_bwd_w(&dev->queue, IJ_F32, R, N, K, dy, ij_data_of(x), dw, db));
  }
  if (!x->requires_grad) return IJ_OK;
  IJ_TRY(grad_like(x, &g));
  return grad_done(
      dev->ops.linear_bwd_x(&dev->queue, IJ_F32, R, N, K, dy, ij_f32_of(w), w->storage->version, ij_f32_of(g)), x, g);
}

ij_status ij_linear(ij_tensor *x, ij_tensor *w, ij_tensor *b, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("linear", "x", x, IJ_F32));
  IJ_TRY(ij_want_shape("linear", "w", w, IJ_F32, 2, (int64_t[]){-1, last_size(x)}));
  if (b) IJ_TRY(ij_want_shape("linear", "b", b, IJ_F32, 1, &w->shape[0]));
  if (!x->ndim || !w->shape[0] || !w->shape[1]) return ij_fail(IJ_ESHAPE, "linear: empty 'x' or 'w'");
  ij_device *dev = device_of(x);
  int64_t shape[IJ_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = w->shape[0];
  ij_tensor *y = ij_make(dev, IJ_F32, x->ndim, shape, false);
  ij_status st = IJ_ENOMEM;
  if (y)
    st = dev->ops.linear_fwd(&dev->queue, IJ_F32, rows_of(x), w->shape[0], w->shape[1], ij_data_of(x), ij_f32_of(w),
                             w->storage->version, ij_data_of(y));
  if (st == IJ_OK && b)
    st = dev->ops.bias_add(&dev->queue, IJ_F32, rows_of(x), w->shape[0], ij_f32_of(b), ij_data_of(y));
  ij_node *node;
  return finish(st, y, (ij_tensor *[]){x, w, b}, 3, linear_backward, &node, out);
}

/* ---- activations and norms */
static ij_status gelu_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(dev->ops.gelu_bwd(&dev->queue, IJ_F32, rows_of(x), last_size(x), ij_data_of(x), NULL,
                                     ij_data_of(n->out->grad), ij_data_of(g), NULL, NULL),
                   x, g);
}
ij_status ij_gelu(ij_tensor *x, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("gelu", "x", x, IJ_F32));
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make_like(x);
  ij_status st = IJ_ENOMEM;
  if (y) st = dev->ops.gelu_fwd(&dev->queue, IJ_F32, rows_of(x), last_size(x), ij_data_of(x), NULL, ij_data_of(y));
  ij_node *node;
  return finish(st, y, &x, 1, gelu_backward, &node, out);
}

static ij_status relu_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(
      dev->ops.relu_bwd(&dev->queue, ij_tensor_count(x), ij_f32_of(x), ij_f32_of(n->out->grad), ij_f32_of(g)), x, g);
}
ij_status ij_relu(ij_tensor *x, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("relu", "x", x, IJ_F32));
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make_like(x);
  ij_status st = IJ_ENOMEM;
  if (y) st = dev->ops.relu_fwd(&dev->queue, ij_tensor_count(x), ij_f32_of(x), ij_f32_of(y));
  ij_node *node;
  return finish(st, y, &x, 1, relu_backward, &node, out);
}

static ij_status layer_norm_backward(ij_node *n) { /* in: x, w, b, mean, rstd */
  ij_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2], *g;
  ij_device *dev = device_of(x);
  float *dw = w && w->requires_grad ? ij_grad_of(w) : NULL, *db = b && b->requires_grad ? ij_grad_of(b) : NULL;
  ij_tensor *spare = NULL; /* the kernel adds to both or none */
  if ((dw != NULL) != (db != NULL)) {
    if (!(spare = ij_make1(dev, IJ_F32, last_size(x)))) return IJ_ENOMEM;
    IJ_TRY(dev->ops.fill(&dev->queue, last_size(x), 0, ij_f32_of(spare)));
    if (!dw) dw = ij_f32_of(spare);
    else db = ij_f32_of(spare);
  }
  ij_status st = grad_like(x, &g);
  if (st == IJ_OK)
    st = grad_done(dev->ops.norm_bwd(&dev->queue, IJ_F32, rows_of(x), last_size(x), ij_f32_of(x), ij_f32_of(n->in[3]),
                                     ij_f32_of(n->in[4]), w ? ij_f32_of(w) : NULL, ij_data_of(n->out->grad), NULL,
                                     ij_f32_of(g), NULL, dw, db),
                   x, g);
  ij_tensor_free(spare);
  return st;
}
ij_status ij_layer_norm(ij_tensor *x, ij_tensor *w, ij_tensor *b, double eps, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("layer_norm", "x", x, IJ_F32));
  int64_t D = last_size(x), R = rows_of(x);
  if (!x->ndim || D < 1) return ij_fail(IJ_ESHAPE, "layer_norm: 'x' has no last dimension to normalise");
  if (!w != !b) return ij_fail(IJ_EINVAL, "layer_norm: give both 'w' and 'b', or none");
  if (w) {
    IJ_TRY(ij_want_shape("layer_norm", "w", w, IJ_F32, 1, &D));
    IJ_TRY(ij_want_shape("layer_norm", "b", b, IJ_F32, 1, &D));
  }
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make_like(x), *mean = ij_make1(dev, IJ_F32, R), *rstd = ij_make1(dev, IJ_F32, R);
  ij_status st = IJ_ENOMEM;
  if (y && mean && rstd)
    st = dev->ops.norm_fwd(&dev->queue, IJ_F32, R, D, ij_f32_of(x), NULL, NULL, w ? ij_f32_of(w) : NULL,
                           b ? ij_f32_of(b) : NULL, (float)eps, NULL, ij_data_of(y), ij_f32_of(mean), ij_f32_of(rstd));
  ij_node *node;
  st = finish(st, y, (ij_tensor *[]){x, w, b, mean, rstd}, 5, layer_norm_backward, &node, out);
  ij_tensor_free(mean);
  ij_tensor_free(rstd);
  return st;
}

static ij_status batch_norm_backward(ij_node *n) { /* in: x, mean, var used */
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(dev->ops.batch_norm_bwd(&dev->queue, x->shape[0], x->shape[1], (int)n->i[0], (float)n->f[0],
                                           ij_f32_of(x), ij_f32_of(n->in[1]), ij_f32_of(n->in[2]),
                                           ij_f32_of(n->out->grad), ij_f32_of(g)),
                   x, g);
}
ij_status ij_batch_norm(ij_tensor *x, ij_tensor *mean, ij_tensor *var, double momentum, double eps, int training,
                        ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_shape("batch_norm", "x", x, IJ_F32, 2, (int64_t[]){-1, -1}));
  int64_t R = x->shape[0], D = x->shape[1];
  IJ_TRY(ij_want_shape("batch_norm", "mean", mean, IJ_F32, 1, &D));
  IJ_TRY(ij_want_shape("batch_norm", "var", var, IJ_F32, 1, &D));
  if (training && R < 2) return ij_fail(IJ_ESHAPE, "batch_norm: training needs 2 rows or more, not %lld", (long long)R);
  ij_device *dev = device_of(x);
  ij_queue *q = &dev->queue;
  ij_tensor *y = ij_make_like(x), *m = NULL, *s = NULL;
  ij_status st = y ? ij_tensor_clone(mean, IJ_F32, 0, &m) : IJ_ENOMEM;
  if (st == IJ_OK) st = ij_tensor_clone(var, IJ_F32, 0, &s);
  if (st == IJ_OK)
    st = dev->ops.batch_norm_fwd(q, R, D, training, (float)eps, ij_f32_of(x), ij_f32_of(m), ij_f32_of(s), ij_f32_of(y));
  if (st == IJ_OK && training) { /* running = (1 - momentum) * running + momentum * batch, the variance unbiased */
    float keep = (float)(1 - momentum), unbiased = (float)(momentum * (double)R / (double)(R - 1));
    st = dev->ops.affine(q, D, keep, 0, ij_f32_of(mean), ij_f32_of(mean));
    if (st == IJ_OK) st = dev->ops.axpy(q, D, (float)momentum, ij_f32_of(m), ij_f32_of(mean));
    if (st == IJ_OK) st = dev->ops.affine(q, D, keep, 0, ij_f32_of(var), ij_f32_of(var));
    if (st == IJ_OK) st = dev->ops.axpy(q, D, unbiased, ij_f32_of(s), ij_f32_of(var));
  }
  ij_node *node;
  st = finish(st, y, (ij_tensor *[]){x, m, s}, 3, batch_norm_backward, &node, out);
  if (node) {
    node->i[0] = training;
    node->f[0] = eps;
  }
  ij_tensor_free(m);
  ij_tensor_free(s);
  return st;
}

/* ---- attention */
static ij_status attention_backward(ij_node *n) { /* in: qkv, lse; i: A */
  ij_tensor *qkv = n->in[0], *g;
  ij_device *dev = device_of(qkv);
  int64_t A = n->i[0], S = qkv->shape[2] / 3 / A;
  IJ_TRY(grad_like(qkv, &g));
  return grad_done(dev->ops.attention_bwd(&dev->queue, IJ_F32, qkv->shape[0], qkv->shape[1], A, S, 0, ij_data_of(qkv),
                                          NULL, ij_data_of(n->out), ij_f32_of(n->in[1]), ij_data_of(n->out->grad),
                                          ij_data_of(g), NULL),
                   qkv, g);
}
ij_status ij_attention(ij_tensor *qkv, int heads, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_shape("attention", "qkv", qkv, IJ_F32, 3, (int64_t[]){-1, -1, -1}));
  int64_t B = qkv->shape[0], N = qkv->shape[1], W = qkv->shape[2];
  if (heads < 1 || W < 3 * (int64_t)heads || W % (3 * (int64_t)heads))
    return ij_fail(IJ_ESHAPE, "attention: width %lld is not 3 x heads (%d) x head width", (long long)W, heads);
  ij_device *dev = device_of(qkv);
  ij_tensor *y = ij_make3(dev, IJ_F32, B, N, W / 3), *lse = ij_make3(dev, IJ_F32, B, heads, N);
  ij_status st = IJ_ENOMEM;
  if (y && lse)
    st = dev->ops.attention_fwd(&dev->queue, IJ_F32, B, N, heads, W / 3 / heads, 0, ij_data_of(qkv), NULL,
                                ij_data_of(y), ij_f32_of(lse));
  ij_node *node;
  st = finish(st, y, (ij_tensor *[]){qkv, lse}, 2, attention_backward, &node, out);
  if (node) node->i[0] = heads;
  ij_tensor_free(lse);
  return st;
}

static ij_status softmax_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(dev->ops.softmax_bwd(&dev->queue, rows_of(x), last_size(x), ij_f32_of(n->out),
                                        ij_f32_of(n->out->grad), ij_f32_of(g)),
                   x, g);
}
ij_status ij_softmax(ij_tensor *x, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("softmax", "x", x, IJ_F32));
  if (!x->ndim || !last_size(x)) return ij_fail(IJ_ESHAPE, "softmax: of nothing");
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make_like(x);
  ij_status st = IJ_ENOMEM;
  if (y) st = dev->ops.softmax_fwd(&dev->queue, rows_of(x), last_size(x), ij_f32_of(x), ij_f32_of(y));
  ij_node *node;
  return finish(st, y, &x, 1, softmax_backward, &node, out);
}

/* ---- products of two tensors */
/* t's gradient, if it wants one, grows by the P products of x (M, K) and y (K, N), each perhaps transposed. */
static ij_status product_grad(ij_tensor *t, int64_t P, int64_t M, int64_t N, int64_t K, bool tx, bool ty, ij_tensor *x,
                              ij_tensor *y) {
  if (!t->requires_grad) return IJ_OK;
  ij_tensor *g;
  ij_device *dev = device_of(t);
  IJ_TRY(grad_like(t, &g));
  return grad_done(dev->ops.matmul(&dev->queue, P, M, N, K, tx, ty, ij_f32_of(x), ij_f32_of(y), ij_f32_of(g)), t, g);
}
static ij_status matmul_backward(ij_node *n) { /* in: a, b; i: P, M, N, K, ta, tb */
  ij_tensor *a = n->in[0], *b = n->in[1], *dc = n->out->grad;
  int64_t P = n->i[0], M = n->i[1], N = n->i[2], K = n->i[3];
  bool ta = n->i[4], tb = n->i[5];
  IJ_TRY(ta ? product_grad(a, P, K, M, N, tb, true, b, dc) : product_grad(a, P, M, K, N, false, !tb, dc, b));
  return tb ? product_grad(b, P, N, K, M, true, ta, dc, a) : product_grad(b, P, K, N, M, !ta, false, a, dc);
}
ij_status ij_matmul(ij_tensor *a, ij_tensor *b, int ta, int tb, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("matmul", "a", a, IJ_F32));
  IJ_TRY(ij_want("matmul", "b", b, IJ_F32));
  int nd = a->ndim;
  char left[160], right[160];
  bool fits = (nd == 2 || nd == 3) && b->ndim == nd && (nd == 2 || a->shape[0] == b->shape[0]) &&
              a->shape[nd - (ta ? 2 : 1)] == b->shape[nd - (tb ? 1 : 2)];
  if (!fits)
    return ij_fail(IJ_ESHAPE, "matmul: %s%s and %s%s do not fit: (M, K) and (K, N), or as many of each",
                   ij_shape_text(a, left), ta ? " transposed" : "", ij_shape_text(b, right), tb ? " transposed" : "");
  int64_t P = nd == 3 ? a->shape[0] : 1, M = a->shape[nd - (ta ? 1 : 2)], N = b->shape[nd - (tb ? 2 : 1)],
          K = a->shape[nd - (ta ? 2 : 1)];
  ij_device *dev = device_of(a);
  ij_tensor *c = nd == 3 ? ij_make3(dev, IJ_F32, P, M, N) : ij_make2(dev, IJ_F32, M, N);
  ij_status st = IJ_ENOMEM;
  if (c) st = dev->ops.matmul(&dev->queue, P, M, N, K, ta != 0, tb != 0, ij_f32_of(a), ij_f32_of(b), ij_f32_of(c));
  ij_node *node;
  st = finish(st, c, (ij_tensor *[]){a, b}, 2, matmul_backward, &node, out);
  if (node) memcpy(node->i, (int64_t[]){P, M, N, K, ta != 0, tb != 0}, sizeof node->i);
  return st;
}

/* ---- picking and joining */
static ij_status gather_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *index = n->in[1], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  ij_status st = dev->ops.fill(&dev->queue, ij_tensor_count(g), 0, ij_f32_of(g));
  if (st == IJ_OK)
    st = dev->ops.gather_bwd(&dev->queue, index->shape[0], index->shape[1], index->shape[2], x->shape[1], x->shape[2],
                             ij_f32_of(n->out->grad), ij_data_of(index), ij_f32_of(g));
  return grad_done(st, x, g);
}
ij_status ij_gather(ij_tensor *x, ij_tensor *index, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_shape("gather", "x", x, IJ_F32, 3, (int64_t[]){-1, -1, -1}));
  IJ_TRY(ij_want_shape("gather", "index", index, IJ_I32, 3, (int64_t[]){-1, x->shape[0], -1}));
  IJ_TRY(ij_check_index("gather", index, x->shape[1]));
  ij_device *dev = device_of(x);
  int64_t M = index->shape[0], B = index->shape[1], T = index->shape[2];
  ij_tensor *y = ij_make3(dev, IJ_F32, M * B, T, x->shape[2]);
  ij_status st = IJ_ENOMEM;
  if (y)
    st = dev->ops.gather_fwd(&dev->queue, M, B, T, x->shape[1], x->shape[2], ij_f32_of(x), ij_data_of(index),
                             ij_f32_of(y));
  ij_node *node;
  return finish(st, y, (ij_tensor *[]){x, index}, 2, gather_backward, &node, out);
}

ij_status ij_index_range(const ij_tensor *index, int32_t *lo, int32_t *hi) {
  const ij_storage *s = index->storage;
  int64_t count = ij_tensor_count(index);
  *lo = s->lo;
  *hi = s->hi;
  if (s->ranged == s->version && (size_t)count * 4 == s->bytes) return IJ_OK;
  *lo = INT32_MAX;
  *hi = INT32_MIN;
  int32_t *v = ij_alloc((size_t)count * 4 + 1);
  if (!v) return IJ_ENOMEM;
  ij_status st = ij_tensor_read(index, v, (size_t)count * 4);
  for (int64_t i = 0; i < count && st == IJ_OK; i++) {
    if (v[i] < *lo) *lo = v[i];
    if (v[i] > *hi) *hi = v[i];
  }
  ij_free(v);
  return st;
}

/* The place (from 0) of the first number outside lo..hi. */
static ij_status find_outside(const ij_tensor *index, int64_t lo, int64_t hi, int64_t *place, int32_t *value) {
  int64_t count = ij_tensor_count(index), i = 0;
  int32_t *v = ij_alloc((size_t)count * 4 + 1);
  if (!v) return IJ_ENOMEM;
  ij_status st = ij_tensor_read(index, v, (size_t)count * 4);
  while (st == IJ_OK && i < count - 1 && v[i] >= lo && v[i] <= hi) i++;
  *place = i;
  *value = st == IJ_OK && count ? v[i] : 0;
  ij_free(v);
  return st;
}

ij_status ij_check_index(const char *op, const ij_tensor *index, int64_t n) {
  int32_t lo, hi, value;
  int64_t place;
  IJ_TRY(ij_index_range(index, &lo, &hi));
  if (lo > hi || (lo >= 0 && hi < n)) return IJ_OK;
  IJ_TRY(find_outside(index, 0, n - 1, &place, &value));
  return ij_fail(IJ_EINVAL, "%s: patch number %d at place %lld is outside 0..%lld", op, value, (long long)place + 1,
                 (long long)n - 1);
}

static ij_status concat_backward(ij_node *n) {
  ij_tensor *y = n->out;
  ij_device *dev = device_of(y);
  int64_t at = 0, D = last_size(y);
  for (int i = 0; i < 8 && n->in[i]; i++) {
    ij_tensor *x = n->in[i], *g;
    int64_t d = last_size(x), shape[2] = {rows_of(x), d}, from[2] = {D, 1}, to[2] = {d, 1};
    if (x->requires_grad) {
      IJ_TRY(grad_like(x, &g));
      IJ_TRY(grad_done(dev->ops.copy(&dev->queue, 2, shape, 4, ij_f32_of(y->grad) + at, from, ij_f32_of(g), to), x, g));
    }
    at += d;
  }
  return IJ_OK;
}
ij_status ij_concat(ij_tensor **x, int count, ij_tensor **out) {
  *out = NULL;
  if (count < 1 || count > 8) return ij_fail(IJ_EINVAL, "concat: 1 to 8 tensors, not %d", count);
  IJ_TRY(ij_want("concat", "x", x[0], IJ_F32));
  int64_t shape[IJ_MAX_DIMS], D = 0;
  if (!x[0]->ndim) return ij_fail(IJ_ESHAPE, "concat: tensors need a dimension");
  memcpy(shape, x[0]->shape, sizeof shape);
  shape[x[0]->ndim - 1] = -1;
  for (int i = 0; i < count; i++) {
    IJ_TRY(ij_want_shape("concat", "x", x[i], IJ_F32, x[0]->ndim, shape));
    D += last_size(x[i]);
  }
  shape[x[0]->ndim - 1] = D;
  ij_device *dev = device_of(x[0]);
  ij_tensor *y = ij_make(dev, IJ_F32, x[0]->ndim, shape, false);
  ij_status st = y ? IJ_OK : IJ_ENOMEM;
  int64_t at = 0;
  for (int i = 0; i < count && st == IJ_OK; i++) {
    int64_t d = last_size(x[i]), size[2] = {rows_of(x[i]), d}, from[2] = {d, 1}, to[2] = {D, 1};
    st = dev->ops.copy(&dev->queue, 2, size, 4, ij_f32_of(x[i]), from, ij_f32_of(y) + at, to);
    at += d;
  }
  ij_node *node;
  return finish(st, y, x, count, concat_backward, &node, out);
}

/* ---- arithmetic */
enum { SAME = 0, ONE = 1, LAST = 2 };

static ij_status reduce_to(ij_tensor *t, int mode, ij_tensor *g) { /* g: like the op's output; t: the operand */
  ij_device *dev = device_of(g);
  if (mode == SAME) return ij_grad_add(t, g);
  ij_tensor *s = ij_make(dev, IJ_F32, t->ndim, t->shape, false);
  int64_t n = ij_tensor_count(g), d = mode == ONE ? 1 : ij_tensor_count(t);
  ij_status st = s ? dev->ops.sum_fwd(&dev->queue, 1, n / d, d, 1, ij_f32_of(g), ij_f32_of(s)) : IJ_ENOMEM;
  ij_tensor_free(g);
  return s ? grad_done(st, t, s) : st;
}

static ij_status binary_backward(ij_node *n) { /* in: x, y; i: op, mode */
  ij_tensor *x = n->in[0], *y = n->in[1], *g;
  ij_device *dev = device_of(x);
  ij_queue *q = &dev->queue;
  char op = (char)n->i[0];
  int mode = (int)n->i[1];
  int64_t count = ij_tensor_count(x), D = ij_tensor_count(y);
  const float *dz = ij_f32_of(n->out->grad);
  if (x->requires_grad) {
    IJ_TRY(grad_like(x, &g));
    ij_status st = op == '+' || op == '-' ? dev->ops.affine(q, count, 1, 0, dz, ij_f32_of(g))
                                          : dev->ops.binary(q, op, mode, count, D, dz, ij_f32_of(y), ij_f32_of(g));
    IJ_TRY(grad_done(st, x, g));
  }
  if (!y->requires_grad) return IJ_OK;
  IJ_TRY(grad_like(x, &g));
  ij_status st;
  if (op == '+' || op == '-') st = dev->ops.affine(q, count, op == '+' ? 1 : -1, 0, dz, ij_f32_of(g));
  else st = dev->ops.binary(q, '*', SAME, count, count, dz, ij_f32_of(op == '*' ? x : n->out), ij_f32_of(g));
  if (st == IJ_OK && op == '/') { /* d(x / y) / dy = -(x / y) / y */
    st = dev->ops.binary(q, '/', mode, count, D, ij_f32_of(g), ij_f32_of(y), ij_f32_of(g));
    if (st == IJ_OK) st = dev->ops.affine(q, count, -1, 0, ij_f32_of(g), ij_f32_of(g));
  }
  if (st != IJ_OK) {
    ij_tensor_free(g);
    return st;
  }
  return reduce_to(y, mode, g);
}
ij_status ij_binary(char op, ij_tensor *x, ij_tensor *y, ij_tensor **out) {
  *out = NULL;
  const char name[] = {op, 0};
  if (!op || !strchr("+-*/", op)) return ij_fail(IJ_EINVAL, "binary: unknown op '%s'", name);
  IJ_TRY(ij_want(name, "x", x, IJ_F32));
  IJ_TRY(ij_want(name, "y", y, IJ_F32));
  bool same = x->ndim == y->ndim;
  for (int i = 0; same && i < x->ndim; i++) same = x->shape[i] == y->shape[i];
  int mode = same ? SAME : ij_tensor_count(y) == 1 ? ONE : LAST;
  char a[160], b[160];
  if (mode == LAST && !(y->ndim == 1 && x->ndim && y->shape[0] == last_size(x)))
    return ij_fail(IJ_ESHAPE,
                   "%s: %s and %s do not fit: the second may be the same, one element, or the last dimension", name,
                   ij_shape_text(x, a), ij_shape_text(y, b));
  ij_device *dev = device_of(x);
  ij_tensor *z = ij_make_like(x);
  ij_status st = IJ_ENOMEM;
  if (z)
    st = dev->ops.binary(&dev->queue, op, mode, ij_tensor_count(x), ij_tensor_count(y), ij_f32_of(x), ij_f32_of(y),
                         ij_f32_of(z));
  ij_node *node;
  st = finish(st, z, (ij_tensor *[]){x, y}, 2, binary_backward, &node, out);
  if (node) {
    node->i[0] = op;
    node->i[1] = mode;
  }
  return st;
}

static ij_status affine_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(
      dev->ops.affine(&dev->queue, ij_tensor_count(x), (float)n->f[0], 0, ij_f32_of(n->out->grad), ij_f32_of(g)), x, g);
}
ij_status ij_affine(ij_tensor *x, double scale, double shift, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("affine", "x", x, IJ_F32));
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make_like(x);
  ij_status st = IJ_ENOMEM;
  if (y) st = dev->ops.affine(&dev->queue, ij_tensor_count(x), (float)scale, (float)shift, ij_f32_of(x), ij_f32_of(y));
  ij_node *node;
  st = finish(st, y, &x, 1, affine_backward, &node, out);
  if (node) node->f[0] = scale;
  return st;
}

static ij_status mean_backward(ij_node *n) { /* i: P, n, Q */
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(dev->ops.sum_bwd(&dev->queue, n->i[0], n->i[1], n->i[2], 1.0f / (float)n->i[1],
                                    ij_f32_of(n->out->grad), ij_f32_of(g)),
                   x, g);
}
ij_status ij_mean(ij_tensor *x, int dim, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("mean", "x", x, IJ_F32));
  if (dim < -1 || dim >= x->ndim) return ij_fail(IJ_ESHAPE, "mean: no dimension %d of %d", dim + 1, x->ndim);
  int64_t P = 1, n = dim < 0 ? ij_tensor_count(x) : x->shape[dim], Q = 1, shape[IJ_MAX_DIMS] = {1};
  int nd = dim < 0 ? 1 : 0;
  for (int i = 0; dim >= 0 && i < x->ndim; i++) {
    if (i == dim) continue;
    *(i < dim ? &P : &Q) *= x->shape[i];
    shape[nd++] = x->shape[i];
  }
  if (n < 1) return ij_fail(IJ_ESHAPE, "mean: of nothing");
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make(dev, IJ_F32, nd, shape, false);
  ij_status st = y ? dev->ops.sum_fwd(&dev->queue, P, n, Q, 1.0f / (float)n, ij_f32_of(x), ij_f32_of(y)) : IJ_ENOMEM;
  ij_node *node;
  st = finish(st, y, &x, 1, mean_backward, &node, out);
  if (node) {
    node->i[0] = P;
    node->i[1] = n;
    node->i[2] = Q;
  }
  return st;
}

ij_status ij_argmax(ij_tensor *x, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("argmax", "x", x, IJ_F32));
  if (!x->ndim || !last_size(x)) return ij_fail(IJ_ESHAPE, "argmax: of nothing");
  ij_device *dev = device_of(x);
  ij_tensor *y = ij_make(dev, IJ_I32, x->ndim - 1, x->shape, false);
  ij_status st = y ? dev->ops.argmax(&dev->queue, rows_of(x), last_size(x), ij_f32_of(x), ij_data_of(y)) : IJ_ENOMEM;
  ij_node *node;
  return finish(st, y, &x, 1, NULL, &node, out);
}

ij_status ij_topk(ij_tensor *x, int64_t k, ij_tensor **values, ij_tensor **index) {
  *values = *index = NULL;
  IJ_TRY(ij_want("topk", "x", x, IJ_F32));
  if (!x->ndim || k < 1 || k > last_size(x))
    return ij_fail(IJ_ESHAPE, "topk: the %lld largest of %lld", (long long)k, (long long)(x->ndim ? last_size(x) : 0));
  ij_device *dev = device_of(x);
  int64_t shape[IJ_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = k;
  ij_tensor *v = ij_make(dev, IJ_F32, x->ndim, shape, false), *at = ij_make(dev, IJ_I32, x->ndim, shape, false);
  ij_status st = IJ_ENOMEM;
  if (v && at) st = dev->ops.topk(&dev->queue, rows_of(x), last_size(x), k, ij_f32_of(x), ij_f32_of(v), ij_data_of(at));
  if (st != IJ_OK) {
    ij_drop(&v);
    ij_drop(&at);
  }
  *values = v;
  *index = at;
  return st;
}

/* ---- losses */
static ij_status smooth_l1_backward(ij_node *n) { /* in: x, y; i: outer, repeat, inner; f: beta */
  ij_tensor *x = n->in[0], *y = n->in[1], *dx = NULL, *dy = NULL;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &dx));
  if (y->requires_grad && grad_like(y, &dy) != IJ_OK) {
    ij_tensor_free(dx);
    return IJ_ENOMEM;
  }
  ij_status st =
      dev->ops.smooth_l1_bwd(&dev->queue, n->i[0], n->i[1], n->i[2], (float)n->f[0], ij_f32_of(x), ij_f32_of(y),
                             ij_f32_of(n->out->grad), ij_f32_of(dx), dy ? ij_f32_of(dy) : NULL);
  if (dy) st = grad_done(st, y, dy);
  return grad_done(st, x, dx);
}
ij_status ij_smooth_l1(ij_tensor *x, ij_tensor *y, double beta, int64_t outer, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want("smooth_l1", "x", x, IJ_F32));
  IJ_TRY(ij_want("smooth_l1", "y", y, IJ_F32));
  int64_t n = ij_tensor_count(x), m = ij_tensor_count(y);
  if (outer < 1) outer = 1;
  char a[160], b[160];
  if (!n || !m || n % m || m % outer)
    return ij_fail(IJ_ESHAPE, "smooth_l1: 'x' is %s and 'y' is %s, which does not repeat to it", ij_shape_text(x, a),
                   ij_shape_text(y, b));
  if (!(beta > 0)) return ij_fail(IJ_EINVAL, "smooth_l1: beta is %g, expected more than 0", beta);
  ij_device *dev = device_of(x);
  int64_t inner = m / outer, repeat = n / m;
  ij_tensor *loss = ij_make1(dev, IJ_F32, 1);
  ij_status st = IJ_ENOMEM;
  if (loss)
    st = dev->ops.smooth_l1_fwd(&dev->queue, outer, repeat, inner, (float)beta, ij_f32_of(x), ij_f32_of(y),
                                ij_f32_of(loss));
  ij_node *node = NULL;
  st = finish(st, loss, (ij_tensor *[]){x, y}, 2, smooth_l1_backward, &node, out);
  if (node) {
    node->i[0] = outer;
    node->i[1] = repeat;
    node->i[2] = inner;
    node->f[0] = beta;
  }
  return st;
}

static ij_status check_label(const ij_tensor *label, int64_t classes) {
  int32_t lo, hi, value;
  int64_t place;
  IJ_TRY(ij_index_range(label, &lo, &hi));
  if (hi < classes) return IJ_OK;
  IJ_TRY(find_outside(label, INT32_MIN, classes - 1, &place, &value));
  return ij_fail(IJ_EINVAL, "cross_entropy: label %d at place %lld, but there are %lld classes", value,
                 (long long)place + 1, (long long)classes);
}

static ij_status cross_entropy_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *g;
  ij_device *dev = device_of(x);
  IJ_TRY(grad_like(x, &g));
  return grad_done(dev->ops.cross_entropy_bwd(&dev->queue, x->shape[0], x->shape[1], (float)n->f[0], ij_f32_of(x),
                                              ij_data_of(n->in[1]), ij_f32_of(n->out->grad), ij_f32_of(g)),
                   x, g);
}
ij_status ij_cross_entropy(ij_tensor *logits, ij_tensor *label, double smoothing, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_shape("cross_entropy", "logits", logits, IJ_F32, 2, (int64_t[]){-1, -1}));
  IJ_TRY(ij_want_shape("cross_entropy", "label", label, IJ_I32, 1, &logits->shape[0]));
  if (!(smoothing >= 0 && smoothing < 1))
    return ij_fail(IJ_EINVAL, "cross_entropy: smoothing is %g, expected 0 up to 1", smoothing);
  IJ_TRY(check_label(label, logits->shape[1]));
  ij_device *dev = device_of(logits);
  ij_tensor *loss = ij_make1(dev, IJ_F32, 1);
  ij_status st = IJ_ENOMEM;
  if (loss)
    st = dev->ops.cross_entropy_fwd(&dev->queue, logits->shape[0], logits->shape[1], (float)smoothing,
                                    ij_f32_of(logits), ij_data_of(label), ij_f32_of(loss));
  ij_node *node;
  st = finish(st, loss, (ij_tensor *[]){logits, label}, 2, cross_entropy_backward, &node, out);
  if (node) node->f[0] = smoothing;
  return st;
}

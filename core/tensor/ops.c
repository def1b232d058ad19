/* The ops that recipes and probes call. Each checks its inputs, then runs the device's kernel; its backward, above it,
 * is what the tape calls. An op's settings for its backward are a struct named after it. */
#include "tensor.h"
#include <string.h>

static int64_t last_size(const ij_tensor *t) { return t->ndim ? t->shape[t->ndim - 1] : 1; }
static int64_t rows_of(const ij_tensor *t) {
  return t->ndim ? ij_tensor_count(t) / (last_size(t) ? last_size(t) : 1) : 1;
}
static const float *out_grad(const ij_node *n) { return ij_f32_of(n->out->grad); }
static bool wants_grad(const ij_tensor *t) { return t && t->requires_grad; } /* t may be NULL */
static const float *f32_or_null(const ij_tensor *t) { return t ? ij_f32_of(t) : NULL; }

/* ---- linear */
static ij_status linear_backward(ij_node *n) { /* in: x (..., K), w (N, K), b (N) or NULL */
  ij_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
  ij_device *dev = ij_device_of(x);
  int64_t K = w->shape[1], N = w->shape[0], R = rows_of(x);
  float *dw = NULL, *db = NULL;
  if (wants_grad(w)) IJ_TRY(ij_grad_into(w, &dw));
  if (wants_grad(b)) IJ_TRY(ij_grad_into(b, &db));
  if (dw || db) IJ_TRY(dev->ops.linear_bwd_w(&dev->queue, IJ_F32, R, N, K, out_grad(n), ij_data_of(x), dw, db));
  if (!n->dx[0]) return IJ_OK;
  return dev->ops.linear_bwd_x(&dev->queue, IJ_F32, R, N, K, out_grad(n), ij_f32_of(w), w->storage->version, n->dx[0]);
}
ij_status ij_linear(ij_tensor *x, ij_tensor *w, ij_tensor *b, ij_tensor **out) {
  ij_op op = ij_begin("linear", linear_backward, out);
  op.node.reads = 1 << 0 | 1 << 1; /* x, w */
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  IJ_TRY(ij_in_weight(&op, "w", w, 2, (int64_t[]){-1, last_size(x)}));
  if (b) IJ_TRY(ij_in_weight(&op, "b", b, 1, &w->shape[0]));
  int64_t R = rows_of(x), N = w->shape[0], K = w->shape[1], shape[IJ_MAX_DIMS];
  if (!x->ndim || !N || !K) return ij_fail(IJ_ESHAPE, "linear: empty 'x' or 'w'");
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = N;
  float *y = ij_out(&op, IJ_F32, x->ndim, shape);
  if (ij_ready(&op))
    op.status =
        op.dev->ops.linear_fwd(&op.dev->queue, IJ_F32, R, N, K, ij_data_of(x), ij_f32_of(w), w->storage->version, y);
  if (op.status == IJ_OK && b) op.status = op.dev->ops.bias_add(&op.dev->queue, IJ_F32, R, N, ij_f32_of(b), y);
  return ij_end(&op);
}

/* ---- activations and norms */
static ij_status gelu_backward(ij_node *n) {
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.gelu_bwd(&dev->queue, IJ_F32, rows_of(x), last_size(x), ij_data_of(x), NULL, out_grad(n), n->dx[0],
                           NULL, NULL);
}
ij_status ij_gelu(ij_tensor *x, ij_tensor **out) {
  ij_op op = ij_begin("gelu", gelu_backward, out);
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  float *y = ij_out(&op, IJ_F32, x->ndim, x->shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.gelu_fwd(&op.dev->queue, IJ_F32, rows_of(x), last_size(x), ij_data_of(x), NULL, y);
  return ij_end(&op);
}

static ij_status relu_backward(ij_node *n) {
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.relu_bwd(&dev->queue, ij_tensor_count(x), ij_f32_of(x), out_grad(n), n->dx[0]);
}
ij_status ij_relu(ij_tensor *x, ij_tensor **out) {
  ij_op op = ij_begin("relu", relu_backward, out);
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  float *y = ij_out(&op, IJ_F32, x->ndim, x->shape);
  if (ij_ready(&op)) op.status = op.dev->ops.relu_fwd(&op.dev->queue, ij_tensor_count(x), ij_f32_of(x), y);
  return ij_end(&op);
}

/* spare: zeros (D) for the one of w and b whose gradient is not wanted: the kernel adds to both or to none. */
static ij_status layer_norm_grads(ij_node *n, float *spare) {
  ij_tensor *x = n->in[0], *w = n->in[1], *b = n->in[2];
  ij_device *dev = ij_device_of(x);
  float *dw = spare, *db = spare;
  if (wants_grad(w)) IJ_TRY(ij_grad_into(w, &dw));
  if (wants_grad(b)) IJ_TRY(ij_grad_into(b, &db));
  return dev->ops.norm_bwd(&dev->queue, IJ_F32, rows_of(x), last_size(x), ij_f32_of(x), ij_f32_of(n->saved[0]),
                           ij_f32_of(n->saved[1]), f32_or_null(w), out_grad(n), NULL, n->dx[0], NULL, dw, db);
}
static ij_status layer_norm_backward(ij_node *n) { /* in: x (..., D), w (D), b (D); saved: mean (R), rstd (R) */
  if (wants_grad(n->in[1]) == wants_grad(n->in[2])) return layer_norm_grads(n, NULL);
  ij_tensor *spare;
  IJ_TRY(ij_tensor_make(ij_device_of(n->in[0]), IJ_F32, 1, n->in[1]->shape, false, &spare));
  ij_status st = ij_fill(spare, 0);
  if (st == IJ_OK) st = layer_norm_grads(n, ij_f32_of(spare));
  ij_tensor_free(spare);
  return st;
}
ij_status ij_layer_norm(ij_tensor *x, ij_tensor *w, ij_tensor *b, double eps, ij_tensor **out) {
  ij_op op = ij_begin("layer_norm", layer_norm_backward, out);
  op.node.reads = 1 << 0 | 1 << 1; /* x, w */
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  op.node.always_dx = true; /* norm_bwd writes it in any case */
  int64_t D = last_size(x), R = rows_of(x);
  if (!x->ndim || D < 1) return ij_fail(IJ_ESHAPE, "layer_norm: 'x' has no last dimension to normalise");
  if (!w != !b) return ij_fail(IJ_EINVAL, "layer_norm: give both 'w' and 'b', or none");
  if (w) IJ_TRY(ij_in_weight(&op, "w", w, 1, &D));
  if (b) IJ_TRY(ij_in_weight(&op, "b", b, 1, &D));
  float *y = ij_out(&op, IJ_F32, x->ndim, x->shape);
  float *mean = ij_save(&op, IJ_F32, 1, &R), *rstd = ij_save(&op, IJ_F32, 1, &R);
  if (ij_ready(&op))
    op.status = op.dev->ops.norm_fwd(&op.dev->queue, IJ_F32, R, D, ij_f32_of(x), NULL, NULL, f32_or_null(w),
                                     f32_or_null(b), (float)eps, NULL, y, mean, rstd);
  return ij_end(&op);
}

struct batch_norm {
  int training;
  float eps;
};
static ij_status batch_norm_backward(ij_node *n) { /* in: x (R, D); saved: mean (D) and var (D) as used */
  const struct batch_norm *a = (const void *)n->attr;
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.batch_norm_bwd(&dev->queue, x->shape[0], x->shape[1], a->training, a->eps, ij_f32_of(x),
                                 ij_f32_of(n->saved[0]), ij_f32_of(n->saved[1]), out_grad(n), n->dx[0]);
}
/* t (D) = (1 - momentum) * t + scale * batch (D) */
static ij_status follow(ij_tensor *t, double momentum, float scale, const float *batch) {
  ij_device *dev = ij_device_of(t);
  int64_t D = t->shape[0];
  IJ_TRY(dev->ops.affine(&dev->queue, D, (float)(1 - momentum), 0, ij_f32_of(t), ij_f32_of(t)));
  return dev->ops.axpy(&dev->queue, D, scale, batch, ij_f32_of(t));
}
ij_status ij_batch_norm(ij_tensor *x, ij_tensor *mean, ij_tensor *var, double momentum, double eps, int training,
                        ij_tensor **out) {
  ij_op op = ij_begin("batch_norm", batch_norm_backward, out);
  op.node.reads = 1 << 0; /* x; mean and var are saved as they were */
  IJ_TRY(ij_in_shape(&op, "x", x, IJ_F32, 2, (int64_t[]){-1, -1}));
  int64_t R = x->shape[0], D = x->shape[1];
  IJ_TRY(ij_in_weight(&op, "mean", mean, 1, &D));
  IJ_TRY(ij_in_weight(&op, "var", var, 1, &D));
  if (training && R < 2) return ij_fail(IJ_ESHAPE, "batch_norm: training needs 2 rows or more, not %lld", (long long)R);
  ij_attr(&op, &(struct batch_norm){training, (float)eps}, sizeof(struct batch_norm));
  float *y = ij_out(&op, IJ_F32, 2, x->shape), *m = ij_save(&op, IJ_F32, 1, &D), *v = ij_save(&op, IJ_F32, 1, &D);
  if (ij_ready(&op)) op.status = ij_tensor_copy(op.node.saved[0], mean);
  if (op.status == IJ_OK) op.status = ij_tensor_copy(op.node.saved[1], var);
  if (op.status == IJ_OK)
    op.status = op.dev->ops.batch_norm_fwd(&op.dev->queue, R, D, training, (float)eps, ij_f32_of(x), m, v, y);
  if (op.status == IJ_OK && training) op.status = follow(mean, momentum, (float)momentum, m);
  if (op.status == IJ_OK && training) /* the running variance is the unbiased one */
    op.status = follow(var, momentum, (float)(momentum * (double)R / (double)(R - 1)), v);
  return ij_end(&op);
}

/* ---- attention */
static ij_status attention_backward(ij_node *n) { /* in: qkv (B, N, 3 * A * S); saved: lse (B, A, N) */
  ij_tensor *qkv = n->in[0];
  ij_device *dev = ij_device_of(qkv);
  int64_t A = *(const int *)(const void *)n->attr, S = qkv->shape[2] / 3 / A;
  return dev->ops.attention_bwd(&dev->queue, IJ_F32, qkv->shape[0], qkv->shape[1], A, S, 0, ij_data_of(qkv), NULL,
                                ij_data_of(n->out), ij_f32_of(n->saved[0]), out_grad(n), n->dx[0], NULL);
}
ij_status ij_attention(ij_tensor *qkv, int heads, ij_tensor **out) {
  ij_op op = ij_begin("attention", attention_backward, out);
  op.node.reads = 1 << 0 | IJ_READS_OUT;
  IJ_TRY(ij_in_shape(&op, "qkv", qkv, IJ_F32, 3, (int64_t[]){-1, -1, -1}));
  int64_t B = qkv->shape[0], N = qkv->shape[1], W = qkv->shape[2];
  if (heads < 1 || W < 3 * (int64_t)heads || W % (3 * (int64_t)heads))
    return ij_fail(IJ_ESHAPE, "attention: width %lld is not 3 x heads (%d) x head width", (long long)W, heads);
  ij_attr(&op, &heads, sizeof heads);
  float *y = ij_out(&op, IJ_F32, 3, (int64_t[]){B, N, W / 3});
  float *lse = ij_save(&op, IJ_F32, 3, (int64_t[]){B, heads, N});
  if (ij_ready(&op))
    op.status =
        op.dev->ops.attention_fwd(&op.dev->queue, IJ_F32, B, N, heads, W / 3 / heads, 0, ij_data_of(qkv), NULL, y, lse);
  return ij_end(&op);
}

static ij_status softmax_backward(ij_node *n) {
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.softmax_bwd(&dev->queue, rows_of(x), last_size(x), ij_f32_of(n->out), out_grad(n), n->dx[0]);
}
ij_status ij_softmax(ij_tensor *x, ij_tensor **out) {
  ij_op op = ij_begin("softmax", softmax_backward, out);
  op.node.reads = IJ_READS_OUT;
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  if (!x->ndim || !last_size(x)) return ij_fail(IJ_ESHAPE, "softmax: 'x' has no last dimension or an empty one");
  float *y = ij_out(&op, IJ_F32, x->ndim, x->shape);
  if (ij_ready(&op)) op.status = op.dev->ops.softmax_fwd(&op.dev->queue, rows_of(x), last_size(x), ij_f32_of(x), y);
  return ij_end(&op);
}

/* ---- picking */
static ij_status gather_backward(ij_node *n) { /* in: x (B, N, D), index (M, B, T) */
  ij_tensor *x = n->in[0], *index = n->in[1];
  ij_device *dev = ij_device_of(x);
  IJ_TRY(dev->ops.fill(&dev->queue, ij_tensor_count(x), 0, n->dx[0]));
  return dev->ops.gather_bwd(&dev->queue, index->shape[0], index->shape[1], index->shape[2], x->shape[1], x->shape[2],
                             out_grad(n), ij_data_of(index), n->dx[0]);
}
ij_status ij_gather(ij_tensor *x, ij_tensor *index, ij_tensor **out) {
  ij_op op = ij_begin("gather", gather_backward, out);
  op.node.reads = 1 << 1; /* index */
  IJ_TRY(ij_in_shape(&op, "x", x, IJ_F32, 3, (int64_t[]){-1, -1, -1}));
  IJ_TRY(ij_in_shape(&op, "index", index, IJ_I32, 3, (int64_t[]){-1, x->shape[0], -1}));
  IJ_TRY(ij_check_index("gather", index, x->shape[1]));
  int64_t M = index->shape[0], B = index->shape[1], T = index->shape[2], N = x->shape[1], D = x->shape[2];
  float *y = ij_out(&op, IJ_F32, 3, (int64_t[]){M * B, T, D});
  if (ij_ready(&op))
    op.status = op.dev->ops.gather_fwd(&op.dev->queue, M, B, T, N, D, ij_f32_of(x), ij_data_of(index), y);
  return ij_end(&op);
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

/* The position (from 0) of the first value outside lo..hi. */
static ij_status find_outside(const ij_tensor *index, int64_t lo, int64_t hi, int64_t *position, int32_t *value) {
  int64_t count = ij_tensor_count(index), i = 0;
  int32_t *v = ij_alloc((size_t)count * 4 + 1);
  if (!v) return IJ_ENOMEM;
  ij_status st = ij_tensor_read(index, v, (size_t)count * 4);
  while (st == IJ_OK && i < count - 1 && v[i] >= lo && v[i] <= hi) i++;
  *position = i;
  *value = st == IJ_OK && count ? v[i] : 0;
  ij_free(v);
  return st;
}

ij_status ij_check_positions(const char *op, const char *word, const ij_tensor *index, int64_t n) {
  int32_t lo, hi, value;
  int64_t position;
  IJ_TRY(ij_index_range(index, &lo, &hi));
  if (lo > hi || (lo >= 0 && hi < n)) return IJ_OK;
  IJ_TRY(find_outside(index, 0, n - 1, &position, &value));
  return ij_fail(IJ_EINVAL, "%s: %s %d at position %lld is outside 0..%lld", op, word, value, (long long)position + 1,
                 (long long)n - 1);
}
ij_status ij_check_index(const char *op, const ij_tensor *index, int64_t n) {
  return ij_check_positions(op, "patch", index, n);
}

ij_status ij_topk(ij_tensor *x, int64_t k, ij_tensor **values, ij_tensor **index) {
  *index = NULL;
  ij_op op = ij_begin("topk", NULL, values);
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  if (!x->ndim || k < 1 || k > last_size(x))
    return ij_fail(IJ_ESHAPE, "topk: the %lld largest of %lld", (long long)k, (long long)(x->ndim ? last_size(x) : 0));
  int64_t shape[IJ_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[x->ndim - 1] = k;
  float *v = ij_out(&op, IJ_F32, x->ndim, shape);
  int32_t *position = ij_save(&op, IJ_I32, x->ndim, shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.topk(&op.dev->queue, rows_of(x), last_size(x), k, ij_f32_of(x), v, position);
  if (op.status == IJ_OK) *index = ij_hold(op.node.saved[0]);
  return ij_end(&op);
}

/* ---- losses */
struct smooth_l1 {
  int64_t outer, repeat, inner; /* x is (outer, repeat, inner), y (outer, inner) */
  float beta;
};
static ij_status smooth_l1_backward(ij_node *n) { /* in: x, y */
  const struct smooth_l1 *a = (const void *)n->attr;
  ij_tensor *x = n->in[0], *y = n->in[1];
  ij_device *dev = ij_device_of(x);
  return dev->ops.smooth_l1_bwd(&dev->queue, a->outer, a->repeat, a->inner, a->beta, ij_f32_of(x), ij_f32_of(y),
                                out_grad(n), n->dx[0], n->dx[1]);
}
ij_status ij_smooth_l1(ij_tensor *x, ij_tensor *y, double beta, int64_t outer, ij_tensor **out) {
  ij_op op = ij_begin("smooth_l1", smooth_l1_backward, out);
  IJ_TRY(ij_in(&op, "x", x, IJ_F32));
  IJ_TRY(ij_in(&op, "y", y, IJ_F32));
  op.node.always_dx = true; /* smooth_l1_bwd writes it in any case */
  int64_t n = ij_tensor_count(x), m = ij_tensor_count(y);
  if (outer < 1) outer = 1;
  char a[160], b[160];
  if (!n || !m || n % m || m % outer)
    return ij_fail(IJ_ESHAPE, "smooth_l1: 'x' is %s and 'y' is %s, which does not repeat to it", ij_shape_text(x, a),
                   ij_shape_text(y, b));
  if (!(beta > 0)) return ij_fail(IJ_EINVAL, "smooth_l1: beta is %g, expected more than 0", beta);
  int64_t inner = m / outer, repeat = n / m, one = 1;
  ij_attr(&op, &(struct smooth_l1){outer, repeat, inner, (float)beta}, sizeof(struct smooth_l1));
  float *loss = ij_out(&op, IJ_F32, 1, &one);
  if (ij_ready(&op))
    op.status =
        op.dev->ops.smooth_l1_fwd(&op.dev->queue, outer, repeat, inner, (float)beta, ij_f32_of(x), ij_f32_of(y), loss);
  return ij_end(&op);
}

static ij_status check_label(const ij_tensor *label, int64_t classes) {
  int32_t lo, hi, value;
  int64_t position;
  IJ_TRY(ij_index_range(label, &lo, &hi));
  if (hi < classes) return IJ_OK;
  IJ_TRY(find_outside(label, INT32_MIN, classes - 1, &position, &value));
  return ij_fail(IJ_EINVAL, "cross_entropy: label %d at position %lld, but there are %lld classes", value,
                 (long long)position + 1, (long long)classes);
}

static ij_status cross_entropy_backward(ij_node *n) { /* in: logits (R, classes), label (R) */
  const double *smoothing = (const void *)n->attr;
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.cross_entropy_bwd(&dev->queue, x->shape[0], x->shape[1], (float)*smoothing, ij_f32_of(x),
                                    ij_data_of(n->in[1]), out_grad(n), n->dx[0]);
}
ij_status ij_cross_entropy(ij_tensor *logits, ij_tensor *label, double smoothing, ij_tensor **out) {
  ij_op op = ij_begin("cross_entropy", cross_entropy_backward, out);
  IJ_TRY(ij_in_shape(&op, "logits", logits, IJ_F32, 2, (int64_t[]){-1, -1}));
  int64_t R = logits->shape[0], classes = logits->shape[1], one = 1;
  IJ_TRY(ij_in_shape(&op, "label", label, IJ_I32, 1, &R));
  if (!(smoothing >= 0 && smoothing < 1))
    return ij_fail(IJ_EINVAL, "cross_entropy: smoothing is %g, expected 0 up to 1", smoothing);
  IJ_TRY(check_label(label, classes));
  ij_attr(&op, &smoothing, sizeof smoothing);
  float *loss = ij_out(&op, IJ_F32, 1, &one);
  if (ij_ready(&op))
    op.status = op.dev->ops.cross_entropy_fwd(&op.dev->queue, R, classes, (float)smoothing, ij_f32_of(logits),
                                              ij_data_of(label), loss);
  return ij_end(&op);
}

/* Elements by position, joining, windows, random numbers. */
#include "tensor.h"
#include <string.h>

static const float *out_grad(const ij_node *n) { return ij_f32_of(n->out->grad); }

/* ---- elements along a dimension */
struct take {
  int64_t P, T, N, Q; /* x is (P, N, Q), index (P, T, Q) or, shared, (T) */
  int shared;
};
static ij_status take_backward(ij_node *n) { /* in: x, index */
  const struct take *a = (const void *)n->attr;
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  IJ_TRY(dev->ops.fill(&dev->queue, ij_tensor_count(x), 0, n->dx[0]));
  return dev->ops.scatter_add(&dev->queue, IJ_F32, a->P, a->T, a->N, a->Q, a->shared, out_grad(n), ij_data_of(n->in[1]),
                              n->dx[0]);
}
/* x and index are dense and fit. */
static ij_status take(const char *name, ij_tensor *x, int dim, ij_tensor *index, bool shared, ij_tensor **out) {
  ij_op op = ij_begin(name, x->dtype == IJ_F32 ? take_backward : NULL, out);
  op.node.reads = 1 << 1; /* index */
  IJ_TRY(ij_in(&op, "x", x, x->dtype));
  IJ_TRY(ij_in(&op, "index", index, IJ_I32));
  IJ_TRY(ij_check_positions(name, "index", index, x->shape[dim]));
  struct take a = {.T = index->shape[shared ? 0 : dim], .N = x->shape[dim], .shared = shared};
  ij_around(x, dim, &a.P, &a.Q);
  ij_attr(&op, &a, sizeof a);
  int64_t shape[IJ_MAX_DIMS];
  memcpy(shape, x->shape, sizeof shape);
  shape[dim] = a.T;
  void *y = ij_out(&op, x->dtype, x->ndim, shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.take(&op.dev->queue, (ij_dim)ij_dtype_size(x->dtype), a.P, a.T, a.N, a.Q, shared,
                                 ij_data_of(x), ij_data_of(index), y);
  return ij_end(&op);
}

static ij_status want_index(const char *name, const ij_tensor *x, int dim, const ij_tensor *index) {
  IJ_TRY(ij_want_dim(name, x, dim));
  if (x->dtype == IJ_BF16) return ij_fail(IJ_ESHAPE, "%s: 'x' is bf16, expected f32, i32, i64 or u8", name);
  if (index->dtype == IJ_I32) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "%s: 'index' is %s, expected i32", name, ij_dtype_name(index->dtype));
}

ij_status ij_take(ij_tensor *x, int dim, ij_tensor *index, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(want_index("take", x, dim, index));
  bool fits = index->ndim == x->ndim;
  for (int d = 0; d < x->ndim && fits; d++) fits = d == dim || index->shape[d] <= x->shape[d];
  char a[160], b[160];
  if (!fits)
    return ij_fail(IJ_ESHAPE, "take: 'index' is %s, but 'x' is %s: expected as many dimensions, and none larger but %d",
                   ij_shape_text(index, a), ij_shape_text(x, b), dim + 1);
  ij_tensor *part = ij_hold(x), *dense_x = NULL, *dense_index = NULL;
  ij_status st = IJ_OK;
  for (int d = 0; d < x->ndim && st == IJ_OK; d++) { /* the front part of dimensions that index does not fill */
    ij_tensor *less = NULL;
    if (d == dim || index->shape[d] == x->shape[d]) continue;
    st = ij_tensor_narrow(part, d, 0, index->shape[d], &less);
    ij_tensor_free(part);
    part = less;
  }
  if (st == IJ_OK) st = ij_dense("take", "x", part, &dense_x);
  if (st == IJ_OK) st = ij_dense("take", "index", index, &dense_index);
  if (st == IJ_OK) st = take("take", dense_x, dim, dense_index, false, out);
  ij_tensor_free(part);
  ij_tensor_free(dense_x);
  ij_tensor_free(dense_index);
  return st;
}

ij_status ij_index_select(ij_tensor *x, int dim, ij_tensor *index, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(want_index("index_select", x, dim, index));
  char text[160];
  if (index->ndim != 1)
    return ij_fail(IJ_ESHAPE, "index_select: 'index' is %s, expected one dimension", ij_shape_text(index, text));
  ij_tensor *dense_x, *dense_index = NULL;
  IJ_TRY(ij_dense("index_select", "x", x, &dense_x));
  ij_status st = ij_dense("index_select", "index", index, &dense_index);
  if (st == IJ_OK) st = take("index_select", dense_x, dim, dense_index, true, out);
  ij_tensor_free(dense_x);
  ij_tensor_free(dense_index);
  return st;
}

static ij_status scatter_add_backward(ij_node *n) { /* in: x, index, src */
  const struct take *a = (const void *)n->attr;
  ij_device *dev = ij_device_of(n->out);
  if (n->dx[0]) IJ_TRY(dev->ops.convert(&dev->queue, ij_tensor_count(n->out), IJ_F32, out_grad(n), IJ_F32, n->dx[0]));
  if (!n->dx[2]) return IJ_OK;
  return dev->ops.take(&dev->queue, sizeof(float), a->P, a->T, a->N, a->Q, 0, out_grad(n), ij_data_of(n->in[1]),
                       n->dx[2]);
}
static ij_status scatter_add(ij_tensor *x, int dim, ij_tensor *index, ij_tensor *src, ij_tensor **out) {
  ij_op op = ij_begin("scatter_add", x->dtype == IJ_F32 ? scatter_add_backward : NULL, out);
  op.node.reads = 1 << 1; /* index */
  IJ_TRY(ij_in_any(&op, "x", x));
  IJ_TRY(ij_in(&op, "index", index, IJ_I32));
  IJ_TRY(ij_in(&op, "src", src, x->dtype));
  IJ_TRY(ij_check_positions("scatter_add", "index", index, x->shape[dim]));
  struct take a = {.T = index->shape[dim], .N = x->shape[dim]};
  ij_around(x, dim, &a.P, &a.Q);
  ij_attr(&op, &a, sizeof a);
  void *y = ij_out(&op, x->dtype, x->ndim, x->shape);
  if (ij_ready(&op)) op.status = ij_tensor_copy(op.node.out, x);
  if (op.status == IJ_OK)
    op.status =
        op.dev->ops.scatter_add(&op.dev->queue, x->dtype, a.P, a.T, a.N, a.Q, 0, ij_data_of(src), ij_data_of(index), y);
  return ij_end(&op);
}
ij_status ij_scatter_add(ij_tensor *x, int dim, ij_tensor *index, ij_tensor *src, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(want_index("scatter_add", x, dim, index));
  bool fits = index->ndim == x->ndim && src->ndim == x->ndim;
  for (int d = 0; d < x->ndim && fits; d++)
    fits = index->shape[d] == src->shape[d] && (d == dim || index->shape[d] == x->shape[d]);
  char a[160], b[160], c[160];
  if (!fits)
    return ij_fail(IJ_ESHAPE,
                   "scatter_add: 'index' is %s, 'src' %s and 'x' %s: expected one shape, but for dimension %d of 'x'",
                   ij_shape_text(index, a), ij_shape_text(src, b), ij_shape_text(x, c), dim + 1);
  ij_tensor *dense_index, *dense_src = NULL;
  IJ_TRY(ij_dense("scatter_add", "index", index, &dense_index));
  ij_status st = ij_dense("scatter_add", "src", src, &dense_src);
  if (st == IJ_OK) st = scatter_add(x, dim, dense_index, dense_src, out);
  ij_tensor_free(dense_index);
  ij_tensor_free(dense_src);
  return st;
}

/* ---- joining */
static ij_status cat_backward(ij_node *n) { /* in: 1 to 8 */
  const int dim = *(const int *)(const void *)n->attr;
  ij_tensor *g = n->out->grad;
  ij_device *dev = ij_device_of(g);
  int64_t offset = 0;
  for (int i = 0; i < IJ_MAX_INPUTS && n->in[i]; i++) {
    ij_tensor *x = n->in[i];
    int64_t dense[IJ_MAX_DIMS], step = 1;
    for (int d = x->ndim - 1; d >= 0; d--) {
      dense[d] = step;
      step *= x->shape[d];
    }
    if (n->dx[i])
      IJ_TRY(dev->ops.copy(&dev->queue, x->ndim, x->shape, sizeof(float), out_grad(n) + offset, g->stride, n->dx[i],
                           dense));
    offset += x->shape[dim] * g->stride[dim];
  }
  return IJ_OK;
}
ij_status ij_cat(ij_tensor **x, int n, int dim, ij_tensor **out) {
  ij_op op = ij_begin("cat", cat_backward, out);
  op.node.reads = 0;
  if (n < 1 || n > IJ_MAX_INPUTS) return ij_fail(IJ_EINVAL, "cat: %d tensors, expected 1 to %d", n, IJ_MAX_INPUTS);
  IJ_TRY(ij_want_dim("cat", x[0], dim));
  int64_t shape[IJ_MAX_DIMS], size = 0;
  memcpy(shape, x[0]->shape, sizeof shape);
  ij_dtype dt = x[0]->dtype;
  if (dt != IJ_F32) op.node.backward = NULL;
  for (int i = 0; i < n; i++) {
    IJ_TRY(ij_in_any(&op, "x", x[i]));
    if (x[i]->dtype != dt)
      return ij_fail(IJ_ESHAPE, "cat: tensor %d is %s, but the first is %s", i + 1, ij_dtype_name(x[i]->dtype),
                     ij_dtype_name(dt));
    bool fits = x[i]->ndim == x[0]->ndim;
    for (int d = 0; d < x[0]->ndim && fits; d++) fits = d == dim || x[i]->shape[d] == shape[d];
    char a[160], b[160];
    if (!fits)
      return ij_fail(IJ_ESHAPE, "cat: tensor %d is %s, but the first is %s: they may differ in dimension %d only",
                     i + 1, ij_shape_text(x[i], a), ij_shape_text(x[0], b), dim + 1);
    if (__builtin_add_overflow(size, x[i]->shape[dim], &size)) return ij_fail(IJ_ESHAPE, "cat: too long");
  }
  shape[dim] = size;
  ij_attr(&op, &dim, sizeof dim);
  char *y = ij_out(&op, dt, x[0]->ndim, shape);
  ij_ready(&op);
  for (int i = 0; i < n && op.status == IJ_OK; i++) {
    const int64_t *stride = op.node.out->stride;
    op.status = op.dev->ops.copy(&op.dev->queue, x[i]->ndim, x[i]->shape, (ij_dim)ij_dtype_size(dt), ij_data_of(x[i]),
                                 x[i]->stride, y, stride);
    y += (size_t)(x[i]->shape[dim] * stride[dim]) * ij_dtype_size(dt);
  }
  return ij_end(&op);
}

/* ---- windows */
struct im2col {
  int kh, kw, stride, pad;
};
static ij_status im2col_backward(ij_node *n) { /* in: x (B, C, H, W) */
  const struct im2col *a = (const void *)n->attr;
  const int64_t *s = n->in[0]->shape;
  ij_device *dev = ij_device_of(n->out);
  return dev->ops.im2col_bwd(&dev->queue, s[0], s[1], s[2], s[3], a->kh, a->kw, a->stride, a->pad, out_grad(n),
                             n->dx[0]);
}
static ij_status im2col(ij_tensor *x, const struct im2col *a, ij_tensor **out) {
  ij_op op = ij_begin("im2col", im2col_backward, out);
  op.node.reads = 0;
  IJ_TRY(ij_in_shape(&op, "x", x, IJ_F32, 4, (int64_t[]){-1, -1, -1, -1}));
  const int64_t *s = x->shape;
  int64_t high = s[2] + 2 * (int64_t)a->pad - a->kh, wide = s[3] + 2 * (int64_t)a->pad - a->kw;
  if (high < 0 || wide < 0)
    return ij_fail(IJ_ESHAPE, "im2col: windows of %d x %d do not fit images of %lld x %lld with a border of %d", a->kh,
                   a->kw, (long long)s[2], (long long)s[3], a->pad);
  int64_t windows, width, shape[3] = {s[0]};
  if (__builtin_mul_overflow(high / a->stride + 1, wide / a->stride + 1, &windows) ||
      __builtin_mul_overflow(s[1], (int64_t)a->kh * a->kw, &width))
    return ij_fail(IJ_ESHAPE, "im2col: the result's size does not fit");
  shape[1] = windows;
  shape[2] = width;
  ij_attr(&op, a, sizeof *a);
  float *y = ij_out(&op, IJ_F32, 3, shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.im2col_fwd(&op.dev->queue, s[0], s[1], s[2], s[3], a->kh, a->kw, a->stride, a->pad,
                                       ij_f32_of(x), y);
  return ij_end(&op);
}
ij_status ij_im2col(ij_tensor *x, int kh, int kw, int stride, int pad, ij_tensor **out) {
  *out = NULL;
  if (kh < 1 || kw < 1 || stride < 1 || pad < 0)
    return ij_fail(IJ_EINVAL, "im2col: windows of %d x %d, stride %d, border %d: expected 1 or more, border 0 or more",
                   kh, kw, stride, pad);
  ij_tensor *dense;
  IJ_TRY(ij_dense("im2col", "x", x, &dense));
  ij_status st = im2col(dense, &(struct im2col){kh, kw, stride, pad}, out);
  ij_tensor_free(dense);
  return st;
}

/* ---- random numbers */
ij_status ij_random(ij_tensor *t, const char *kind, uint64_t seed, uint64_t offset) {
  static const char *const kinds[] = {"uniform", "normal"};
  bool normal = !strcmp(kind, kinds[1]);
  if (!normal && strcmp(kind, kinds[0]) != 0) return ij_unknown_name("random", kind, kinds, 2);
  IJ_TRY(ij_want("random", "tensor", t, IJ_F32));
  ij_device *dev = ij_device_of(t);
  ij_tensor_touched(t);
  return dev->ops.random(&dev->queue, normal, ij_tensor_count(t), seed, offset, ij_f32_of(t));
}

/* Views, which share memory with a tensor, and copies. */
#include "tensor.h"

/* ---- views */
/* The view as it would be of a contiguous tensor: its gradient's place in the gradient of what it shows. */
struct view {
  int64_t offset, stride[IJ_MAX_DIMS];
};
/* The same view of zeros receives its gradient. */
static ij_status view_backward(ij_node *n) {
  const struct view *a = (const void *)n->attr;
  ij_tensor *x = n->in[0], *v = n->out;
  ij_device *dev = ij_device_of(x);
  IJ_TRY(dev->ops.fill(&dev->queue, ij_tensor_count(x), 0, n->dx[0]));
  return dev->ops.copy(&dev->queue, v->ndim, v->shape, 4, ij_data_of(v->grad), v->grad->stride, n->dx[0] + a->offset,
                       a->stride);
}

/* Makes the output a view of all of t, and *a what it would be of a contiguous one: the caller then changes the shape,
 * and strides and offset of both. */
static ij_status view_of(ij_op *op, ij_tensor *t, struct view *a) {
  IJ_TRY(ij_in_any(op, "tensor", t));
  if (t->requires_grad && op->dev->grad_on && t->dtype != IJ_F32 && op->node.backward)
    return ij_fail(IJ_ESHAPE, "%s: 'tensor' is %s, expected f32, as it requires a gradient", op->name,
                   ij_dtype_name(t->dtype));
  ij_tensor *v = ij_alloc(sizeof *v);
  if (!v) return IJ_ENOMEM;
  *v = *t;
  v->refs = 1;
  v->requires_grad = false;
  v->origin = IJ_LEAF;
  v->grad = NULL;
  v->sink = NULL;
  v->uses = 0;
  v->storage->refs++;
  op->node.out = v;
  op->node.reads = 0;
  *a = (struct view){0};
  int64_t step = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    a->stride[i] = step;
    step *= t->shape[i];
  }
  return IJ_OK;
}
static ij_status view_end(ij_op *op, const struct view *a) {
  ij_attr(op, a, sizeof *a);
  ij_ready(op);
  return ij_end(op);
}

ij_status ij_tensor_narrow(ij_tensor *t, int dim, int64_t start, int64_t len, ij_tensor **out) {
  ij_op op = ij_begin("narrow", view_backward, out);
  if (dim < 0 || dim >= t->ndim) return ij_fail(IJ_ESHAPE, "narrow: no dimension %d of %d", dim + 1, t->ndim);
  if (start < 0 || len < 0 || start > t->shape[dim] || len > t->shape[dim] - start)
    return ij_fail(IJ_ESHAPE, "narrow: %lld element%s from %lld on reach beyond dimension %d of size %lld",
                   (long long)len, ij_s((double)len), (long long)start + 1, dim + 1, (long long)t->shape[dim]);
  struct view a;
  IJ_TRY(view_of(&op, t, &a));
  op.node.out->offset += start * t->stride[dim];
  op.node.out->shape[dim] = len;
  a.offset = start * a.stride[dim];
  return view_end(&op, &a);
}

ij_status ij_tensor_select(ij_tensor *t, int dim, int64_t index, ij_tensor **out) {
  ij_op op = ij_begin("select", view_backward, out);
  if (dim < 0 || dim >= t->ndim) return ij_fail(IJ_ESHAPE, "select: no dimension %d of %d", dim + 1, t->ndim);
  if (index < 0 || index >= t->shape[dim])
    return ij_fail(IJ_ESHAPE, "select: index %lld is outside dimension %d of size %lld", (long long)index + 1, dim + 1,
                   (long long)t->shape[dim]);
  struct view a;
  IJ_TRY(view_of(&op, t, &a));
  ij_tensor *v = op.node.out;
  v->offset += index * t->stride[dim];
  a.offset = index * a.stride[dim];
  v->ndim--;
  for (int i = dim; i < v->ndim; i++) {
    v->shape[i] = t->shape[i + 1];
    v->stride[i] = t->stride[i + 1];
    a.stride[i] = a.stride[i + 1];
  }
  return view_end(&op, &a);
}

ij_status ij_tensor_reshape(ij_tensor *t, int ndim, const int64_t *shape, ij_tensor **out) {
  ij_op op = ij_begin("reshape", view_backward, out);
  if (ndim < 0 || ndim > IJ_MAX_DIMS)
    return ij_fail(IJ_ESHAPE, "reshape: 0 to %d dimensions, not %d", IJ_MAX_DIMS, ndim);
  IJ_TRY(ij_want("reshape", "tensor", t, t->dtype));
  int64_t n = ij_tensor_count(t), known = 1, size[IJ_MAX_DIMS];
  int open = -1;
  bool fits = true;
  for (int i = 0; i < ndim; i++) {
    size[i] = shape[i];
    if (shape[i] == -1 && open < 0) open = i;
    else if (shape[i] < 0 || __builtin_mul_overflow(known, shape[i], &known)) fits = false;
  }
  if (fits && open >= 0 && known > 0 && n % known == 0) known *= size[open] = n / known;
  char is[160], want[160];
  if (!fits || known != n || (open >= 0 && size[open] < 0))
    return ij_fail(IJ_ESHAPE, "reshape: %s does not fit %s", ij_shape_text(t, is), ij_sizes_text(ndim, shape, want));
  struct view a;
  IJ_TRY(view_of(&op, t, &a));
  ij_tensor *v = op.node.out;
  v->ndim = ndim;
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    v->shape[i] = size[i];
    v->stride[i] = a.stride[i] = step;
    step *= size[i];
  }
  return view_end(&op, &a);
}

ij_status ij_tensor_transpose(ij_tensor *t, int a, int b, ij_tensor **out) {
  int dims[IJ_MAX_DIMS];
  *out = NULL;
  if (a < 0 || b < 0 || a >= t->ndim || b >= t->ndim)
    return ij_fail(IJ_ESHAPE, "transpose: no dimensions %d and %d of %d", a + 1, b + 1, t->ndim);
  for (int i = 0; i < t->ndim; i++) dims[i] = i == a ? b : i == b ? a : i;
  return ij_permute(t, t->ndim, dims, out);
}

ij_status ij_permute(ij_tensor *t, int n, const int *dims, ij_tensor **out) {
  ij_op op = ij_begin("permute", view_backward, out);
  bool seen[IJ_MAX_DIMS] = {0};
  if (n != t->ndim) return ij_fail(IJ_ESHAPE, "permute: %d dimensions named, but the tensor has %d", n, t->ndim);
  for (int i = 0; i < n; i++) {
    IJ_TRY(ij_want_dim("permute", t, dims[i]));
    if (seen[dims[i]]) return ij_fail(IJ_EINVAL, "permute: dimension %d is named twice", dims[i] + 1);
    seen[dims[i]] = true;
  }
  struct view a, dense;
  IJ_TRY(view_of(&op, t, &dense));
  a = dense;
  for (int i = 0; i < n; i++) {
    op.node.out->shape[i] = t->shape[dims[i]];
    op.node.out->stride[i] = t->stride[dims[i]];
    a.stride[i] = dense.stride[dims[i]];
  }
  return view_end(&op, &a);
}

static ij_status expand_backward(ij_node *n) {
  const ij_tensor *v = n->out;
  return ij_sum_to(v->ndim, v->shape, ij_f32_of(v->grad), n->in[0], n->dx[0]);
}
ij_status ij_expand(ij_tensor *t, int n, const int64_t *shape, ij_tensor **out) {
  ij_op op = ij_begin("expand", expand_backward, out);
  int more = n - t->ndim;
  int64_t size[IJ_MAX_DIMS], count = 1;
  if (n > IJ_MAX_DIMS) return ij_fail(IJ_ESHAPE, "expand: %d dimensions, at most %d", n, IJ_MAX_DIMS);
  bool fits = more >= 0;
  for (int i = 0; i < n && fits; i++) {
    int64_t is = i < more ? 1 : t->shape[i - more];
    size[i] = shape[i] == -1 && i >= more ? is : shape[i];
    fits = size[i] >= 0 && (is == 1 || is == size[i]) && !__builtin_mul_overflow(count, size[i], &count);
  }
  fits = fits && count < INT64_MAX / 8;
  char is[160], want[160];
  if (!fits)
    return ij_fail(IJ_ESHAPE, "expand: %s does not expand to %s", ij_shape_text(t, is),
                   n < 0 ? "so few dimensions" : ij_sizes_text(n, shape, want));
  struct view a;
  IJ_TRY(view_of(&op, t, &a));
  ij_tensor *v = op.node.out;
  v->ndim = n;
  for (int i = 0; i < n; i++) {
    bool repeats = i < more || t->shape[i - more] != size[i];
    v->stride[i] = repeats ? 0 : t->stride[i - more];
    v->shape[i] = size[i];
  }
  ij_ready(&op);
  return ij_end(&op);
}

ij_status ij_detach(ij_tensor *t, ij_tensor **out) {
  ij_op op = ij_begin("detach", NULL, out);
  struct view a;
  IJ_TRY(view_of(&op, t, &a));
  ij_ready(&op);
  return ij_end(&op);
}

/* ---- copies */
ij_status ij_tensor_copy(ij_tensor *dst, const ij_tensor *src) {
  IJ_TRY(ij_want_alive("copy", "dst", dst));
  IJ_TRY(ij_want_alive("copy", "src", src));
  ij_device *dev = ij_device_of(dst);
  IJ_TRY(ij_want_device("copy", "src", src, dev, "dst"));
  bool same = dst->ndim == src->ndim;
  for (int i = 0; same && i < dst->ndim; i++) same = dst->shape[i] == src->shape[i];
  char a[160], b[160];
  if (!same) return ij_fail(IJ_ESHAPE, "copy: from %s into %s", ij_shape_text(src, a), ij_shape_text(dst, b));
  ij_tensor_touched(dst);
  int64_t n = ij_tensor_count(dst);
  bool flat = ij_tensor_contiguous(dst) && ij_tensor_contiguous(src);
  if (flat) return dev->ops.convert(&dev->queue, n, src->dtype, ij_data_of(src), dst->dtype, ij_data_of(dst));
  if (dst->dtype == src->dtype)
    return dev->ops.copy(&dev->queue, dst->ndim, dst->shape, (ij_dim)ij_dtype_size(dst->dtype), ij_data_of(src),
                         src->stride, ij_data_of(dst), dst->stride);
  /* type and strides differ: pack src, convert it, then spread it out */
  ij_tensor *packed = NULL, *converted = NULL;
  ij_status st = ij_tensor_make(dev, src->dtype, src->ndim, src->shape, true, &packed);
  if (st == IJ_OK) st = ij_tensor_make(dev, dst->dtype, dst->ndim, dst->shape, true, &converted);
  if (st == IJ_OK) st = ij_tensor_copy(packed, src);
  if (st == IJ_OK) st = ij_tensor_copy(converted, packed);
  if (st == IJ_OK) st = ij_tensor_copy(dst, converted);
  ij_tensor_free(packed);
  ij_tensor_free(converted);
  return st;
}

static ij_status clone_backward(ij_node *n) {
  ij_device *dev = ij_device_of(n->out);
  return dev->ops.convert(&dev->queue, ij_tensor_count(n->out), IJ_F32, ij_f32_of(n->out->grad), IJ_F32, n->dx[0]);
}

ij_status ij_tensor_clone(const ij_tensor *t, ij_dtype as, int kept, ij_tensor **out) {
  ij_op op = ij_begin("clone", as == IJ_F32 && t->dtype == IJ_F32 ? clone_backward : NULL, out);
  op.node.reads = 0;
  IJ_TRY(ij_in_any(&op, "tensor", (ij_tensor *)t)); /* const but for the tape's reference */
  op.status = ij_tensor_make(op.dev, as, t->ndim, t->shape, kept, &op.node.out);
  if (ij_ready(&op)) op.status = ij_tensor_copy(op.node.out, t);
  return ij_end(&op);
}

#include "tensor.h"
#include <stdio.h>
#include <string.h>

size_t ij_dtype_size(ij_dtype t) {
  static const size_t size[] = {4, 2, 4, 8, 1};
  return size[t];
}
const char *ij_dtype_name(ij_dtype t) {
  static const char *const name[] = {"f32", "bf16", "i32", "i64", "u8"};
  return name[t];
}

static const char *sizes_text(int ndim, const int64_t *shape, char *buf) {
  int at = sprintf(buf, "(");
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0) at += sprintf(buf + at, "%sany", i ? ", " : "");
    else at += sprintf(buf + at, "%s%lld", i ? ", " : "", (long long)shape[i]);
  }
  sprintf(buf + at, ")");
  return buf;
}
const char *ij_shape_text(const ij_tensor *t, char *buf) { return sizes_text(t->ndim, t->shape, buf); }

ij_dtype ij_tensor_dtype(const ij_tensor *t) { return t->dtype; }
int ij_tensor_ndim(const ij_tensor *t) { return t->ndim; }
int64_t ij_tensor_size(const ij_tensor *t, int dim) { return dim < 0 || dim >= t->ndim ? 0 : t->shape[dim]; }
int64_t ij_tensor_stride(const ij_tensor *t, int dim) { return dim < 0 || dim >= t->ndim ? 0 : t->stride[dim]; }
int64_t ij_tensor_count(const ij_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}
int ij_tensor_contiguous(const ij_tensor *t) {
  int64_t step = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->stride[i] != step) return 0;
    step *= t->shape[i];
  }
  return 1;
}
ij_device *ij_tensor_device(const ij_tensor *t) { return t->storage->dev; }
void ij_tensor_require_grad(ij_tensor *t, int on) { t->requires_grad = on != 0; }
int ij_tensor_requires_grad(const ij_tensor *t) { return t->requires_grad; }
ij_tensor *ij_tensor_grad(ij_tensor *t) { return t->grad; }
void ij_tensor_touched(ij_tensor *t) { t->storage->version = ij_new_version(); }

void *ij_data_of(const ij_tensor *t) { return (char *)t->storage->ptr + (size_t)t->offset * ij_dtype_size(t->dtype); }

static ij_status want_alive(const char *op, const char *arg, const ij_tensor *t) {
  if (t->storage->ptr) return IJ_OK;
  ij_device *dev = t->storage->dev;
  if (dev->step)
    return ij_fail(IJ_EINVAL, "%s: '%s' is a tensor from step %lld used in step %lld: clone() it to keep it", op, arg,
                   (long long)t->storage->step, (long long)dev->step);
  return ij_fail(IJ_EINVAL, "%s: '%s' is a tensor from step %lld used after its end: clone() it to keep it", op, arg,
                 (long long)t->storage->step);
}

ij_status ij_want(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt) {
  if (!t) return ij_fail(IJ_EINVAL, "%s: '%s' is missing", op, arg);
  IJ_TRY(want_alive(op, arg, t));
  if (t->dtype != dt)
    return ij_fail(IJ_ESHAPE, "%s: '%s' is %s, expected %s", op, arg, ij_dtype_name(t->dtype), ij_dtype_name(dt));
  if (!ij_tensor_contiguous(t))
    return ij_fail(IJ_ESHAPE, "%s: '%s' is a view with gaps: use its contiguous() copy", op, arg);
  return IJ_OK;
}

ij_status ij_want_shape(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt, int ndim,
                        const int64_t *shape) {
  IJ_TRY(ij_want(op, arg, t, dt));
  bool fits = t->ndim == ndim;
  for (int i = 0; i < ndim && fits; i++) fits = shape[i] < 0 || shape[i] == t->shape[i];
  char is[160], want[160];
  if (!fits)
    return ij_fail(IJ_ESHAPE, "%s: '%s' is %s, expected %s", op, arg, ij_shape_text(t, is),
                   sizes_text(ndim, shape, want));
  return IJ_OK;
}

/* ---- views */
/* The gradient of a view of a contiguous tensor: the same view of zeros receives it. */
static ij_status view_backward(ij_node *n) {
  ij_tensor *x = n->in[0], *v = n->out;
  ij_device *dev = x->storage->dev;
  ij_tensor *g = ij_make(dev, IJ_F32, x->ndim, x->shape, false);
  if (!g) return IJ_ENOMEM;
  ij_status st = dev->ops.fill(&dev->queue, ij_tensor_count(g), 0, ij_f32_of(g));
  ij_tensor into = *v;
  into.storage = g->storage;
  into.offset = v->offset - x->offset;
  if (st == IJ_OK)
    st = dev->ops.copy(&dev->queue, v->ndim, v->shape, 4, ij_data_of(v->grad), v->grad->stride, ij_data_of(&into),
                       v->stride);
  if (st == IJ_OK) st = ij_grad_add(x, g);
  else ij_tensor_free(g);
  return st;
}

static ij_status view_of(const char *op, ij_tensor *t, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(want_alive(op, "tensor", t));
  ij_tensor *v = ij_alloc(sizeof *v);
  if (!v) return IJ_ENOMEM;
  *v = *t;
  v->refs = 1;
  v->grad = NULL;
  v->requires_grad = false;
  v->storage->refs++;
  *out = v;
  return IJ_OK;
}
static ij_status view_record(const char *op, ij_tensor *t, ij_tensor **out) {
  const ij_tensor *in[] = {t};
  if (!ij_recording(in, 1)) return IJ_OK;
  ij_status st = ij_want(op, "tensor", t, IJ_F32); /* gradients through views of contiguous f32 tensors only */
  if (st == IJ_OK) st = ij_record(*out, &t, 1, view_backward, NULL, NULL, NULL);
  if (st != IJ_OK) ij_drop(out);
  return st;
}

ij_status ij_tensor_narrow(ij_tensor *t, int dim, int64_t start, int64_t len, ij_tensor **out) {
  *out = NULL;
  if (dim < 0 || dim >= t->ndim) return ij_fail(IJ_ESHAPE, "narrow: no dimension %d of %d", dim + 1, t->ndim);
  if (start < 0 || len < 0 || start > t->shape[dim] || len > t->shape[dim] - start)
    return ij_fail(IJ_ESHAPE, "narrow: %lld from %lld is outside dimension %d of size %lld", (long long)len,
                   (long long)start + 1, dim + 1, (long long)t->shape[dim]);
  IJ_TRY(view_of("narrow", t, out));
  (*out)->offset += start * t->stride[dim];
  (*out)->shape[dim] = len;
  return view_record("narrow", t, out);
}

ij_status ij_tensor_select(ij_tensor *t, int dim, int64_t index, ij_tensor **out) {
  *out = NULL;
  if (dim < 0 || dim >= t->ndim) return ij_fail(IJ_ESHAPE, "select: no dimension %d of %d", dim + 1, t->ndim);
  if (index < 0 || index >= t->shape[dim])
    return ij_fail(IJ_ESHAPE, "select: index %lld is outside dimension %d of size %lld", (long long)index + 1, dim + 1,
                   (long long)t->shape[dim]);
  IJ_TRY(view_of("select", t, out));
  ij_tensor *v = *out;
  v->offset += index * t->stride[dim];
  v->ndim--;
  for (int i = dim; i < v->ndim; i++) {
    v->shape[i] = t->shape[i + 1];
    v->stride[i] = t->stride[i + 1];
  }
  return view_record("select", t, out);
}

ij_status ij_tensor_reshape(ij_tensor *t, int ndim, const int64_t *shape, ij_tensor **out) {
  *out = NULL;
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
  char a[160], b[160];
  if (!fits || known != n || (open >= 0 && size[open] < 0))
    return ij_fail(IJ_ESHAPE, "reshape: %s does not fit %s", ij_shape_text(t, a), sizes_text(ndim, shape, b));
  IJ_TRY(view_of("reshape", t, out));
  ij_tensor *v = *out;
  v->ndim = ndim;
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    v->shape[i] = size[i];
    v->stride[i] = step;
    step *= size[i];
  }
  return view_record("reshape", t, out);
}

ij_status ij_tensor_transpose(ij_tensor *t, int a, int b, ij_tensor **out) {
  *out = NULL;
  if (a < 0 || b < 0 || a >= t->ndim || b >= t->ndim)
    return ij_fail(IJ_ESHAPE, "transpose: no dimensions %d and %d of %d", a + 1, b + 1, t->ndim);
  IJ_TRY(view_of("transpose", t, out));
  ij_tensor *v = *out;
  v->shape[a] = t->shape[b];
  v->stride[a] = t->stride[b];
  v->shape[b] = t->shape[a];
  v->stride[b] = t->stride[a];
  return view_record("transpose", t, out);
}

/* ---- copies */
ij_status ij_tensor_copy(ij_tensor *dst, const ij_tensor *src) {
  IJ_TRY(want_alive("copy", "dst", dst));
  IJ_TRY(want_alive("copy", "src", src));
  bool same = dst->ndim == src->ndim;
  for (int i = 0; same && i < dst->ndim; i++) same = dst->shape[i] == src->shape[i];
  char a[160], b[160];
  if (!same) return ij_fail(IJ_ESHAPE, "copy: from %s into %s", ij_shape_text(src, a), ij_shape_text(dst, b));
  ij_device *dev = dst->storage->dev;
  if (src->storage->dev != dev)
    return ij_fail(IJ_EUNSUPPORTED, "copy: from device %s to %s: read and write it", src->storage->dev->name,
                   dev->name);
  ij_tensor_touched(dst);
  int64_t n = ij_tensor_count(dst);
  bool flat = ij_tensor_contiguous(dst) && ij_tensor_contiguous(src);
  if (flat) return dev->ops.convert(&dev->queue, n, src->dtype, ij_data_of(src), dst->dtype, ij_data_of(dst));
  if (dst->dtype == src->dtype)
    return dev->ops.copy(&dev->queue, dst->ndim, dst->shape, (ij_dim)ij_dtype_size(dst->dtype), ij_data_of(src),
                         src->stride, ij_data_of(dst), dst->stride);
  /* type and layout differ: one at a time */
  ij_tensor *packed = ij_make(dev, src->dtype, src->ndim, src->shape, true);
  ij_tensor *turned = ij_make(dev, dst->dtype, dst->ndim, dst->shape, true);
  ij_status st = packed && turned ? IJ_OK : IJ_ENOMEM;
  if (st == IJ_OK) st = ij_tensor_copy(packed, src);
  if (st == IJ_OK) st = ij_tensor_copy(turned, packed);
  if (st == IJ_OK) st = ij_tensor_copy(dst, turned);
  ij_tensor_free(packed);
  ij_tensor_free(turned);
  return st;
}

static ij_status clone_backward(ij_node *n) { return ij_grad_add(n->in[0], ij_hold(n->out->grad)); }

ij_status ij_tensor_clone(const ij_tensor *t, ij_dtype as, int kept, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(want_alive("clone", "tensor", t));
  ij_tensor *c = ij_make(t->storage->dev, as, t->ndim, t->shape, kept);
  if (!c) return IJ_ENOMEM;
  ij_status st = ij_tensor_copy(c, t);
  ij_tensor *in[] = {(ij_tensor *)t};
  const ij_tensor *seen[] = {t};
  if (st == IJ_OK && as == IJ_F32 && t->dtype == IJ_F32 && ij_recording(seen, 1))
    st = ij_record(c, in, 1, clone_backward, NULL, NULL, NULL);
  if (st != IJ_OK) ij_drop(&c);
  *out = c;
  return st;
}

/* Tensors: what they are, the checks of arguments, their memory, and bytes in and out. */
#include "tensor.h"
#include <math.h>
#include <stdatomic.h>
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

const char *ij_sizes_text(int ndim, const int64_t *shape, char *buf) {
  int length = sprintf(buf, "(");
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0) length += sprintf(buf + length, "%sany", i ? ", " : "");
    else length += sprintf(buf + length, "%s%lld", i ? ", " : "", (long long)shape[i]);
  }
  sprintf(buf + length, ")");
  return buf;
}
const char *ij_shape_text(const ij_tensor *t, char *buf) { return ij_sizes_text(t->ndim, t->shape, buf); }

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
ij_device *ij_tensor_device(const ij_tensor *t) { return ij_device_of(t); }
void ij_tensor_require_grad(ij_tensor *t, int on) { t->requires_grad = on != 0; }
int ij_tensor_requires_grad(const ij_tensor *t) { return t->requires_grad; }
int ij_tensor_recording(const ij_tensor *t, int made) {
  return t->requires_grad && ij_device_of(t)->grad_on && !(made && t->origin == IJ_LEAF);
}
ij_tensor *ij_tensor_grad(ij_tensor *t) { return t->grad; }
void ij_tensor_touched(ij_tensor *t) { t->storage->version = ij_new_version(); }

void *ij_data_of(const ij_tensor *t) { return (char *)t->storage->ptr + (size_t)t->offset * ij_dtype_size(t->dtype); }

ij_status ij_want_alive(const char *op, const char *arg, const ij_tensor *t) {
  if (t->storage->ptr) return IJ_OK;
  ij_device *dev = ij_device_of(t);
  if (dev->step)
    return ij_fail(IJ_EINVAL, "%s: '%s' is a tensor from step %lld used in step %lld: clone() it to keep it", op, arg,
                   (long long)t->storage->step, (long long)dev->step);
  return ij_fail(IJ_EINVAL, "%s: '%s' is a tensor from step %lld used after its end: clone() it to keep it", op, arg,
                 (long long)t->storage->step);
}

ij_status ij_want(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt) {
  if (!t) return ij_fail(IJ_EINVAL, "%s: '%s' is missing", op, arg);
  IJ_TRY(ij_want_alive(op, arg, t));
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
                   ij_sizes_text(ndim, shape, want));
  return IJ_OK;
}

ij_status ij_want_device(const char *op, const char *arg, const ij_tensor *t, const ij_device *dev, const char *other) {
  const ij_device *is = ij_device_of(t);
  if (is == dev) return IJ_OK;
  if (!strcmp(is->name, dev->name))
    return ij_fail(IJ_EINVAL,
                   "%s: '%s' and '%s' are on two devices that were each opened as '%s': use tensors of one "
                   "device",
                   op, arg, other, dev->name);
  return ij_fail(IJ_EINVAL, "%s: '%s' is on device '%s', but '%s' is on '%s': use tensors of one device", op, arg,
                 is->name, other, dev->name);
}

/* ---- storage */
/* One count for the process, not one per device: a backend's cache knows a tensor's content by address and version, and
 * the memory of one device's tensor may become that of another device's. */
static atomic_uint_least64_t newest_version;
uint64_t ij_new_version(void) { return atomic_fetch_add(&newest_version, 1) + 1; }

static ij_status storage_new(ij_device *dev, size_t bytes, bool kept, ij_storage **out) {
  ij_storage *s = ij_calloc(1, sizeof *s);
  if (!s) return IJ_ENOMEM;
  ij_status st = IJ_OK;
  s->bytes = bytes ? bytes : 1;
  s->in_arena = !kept && dev->step && dev->arena;
  if (!s->in_arena) st = dev->backend.alloc(&dev->queue, s->bytes, &s->ptr);
  else if (!(s->ptr = ij_arena_take(dev->arena, s->bytes))) st = IJ_ENOMEM;
  if (st != IJ_OK) {
    ij_free(s);
    return st;
  }
  s->refs = 1;
  s->dev = dev;
  s->step = kept ? 0 : dev->step;
  s->version = ij_new_version();
  s->next = dev->all;
  if (dev->all) dev->all->prev = s;
  dev->all = s;
  dev->refs++;
  *out = s;
  return IJ_OK;
}

void ij_storage_empty(ij_storage *s) {
  if (!s->ptr) return;
  if (s->in_arena) ij_arena_give(s->dev->arena, s->ptr);
  else s->dev->backend.free(&s->dev->queue, s->ptr);
  s->ptr = NULL;
}

void ij_device_drop(ij_device *dev) {
  if (--dev->refs) return;
  ij_free(dev->tape); /* it is empty: what is on it holds storage, which holds the device */
  ij_arena_free(dev->arena);
  dev->backend.close(&dev->queue);
  ij_free(dev);
}

static void storage_drop(ij_storage *s) {
  if (--s->refs) return;
  ij_storage_empty(s);
  if (s->prev) s->prev->next = s->next;
  else s->dev->all = s->next;
  if (s->next) s->next->prev = s->prev;
  ij_device_drop(s->dev);
  ij_free(s);
}

/* ---- making and freeing */
ij_status ij_tensor_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept, ij_tensor **out) {
  *out = NULL;
  size_t bytes = ij_dtype_size(t);
  for (int i = 0; i < ndim; i++)
    if (__builtin_mul_overflow(bytes, (size_t)shape[i], &bytes))
      return ij_fail(IJ_ENOMEM, "out of memory: the size of a tensor of shape %s does not fit",
                     ij_sizes_text(ndim, shape, (char[160]){0}));
  ij_tensor *x = ij_calloc(1, sizeof *x);
  if (!x) return IJ_ENOMEM;
  ij_status st = storage_new(dev, bytes, kept, &x->storage);
  if (st != IJ_OK) {
    ij_free(x);
    return st;
  }
  x->refs = 1;
  x->dtype = t;
  x->ndim = ndim;
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    x->shape[i] = shape[i];
    x->stride[i] = step;
    step *= shape[i];
  }
  *out = x;
  return IJ_OK;
}
ij_tensor *ij_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept) {
  ij_tensor *x;
  ij_tensor_make(dev, t, ndim, shape, kept, &x);
  return x;
}
ij_tensor *ij_make1(ij_device *dev, ij_dtype t, int64_t a) { return ij_make(dev, t, 1, (int64_t[]){a}, false); }
ij_tensor *ij_make2(ij_device *dev, ij_dtype t, int64_t a, int64_t b) {
  return ij_make(dev, t, 2, (int64_t[]){a, b}, false);
}
ij_tensor *ij_make3(ij_device *dev, ij_dtype t, int64_t a, int64_t b, int64_t c) {
  return ij_make(dev, t, 3, (int64_t[]){a, b, c}, false);
}

static ij_status new_checked(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept, ij_tensor **out) {
  *out = NULL;
  if (ndim < 0 || ndim > IJ_MAX_DIMS)
    return ij_fail(IJ_ESHAPE, "a tensor has 0 to %d dimensions, not %d", IJ_MAX_DIMS, ndim);
  if ((int)t < IJ_F32 || t > IJ_U8) return ij_fail(IJ_EINVAL, "unknown type %d", (int)t);
  for (int i = 0; i < ndim; i++)
    if (shape[i] < 0) return ij_fail(IJ_ESHAPE, "dimension %d has size %lld", i + 1, (long long)shape[i]);
  return ij_tensor_make(dev, t, ndim, shape, kept, out);
}
ij_status ij_tensor_new(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, ij_tensor **out) {
  return new_checked(dev, t, ndim, shape, false, out);
}
ij_status ij_tensor_new_kept(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, ij_tensor **out) {
  return new_checked(dev, t, ndim, shape, true, out);
}

void ij_tensor_ref(ij_tensor *t) { t->refs++; }
void ij_tensor_free(ij_tensor *t) {
  if (!t || --t->refs) return;
  ij_tensor_free(t->grad);
  storage_drop(t->storage);
  ij_free(t);
}

/* ---- bytes in and out */
static ij_status want_bytes(const char *op, const ij_tensor *t, size_t n) {
  IJ_TRY(ij_want(op, "tensor", t, t->dtype));
  size_t have = (size_t)ij_tensor_count(t) * ij_dtype_size(t->dtype);
  if (n != have) return ij_fail(IJ_ESHAPE, "%s: %zu bytes for a tensor of %zu", op, n, have);
  return IJ_OK;
}
/* The range of values from outside is found while the host has them, so that a later check need not wait for the
 * device. */
static void note_range(ij_tensor *t, const int32_t *v) {
  ij_storage *s = t->storage;
  int64_t n = ij_tensor_count(t);
  if (t->dtype != IJ_I32 || t->offset || (size_t)n * sizeof *v != s->bytes) return;
  s->lo = INT32_MAX;
  s->hi = INT32_MIN;
  for (int64_t i = 0; i < n; i++) {
    if (v[i] < s->lo) s->lo = v[i];
    if (v[i] > s->hi) s->hi = v[i];
  }
  s->ranged = s->version;
}
ij_status ij_tensor_write(ij_tensor *t, const void *host, size_t n) {
  IJ_TRY(want_bytes("write", t, n));
  ij_device *dev = ij_device_of(t);
  ij_tensor_touched(t);
  note_range(t, host);
  return n ? dev->backend.write(&dev->queue, ij_data_of(t), host, n) : IJ_OK;
}
ij_status ij_tensor_read(const ij_tensor *t, void *host, size_t n) {
  IJ_TRY(want_bytes("read", t, n));
  ij_device *dev = ij_device_of(t);
  return n ? dev->backend.read(&dev->queue, ij_data_of(t), host, n) : IJ_OK;
}

void ij_plain_nans(float *v, size_t n) {
  for (size_t i = 0; i < n; i++) v[i] = v[i] == v[i] ? v[i] : NAN;
}

struct ij_reading {
  ij_device *dev; /* held */
  void *ticket;
  size_t bytes;
};
ij_status ij_reading_begin(const ij_tensor *t, ij_reading **out) {
  *out = NULL;
  IJ_TRY(ij_want("read", "tensor", t, t->dtype));
  size_t n = (size_t)ij_tensor_count(t) * ij_dtype_size(t->dtype);
  if (!n || n > IJ_LATE_BYTES)
    return ij_fail(IJ_ESHAPE, "read: %zu bytes, expected 1 to %d: a late read is for a few values", n, IJ_LATE_BYTES);
  ij_reading *r = ij_calloc(1, sizeof *r);
  if (!r) return IJ_ENOMEM;
  *r = (ij_reading){.dev = ij_device_of(t), .bytes = n};
  ij_status st = r->dev->backend.read_begin(&r->dev->queue, ij_data_of(t), n, &r->ticket);
  if (st != IJ_OK) {
    ij_free(r);
    return st;
  }
  r->dev->refs++;
  *out = r;
  return IJ_OK;
}
ij_status ij_reading_end(ij_reading *r, void *host, size_t n) {
  if (!r) return IJ_OK;
  ij_status st = IJ_OK, read;
  if (host && n != r->bytes) st = ij_fail(IJ_ESHAPE, "read: %zu bytes of a reading of %zu", n, r->bytes);
  read = r->dev->backend.read_end(&r->dev->queue, r->ticket, st == IJ_OK ? host : NULL, r->bytes);
  ij_device_drop(r->dev);
  ij_free(r);
  return st == IJ_OK ? read : st;
}

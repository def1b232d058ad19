#include "tensor.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "cuda", "cuda:N": index N or -1. False for another name. */
static bool cuda_index(const char *name, int *index) {
  if (strncmp(name, "cuda", 4) != 0) return false;
  *index = -1;
  if (!name[4]) return true;
  char *end;
  long n = strtol(name + 5, &end, 10);
  if (name[4] != ':' || end == name + 5 || *end || n < 0 || n > 1023) return false;
  *index = (int)n;
  return true;
}

ij_status ij_device_open(const char *name, ij_device **out) {
  *out = NULL;
  int index = -1;
  ij_device *dev = ij_calloc(1, sizeof *dev);
  if (!dev) return IJ_ENOMEM;
  ij_status st = IJ_OK;
  if (cuda_index(name, &index)) st = ij_backend_plugin(&dev->backend);
  else if (!ij_backend_host(name, &dev->backend))
    st = ij_fail(IJ_EINVAL, "unknown device '%s': cpu, cuda, cuda:N or, for tests, ref, guard, dry", name);
  if (st == IJ_OK && dev->backend.addressable && !(dev->arena = ij_arena_new())) st = IJ_ENOMEM;
  if (st == IJ_OK) st = dev->backend.open(index, &dev->queue);
  if (st != IJ_OK) {
    ij_arena_free(dev->arena);
    ij_free(dev);
    return st;
  }
  snprintf(dev->name, sizeof dev->name, "%s", name);
  dev->refs = 1;
  dev->grad_on = true;
  dev->ops = dev->backend.ops;
  *out = dev;
  return IJ_OK;
}

static void device_drop(ij_device *dev) {
  if (--dev->refs) return;
  ij_tape_clear(dev);
  ij_free(dev->tape);
  ij_arena_free(dev->arena);
  dev->backend.close(&dev->queue);
  ij_free(dev);
}

void ij_device_close(ij_device *dev) {
  if (!dev) return;
  ij_tape_clear(dev);
  device_drop(dev);
}

const char *ij_device_name(const ij_device *dev) { return dev->name; }
void ij_device_look(ij_device *dev, ij_device_info *out) {
  *out = (ij_device_info){0};
  dev->backend.info(&dev->queue, out);
}
int ij_device_bf16(const ij_device *dev) {
  ij_device_info info = {0};
  ij_queue q = dev->queue;
  dev->backend.info(&q, &info);
  return info.bf16;
}
ij_status ij_device_wait(ij_device *dev) { return dev->backend.wait(&dev->queue); }

int ij_grad_enable(ij_device *dev, int on) {
  int was = dev->grad_on;
  dev->grad_on = on != 0;
  return was;
}

/* ---- storage */
/* Versions are the process's, not a device's: a backend's cache knows a tensor's content by address and version, and
 * the memory of one device's tensor may become another's. */
static atomic_uint_least64_t newest_version;
uint64_t ij_new_version(void) { return atomic_fetch_add(&newest_version, 1) + 1; }

static ij_storage *storage_new(ij_device *dev, size_t bytes, bool kept) {
  ij_storage *s = ij_calloc(1, sizeof *s);
  if (!s) return NULL;
  s->bytes = bytes ? bytes : 1;
  s->in_arena = !kept && dev->step && dev->arena;
  if (s->in_arena) s->ptr = ij_arena_take(dev->arena, s->bytes);
  else if (dev->backend.alloc(&dev->queue, s->bytes, &s->ptr) != IJ_OK) s->ptr = NULL;
  if (!s->ptr) {
    ij_free(s);
    return NULL;
  }
  s->refs = 1;
  s->dev = dev;
  s->step = kept ? 0 : dev->step;
  s->version = ij_new_version();
  s->next = dev->all;
  if (dev->all) dev->all->prev = s;
  dev->all = s;
  dev->refs++;
  return s;
}

static void storage_empty(ij_storage *s) {
  if (!s->ptr) return;
  if (s->in_arena) ij_arena_give(s->dev->arena, s->ptr);
  else s->dev->backend.free(&s->dev->queue, s->ptr);
  s->ptr = NULL;
}

static void storage_drop(ij_storage *s) {
  if (--s->refs) return;
  storage_empty(s);
  if (s->prev) s->prev->next = s->next;
  else s->dev->all = s->next;
  if (s->next) s->next->prev = s->prev;
  device_drop(s->dev);
  ij_free(s);
}

void ij_step_begin(ij_device *dev) {
  if (dev->step) ij_step_end(dev);
  dev->step = ++dev->steps;
}

void ij_step_end(ij_device *dev) {
  if (!dev->step) return;
  ij_tape_clear(dev);
  for (ij_storage *s = dev->all; s; s = s->next)
    if (s->step) storage_empty(s);
  dev->step = 0;
  if (dev->arena) ij_arena_settle(dev->arena);
}

/* ---- making tensors and moving bytes */
ij_tensor *ij_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept) {
  size_t n = ij_dtype_size(t);
  for (int i = 0; i < ndim; i++)
    if (__builtin_mul_overflow(n, (size_t)shape[i], &n)) {
      ij_fail(IJ_ENOMEM, "out of memory: a tensor's size does not fit");
      return NULL;
    }
  ij_tensor *x = ij_calloc(1, sizeof *x);
  if (!x) return NULL;
  if (!(x->storage = storage_new(dev, n, kept))) {
    ij_free(x);
    return NULL;
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
  return x;
}
ij_tensor *ij_make1(ij_device *dev, ij_dtype t, int64_t a) { return ij_make(dev, t, 1, (int64_t[]){a}, false); }
ij_tensor *ij_make2(ij_device *dev, ij_dtype t, int64_t a, int64_t b) {
  return ij_make(dev, t, 2, (int64_t[]){a, b}, false);
}
ij_tensor *ij_make3(ij_device *dev, ij_dtype t, int64_t a, int64_t b, int64_t c) {
  return ij_make(dev, t, 3, (int64_t[]){a, b, c}, false);
}
ij_tensor *ij_make_like(const ij_tensor *t) { return ij_make(t->storage->dev, t->dtype, t->ndim, t->shape, false); }

static ij_status new_checked(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept, ij_tensor **out) {
  *out = NULL;
  if (ndim < 0 || ndim > IJ_MAX_DIMS)
    return ij_fail(IJ_ESHAPE, "a tensor has 0 to %d dimensions, not %d", IJ_MAX_DIMS, ndim);
  if ((int)t < IJ_F32 || t > IJ_U8) return ij_fail(IJ_EINVAL, "unknown type %d", (int)t);
  for (int i = 0; i < ndim; i++)
    if (shape[i] < 0) return ij_fail(IJ_ESHAPE, "dimension %d has size %lld", i + 1, (long long)shape[i]);
  *out = ij_make(dev, t, ndim, shape, kept);
  return *out ? IJ_OK : IJ_ENOMEM;
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

static ij_status want_bytes(const char *op, const ij_tensor *t, size_t n) {
  IJ_TRY(ij_want(op, "tensor", t, t->dtype));
  size_t have = (size_t)ij_tensor_count(t) * ij_dtype_size(t->dtype);
  if (n != have) return ij_fail(IJ_ESHAPE, "%s: %zu bytes for a tensor of %zu", op, n, have);
  return IJ_OK;
}
/* Numbers that come from outside are looked at while the host has them: a check later need not wait for the device. */
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
  ij_device *dev = t->storage->dev;
  ij_tensor_touched(t);
  note_range(t, host);
  return n ? dev->backend.write(&dev->queue, ij_data_of(t), host, n) : IJ_OK;
}
ij_status ij_tensor_read(const ij_tensor *t, void *host, size_t n) {
  IJ_TRY(want_bytes("read", t, n));
  ij_device *dev = t->storage->dev;
  return n ? dev->backend.read(&dev->queue, ij_data_of(t), host, n) : IJ_OK;
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
    return ij_fail(IJ_ESHAPE, "read: %zu bytes, expected 1 to %d: a late read is for single numbers", n, IJ_LATE_BYTES);
  ij_reading *r = ij_calloc(1, sizeof *r);
  if (!r) return IJ_ENOMEM;
  *r = (ij_reading){.dev = t->storage->dev, .bytes = n};
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
  device_drop(r->dev);
  ij_free(r);
  return st == IJ_OK ? read : st;
}

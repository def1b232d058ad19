#include "tensor.h"
#include "../../kernels/linear/onednn.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* The guard device: cpu ops on memory that is unreadable except while an op or a copy runs, which proves that nothing
 * else touches a tensor's memory. Its queue's stream is the device. */
static void guard_set(ij_device *dev, int access) {
  for (ij_storage *s = dev->all; s; s = s->next)
    if (s->ptr) mprotect(s->ptr, s->bytes, access);
}
static void guard_open(ij_device *dev) {
  if (dev->guard) guard_set(dev, PROT_READ | PROT_WRITE);
}
static void guard_shut(ij_device *dev) {
  if (dev->guard) guard_set(dev, PROT_NONE);
}
static ij_op_table guarded_table(void); /* the cpu table */
#define IJ_OP(name, params, args)                                                                                      \
  static ij_status guard_##name params {                                                                               \
    ij_device *dev = q->stream;                                                                                        \
    ij_op_table cpu_ops = guarded_table();                                                                             \
    guard_open(dev);                                                                                                   \
    ij_status st = cpu_ops.name args;                                                                                  \
    guard_shut(dev);                                                                                                   \
    return st;                                                                                                         \
  }
IJ_OPS(IJ_OP)
#undef IJ_OP
static ij_op_table guarded_table(void) {
  ij_op_table t;
  ij_cpu_fill(&t);
  return t;
}
static const ij_op_table guard_table = {
#define IJ_OP(name, params, args) .name = guard_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

ij_status ij_device_open(const char *name, ij_device **out) {
  *out = NULL;
  bool guard = !strcmp(name, "guard"), ref = !strcmp(name, "ref");
  if (!guard && !ref && strcmp(name, "cpu") != 0)
    return ij_fail(IJ_EINVAL, "unknown device '%s': this build has cpu, ref, guard", name);
  ij_device *dev = ij_calloc(1, sizeof *dev);
  if (!dev) return IJ_ENOMEM;
  strcpy(dev->name, guard ? "guard" : ref ? "ref" : "cpu");
  dev->refs = 1;
  dev->guard = guard;
  dev->grad_on = true;
  if (guard) {
    dev->ops = guard_table;
    dev->queue.stream = dev;
  } else if (ref) {
    dev->ops = ij_ref_table;
  } else {
    ij_cpu_fill(&dev->ops);
  }
  if (!(dev->arena = ij_arena_new())) {
    ij_free(dev);
    return IJ_ENOMEM;
  }
  *out = dev;
  return IJ_OK;
}

static void device_drop(ij_device *dev) {
  if (--dev->refs) return;
  ij_tape_clear(dev);
  ij_free(dev->tape);
  ij_queue_release(&dev->queue);
  ij_onednn_release();
  ij_arena_free(dev->arena);
  ij_free(dev);
}

void ij_device_close(ij_device *dev) {
  if (!dev) return;
  ij_tape_clear(dev);
  device_drop(dev);
}

const char *ij_device_name(const ij_device *dev) { return dev->name; }
int ij_device_bf16(const ij_device *dev) {
  return strcmp(dev->name, "cpu") == 0 && strcmp(ij_cpu_matmul(), "f32") != 0;
}

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

static size_t page_round(size_t n) { return (n + 4095) / 4096 * 4096; }

static ij_storage *storage_new(ij_device *dev, size_t bytes, bool kept) {
  ij_storage *s = ij_calloc(1, sizeof *s);
  if (!s) return NULL;
  s->bytes = bytes ? bytes : 1;
  s->in_arena = !kept && dev->step && !dev->guard;
  if (dev->guard) {
    s->bytes = page_round(s->bytes);
    s->ptr = mmap(NULL, s->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->ptr == MAP_FAILED) {
      ij_fail(IJ_ENOMEM, "out of memory: %zu bytes on the guard device", s->bytes);
      s->ptr = NULL;
    }
  } else {
    s->ptr = s->in_arena ? ij_arena_take(dev->arena, s->bytes) : ij_alloc(s->bytes);
  }
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
  if (s->dev->guard) munmap(s->ptr, s->bytes);
  else if (s->in_arena) ij_arena_give(s->dev->arena, s->ptr);
  else ij_free(s->ptr);
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
  ij_arena_settle(dev->arena);
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
ij_status ij_tensor_write(ij_tensor *t, const void *host, size_t n) {
  IJ_TRY(want_bytes("write", t, n));
  guard_open(t->storage->dev);
  memcpy(ij_data_of(t), host, n);
  guard_shut(t->storage->dev);
  ij_tensor_touched(t);
  return IJ_OK;
}
ij_status ij_tensor_read(const ij_tensor *t, void *host, size_t n) {
  IJ_TRY(want_bytes("read", t, n));
  guard_open(t->storage->dev);
  memcpy(host, ij_data_of(t), n);
  guard_shut(t->storage->dev);
  return IJ_OK;
}

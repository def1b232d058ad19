/* Inside of tensors, devices and the tape; for core/tensor, core/model and core/optim. One thread uses a device. */
#ifndef IJ_TENSOR_H
#define IJ_TENSOR_H
#include "../base/base.h"
#include "../../kernels/backend.h"

enum { IJ_MAX_DIMS = 6 };

typedef struct ij_storage ij_storage;
typedef struct ij_arena ij_arena;
typedef struct ij_node ij_node;

/* A run of bytes on a device. Its memory ends with the last reference, or, if it was made inside a step, with the step.
 */
struct ij_storage {
  ij_device *dev;
  ij_storage *prev, *next; /* the device's list */
  void *ptr;               /* NULL once the step is over */
  size_t bytes;
  int refs;
  bool in_arena;
  int64_t step;     /* 0: kept */
  uint64_t version; /* differs whenever the content does */
  uint64_t ranged;  /* the version whose numbers (i32) are known to be lo..hi; 0: none */
  int32_t lo, hi;
};

/* Takes a leaf's gradient as soon as it is whole; its memory is given back after that. */
typedef struct ij_sink {
  ij_status (*take)(struct ij_sink *s, ij_tensor *t);
} ij_sink;

struct ij_tensor {
  ij_storage *storage;
  int64_t offset; /* in elements */
  int64_t shape[IJ_MAX_DIMS], stride[IJ_MAX_DIMS];
  int ndim, refs;
  ij_dtype dtype;
  bool requires_grad;
  ij_tensor *grad; /* f32, contiguous, same shape; owned */
  ij_sink *sink;   /* borrowed; NULL: the gradient stays until someone uses it */
};

/* One recorded op: backward() turns output->grad into gradients of the inputs. Owns references to all it names. */
struct ij_node {
  ij_status (*backward)(ij_node *n);
  void (*drop)(void *ctx); /* frees ctx; NULL: ij_free */
  void *ctx;               /* what the op saved beyond tensors */
  ij_tensor *in[8], *out;
  int64_t i[6];
  double f[2];
};

struct ij_device {
  char name[16];
  ij_backend backend;
  ij_op_table ops; /* the backend's */
  ij_queue queue;
  int refs; /* one for its opener and one a storage */
  ij_storage *all;
  ij_arena *arena;     /* NULL where the backend has memory of its own */
  int64_t step, steps; /* number of the open step, 0 outside; steps begun so far */
  bool grad_on;
  ij_node *tape;
  int tape_len, tape_cap;
};

/* arena.c: memory of steps: first fit, neighbours merge, kept from step to step. */
ij_arena *ij_arena_new(void);
void ij_arena_free(ij_arena *a);
void *ij_arena_take(ij_arena *a, size_t bytes);
void ij_arena_give(ij_arena *a, void *p);
void ij_arena_settle(ij_arena *a); /* when nothing is out: chunks become one */

size_t ij_dtype_size(ij_dtype t);
const char *ij_dtype_name(ij_dtype t);
/* "(2, 3)" of up to IJ_MAX_DIMS sizes in buf of at least 128 bytes; returns buf */
const char *ij_shape_text(const ij_tensor *t, char *buf);

/* The device address of a live, contiguous tensor's first element. Only kernels may look behind it. */
void *ij_data_of(const ij_tensor *t);
static inline float *ij_f32_of(const ij_tensor *t) { return ij_data_of(t); }
uint64_t ij_new_version(void);        /* never 0, never the same twice */
void ij_tensor_touched(ij_tensor *t); /* its content changed: new version */

/* Checks that t is alive, contiguous, of type dt; op and arg name it in the message. */
ij_status ij_want(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt);
/* As ij_want, and of that shape; -1 fits any size */
ij_status ij_want_shape(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt, int ndim,
                        const int64_t *shape);

/* host.c: the backends "cpu", "ref", "guard" and "dry"; false for another name. plugin.c: libijepa_cuda.so's. */
bool ij_backend_host(const char *name, ij_backend *out);
ij_status ij_backend_plugin(ij_backend *out);

/* Smallest and largest number of an i32 tensor: known for what was written from outside, else read back. Of nothing:
 * INT32_MAX, INT32_MIN. */
ij_status ij_index_range(const ij_tensor *index, int32_t *lo, int32_t *hi);
/* Every number of index (i32) is in 0..n-1. */
ij_status ij_check_index(const char *op, const ij_tensor *index, int64_t n);

/* New tensors. The short forms for one to four sizes keep shapes readable at the call. */
ij_tensor *ij_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept); /* NULL: out of memory */
ij_tensor *ij_make1(ij_device *dev, ij_dtype t, int64_t a);
ij_tensor *ij_make2(ij_device *dev, ij_dtype t, int64_t a, int64_t b);
ij_tensor *ij_make3(ij_device *dev, ij_dtype t, int64_t a, int64_t b, int64_t c);
ij_tensor *ij_make_like(const ij_tensor *t);
static inline void ij_drop(ij_tensor **t) { /* free and forget */
  ij_tensor_free(*t);
  *t = NULL;
}
static inline ij_tensor *ij_hold(ij_tensor *t) { /* one more reference */
  if (t) ij_tensor_ref(t);
  return t;
}

/* tape.c */
bool ij_recording(const ij_tensor *const *in, int n); /* gradients are on and one of them requires one */
/* Appends a node for out; in: up to 8, may hold NULLs. Takes over ctx, also on failure. */
ij_status ij_record(ij_tensor *out, ij_tensor *const *in, int n, ij_status (*backward)(ij_node *), void *ctx,
                    void (*drop)(void *), ij_node **node);
/* t's gradient grows by g (f32, t's size); takes over g. */
ij_status ij_grad_add(ij_tensor *t, ij_tensor *g);
/* t's gradient to add to: made as zeros at first. For parameters that kernels accumulate into; NULL: out of memory. */
float *ij_grad_of(ij_tensor *t);
/* This backward adds nothing more to t's gradient: t's sink, if it has one, takes it. */
ij_status ij_grad_whole(ij_tensor *t);
void ij_tape_clear(ij_device *dev);
#endif

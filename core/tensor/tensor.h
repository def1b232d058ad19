/* Inside of tensors, devices and the tape; for core/tensor, core/model and core/optim. One thread uses a device.
 * The files, each uses those before it: arena.c; tensor.c (storage, tensors, checks); tape.c (recorded ops, gradients);
 * op.c (an op from its checks to its record); views.c; shapes.c (broadcasting); ops.c, math.c, reduce.c, pick.c,
 * product.c, inplace.c; host.c and plugin.c (backends); profile.c; device.c. */
#ifndef IJ_TENSOR_H
#define IJ_TENSOR_H
#include "../base/base.h"
#include "../../kernels/backend.h"

enum { IJ_MAX_DIMS = 6, IJ_MAX_INPUTS = 8 };
enum { IJ_READS_INPUTS = (1 << IJ_MAX_INPUTS) - 1, IJ_READS_OUT = 1 << IJ_MAX_INPUTS }; /* see ij_node.reads */

typedef struct ij_storage ij_storage;
typedef struct ij_arena ij_arena;
typedef struct ij_profile ij_profile;
typedef struct ij_node ij_node;

/* A run of bytes on a device. Its memory is freed with the last reference, or, if it was made inside a step, at the
 * end of the step. */
struct ij_storage {
  ij_device *dev;
  ij_storage *prev, *next; /* the device's list */
  void *ptr;               /* NULL after the step */
  size_t bytes;
  int refs;
  bool in_arena;
  int64_t step;     /* 0: kept */
  uint64_t version; /* changes whenever the content does */
  uint64_t ranged;  /* the version whose values (i32) are known to be in lo..hi; 0: none */
  int32_t lo, hi;
};

/* Takes a leaf's gradient as soon as it is complete; the gradient's memory is freed after that. */
typedef struct ij_sink {
  ij_status (*take)(struct ij_sink *s, ij_tensor *t);
} ij_sink;

/* Of a tensor: made by no recorded op; by one that is on the tape; by one whose backward has run. */
typedef enum ij_origin { IJ_LEAF, IJ_RECORDED, IJ_RELEASED } ij_origin;

struct ij_tensor {
  ij_storage *storage;
  int64_t offset; /* in elements */
  int64_t shape[IJ_MAX_DIMS], stride[IJ_MAX_DIMS];
  int ndim, refs;
  int uses; /* how often recorded ops have it as an input: each may still add to its gradient */
  ij_dtype dtype;
  bool requires_grad;
  ij_origin origin;
  ij_tensor *grad; /* f32, contiguous, same shape; owned */
  ij_sink *sink;   /* borrowed; NULL: the gradient stays until it is used */
};

/* One recorded op. On the tape it owns a reference to each tensor that it names. backward turns out->grad into
 * gradients of the inputs: it fills each dx that is not NULL, and adds by itself to the gradients of weights
 * (ij_grad_into). */
struct ij_node {
  const char *name; /* of the op, for messages; static */
  ij_status (*backward)(ij_node *n);
  ij_tensor *in[IJ_MAX_INPUTS], *out;
  ij_tensor *saved[2]; /* made by the op for its backward */
  unsigned reads;      /* whose values backward reads: bit i is input i's, IJ_READS_OUT the output's */
  uint64_t in_version[IJ_MAX_INPUTS], out_version, saved_version[2]; /* when it was recorded */
  bool makes_dx[IJ_MAX_INPUTS];    /* the tape makes dx of this input where it requires a gradient, */
  bool always_dx;                  /* of the first one in any case */
  float *dx[IJ_MAX_INPUTS];        /* in backward; like the input, not filled */
  void *ctx;                       /* what a model saved beyond tensors, or NULL */
  void (*drop)(void *ctx);         /* frees ctx */
  _Alignas(int64_t) char attr[64]; /* the op's settings, see ij_attr */
  bool spent;                      /* ctx is used up: it can't run again */
  bool passed;                     /* a backward that does not use it has come past it */
};

struct ij_device {
  char name[16];
  ij_backend backend;
  ij_op_table ops; /* the backend's */
  ij_queue queue;
  int refs; /* one of its opener and one per storage */
  ij_storage *all;
  ij_arena *arena;     /* NULL where the backend has memory of its own */
  int64_t step, steps; /* number of the open step, 0 outside; steps begun so far */
  bool grad_on;
  ij_node *tape;
  int tape_len, tape_cap;
  bool walking, retain; /* a backward has begun; the tape stays after it */
  int walk;             /* nodes still to be run, the last one first */
  ij_node *custom;      /* whose backward the caller does now, or NULL */
  ij_profile *profile;  /* NULL: none runs */
};

/* ---- arena.c: memory of steps: first fit, neighbours merge, kept from step to step */
ij_arena *ij_arena_new(void);
void ij_arena_free(ij_arena *a);
void *ij_arena_take(ij_arena *a, size_t bytes);
void ij_arena_give(ij_arena *a, void *p);
void ij_arena_settle(ij_arena *a); /* when no block is in use: chunks become one */

/* ---- host.c: the backends "cpu", "ref", "guard" and "dry"; false for another name. plugin.c: libijepa_cuda.so's */
bool ij_backend_host(const char *name, ij_backend *out);
ij_status ij_backend_plugin(ij_backend *out);

/* ---- tensor.c */
size_t ij_dtype_size(ij_dtype t);
const char *ij_dtype_name(ij_dtype t);
/* "(2, 3)" of up to IJ_MAX_DIMS sizes, "any" for -1, in buf of at least 160 bytes; returns buf */
const char *ij_sizes_text(int ndim, const int64_t *shape, char *buf);
const char *ij_shape_text(const ij_tensor *t, char *buf);
static inline ij_device *ij_device_of(const ij_tensor *t) { return t->storage->dev; }

/* The device address of a live, contiguous tensor's first element. Only kernels may access what is there. */
void *ij_data_of(const ij_tensor *t);
static inline float *ij_f32_of(const ij_tensor *t) { return ij_data_of(t); }
uint64_t ij_new_version(void);        /* never 0, never the same twice */
void ij_tensor_touched(ij_tensor *t); /* its content changed: new version */

/* Checks of an argument; op and arg name it in the message. alive: its memory still exists. want: alive, contiguous, of
 * type dt. want_shape: as want, and of that shape, where -1 fits any size. */
ij_status ij_want_alive(const char *op, const char *arg, const ij_tensor *t);
ij_status ij_want(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt);
ij_status ij_want_shape(const char *op, const char *arg, const ij_tensor *t, ij_dtype dt, int ndim,
                        const int64_t *shape);
/* Checks that t is on dev, the device of `other` ("x", "the model"). */
ij_status ij_want_device(const char *op, const char *arg, const ij_tensor *t, const ij_device *dev, const char *other);

/* New tensors, not filled. kept: outlives the step. Those that return a tensor give NULL where memory is out; the short
 * forms for one to three sizes keep shapes readable at the call. */
ij_status ij_tensor_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept, ij_tensor **out);
ij_tensor *ij_make(ij_device *dev, ij_dtype t, int ndim, const int64_t *shape, bool kept);
ij_tensor *ij_make1(ij_device *dev, ij_dtype t, int64_t a);
ij_tensor *ij_make2(ij_device *dev, ij_dtype t, int64_t a, int64_t b);
ij_tensor *ij_make3(ij_device *dev, ij_dtype t, int64_t a, int64_t b, int64_t c);
static inline void ij_drop(ij_tensor **t) { /* free and forget */
  ij_tensor_free(*t);
  *t = NULL;
}
static inline ij_tensor *ij_hold(ij_tensor *t) { /* one more reference */
  if (t) ij_tensor_ref(t);
  return t;
}
void ij_storage_empty(ij_storage *s); /* frees the memory; tensors on it are dead */
void ij_device_drop(ij_device *dev);  /* one reference less: the last one closes the backend */

/* ---- tape.c */
ij_status ij_tape_reserve(ij_device *dev); /* memory for one more node */
/* Appends a copy of the node, which then holds its inputs and its output. Takes over saved and ctx, also on failure. */
ij_status ij_record(const ij_node *node);
void ij_tape_clear(ij_device *dev);
/* t's gradient grows by g (f32, t's size); takes over g. No gradient is published before it is complete: where this or
 * ij_grad_into fails to make one, t->grad stays NULL. */
ij_status ij_grad_add(ij_tensor *t, ij_tensor *g);
/* t's gradient for a kernel that adds to it: zeros at first. */
ij_status ij_grad_into(ij_tensor *t, float **grad);
/* The op that runs adds nothing more to t's gradient: t's sink, if it has one, takes it, unless another op that is
 * still recorded has t as an input. */
ij_status ij_grad_whole(ij_tensor *t);

/* ---- op.c: one op, from the checks of its inputs to its record on the tape:
 *   ij_op op = ij_begin("name", backward, out);       sets *out to NULL
 *   IJ_TRY(ij_in(&op, "x", x, IJ_F32));               all inputs, in the order of node.in; nothing is held so far
 *   op.node.reads = 0;                                where backward reads other values than all inputs'
 *   ij_attr(&op, &settings, sizeof settings);         what backward needs beyond tensors
 *   float *y = ij_out(&op, IJ_F32, ndim, shape);      the output; ij_save: a tensor for backward
 *   if (ij_ready(&op)) op.status = kernel(..., y);    false where memory for these, or for the record, is missing
 *   return ij_end(&op);                               publishes and records the output, or frees everything */
typedef struct ij_op {
  const char *name;
  ij_tensor **result;
  ij_device *dev;    /* of the first input */
  const char *first; /* that input's name */
  int inputs, saves;
  ij_status status; /* the first failure since the checks */
  bool record;
  ij_node node; /* inputs are borrowed; out and saved are owned */
} ij_op;
ij_op ij_begin(const char *name, ij_status (*backward)(ij_node *), ij_tensor **out); /* backward NULL: no gradient */
ij_status ij_in(ij_op *op, const char *arg, ij_tensor *t, ij_dtype dt);              /* of any shape */
ij_status ij_in_shape(ij_op *op, const char *arg, ij_tensor *t, ij_dtype dt, int ndim, const int64_t *shape);
/* f32; its backward adds to its gradient by itself, or has none */
ij_status ij_in_weight(ij_op *op, const char *arg, ij_tensor *t, int ndim, const int64_t *shape);
ij_status ij_in_any(ij_op *op, const char *arg, ij_tensor *t); /* of any type, shape and strides */
void ij_attr(ij_op *op, const void *attributes, size_t bytes);
void *ij_out(ij_op *op, ij_dtype dt, int ndim, const int64_t *shape);  /* the address of its data */
void *ij_save(ij_op *op, ij_dtype dt, int ndim, const int64_t *shape); /* likewise */
bool ij_ready(ij_op *op);
ij_status ij_end(ij_op *op);

/* ---- ops.c */
/* Smallest and largest value of an i32 tensor: known for what was written from outside, else read back. Of an empty
 * one: INT32_MAX, INT32_MIN. */
ij_status ij_index_range(const ij_tensor *index, int32_t *lo, int32_t *hi);
/* Every value of index (i32) is in 0..n-1. */
ij_status ij_check_index(const char *op, const ij_tensor *index, int64_t n);
ij_status ij_check_positions(const char *op, const char *word, const ij_tensor *index,
                             int64_t n); /* "patch", "index" */

/* ---- shapes.c */
/* "op: unknown function 'name': expected one of ..." */
ij_status ij_unknown_name(const char *op, const char *name, const char *const *known, int count);
ij_status ij_dense(const char *op, const char *arg, ij_tensor *t,
                   ij_tensor **out);                                           /* t, held, or its contiguous copy */
ij_status ij_want_dim(const char *op, const ij_tensor *x, int dim);            /* 0 <= dim < ndim */
void ij_around(const ij_tensor *x, int dim, int64_t *before, int64_t *behind); /* x as (before, dim, behind) */
/* shape (nd) becomes what it broadcasts to with t's; false: they don't fit. Begin with nd 0. */
bool ij_broadcast(const ij_tensor *t, int *nd, int64_t *shape);
void ij_strides_for(const ij_tensor *t, int nd, int64_t *stride); /* of t in a shape that it broadcasts to */
/* Dimensions of size 1 vanish, neighbours that continue each other in all `count` operands become one. Returns how many
 * are left, at least one. */
int ij_collapse(int nd, int64_t *shape, int64_t (*stride)[IJ_MAX_DIMS], int count);
/* y = sums of x (shape, dense) over the dimensions that are gone */
ij_status ij_sum_dims(ij_device *dev, int nd, const int64_t *shape, const bool *gone, const float *x, float *y);
/* out, of t's shape, = sums of wide (shape, dense), to which t broadcasts */
ij_status ij_sum_to(int nd, const int64_t *shape, const float *wide, const ij_tensor *t, float *out);
#endif

/* The case of an op, kernels/<op>/case.c: its arguments, the shapes on which it is tried and how exact it must be. One
 * description drives the comparison with the reference, the check of gradients (tests/ops) and the timing (bench/ops).
 *
 * A case describes itself: describe() is called once for each shape and type and names the pointer arguments in the
 * order in which call() hands them to the op as c->p[0], c->p[1], ... Names carry meaning: an argument "dq" of a
 * backward op is the gradient of the forward's argument "q", and its inputs that are named like an output of the
 * forward (statistics, say) are computed by the forward. */
#ifndef IJ_CASE_H
#define IJ_CASE_H
#include "ops.h"

enum { IJ_CASE_ARGS = 12, IJ_CASE_DIMS = 8, IJ_CASE_FORMS = 4 };
enum { IJ_CASE_F64 = 64 }; /* a type besides those of ij_dtype: double */

typedef enum ij_case_role {
  IJ_CASE_IN,  /* must stay as it is */
  IJ_CASE_OUT, /* full of NaN before the call: what the op does not write is seen */
  IJ_CASE_ADD  /* read and written */
} ij_case_role;

typedef enum ij_case_fill {
  IJ_CASE_NORMAL,   /* near to normal, mean 0, standard deviation `scale`, within 3.5 of them */
  IJ_CASE_FAR,      /* the same around 30 * scale: what a one-pass variance gets wrong */
  IJ_CASE_APART,    /* scale * (0.1 to 1.1), either sign: not near 0 */
  IJ_CASE_POSITIVE, /* scale * (0.1 to 1.1) */
  IJ_CASE_INDEX,    /* whole numbers 0 <= i < scale */
  IJ_CASE_LABEL,    /* whole numbers -1 <= i < scale */
  IJ_CASE_BITS,     /* any bits: all sizes of numbers, NaN and infinity among them */
  IJ_CASE_HOLES     /* normal with a NaN or an infinity here and there */
} ij_case_fill;

enum { IJ_CASE_GRAD = 1, IJ_CASE_BENCH = 2 };
/* use: check gradients on it too; a real size, for timing, and compared on a GPU alone (tests/ops/production.c) */
typedef struct ij_case_shape {
  const char *name; /* NULL ends a list */
  ij_dim dim[IJ_CASE_DIMS];
  unsigned flags; /* the case's own */
  unsigned use;
} ij_case_shape;

typedef struct ij_case_arg {
  const char *name; /* NULL: a null pointer */
  ij_case_role role;
  int type;    /* an ij_dtype or IJ_CASE_F64 */
  ij_dim n;    /* elements */
  void *first; /* content before the call */
  double tol, unit;
  const char *why;
} ij_case_arg;

typedef struct ij_case_op ij_case_op;
typedef struct ij_case {
  const ij_case_op *op;
  const ij_case_shape *shape;
  const ij_dim *dim;
  unsigned flags;
  ij_dtype dt;
  uint64_t content; /* differs between any two cases: the version of weights */
  int args, forms;
  ij_case_arg arg[IJ_CASE_ARGS];
  void *p[IJ_CASE_ARGS];           /* the memory of this call */
  const char *form[IJ_CASE_FORMS]; /* aliases that the contract allows, "dx=dy y=x" */
  double flops, bytes;             /* bytes: 0 for the sum of all arguments */
  double tol, unit;
  const char *why;
  bool failed; /* out of memory while describing */
} ij_case;

struct ij_case_op {
  const char *name; /* as in ops.h */
  void (*describe)(ij_case *c);
  ij_status (*call)(const ij_op_table *t, ij_queue *q, const ij_case *c);
  const ij_case_shape *shapes;
  bool typed;                /* has an activation type: run with f32 and bf16 */
  const ij_case_op *forward; /* of a backward op: same shapes and flags */
};

/* For describe(), in the order of the arguments. Contents follow from the names of argument and shape:
 * they are the same in each run.
 */
void ij_case_in(ij_case *c, const char *name, int type, ij_dim n, double scale); /* normal */
void ij_case_in_as(ij_case *c, const char *name, int type, ij_dim n, ij_case_fill fill, double scale);
void ij_case_out(ij_case *c, const char *name, int type, ij_dim n);
void ij_case_add(ij_case *c, const char *name, int type, ij_dim n, ij_case_fill fill, double scale);
void ij_case_null(ij_case *c);
/* NaN into elements at..at+n-1 of the last argument: the op must not read them */
void ij_case_unread(ij_case *c, ij_dim at, ij_dim n);
/* Aliases to try, by names: the output left of "=" gets the memory of the input right of it. */
void ij_case_form(ij_case *c, const char *aliases);
/* How far a result may be off: tol * (|expected| + root mean square of all expected), with f32 or bf16 activations; 0:
 * the same bits. Of all outputs that are described later on. */
void ij_case_tol(ij_case *c, double f32, double bf16, const char *why);
/* The root mean square counts as at least this: errors that do not shrink where the result happens to be small */
void ij_case_unit(ij_case *c, double unit);

/* One list for each folder, ended by an op without a name. */
#define IJ_CASES(IJ_CASE_LIST)                                                                                         \
  IJ_CASE_LIST(linear)                                                                                                 \
  IJ_CASE_LIST(norm)                                                                                                   \
  IJ_CASE_LIST(gelu)                                                                                                   \
  IJ_CASE_LIST(attention)                                                                                              \
  IJ_CASE_LIST(heads)                                                                                                  \
  IJ_CASE_LIST(swiglu)                                                                                                 \
  IJ_CASE_LIST(weight_scale)                                                                                           \
  IJ_CASE_LIST(patchify)                                                                                               \
  IJ_CASE_LIST(tokens)                                                                                                 \
  IJ_CASE_LIST(loss)                                                                                                   \
  IJ_CASE_LIST(update)                                                                                                 \
  IJ_CASE_LIST(elementwise)                                                                                            \
  IJ_CASE_LIST(reduce)                                                                                                 \
  IJ_CASE_LIST(batch_norm)                                                                                             \
  IJ_CASE_LIST(softmax)                                                                                                \
  IJ_CASE_LIST(matmul)                                                                                                 \
  IJ_CASE_LIST(unary)                                                                                                  \
  IJ_CASE_LIST(binary)                                                                                                 \
  IJ_CASE_LIST(fold)                                                                                                   \
  IJ_CASE_LIST(sort)                                                                                                   \
  IJ_CASE_LIST(take)                                                                                                   \
  IJ_CASE_LIST(im2col)                                                                                                 \
  IJ_CASE_LIST(random)
#define IJ_CASE_LIST(folder) extern const ij_case_op ij_cases_##folder[];
IJ_CASES(IJ_CASE_LIST)
#undef IJ_CASE_LIST

#endif

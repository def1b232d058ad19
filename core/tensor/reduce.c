/* What goes along dimensions: sums, products, the largest; running sums; order. */
#include "tensor.h"
#include <math.h>
#include <string.h>

static const float *out_grad(const ij_node *n) { return ij_f32_of(n->out->grad); }

/* ---- reductions */
enum { SUM, MEAN, PROD, MAX, MIN, ARGMAX, ARGMIN, REDUCTIONS };
static const char *const names[REDUCTIONS] = {"sum", "mean", "prod", "max", "min", "argmax", "argmin"};
static const int fold_of[REDUCTIONS] = {IJ_FOLD_SUM,   0, IJ_FOLD_PROD, IJ_FOLD_MAX, IJ_FOLD_MIN, IJ_FOLD_ARGMAX,
                                        IJ_FOLD_ARGMIN};

struct reduce {
  int64_t P, n, Q; /* x as (P, n, Q) */
  int f;
  float scale; /* of a sum */
};
static ij_status reduce_backward(ij_node *n) { /* in: x */
  const struct reduce *a = (const void *)n->attr;
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  if (a->f == SUM || a->f == MEAN)
    return dev->ops.sum_bwd(&dev->queue, a->P, a->n, a->Q, a->scale, out_grad(n), n->dx[0]);
  return dev->ops.fold_bwd(&dev->queue, fold_of[a->f], a->P, a->n, a->Q, ij_f32_of(x), ij_f32_of(n->out), out_grad(n),
                           n->dx[0]);
}
static ij_status reduce(const struct reduce *a, ij_tensor *x, int nd, const int64_t *shape, ij_tensor **out) {
  ij_op op = ij_begin(names[a->f], x->dtype == IJ_F32 && a->f < ARGMAX ? reduce_backward : NULL, out);
  op.node.reads = a->f > MEAN ? IJ_READS_INPUTS | IJ_READS_OUT : 0;
  IJ_TRY(ij_in(&op, "x", x, x->dtype));
  ij_attr(&op, a, sizeof *a);
  void *y = ij_out(&op, a->f >= ARGMAX ? IJ_I32 : x->dtype, nd, shape);
  if (!ij_ready(&op)) return ij_end(&op);
  if (x->dtype == IJ_F32 && a->f <= MEAN)
    op.status = op.dev->ops.sum_fwd(&op.dev->queue, a->P, a->n, a->Q, a->scale, ij_data_of(x), y);
  else op.status = op.dev->ops.fold_fwd(&op.dev->queue, fold_of[a->f], x->dtype, a->P, a->n, a->Q, ij_data_of(x), y);
  return ij_end(&op);
}

/* Which dimensions go; the result's shape. */
static ij_status dimensions(int f, const ij_tensor *x, int n, const int *dims, int keepdim, bool *gone, int *nd,
                            int64_t *shape) {
  memset(gone, n == 0, IJ_MAX_DIMS * sizeof *gone);
  if (n < 0 || n > x->ndim) return ij_fail(IJ_ESHAPE, "%s: %d dimensions of %d", names[f], n, x->ndim);
  for (int i = 0; i < n; i++) {
    IJ_TRY(ij_want_dim(names[f], x, dims[i]));
    if (gone[dims[i]]) return ij_fail(IJ_EINVAL, "%s: dimension %d is named twice", names[f], dims[i] + 1);
    gone[dims[i]] = true;
  }
  *nd = 0;
  for (int d = 0; d < x->ndim; d++)
    if (!gone[d] || keepdim) shape[(*nd)++] = gone[d] ? 1 : x->shape[d];
  if (n == 0 && !keepdim) shape[(*nd)++] = 1;
  return IJ_OK;
}

/* (P, n, Q) of what goes; false: it is not in one piece. */
static bool in_one_piece(const ij_tensor *x, const bool *gone, struct reduce *a) {
  a->P = a->n = a->Q = 1;
  bool begun = false, over = false;
  for (int d = 0; d < x->ndim; d++) {
    int64_t size = x->shape[d];
    if (gone[d]) {
      if (over && size != 1) return false;
      begun |= size != 1;
      a->n *= size;
    } else if (begun) {
      over |= size != 1;
      a->Q *= size;
    } else {
      a->P *= size;
    }
  }
  return true;
}

ij_status ij_reduce(const char *name, ij_tensor *x, int n, const int *dims, int keepdim, ij_tensor **out) {
  int f = 0, nd = 0, order[IJ_MAX_DIMS], k = 0;
  bool gone[IJ_MAX_DIMS];
  int64_t shape[IJ_MAX_DIMS + 1];
  struct reduce a = {0};
  *out = NULL;
  while (f < REDUCTIONS && strcmp(names[f], name) != 0) f++;
  if (f == REDUCTIONS) return ij_unknown_name("reduce", name, names, REDUCTIONS);
  IJ_TRY(dimensions(f, x, n, dims, keepdim, gone, &nd, shape));
  if (x->dtype == IJ_BF16 || (f == MEAN && x->dtype != IJ_F32))
    return ij_fail(IJ_ESHAPE, "%s: 'x' is %s, expected f32%s", names[f], ij_dtype_name(x->dtype),
                   f == MEAN ? "" : ", i32, i64 or u8");
  if (f >= ARGMAX && n > 1) return ij_fail(IJ_EINVAL, "%s: %d dimensions, expected one, or none for all", names[f], n);
  bool whole = in_one_piece(x, gone, &a);
  a.f = f;
  if (f == MEAN || f >= MAX) {
    int64_t size = 1, rest = 1;
    for (int d = 0; d < x->ndim; d++) *(gone[d] ? &size : &rest) *= x->shape[d];
    if (size < 1 && rest > 0) return ij_fail(IJ_ESHAPE, "%s: 'x' has no elements there", names[f]);
    if (f >= ARGMAX && size > INT32_MAX)
      return ij_fail(IJ_ESHAPE, "%s: %lld elements, but an index has 31 bits", names[f], (long long)size);
  }
  ij_tensor *dense = NULL, *turned = NULL;
  if (!whole) { /* what goes to the end */
    for (int pass = 0; pass < 2; pass++)
      for (int d = 0; d < x->ndim; d++)
        if (gone[d] == (pass == 1)) order[k++] = d;
    IJ_TRY(ij_permute(x, x->ndim, order, &turned));
    a.P = a.Q = a.n = 1;
    for (int d = 0; d < x->ndim; d++) *(gone[d] ? &a.n : &a.P) *= x->shape[d];
  }
  a.scale = f == MEAN && a.n ? 1.0f / (float)a.n : 1;
  ij_status st = ij_dense(names[f], "x", turned ? turned : x, &dense);
  if (st == IJ_OK) st = reduce(&a, dense, nd, shape, out);
  ij_tensor_free(dense);
  ij_tensor_free(turned);
  return st;
}

ij_status ij_mean(ij_tensor *x, int dim, ij_tensor **out) { return ij_reduce("mean", x, dim != -1, &dim, 0, out); }

/* ---- running sums */
struct scan {
  int64_t P, n, Q;
};
static ij_status cumsum_backward(ij_node *n) { /* in: x */
  const struct scan *a = (const void *)n->attr;
  ij_device *dev = ij_device_of(n->out);
  return dev->ops.scan(&dev->queue, IJ_F32, a->P, a->n, a->Q, 1, out_grad(n), n->dx[0]);
}
static ij_status cumsum(ij_tensor *x, int dim, ij_tensor **out) {
  ij_op op = ij_begin("cumsum", x->dtype == IJ_F32 ? cumsum_backward : NULL, out);
  op.node.reads = 0;
  IJ_TRY(ij_in(&op, "x", x, x->dtype));
  struct scan a = {.n = x->shape[dim]};
  ij_around(x, dim, &a.P, &a.Q);
  ij_attr(&op, &a, sizeof a);
  void *y = ij_out(&op, x->dtype, x->ndim, x->shape);
  if (ij_ready(&op)) op.status = op.dev->ops.scan(&op.dev->queue, x->dtype, a.P, a.n, a.Q, 0, ij_data_of(x), y);
  return ij_end(&op);
}
ij_status ij_cumsum(ij_tensor *x, int dim, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_dim("cumsum", x, dim));
  if (x->dtype == IJ_BF16 || x->dtype == IJ_U8)
    return ij_fail(IJ_ESHAPE, "cumsum: 'x' is %s, expected f32, i32 or i64", ij_dtype_name(x->dtype));
  ij_tensor *dense;
  IJ_TRY(ij_dense("cumsum", "x", x, &dense));
  ij_status st = cumsum(dense, dim, out);
  ij_tensor_free(dense);
  return st;
}

/* ---- order */
static ij_status sort_backward(ij_node *n) { /* in: x (R, n); saved: index (R, n) */
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  int64_t count = ij_tensor_count(x), length = x->shape[x->ndim - 1];
  IJ_TRY(dev->ops.fill(&dev->queue, count, 0, n->dx[0]));
  if (!count) return IJ_OK;
  return dev->ops.scatter_add(&dev->queue, IJ_F32, count / length, length, length, 1, 0, out_grad(n),
                              ij_data_of(n->saved[0]), n->dx[0]);
}
/* Along the last dimension of a dense x */
static ij_status sort_rows(ij_tensor *x, int descending, ij_tensor **values, ij_tensor **index) {
  ij_op op = ij_begin("sort", x->dtype == IJ_F32 ? sort_backward : NULL, values);
  op.node.reads = 0;
  IJ_TRY(ij_in(&op, "x", x, x->dtype));
  int64_t n = x->shape[x->ndim - 1];
  void *v = ij_out(&op, x->dtype, x->ndim, x->shape);
  int32_t *order = ij_save(&op, IJ_I32, x->ndim, x->shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.sort(&op.dev->queue, x->dtype, n ? ij_tensor_count(x) / n : 0, n, descending != 0,
                                 ij_data_of(x), v, order);
  *index = op.status == IJ_OK ? ij_hold(op.node.saved[0]) : NULL;
  ij_status st = ij_end(&op);
  if (st != IJ_OK) ij_drop(index);
  return st;
}
/* The last dimension of t becomes `dim` again, contiguous; takes over t. */
static ij_status turn_back(ij_status st, ij_tensor *t, int dim, ij_tensor **out) {
  ij_tensor *view = NULL;
  *out = NULL;
  if (st == IJ_OK) st = ij_tensor_transpose(t, dim, t->ndim - 1, &view);
  if (st == IJ_OK) st = ij_tensor_clone(view, view->dtype, 0, out);
  ij_tensor_free(view);
  ij_tensor_free(t);
  return st;
}
ij_status ij_sort(ij_tensor *x, int dim, int descending, ij_tensor **values, ij_tensor **index) {
  *values = *index = NULL;
  IJ_TRY(ij_want_dim("sort", x, dim));
  if (x->dtype == IJ_BF16) return ij_fail(IJ_ESHAPE, "sort: 'x' is bf16, expected f32, i32, i64 or u8");
  if (x->shape[dim] > INT32_MAX)
    return ij_fail(IJ_ESHAPE, "sort: %lld elements, but an index has 31 bits", (long long)x->shape[dim]);
  bool last = dim == x->ndim - 1;
  ij_tensor *turned = NULL, *dense = NULL, *v = NULL, *order = NULL;
  ij_status st = IJ_OK;
  if (!last) st = ij_tensor_transpose(x, dim, x->ndim - 1, &turned);
  if (st == IJ_OK) st = ij_dense("sort", "x", turned ? turned : x, &dense);
  if (st == IJ_OK) st = sort_rows(dense, descending, &v, &order);
  ij_tensor_free(turned);
  ij_tensor_free(dense);
  if (last || st != IJ_OK) {
    *values = v;
    *index = order;
    return st;
  }
  st = turn_back(st, v, dim, values);
  st = turn_back(st, order, dim, index);
  if (st != IJ_OK) ij_drop(values);
  return st;
}

/* Shapes of two tensors that broadcast, strides that read them, and what every op of names needs. */
#include "tensor.h"
#include <stdio.h>
#include <string.h>

ij_status ij_unknown_name(const char *op, const char *name, const char *const *known, int count) {
  char list[320];
  int length = 0;
  for (int i = 0; i < count; i++) length += sprintf(list + length, "%s%s", i ? ", " : "", known[i]);
  return ij_fail(IJ_EINVAL, "%s: unknown function '%.40s': expected one of %s", op, name, list);
}

ij_status ij_dense(const char *op, const char *arg, ij_tensor *t, ij_tensor **out) {
  *out = NULL;
  IJ_TRY(ij_want_alive(op, arg, t));
  if (!ij_tensor_contiguous(t)) return ij_tensor_clone(t, t->dtype, 0, out);
  *out = ij_hold(t);
  return IJ_OK;
}

ij_status ij_want_dim(const char *op, const ij_tensor *x, int dim) {
  if (dim >= 0 && dim < x->ndim) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "%s: no dimension %d of %d", op, dim + 1, x->ndim);
}

void ij_around(const ij_tensor *x, int dim, int64_t *before, int64_t *behind) {
  *before = *behind = 1;
  for (int i = 0; i < dim; i++) *before *= x->shape[i];
  for (int i = dim + 1; i < x->ndim; i++) *behind *= x->shape[i];
}

bool ij_broadcast(const ij_tensor *t, int *nd, int64_t *shape) {
  int more = t->ndim - *nd;
  if (more > 0) { /* new dimensions in front */
    memmove(shape + more, shape, (size_t)*nd * sizeof *shape);
    for (int i = 0; i < more; i++) shape[i] = 1;
    *nd = t->ndim;
  }
  for (int i = 0; i < t->ndim; i++) {
    int64_t size = t->shape[i], *known = &shape[*nd - t->ndim + i];
    if (*known == 1) *known = size;
    else if (size != 1 && size != *known) return false;
  }
  return true;
}

void ij_strides_for(const ij_tensor *t, int nd, int64_t *stride) {
  for (int i = 0; i < nd; i++) {
    int d = i - (nd - t->ndim);
    stride[i] = d < 0 || t->shape[d] == 1 ? 0 : t->stride[d];
  }
}

int ij_collapse(int nd, int64_t *shape, int64_t (*stride)[IJ_MAX_DIMS], int count) {
  int kept = 0;
  for (int d = 0; d < nd; d++) {
    if (shape[d] == 1) continue;
    bool joins = kept > 0;
    for (int k = 0; k < count && joins; k++) joins = stride[k][kept - 1] == stride[k][d] * shape[d];
    if (joins) kept--;
    shape[kept] = joins ? shape[kept] * shape[d] : shape[d];
    for (int k = 0; k < count; k++) stride[k][kept] = stride[k][d];
    kept++;
  }
  if (kept) return kept;
  shape[0] = 1; /* one element */
  for (int k = 0; k < count; k++) stride[k][0] = 0;
  return 1;
}

/* ---- sums over the dimensions that a tensor lacks */
/* Sizes between the dimensions: runs of neighbours that all stay, or all go. Returns their number. */
static int runs_of(int nd, const int64_t *shape, const bool *gone, int64_t *size, bool *goes) {
  int runs = 0;
  for (int d = 0; d < nd; d++) {
    if (shape[d] == 1) continue;
    if (runs && goes[runs - 1] == gone[d]) size[runs - 1] *= shape[d];
    else size[runs] = shape[d], goes[runs++] = gone[d];
  }
  return runs;
}
static int last_gone(int runs, const bool *goes) {
  while (runs > 0 && !goes[runs - 1]) runs--;
  return runs - 1;
}

ij_status ij_sum_dims(ij_device *dev, int nd, const int64_t *shape, const bool *gone, const float *x, float *y) {
  int64_t size[IJ_MAX_DIMS];
  bool goes[IJ_MAX_DIMS];
  int runs = runs_of(nd, shape, gone, size, goes), at = last_gone(runs, goes);
  ij_tensor *part = NULL;
  ij_status st = IJ_OK;
  do { /* from the last run that goes to the first; each sum but the last into a part */
    int64_t P = 1, n = at < 0 ? 1 : size[at], Q = 1;
    for (int i = 0; i < at; i++) P *= size[i];
    for (int i = at + 1; i < runs; i++)
      if (at < 0 || !goes[i]) Q *= size[i];
    int next = last_gone(at < 0 ? 0 : at, goes);
    ij_tensor *sum = NULL;
    if (next >= 0) st = ij_tensor_make(dev, IJ_F32, 2, (int64_t[]){P, Q}, false, &sum);
    if (st == IJ_OK)
      st = dev->ops.sum_fwd(&dev->queue, P, n, Q, 1, part ? ij_f32_of(part) : x, sum ? ij_f32_of(sum) : y);
    ij_tensor_free(part);
    part = sum;
    at = next;
  } while (at >= 0 && st == IJ_OK);
  ij_tensor_free(part);
  return st;
}

ij_status ij_sum_to(int nd, const int64_t *shape, const float *wide, const ij_tensor *t, float *out) {
  bool gone[IJ_MAX_DIMS];
  for (int i = 0; i < nd; i++) {
    int d = i - (nd - t->ndim);
    gone[i] = d < 0 || t->shape[d] == 1;
  }
  return ij_sum_dims(ij_device_of(t), nd, shape, gone, wide, out);
}

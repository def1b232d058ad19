/* Matrix products of two tensors, many at a time. */
#include "tensor.h"
#include <string.h>

struct matmul {
  int64_t P, M, N, K;
  bool ta, tb;
};
/* dx = P matrix products of x (M, K) and y (K, N), each perhaps transposed; nothing where dx is NULL. */
static ij_status matmul_grad(float *dx, int64_t P, int64_t M, int64_t N, int64_t K, bool tx, bool ty, ij_tensor *x,
                             ij_tensor *y) {
  ij_device *dev = ij_device_of(x);
  return dx ? dev->ops.matmul(&dev->queue, P, M, N, K, tx, ty, ij_f32_of(x), ij_f32_of(y), dx) : IJ_OK;
}
static ij_status matmul_backward(ij_node *n) { /* in: a, b */
  const struct matmul *s = (const void *)n->attr;
  ij_tensor *a = n->in[0], *b = n->in[1], *dc = n->out->grad;
  int64_t P = s->P, M = s->M, N = s->N, K = s->K;
  bool ta = s->ta, tb = s->tb;
  float *da = n->dx[0], *db = n->dx[1];
  IJ_TRY(ta ? matmul_grad(da, P, K, M, N, tb, true, b, dc) : matmul_grad(da, P, M, K, N, false, !tb, dc, b));
  return tb ? matmul_grad(db, P, N, K, M, true, ta, dc, a) : matmul_grad(db, P, K, N, M, !ta, false, a, dc);
}
/* Of (M, K) and (K, N), or P of each, contiguous */
static ij_status products(ij_tensor *a, ij_tensor *b, bool ta, bool tb, ij_tensor **out) {
  ij_op op = ij_begin("matmul", matmul_backward, out);
  IJ_TRY(ij_in(&op, "a", a, IJ_F32));
  IJ_TRY(ij_in(&op, "b", b, IJ_F32));
  int nd = a->ndim;
  int64_t P = nd == 3 ? a->shape[0] : 1, M = a->shape[nd - (ta ? 1 : 2)], N = b->shape[nd - (tb ? 2 : 1)],
          K = a->shape[nd - (ta ? 2 : 1)], shape[] = {P, M, N};
  ij_attr(&op, &(struct matmul){P, M, N, K, ta != 0, tb != 0}, sizeof(struct matmul));
  float *c = ij_out(&op, IJ_F32, nd, nd == 3 ? shape : shape + 1);
  if (ij_ready(&op))
    op.status = op.dev->ops.matmul(&op.dev->queue, P, M, N, K, ta != 0, tb != 0, ij_f32_of(a), ij_f32_of(b), c);
  return ij_end(&op);
}

/* ---- of any number of dimensions */
/* x, contiguous, or, where a view with its last two dimensions exchanged is that, this view: *t changes. */
static ij_status as_matrix(const char *arg, ij_tensor *x, bool *t, ij_tensor **out) {
  ij_tensor *view;
  *out = NULL;
  IJ_TRY(ij_want_alive("matmul", arg, x));
  if (ij_tensor_contiguous(x)) return ij_dense("matmul", arg, x, out);
  IJ_TRY(ij_tensor_transpose(x, x->ndim - 2, x->ndim - 1, &view));
  if (ij_tensor_contiguous(view)) {
    *t = !*t;
    *out = view;
    return IJ_OK;
  }
  ij_tensor_free(view);
  return ij_dense("matmul", arg, x, out);
}

/* x (..., R, C) repeated to the batch (nd), as (P, R, C) */
static ij_status spread(ij_tensor *x, int nd, const int64_t *batch, int64_t P, ij_tensor **out) {
  int64_t shape[IJ_MAX_DIMS], flat[3] = {P, x->shape[x->ndim - 2], x->shape[x->ndim - 1]};
  ij_tensor *wide = NULL, *dense = NULL;
  memcpy(shape, batch, (size_t)nd * sizeof *batch);
  shape[nd] = flat[1];
  shape[nd + 1] = flat[2];
  ij_status st = ij_expand(x, nd + 2, shape, &wide);
  if (st == IJ_OK) st = ij_dense("matmul", "x", wide, &dense);
  if (st == IJ_OK) st = ij_tensor_reshape(dense, 3, flat, out);
  ij_tensor_free(wide);
  ij_tensor_free(dense);
  return st;
}

static bool one_matrix(const ij_tensor *x) {
  int64_t count = 1;
  for (int i = 0; i < x->ndim - 2; i++) count *= x->shape[i];
  return count == 1;
}

/* Products of contiguous a and b into (P, M, N) or (M, N). A single b takes all rows of all a's at once. */
static ij_status multiply(ij_tensor *a, ij_tensor *b, bool ta, bool tb, int nd, const int64_t *batch, ij_tensor **out) {
  int64_t P = 1, K = a->shape[a->ndim - 1];
  for (int i = 0; i < nd; i++) P *= batch[i];
  ij_tensor *x = NULL, *y = NULL;
  ij_status st;
  if (one_matrix(b) && (!ta || one_matrix(a))) {
    int64_t rows[] = {ij_tensor_count(a) / (K ? K : 1), K}, matrix[] = {b->shape[b->ndim - 2], b->shape[b->ndim - 1]};
    if (!K) rows[0] = P * a->shape[a->ndim - 2];
    st = ij_tensor_reshape(a, 2, rows, &x);
    if (st == IJ_OK) st = ij_tensor_reshape(b, 2, matrix, &y);
  } else {
    st = spread(a, nd, batch, P, &x);
    if (st == IJ_OK) st = spread(b, nd, batch, P, &y);
  }
  if (st == IJ_OK) st = products(x, y, ta, tb, out);
  ij_tensor_free(x);
  ij_tensor_free(y);
  return st;
}

static ij_status batch_of(const ij_tensor *a, const ij_tensor *b, int *nd, int64_t *batch) {
  ij_tensor left = *a, right = *b;
  left.ndim -= 2;
  right.ndim -= 2;
  char x[160], y[160];
  if (ij_broadcast(&left, nd, batch) && ij_broadcast(&right, nd, batch)) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "matmul: the dimensions in front of the matrices of %s and %s do not broadcast",
                 ij_shape_text(a, x), ij_shape_text(b, y));
}

ij_status ij_matmul(ij_tensor *a, ij_tensor *b, int ta, int tb, ij_tensor **out) {
  *out = NULL;
  char left[160], right[160];
  bool fits = a->ndim >= 2 && b->ndim >= 2 && a->shape[a->ndim - (ta ? 2 : 1)] == b->shape[b->ndim - (tb ? 1 : 2)];
  if (!fits)
    return ij_fail(IJ_ESHAPE, "matmul: %s%s and %s%s do not fit: expected (..., M, K) and (..., K, N)",
                   ij_shape_text(a, left), ta ? " transposed" : "", ij_shape_text(b, right), tb ? " transposed" : "");
  int nd = 0;
  int64_t shape[IJ_MAX_DIMS] = {0};
  IJ_TRY(batch_of(a, b, &nd, shape));
  bool turn_a = ta != 0, turn_b = tb != 0;
  ij_tensor *x = NULL, *y = NULL, *z = NULL;
  ij_status st = as_matrix("a", a, &turn_a, &x);
  if (st == IJ_OK) st = as_matrix("b", b, &turn_b, &y);
  if (st == IJ_OK && nd <= 1 && a->ndim == b->ndim && (nd == 0 || a->shape[0] == b->shape[0])) {
    st = products(x, y, turn_a, turn_b, out);
  } else if (st == IJ_OK) {
    shape[nd] = a->shape[a->ndim - (ta ? 1 : 2)];
    shape[nd + 1] = b->shape[b->ndim - (tb ? 2 : 1)];
    st = multiply(x, y, turn_a, turn_b, nd, shape, &z);
    if (st == IJ_OK) st = ij_tensor_reshape(z, nd + 2, shape, out);
  }
  ij_tensor_free(x);
  ij_tensor_free(y);
  ij_tensor_free(z);
  return st;
}

#include "../case.h"

enum { NO_W = 1, NO_B = 2, KEEP = 4 }; /* KEEP: the backend may keep a converted copy of w */

static const char why[] = "a sum of K f32 products; bf16: w is rounded too, at most 5 standard deviations of 2^-9 / "
                          "sqrt(3) per product, and the result by 2^-9";
enum { R, N, K };

static const ij_case_shape shapes[] = {
    {"odd", {7, 13, 19}, 0, IJ_CASE_GRAD},
    {"odd kept", {33, 65, 47}, KEEP, 0},
    {"odd kept anew", {33, 65, 47}, KEEP, 0}, /* other weights of the same shape */
    {"odd long", {1357, 9, 11}, KEEP, 0},
    {"one", {1, 1, 1}, 0, 0},
    {"no rows", {0, 5, 3}, 0, 0},
    {"vits qkv", {53, 1152, 384}, KEEP, 0},
    {"vith proj", {37, 1280, 1280}, 0, 0},
    {"vith fc1", {4096, 5120, 1280}, KEEP, IJ_CASE_BENCH},
    {"vith fc2", {4096, 1280, 5120}, KEEP, IJ_CASE_BENCH},
    {"vith embed", {8832, 1280, 588}, KEEP, IJ_CASE_BENCH}, /* K: rows are aligned to 8 bytes alone */
    {"vith predictor", {14464, 1152, 384}, KEEP, IJ_CASE_BENCH},
    {"vits fc1", {2048, 1536, 384}, KEEP, IJ_CASE_BENCH},
    {0},
};

static void fwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-2, why);
  ij_case_in(c, "x", c->dt, d[R] * d[K], 1);
  ij_case_in(c, "w", IJ_F32, d[N] * d[K], 0.5);
  ij_case_out(c, "y", c->dt, d[R] * d[N]);
  c->flops = 2.0 * (double)d[R] * (double)d[N] * (double)d[K];
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->linear_fwd(q, c->dt, d[R], d[N], d[K], c->p[0], c->p[1], c->flags & KEEP ? c->content : 0, c->p[2]);
}

static void bwd_x(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-2, why);
  ij_case_in(c, "dy", c->dt, d[R] * d[N], 1);
  ij_case_in(c, "w", IJ_F32, d[N] * d[K], 0.5);
  ij_case_out(c, "dx", c->dt, d[R] * d[K]);
  c->flops = 2.0 * (double)d[R] * (double)d[N] * (double)d[K];
}
static ij_status call_bwd_x(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->linear_bwd_x(q, c->dt, d[R], d[N], d[K], c->p[0], c->p[1], c->flags & KEEP ? c->content : 0, c->p[2]);
}

static const ij_case_shape shapes_w[] = {
    {"odd", {7, 13, 19}, 0, IJ_CASE_GRAD},
    {"odd no b", {33, 65, 47}, NO_B, IJ_CASE_GRAD},
    {"odd no w", {33, 65, 47}, NO_W, IJ_CASE_GRAD},
    {"odd long", {1357, 9, 11}, 0, 0},
    {"one", {1, 1, 1}, 0, 0},
    {"no rows", {0, 5, 3}, 0, 0},
    {"vits qkv", {53, 1152, 384}, 0, 0},
    {"vith proj", {37, 1280, 1280}, 0, 0},
    {"vith fc1", {4096, 5120, 1280}, 0, IJ_CASE_BENCH},
    {"vith fc2", {4096, 1280, 5120}, 0, IJ_CASE_BENCH},
    {"vith embed", {8832, 1280, 588}, 0, IJ_CASE_BENCH},
    {"vith predictor", {14464, 1152, 384}, 0, IJ_CASE_BENCH},
    {"vits fc1", {2048, 1536, 384}, 0, IJ_CASE_BENCH},
    {0},
};

static void bwd_w(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-5, "a sum of R products, or of R numbers, in f32; both factors are given in the type");
  ij_case_in(c, "dy", c->dt, d[R] * d[N], 1);
  ij_case_in(c, "x", c->dt, d[R] * d[K], 1);
  if (c->flags & NO_W) ij_case_null(c);
  else ij_case_add(c, "dw", IJ_F32, d[N] * d[K], IJ_CASE_NORMAL, 1);
  if (c->flags & NO_B) ij_case_null(c);
  else ij_case_add(c, "db", IJ_F32, d[N], IJ_CASE_NORMAL, 1);
  c->flops = 2.0 * (double)d[R] * (double)d[N] * (double)d[K];
}
static ij_status call_bwd_w(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->linear_bwd_w(q, c->dt, c->dim[R], c->dim[N], c->dim[K], c->p[0], c->p[1], c->p[2], c->p[3]);
}

/* The forward of linear_bwd_w: matmul and bias */
static void with_bias(ij_case *c) {
  fwd(c);
  ij_case_in(c, "b", IJ_F32, c->dim[N], 1);
}
static ij_status call_with_bias(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  ij_status st = t->linear_fwd(q, c->dt, c->dim[R], c->dim[N], c->dim[K], c->p[0], c->p[1], 0, c->p[2]);
  return st == IJ_OK ? t->bias_add(q, c->dt, c->dim[R], c->dim[N], c->p[3], c->p[2]) : st;
}

static void bias(ij_case *c) {
  ij_case_tol(c, 1e-6, 0x1p-7, "one addition; bf16: rounded to a neighbour");
  ij_case_in(c, "b", IJ_F32, c->dim[N], 1);
  ij_case_add(c, "y", c->dt, c->dim[R] * c->dim[N], IJ_CASE_NORMAL, 1);
  c->flops = (double)(c->dim[R] * c->dim[N]);
}
static ij_status call_bias(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->bias_add(q, c->dt, c->dim[R], c->dim[N], c->p[0], c->p[1]);
}
static const ij_case_shape shapes_bias[] = {
    {"odd", {7, 13}, 0, 0},
    {"no rows", {0, 5}, 0, 0},
    {"vith", {257, 1280}, 0, 0},
    {"vith", {4096, 1280}, 0, IJ_CASE_BENCH},
    {0},
};

static const ij_case_op product = {"linear_fwd", fwd, call_fwd, shapes, true, NULL};
static const ij_case_op product_bias = {"linear_fwd and bias_add", with_bias, call_with_bias, shapes, true, NULL};
const ij_case_op ij_cases_linear[] = {
    {"linear_fwd", fwd, call_fwd, shapes, true, NULL},
    {"linear_bwd_x", bwd_x, call_bwd_x, shapes, true, &product},
    {"linear_bwd_w", bwd_w, call_bwd_w, shapes_w, true, &product_bias},
    {"bias_add", bias, call_bias, shapes_bias, true, NULL},
    {0},
};

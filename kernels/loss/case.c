#include "../case.h"

enum {
  SMALL = 1,
  NO_DY = 2,
  SMOOTH = 4,
  LARGE = 8
}; /* SMALL: beta .05, so that most differences are on the straight part */

static float beta(const ij_case *c) { return c->flags & SMALL ? 0.05f : 1.0f; }
static void smooth_l1_fwd(ij_case *c) { /* dims outer, repeat, inner */
  const ij_dim *d = c->dim;
  ij_dim n = d[0] * d[1] * d[2];
  ij_case_tol(c, 1e-6, 1e-6, "summed in double");
  ij_case_in(c, "x", IJ_F32, n, 1);
  ij_case_in(c, "y", IJ_F32, d[0] * d[2], 1);
  ij_case_out(c, "loss", IJ_F32, 1);
  c->flops = 5 * (double)n;
}
static ij_status call_smooth_l1_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->smooth_l1_fwd(q, c->dim[0], c->dim[1], c->dim[2], beta(c), c->p[0], c->p[1], c->p[2]);
}
static void smooth_l1_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_dim n = d[0] * d[1] * d[2];
  ij_case_tol(c, 2e-6, 2e-6, "a few roundings to f32");
  ij_case_in(c, "x", IJ_F32, n, 1);
  ij_case_in(c, "y", IJ_F32, d[0] * d[2], 1);
  ij_case_in_as(c, "dloss", IJ_F32, 1, IJ_CASE_POSITIVE, 3);
  ij_case_out(c, "dx", IJ_F32, n);
  if (c->flags & NO_DY) ij_case_null(c);
  else ij_case_out(c, "dy", IJ_F32, d[0] * d[2]);
  c->flops = 5 * (double)n;
}
static ij_status call_smooth_l1_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->smooth_l1_bwd(q, c->dim[0], c->dim[1], c->dim[2], beta(c), c->p[0], c->p[1], c->p[2], c->p[3], c->p[4]);
}
static const ij_case_shape smooth_l1_shapes[] = {
    {"odd", {3, 2, 19}, 0, IJ_CASE_GRAD},
    {"odd one block", {1, 1, 37}, 0, IJ_CASE_GRAD},
    {"odd small beta", {3, 4, 23}, SMALL, 0},
    {"odd no dy", {5, 1, 7}, NO_DY, 0},
    {"one", {1, 1, 1}, 0, 0},
    {"vith", {4, 1, 2 * 40 * 1280}, NO_DY, 0},
    {"vith", {4, 1, 32 * 40 * 1280}, NO_DY, IJ_CASE_BENCH},
    {0},
};

static float smoothing(const ij_case *c) { return c->flags & SMOOTH ? 0.1f : 0; }
static void cross_entropy_fwd(ij_case *c) { /* dims R, n */
  ij_case_tol(c, 1e-5, 1e-5, "sums of n and exp to 1e-6 in f32");
  ij_case_in(c, "x", IJ_F32, c->dim[0] * c->dim[1], c->flags & LARGE ? 90 : 3);
  ij_case_in_as(c, "label", IJ_I32, c->dim[0], IJ_CASE_LABEL, (double)c->dim[1]);
  ij_case_out(c, "loss", IJ_F32, 1);
  c->flops = 20 * (double)(c->dim[0] * c->dim[1]);
}
static ij_status call_cross_entropy_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->cross_entropy_fwd(q, c->dim[0], c->dim[1], smoothing(c), c->p[0], c->p[1], c->p[2]);
}
static void cross_entropy_bwd(ij_case *c) {
  ij_case_tol(c, 1e-5, 1e-5, "sums of n and exp to 1e-6 in f32");
  ij_case_in(c, "x", IJ_F32, c->dim[0] * c->dim[1], c->flags & LARGE ? 90 : 3);
  ij_case_in_as(c, "label", IJ_I32, c->dim[0], IJ_CASE_LABEL, (double)c->dim[1]);
  ij_case_in_as(c, "dloss", IJ_F32, 1, IJ_CASE_POSITIVE, 3);
  ij_case_out(c, "dx", IJ_F32, c->dim[0] * c->dim[1]);
  c->flops = 20 * (double)(c->dim[0] * c->dim[1]);
}
static ij_status call_cross_entropy_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->cross_entropy_bwd(q, c->dim[0], c->dim[1], smoothing(c), c->p[0], c->p[1], c->p[2], c->p[3]);
}
static const ij_case_shape cross_entropy_shapes[] = {
    {"odd", {13, 5}, 0, IJ_CASE_GRAD},
    {"odd smooth", {17, 9}, SMOOTH, IJ_CASE_GRAD},
    {"one class", {3, 1}, 0, 0},
    {"odd large", {11, 7}, LARGE, 0},
    {"imagenet", {64, 1000}, SMOOTH, 0},
    {"imagenet", {1024, 1000}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_loss[] = {
    {"smooth_l1_fwd", smooth_l1_fwd, call_smooth_l1_fwd, smooth_l1_shapes, false, NULL},
    {"smooth_l1_bwd", smooth_l1_bwd, call_smooth_l1_bwd, smooth_l1_shapes, false, &ij_cases_loss[0]},
    {"cross_entropy_fwd", cross_entropy_fwd, call_cross_entropy_fwd, cross_entropy_shapes, false, NULL},
    {"cross_entropy_bwd", cross_entropy_bwd, call_cross_entropy_bwd, cross_entropy_shapes, false, &ij_cases_loss[2]},
    {0},
};

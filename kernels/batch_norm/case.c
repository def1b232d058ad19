#include "../case.h"

enum { R, D };
enum { GIVEN = 1, FAR = 2 }; /* GIVEN: statistics are given, not taken from the batch */

static void fwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[D];
  double tol = c->flags & FAR ? 1e-4 : 1e-5;
  ij_case_tol(c, tol, tol, "sums over R in f32; means of 30 deviations lose 30 times more");
  ij_case_in_as(c, "x", IJ_F32, n, c->flags & FAR ? IJ_CASE_FAR : IJ_CASE_NORMAL, 1);
  if (c->flags & GIVEN) ij_case_in(c, "m", IJ_F32, c->dim[D], 1);
  else ij_case_out(c, "m", IJ_F32, c->dim[D]);
  if (c->flags & GIVEN) ij_case_in_as(c, "s", IJ_F32, c->dim[D], IJ_CASE_POSITIVE, 1);
  else ij_case_out(c, "s", IJ_F32, c->dim[D]);
  ij_case_out(c, "y", IJ_F32, n);
  c->flops = 7 * (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->batch_norm_fwd(q, c->dim[R], c->dim[D], !(c->flags & GIVEN), 1e-5f, c->p[0], c->p[1], c->p[2], c->p[3]);
}
static void bwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[D];
  ij_case_tol(c, 2e-5, 2e-5, "sums over R in f32");
  ij_case_in_as(c, "x", IJ_F32, n, c->flags & FAR ? IJ_CASE_FAR : IJ_CASE_NORMAL, 1);
  ij_case_in(c, "m", IJ_F32, c->dim[D], 1);
  ij_case_in_as(c, "s", IJ_F32, c->dim[D], IJ_CASE_POSITIVE, 1);
  ij_case_in(c, "dy", IJ_F32, n, 1);
  ij_case_out(c, "dx", IJ_F32, n);
  c->flops = 12 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->batch_norm_bwd(q, c->dim[R], c->dim[D], !(c->flags & GIVEN), 1e-5f, c->p[0], c->p[1], c->p[2], c->p[3],
                           c->p[4]);
}
static const ij_case_shape shapes[] = {
    {"odd", {7, 13}, 0, IJ_CASE_GRAD},
    {"odd given", {5, 19}, GIVEN, IJ_CASE_GRAD},
    {"odd far", {103, 7}, FAR, 0},
    {"one column", {9, 1}, 0, 0},
    {"vith probe", {128, 1280}, 0, 0},
    {"vith probe", {1024, 1280}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_batch_norm[] = {
    {"batch_norm_fwd", fwd, call_fwd, shapes, false, NULL},
    {"batch_norm_bwd", bwd, call_bwd, shapes, false, &ij_cases_batch_norm[0]},
    {0},
};

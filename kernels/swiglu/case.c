#include "../case.h"

enum { R, F };
enum { WIDE = 1 };

static const char why[] = "exponentials in f32; bf16: the result is rounded to a neighbour";
static const char why_sum[] = "a sum over R in f32, or of rounded numbers";

static void inputs(ij_case *c) {
  double scale = c->flags & WIDE ? 30 : 2;
  ij_case_in(c, "x", c->dt, 2 * c->dim[R] * c->dim[F], scale);
  ij_case_in(c, "b", IJ_F32, 2 * c->dim[F], 1);
}
static void fwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[F];
  ij_case_tol(c, 2e-6, 0x1p-7, why);
  inputs(c);
  ij_case_out(c, "y", c->dt, n);
  c->flops = 20.0 * (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->swiglu_fwd(q, c->dt, c->dim[R], c->dim[F], c->p[0], c->p[1], c->p[2]);
}

static void bwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[F];
  inputs(c);
  ij_case_in(c, "dy", c->dt, n, 1);
  ij_case_tol(c, 4e-6, 0x1p-7, why);
  ij_case_out(c, "dx", c->dt, 2 * n);
  ij_case_out(c, "y", c->dt, n);
  ij_case_tol(c, 2e-5, 0x1p-6, why_sum);
  ij_case_add(c, "db", IJ_F32, 2 * c->dim[F], IJ_CASE_NORMAL, 1);
  ij_case_form(c, "dx=x");
  c->flops = 40.0 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->swiglu_bwd(q, c->dt, c->dim[R], c->dim[F], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5]);
}

static const ij_case_shape shapes[] = {
    {"odd", {5, 19}, 0, IJ_CASE_GRAD},
    {"odd wide", {7, 37}, WIDE, 0},
    {"one", {1, 1}, 0, IJ_CASE_GRAD},
    {"no rows", {0, 8}, 0, 0},
    {"vits", {67, 1024}, 0, 0},
    {"odd vits", {33, 1025}, 0, 0},
    {"vits", {4096, 1024}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_swiglu[] = {
    {"swiglu_fwd", fwd, call_fwd, shapes, true, NULL},
    {"swiglu_bwd", bwd, call_bwd, shapes, true, &ij_cases_swiglu[0]},
    {0},
};

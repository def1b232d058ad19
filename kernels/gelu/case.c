#include "../case.h"

enum { R, F };
enum { NO_B = 1, AGAIN = 2, NO_DB = 4, WIDE = 8 }; /* AGAIN: the backward gives y too */

static const char why[] = "the contract's 1e-6 for numbers near 1; bf16: the result is rounded to a neighbour";
static const char why_sum[] = "a sum over R in f32";

static void fwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[F];
  ij_case_tol(c, 1e-6, 0x1p-7, why);
  ij_case_unit(c, 1);
  ij_case_in(c, "x", c->dt, n, c->flags & WIDE ? 30 : 2);
  if (c->flags & NO_B) ij_case_null(c);
  else ij_case_in(c, "b", IJ_F32, c->dim[F], 1);
  ij_case_out(c, "y", c->dt, n);
  ij_case_form(c, "y=x");
  c->flops = 20.0 * (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->gelu_fwd(q, c->dt, c->dim[R], c->dim[F], c->p[0], c->p[1], c->p[2]);
}

static void bwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[F];
  ij_case_tol(c, 2e-6, 0x1p-7, why);
  ij_case_unit(c, 1);
  ij_case_in(c, "x", c->dt, n, c->flags & WIDE ? 30 : 2);
  if (c->flags & NO_B) ij_case_null(c);
  else ij_case_in(c, "b", IJ_F32, c->dim[F], 1);
  ij_case_in(c, "dy", c->dt, n, 1);
  ij_case_out(c, "dx", c->dt, n);
  if (c->flags & AGAIN) ij_case_out(c, "y", c->dt, n);
  else ij_case_null(c);
  ij_case_tol(c, 1e-5, 0x1p-7, why_sum);
  if (c->flags & (NO_B | NO_DB)) ij_case_null(c);
  else ij_case_add(c, "db", IJ_F32, c->dim[F], IJ_CASE_NORMAL, 1);
  ij_case_form(c, "dx=dy");
  ij_case_form(c, "dx=x");
  if (c->flags & AGAIN) ij_case_form(c, "y=x");
  if (c->flags & AGAIN) ij_case_form(c, "dx=dy y=x");
  c->flops = 30.0 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->gelu_bwd(q, c->dt, c->dim[R], c->dim[F], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5]);
}

static const ij_case_shape shapes[] = {
    {"odd", {5, 19}, 0, IJ_CASE_GRAD},
    {"odd no b", {3, 67}, NO_B, IJ_CASE_GRAD},
    {"odd again", {7, 35}, AGAIN, IJ_CASE_GRAD},
    {"odd again no db", {7, 35}, AGAIN | NO_DB, 0},
    {"odd wide", {7, 37}, AGAIN | WIDE, 0},
    {"one", {1, 1}, AGAIN, 0},
    {"no rows", {0, 8}, AGAIN, 0},
    {"vits", {67, 1536}, AGAIN, 0},
    {"vith", {33, 5120}, AGAIN, 0},
    {"vith", {1024, 5120}, AGAIN, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_gelu[] = {
    {"gelu_fwd", fwd, call_fwd, shapes, true, NULL},
    {"gelu_bwd", bwd, call_bwd, shapes, true, &ij_cases_gelu[0]},
    {0},
};

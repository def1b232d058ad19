#include "../case.h"

enum { R, D };
enum {
  NO_AFFINE = 1,
  ADD = 2,
  ADD_B = 4,
  NO_SUM = 8,
  NO_Y = 16,
  NO_STATS = 32,
  RES = 64,
  COPY = 128,
  FROZEN = 256,
  FAR = 512
};

static const char why[] = "sums over D in f32; bf16: the result is rounded to a neighbour";

static const char why_far[] =
    "a mean of 30 deviations loses 30 times more; a variance in one pass would lose 30 times that";

static void fwd(ij_case *c) {
  double tol = c->flags & FAR ? 1e-4 : 1e-5;
  const char *sums = c->flags & FAR ? why_far : "sums over D in f32";
  ij_dim n = c->dim[R] * c->dim[D], width = c->dim[D];
  bool affine = !(c->flags & NO_AFFINE);
  ij_case_tol(c, tol, tol, sums);
  ij_case_in_as(c, "x", IJ_F32, n, c->flags & FAR ? IJ_CASE_FAR : IJ_CASE_NORMAL, 2);
  if (c->flags & ADD) ij_case_in(c, "add", c->dt, n, 1);
  else ij_case_null(c);
  if (c->flags & ADD_B) ij_case_in(c, "add_b", IJ_F32, width, 1);
  else ij_case_null(c);
  if (affine) ij_case_in(c, "w", IJ_F32, width, 1);
  else ij_case_null(c);
  if (affine) ij_case_in(c, "b", IJ_F32, width, 1);
  else ij_case_null(c);
  if (c->flags & NO_SUM) ij_case_null(c);
  else ij_case_out(c, "sum", IJ_F32, n);
  ij_case_tol(c, tol, 0x1p-7, c->flags & FAR ? why_far : why);
  if (c->flags & NO_Y) ij_case_null(c);
  else ij_case_out(c, "y", c->dt, n);
  ij_case_tol(c, tol, tol, sums);
  for (int i = 0; i < 2; i++)
    if (c->flags & NO_STATS) ij_case_null(c);
    else ij_case_out(c, i ? "rstd" : "mean", IJ_F32, c->dim[R]);
  if (!(c->flags & NO_SUM)) ij_case_form(c, "sum=x");
  c->flops = 8.0 * (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->norm_fwd(q, c->dt, c->dim[R], c->dim[D], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], 1e-6f, c->p[5],
                     c->p[6], c->p[7], c->p[8]);
}
static const ij_case_shape shapes_fwd[] = {
    {"odd", {5, 19}, 0, 0},
    {"odd add", {5, 21}, ADD | ADD_B, 0},
    {"odd add alone", {3, 67}, ADD, 0},
    {"odd far", {5, 203}, FAR, 0},
    {"only sum", {7, 35}, ADD | ADD_B | NO_Y | NO_STATS, 0},
    {"only y", {7, 35}, ADD | NO_SUM | NO_STATS, 0},
    {"no affine", {9, 33}, NO_AFFINE | NO_SUM | NO_STATS, 0},
    {"one", {2, 1}, NO_AFFINE, 0},
    {"no rows", {0, 8}, 0, 0},
    {"vits", {131, 384}, ADD | ADD_B, 0},
    {"vith", {257, 1280}, ADD | ADD_B, 0},
    {"vith", {4096, 1280}, ADD | ADD_B, IJ_CASE_BENCH},
    {0},
};

static void bwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[D], width = c->dim[D];
  bool affine = !(c->flags & NO_AFFINE), sums = affine && !(c->flags & FROZEN);
  ij_case_tol(c, 2e-5, 2e-5, "sums over D and over R in f32");
  ij_case_in_as(c, "x", IJ_F32, n, c->flags & FAR ? IJ_CASE_FAR : IJ_CASE_NORMAL, 2); /* s in the contract */
  ij_case_in(c, "mean", IJ_F32, c->dim[R], 1);
  ij_case_in(c, "rstd", IJ_F32, c->dim[R], 1);
  if (affine) ij_case_in(c, "w", IJ_F32, width, 1);
  else ij_case_null(c);
  ij_case_in(c, "dy", c->dt, n, 1);
  if (c->flags & RES) ij_case_in(c, "res", IJ_F32, n, 1);
  else ij_case_null(c);
  ij_case_out(c, "dx", IJ_F32, n);
  ij_case_tol(c, 2e-5, 0x1p-7, why);
  if (c->flags & COPY) ij_case_out(c, "dx_dt", c->dt, n);
  else ij_case_null(c);
  ij_case_tol(c, 2e-5, 2e-5, "sums over D and over R in f32");
  for (int i = 0; i < 2; i++)
    if (sums) ij_case_add(c, i ? "db" : "dw", IJ_F32, width, IJ_CASE_NORMAL, 1);
    else ij_case_null(c);
  if (c->flags & RES) ij_case_form(c, "dx=res");
  c->flops = 14.0 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->norm_bwd(q, c->dt, c->dim[R], c->dim[D], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->p[6],
                     c->p[7], c->p[8], c->p[9]);
}
static const ij_case_shape shapes_bwd[] = {
    {"odd", {5, 19}, 0, IJ_CASE_GRAD},
    {"odd no affine", {9, 33}, NO_AFFINE, IJ_CASE_GRAD},
    {"odd frozen", {9, 33}, FROZEN | RES, 0},
    {"odd rest", {7, 67}, RES | COPY, 0},
    {"odd far", {5, 203}, FAR, 0},
    {"odd copy", {3, 17}, COPY, IJ_CASE_GRAD},
    {"long", {403, 4}, RES | COPY, 0}, /* more rows than blocks of a small device */
    {"one", {2, 1}, NO_AFFINE, 0},
    {"no rows", {0, 8}, 0, 0},
    {"vits", {131, 384}, RES | COPY, 0},
    {"vith", {257, 1280}, RES | COPY, 0},
    {"vith", {4096, 1280}, RES | COPY, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_norm[] = {
    {"norm_fwd", fwd, call_fwd, shapes_fwd, true, NULL},
    {"norm_bwd", bwd, call_bwd, shapes_bwd, true, &ij_cases_norm[0]},
    {0},
};

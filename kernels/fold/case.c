#include "../case.h"

enum { F, TYPE, P, N, Q }; /* dims: an ij_fold_fn (scan: reverse), type, x (P, N, Q) */
enum { EQUALS = 1, HOLES = 2, ZEROS = 4, APART = 8 };

static void input(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_dim n = d[P] * d[N] * d[Q];
  bool prod = d[F] == IJ_FOLD_PROD;
  ij_case_fill how = c->flags & EQUALS   ? IJ_CASE_LABEL
                     : c->flags & HOLES  ? IJ_CASE_HOLES
                     : c->flags & APART  ? IJ_CASE_APART
                     : d[TYPE] != IJ_F32 ? IJ_CASE_INDEX
                     : c->flags & ZEROS  ? IJ_CASE_INDEX
                     : prod              ? IJ_CASE_POSITIVE
                                         : IJ_CASE_NORMAL;
  double scale = c->flags & ZEROS ? 5 : d[TYPE] != IJ_F32 || c->flags & EQUALS ? 100 : prod ? 1.6 : 1;
  ij_case_in_as(c, "x", (int)d[TYPE], n, how, scale);
}

static void fold_fwd(ij_case *c) {
  const ij_dim *d = c->dim;
  bool prod = d[F] == IJ_FOLD_PROD && d[TYPE] == IJ_F32;
  ij_case_tol(c, prod ? 1e-6 : 0, 0, "a product in double; others as they are");
  input(c);
  ij_case_out(c, "y", d[F] >= IJ_FOLD_ARGMAX ? IJ_I32 : (int)d[TYPE], d[P] * d[Q]);
  c->flops = (double)(d[P] * d[N] * d[Q]);
}
static ij_status call_fold_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->fold_fwd(q, (int)d[F], (ij_dtype)d[TYPE], d[P], d[N], d[Q], c->p[0], c->p[1]);
}
static const ij_case_shape fwd_shapes[] = {
    {"prod", {IJ_FOLD_PROD, IJ_F32, 3, 7, 5}, 0, 0},
    {"prod rows", {IJ_FOLD_PROD, IJ_F32, 5, 19, 1}, 0, 0},
    {"prod of nothing", {IJ_FOLD_PROD, IJ_F32, 5, 0, 2}, 0, 0},
    {"max", {IJ_FOLD_MAX, IJ_F32, 3, 7, 37}, 0, 0},
    {"max rows", {IJ_FOLD_MAX, IJ_F32, 5, 193, 1}, 0, 0},
    {"max holes", {IJ_FOLD_MAX, IJ_F32, 5, 193, 1}, HOLES, 0},
    {"max holes columns", {IJ_FOLD_MAX, IJ_F32, 3, 70, 37}, HOLES, 0},
    {"min", {IJ_FOLD_MIN, IJ_F32, 3, 7, 37}, 0, 0},
    {"min rows", {IJ_FOLD_MIN, IJ_F32, 5, 193, 1}, HOLES, 0},
    {"argmax", {IJ_FOLD_ARGMAX, IJ_F32, 3, 70, 37}, EQUALS, 0},
    {"argmax rows", {IJ_FOLD_ARGMAX, IJ_F32, 5, 193, 1}, EQUALS, 0},
    {"argmax holes", {IJ_FOLD_ARGMAX, IJ_F32, 5, 193, 1}, HOLES, 0},
    {"argmax holes columns", {IJ_FOLD_ARGMAX, IJ_F32, 2, 193, 5}, HOLES, 0},
    {"argmin", {IJ_FOLD_ARGMIN, IJ_F32, 3, 70, 37}, EQUALS, 0},
    {"argmin rows", {IJ_FOLD_ARGMIN, IJ_F32, 5, 193, 1}, EQUALS, 0},
    {"argmin holes", {IJ_FOLD_ARGMIN, IJ_F32, 5, 193, 1}, HOLES, 0},
    {"i32 sum", {IJ_FOLD_SUM, IJ_I32, 3, 7, 5}, 0, 0},
    {"i32 prod", {IJ_FOLD_PROD, IJ_I32, 3, 70, 1}, 0, 0},
    {"i32 max", {IJ_FOLD_MAX, IJ_I32, 3, 7, 5}, EQUALS, 0},
    {"i32 argmax", {IJ_FOLD_ARGMAX, IJ_I32, 3, 70, 1}, EQUALS, 0},
    {"i64 sum", {IJ_FOLD_SUM, IJ_I64, 1, 3001, 1}, 0, 0},
    {"i64 min", {IJ_FOLD_MIN, IJ_I64, 3, 7, 5}, EQUALS, 0},
    {"u8 sum", {IJ_FOLD_SUM, IJ_U8, 3, 7, 5}, 0, 0},
    {"u8 argmin", {IJ_FOLD_ARGMIN, IJ_U8, 3, 70, 1}, 0, 0},
    {"sum of nothing", {IJ_FOLD_SUM, IJ_I32, 3, 0, 1}, 0, 0},
    {"no folds", {IJ_FOLD_MAX, IJ_F32, 0, 5, 3}, 0, 0},
    {"all max", {IJ_FOLD_MAX, IJ_F32, 1, 100003, 1}, 0, 0},
    {"all argmin", {IJ_FOLD_ARGMIN, IJ_F32, 1, 100003, 1}, EQUALS, 0},
    {"first max", {IJ_FOLD_MAX, IJ_F32, 1, 30011, 3}, HOLES, 0},
    {"first argmax", {IJ_FOLD_ARGMAX, IJ_F32, 1, 30011, 3}, EQUALS, 0},
    {"1e7 max", {IJ_FOLD_MAX, IJ_F32, 1, 10000000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 max last", {IJ_FOLD_MAX, IJ_F32, 10000, 1000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 max first", {IJ_FOLD_MAX, IJ_F32, 1, 10000, 1000}, 0, IJ_CASE_BENCH},
    {"1e7 max middle", {IJ_FOLD_MAX, IJ_F32, 100, 1000, 100}, 0, IJ_CASE_BENCH},
    {"1e7 argmax last", {IJ_FOLD_ARGMAX, IJ_F32, 10000, 1000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 argmax first", {IJ_FOLD_ARGMAX, IJ_F32, 1, 10000, 1000}, 0, IJ_CASE_BENCH},
    {0},
};

static void fold_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-6, "a product in double, or a quotient");
  input(c);
  ij_case_in(c, "y", IJ_F32, d[P] * d[Q], 1);
  ij_case_in(c, "dy", IJ_F32, d[P] * d[Q], 1);
  ij_case_out(c, "dx", IJ_F32, d[P] * d[N] * d[Q]);
  c->flops = (double)(d[P] * d[N] * d[Q]);
}
static ij_status call_fold_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->fold_bwd(q, (int)d[F], d[P], d[N], d[Q], c->p[0], c->p[1], c->p[2], c->p[3]);
}
static const ij_case_shape bwd_shapes[] = {
    {"prod", {IJ_FOLD_PROD, IJ_F32, 3, 4, 5}, APART, IJ_CASE_GRAD},
    {"prod rows", {IJ_FOLD_PROD, IJ_F32, 5, 6, 1}, APART, IJ_CASE_GRAD},
    {"prod zeros", {IJ_FOLD_PROD, IJ_F32, 20, 4, 3}, ZEROS, 0},
    {"prod zeros rows", {IJ_FOLD_PROD, IJ_F32, 50, 5, 1}, ZEROS, 0},
    {"max", {IJ_FOLD_MAX, IJ_F32, 3, 3, 2}, APART, 0},
    {"max rows", {IJ_FOLD_MAX, IJ_F32, 5, 93, 1}, EQUALS, 0},
    {"max holes", {IJ_FOLD_MAX, IJ_F32, 5, 193, 1}, HOLES, 0},
    {"min", {IJ_FOLD_MIN, IJ_F32, 3, 70, 37}, EQUALS, 0},
    {"no folds", {IJ_FOLD_MAX, IJ_F32, 0, 5, 3}, 0, 0},
    {"1e7 max last", {IJ_FOLD_MAX, IJ_F32, 10000, 1000, 1}, 0, IJ_CASE_BENCH},
    {0},
};

static void scan(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, d[TYPE] == IJ_F32 ? 1e-6 : 0, 0, "sums in double");
  ij_case_in_as(c, "x", (int)d[TYPE], d[P] * d[N] * d[Q], d[TYPE] == IJ_F32 ? IJ_CASE_NORMAL : IJ_CASE_BITS, 1);
  ij_case_out(c, "y", (int)d[TYPE], d[P] * d[N] * d[Q]);
  c->flops = (double)(d[P] * d[N] * d[Q]);
}
static ij_status call_scan(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->scan(q, (ij_dtype)d[TYPE], d[P], d[N], d[Q], (int)d[F], c->p[0], c->p[1]);
}
static const ij_case_shape scan_shapes[] = {
    {"rows", {0, IJ_F32, 5, 193, 1}, 0, 0},
    {"rows reverse", {1, IJ_F32, 5, 193, 1}, 0, 0},
    {"columns", {0, IJ_F32, 3, 7, 37}, 0, 0},
    {"columns reverse", {1, IJ_F32, 3, 7, 37}, 0, 0},
    {"i32", {0, IJ_I32, 5, 193, 1}, 0, 0},
    {"i64 columns", {1, IJ_I64, 3, 7, 5}, 0, 0},
    {"nothing", {0, IJ_F32, 3, 0, 5}, 0, 0},
    {"long", {0, IJ_F32, 1, 100003, 1}, 0, 0},
    {"1e7 last", {0, IJ_F32, 10000, 1000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 first", {0, IJ_F32, 1, 10000, 1000}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_fold[] = {
    {"fold_fwd", fold_fwd, call_fold_fwd, fwd_shapes, false, NULL},
    {"fold_bwd", fold_bwd, call_fold_bwd, bwd_shapes, false, &ij_cases_fold[0]},
    {"scan", scan, call_scan, scan_shapes, false, NULL},
    {0},
};

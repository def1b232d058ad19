#include "../case.h"

/* dims: an ij_binary_fn, type, rows, columns of z (rows, columns). How x and y lie in it: */
enum { F, TYPE, ROWS, COLUMNS };
enum {
  X_ROW = 1,    /* x (columns), repeated */
  X_TURNED = 2, /* x (columns, rows) */
  X_NUMBER = 4, /* x is a number */
  Y_ROW = 8,
  Y_COLUMN = 16, /* y (rows, 1) */
  Y_ONE = 32,    /* y (1) */
  Y_NUMBER = 64,
  SMALL_VALUES = 128, /* so that equal ones occur */
  ANY_BITS = 256
};
static const double NUMBER = 1.7;

static void strides(const ij_case *c, ij_dim *x, ij_dim *y, ij_dim *nx, ij_dim *ny) {
  ij_dim rows = c->dim[ROWS], columns = c->dim[COLUMNS];
  x[0] = columns, x[1] = 1, *nx = rows * columns;
  y[0] = columns, y[1] = 1, *ny = rows * columns;
  if (c->flags & X_ROW) x[0] = 0, *nx = columns;
  if (c->flags & X_TURNED) x[0] = 1, x[1] = rows;
  if (c->flags & Y_ROW) y[0] = 0, *ny = columns;
  if (c->flags & Y_COLUMN) y[0] = 1, y[1] = 0, *ny = rows;
  if (c->flags & Y_ONE) y[0] = y[1] = 0, *ny = 1;
}
static ij_case_fill contents(const ij_case *c) {
  if (c->flags & ANY_BITS) return IJ_CASE_BITS;
  if (c->flags & SMALL_VALUES || c->dim[TYPE] != IJ_F32) return IJ_CASE_INDEX;
  return c->dim[F] == IJ_POW ? IJ_CASE_POSITIVE : IJ_CASE_APART;
}
static void inputs(ij_case *c) {
  ij_dim x[2], y[2], nx, ny;
  double scale = c->flags & SMALL_VALUES ? 5 : c->dim[TYPE] == IJ_F32 ? 1 : 200;
  strides(c, x, y, &nx, &ny);
  ij_case_tol(c, 1e-6, 1e-6, "one rounding to f32, more of a power");
  if (c->flags & X_NUMBER) ij_case_null(c);
  else ij_case_in_as(c, "x", (int)c->dim[TYPE], nx, contents(c), scale);
  if (c->flags & Y_NUMBER) ij_case_null(c);
  else ij_case_in_as(c, "y", (int)c->dim[TYPE], ny, contents(c), scale);
}

static void fwd(ij_case *c) {
  ij_dim n = c->dim[ROWS] * c->dim[COLUMNS];
  bool compares = c->dim[F] >= IJ_EQ;
  inputs(c);
  if (compares || c->dim[TYPE] != IJ_F32) ij_case_tol(c, 0, 0, "whole numbers");
  ij_case_out(c, "z", compares ? IJ_U8 : (int)c->dim[TYPE], n);
  c->flops = (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  ij_dim x[2], y[2], nx, ny;
  strides(c, x, y, &nx, &ny);
  return t->binary_fwd(q, (int)c->dim[F], (ij_dtype)c->dim[TYPE], 2, c->dim + ROWS, NUMBER, c->p[0], x, c->p[1], y,
                       c->p[2]);
}

/* dx and dy are as wide as z: the gradient of a repeated one is their sum, so these are not checked by differences */
static void bwd(ij_case *c) {
  ij_dim n = c->dim[ROWS] * c->dim[COLUMNS];
  inputs(c);
  ij_case_in(c, "dz", IJ_F32, n, 1);
  ij_case_tol(c, 4e-6, 4e-6, "a few roundings to f32");
  if (c->flags & X_NUMBER) ij_case_null(c);
  else ij_case_out(c, "dx", IJ_F32, n);
  if (c->flags & Y_NUMBER) ij_case_null(c);
  else ij_case_out(c, "dy", IJ_F32, n);
  if (!(c->flags & X_NUMBER)) ij_case_form(c, "dx=dz");
  if (!(c->flags & Y_NUMBER)) ij_case_form(c, "dy=dz");
  c->flops = 2 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  ij_dim x[2], y[2], nx, ny;
  strides(c, x, y, &nx, &ny);
  return t->binary_bwd(q, (int)c->dim[F], 2, c->dim + ROWS, NUMBER, c->p[0], x, c->p[1], y, c->p[2], c->p[3], c->p[4]);
}

static const ij_case_shape fwd_shapes[] = {
    {"add", {IJ_ADD, IJ_F32, 5, 19}, 0, 0},
    {"sub", {IJ_SUB, IJ_F32, 5, 19}, 0, 0},
    {"mul", {IJ_MUL, IJ_F32, 5, 19}, 0, 0},
    {"div", {IJ_DIV, IJ_F32, 5, 19}, 0, 0},
    {"pow", {IJ_POW, IJ_F32, 5, 19}, 0, 0},
    {"min", {IJ_MIN, IJ_F32, 5, 19}, 0, 0},
    {"max any", {IJ_MAX, IJ_F32, 50, 19}, ANY_BITS, 0},
    {"pow any", {IJ_POW, IJ_F32, 50, 19}, ANY_BITS, 0},
    {"add row", {IJ_ADD, IJ_F32, 7, 37}, Y_ROW, 0},
    {"sub column", {IJ_SUB, IJ_F32, 7, 37}, Y_COLUMN, 0},
    {"mul one", {IJ_MUL, IJ_F32, 7, 37}, Y_ONE, 0},
    {"div number", {IJ_DIV, IJ_F32, 7, 37}, Y_NUMBER, 0},
    {"number div", {IJ_DIV, IJ_F32, 7, 37}, X_NUMBER, 0},
    {"row sub column", {IJ_SUB, IJ_F32, 7, 36}, X_ROW | Y_COLUMN, 0},
    {"turned max", {IJ_MAX, IJ_F32, 7, 36}, X_TURNED, 0},
    {"turned pow row", {IJ_POW, IJ_F32, 7, 36}, X_TURNED | Y_ROW, 0},
    {"eq", {IJ_EQ, IJ_F32, 5, 19}, SMALL_VALUES, 0},
    {"ne row", {IJ_NE, IJ_F32, 5, 20}, SMALL_VALUES | Y_ROW, 0},
    {"lt number", {IJ_LT, IJ_F32, 5, 20}, SMALL_VALUES | Y_NUMBER, 0},
    {"le turned", {IJ_LE, IJ_F32, 5, 20}, SMALL_VALUES | X_TURNED, 0},
    {"gt", {IJ_GT, IJ_F32, 5, 20}, SMALL_VALUES, 0},
    {"ge any", {IJ_GE, IJ_F32, 50, 20}, ANY_BITS, 0},
    {"i32 add", {IJ_ADD, IJ_I32, 5, 19}, ANY_BITS, 0},
    {"i32 sub row", {IJ_SUB, IJ_I32, 5, 20}, Y_ROW, 0},
    {"i32 mul", {IJ_MUL, IJ_I32, 5, 19}, ANY_BITS, 0},
    {"i32 div", {IJ_DIV, IJ_I32, 50, 19}, ANY_BITS, 0},
    {"i32 div number", {IJ_DIV, IJ_I32, 5, 19}, Y_NUMBER, 0},
    {"i32 pow", {IJ_POW, IJ_I32, 5, 19}, SMALL_VALUES, 0},
    {"i32 max column", {IJ_MAX, IJ_I32, 5, 19}, Y_COLUMN, 0},
    {"i32 lt", {IJ_LT, IJ_I32, 5, 20}, SMALL_VALUES, 0},
    {"i64 mul", {IJ_MUL, IJ_I64, 5, 19}, ANY_BITS, 0},
    {"i64 div", {IJ_DIV, IJ_I64, 5, 19}, ANY_BITS, 0},
    {"i64 min turned", {IJ_MIN, IJ_I64, 5, 20}, X_TURNED, 0},
    {"i64 eq one", {IJ_EQ, IJ_I64, 5, 20}, SMALL_VALUES | Y_ONE, 0},
    {"u8 add", {IJ_ADD, IJ_U8, 5, 20}, 0, 0},
    {"u8 sub", {IJ_SUB, IJ_U8, 5, 19}, 0, 0},
    {"u8 ge number", {IJ_GE, IJ_U8, 5, 20}, Y_NUMBER, 0},
    {"nothing", {IJ_ADD, IJ_F32, 0, 5}, 0, 0},
    {"vith row", {IJ_ADD, IJ_F32, 257, 1280}, Y_ROW, 0},
    {"1e7 mul", {IJ_MUL, IJ_F32, 1, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 add row", {IJ_ADD, IJ_F32, 10000, 1000}, Y_ROW, IJ_CASE_BENCH},
    {"1e7 mul column", {IJ_MUL, IJ_F32, 10000, 1000}, Y_COLUMN, IJ_CASE_BENCH},
    {"1e7 div number", {IJ_DIV, IJ_F32, 1, 10000000}, Y_NUMBER, IJ_CASE_BENCH},
    {"1e7 lt", {IJ_LT, IJ_F32, 1, 10000000}, 0, IJ_CASE_BENCH},
    {0},
};
static const ij_case_shape bwd_shapes[] = {
    {"add", {IJ_ADD, IJ_F32, 5, 19}, 0, IJ_CASE_GRAD},
    {"sub", {IJ_SUB, IJ_F32, 5, 19}, 0, IJ_CASE_GRAD},
    {"mul", {IJ_MUL, IJ_F32, 5, 19}, 0, IJ_CASE_GRAD},
    {"div", {IJ_DIV, IJ_F32, 5, 19}, 0, 0},
    {"pow", {IJ_POW, IJ_F32, 5, 19}, 0, IJ_CASE_GRAD},
    {"min", {IJ_MIN, IJ_F32, 1, 19}, 0, 0},
    {"max", {IJ_MAX, IJ_F32, 5, 19}, SMALL_VALUES, 0},
    {"mul row", {IJ_MUL, IJ_F32, 7, 36}, Y_ROW, 0},
    {"div number", {IJ_DIV, IJ_F32, 7, 37}, Y_NUMBER, IJ_CASE_GRAD},
    {"number div", {IJ_DIV, IJ_F32, 7, 37}, X_NUMBER, 0},
    {"number pow", {IJ_POW, IJ_F32, 7, 37}, X_NUMBER, IJ_CASE_GRAD},
    {"turned mul", {IJ_MUL, IJ_F32, 7, 36}, X_TURNED, 0},
    {"row sub column", {IJ_SUB, IJ_F32, 7, 36}, X_ROW | Y_COLUMN, 0},
    {"pow 0", {IJ_POW, IJ_F32, 7, 37}, SMALL_VALUES, 0},
    {"nothing", {IJ_ADD, IJ_F32, 0, 5}, 0, 0},
    {"vith row", {IJ_MUL, IJ_F32, 257, 1280}, Y_ROW, 0},
    {"1e7 mul", {IJ_MUL, IJ_F32, 1, 10000000}, 0, IJ_CASE_BENCH},
    {0},
};

enum { SIZE };
enum { C_ROW = 1, Y_REPEATS = 2, NO_X = 4, NO_Y = 8 };
static void choose(ij_case *c) { /* dims size, type, rows, columns */
  const ij_dim *d = c->dim;
  ij_dim n = d[ROWS] * d[COLUMNS];
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in_as(c, "c", IJ_U8, c->flags & C_ROW ? d[COLUMNS] : n, IJ_CASE_INDEX, 2);
  if (c->flags & NO_X) ij_case_null(c);
  else ij_case_in_as(c, "x", (int)d[TYPE], n, IJ_CASE_INDEX, 200);
  if (c->flags & NO_Y) ij_case_null(c);
  else ij_case_in_as(c, "y", (int)d[TYPE], c->flags & Y_REPEATS ? d[COLUMNS] : n, IJ_CASE_INDEX, 200);
  ij_case_out(c, "z", (int)d[TYPE], n);
  c->flops = (double)n;
}
static ij_status call_choose(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim, dense[] = {d[COLUMNS], 1}, again[] = {0, 1};
  return t->choose(q, 2, d + ROWS, d[SIZE], c->p[0], c->flags & C_ROW ? again : dense, c->p[1], dense, c->p[2],
                   c->flags & Y_REPEATS ? again : dense, c->p[3]);
}
static const ij_case_shape choose_shapes[] = {
    {"f32", {4, IJ_F32, 5, 19}, 0, 0},
    {"f32 rows", {4, IJ_F32, 5, 20}, C_ROW | Y_REPEATS, 0},
    {"f32 or 0", {4, IJ_F32, 5, 20}, NO_Y, 0},
    {"0 or f32", {4, IJ_F32, 5, 20}, NO_X, 0},
    {"u8", {1, IJ_U8, 5, 19}, Y_REPEATS, 0},
    {"i64", {8, IJ_I64, 5, 20}, C_ROW, 0},
    {"nothing", {4, IJ_F32, 5, 0}, 0, 0},
    {"vith", {4, IJ_F32, 257, 1280}, 0, 0},
    {"1e7", {4, IJ_F32, 1, 10000000}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_binary[] = {
    {"binary_fwd", fwd, call_fwd, fwd_shapes, false, NULL},
    {"binary_bwd", bwd, call_bwd, bwd_shapes, false, &ij_cases_binary[0]},
    {"choose", choose, call_choose, choose_shapes, false, NULL},
    {0},
};

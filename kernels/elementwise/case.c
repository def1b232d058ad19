#include "../case.h"

static const char why[] = "one or two roundings to f32";
static const ij_case_shape plain[] = {
    {"odd", {37}, 0, IJ_CASE_GRAD},
    {"nothing", {0}, 0, 0},
    {"large", {300001}, 0, 0},
    {"vith", {1280 * 4096}, 0, IJ_CASE_BENCH},
    {0},
};

static void affine(ij_case *c) {
  ij_case_tol(c, 1e-6, 1e-6, why);
  ij_case_in(c, "x", IJ_F32, c->dim[0], 1);
  ij_case_out(c, "z", IJ_F32, c->dim[0]);
  ij_case_form(c, "z=x");
  c->flops = 2 * (double)c->dim[0];
}
static ij_status call_affine(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->affine(q, c->dim[0], -1.7f, 0.3f, c->p[0], c->p[1]);
}

static void axpy(ij_case *c) {
  ij_case_tol(c, 1e-6, 1e-6, why);
  ij_case_in(c, "x", IJ_F32, c->dim[0], 1);
  ij_case_add(c, "y", IJ_F32, c->dim[0], IJ_CASE_NORMAL, 1);
  c->flops = 2 * (double)c->dim[0];
}
static ij_status call_axpy(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->axpy(q, c->dim[0], -1.7f, c->p[0], c->p[1]);
}

static void relu_fwd(ij_case *c) {
  ij_case_tol(c, 0, 0, "a copy or 0");
  ij_case_in_as(c, "x", IJ_F32, c->dim[0], IJ_CASE_APART, 1);
  ij_case_out(c, "y", IJ_F32, c->dim[0]);
}
static ij_status call_relu_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->relu_fwd(q, c->dim[0], c->p[0], c->p[1]);
}
static void relu_bwd(ij_case *c) {
  ij_case_tol(c, 0, 0, "a copy or 0");
  ij_case_in_as(c, "x", IJ_F32, c->dim[0], IJ_CASE_APART, 1);
  ij_case_in(c, "dy", IJ_F32, c->dim[0], 1);
  ij_case_out(c, "dx", IJ_F32, c->dim[0]);
}
static ij_status call_relu_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->relu_bwd(q, c->dim[0], c->p[0], c->p[1], c->p[2]);
}

static void fill(ij_case *c) {
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_out(c, "x", IJ_F32, c->dim[0]);
}
static ij_status call_fill(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->fill(q, c->dim[0], -0.7f, c->p[0]);
}

enum { ANY_BITS = 1 };
static void convert(ij_case *c) { /* dims n, from, to; values that the types can hold: the contract covers no others */
  int from = (int)c->dim[1], to = (int)c->dim[2];
  bool whole = from == IJ_I32 || from == IJ_I64 || from == IJ_U8, bytes = from == IJ_U8 || to == IJ_U8;
  ij_case_fill how = c->flags & ANY_BITS ? IJ_CASE_BITS
                     : bytes             ? whole ? IJ_CASE_INDEX : IJ_CASE_POSITIVE
                                         : IJ_CASE_NORMAL;
  ij_case_tol(c, 0, 0, "rounding to nearest even, or toward zero, is exact");
  ij_case_in_as(c, "x", from, c->dim[0], how, bytes ? whole ? 256 : 220 : 1000);
  ij_case_out(c, "y", to, c->dim[0]);
}
static ij_status call_convert(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->convert(q, c->dim[0], (ij_dtype)c->dim[1], c->p[0], (ij_dtype)c->dim[2], c->p[1]);
}
static const ij_case_shape convert_shapes[] = {
    {"f32 f32", {37, IJ_F32, IJ_F32}, 0, 0},
    {"f32 bf16", {37, IJ_F32, IJ_BF16}, 0, 0},
    {"f32 i32", {37, IJ_F32, IJ_I32}, 0, 0},
    {"f32 i64", {37, IJ_F32, IJ_I64}, 0, 0},
    {"f32 u8", {37, IJ_F32, IJ_U8}, 0, 0},
    {"bf16 f32", {37, IJ_BF16, IJ_F32}, 0, 0},
    {"bf16 bf16", {37, IJ_BF16, IJ_BF16}, 0, 0},
    {"bf16 i32", {37, IJ_BF16, IJ_I32}, 0, 0},
    {"bf16 i64", {37, IJ_BF16, IJ_I64}, 0, 0},
    {"bf16 u8", {37, IJ_BF16, IJ_U8}, 0, 0},
    {"i32 f32", {37, IJ_I32, IJ_F32}, 0, 0},
    {"i32 bf16", {37, IJ_I32, IJ_BF16}, 0, 0},
    {"i32 i32", {37, IJ_I32, IJ_I32}, 0, 0},
    {"i32 i64", {37, IJ_I32, IJ_I64}, 0, 0},
    {"i32 u8", {37, IJ_I32, IJ_U8}, 0, 0},
    {"i64 f32", {37, IJ_I64, IJ_F32}, 0, 0},
    {"i64 bf16", {37, IJ_I64, IJ_BF16}, 0, 0},
    {"i64 i32", {37, IJ_I64, IJ_I32}, 0, 0},
    {"i64 i64", {37, IJ_I64, IJ_I64}, 0, 0},
    {"i64 u8", {37, IJ_I64, IJ_U8}, 0, 0},
    {"u8 f32", {37, IJ_U8, IJ_F32}, 0, 0},
    {"u8 bf16", {37, IJ_U8, IJ_BF16}, 0, 0},
    {"u8 i32", {37, IJ_U8, IJ_I32}, 0, 0},
    {"u8 i64", {37, IJ_U8, IJ_I64}, 0, 0},
    {"u8 u8", {37, IJ_U8, IJ_U8}, 0, 0},
    {"nothing", {0, IJ_F32, IJ_BF16}, 0, 0},
    {"any f32 bf16", {300001, IJ_F32, IJ_BF16}, ANY_BITS, 0},
    {"any bf16 f32", {70001, IJ_BF16, IJ_F32}, ANY_BITS, 0},
    {"vith f32 bf16", {4096 * 1280, IJ_F32, IJ_BF16}, 0, IJ_CASE_BENCH},
    {"vith bf16 f32", {4096 * 1280, IJ_BF16, IJ_F32}, 0, IJ_CASE_BENCH},
    {0},
};

/* dims size, nd, shape. x is dense, y dense; TURNED: x is read with its dimensions reversed; WIDE: y has gaps, which
 * stay as they are; SPREAD: x is one row, read again and again. */
enum { TURNED = 1, WIDE = 2, SPREAD = 4 };
static void strides(const ij_case *c, ij_dim *x, ij_dim *y, ij_dim *nx, ij_dim *ny) {
  int nd = (int)c->dim[1];
  const ij_dim *shape = c->dim + 2;
  *nx = 1;
  *ny = c->flags & WIDE ? 2 : 1;
  for (int i = 0; i < nd; i++) {
    int dx = c->flags & TURNED ? i : nd - 1 - i, dy = nd - 1 - i;
    bool again = c->flags & SPREAD && dx < nd - 1;
    x[dx] = again ? 0 : *nx;
    if (!again) *nx *= shape[dx];
    y[dy] = *ny;
    *ny *= shape[dy];
  }
}
static void copy(ij_case *c) {
  ij_dim x[6], y[6], nx, ny;
  strides(c, x, y, &nx, &ny);
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in_as(c, "x", IJ_U8, nx * c->dim[0], IJ_CASE_INDEX, 255); /* 255 marks what is not written */
  ij_case_out(c, "y", IJ_U8, ny * c->dim[0]);
}
static ij_status call_copy(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  ij_dim x[6], y[6], nx, ny;
  strides(c, x, y, &nx, &ny);
  return t->copy(q, (int)c->dim[1], c->dim + 2, c->dim[0], c->p[0], x, c->p[1], y);
}
static const ij_case_shape copy_shapes[] = {
    {"bytes", {1, 3, 3, 5, 7}, 0, 0},
    {"bytes turned", {1, 3, 3, 5, 7}, TURNED, 0},
    {"2 turned", {2, 4, 2, 3, 5, 7}, TURNED, 0},
    {"4 turned", {4, 2, 13, 19}, TURNED, 0},
    {"8 turned wide", {8, 3, 4, 3, 5}, TURNED | WIDE, 0},
    {"4 wide", {4, 6, 2, 1, 3, 2, 3, 1}, WIDE, 0},
    {"4 spread", {4, 2, 5, 17}, SPREAD, 0},
    {"one", {4, 0}, 0, 0},
    {"nothing", {4, 2, 0, 5}, 0, 0},
    {"vith", {4, 2, 257, 1280}, 0, 0},
    {"vith turned", {4, 2, 1280, 257}, TURNED, 0},
    {"vith", {4, 2, 4096, 1280}, 0, IJ_CASE_BENCH},
    {"vith turned", {4, 2, 1280, 4096}, TURNED, IJ_CASE_BENCH},
    {0},
};

enum { NO_B = 1 };
static void scale_rows(ij_case *c) { /* dims Q, n, D */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-2, "a sum and a product, rounded to the type");
  ij_case_in(c, "x", c->dt, d[0] * d[1] * d[2], 1);
  if (c->flags & NO_B) ij_case_null(c);
  else ij_case_in(c, "b", IJ_F32, d[2], 1);
  ij_case_in(c, "s", IJ_F32, d[0], 1);
  ij_case_out(c, "y", c->dt, d[0] * d[1] * d[2]);
  ij_case_form(c, "y=x");
}
static ij_status call_scale_rows(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->scale_rows(q, c->dt, c->dim[0], c->dim[1], c->dim[2], c->p[0], c->p[1], c->p[2], c->p[3]);
}
static const ij_case_shape scale_rows_shapes[] = {
    {"odd", {3, 5, 19}, 0, 0},      {"odd no b", {7, 2, 13}, NO_B, 0},          {"no rows", {0, 2, 8}, 0, 0},
    {"vits", {16, 196, 384}, 0, 0}, {"vits", {64, 196, 384}, 0, IJ_CASE_BENCH}, {0},
};

const ij_case_op ij_cases_elementwise[] = {
    {"affine", affine, call_affine, plain, false, NULL},
    {"axpy", axpy, call_axpy, plain, false, NULL},
    {"relu_fwd", relu_fwd, call_relu_fwd, plain, false, NULL},
    {"relu_bwd", relu_bwd, call_relu_bwd, plain, false, &ij_cases_elementwise[2]},
    {"fill", fill, call_fill, plain, false, NULL},
    {"convert", convert, call_convert, convert_shapes, false, NULL},
    {"scale_rows", scale_rows, call_scale_rows, scale_rows_shapes, true, NULL},
    {"copy", copy, call_copy, copy_shapes, false, NULL},
    {0},
};

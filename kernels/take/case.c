#include "../case.h"

enum { TYPE, P, T, N, Q }; /* dims: type; x (P, N, Q) at index (P, T, Q), or (T) with SHARED */
enum { SHARED = 1 };

static ij_dim size_of(ij_dim type) { return type == IJ_U8 ? 1 : type == IJ_I64 ? 8 : 4; }
static ij_dim positions(const ij_case *c) { return c->dim[T] * (c->flags & SHARED ? 1 : c->dim[P] * c->dim[Q]); }

static void take(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in_as(c, "x", (int)d[TYPE], d[P] * d[N] * d[Q], IJ_CASE_INDEX, 200);
  ij_case_in_as(c, "index", IJ_I32, positions(c), IJ_CASE_INDEX, (double)d[N]);
  ij_case_out(c, "y", (int)d[TYPE], d[P] * d[T] * d[Q]);
}
static ij_status call_take(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->take(q, size_of(d[TYPE]), d[P], d[T], d[N], d[Q], (c->flags & SHARED) != 0, c->p[0], c->p[1], c->p[2]);
}
static void scatter_add(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "f32 sums in one order");
  ij_case_in_as(c, "x", (int)d[TYPE], d[P] * d[T] * d[Q], d[TYPE] == IJ_F32 ? IJ_CASE_NORMAL : IJ_CASE_INDEX,
                d[TYPE] == IJ_F32 ? 1 : 200);
  ij_case_in_as(c, "index", IJ_I32, positions(c), IJ_CASE_INDEX, (double)d[N]);
  ij_case_add(c, "y", (int)d[TYPE], d[P] * d[N] * d[Q], IJ_CASE_INDEX, 20);
}
static ij_status call_scatter_add(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->scatter_add(q, (ij_dtype)d[TYPE], d[P], d[T], d[N], d[Q], (c->flags & SHARED) != 0, c->p[0], c->p[1],
                        c->p[2]);
}
static const ij_case_shape shapes[] = {
    {"odd", {IJ_F32, 3, 5, 7, 11}, 0, 0},
    {"odd shared", {IJ_F32, 3, 5, 7, 11}, SHARED, 0},
    {"rows", {IJ_F32, 5, 4, 37, 1}, 0, 0},
    {"rows many", {IJ_F32, 5, 90, 37, 1}, 0, 0},
    {"one row", {IJ_F32, 1, 1000, 50, 1}, SHARED, 0},
    {"first", {IJ_F32, 1, 90, 20, 33}, SHARED, 0},
    {"i32", {IJ_I32, 3, 5, 7, 11}, 0, 0},
    {"i64", {IJ_I64, 3, 50, 7, 2}, SHARED, 0},
    {"u8", {IJ_U8, 3, 50, 7, 3}, 0, 0},
    {"nothing", {IJ_F32, 3, 0, 7, 2}, 0, 0},
    {"from nothing", {IJ_F32, 0, 3, 7, 2}, SHARED, 0},
    {"large", {IJ_F32, 1, 3000, 500, 64}, SHARED, 0},
    {"1e7", {IJ_F32, 1, 10000, 50000, 1000}, SHARED, IJ_CASE_BENCH},
    {0},
};
const ij_case_op ij_cases_take[] = {
    {"take", take, call_take, shapes, false, NULL},
    {"scatter_add", scatter_add, call_scatter_add, shapes, false, NULL},
    {0},
};

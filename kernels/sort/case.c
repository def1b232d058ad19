#include "../case.h"

enum { TYPE, R, N }; /* dims: type, x (R, N) */
enum { DESCENDING = 1, EQUALS = 2, HOLES = 4 };

static void sort(ij_case *c) {
  const ij_dim *d = c->dim;
  bool whole = d[TYPE] != IJ_F32;
  ij_case_tol(c, 0, 0, "values and positions as they are");
  ij_case_in_as(c, "x", (int)d[TYPE], d[R] * d[N],
                c->flags & HOLES    ? IJ_CASE_HOLES
                : c->flags & EQUALS ? IJ_CASE_INDEX
                : whole             ? IJ_CASE_BITS
                                    : IJ_CASE_NORMAL,
                c->flags & EQUALS ? 5 : 1);
  ij_case_out(c, "v", (int)d[TYPE], d[R] * d[N]);
  ij_case_out(c, "index", IJ_I32, d[R] * d[N]);
}
static ij_status call_sort(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->sort(q, (ij_dtype)d[TYPE], d[R], d[N], (c->flags & DESCENDING) != 0, c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape shapes[] = {
    {"odd", {IJ_F32, 5, 37}, 0, 0},
    {"odd falling", {IJ_F32, 5, 37}, DESCENDING, 0},
    {"equals", {IJ_F32, 7, 67}, EQUALS, 0},
    {"equals falling", {IJ_F32, 7, 67}, EQUALS | DESCENDING, 0},
    {"holes", {IJ_F32, 3, 331}, HOLES, 0},
    {"holes falling", {IJ_F32, 3, 331}, HOLES | DESCENDING, 0},
    {"i32", {IJ_I32, 3, 65}, 0, 0},
    {"i64 falling", {IJ_I64, 3, 64}, DESCENDING, 0},
    {"u8", {IJ_U8, 3, 600}, EQUALS, 0},
    {"one", {IJ_F32, 3, 1}, 0, 0},
    {"two", {IJ_F32, 3, 2}, 0, 0},
    {"no rows", {IJ_F32, 0, 5}, 0, 0},
    {"of nothing", {IJ_F32, 5, 0}, 0, 0},
    {"long", {IJ_F32, 1, 30011}, 0, 0},
    {"1e6 rows", {IJ_F32, 1000, 1000}, 0, IJ_CASE_BENCH},
    {"1e6", {IJ_F32, 1, 1000000}, 0, IJ_CASE_BENCH},
    {0},
};
const ij_case_op ij_cases_sort[] = {
    {"sort", sort, call_sort, shapes, false, NULL},
    {0},
};

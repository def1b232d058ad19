#include "../case.h"
#include <math.h>

static void sum_fwd(ij_case *c) { /* dims P, n, Q */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-5, "a sum of n in f32");
  ij_case_unit(c, 0.3 * sqrt((double)d[1])); /* a single sum may come out near 0 */
  ij_case_in(c, "x", IJ_F32, d[0] * d[1] * d[2], 1);
  ij_case_out(c, "y", IJ_F32, d[0] * d[2]);
  c->flops = (double)(d[0] * d[1] * d[2]);
}
static ij_status call_sum_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->sum_fwd(q, c->dim[0], c->dim[1], c->dim[2], 0.3f, c->p[0], c->p[1]);
}
static void sum_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-6, "one product");
  ij_case_in(c, "dy", IJ_F32, d[0] * d[2], 1);
  ij_case_out(c, "dx", IJ_F32, d[0] * d[1] * d[2]);
  c->flops = (double)(d[0] * d[1] * d[2]);
}
static ij_status call_sum_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->sum_bwd(q, c->dim[0], c->dim[1], c->dim[2], 0.3f, c->p[0], c->p[1]);
}
static const ij_case_shape sum_shapes[] = {
    {"odd", {3, 7, 5}, 0, IJ_CASE_GRAD},
    {"odd rows", {5, 19, 1}, 0, IJ_CASE_GRAD},
    {"odd columns", {1, 13, 37}, 0, IJ_CASE_GRAD},
    {"of nothing", {3, 0, 5}, 0, 0},
    {"all", {1, 100003, 1}, 0, 0},
    {"vith pool", {2, 256, 1280}, 0, 0},
    {"first", {1, 20011, 37}, 0, 0},
    {"vith pool", {16, 256, 1280}, 0, IJ_CASE_BENCH},
    {"1e7", {1, 10000000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 last", {10000, 1000, 1}, 0, IJ_CASE_BENCH},
    {"1e7 first", {1, 10000, 1000}, 0, IJ_CASE_BENCH},
    {"1e7 middle", {100, 1000, 100}, 0, IJ_CASE_BENCH},
    {0},
};

static void topk(ij_case *c) { /* dims R, n, k, count of different values (0: all differ) */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "values and places as they are");
  ij_case_in_as(c, "x", IJ_F32, d[0] * d[1], d[3] ? d[3] < 0 ? IJ_CASE_HOLES : IJ_CASE_LABEL : IJ_CASE_NORMAL,
                d[3] > 0 ? (double)d[3] : 1);
  ij_case_out(c, "v", IJ_F32, d[0] * d[2]);
  ij_case_out(c, "index", IJ_I32, d[0] * d[2]);
}
static ij_status call_topk(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->topk(q, c->dim[0], c->dim[1], c->dim[2], c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape topk_shapes[] = {
    {"odd", {7, 331, 5}, 0, 0},
    {"equals", {5, 200, 9, 4}, 0, 0},
    {"holes", {3, 150, 20, -1}, 0, 0},
    {"all", {3, 11, 11}, 0, 0},
    {"one", {2, 1, 1}, 0, 0},
    {"no rows", {0, 5, 3}, 0, 0},
    {"neighbours", {8, 5000, 20}, 0, 0},
    {"neighbours", {256, 50000, 20}, 0, IJ_CASE_BENCH},
    {0},
};

enum { HOLES = 1 };
static void sum_squares(ij_case *c) {
  ij_case_tol(c, 1e-6, 1e-6, "summed in double, or in f32 over short pieces");
  ij_case_in_as(c, "x", IJ_F32, c->dim[0], c->flags & HOLES ? IJ_CASE_HOLES : IJ_CASE_NORMAL, 1);
  ij_case_add(c, "out", IJ_CASE_F64, 2, IJ_CASE_INDEX, 9);
  c->flops = 2 * (double)c->dim[0];
}
static ij_status call_sum_squares(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->sum_squares(q, c->dim[0], c->p[0], c->p[1]);
}
static const ij_case_shape sum_squares_shapes[] = {
    {"odd", {37}, 0, 0},
    {"holes", {1031}, HOLES, 0},
    {"nothing", {0}, 0, 0},
    {"large", {1000003}, 0, 0},
    {"vith fc1", {1280 * 5120}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_reduce[] = {
    {"sum_fwd", sum_fwd, call_sum_fwd, sum_shapes, false, NULL},
    {"sum_bwd", sum_bwd, call_sum_bwd, sum_shapes, false, &ij_cases_reduce[0]},
    {"topk", topk, call_topk, topk_shapes, false, NULL},
    {"sum_squares", sum_squares, call_sum_squares, sum_squares_shapes, false, NULL},
    {0},
};

#include "../case.h"

enum { P, M, N, K };
enum { TA = 1, TB = 2 };

static void matmul(ij_case *c) { /* its gradients are matmuls again: tests/lua/test_tensor.lua checks them */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-5, "sums of K in f32");
  ij_case_in(c, "a", IJ_F32, d[P] * d[M] * d[K], 1);
  ij_case_in(c, "b", IJ_F32, d[P] * d[K] * d[N], 1);
  ij_case_out(c, "c", IJ_F32, d[P] * d[M] * d[N]);
  c->flops = 2 * (double)d[P] * (double)(d[M] * d[N] * d[K]);
}
static ij_status call(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->matmul(q, d[P], d[M], d[N], d[K], (c->flags & TA) != 0, (c->flags & TB) != 0, c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape shapes[] = {
    {"odd", {3, 5, 7, 11}, 0, 0},
    {"odd ta", {3, 5, 7, 11}, TA, 0},
    {"odd tb", {3, 5, 7, 11}, TB, 0},
    {"odd both", {3, 5, 7, 11}, TA | TB, 0},
    {"one product", {1, 37, 19, 65}, TB, 0},
    {"of nothing", {2, 3, 4, 0}, 0, 0},
    {"no products", {0, 3, 4, 5}, TA, 0},
    {"pool", {64, 12, 192, 64}, 0, 0},
    {"pool back", {64, 12, 64, 192}, TB, 0},
    {"values back", {36, 64, 192, 64}, TA, 0},
    {"pool", {256, 36, 192, 196}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_matmul[] = {
    {"matmul", matmul, call, shapes, false, NULL},
    {0},
};

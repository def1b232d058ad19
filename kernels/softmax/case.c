#include "../case.h"

enum { R, N };
enum { LARGE = 1 };

static void fwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[N];
  ij_case_tol(c, 1e-5, 1e-5, "sums of n and exp to 1e-6 in f32");
  ij_case_in(c, "x", IJ_F32, n, c->flags & LARGE ? 90 : 3);
  ij_case_out(c, "y", IJ_F32, n);
  ij_case_form(c, "y=x");
  c->flops = 20 * (double)n;
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->softmax_fwd(q, c->dim[R], c->dim[N], c->p[0], c->p[1]);
}
static void bwd(ij_case *c) {
  ij_dim n = c->dim[R] * c->dim[N];
  ij_case_tol(c, 1e-5, 1e-5, "a sum of n in f32");
  ij_case_in(c, "y", IJ_F32, n, 1);
  ij_case_in(c, "dy", IJ_F32, n, 1);
  ij_case_out(c, "dx", IJ_F32, n);
  ij_case_form(c, "dx=dy");
  c->flops = 4 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->softmax_bwd(q, c->dim[R], c->dim[N], c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape shapes[] = {
    {"odd", {7, 13}, 0, IJ_CASE_GRAD},
    {"odd long", {3, 67}, 0, IJ_CASE_GRAD},
    {"odd large", {11, 19}, LARGE, 0},
    {"one", {5, 1}, 0, 0},
    {"no rows", {0, 9}, 0, 0},
    {"patches", {128, 256}, 0, 0},
    {"patches", {4096, 256}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_softmax[] = {
    {"softmax_fwd", fwd, call_fwd, shapes, false, NULL},
    {"softmax_bwd", bwd, call_bwd, shapes, false, &ij_cases_softmax[0]},
    {0},
};

#include "../case.h"

enum { N, K };

static const char why[] = "one product, rounded";
static const char why_sum[] = "a sum over K in f32";

static void inputs(ij_case *c) {
  ij_case_in(c, "g", IJ_F32, c->dim[N], 1);
  ij_case_in(c, "w", IJ_F32, c->dim[N] * c->dim[K], 1);
  ij_case_in(c, "b", IJ_F32, c->dim[N], 1);
}
static void fwd(ij_case *c) {
  inputs(c);
  ij_case_tol(c, 1e-7, 1e-7, why);
  ij_case_out(c, "ws", IJ_F32, c->dim[N] * c->dim[K]);
  ij_case_out(c, "bs", IJ_F32, c->dim[N]);
  c->flops = (double)(c->dim[N] * c->dim[K]);
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->weight_scale_fwd(q, c->dim[N], c->dim[K], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4]);
}
static void bwd(ij_case *c) {
  ij_dim n = c->dim[N] * c->dim[K];
  inputs(c);
  ij_case_in(c, "dws", IJ_F32, n, 1);
  ij_case_in(c, "dbs", IJ_F32, c->dim[N], 1);
  ij_case_tol(c, 2e-5, 2e-5, why_sum);
  ij_case_add(c, "dg", IJ_F32, c->dim[N], IJ_CASE_NORMAL, 1);
  ij_case_tol(c, 5e-7, 5e-7, why);
  ij_case_add(c, "dw", IJ_F32, n, IJ_CASE_NORMAL, 1);
  ij_case_add(c, "db", IJ_F32, c->dim[N], IJ_CASE_NORMAL, 1);
  c->flops = 4.0 * (double)n;
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->weight_scale_bwd(q, c->dim[N], c->dim[K], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4], c->p[5], c->p[6],
                             c->p[7]);
}

static const ij_case_shape shapes[] = {
    {"odd", {5, 19}, 0, IJ_CASE_GRAD}, {"one", {1, 1}, 0, IJ_CASE_GRAD},        {"vits", {384, 1536}, 0, 0},
    {"odd wide", {3, 5001}, 0, 0},     {"vits", {384, 1536}, 0, IJ_CASE_BENCH}, {0},
};

const ij_case_op ij_cases_weight_scale[] = {
    {"weight_scale_fwd", fwd, call_fwd, shapes, false, NULL},
    {"weight_scale_bwd", bwd, call_bwd, shapes, false, &ij_cases_weight_scale[0]},
    {0},
};

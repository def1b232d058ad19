#include "../case.h"

enum { B, C, H, W, KH, KW, STRIDE, PAD };

static ij_dim windows(const ij_dim *d) {
  return d[B] * ((d[H] + 2 * d[PAD] - d[KH]) / d[STRIDE] + 1) * ((d[W] + 2 * d[PAD] - d[KW]) / d[STRIDE] + 1);
}
static void fwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "a copy or 0");
  ij_case_in(c, "x", IJ_F32, d[B] * d[C] * d[H] * d[W], 1);
  ij_case_out(c, "y", IJ_F32, windows(d) * d[C] * d[KH] * d[KW]);
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->im2col_fwd(q, d[B], d[C], d[H], d[W], d[KH], d[KW], d[STRIDE], d[PAD], c->p[0], c->p[1]);
}
static void bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-6, "a sum of a few in f32");
  ij_case_in(c, "dy", IJ_F32, windows(d) * d[C] * d[KH] * d[KW], 1);
  ij_case_out(c, "dx", IJ_F32, d[B] * d[C] * d[H] * d[W]);
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->im2col_bwd(q, d[B], d[C], d[H], d[W], d[KH], d[KW], d[STRIDE], d[PAD], c->p[0], c->p[1]);
}
static const ij_case_shape shapes[] = {
    {"3 x 3", {2, 3, 7, 5, 3, 3, 1, 1}, 0, IJ_CASE_GRAD},
    {"by 2", {2, 2, 9, 6, 3, 2, 2, 1}, 0, IJ_CASE_GRAD},
    {"patches", {2, 3, 8, 12, 4, 4, 4, 0}, 0, IJ_CASE_GRAD},
    {"wide border", {1, 1, 2, 3, 2, 2, 3, 4}, 0, 0},
    {"one", {1, 1, 1, 1, 1, 1, 1, 0}, 0, 0},
    {"no images", {0, 3, 7, 5, 3, 3, 1, 1}, 0, 0},
    {"stem", {2, 16, 28, 28, 3, 3, 2, 1}, 0, 0},
    {"stem", {16, 64, 56, 56, 3, 3, 1, 1}, 0, IJ_CASE_BENCH},
    {0},
};
const ij_case_op ij_cases_im2col[] = {
    {"im2col_fwd", fwd, call_fwd, shapes, false, NULL},
    {"im2col_bwd", bwd, call_bwd, shapes, false, &ij_cases_im2col[0]},
    {0},
};

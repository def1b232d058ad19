#include "../case.h"

enum { B, N, A, S, K, W };
enum { NORM = 1, ROPE = 2, NO_BIAS = 4, ALL = 8 }; /* ALL: no list of patches */

static const float EPS = 1e-6f;
static const char why[] = "norms and rotations in f32; bf16: the result is rounded to a neighbour";
static const char why_grad[] = "a norm's gradient in f32 from the same numbers; bf16: rounded to a neighbour";
static const char why_sum[] = "a sum over tokens, in f32 or of rounded numbers";

static ij_dim elements(const ij_case *c) { return c->dim[B] * c->dim[N] * 3 * c->dim[A] * c->dim[S]; }

static void inputs(ij_case *c) {
  ij_dim rows = (c->dim[K] + c->dim[W] - 1) / c->dim[W], places = rows > c->dim[W] ? rows : c->dim[W];
  ij_case_in(c, "qkv", c->dt, elements(c), 1);
  if (c->flags & NO_BIAS) ij_case_null(c);
  else ij_case_in(c, "bias", IJ_F32, 3 * c->dim[A] * c->dim[S], 1);
  if (c->flags & NORM) ij_case_in(c, "norm", IJ_F32, 4 * c->dim[S], 1);
  else ij_case_null(c);
  if (c->flags & ROPE) ij_case_in(c, "rope", IJ_F32, places * c->dim[S] / 2, 1);
  else ij_case_null(c);
  if (c->flags & ROPE && !(c->flags & ALL))
    ij_case_in_as(c, "pos", IJ_I32, c->dim[B] * c->dim[K], IJ_CASE_INDEX, (double)c->dim[K]);
  else ij_case_null(c);
}

static void fwd(ij_case *c) {
  ij_case_tol(c, 2e-6, 0x1p-7, why);
  inputs(c);
  ij_case_out(c, "out", c->dt, elements(c));
  ij_case_form(c, "out=qkv");
  c->flops = 10.0 * (double)elements(c);
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->heads_fwd(q, c->dt, d[B], d[N], d[A], d[S], d[K], d[W], EPS, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4],
                      c->p[5]);
}

static void bwd(ij_case *c) {
  inputs(c);
  ij_case_in(c, "dout", c->dt, elements(c), 1);
  ij_case_tol(c, 2e-5, 0x1p-6, why_grad);
  ij_case_out(c, "dqkv", c->dt, elements(c));
  ij_case_tol(c, 2e-5, 0x1p-6, why_sum);
  if (c->flags & NO_BIAS) ij_case_null(c);
  else ij_case_add(c, "dbias", IJ_F32, 3 * c->dim[A] * c->dim[S], IJ_CASE_NORMAL, 1);
  if (c->flags & NORM) ij_case_add(c, "dnorm", IJ_F32, 4 * c->dim[S], IJ_CASE_NORMAL, 1);
  else ij_case_null(c);
  ij_case_form(c, "dqkv=dout");
  c->flops = 20.0 * (double)elements(c);
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->heads_bwd(q, c->dt, d[B], d[N], d[A], d[S], d[K], d[W], EPS, c->p[0], c->p[1], c->p[2], c->p[3], c->p[4],
                      c->p[5], c->p[6], c->p[7], c->p[8]);
}

static const ij_case_shape shapes[] = {
    {"rope", {2, 5, 2, 8, 4, 2}, ROPE, IJ_CASE_GRAD},
    {"norm", {2, 3, 2, 7, 3, 3}, NORM, IJ_CASE_GRAD},
    {"both", {2, 4, 2, 12, 3, 2}, NORM | ROPE, IJ_CASE_GRAD},
    {"both, all, no bias", {1, 6, 3, 20, 4, 3}, NORM | ROPE | NO_BIAS | ALL, IJ_CASE_GRAD},
    {"bias", {1, 3, 1, 5, 3, 1}, 0, IJ_CASE_GRAD},
    {"no rows", {0, 4, 2, 8, 4, 2}, NORM | ROPE, 0},
    {"vits", {2, 37, 6, 64, 33, 7}, NORM | ROPE, 0},
    {"vith", {1, 33, 16, 80, 33, 6}, NORM | ROPE | ALL, 0},
    {"wide", {1, 5, 1, 300, 5, 3}, NORM | ROPE, 0},
    {"vits", {32, 200, 6, 64, 196, 14}, NORM | ROPE | ALL, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_heads[] = {
    {"heads_fwd", fwd, call_fwd, shapes, true, NULL},
    {"heads_bwd", bwd, call_bwd, shapes, true, &ij_cases_heads[0]},
    {0},
};

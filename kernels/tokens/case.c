#include "../case.h"

enum { NO_B = 1, NO_INDEX = 2 };
static const char why[] = "two additions in f32";

static void pos_add(ij_case *c) {
  enum { R, D, N };
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-6, why);
  ij_case_in(c, "x", c->dt, d[R] * d[D], 1);
  if (c->flags & NO_B) ij_case_null(c);
  else ij_case_in(c, "b", IJ_F32, d[D], 1);
  ij_case_in(c, "pos", IJ_F32, d[N] * d[D], 1);
  if (c->flags & NO_INDEX) ij_case_null(c);
  else ij_case_in_as(c, "index", IJ_I32, d[R], IJ_CASE_INDEX, (double)d[N]);
  ij_case_out(c, "y", IJ_F32, d[R] * d[D]);
  c->flops = 2 * (double)(d[R] * d[D]);
}
static ij_status call_pos_add(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->pos_add(q, c->dt, c->dim[0], c->dim[1], c->dim[2], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4]);
}
static const ij_case_shape pos_add_shapes[] = {
    {"odd", {7, 19, 5}, 0, 0},
    {"odd all", {15, 33, 5}, NO_INDEX, 0},
    {"odd no b", {7, 19, 5}, NO_B, 0},
    {"no rows", {0, 8, 5}, 0, 0},
    {"vith", {160, 1280, 256}, 0, 0},
    {"vith", {4096, 1280, 256}, 0, IJ_CASE_BENCH},
    {0},
};

enum { M, C, B, K, T, E, N };
static ij_dim rows(const ij_dim *d) { return d[M] * d[C] * d[B] * (d[K] + d[T]); }
static void tokens_fwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 1e-6, why);
  ij_case_in(c, "x", c->dt, d[C] * d[B] * d[K] * d[E], 1);
  ij_case_in(c, "b", IJ_F32, d[E], 1);
  ij_case_in(c, "token", IJ_F32, d[E], 1);
  ij_case_in(c, "pos", IJ_F32, d[N] * d[E], 1);
  ij_case_in_as(c, "context", IJ_I32, d[C] * d[B] * d[K], IJ_CASE_INDEX, (double)d[N]);
  ij_case_in_as(c, "target", IJ_I32, d[M] * d[B] * d[T], IJ_CASE_INDEX, (double)d[N]);
  ij_case_out(c, "y", IJ_F32, rows(d) * d[E]);
  c->flops = 2 * (double)(rows(d) * d[E]);
}
static ij_status call_tokens_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->tokens_fwd(q, c->dt, d[M], d[C], d[B], d[K], d[T], d[E], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4],
                       c->p[5], c->p[6]);
}
static void tokens_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-6, 0x1p-7, "a sum over M in f32; bf16: rounded to a neighbour");
  ij_case_in(c, "dy", IJ_F32, rows(d) * d[E], 1);
  ij_case_out(c, "dx", c->dt, d[C] * d[B] * d[K] * d[E]);
  ij_case_tol(c, 1e-5, 1e-5, "a sum over M C B T in f32");
  ij_case_add(c, "dtoken", IJ_F32, d[E], IJ_CASE_NORMAL, 1);
  c->flops = (double)(rows(d) * d[E]);
}
static ij_status call_tokens_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->tokens_bwd(q, c->dt, d[M], d[C], d[B], d[K], d[T], d[E], c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape tokens_shapes[] = {
    {"odd", {3, 2, 2, 5, 3, 7, 11}, 0, IJ_CASE_GRAD},
    {"one context", {4, 1, 3, 4, 5, 19, 9}, 0, IJ_CASE_GRAD},
    {"no targets", {0, 1, 2, 3, 4, 5, 9}, 0, 0},
    {"no context", {2, 1, 2, 0, 4, 5, 9}, 0, 0},
    {"no images", {4, 1, 0, 3, 2, 8, 9}, 0, 0},
    {"vith", {4, 1, 2, 80, 40, 384, 256}, 0, 0},
    {"vith", {4, 1, 32, 110, 40, 384, 256}, 0, IJ_CASE_BENCH},
    {0},
};

static void tail_fwd(ij_case *c) { /* dims Q, N, first, D */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in(c, "x", IJ_F32, d[0] * d[1] * d[3], 1);
  ij_case_out(c, "y", IJ_F32, d[0] * (d[1] - d[2]) * d[3]);
}
static ij_status call_tail_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->tail_fwd(q, c->dim[0], c->dim[1], c->dim[2], c->dim[3], c->p[0], c->p[1]);
}
static void tail_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in(c, "dy", IJ_F32, d[0] * (d[1] - d[2]) * d[3], 1);
  ij_case_out(c, "dx", IJ_F32, d[0] * d[1] * d[3]);
}
static ij_status call_tail_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->tail_bwd(q, c->dim[0], c->dim[1], c->dim[2], c->dim[3], c->p[0], c->p[1]);
}
static const ij_case_shape tail_shapes[] = {
    {"odd", {3, 7, 4, 5}, 0, IJ_CASE_GRAD},
    {"all", {2, 5, 0, 9}, 0, 0},
    {"none", {2, 5, 5, 3}, 0, 0},
    {"no rows", {0, 5, 2, 3}, 0, 0},
    {"vith", {8, 120, 80, 384}, 0, 0},
    {"vith", {128, 150, 110, 384}, 0, IJ_CASE_BENCH},
    {0},
};

static void gather_fwd(ij_case *c) { /* dims M, B, T, N, D */
  const ij_dim *d = c->dim;
  ij_case_tol(c, 0, 0, "a copy");
  ij_case_in(c, "x", IJ_F32, d[1] * d[3] * d[4], 1);
  ij_case_in_as(c, "index", IJ_I32, d[0] * d[1] * d[2], IJ_CASE_INDEX, (double)d[3]);
  ij_case_out(c, "y", IJ_F32, d[0] * d[1] * d[2] * d[4]);
}
static ij_status call_gather_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->gather_fwd(q, d[0], d[1], d[2], d[3], d[4], c->p[0], c->p[1], c->p[2]);
}
static void gather_bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_case_tol(c, 1e-5, 1e-5, "sums over M T in f32");
  ij_case_in(c, "dy", IJ_F32, d[0] * d[1] * d[2] * d[4], 1);
  ij_case_in_as(c, "index", IJ_I32, d[0] * d[1] * d[2], IJ_CASE_INDEX, (double)d[3]);
  ij_case_add(c, "dx", IJ_F32, d[1] * d[3] * d[4], IJ_CASE_NORMAL, 1);
  c->flops = (double)(d[0] * d[1] * d[2] * d[4]);
}
static ij_status call_gather_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->gather_bwd(q, d[0], d[1], d[2], d[3], d[4], c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape gather_shapes[] = {
    {"odd", {3, 2, 5, 4, 7}, 0, IJ_CASE_GRAD},
    {"no targets", {0, 2, 5, 4, 7}, 0, 0},
    {"no patches", {2, 2, 0, 4, 7}, 0, 0},
    {"vith", {4, 2, 40, 256, 1280}, 0, 0},
    {"vith", {4, 16, 40, 256, 1280}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_tokens[] = {
    {"pos_add", pos_add, call_pos_add, pos_add_shapes, true, NULL},
    {"tokens_fwd", tokens_fwd, call_tokens_fwd, tokens_shapes, true, NULL},
    {"tokens_bwd", tokens_bwd, call_tokens_bwd, tokens_shapes, true, &ij_cases_tokens[1]},
    {"tail_fwd", tail_fwd, call_tail_fwd, tail_shapes, false, NULL},
    {"tail_bwd", tail_bwd, call_tail_bwd, tail_shapes, false, &ij_cases_tokens[3]},
    {"gather_fwd", gather_fwd, call_gather_fwd, gather_shapes, false, NULL},
    {"gather_bwd", gather_bwd, call_gather_bwd, gather_shapes, false, &ij_cases_tokens[5]},
    {0},
};

#include "../case.h"

enum { B, N, A, S, FIRST };
enum { NO_BIAS = 1, NO_LSE = 2, FROZEN = 4, LARGE = 8 }; /* FROZEN: a bias, but no gradient of it */

static const char why[] =
    "sums over S and N in f32 and exp to 1e-6; bf16: queries with their bias, probabilities, their "
    "gradients and the result are rounded by 2^-9 each";

static const char why_large[] = "logits beyond 100: 6e-8 (bf16: 2^-9) of them is the relative error of a probability";

static void tolerate(ij_case *c, double f32) {
  if (c->flags & LARGE) ij_case_tol(c, 100 * f32, 2, why_large);
  else ij_case_tol(c, f32, 2e-2, why);
}

static double pairs(const ij_dim *d) { return (double)(d[B] * d[A]) * (double)(d[N] - d[FIRST]) * (double)d[N]; }

static void fwd(ij_case *c) {
  const ij_dim *d = c->dim;
  tolerate(c, 1e-5);
  ij_case_in(c, "qkv", c->dt, d[B] * d[N] * 3 * d[A] * d[S], c->flags & LARGE ? 6 : 1);
  if (c->flags & NO_BIAS) ij_case_null(c);
  else ij_case_in(c, "bias", IJ_F32, 3 * d[A] * d[S], 0.5);
  ij_case_out(c, "out", c->dt, d[B] * d[N] * d[A] * d[S]);
  if (c->flags & NO_LSE) ij_case_null(c);
  else ij_case_out(c, "lse", IJ_F32, d[B] * d[A] * d[N]);
  c->flops = 4 * pairs(d) * (double)d[S];
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->attention_fwd(q, c->dt, d[B], d[N], d[A], d[S], d[FIRST], c->p[0], c->p[1], c->p[2], c->p[3]);
}

static void bwd(ij_case *c) {
  const ij_dim *d = c->dim;
  ij_dim row = d[A] * d[S];
  tolerate(c, 2e-5);
  ij_case_in(c, "qkv", c->dt, d[B] * d[N] * 3 * row, c->flags & LARGE ? 6 : 1);
  if (c->flags & NO_BIAS) ij_case_null(c);
  else ij_case_in(c, "bias", IJ_F32, 3 * row, 0.5);
  ij_case_in(c, "out", c->dt, d[B] * d[N] * row, 1);
  ij_case_in(c, "lse", IJ_F32, d[B] * d[A] * d[N], 1);
  ij_case_in(c, "dout", c->dt, d[B] * d[N] * row, 1);
  for (ij_dim b = 0; b < d[B]; b++) ij_case_unread(c, b * d[N] * row, d[FIRST] * row);
  ij_case_out(c, "dqkv", c->dt, d[B] * d[N] * 3 * row);
  if (c->flags & (NO_BIAS | FROZEN)) ij_case_null(c);
  else ij_case_add(c, "dbias", IJ_F32, 3 * row, IJ_CASE_NORMAL, 1);
  ij_case_form(c, "dqkv=qkv");
  c->flops = 10 * pairs(d) * (double)d[S];
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->attention_bwd(q, c->dt, d[B], d[N], d[A], d[S], d[FIRST], c->p[0], c->p[1], c->p[2], c->p[3], c->p[4],
                          c->p[5], c->p[6]);
}

static void weights(ij_case *c) {
  const ij_dim *d = c->dim;
  tolerate(c, 1e-5);
  ij_case_in(c, "qkv", c->dt, d[B] * d[N] * 3 * d[A] * d[S], c->flags & LARGE ? 6 : 1);
  if (c->flags & NO_BIAS) ij_case_null(c);
  else ij_case_in(c, "bias", IJ_F32, 3 * d[A] * d[S], 0.5);
  ij_case_out(c, "p", IJ_F32, d[B] * d[A] * d[N] * d[N]);
  c->flops = 2 * pairs(d) * (double)d[S];
}
static ij_status call_weights(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->attention_weights(q, c->dt, d[B], d[N], d[A], d[S], c->p[0], c->p[1], c->p[2]);
}

static const ij_case_shape shapes[] = {
    {"odd", {2, 7, 3, 5, 0}, 0, IJ_CASE_GRAD},
    {"odd last", {2, 11, 2, 7, 6}, 0, IJ_CASE_GRAD},
    {"odd no bias", {1, 35, 1, 17, 3}, NO_BIAS, IJ_CASE_GRAD},
    {"odd frozen", {1, 19, 2, 12, 0}, FROZEN, 0},
    {"odd large", {1, 23, 2, 9, 0}, LARGE, 0},
    {"odd long", {1, 613, 1, 8, 500}, 0, 0},
    {"one", {1, 1, 1, 1, 0}, 0, 0},
    {"no images", {0, 5, 2, 4, 1}, 0, 0},
    {"no queries", {1, 5, 2, 4, 5}, 0, 0},
    {"vits", {1, 130, 6, 64, 0}, 0, 0},
    {"predictor", {2, 97, 3, 32, 70}, 0, 0},
    {"vith", {1, 199, 2, 80, 0}, 0, 0},
    {"vitg", {1, 67, 1, 88, 0}, 0, 0},
    {"narrow", {1, 70, 2, 24, 5}, 0, 0},
    {"wide", {1, 66, 1, 128, 3}, 0, 0},
    {"odd wide", {2, 9, 2, 137, 4}, 0, 0},
    {"vith target", {8, 256, 16, 80, 0}, 0, IJ_CASE_BENCH},
    {"vith context", {32, 69, 16, 80, 0}, 0, IJ_CASE_BENCH},
    {"vith predictor", {32, 113, 16, 24, 0}, 0, IJ_CASE_BENCH},
    {"vith last", {32, 113, 16, 24, 69}, 0, IJ_CASE_BENCH}, /* the predictor's last block: targets alone ask */
    {0},
};
static const ij_case_shape shapes_fwd[] = {
    {"odd", {2, 7, 3, 5, 0}, 0, 0},
    {"odd last", {2, 11, 2, 7, 6}, 0, 0},
    {"odd no bias", {1, 35, 1, 17, 3}, NO_BIAS | NO_LSE, 0},
    {"odd large", {1, 23, 2, 9, 0}, LARGE, 0},
    {"odd long", {1, 613, 1, 8, 500}, 0, 0},
    {"one", {1, 1, 1, 1, 0}, 0, 0},
    {"no images", {0, 5, 2, 4, 1}, 0, 0},
    {"no queries", {1, 5, 2, 4, 5}, 0, 0},
    {"vits", {1, 197, 6, 64, 0}, 0, 0},
    {"predictor", {2, 97, 3, 32, 70}, 0, 0},
    {"vith", {1, 256, 3, 80, 0}, 0, 0},
    {"vitg", {1, 67, 1, 88, 0}, 0, 0},
    {"narrow", {1, 70, 2, 24, 5}, 0, 0},
    {"wide", {1, 66, 1, 128, 3}, 0, 0},
    {"odd wide", {2, 9, 2, 137, 4}, 0, 0},
    {"vith target", {8, 256, 16, 80, 0}, NO_LSE, IJ_CASE_BENCH},
    {"vith context", {32, 69, 16, 80, 0}, 0, IJ_CASE_BENCH},
    {"vith predictor", {32, 113, 16, 24, 0}, 0, IJ_CASE_BENCH},
    {"vith last", {32, 113, 16, 24, 69}, 0, IJ_CASE_BENCH}, /* the predictor's last block: targets alone ask */
    {0},
};

static const ij_case_shape shapes_weights[] = {
    {"odd", {2, 7, 3, 5, 0}, 0, 0},
    {"odd no bias", {1, 35, 1, 17, 0}, NO_BIAS, 0},
    {"odd large", {1, 23, 2, 9, 0}, LARGE, 0},
    {"one", {1, 1, 1, 1, 0}, 0, 0},
    {"no images", {0, 5, 2, 4, 0}, 0, 0},
    {"vits", {1, 197, 6, 64, 0}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_attention[] = {
    {"attention_fwd", fwd, call_fwd, shapes_fwd, true, NULL},
    {"attention_weights", weights, call_weights, shapes_weights, true, NULL},
    {"attention_bwd", bwd, call_bwd, shapes, true, &ij_cases_attention[0]},
    {0},
};

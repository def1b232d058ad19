#include "../case.h"

enum {
  NO_AVG = 1,
  SCALED = 2, /* gradients were scaled up before the backward */
  FRESH = 4,
  GATED = 8,
  SHUT = 16,
  SGD = 32,
  LION = 64,
  NO_M = 128,
  NESTEROV = 256,
  RATIO = 512,  /* of the first tensor */
  FOLLOW = 1024 /* averages alone */
};
static bool has_m(const ij_case *c) { return !(c->flags & NO_M); }
static bool has_v(const ij_case *c) { return !(c->flags & (SGD | LION)); }

/* Two tensors in one call, of n and n / 3 elements, the second without weight decay; dims n, t */
static void describe(ij_case *c) {
  ij_dim n = c->dim[0] + c->dim[0] / 3;
  double moment = c->flags & FRESH ? 0 : 1; /* the very first step: m and v are 0 */
  ij_case_tol(c, 1e-6, 1e-6, "ten operations in f32; the rate of .1 makes the change as large as p");
  ij_case_add(c, "p", IJ_F32, n, IJ_CASE_NORMAL, 1);
  if (c->flags & FOLLOW) ij_case_null(c);
  else ij_case_add(c, "g", IJ_F32, n, IJ_CASE_NORMAL, 1);
  if (has_m(c)) ij_case_add(c, "m", IJ_F32, n, IJ_CASE_NORMAL, moment);
  else ij_case_null(c);
  if (has_v(c)) ij_case_add(c, "v", IJ_F32, n, IJ_CASE_POSITIVE, moment);
  else ij_case_null(c);
  if (c->flags & NO_AVG) ij_case_null(c);
  else ij_case_add(c, "avg", IJ_F32, n, IJ_CASE_NORMAL, 1);
  if (c->flags & (GATED | SHUT)) ij_case_in(c, "gate", IJ_F32, 1, 1);
  else ij_case_null(c);
  if (c->flags & SHUT) ij_case_unread(c, 0, 1); /* makes it NaN */
  if (c->flags & RATIO) ij_case_in_as(c, "ratio", IJ_F32, 1, IJ_CASE_POSITIVE, 1);
  else ij_case_null(c);
  c->flops = 16 * (double)n;
}
static float *behind(float *p, ij_dim n) { return p ? p + n : NULL; }
static ij_status call(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  float *const *p = (float *const *)c->p;
  ij_dim n = c->dim[0];
  ij_update_item item[2] = {
      {.n = n, .lr = .1, .wd = .3, .p = p[0], .g = p[1], .m = p[2], .v = p[3], .avg = p[4], .ratio = p[6]},
      {.n = n / 3,
       .lr = .05,
       .p = p[0] + n,
       .g = behind(p[1], n),
       .m = behind(p[2], n),
       .v = behind(p[3], n),
       .avg = behind(p[4], n)}};
  ij_update u = {.kind = c->flags & SGD    ? IJ_UPDATE_SGD
                         : c->flags & LION ? IJ_UPDATE_LION
                                           : IJ_UPDATE_ADAMW,
                 .nesterov = (c->flags & NESTEROV) != 0,
                 .t = c->dim[1],
                 .beta1 = .9,
                 .beta2 = c->flags & LION ? .99 : .999,
                 .eps = 1e-8,
                 .gscale = c->flags & SCALED ? 1.0 / 1024 : 1.0,
                 .mom = .996,
                 .gate = p[5]};
  return t->update(q, 2, item, &u);
}
static const ij_case_shape shapes[] = {
    {"odd", {37, 1}, 0, 0},
    {"odd late", {131, 100000}, SCALED, 0},
    {"odd no average", {67, 7}, NO_AVG, 0},
    {"odd first", {37, 1}, FRESH, 0},
    {"odd open", {41, 5}, GATED, 0},
    {"odd shut", {41, 5}, SHUT, 0},
    {"nothing", {0, 1}, 0, 0},
    {"vits fc1", {384 * 1536, 3}, 0, 0},
    {"vith fc1", {1280 * 5120, 3}, 0, IJ_CASE_BENCH},
    {"sgd odd", {37, 1}, SGD, 0},
    {"sgd plain", {131, 2}, SGD | NO_M | SCALED, 0},
    {"sgd plain ratio", {64, 2}, SGD | NO_M | RATIO, 0},
    {"sgd nesterov", {67, 3}, SGD | NESTEROV, 0},
    {"sgd ratio", {131, 4}, SGD | RATIO | SCALED, 0},
    {"sgd nesterov ratio", {256, 4}, SGD | RATIO | NESTEROV | NO_AVG, 0},
    {"sgd shut", {41, 5}, SGD | SHUT, 0},
    {"sgd vits fc1", {384 * 1536, 3}, SGD, 0},
    {"sgd vith fc1", {1280 * 5120, 3}, SGD, IJ_CASE_BENCH},
    {"lion odd", {37, 1}, LION, 0},
    {"lion first", {131, 1}, LION | FRESH | SCALED, 0},
    {"lion no average", {67, 3}, LION | NO_AVG | GATED, 0},
    {"lion shut", {41, 5}, LION | SHUT, 0},
    {"lion vits fc1", {384 * 1536, 3}, LION, 0},
    {"lion vith fc1", {1280 * 5120, 3}, LION, IJ_CASE_BENCH},
    {"averages alone", {131, 3}, FOLLOW, 0},
    {"averages alone sgd", {64, 3}, FOLLOW | SGD | NO_M | GATED, 0},
    {"averages alone shut", {64, 3}, FOLLOW | LION | SHUT, 0},
    {0},
};

/* Two tensors of n and n / 3 elements and one without a ratio between them. ZERO: no gradient; NO_DECAY: and none of
 * decay, so that the second norm is 0. dims n */
enum { ZERO = 1, NO_DECAY = 2 };
static void describe_trust(ij_case *c) {
  ij_dim n = c->dim[0] + c->dim[0] / 3;
  ij_case_tol(c, 1e-6, 1e-6, "two square roots and a division in f32");
  ij_case_in(c, "p", IJ_F32, n, 1);
  ij_case_in(c, "g", IJ_F32, n, c->flags & ZERO ? 0 : 10);
  ij_case_out(c, "ratio", IJ_F32, 2);
  c->flops = 6 * (double)n;
}
static ij_status call_trust(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  float *const *p = (float *const *)c->p;
  ij_dim n = c->dim[0];
  double wd = c->flags & NO_DECAY ? 0 : .3;
  ij_update_item item[3] = {{.n = n, .wd = wd, .p = p[0], .g = p[1], .ratio = p[2]},
                            {.n = n / 3, .wd = wd, .p = p[0], .g = p[1]},
                            {.n = n / 3, .p = p[0] + n, .wd = wd, .g = p[1] + n, .ratio = p[2] + 1}};
  return t->trust(q, 3, item, 1.0 / 8, .001);
}
static const ij_case_shape trust_shapes[] = {
    {"odd", {37}, 0, 0},
    {"no gradient", {131}, ZERO, 0},
    {"nothing at all", {131}, ZERO | NO_DECAY, 0},
    {"nothing", {0}, 0, 0},
    {"one", {3}, NO_DECAY, 0},
    {"a chunk and one", {65537}, 0, 0},
    {"vits fc1", {384 * 1536}, 0, 0},
    {"vith fc1", {1280 * 5120}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_update[] = {{"update", describe, call, shapes, false, NULL},
                                      {"trust", describe_trust, call_trust, trust_shapes, false, NULL},
                                      {0}};

#include "../case.h"

enum {
  NO_AVG = 1,
  SCALED = 2,
  FRESH = 4,
  GATED = 8,
  SHUT = 16
}; /* SCALED: gradients were scaled up before the backward */

/* Two tensors in one call, of n and n / 3 elements, the second without weight decay; dims n, t */
static void describe(ij_case *c) {
  static const char *const names[] = {"p", "g", "m", "v", "avg"};
  ij_dim n = c->dim[0] + c->dim[0] / 3;
  bool fresh = c->flags & FRESH; /* the very first step: m and v are 0 */
  ij_case_tol(c, 1e-6, 1e-6, "ten operations in f32; the rate of .1 makes the change as large as p");
  for (int i = 0; i < 5; i++)
    if (i == 4 && c->flags & NO_AVG) ij_case_null(c);
    else
      ij_case_add(c, names[i], IJ_F32, n, i == 3 ? IJ_CASE_POSITIVE : IJ_CASE_NORMAL,
                  fresh && (i == 2 || i == 3) ? 0 : 1);
  if (c->flags & (GATED | SHUT)) ij_case_in(c, "gate", IJ_F32, 1, 1);
  else ij_case_null(c);
  if (c->flags & SHUT) ij_case_unread(c, 0, 1); /* makes it NaN */
  c->flops = 16 * (double)n;
}
static ij_status call(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  float *const *p = (float *const *)c->p;
  ij_dim n = c->dim[0];
  ij_adamw_item item[2] = {{.n = n, .lr = .1, .wd = .3, .p = p[0], .g = p[1], .m = p[2], .v = p[3], .avg = p[4]},
                           {.n = n / 3,
                            .lr = .05,
                            .p = p[0] + n,
                            .g = p[1] + n,
                            .m = p[2] + n,
                            .v = p[3] + n,
                            .avg = p[4] ? p[4] + n : NULL}};
  return t->adamw(q, 2, item, c->dim[1], 0.9, 0.999, 1e-8, c->flags & SCALED ? 1.0 / 1024 : 1.0, 0.996, p[5]);
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
    {0},
};

const ij_case_op ij_cases_adamw[] = {{"adamw", describe, call, shapes, false, NULL}, {0}};

#include "../case.h"

enum { NO_AVG = 1, SCALED = 2, FRESH = 4 }; /* SCALED: gradients were scaled up before the backward */

static void describe(ij_case *c) { /* dims n, t */
  static const char *const names[] = {"p", "g", "m", "v", "avg"};
  ij_dim n = c->dim[0];
  bool fresh = c->flags & FRESH; /* the very first step: m and v are 0 */
  ij_case_tol(c, 1e-6, 1e-6, "ten operations in f32; the rate of .1 makes the change as large as p");
  for (int i = 0; i < 5; i++)
    if (i == 4 && c->flags & NO_AVG) ij_case_null(c);
    else
      ij_case_add(c, names[i], IJ_F32, n, i == 3 ? IJ_CASE_POSITIVE : IJ_CASE_NORMAL,
                  fresh && (i == 2 || i == 3) ? 0 : 1);
  c->flops = 16 * (double)n;
}
static ij_status call(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->adamw(q, c->dim[0], c->dim[1], 0.1, 0.3, 0.9, 0.999, 1e-8, c->flags & SCALED ? 1.0 / 1024 : 1.0, 0.996,
                  c->p[0], c->p[1], c->p[2], c->p[3], c->p[4]);
}
static const ij_case_shape shapes[] = {
    {"odd", {37, 1}, 0, 0},
    {"odd late", {131, 100000}, SCALED, 0},
    {"odd no average", {67, 7}, NO_AVG, 0},
    {"odd first", {37, 1}, FRESH, 0},
    {"nothing", {0, 1}, 0, 0},
    {"vits fc1", {384 * 1536, 3}, 0, 0},
    {"vith fc1", {1280 * 5120, 3}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_adamw[] = {{"adamw", describe, call, shapes, false, NULL}, {0}};

#include "../case.h"

enum { U8 = 1, ALL = 2 };
static const char why[] = "one multiplication and addition; bf16: rounded to a neighbour";

static void scales(ij_case *c) { ij_case_in_as(c, "scale6", IJ_F32, 6, IJ_CASE_APART, 0.02); }

static void patchify(ij_case *c) {
  enum { C, B, K, H, W, P };
  const ij_dim *d = c->dim;
  ij_dim patches = d[H] / d[P] * (d[W] / d[P]), n = d[C] * d[B] * d[K] * 3 * d[P] * d[P];
  if (c->flags & U8) ij_case_tol(c, 1e-6, 0x1p-7, why);
  else ij_case_tol(c, 0, 0, "a copy; bf16: rounded to nearest even");
  if (c->flags & U8) ij_case_in_as(c, "images", IJ_U8, d[B] * d[H] * d[W] * 3, IJ_CASE_INDEX, 256);
  else ij_case_in(c, "images", IJ_F32, d[B] * 3 * d[H] * d[W], 1);
  if (c->flags & ALL) ij_case_null(c);
  else ij_case_in_as(c, "index", IJ_I32, d[C] * d[B] * d[K], IJ_CASE_INDEX, (double)patches);
  if (c->flags & U8) scales(c);
  else ij_case_null(c);
  ij_case_out(c, "y", c->dt, n);
  c->flops = c->flags & U8 ? 2 * (double)n : 0;
}
static ij_status call_patchify(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->patchify(q, c->dt, d[0], d[1], d[2], d[3], d[4], d[5], (c->flags & U8) != 0, c->p[0], c->p[1], c->p[2],
                     c->p[3]);
}
static const ij_case_shape patchify_shapes[] = {
    {"odd", {2, 3, 4, 15, 9, 3}, 0, 0},
    {"odd bytes", {2, 3, 4, 15, 9, 3}, U8, 0},
    {"odd all", {1, 3, 15, 15, 9, 3}, ALL, 0},
    {"odd all bytes", {1, 2, 6, 14, 21, 7}, U8 | ALL, 0},
    {"one pixel", {1, 1, 2, 2, 1, 1}, ALL, 0},
    {"no images", {1, 0, 4, 4, 4, 2}, 0, 0},
    {"vith", {1, 2, 80, 224, 224, 14}, U8, 0},
    {"vits", {1, 1, 196, 224, 224, 16}, ALL, 0},
    {"vith context", {1, 32, 80, 224, 224, 14}, U8, IJ_CASE_BENCH},
    {"vith target", {1, 32, 256, 224, 224, 14}, U8 | ALL, IJ_CASE_BENCH},
    {0},
};

static void normalise(ij_case *c) {
  ij_dim n = 3 * c->dim[0] * c->dim[1] * c->dim[2];
  ij_case_tol(c, 1e-6, 1e-6, why);
  ij_case_in_as(c, "x", IJ_U8, n, IJ_CASE_INDEX, 256);
  scales(c);
  ij_case_out(c, "y", IJ_F32, n);
  c->flops = 2 * (double)n;
}
static ij_status call_normalise(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->normalise(q, c->dim[0], c->dim[1], c->dim[2], c->p[0], c->p[1], c->p[2]);
}
static const ij_case_shape normalise_shapes[] = {
    {"odd", {3, 5, 7}, 0, 0},
    {"no images", {0, 4, 4}, 0, 0},
    {"vith", {2, 224, 224}, 0, 0},
    {"vith", {32, 224, 224}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_patchify[] = {
    {"patchify", patchify, call_patchify, patchify_shapes, true, NULL},
    {"normalise", normalise, call_normalise, normalise_shapes, false, NULL},
    {0},
};

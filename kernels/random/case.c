#include "../case.h"

enum { NORMAL, N, OFFSET };

static void random_numbers(ij_case *c) {
  ij_case_tol(c, c->dim[NORMAL] ? 1e-6 : 0, 0, "uniform: the same bits; normal: functions to a few roundings");
  ij_case_out(c, "x", IJ_F32, c->dim[N]);
}
static ij_status call(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  return t->random(q, (int)c->dim[NORMAL], c->dim[N], 0x123456789abcdefu, (uint64_t)c->dim[OFFSET], c->p[0]);
}
static const ij_case_shape shapes[] = {
    {"uniform", {0, 37, 0}, 0, 0},
    {"uniform from 3", {0, 37, 3}, 0, 0},
    {"one", {0, 1, 6}, 0, 0},
    {"normal", {1, 1003, 0}, 0, 0},
    {"normal from 1", {1, 38, 1}, 0, 0},
    {"normal from far", {1, 38, ((ij_dim)1 << 40) + 2}, 0, 0},
    {"nothing", {0, 0, 5}, 0, 0},
    {"large", {0, 300001, 0}, 0, 0},
    {"1e7 uniform", {0, 10000000, 0}, 0, IJ_CASE_BENCH},
    {"1e7 normal", {1, 10000000, 0}, 0, IJ_CASE_BENCH},
    {0},
};
const ij_case_op ij_cases_random[] = {
    {"random", random_numbers, call, shapes, false, NULL},
    {0},
};

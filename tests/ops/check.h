/* Checks of one case. What fails is said on `to` (NULL: nowhere) and counted. */
#ifndef IJ_CHECK_OPS_H
#define IJ_CHECK_OPS_H
#include "harness.h"
#include <stdio.h>

typedef struct ij_check {
  FILE *to;
  int calls, gradients, failures;
  char first[512]; /* the first failure, for the self-test */
} ij_check;

void ij_check_fail(ij_check *k, const ij_case *c, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The table's op against the reference: on aligned memory, at a forbidden page, in all aliased forms, with 1 and 3
 * threads, and with each allocation failing in turn. */
void ij_check_results(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt, const ij_op_table *t);
/* got, content of argument `at`, is as near to want as the case asks for. tol < 0: that of the argument; how: of the
 * call */
bool ij_check_near(ij_check *k, const ij_case *c, int at, const char *want, const char *got, double tol,
                   const char *how);
/* What the reference computes: want[i] of each argument that is written, to be ij_free'd. */
bool ij_check_reference(ij_check *k, ij_case *c, void **want);
/* Gradients of a backward op of the table against differences of its forward, f32. */
void ij_check_gradients(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, const ij_op_table *t);
/* Every op of the table has a case, every backward op a check of its gradients. missing: an op more, for the self-test
 */
void ij_check_coverage(ij_check *k, const char *missing);
#endif

/* bench_ops [NAME] [--all]: time, memory traffic and arithmetic of each op on the shapes of real models, by their
 * cases.
 * --all: the tests' small shapes too. The reference is timed on those alone. Numbers are medians. */
#include "../tests/ops/harness.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 31 };
static const double BUDGET = 1.0; /* seconds for each line */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Median seconds of a call; 0 where it fails */
static double time_of(ij_case *c, const ij_op_table *t) {
  double run[RUNS], start = ij_time();
  ij_case_memory m;
  ij_queue q = {0};
  int n = -1; /* the first call makes copies of weights and scratch memory */
  if (ij_case_place_all(c, &m, IJ_CASE_ALIGNED, NULL)) {
    ij_case_fill_all(c);
    for (; n < RUNS && (n < 1 || ij_time() - start < BUDGET); n++) {
      ij_status st;
      double from = ij_time();
      if (!ij_case_call(c, t, &q, &st) || st != IJ_OK) break;
      if (n >= 0) run[n] = ij_time() - from;
    }
  }
  ij_queue_release(&q);
  ij_case_unplace(&m);
  if (n < 1) return 0;
  qsort(run, (size_t)n, sizeof *run, by_size);
  return run[n / 2];
}

static void bench(const ij_case_op *op, const ij_case_shape *s, ij_dtype dt, const ij_op_table *cpu) {
  ij_case *c = s->use & IJ_CASE_BENCH ? ij_case_new_alone(op, s, dt) : ij_case_new(op, s, dt);
  char dims[96] = "";
  if (!c) return;
  for (int i = 0, at = 0; i < IJ_CASE_DIMS && at < (int)sizeof dims - 12; i++) {
    bool rest = false;
    for (int j = i; j < IJ_CASE_DIMS; j++) rest |= s->dim[j] != 0;
    if (rest) at += snprintf(dims + at, sizeof dims - (size_t)at, "%s%lld", i ? "," : "", (long long)s->dim[i]);
  }
  double fast = time_of(c, cpu), slow = s->use & IJ_CASE_BENCH ? 0 : time_of(c, &ij_ref_table);
  printf("%-18s %-15s %-24s %-5s %10.3f %8.1f %9.1f", op->name, s->name, dims,
         !op->typed      ? ""
         : dt == IJ_BF16 ? "bf16"
                         : "f32",
         fast * 1e3, fast > 0 ? ij_case_bytes(c) / fast * 1e-9 : 0, fast > 0 ? c->flops / fast * 1e-9 : 0);
  if (slow > 0) printf(" %10.3f %7.1f", slow * 1e3, slow / fast);
  printf("\n");
  fflush(stdout);
  ij_case_free(c);
}

int main(int argc, char **argv) {
  const char *filter = NULL;
  bool all = false;
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--all")) all = true;
    else filter = argv[i];
  ij_op_table t;
  const ij_case_op *op;
  ij_cpu_fill(&t);
  printf("%d threads, %s, products in %s\n", ij_threads_get(), ij_cpu_isa(), ij_cpu_matmul());
  printf("%-18s %-15s %-24s %-5s %10s %8s %9s %10s %7s\n", "op", "shape", "dims", "type", "ms", "GB/s", "GFLOP/s",
         "ref ms", "ratio");
  for (int i = 0; (op = ij_case_list(i)); i++)
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      if ((filter && !strstr(op->name, filter)) || (!all && !(s->use & IJ_CASE_BENCH))) continue;
      bench(op, s, IJ_F32, &t);
      if (op->typed) bench(op, s, IJ_BF16, &t);
    }
  return 0;
}

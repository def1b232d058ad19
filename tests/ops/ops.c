/* Drives the cases of all ops: ops [NAME] compares this machine's table with the reference and checks gradients;
 * ops --device cuda [--quick] [NAME] that of the plug-in IJEPA_CUDA, on its own memory (exit 77: there is no such
 * device; with IJEPA_REQUIRE_CUDA=1 that is a failure); ops --device cuda --production [NAME] its ways of computing
 * against each other at real sizes; ops --list prints the names; ops --self-test plants bugs and expects each to be
 * found. */
#include "device.h"
#include "self_test.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check_all(ij_check *k, const ij_op_table *t, const char *filter) {
  const ij_case_op *op;
  for (int i = 0; (op = ij_case_list(i)); i++) {
    if (filter && !strstr(op->name, filter)) continue;
    double start = ij_time();
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      if (s->use & IJ_CASE_BENCH) continue;
      ij_check_results(k, op, s, IJ_F32, t);
      if (op->typed) ij_check_results(k, op, s, IJ_BF16, t);
      if (op->forward && s->use & IJ_CASE_GRAD) ij_check_gradients(k, op, s, t);
    }
    if (filter) printf("%-20s %.2f s\n", op->name, ij_time() - start);
  }
}

static int own_functions(const ij_op_table *t, int *total) {
  int own = 0;
#define IJ_OP(op, params, args) own += t->op != ij_ref_table.op, ++*total;
  IJ_OPS(IJ_OP)
#undef IJ_OP
  return own;
}

/* ---- a device ---------------------------------------------------------------------------------------------------- */
static char trying[256];
static void on_fault(int sig) { /* the host touched device memory, or the emulated device what is none */
  ssize_t n = write(2, trying, strlen(trying));
  (void)n;
  signal(sig, SIG_DFL);
  raise(sig);
}

static void check_device(ij_check *k, ij_check_device *d, const char *filter) {
  const ij_case_op *op;
  for (int i = 0; (op = ij_case_list(i)); i++) {
    if (filter && !strstr(op->name, filter)) continue;
    double start = ij_time();
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      if (s->use & IJ_CASE_BENCH) continue;
      snprintf(trying, sizeof trying, "FAIL %s '%s': touches memory that it must not\n", op->name, s->name);
      ij_check_device_results(k, op, s, IJ_F32, d);
      if (op->typed) ij_check_device_results(k, op, s, IJ_BF16, d);
    }
    printf("%-20s %.2f s\n", op->name, ij_time() - start);
    fflush(stdout);
  }
}

static int on_device(const char *filter, bool quick, bool production) {
  enum { SKIPPED = 77 };
  ij_check k = {.to = stdout};
  int reduced = 0;
  ij_check_device d = {.quick = quick};
  ij_device_info info;
  double start = ij_time();
  ij_status st = ij_check_device_load(&d);
  if (st != IJ_OK) {
    const char *must = getenv("IJEPA_REQUIRE_CUDA");
    bool skipped = st == IJ_EUNSUPPORTED && (!must || !*must || !strcmp(must, "0"));
    printf("%s: %s\n", skipped ? "skipped" : "FAIL", ij_errmsg());
    return skipped ? SKIPPED : 1;
  }
  signal(SIGSEGV, on_fault);
  signal(SIGBUS, on_fault);
  d.backend->info(&d.queue, &info);
  ij_check_device_slots(&k, &d);
  if (production) {
    ij_check_production(&k, &d, filter, &reduced);
  } else if (k.failures == 0) {
    ij_check_coverage(&k, NULL);
    check_device(&k, &d, filter);
    if (!filter || strstr("weights", filter)) ij_check_device_weights(&k, &d);
  }
  ij_check_device_close(&d);
  printf("%s (%s): %d calls compared, %d failures, %.1f s\n", info.name, info.arch, k.calls, k.failures,
         ij_time() - start);
  if (reduced)
    printf("skipped: %d cases at their real sizes, which need a GPU: a few rows of each were compared\n", reduced);
  if (k.calls == 0) printf("FAIL nothing was called\n");
  return k.failures || k.calls == 0 ? 1 : 0;
}

static int list(void) {
  const ij_case_op *op;
  for (int i = 0; (op = ij_case_list(i)); i++) printf("%s\n", op->name);
  return 0;
}

int main(int argc, char **argv) {
  const char *filter = NULL;
  bool device = false, quick = false, production = false;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--self-test")) return ij_check_self_test() ? 1 : 0;
    if (!strcmp(argv[i], "--list")) return list();
    if (!strcmp(argv[i], "--quick")) quick = true;
    else if (!strcmp(argv[i], "--production")) production = true;
    else if (!strcmp(argv[i], "--device") && i + 1 < argc && !strcmp(argv[i + 1], "cuda")) device = ++i;
    else if (argv[i][0] == '-' || filter)
      return printf("ops [--device cuda [--quick | --production]] [NAME] | --list | --self-test\n"), 2;
    else filter = argv[i];
  }
  if (device) return on_device(filter, quick, production);
  if (quick || production) return printf("ops: --quick and --production are for --device cuda\n"), 2;
  ij_op_table t;
  ij_check k = {.to = stdout};
  int total = 0;
  ij_cpu_fill(&t);
  ij_check_coverage(&k, NULL);
  double start = ij_time();
  check_all(&k, &t, filter);
  int own = own_functions(&t, &total);
  printf(
      "%d of %d ops have a cpu function (%s, products in %s): %d calls compared, %d gradients, %d failures, %.1f s\n",
      own, total, ij_cpu_isa(), ij_cpu_matmul(), k.calls, k.gradients, k.failures, ij_time() - start);
  if (k.calls == 0) printf("FAIL no case is called '%s'\n", filter);
  return k.failures || k.calls == 0 ? 1 : 0;
}

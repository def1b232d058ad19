/* bench_ops [NAME] [--all] [--device cuda] [--table]: time, memory traffic and arithmetic of each op on the shapes of
 * real models, by their cases.
 * --all: the tests' small shapes too. The reference is timed on those alone. Numbers are medians.
 * --device cuda: of the plug-in's ops, in the GPU's memory, beside the GPU's own rates, which are measured first by a
 * large matmul and a large copy.
 * --table: each op's bound on an H100, by its data sheet, beside what was measured (bench/results/roofline.md). */
#include "../core/tensor/tensor.h"
#include "../tests/ops/harness.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 31, DEVICE_RUNS = 7 };
static const double BUDGET = 1.0; /* seconds for each line */
static const double LONG = 0.02;  /* of one measurement of a device: its clock is ours, around many calls */

typedef struct rates { /* a GPU's, a second */
  double product[2];   /* FLOP, f32 and bf16 */
  double bytes;
} rates;
/* H100 SXM by its data sheet: bf16 on tensor cores, dense; f32 outside of them */
static const rates h100 = {{67e12, 989e12}, 3.35e12};

typedef struct bencher {
  ij_op_table ops;
  const ij_backend *backend; /* NULL: the CPU */
  ij_queue queue;
  rates gpu; /* measured; 0: not */
  const char *filter;
  bool all, table;
} bencher;

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* ---- the CPU */
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

/* ---- a device */
typedef ij_status (*work)(bencher *b, const void *what);

/* Seconds of `count` calls, until they are done; negative: one failed */
static double seconds_of(bencher *b, work call, const void *what, int count) {
  double from = ij_time();
  for (int i = 0; i < count; i++)
    if (call(b, what) != IJ_OK) return -1;
  if (b->backend->wait(&b->queue) != IJ_OK) return -1;
  return ij_time() - from;
}

/* Median seconds of a call: as many in a row as take LONG, so that the time of a launch is hidden as it is in a step.
 */
static double device_time(bencher *b, work call, const void *what) {
  double run[DEVICE_RUNS], start = ij_time(), once;
  int n = 0, count = 1;
  if (seconds_of(b, call, what, 1) < 0) return 0; /* makes plans, copies of weights and scratch memory */
  while ((once = seconds_of(b, call, what, count)) >= 0 && once < LONG && count < 4096) count *= 2;
  if (once < 0) return 0;
  for (; n < DEVICE_RUNS && (n < 1 || ij_time() - start < BUDGET); n++)
    if ((run[n] = seconds_of(b, call, what, count) / count) <= 0) return 0;
  qsort(run, (size_t)n, sizeof *run, by_size);
  return run[n / 2];
}

static ij_status call_case(bencher *b, const void *what) {
  const ij_case *c = what;
  return c->op->call(&b->ops, &b->queue, c);
}

static double case_on_device(bencher *b, ij_case *c) {
  bool placed = true;
  for (int i = 0; i < c->args; i++) c->p[i] = NULL;
  for (int i = 0; i < c->args && placed; i++) {
    const ij_case_arg *a = &c->arg[i];
    size_t bytes = (size_t)a->n * ij_case_size(a->type);
    if (!a->name) continue;
    placed = b->backend->alloc(&b->queue, bytes ? bytes : 1, &c->p[i]) == IJ_OK;
    if (placed && bytes) placed = b->backend->write(&b->queue, c->p[i], a->first, bytes) == IJ_OK;
  }
  double t = placed ? device_time(b, call_case, c) : 0;
  for (int i = 0; i < c->args; i++)
    if (c->p[i]) b->backend->free(&b->queue, c->p[i]);
  if (t <= 0) fprintf(stderr, "%s '%s': %s\n", c->op->name, c->shape->name, ij_errmsg());
  return t;
}

typedef struct probe { /* y = x times w transposed, all n x n; or a copy of n f32 */
  ij_dtype dt;
  ij_dim n;
  void *x, *w, *y;
} probe;
static ij_status call_product(bencher *b, const void *what) {
  const probe *p = what;
  return b->ops.linear_fwd(&b->queue, p->dt, p->n, p->n, p->n, p->x, p->w, 1 + (uint64_t)p->n, p->y);
}
static ij_status call_copy(bencher *b, const void *what) {
  const probe *p = what;
  return b->ops.convert(&b->queue, p->n, IJ_F32, p->x, IJ_F32, p->y);
}

/* The best rate in units a second, of sizes that double until one call takes a fifth of LONG. */
static double best_rate(bencher *b, work call, ij_dtype dt, ij_dim first, ij_dim last, int power, double unit) {
  double best = 0, t = 0;
  for (ij_dim n = first; n <= last && t < LONG / 5; n *= 2) {
    size_t bytes = 4 * (size_t)(power == 3 ? n * n : n);
    probe p = {.dt = dt, .n = n};
    void **all[] = {&p.x, &p.w, &p.y};
    bool ok = true;
    for (int i = 0; i < 3 && ok; i++)
      ok = b->backend->alloc(&b->queue, bytes, all[i]) == IJ_OK &&
           b->ops.fill(&b->queue, (ij_dim)(bytes / 4), 0.5f, *all[i]) == IJ_OK;
    t = ok ? device_time(b, call, &p) : 0;
    for (int i = 0; i < 3; i++)
      if (*all[i]) b->backend->free(&b->queue, *all[i]);
    if (t <= 0) break;
    double amount = power == 3 ? (double)n * (double)n * (double)n : (double)n;
    if (amount * unit / t > best) best = amount * unit / t;
  }
  return best;
}

static void measure_gpu(bencher *b) {
  b->gpu.product[0] = best_rate(b, call_product, IJ_F32, 128, 8192, 3, 2);
  b->gpu.product[1] = best_rate(b, call_product, IJ_BF16, 128, 16384, 3, 2);
  b->gpu.bytes = best_rate(b, call_copy, IJ_F32, 1 << 16, 1 << 28, 1, 8);
}

/* ---- lines */
static bool on_tensor_cores(const ij_case *c) {
  return c->dt == IJ_BF16 && c->op->typed && (strstr(c->op->name, "linear") || strstr(c->op->name, "attention"));
}
/* Seconds under which a GPU of these rates can't do it; memory: bytes are what bounds it */
static double bound(const ij_case *c, const rates *r, bool *memory) {
  double compute = c->flops / r->product[on_tensor_cores(c)], traffic = ij_case_bytes(c) / r->bytes;
  if (memory) *memory = traffic >= compute;
  return compute > traffic ? compute : traffic;
}

static void dims_of(const ij_case_shape *s, char *dims, int size) {
  *dims = 0;
  for (int i = 0, at = 0; i < IJ_CASE_DIMS && at < size - 24; i++) {
    bool rest = false;
    for (int j = i; j < IJ_CASE_DIMS; j++) rest |= s->dim[j] != 0;
    if (rest) at += snprintf(dims + at, (size_t)(size - at), "%s%lld", i ? "," : "", (long long)s->dim[i]);
  }
}

static void print_line(const bencher *b, ij_case *c, const char *dims, const char *type, double fast) {
  double slow = b->backend || c->shape->use & IJ_CASE_BENCH ? 0 : time_of(c, &ij_ref_table);
  printf("%-18s %-15s %-24s %-5s %10.3f %8.1f %9.1f", c->op->name, c->shape->name, dims, type, fast * 1e3,
         fast > 0 ? ij_case_bytes(c) / fast * 1e-9 : 0, fast > 0 ? c->flops / fast * 1e-9 : 0);
  if (slow > 0) printf(" %10.3f %7.1f", slow * 1e3, slow / fast);
  if (b->gpu.bytes > 0 && fast > 0) printf(" %6.0f %%", 100 * bound(c, &b->gpu, NULL) / fast);
  printf("\n");
}

static void print_row(const bencher *b, const ij_case *c, const char *dims, const char *type, double fast) {
  bool memory;
  double least = bound(c, &h100, &memory);
  printf("| %s | %s | %s | %s | %.2f | %.1f | %s | %.1f |", c->op->name, c->shape->name, dims, type, c->flops * 1e-9,
         ij_case_bytes(c) * 1e-6, memory ? "memory" : "arithmetic", least * 1e6);
  if (b->backend && fast > 0)
    printf(" %.1f | %.0f | %.1f | %.0f %% |\n", fast * 1e6, ij_case_bytes(c) / fast * 1e-9, c->flops / fast * 1e-12,
           100 * bound(c, &b->gpu, NULL) / fast);
  else printf(" | | | |\n");
}

static void bench(bencher *b, const ij_case_op *op, const ij_case_shape *s, ij_dtype dt) {
  ij_case *c = s->use & IJ_CASE_BENCH ? ij_case_new_alone(op, s, dt) : ij_case_new(op, s, dt);
  char dims[120];
  if (!c) return;
  dims_of(s, dims, sizeof dims);
  const char *type = !op->typed ? "" : dt == IJ_BF16 ? "bf16" : "f32";
  double fast = b->backend ? case_on_device(b, c) : b->table ? 0 : time_of(c, &b->ops);
  if (b->table) print_row(b, c, dims, type, fast);
  else print_line(b, c, dims, type, fast);
  fflush(stdout);
  ij_case_free(c);
}

static void print_head(bencher *b) {
  ij_device_info info = {0};
  if (b->backend) b->backend->info(&b->queue, &info);
  if (b->table) {
    printf(
        "# Ops on a GPU: the bound and what was measured\n"
        "Sizes are those of ViT-H/14 on a part of a batch (`IJ_CASE_BENCH` in `kernels/<op>/case.c`). The bound is "
        "the\n"
        "larger of operations / 989 TFLOP/s (bf16 on tensor cores; else 67) and bytes / 3.35 TB/s: an H100 SXM's data\n"
        "sheet. Written by `build/tests/bench_ops --table`, on a GPU by `build/tests/bench_ops --table --device "
        "cuda`.\n"
        "\n");
    if (b->backend) printf("Measured on: %s, %s.", info.name, info.arch);
    else printf("Measured: nothing: no GPU on the machine that wrote this.");
  } else if (b->backend) {
    printf("%s, %s", info.name, info.arch);
  } else {
    printf("%d threads, %s, products in %s", ij_threads_get(), ij_cpu_isa(), ij_cpu_matmul());
  }
  if (b->backend)
    printf("%s its own rates: %.1f TFLOP/s in bf16, %.2f in f32, %.3f TB/s copied (read and written)",
           b->table ? " By a large matmul and a large copy," : ";", b->gpu.product[1] * 1e-12,
           b->gpu.product[0] * 1e-12, b->gpu.bytes * 1e-12);
  if (b->table)
    printf(
        "%s\n\n| op | shape | dims | type | GFLOP | MB | bound by | bound, us | measured, us | GB/s | TFLOP/s | of the "
        "GPU's own rates |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        b->backend ? "." : "");
  else
    printf("\n%-18s %-15s %-24s %-5s %10s %8s %9s %s\n", "op", "shape", "dims", "type", "ms", "GB/s", "GFLOP/s",
           b->backend ? "of the GPU" : "    ref ms   ratio");
}

static int usage(void) {
  fprintf(stderr, "usage: bench_ops [NAME] [--all] [--device cuda] [--table]\n");
  return 2;
}

int main(int argc, char **argv) {
  static ij_backend plugin;
  bencher b = {0};
  const ij_case_op *op;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--all")) b.all = true;
    else if (!strcmp(argv[i], "--table")) b.table = true;
    else if (!strcmp(argv[i], "--device") && i + 1 < argc && !strcmp(argv[i + 1], "cuda")) b.backend = &plugin, i++;
    else if (argv[i][0] == '-' || b.filter) return usage();
    else b.filter = argv[i];
  }
  if (b.backend) {
    if (ij_backend_plugin(&plugin) != IJ_OK || plugin.open(-1, &b.queue) != IJ_OK) {
      fprintf(stderr, "bench_ops: %s\n", ij_errmsg());
      return 77;
    }
    b.ops = plugin.ops;
    measure_gpu(&b);
  } else {
    ij_cpu_fill(&b.ops);
  }
  print_head(&b);
  for (int i = 0; (op = ij_case_list(i)); i++)
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      if ((b.filter && !strstr(op->name, b.filter)) || (!b.all && !(s->use & IJ_CASE_BENCH))) continue;
      if (!b.table || !op->typed) bench(&b, op, s, IJ_F32);
      if (op->typed) bench(&b, op, s, IJ_BF16);
    }
  if (b.backend) plugin.close(&b.queue);
  return 0;
}

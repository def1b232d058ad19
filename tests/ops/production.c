/* The cases at real sizes (IJ_CASE_BENCH) of ops that a GPU can compute in two ways. The reference would take the CPU
 * minutes; the two ways have no code in common:
 *   linear_*      cuBLASLt, whose kernels depend on the size, against the plug-in's plain kernel
 *   attention_*   in bf16 on tensor cores against f32 without them, on the same values */
#include "device.h"
#include <stdlib.h>
#include <string.h>

static const double SAME_BF16 = 0x1p-7; /* both round a sum in f32 to bf16: a neighbour, and half as much again */
/* Two orders of the same sum: each of n additions is off by 3.5e-8 of what is summed so far, in any direction, which
 * is 2.4e-6 of the result's size for n = 8832, and 14 of these for the worst of some million results */
static const double SAME_F32 = 4e-5;

static bool filled_with_ff(const void *p, size_t size) {
  const unsigned char *b = p;
  while (size && *b == 0xff) b++, size--;
  return size == 0;
}

/* n values of type `from` at x as type `to` at y; what an op has left unwritten stays so */
static void convert(int from, const void *x, int to, void *y, ij_dim n) {
  size_t size = ij_case_size(from);
  for (ij_dim i = 0; i < n; i++) {
    const char *at = (const char *)x + (size_t)i * size;
    float v = (float)ij_case_get(from, at, 0);
    if (to == IJ_F32) ((float *)y)[i] = v;
    else ((uint16_t *)y)[i] = filled_with_ff(at, size) ? 0xffff : ij_f32_to_bf16(v);
  }
}

static void drop(void **list) {
  for (int i = 0; i < IJ_CASE_ARGS; i++) ij_free(list[i]), list[i] = NULL;
}

/* A few rows of a case, and narrow: for the emulator */
static ij_case_shape reduced(const ij_case_op *op, const ij_case_shape *s) {
  ij_case_shape r = *s;
  bool attention = strstr(op->name, "attention") != NULL;
  ij_dim most[] = {attention ? 1 : 9, attention ? 256 : 40, attention ? 1 : 600};
  for (int i = 0; i < 3; i++)
    if (r.dim[i] > most[i]) r.dim[i] = most[i];
  return r;
}

/* ---- linear layers */
static void check_linear(ij_check *k, ij_check_device *d, ij_check_device *plain, ij_case *c) {
  void *want[IJ_CASE_ARGS] = {0};
  bool bf16 = false;
  for (int i = 0; i < c->args; i++) bf16 |= c->arg[i].role == IJ_CASE_OUT && c->arg[i].type == IJ_BF16;
  if (ij_check_device_call(k, plain, c, -1, "the plain kernel", NULL, want))
    ij_check_device_call(k, d, c, bf16 ? SAME_BF16 : SAME_F32, "cuBLASLt against the plain kernel", want, NULL);
  drop(want);
}

/* ---- attention */
/* Inputs of b that are outputs of its forward, computed on the device in f32, go into both cases. */
static bool from_forward(ij_check *k, ij_check_device *d, ij_case *half, ij_case *full) {
  void *out[IJ_CASE_ARGS] = {0};
  bool ok = true;
  if (!full->op->forward) return true;
  ij_case *f = ij_case_new_alone(full->op->forward, full->shape, IJ_F32);
  if (!f) return false;
  for (int i = 0; i < f->args; i++) {
    int at = f->arg[i].name ? ij_case_find(full, f->arg[i].name) : -1;
    if (at >= 0 && f->arg[i].role == IJ_CASE_IN) memcpy(f->arg[i].first, full->arg[at].first, 4 * (size_t)f->arg[i].n);
  }
  ok = ij_check_device_call(k, d, f, -1, "the forward", NULL, out);
  for (int i = 0; i < f->args && ok; i++) {
    int at = f->arg[i].name && f->arg[i].role == IJ_CASE_OUT ? ij_case_find(full, f->arg[i].name) : -1;
    if (at < 0 || full->arg[at].role != IJ_CASE_IN) continue;
    convert(IJ_F32, out[i], half->arg[at].type, half->arg[at].first, half->arg[at].n);
    convert(half->arg[at].type, half->arg[at].first, IJ_F32, full->arg[at].first, half->arg[at].n);
  }
  drop(out);
  ij_case_free(f);
  return ok;
}

static void check_attention(ij_check *k, ij_check_device *d, ij_case *half) {
  void *want[IJ_CASE_ARGS] = {0};
  ij_case *full = ij_case_new_alone(half->op, half->shape, IJ_F32);
  bool ok = full != NULL;
  for (int i = 0; ok && i < half->args; i++)
    if (half->arg[i].name && half->arg[i].role == IJ_CASE_IN)
      convert(half->arg[i].type, half->arg[i].first, IJ_F32, full->arg[i].first, half->arg[i].n);
  if (!ok || !from_forward(k, d, half, full)) {
    ij_check_fail(k, half, "no memory, or its forward fails: %s", ij_errmsg());
  } else if (ij_check_device_call(k, d, full, -1, "in f32", NULL, want)) {
    for (int i = 0; i < half->args; i++) { /* in place: bf16 is the narrower */
      const ij_case_arg *a = &half->arg[i];
      if (want[i] && a->type == IJ_BF16) convert(IJ_F32, want[i], IJ_BF16, want[i], a->n);
    }
    ij_check_device_call(k, d, half, -1, "in bf16 against f32", want, NULL);
  }
  drop(want);
  if (full) ij_case_free(full);
}

/* ---- all */
static void check_shape(ij_check *k, ij_check_device *d, ij_check_device *plain, const ij_case_op *op,
                        const ij_case_shape *shape) {
  for (int i = 0; i < 2; i++) {
    ij_dtype dt = i ? IJ_BF16 : IJ_F32;
    bool linear = strstr(op->name, "linear_") != NULL;
    if (!linear && dt == IJ_F32) continue;
    ij_case *c = ij_case_new_alone(op, shape, dt);
    if (!c) {
      ij_check_fail(k, NULL, "%s '%s': no memory", op->name, shape->name);
      return;
    }
    if (linear) check_linear(k, d, plain, c);
    else check_attention(k, d, c);
    ij_case_free(c);
  }
}

static void check_refusals(ij_check *k, ij_check_device *d) {
  char *report = NULL;
  if (!d->backend->report) return;
  if (d->backend->report(&d->queue, &report) != IJ_OK) ij_check_fail(k, NULL, "report: %s", ij_errmsg());
  for (const char *line = report; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
    if (!strncmp(line, "matmul\t", 7))
      ij_check_fail(k, NULL, "cuBLASLt refuses a matmul: (P, M, N, K) %.*s", (int)strcspn(line + 7, "\n"), line + 7);
  ij_free(report);
}

void ij_check_production(ij_check *k, ij_check_device *d, const char *filter, int *skipped) {
  ij_check_device plain = *d;
  const ij_case_op *op;
  setenv("IJEPA_CUDA_MATMUL", "plain", 1);
  ij_status st = ij_check_device_open(&plain, d->backend);
  unsetenv("IJEPA_CUDA_MATMUL");
  if (st != IJ_OK) {
    ij_check_fail(k, NULL, "a second queue: %s", ij_errmsg());
    return;
  }
  for (int i = 0; (op = ij_case_list(i)); i++) {
    bool two_ways =
        strstr(op->name, "linear_") || !strcmp(op->name, "attention_fwd") || !strcmp(op->name, "attention_bwd");
    if (!two_ways || (filter && !strstr(op->name, filter))) continue;
    double start = ij_time();
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      if (!(s->use & IJ_CASE_BENCH)) continue;
      ij_case_shape few = reduced(op, s);
      check_shape(k, d, &plain, op, d->emulated ? &few : s);
      *skipped += d->emulated;
    }
    printf("%-20s %.2f s\n", op->name, ij_time() - start);
    fflush(stdout);
  }
  check_refusals(k, d);
  ij_check_device_close(&plain);
}

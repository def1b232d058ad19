#include "check.h"
#include <math.h>
#include <stdarg.h>
#include <string.h>

void ij_check_fail(ij_check *k, const ij_case *c, const char *fmt, ...) {
  char text[512];
  int at = 0;
  va_list ap;
  if (c)
    at = snprintf(text, sizeof text, "%s '%s' %s: ", c->op->name, c->shape->name,
                  !c->op->typed      ? "-"
                  : c->dt == IJ_BF16 ? "bf16"
                                     : "f32");
  va_start(ap, fmt);
  vsnprintf(text + at, sizeof text - (size_t)at, fmt, ap);
  va_end(ap);
  if (k->failures++ == 0) memcpy(k->first, text, sizeof text);
  if (k->to) fprintf(k->to, "FAIL %s\n", text);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */
static double root_mean_square(const ij_case_arg *a, const void *x) {
  double sum = 0, count = 0;
  for (ij_dim i = 0; i < a->n; i++) {
    double v = ij_case_get(a->type, x, i);
    if (!isfinite(v)) continue;
    sum += v * v;
    count++;
  }
  return count > 0 ? sqrt(sum / count) : 0;
}

static bool untouched(const void *p, size_t size) {
  const unsigned char *b = p;
  while (size && *b == 0xff) b++, size--;
  return size == 0;
}

bool ij_check_near(ij_check *k, const ij_case *c, int at, const char *want, const char *got, double tol,
                   const char *how) {
  const ij_case_arg *a = &c->arg[at];
  size_t size = ij_case_size(a->type);
  if (!memcmp(want, got, (size_t)a->n * size)) return true;
  double rms = fmax(root_mean_square(a, want), a->unit);
  if (tol < 0) tol = a->tol;
  for (ij_dim i = 0; i < a->n; i++) {
    const char *w = want + (size_t)i * size, *g = got + (size_t)i * size;
    if (!memcmp(w, g, size)) continue;
    if (untouched(w, size) && a->role == IJ_CASE_OUT) {
      ij_check_fail(k, c, "%s: %s[%lld] is written, which the contract excludes", how, a->name, (long long)i);
      return false;
    }
    if (untouched(g, size) && a->role == IJ_CASE_OUT) {
      ij_check_fail(k, c, "%s: %s[%lld] is not written", how, a->name, (long long)i);
      return false;
    }
    double x = ij_case_get(a->type, w, 0), y = ij_case_get(a->type, g, 0), allowed = tol * (fabs(x) + rms);
    if ((isnan(x) && isnan(y)) || x == y) continue;
    if (fabs(x) < 0x1p-126 && fabs(y) < 0x1p-126) continue; /* CPUs may flush such small values to 0 */
    if (fabs(x - y) <= allowed) continue;
    ij_check_fail(k, c, "%s: %s[%lld] is %.9g, expected %.9g, off by %.3g, allowed %.3g (%s)", how, a->name,
                  (long long)i, y, x, fabs(x - y), allowed, tol > 0 ? a->why : "the same bits");
    return false;
  }
  return true;
}

/* Scratch memory of a queue is what the last op left in it. */
static bool dirty(ij_queue *q) {
  enum { BYTES = 1 << 16 };
  for (int i = 0; i < 8; i++) {
    void *p = ij_queue_scratch(q, i, BYTES);
    if (!p) return false;
    memset(p, 0xff, BYTES);
  }
  return true;
}

/* One call; outputs are compared with want[], or, where it is empty, become want[]. False: stop with this case. */
static bool try_call(ij_check *k, ij_case *c, const ij_op_table *t, ij_case_place place, const char *form, double tol,
                     const char *how, void **want) {
  ij_case_memory m = {0};
  ij_queue q = {0};
  ij_status st = IJ_OK;
  bool ok = false;
  char label[96];
  snprintf(label, sizeof label, "%s%s%s%s", how, place == IJ_CASE_AT_END ? ", unaligned" : "", form ? ", " : "",
           form ? form : "");
  if (!ij_case_place_all(c, &m, place, form) || (place == IJ_CASE_AT_END && !dirty(&q))) {
    ij_check_fail(k, c, "%s: no memory, or a form of other arguments", label);
    goto out;
  }
  ij_case_fill_all(c);
  k->calls++;
  if (!ij_case_call(c, t, &q, &st)) {
    ij_check_fail(k, c, "%s: touches memory outside of its arguments", label);
    goto out;
  }
  if (st != IJ_OK) {
    ij_check_fail(k, c, "%s: returns %d", label, (int)st);
    goto out;
  }
  int spoiled = ij_case_spoiled(&m);
  if (spoiled >= 0) {
    ij_check_fail(k, c, "%s: writes outside of %s", label, c->arg[spoiled].name);
    goto out;
  }
  for (int i = 0; i < c->args; i++) {
    const ij_case_arg *a = &c->arg[i];
    size_t bytes = (size_t)a->n * ij_case_size(a->type);
    bool shared = false;
    if (!a->name) continue;
    for (int j = 0; j < c->args; j++) shared |= j != i && c->arg[j].name && c->p[j] == c->p[i];
    if (a->role == IJ_CASE_IN) {
      if (shared || !memcmp(c->p[i], a->first, bytes)) continue;
      ij_check_fail(k, c, "%s: changes its input %s", label, a->name);
      goto out;
    }
    if (want[i]) {
      if (!ij_check_near(k, c, i, want[i], c->p[i], tol, label)) goto out;
    } else {
      if (!(want[i] = ij_alloc(bytes))) goto out;
      memcpy(want[i], c->p[i], bytes);
    }
  }
  ok = true;
out:
  ij_queue_release(&q);
  ij_case_unplace(&m);
  return ok;
}

/* Each allocation fails in turn: the op must say so, and not crash. */
static bool try_out_of_memory(ij_check *k, ij_case *c, const ij_op_table *t) {
  ij_case_memory m = {0};
  bool ok = false;
  if (!ij_case_place_all(c, &m, IJ_CASE_ALIGNED, NULL)) return false;
  for (int n = 1; n < 20 && !ok; n++) {
    ij_queue q = {0};
    ij_status st = IJ_OK;
    ij_case_fill_all(c);
    k->calls++;
    ij_mem_fail_at(n);
    bool fine = ij_case_call(c, t, &q, &st);
    ij_mem_fail_at(0);
    ij_queue_release(&q);
    if (!fine || (st != IJ_OK && st != IJ_ENOMEM)) {
      ij_check_fail(k, c, "out of memory at allocation %d: %s", n,
                    fine ? "another status" : "touches memory of others");
      break;
    }
    ok = st == IJ_OK;
  }
  ij_case_unplace(&m);
  return ok;
}

bool ij_check_reference(ij_check *k, ij_case *c, void **want) {
  return try_call(k, c, &ij_ref_table, IJ_CASE_ALIGNED, NULL, 0, "ref", want);
}

static bool is_small(const ij_case *c) { return ij_case_bytes(c) < 300000; }

void ij_check_results(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt,
                      const ij_op_table *t) {
  void *want[IJ_CASE_ARGS] = {0};
  ij_case *c = ij_case_new(op, shape, dt);
  if (!c) {
    ij_check_fail(k, NULL, "%s '%s': no memory, or its forward fails", op->name, shape->name);
    return;
  }
  const ij_op_table *ref = &ij_ref_table;
  int threads = ij_threads_get();
  bool small = is_small(c);
  if (!ij_check_reference(k, c, want)) goto out;
  if (small && !try_call(k, c, ref, IJ_CASE_AT_END, NULL, 0, "ref", want)) goto out;
  for (int i = 0; i < c->forms; i++)
    if (!try_call(k, c, ref, IJ_CASE_ALIGNED, c->form[i], 0, "ref", want)) goto out;
  if (small && !try_out_of_memory(k, c, ref)) goto out;
  if (!try_call(k, c, t, IJ_CASE_ALIGNED, NULL, -1, "cpu", want)) goto out;
  for (int i = 0; i < c->forms; i++)
    if (!try_call(k, c, t, IJ_CASE_ALIGNED, c->form[i], -1, "cpu", want)) goto out;
  if (!small || !try_call(k, c, t, IJ_CASE_AT_END, NULL, -1, "cpu", want)) goto out;
  ij_threads_set(1);
  if (!try_call(k, c, t, IJ_CASE_ALIGNED, NULL, -1, "cpu, 1 thread", want)) goto out;
  ij_threads_set(3);
  if (!try_call(k, c, t, IJ_CASE_AT_END, NULL, -1, "cpu, 3 threads", want)) goto out;
  ij_threads_set(threads);
  try_out_of_memory(k, c, t);
out:
  ij_threads_set(threads);
  for (int i = 0; i < IJ_CASE_ARGS; i++) ij_free(want[i]);
  ij_case_free(c);
}

/* ---- gradients -------------------------------------------------------------------------------------------------- */
/* Differences over 2h, h = 1% of the numbers' size: the error of a difference is near h^2 f''' / 6, and rounding to f32
 * adds 6e-8 / h; both, relative to the gradient's length, stay below 1e-3. */
static const double STEP = 1e-2, GRADIENT_TOL = 1e-3;
enum { DIRECTIONS = 3 };

/* Sum of the forward's outputs times what the backward gets as their gradients */
static double objective(const ij_case *f, const ij_case *b) {
  double sum = 0;
  for (int i = 0; i < f->args; i++) {
    char name[32];
    if (!f->arg[i].name || f->arg[i].role != IJ_CASE_OUT) continue;
    snprintf(name, sizeof name, "d%s", f->arg[i].name);
    int at = ij_case_find(b, name);
    if (at < 0 || b->arg[at].role != IJ_CASE_IN) continue;
    const float *y = f->p[i], *dy = b->p[at];
    for (ij_dim j = 0; j < f->arg[i].n; j++)
      if (!untouched(&y[j], sizeof *y)) sum += (double)y[j] * dy[j];
  }
  return sum;
}

/* The gradient of the forward's input x, argument `at`, is b's argument `grad`. */
static void check_gradient(ij_check *k, ij_case *f, int at, const ij_case *b, int grad) {
  const ij_case_arg *x = &f->arg[at];
  const float *g = b->p[grad];
  ij_queue q = {0};
  double length = 0, h = STEP * root_mean_square(x, x->first);
  for (ij_dim i = 0; i < x->n; i++) length += (double)g[i] * g[i];
  length = sqrt(length);
  for (uint64_t seed = 1; seed <= DIRECTIONS; seed++) {
    double expected = 0, side[2];
    for (ij_dim i = 0; i < x->n; i++) expected += g[i] * ij_case_random(seed, i);
    for (int s = 0; s < 2; s++) {
      ij_status st;
      ij_case_fill_all(f);
      float *p = f->p[at];
      for (ij_dim i = 0; i < x->n; i++) p[i] += (float)((s ? -h : h) * ij_case_random(seed, i));
      if (!ij_case_call(f, &ij_ref_table, &q, &st) || st != IJ_OK) {
        ij_check_fail(k, b, "gradient of %s: the forward fails", x->name);
        goto out;
      }
      side[s] = objective(f, b);
    }
    double difference = (side[0] - side[1]) / (2 * h), allowed = GRADIENT_TOL * (fabs(expected) + length);
    k->gradients++;
    if (fabs(difference - expected) <= allowed) continue;
    ij_check_fail(k, b, "gradient of %s, direction %d: %.7g, by differences %.7g, allowed %.2g apart", x->name,
                  (int)seed, expected, difference, allowed);
    break;
  }
out:
  ij_queue_release(&q);
}

void ij_check_gradients(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, const ij_op_table *t) {
  ij_case *b = ij_case_new(op, shape, IJ_F32), *f = ij_case_new_alone(op->forward, shape, IJ_F32);
  ij_case_memory mb = {0}, mf = {0};
  ij_queue q = {0};
  ij_status st;
  int found = 0;
  if (!b || !f || !ij_case_place_all(b, &mb, IJ_CASE_ALIGNED, NULL) ||
      !ij_case_place_all(f, &mf, IJ_CASE_ALIGNED, NULL)) {
    ij_check_fail(k, b, "gradients: no memory");
    goto out;
  }
  for (int i = 0; i < f->args; i++) { /* what both have in common */
    int at = f->arg[i].name ? ij_case_find(b, f->arg[i].name) : -1;
    if (at >= 0 && b->arg[at].role == IJ_CASE_IN && f->arg[i].role == IJ_CASE_IN)
      memcpy(f->arg[i].first, b->arg[at].first, (size_t)f->arg[i].n * ij_case_size(f->arg[i].type));
  }
  for (int i = 0; i < b->args; i++)
    if (b->arg[i].name && b->arg[i].role == IJ_CASE_ADD)
      memset(b->arg[i].first, 0, (size_t)b->arg[i].n * ij_case_size(b->arg[i].type));
  ij_case_fill_all(b);
  if (!ij_case_call(b, t, &q, &st) || st != IJ_OK) {
    ij_check_fail(k, b, "gradients: the backward fails");
    goto out;
  }
  for (int i = 0; i < b->args; i++) {
    const ij_case_arg *a = &b->arg[i];
    if (!a->name || a->name[0] != 'd' || a->role == IJ_CASE_IN) continue;
    int at = ij_case_find(f, a->name + 1);
    if (at < 0 || f->arg[at].role != IJ_CASE_IN) continue;
    found++;
    check_gradient(k, f, at, b, i);
  }
  if (!found) ij_check_fail(k, b, "gradients: none has a name like 'dx' of an input 'x' of the forward");
out:
  ij_queue_release(&q);
  ij_case_unplace(&mb);
  ij_case_unplace(&mf);
  ij_case_free(b);
  ij_case_free(f);
}

/* ---- coverage --------------------------------------------------------------------------------------------------- */
static const char *const op_names[] = {
#define IJ_OP(name, params, args) #name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

static bool is_op(const char *name) {
  for (size_t i = 0; i < sizeof op_names / sizeof *op_names; i++)
    if (!strcmp(op_names[i], name)) return true;
  return false;
}

static void covered(ij_check *k, const char *name) {
  bool tried = false, gradient = false;
  const ij_case_op *op;
  for (int i = 0; (op = ij_case_list(i)); i++) {
    if (strcmp(op->name, name) != 0) continue;
    for (const ij_case_shape *s = op->shapes; s->name; s++) {
      tried |= !(s->use & IJ_CASE_BENCH);
      gradient |= op->forward && s->use & IJ_CASE_GRAD;
    }
  }
  if (!tried) ij_check_fail(k, NULL, "op '%s' has no case: write kernels/<op>/case.c", name);
  else if (strstr(name, "_bwd") && !gradient) ij_check_fail(k, NULL, "op '%s' has no check of its gradients", name);
}

void ij_check_coverage(ij_check *k, const char *missing) {
  const ij_case_op *op;
  for (size_t i = 0; i < sizeof op_names / sizeof *op_names; i++) covered(k, op_names[i]);
  if (missing) covered(k, missing);
  for (int i = 0; (op = ij_case_list(i)); i++)
    if (!is_op(op->name)) ij_check_fail(k, NULL, "case '%s' is of no op in kernels/ops.h", op->name);
}

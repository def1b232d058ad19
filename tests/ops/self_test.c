/* Planted bugs: the checks find each. */
#include "self_test.h"
#include "device.h"
#include <stdlib.h>
#include <string.h>

static ij_status wrong_value(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  ij_status st = ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
  if (dt == IJ_F32 && R * F > 3) ((float *)y)[3] *= 1.001f;
  return st;
}
static ij_status past_the_end(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  ij_status st = ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
  if (dt == IJ_F32) ((float *)y)[R * F] = 0;
  return st;
}
static ij_status before_the_start(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                  void *y) {
  ij_status st = ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
  ((char *)y)[-1] = 0;
  return st;
}
static ij_status reads_past_the_end(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                    void *y) {
  const volatile char *end = (const char *)x + R * F * (dt == IJ_F32 ? 4 : 2);
  (void)*end;
  return ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
}
static ij_status changes_input(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  ij_status st = ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
  if (R * F > 0) *(char *)(uintptr_t)x ^= 1;
  return st;
}
static ij_status leaves_last(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  return R > 0 && !b ? ij_ref_gelu_fwd(q, dt, R - 1, F, x, b, y) : ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
}
static ij_status needs_own_output(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                  void *y) {
  if (dt == IJ_F32)
    for (ij_dim i = 0; i < R * F; i++) ((float *)y)[i] = 0;
  return ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
}
static ij_status hides_no_memory(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  float *s = ij_queue_scratch(q, 0, 64);
  return s ? ij_ref_gelu_fwd(q, dt, R, F, x, b, y) : IJ_EINVAL;
}
static ij_status writes_unasked_rows(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                                     const void *qkv, const float *bias, void *out, float *lse) {
  (void)first_q;
  return ij_ref_attention_fwd(q, dt, B, N, A, S, 0, qkv, bias, out, lse);
}
static ij_status overwrites_sum(ij_queue *q, ij_dim n, float scale, const float *x, float *y) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) y[i] = scale * x[i];
  return IJ_OK;
}
/* Wrong in both the table and what it is compared with, as a wrong derivation would be: only differences tell */
static ij_status wrong_gradient(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean,
                                const float *rstd, const float *w, const void *dy, const float *res, float *dx,
                                void *dx_dt, float *dw, float *db) {
  ij_status st = ij_ref_norm_bwd(q, dt, R, D, s, mean, rstd, w, dy, res, dx, dx_dt, dw, db);
  for (ij_dim i = 0; i < R * D; i++) dx[i] += 0.01f * s[i]; /* the part through the variance, say */
  return st;
}

static const ij_case_op *case_of(const char *name) {
  const ij_case_op *op = NULL;
  for (int i = 0; (op = ij_case_list(i)) && strcmp(op->name, name) != 0; i++) {}
  return op;
}

static int expect(const char *what, const ij_check *k, const char *text) {
  bool found = k->failures > 0 && strstr(k->first, text);
  printf("%-8s %s: %s\n", found ? "found" : "MISSED", what, k->failures ? k->first : "no failure");
  return found ? 0 : 1;
}

static int plant(const char *what, const ij_op_table *t, const char *name, const char *text) {
  ij_check k = {0};
  const ij_case_op *op = case_of(name);
  for (const ij_case_shape *s = op->shapes; s->name; s++) {
    if (s->use & IJ_CASE_BENCH) continue;
    ij_check_results(&k, op, s, IJ_F32, t);
    if (k.failures) break;
  }
  return expect(what, &k, text);
}

static int self_test_host(void) {
  int missed = 0;
  const struct {
    const char *what;
    ij_status (*gelu)(ij_queue *, ij_dtype, ij_dim, ij_dim, const void *, const float *, void *);
    const char *text;
  } gelus[] = {
      {"a wrong value", wrong_value, "y[3] is"},
      {"a write behind the output", past_the_end, "writes outside of y"},
      {"a write before the output", before_the_start, "writes outside of y"},
      {"a read behind the input", reads_past_the_end, "touches memory outside"},
      {"a changed input", changes_input, "changes its input x"},
      {"a row left out", leaves_last, "is not written"},
      {"no aliasing where the contract allows it", needs_own_output, "cpu, y=x: y["},
      {"another status when memory is out", hides_no_memory, "out of memory at allocation 1"},
  };
  for (size_t i = 0; i < sizeof gelus / sizeof *gelus; i++) {
    ij_op_table t = ij_ref_table;
    t.gelu_fwd = gelus[i].gelu;
    missed += plant(gelus[i].what, &t, "gelu_fwd", gelus[i].text);
  }
  ij_op_table t = ij_ref_table;
  t.attention_fwd = writes_unasked_rows;
  missed += plant("rows written that nobody asked for", &t, "attention_fwd", "which the contract excludes");
  t.axpy = overwrites_sum;
  missed += plant("a sum that starts again", &t, "axpy", "y[0] is");
  t.norm_bwd = wrong_gradient;
  ij_check k = {0};
  const ij_case_op *norm = case_of("norm_bwd");
  ij_check_gradients(&k, norm, norm->shapes, &t);
  missed += expect("a wrong gradient", &k, "by differences");
  k = (ij_check){0};
  ij_check_coverage(&k, "sort_fwd");
  missed += expect("an op without a case", &k, "'sort_fwd' has no case");
  k = (ij_check){0};
  ij_check_gradients(&k, norm, norm->shapes, &ij_ref_table);
  if (k.failures) missed += expect("the right gradient", &k, "nothing");
  return missed;
}

/* ---- a device whose memory is the host's --------------------------------------------------------------------------
 */
static ij_status fake_open(int index, ij_queue *q) {
  (void)index;
  *q = (ij_queue){0};
  return IJ_OK;
}
static void fake_close(ij_queue *q) { ij_queue_release(q); }
static ij_status fake_alloc(ij_queue *q, size_t bytes, void **out) {
  (void)q;
  return (*out = ij_alloc(bytes)) ? IJ_OK : IJ_ENOMEM;
}
static void fake_free(ij_queue *q, void *p) {
  (void)q;
  ij_free(p);
}
static ij_status fake_write(ij_queue *q, void *to, const void *host, size_t n) {
  (void)q;
  memcpy(to, host, n);
  return IJ_OK;
}
static ij_status fake_read(ij_queue *q, const void *from, void *host, size_t n) {
  (void)q;
  memcpy(host, from, n);
  return IJ_OK;
}
static void fake_info(ij_queue *q, ij_device_info *out) {
  (void)q;
  *out = (ij_device_info){.name = "fake"};
}
static ij_backend fake(void) {
  return (ij_backend){.abi = IJ_BACKEND_ABI,
                      .ops = ij_ref_table,
                      .open = fake_open,
                      .close = fake_close,
                      .alloc = fake_alloc,
                      .free = fake_free,
                      .write = fake_write,
                      .read = fake_read,
                      .info = fake_info};
}

static ij_status differs_each_time(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b,
                                   void *y) {
  static int calls;
  ij_status st = ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
  if (dt == IJ_F32 && R * F > 0 && calls++ % 2) ((uint32_t *)y)[0] ^= 1;
  return st;
}
static ij_status needs_alignment(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y) {
  return (uintptr_t)x % 16 ? IJ_OK : ij_ref_gelu_fwd(q, dt, R, F, x, b, y);
}

static int plant_on_device(const char *what, const ij_backend *backend, const char *text) {
  ij_check k = {0};
  ij_check_device d = {0};
  const ij_case_op *op = case_of("gelu_fwd");
  if (ij_check_device_open(&d, backend) != IJ_OK) return 1;
  ij_check_device_slots(&k, &d);
  for (const ij_case_shape *s = op->shapes; s->name && !k.failures; s++)
    if (!(s->use & IJ_CASE_BENCH)) ij_check_device_results(&k, op, s, IJ_F32, &d);
  ij_check_device_close(&d);
  if (text) return expect(what, &k, text);
  if (k.failures) expect(what, &k, "nothing");
  return k.failures;
}

static int self_test_device(void) {
  const struct {
    const char *what;
    ij_status (*gelu)(ij_queue *, ij_dtype, ij_dim, ij_dim, const void *, const float *, void *);
    const char *text;
  } gelus[] = {
      {"a missing slot", NULL, "'gelu_fwd' is missing"},
      {"a wrong value on a device", wrong_value, "y[3] is"},
      {"a write behind an output on a device", past_the_end, "writes outside of y"},
      {"a write before an output on a device", before_the_start, "writes outside of y"},
      {"a changed input on a device", changes_input, "changes its input x"},
      {"a row left out on a device", leaves_last, "is not written"},
      {"no aliasing on a device", needs_own_output, "device, y=x: y["},
      {"a sum in another order each time", differs_each_time, "again: y[0] is"},
      {"a view that is not aligned to 16 bytes", needs_alignment, "unaligned: y[0] is not written"},
  };
  int missed = 0;
  ij_backend good = fake();
  missed += plant_on_device("nothing planted on a device", &good, NULL);
  for (size_t i = 0; i < sizeof gelus / sizeof *gelus; i++) {
    ij_backend bad = fake();
    bad.ops.gelu_fwd = gelus[i].gelu;
    if (!gelus[i].gelu) { /* no call is made then */
      ij_check k = {0};
      ij_check_device d = {.backend = &bad};
      ij_check_device_slots(&k, &d);
      missed += expect(gelus[i].what, &k, gelus[i].text);
    } else {
      missed += plant_on_device(gelus[i].what, &bad, gelus[i].text);
    }
  }
  return missed;
}

int ij_check_self_test(void) { return self_test_host() + self_test_device(); }

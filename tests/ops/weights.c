/* What a device keeps of weights between calls: bf16 copies by address and version, renewed by update in its pass,
 * dropped when nothing asks for them any more. Seen from outside: identity times w, in bf16, shows the copy that the
 * product used; w is overwritten behind the device's back to tell it from a fresh one. */
#include "device.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, K = 24, COUNT = N * K, FEW = 8, SMALL = 8, CALLS = 6000, SHAPES = 3500 };

typedef struct watch {
  ij_check *k;
  ij_check_device *d;
  float *w, *avg, *g, *m, *v, *gate; /* (N, K), gate (1) */
  uint16_t *unit, *y;                /* identity (K, K); (K, N) */
  uint16_t *ones, *rows;
  float *small; /* (SHAPES, SMALL) each; (SMALL, SMALL) */
} watch;

static void *make(watch *t, size_t bytes) {
  void *p = NULL;
  if (t->d->backend->alloc(&t->d->queue, bytes, &p) != IJ_OK) ij_check_fail(t->k, NULL, "weights: %s", ij_errmsg());
  return p;
}
static void put(watch *t, void *to, const void *from, size_t bytes) {
  if (t->d->backend->write(&t->d->queue, to, from, bytes) != IJ_OK)
    ij_check_fail(t->k, NULL, "weights: %s", ij_errmsg());
}
static void get(watch *t, const void *from, void *to, size_t bytes) {
  if (t->d->backend->read(&t->d->queue, from, to, bytes) != IJ_OK)
    ij_check_fail(t->k, NULL, "weights: %s", ij_errmsg());
}
static void numbers(watch *t, float *to, float *content, uint64_t seed) {
  for (ij_dim i = 0; i < COUNT; i++) content[i] = (float)ij_case_random(seed, i);
  put(t, to, content, COUNT * sizeof *content);
}

/* The copy that a product of w (n, K) under this version uses is that of `want`. */
static void expect(watch *t, const float *w, ij_dim n, uint64_t version, const float *want, const char *what) {
  uint16_t y[COUNT];
  t->k->calls++;
  if (t->d->backend->ops.linear_fwd(&t->d->queue, IJ_BF16, K, n, K, t->unit, w, version, t->y) != IJ_OK)
    ij_check_fail(t->k, NULL, "weights: %s: %s", what, ij_errmsg());
  get(t, t->y, y, sizeof y);
  for (ij_dim i = 0; i < n * K; i++)
    if (y[i % K * n + i / K] != ij_f32_to_bf16(want[i])) {
      ij_check_fail(t->k, NULL, "weights: %s: element %d is %g, expected %g", what, (int)i,
                    (double)ij_bf16_to_f32(y[i % K * n + i / K]), (double)want[i]);
      return;
    }
}

static const ij_update adamw = {
    .kind = IJ_UPDATE_ADAMW, .t = 3, .beta1 = .9, .beta2 = .999, .eps = 1e-8, .gscale = 1, .mom = .9};
static void update(watch *t, uint64_t version, uint64_t avg_version, const float *gate) {
  ij_update_item item = {.n = COUNT, .lr = .1, .wd = .1, .p = t->w, .g = t->g, .m = t->m, .v = t->v, .avg = t->avg};
  item.version = version;
  item.avg_version = avg_version;
  t->k->calls++;
  ij_update u = adamw;
  u.gate = gate;
  if (t->d->backend->ops.update(&t->d->queue, 1, &item, &u) != IJ_OK)
    ij_check_fail(t->k, NULL, "weights: update: %s", ij_errmsg());
}

static void kept(watch *t, uint64_t at) {
  float first[COUNT], second[COUNT];
  numbers(t, t->w, first, 1);
  expect(t, t->w, N, at, first, "made");
  numbers(t, t->w, second, 2);
  expect(t, t->w, N, at, first, "kept under its version");
  expect(t, t->w, N, 0, second, "version 0 is never kept");
  expect(t, t->w, N, at + 1, second, "made anew for another version");
}

static void renewed(watch *t, uint64_t at) {
  static const float nan_gate = NAN;
  float content[COUNT], p[COUNT], avg[COUNT], other[COUNT];
  const char *const what[] = {"renewed by update", "renewed where the gate is shut"};
  for (int shut = 0; shut < 2; shut++, at += 4) {
    numbers(t, t->w, content, 3);
    expect(t, t->w, N, at, content, "before update");
    numbers(t, t->avg, content, 4);
    expect(t, t->avg, N, at + 1, content, "average before update");
    if (shut) numbers(t, t->w, content, 5); /* then even a copy of something else becomes p's */
    put(t, t->gate, &nan_gate, sizeof nan_gate);
    update(t, at + 2, at + 3, shut ? t->gate : NULL);
    get(t, t->w, p, sizeof p);
    get(t, t->avg, avg, sizeof avg);
    numbers(t, t->w, other, 6);
    numbers(t, t->avg, other, 7);
    expect(t, t->w, N, at + 2, p, what[shut]);
    expect(t, t->avg, N, at + 3, avg, what[shut]);
  }
  /* the memory became a smaller tensor's and a larger one's again: update must not write into the small copy */
  numbers(t, t->w, content, 8);
  expect(t, t->w, FEW, at, content, "fewer elements");
  update(t, at + 1, at + 2, NULL);
  get(t, t->w, p, sizeof p);
  expect(t, t->w, N, at + 1, p, "as many elements as before");
  float *fresh = t->w + 2 * COUNT; /* a copy that has to grow */
  numbers(t, fresh, content, 10);
  expect(t, fresh, FEW, at + 3, content, "few elements");
  expect(t, fresh, N, at + 4, content, "more elements at the same place");
}

/* More tensors than one launch describes: as if they were one. */
static void many(watch *t) {
  enum { TENSORS = COUNT / 4, FIELDS = 5 };
  float *field[FIELDS] = {t->w, t->g, t->m, t->v, t->avg}, first[FIELDS][COUNT], want[COUNT], got[COUNT];
  ij_update_item one = {.n = COUNT, .lr = .1, .wd = .1}, item[TENSORS];
  float *at[FIELDS]; /* where results of the whole tensor go: behind those of the pieces */
  for (int f = 0; f < FIELDS; f++) {
    at[f] = field[f] + 2 * COUNT;
    numbers(t, field[f], first[f], 20 + (uint64_t)f);
    for (int i = 0; f == 3 && i < COUNT; i++) first[f][i] = fabsf(first[f][i]);
    put(t, field[f], first[f], sizeof first[f]);
    put(t, at[f], first[f], sizeof first[f]);
  }
  one.p = at[0], one.g = at[1], one.m = at[2], one.v = at[3], one.avg = at[4];
  for (int i = 0; i < TENSORS; i++)
    item[i] = (ij_update_item){.n = 4,
                               .lr = .1,
                               .wd = .1,
                               .p = t->w + 4 * i,
                               .g = t->g + 4 * i,
                               .m = t->m + 4 * i,
                               .v = t->v + 4 * i,
                               .avg = t->avg + 4 * i};
  ij_queue *q = &t->d->queue;
  const ij_op_table *ops = &t->d->backend->ops;
  t->k->calls += 2;
  if (ops->update(q, 1, &one, &adamw) != IJ_OK || ops->update(q, TENSORS, item, &adamw) != IJ_OK)
    ij_check_fail(t->k, NULL, "weights: update: %s", ij_errmsg());
  for (int f = 0; f < FIELDS; f++) {
    get(t, at[f], want, sizeof want);
    get(t, field[f], got, sizeof got);
    if (memcmp(want, got, sizeof got)) ij_check_fail(t->k, NULL, "weights: %d tensors are not as one", TENSORS);
    if (!memcmp(first[f], got, sizeof got)) ij_check_fail(t->k, NULL, "weights: update leaves a tensor as it was");
  }
}

/* How many matmul shapes the device keeps plans of; -1: it does not say. */
static long long shapes_kept(ij_check_device *d) {
  char *report = NULL;
  long long shapes = -1;
  if (d->backend->report && d->backend->report(&d->queue, &report) == IJ_OK) {
    const char *line = strstr(report, "matmuls\t");
    if (line) sscanf(line, "matmuls %lld", &shapes);
  }
  ij_free(report);
  return shapes;
}

/* Many products of many shapes, none of them of w or avg: their copies go, and the results stay right. */
static void dropped(watch *t, uint64_t at) {
  float w[SMALL * SMALL];
  ij_device_info before = {0}, after = {0};
  long long shapes = 0;
  for (int i = 0; i < SMALL * SMALL; i++) w[i] = (float)(i % 5);
  put(t, t->small, w, sizeof w);
  for (int i = 0; i < CALLS; i++) {
    ij_dim R = t->d->quick ? 1 + i % 3 : 1 + i % SHAPES;
    if (t->d->backend->ops.linear_fwd(&t->d->queue, IJ_BF16, R, SMALL, SMALL, t->ones, t->small, at, t->rows) !=
        IJ_OK) {
      ij_check_fail(t->k, NULL, "weights: product %d: %s", i, ij_errmsg());
      return;
    }
    if (i == 0) t->d->backend->info(&t->d->queue, &before);
    if (i == SHAPES - 1) shapes = shapes_kept(t->d);
    if (i != CALLS - 1 && i != 0) continue;
    uint16_t y[SMALL];
    get(t, t->rows + (R - 1) * SMALL, y, sizeof y);
    for (int n = 0; n < SMALL; n++) {
      float sum = 0;
      for (int k = 0; k < SMALL; k++) sum += w[n * SMALL + k];
      if (ij_bf16_to_f32(y[n]) != sum) ij_check_fail(t->k, NULL, "weights: product %d is wrong", i);
    }
  }
  t->k->calls += CALLS;
  if (shapes != shapes_kept(t->d) || (shapes >= 0 && shapes < SHAPES && !t->d->quick))
    ij_check_fail(t->k, NULL, "weights: plans of %lld shapes after %d shapes, then of %lld", shapes, SHAPES,
                  shapes_kept(t->d));
  t->d->backend->info(&t->d->queue, &after);
  if (after.memory_used + 2 * COUNT * 2 > before.memory_used)
    ij_check_fail(t->k, NULL, "weights: copies that nothing uses stay: %lld bytes before, %lld after",
                  (long long)before.memory_used, (long long)after.memory_used);
}

void ij_check_device_weights(ij_check *k, ij_check_device *d) {
  uint16_t unit[K * K] = {0}, *ones = ij_alloc(SHAPES * SMALL * sizeof *ones);
  float zeros[COUNT] = {0}, grads[COUNT];
  watch t = {.k = k, .d = d};
  void **all[] = {(void **)&t.w,    (void **)&t.avg,  (void **)&t.g,    (void **)&t.m,
                  (void **)&t.v,    (void **)&t.gate, (void **)&t.unit, (void **)&t.y,
                  (void **)&t.ones, (void **)&t.rows, (void **)&t.small};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] = make(&t, SHAPES * SMALL * sizeof(uint16_t));
  for (int i = 0; i < K; i++) unit[i * K + i] = ij_f32_to_bf16(1);
  for (int i = 0; ones && i < SHAPES * SMALL; i++) ones[i] = ij_f32_to_bf16(1);
  if (k->failures == 0 && ones) {
    put(&t, t.unit, unit, sizeof unit);
    put(&t, t.ones, ones, SHAPES * SMALL * sizeof *ones);
    put(&t, t.m, zeros, sizeof zeros);
    put(&t, t.v, zeros, sizeof zeros);
    numbers(&t, t.g, grads, 9);
    kept(&t, (uint64_t)1 << 40); /* versions that no case has */
    renewed(&t, (uint64_t)1 << 41);
    dropped(&t, (uint64_t)1 << 42);
    many(&t);
  }
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) d->backend->free(&d->queue, *all[i]);
  ij_free(ones);
}

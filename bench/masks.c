/* How long the masks of one group of images take on one core: median over many groups. */
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 301 };

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static ij_status measure(const char *label, const ij_mask_config *c, double *median) {
  ij_mask_policy *p = NULL;
  ij_status st = ij_mask_new(c, &p);
  double t[ROUNDS], k = 0;
  for (int i = 0; i < ROUNDS && st == IJ_OK; i++) {
    ij_masks m;
    double start = ij_time();
    st = ij_mask_sample(p, (uint64_t)i * 128, 128, &m);
    t[i] = (ij_time() - start) * 1e3;
    k += st == IJ_OK ? (double)m.k / ROUNDS : 0;
  }
  ij_mask_free(p);
  if (st != IJ_OK) return st;
  qsort(t, ROUNDS, sizeof *t, by_value);
  *median = t[ROUNDS / 2];
  printf("%-28s %8.3f %8.3f %8.3f %8.1f\n", label, t[ROUNDS / 10], *median, t[ROUNDS * 9 / 10], k);
  return IJ_OK;
}

int main(void) {
  static const struct {
    const char *label;
    int side;
    unsigned quirks;
    ij_mask_kind kind;
  } cases[] = {
      {"multiblock 14x14", 14, 0, IJ_MASK_MULTIBLOCK},
      {"multiblock 16x16", 16, 0, IJ_MASK_MULTIBLOCK},
      {"multiblock 16x16 reference", 16, IJ_REFERENCE_QUIRKS, IJ_MASK_MULTIBLOCK},
      {"multiblock 28x28", 28, 0, IJ_MASK_MULTIBLOCK},
      {"random 16x16", 16, 0, IJ_MASK_RANDOM},
  };
  double goal = 0;
  printf("%-28s %8s %8s %8s %8s\n", "128 images, one core, ms", "10 %", "median", "90 %", "mean K");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ij_mask_config c = {.kind = cases[i].kind,
                        .grid_h = cases[i].side,
                        .grid_w = cases[i].side,
                        .contexts = 1,
                        .targets = 4,
                        .context_scale = {.85, 1},
                        .target_scale = {.15, .2},
                        .target_aspect = {.75, 1.5},
                        .min_keep = 10,
                        .quirks = cases[i].quirks,
                        .group = 128};
    double ms;
    if (measure(cases[i].label, &c, &ms) != IJ_OK) {
      fprintf(stderr, "bench_masks: %s: %s\n", cases[i].label, ij_errmsg());
      return EXIT_FAILURE;
    }
    if (i == 1) goal = ms;
  }
  printf("goal: multiblock 16x16 under 0.2 ms, at most 1 ms: %s\n", goal < .2   ? "met"
                                                                    : goal <= 1 ? "floor only"
                                                                                : "missed");
  return goal <= 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

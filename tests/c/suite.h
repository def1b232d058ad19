/* suite.h: what every C test shares: the run of its suite, and a scratch folder. */
#ifndef SUITE_H
#define SUITE_H
#include "base/base.h"
#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Runs all tests of a suite, frees it, and gives what main returns. */
static inline int run_suite(Suite *s) {
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_ENV);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static char scratch[64];

static inline void scratch_make(void) {
  strcpy(scratch, "/tmp/ijepa-test-XXXXXX");
  ck_assert_ptr_nonnull(mkdtemp(scratch));
}
static inline void run_in_scratch(const char *command) {
  char *line = ij_format("cd %s && { %s; } >/dev/null 2>&1", scratch, command);
  ck_assert_int_eq(system(line), 0);
  ij_free(line);
}
static inline int scratch_entry(const char *path, const struct stat *st, int kind, struct FTW *at) {
  (void)st, (void)kind, (void)at;
  return remove(path);
}
static inline void scratch_remove(void) { ck_assert_int_eq(nftw(scratch, scratch_entry, 16, FTW_DEPTH | FTW_PHYS), 0); }
/* The path of a file in the scratch folder; ij_free it. */
static inline char *in_scratch(const char *name) { return ij_format("%s/%s", scratch, name); }
#endif

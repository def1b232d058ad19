/* core/base: messages, counted memory, random numbers, files. */
#include "base/base.h"
#include "suite.h"
#include <stdlib.h>
#include <unistd.h>

START_TEST(messages_nest)
{
  ck_assert_int_eq(ij_fail(IJ_EIO, "'%s' is not there", "x"), IJ_EIO);
  ij_fail_in(IJ_EIO, "recipe");
  ck_assert_str_eq(ij_errmsg(), "recipe: 'x' is not there");
  ij_fail(IJ_EIO, "again: %s", ij_errmsg());
  ck_assert_str_eq(ij_errmsg(), "again: recipe: 'x' is not there");
}
END_TEST

START_TEST(memory_is_counted_and_can_fail)
{
  size_t before = ij_mem_live();
  void *p = ij_alloc(1000);
  ck_assert_uint_eq(ij_mem_live(), before + 1000);
  ck_assert_uint_eq((uintptr_t)p % 64, 0);
  ij_mem_fail_at(2);
  void *q = ij_alloc(1);
  ck_assert_ptr_nonnull(q);
  ck_assert_ptr_null(ij_alloc(1));
  ij_free(p);
  ij_free(q);
  ck_assert_uint_eq(ij_mem_live(), before);
}
END_TEST

START_TEST(philox_known_answer)
{ /* Random123's known-answer table: counter and key 0, then all ones */
  ij_rng r;
  ij_rng_init(&r, 0, 0, 0, 0);
  ck_assert_uint_eq(ij_rng_u32(&r), 0x6627e8d5u);
  ck_assert_uint_eq(ij_rng_u32(&r), 0xe169c58du);
  r = (ij_rng){.key = {~0u, ~0u}, .ctr = {~0u, ~0u, ~0u, ~0u}};
  ck_assert_uint_eq(ij_rng_u32(&r), 0x408f276du);
}
END_TEST

START_TEST(rng_is_a_function_of_its_keys)
{
  ij_rng a, b;
  ij_rng_init(&a, 7, IJ_RNG_CROP, 3, 11);
  ij_rng_init(&b, 7, IJ_RNG_CROP, 3, 12);
  ck_assert_uint_ne(ij_rng_u32(&a), ij_rng_u32(&b));
  double sum = 0;
  for (int i = 0; i < 10000; i++) sum += ij_rng_uniform(&a);
  ck_assert_double_eq_tol(sum / 10000, 0.5, 0.015);
  for (int i = 0; i < 1000; i++) ck_assert_uint_lt(ij_rng_below(&a, 7), 7);
}
END_TEST

START_TEST(mt_known_answers)
{ /* spec: floats of seeds 0, 1, 42 to four digits */
  static const float want[3][3] = {{.4963f, .7682f, .0885f}, {.7576f, .2793f, .4031f}, {.8823f, .9150f, .3829f}};
  static const uint64_t seed[3] = {0, 1, 42};
  for (int s = 0; s < 3; s++) {
    ij_mt g;
    ij_mt_init(&g, seed[s]);
    for (int i = 0; i < 3; i++) ck_assert_float_eq_tol(ij_mt_uniform(&g), want[s][i], 5.1e-5f);
  }
}
END_TEST

START_TEST(files)
{
  scratch_make();
  char *deep = in_scratch("a/b"), *file = in_scratch("a/b/x"), *names;
  ck_assert_int_eq(ij_mkdirs(deep), IJ_OK);
  ck_assert_int_eq(ij_mkdirs(deep), IJ_OK);
  ck_assert_int_eq(ij_file_replace(file, "hello", 5), IJ_OK);
  ck_assert_int_eq(ij_path_kind(file), 1);
  ck_assert_int_eq(ij_mkdirs(file), IJ_EIO);
  ck_assert_int_eq(ij_dir_list(deep, &names), IJ_OK);
  ck_assert_str_eq(names, "x\n");
  ij_bytes_free(names);
  ck_assert_int_eq(ij_dir_list("/nowhere/at/all", &names), IJ_EIO);
  ck_assert_int_eq(ij_file_replace("/nowhere/at/all", "", 0), IJ_EIO);
  ij_free(deep);
  ij_free(file);
  scratch_remove();
  ck_assert_int_eq(ij_path_kind(scratch), 0);
}
END_TEST

START_TEST(control_characters_are_shown_escaped)
{
  char text[64];
  ck_assert_str_eq(ij_shown(text, sizeof text, "a\n\t\x1b[1m\x7f\xc2\x9b\xc3\xa9"),
                   "a\\n\\t\\x1b[1m\\x7f\\x9b\xc3\xa9");
  ck_assert_str_eq(ij_shown(text, 6, "abc\x1b"), "abc"); /* nothing is cut in the middle */
  ij_fail(IJ_EIO, "'%s' is not there", "a\nb");
  ck_assert_str_eq(ij_errmsg(), "'a\\nb' is not there");
}
END_TEST

START_TEST(links_and_locks)
{
  char folder[] = "/tmp/ijepa-test-XXXXXX", *names;
  ck_assert_ptr_nonnull(mkdtemp(folder));
  char *a = ij_format("%s/a", folder), *b = ij_format("%s/b", folder), *l = ij_format("%s/l", folder);
  ck_assert_int_eq(ij_file_replace(a, "hello", 5), IJ_OK);
  ck_assert_int_eq(ij_file_link(a, b), IJ_OK);
  ck_assert_int_eq(ij_file_link(a, b), IJ_OK); /* already the same file */
  ck_assert_int_eq(ij_dir_list(folder, &names), IJ_OK);
  ck_assert_str_eq(names, "a\nb\n");
  ij_bytes_free(names);
  ck_assert_int_eq(ij_file_link(l, b), IJ_EIO);
  ij_lock *first, *second;
  ck_assert_int_eq(ij_lock_take(l, &first), IJ_OK);
  ck_assert_str_eq(ij_lock_note(first), "");
  ck_assert_int_eq(ij_lock_take(l, &second), IJ_EINVAL);
  ij_lock_drop(first);
  ck_assert_int_eq(ij_lock_take("/nowhere/at/all", &first), IJ_EIO);
  int can;
  ck_assert_int_eq(ij_folder_can(folder, &can), IJ_OK);
  ck_assert_int_eq(can & IJ_FOLDER_RENAME, IJ_FOLDER_RENAME);
  ck_assert_int_eq(ij_folder_can("/nowhere/at/all", &can), IJ_EIO);
  ij_free(a);
  ij_free(b);
  ij_free(l);
}
END_TEST

START_TEST(hash_sees_every_byte)
{
  unsigned char b[37] = {0};
  uint64_t h = ij_hash(0, b, sizeof b);
  ck_assert_uint_eq(h, ij_hash(0, b, sizeof b));
  ck_assert_uint_ne(h, ij_hash(1, b, sizeof b));
  ck_assert_uint_ne(h, ij_hash(0, b, sizeof b - 1));
  for (size_t i = 0; i < 8 * sizeof b; i++) {
    b[i / 8] ^= (unsigned char)(1 << i % 8);
    ck_assert_uint_ne(h, ij_hash(0, b, sizeof b));
    b[i / 8] ^= (unsigned char)(1 << i % 8);
  }
}
END_TEST

int main(void) {
  Suite *s = suite_create("base");
  TCase *t = tcase_create("base");
  tcase_add_test(t, messages_nest);
  tcase_add_test(t, memory_is_counted_and_can_fail);
  tcase_add_test(t, hash_sees_every_byte);
  tcase_add_test(t, philox_known_answer);
  tcase_add_test(t, rng_is_a_function_of_its_keys);
  tcase_add_test(t, mt_known_answers);
  tcase_add_test(t, files);
  tcase_add_test(t, control_characters_are_shown_escaped);
  tcase_add_test(t, links_and_locks);
  suite_add_tcase(s, t);
  return run_suite(s);
}

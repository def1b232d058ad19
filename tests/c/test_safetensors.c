/* core/save/safetensors.c: round trips, refusal of everything that is not a whole file, commits that fail. */
#include "base/base.h"
#include "suite.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[96];

static void setup(void) {
  scratch_make();
  snprintf(path, sizeof path, "%s/t.safetensors", scratch);
}

static void teardown(void) {
  remove(path);
  rmdir(scratch); /* fails, and leaves the folder to be seen, when a temporary was left behind */
  ck_assert_int_eq(ij_path_kind(scratch), 0);
}

static void put(const void *bytes, size_t n) {
  remove(path); /* some file systems sync a file that is truncated and written again */
  FILE *f = fopen(path, "wb");
  ck_assert_ptr_nonnull(f);
  ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
  fclose(f);
}

/* header (of n bytes) and data_size zeros as a file */
static void put_header(const char *header, size_t n, size_t data_size) {
  char *file = ij_calloc(1, 8 + n + data_size);
  for (int i = 0; i < 8; i++) file[i] = (char)(n >> (8 * i));
  memcpy(file + 8, header, n);
  put(file, 8 + n + data_size);
  ij_free(file);
}

static char *get(size_t *n) {
  FILE *f = fopen(path, "rb");
  ck_assert_ptr_nonnull(f);
  char *bytes = malloc(1 << 20);
  *n = fread(bytes, 1, 1 << 20, f);
  fclose(f);
  return bytes;
}

/* Reads all that a file claims to hold. */
static unsigned walk(ij_tensor_file *f) {
  unsigned sum = 0;
  for (int i = 0; i < ij_tensor_file_count(f); i++) {
    size_t n;
    const unsigned char *p = ij_tensor_file_data(f, i, &n);
    for (size_t k = 0; p && k < n; k++) sum += p[k];
    for (int d = 0; d < ij_tensor_file_ndim(f, i); d++) sum += (unsigned)ij_tensor_file_size(f, i, d);
    ck_assert_int_eq(ij_tensor_file_find(f, ij_tensor_file_name(f, i)), i);
    sum += (unsigned)strlen(ij_tensor_file_type(f, i));
  }
  for (int i = 0; i < ij_tensor_file_meta_count(f); i++)
    sum += (unsigned)strlen(ij_tensor_file_meta(f, ij_tensor_file_meta_key(f, i)));
  return sum;
}

static void put_small(void) {
  static const float a[6] = {1, 2, 3, 4, 5, 6};
  static const int64_t step = 77, a_shape[2] = {2, 3}, empty_shape[2] = {0, 5}, u_shape[1] = {3};
  ij_tensor_writer *w;
  ck_assert_int_eq(ij_tensor_writer_new(path, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_meta(w, "arch", "vit_tiny"), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_meta(w, "arch", "vit \"small\"\n\xc3\xa9"), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "u", IJ_U8, 1, u_shape, "xyz"), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "a", IJ_F32, 2, a_shape, a), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "empty", IJ_BF16, 2, empty_shape, NULL), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "step \\ \"1\"", IJ_I64, 0, NULL, &step), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_commit(w), IJ_OK);
}

START_TEST(round_trip)
{
  size_t before = ij_mem_live(), n;
  ij_tensor_file *f;
  put_small();
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_count(f), 4);
  int a = ij_tensor_file_find(f, "a"), step = ij_tensor_file_find(f, "step \\ \"1\""),
      empty = ij_tensor_file_find(f, "empty");
  ck_assert_int_eq(ij_tensor_file_find(f, "b"), -1);
  ck_assert_int_eq(ij_tensor_file_dtype(f, a), IJ_F32);
  ck_assert_int_eq(ij_tensor_file_ndim(f, a), 2);
  ck_assert_int_eq(ij_tensor_file_size(f, a, 1), 3);
  ck_assert_int_eq(ij_tensor_file_size(f, a, 2), -1);
  const float *v = ij_tensor_file_data(f, a, &n);
  ck_assert_uint_eq(n, 24);
  ck_assert_uint_eq((uintptr_t)v % sizeof *v, 0);
  ck_assert_float_eq(v[5], 6);
  const int64_t *s = ij_tensor_file_data(f, step, &n);
  ck_assert_uint_eq((uintptr_t)s % 64, 0); /* the widest type comes first, at a multiple of 64 */
  ck_assert_int_eq(*s, 77);
  ck_assert_ptr_nonnull(ij_tensor_file_data(f, empty, &n));
  ck_assert_uint_eq(n, 0);
  ck_assert_int_eq(ij_tensor_file_size(f, empty, 1), 5);
  ck_assert_str_eq(ij_tensor_file_meta(f, "arch"), "vit \"small\"\n\xc3\xa9");
  ck_assert_ptr_null(ij_tensor_file_meta(f, "Arch"));
  ck_assert_int_eq(ij_tensor_file_meta_count(f), 1);
  ck_assert_ptr_null(ij_tensor_file_name(f, 4));
  ck_assert_ptr_null(ij_tensor_file_data(f, -1, &n));
  ij_tensor_file_close(f);
  ij_tensor_file_close(NULL);
  ij_tensor_writer_discard(NULL);
  ck_assert_uint_eq(ij_mem_live(), before);
}
END_TEST

START_TEST(empty_file_of_no_tensors)
{
  ij_tensor_writer *w;
  ij_tensor_file *f;
  ck_assert_int_eq(ij_tensor_writer_new(path, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_commit(w), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_count(f), 0);
  ij_tensor_file_close(f);
}
END_TEST

START_TEST(other_types_are_refused_when_asked_for)
{
  static const char header[] = "{\"h\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                               "\"new\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[4,6]},"
                               "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[6,7]}}";
  ij_tensor_file *f;
  put_header(header, strlen(header), 7);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
  ck_assert_ptr_null(ij_tensor_file_data(f, ij_tensor_file_find(f, "h"), NULL));
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "'h' is F16"));
  ck_assert_ptr_null(ij_tensor_file_data(f, ij_tensor_file_find(f, "new"), NULL));
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "'new' is F4"));
  ck_assert_ptr_nonnull(ij_tensor_file_data(f, ij_tensor_file_find(f, "x"), NULL));
  ij_tensor_file_close(f);
}
END_TEST

static const struct {
  const char *header, *says;
  size_t data;
} wrong[] = {
    {"[]", "not JSON", 0},
    {"{}x", "not JSON", 0},
    {"{\"a\":1}", "'a'", 0},
    {"{\"a\":{}}", "'a'", 0},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":3,\"shape\":[4],\"data_offsets\":[0,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4.5],\"data_offsets\":[0,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[-4,0]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,1e300]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"shape\":[4],\"data_offsets\":[0,4]}}", "'a'", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", "bytes 4 to 0", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", "there are 4", 4},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", "shape", 4},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", "shape", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952,4],\"data_offsets\":[0,0]}}", "'a'", 0},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],"
     "\"data_offsets\":[2,6]}}",
     "starts at byte 2, expected 4", 6},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", "starts at byte 1, expected 0", 5},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "there are 9", 9},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[4],"
     "\"data_offsets\":[4,8]}}",
     "'a' twice", 8},
    {"{\"__metadata__\":3}", "metadata", 0},
    {"{\"__metadata__\":{\"a\":3}}", "metadata", 0},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", "metadata", 0},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", "metadata", 0},
    {"{\"__metadata__\":{\"a\":[[[[[[]]]]]]}}", "metadata", 0},
};

START_TEST(wrong_headers_are_refused)
{
  size_t before = ij_mem_live();
  ij_tensor_file *f;
  put_header(wrong[_i].header, strlen(wrong[_i].header), wrong[_i].data);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EFORMAT);
  ck_assert_ptr_null(f);
  ck_assert_msg(strstr(ij_errmsg(), wrong[_i].says) && strstr(ij_errmsg(), path), "message: %s", ij_errmsg());
  ck_assert_uint_eq(ij_mem_live(), before);
}
END_TEST

START_TEST(what_is_no_file_is_refused)
{
  ij_tensor_file *f;
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EIO);
  ck_assert_int_eq(ij_tensor_file_open(scratch, &f), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "is not a file"));
  ck_assert_int_eq(mkfifo(path, 0600), 0);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EIO);
  put("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "100 MB"));
}
END_TEST

START_TEST(every_truncation_is_refused)
{
  size_t n;
  ij_tensor_file *f;
  put_small();
  char *whole = get(&n);
  for (size_t cut = 0; cut < n; cut++) {
    put(whole, cut);
    ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EFORMAT);
    ck_assert_ptr_null(f);
  }
  whole[n] = 0;
  put(whole, n + 1); /* and so is a byte too many */
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_EFORMAT);
  free(whole);
}
END_TEST

START_TEST(flipped_bytes_never_crash)
{
  size_t n;
  unsigned opened = 0, sum = 0;
  ij_rng r;
  ij_rng_init(&r, 5, IJ_RNG_USER, 0, 0);
  put_small();
  char *whole = get(&n), *copy = malloc(n);
  for (int round = 0; round < 3000; round++) {
    memcpy(copy, whole, n);
    for (uint32_t flips = 1 + ij_rng_below(&r, 4); flips; flips--)
      copy[ij_rng_below(&r, (uint32_t)n)] ^= (char)(1 + ij_rng_below(&r, 255));
    put(copy, n);
    ij_tensor_file *f;
    if (ij_tensor_file_open(path, &f) == IJ_OK) opened++, sum += walk(f);
    ij_tensor_file_close(f);
  }
  ck_assert_uint_gt(opened, 0); /* flips in the data alone */
  ck_assert_uint_lt(opened, 1500);
  ck_assert_uint_gt(sum, 0);
  free(whole);
  free(copy);
}
END_TEST

START_TEST(bad_items_are_refused)
{
  const int64_t two[2] = {2, 2}, negative[1] = {-1}, huge[3] = {1LL << 40, 1LL << 40, 1};
  float v[4] = {0};
  ij_tensor_writer *w;
  ck_assert_int_eq(ij_tensor_writer_new(path, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "a", IJ_F32, 2, two, v), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "a", IJ_F32, 2, two, v), IJ_EINVAL);
  ck_assert_int_eq(ij_tensor_writer_add(w, "", IJ_F32, 2, two, v), IJ_EINVAL);
  ck_assert_int_eq(ij_tensor_writer_add(w, "__metadata__", IJ_F32, 2, two, v), IJ_EINVAL);
  ck_assert_int_eq(ij_tensor_writer_add(w, "b", (ij_dtype)17, 2, two, v), IJ_EINVAL);
  ck_assert_int_eq(ij_tensor_writer_add(w, "b", (ij_dtype)-1, 2, two, v), IJ_EINVAL);
  ck_assert_int_eq(ij_tensor_writer_add(w, "b", IJ_F32, 1, negative, v), IJ_ESHAPE);
  ck_assert_int_eq(ij_tensor_writer_add(w, "b", IJ_F32, 3, huge, v), IJ_ESHAPE);
  ck_assert_int_eq(ij_tensor_writer_add(w, "b", IJ_F32, 2, two, NULL), IJ_EINVAL);
  ij_tensor_writer_discard(w);
  ck_assert_int_eq(ij_path_kind(path), 0);
}
END_TEST

/* The limit on file sizes stands in for a full disk: the write fails half-way, in the same place. */
START_TEST(a_failed_commit_leaves_the_old_file)
{
  const int64_t shape[1] = {1 << 20};
  size_t before = ij_mem_live(), n;
  ij_tensor_writer *w;
  ij_tensor_file *f;
  put_small();
  char *big = ij_calloc(1 << 20, 1), *old = get(&n);
  signal(SIGXFSZ, SIG_IGN);
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){200000, 200000}), 0);
  ck_assert_int_eq(ij_tensor_writer_new(path, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add(w, "big", IJ_U8, 1, shape, big), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_commit(w), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), path));
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), strerror(EFBIG)));
  size_t m;
  char *now = get(&m);
  ck_assert_uint_eq(n, m);
  ck_assert_mem_eq(old, now, n);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
  ij_tensor_file_close(f);
  ij_free(big);
  free(old);
  free(now);
  ck_assert_uint_eq(ij_mem_live(), before);
} /* teardown finds a temporary left behind */
END_TEST

/* A writer that is killed at any moment leaves the old file or the new one, whole. */
START_TEST(a_killed_writer_leaves_a_whole_file)
{
  enum { SIZE = 1 << 20 };
  const int64_t shape[1] = {SIZE};
  unsigned char *data = ij_calloc(SIZE, 1);
  ij_rng r;
  ij_rng_init(&r, 1, IJ_RNG_USER, 0, 0);
  put_small();
  for (int round = 0; round < 12; round++) {
    pid_t child = fork();
    if (child == 0) {
      for (unsigned char n = 1;; n = (unsigned char)(n % 200 + 1)) {
        ij_tensor_writer *w;
        memset(data, n, SIZE);
        if (ij_tensor_writer_new(path, &w) != IJ_OK || ij_tensor_writer_add(w, "t", IJ_U8, 1, shape, data) != IJ_OK ||
            ij_tensor_writer_commit(w) != IJ_OK)
          _exit(1);
      }
    }
    usleep(ij_rng_below(&r, 30000));
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ij_tensor_file *f;
    size_t n;
    ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
    int i = ij_tensor_file_find(f, "t");
    const unsigned char *t = i < 0 ? NULL : ij_tensor_file_data(f, i, &n);
    ck_assert(!t || !memcmp(t, t + 1, SIZE - 1));
    ij_tensor_file_close(f);
  }
  char *tmp = ij_format("%s.tmp", path);
  remove(tmp);
  ij_free(tmp);
  ij_free(data);
}
END_TEST

START_TEST(unwritable_places_fail)
{
  ij_tensor_writer *w;
  ck_assert_int_eq(ij_tensor_writer_new("/nowhere/at/all", &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_commit(w), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "'/nowhere/at/all'"));
}
END_TEST

START_TEST(tensors_are_read_at_commit)
{
  const int64_t shape[2] = {2, 3};
  const float first[6] = {0}, last[6] = {1, 2, 3, 4, 5, 6};
  ij_device *dev;
  ij_tensor *t;
  ij_tensor_writer *w;
  ij_tensor_file *f;
  size_t n;
  ck_assert_int_eq(ij_device_open("ref", &dev), IJ_OK);
  ck_assert_int_eq(ij_tensor_new(dev, IJ_F32, 2, shape, &t), IJ_OK);
  ck_assert_int_eq(ij_tensor_write(t, first, sizeof first), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_new(path, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_writer_add_tensor(w, "t", t), IJ_OK);
  ck_assert_int_eq(ij_tensor_write(t, last, sizeof last), IJ_OK);
  ij_tensor_free(t); /* the writer holds it */
  ck_assert_int_eq(ij_tensor_writer_commit(w), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_open(path, &f), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_size(f, 0, 1), 3);
  ck_assert_mem_eq(ij_tensor_file_data(f, 0, &n), last, sizeof last);
  ij_tensor_file_close(f);
  ij_device_close(dev);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
  size_t before = ij_mem_live();
  put_small();
  for (int n = 1; n < 40; n++) {
    const int64_t shape[1] = {2};
    ij_tensor_writer *w;
    ij_tensor_file *f;
    ij_mem_fail_at(n);
    ij_status st = ij_tensor_writer_new(path, &w);
    if (st == IJ_OK) {
      st = ij_tensor_writer_add(w, "a", IJ_U8, 1, shape, "ab");
      if (st == IJ_OK) st = ij_tensor_writer_commit(w);
      else ij_tensor_writer_discard(w);
    }
    if (st == IJ_OK) {
      st = ij_tensor_file_open(path, &f);
      ij_tensor_file_close(f);
    }
    ij_mem_fail_at(0);
    ck_assert(st == IJ_ENOMEM || (st == IJ_OK && n > 10));
    ck_assert_uint_eq(ij_mem_live(), before);
  }
}
END_TEST

START_TEST(reads_the_reference_run)
{
  static const char *name = SHARED_FOLDER "/conformance/step_a.safetensors";
  ij_tensor_file *f;
  if (ij_path_kind(name) != 1) {
    printf("skipped: %s is not there\n", name);
    return;
  }
  ck_assert_int_eq(ij_tensor_file_open(name, &f), IJ_OK);
  ck_assert_int_eq(ij_tensor_file_count(f), 304);
  int i = ij_tensor_file_find(f, "init.encoder.patch_embed.proj.weight");
  ck_assert_int_ge(i, 0);
  ck_assert_int_eq(ij_tensor_file_ndim(f, i), 4);
  ck_assert_int_eq(ij_tensor_file_size(f, i, 0), 48);
  ck_assert_str_eq(ij_tensor_file_meta(f, "embed_dim"), "48");
  walk(f);
  ij_tensor_file_close(f);
}
END_TEST

int main(void) {
  Suite *s = suite_create("safetensors");
  TCase *t = tcase_create("safetensors");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, round_trip);
  tcase_add_test(t, empty_file_of_no_tensors);
  tcase_add_test(t, other_types_are_refused_when_asked_for);
  tcase_add_loop_test(t, wrong_headers_are_refused, 0, sizeof wrong / sizeof wrong[0]);
  tcase_add_test(t, what_is_no_file_is_refused);
  tcase_add_test(t, every_truncation_is_refused);
  tcase_add_test(t, flipped_bytes_never_crash);
  tcase_add_test(t, bad_items_are_refused);
  tcase_add_test(t, a_failed_commit_leaves_the_old_file);
  tcase_add_test(t, a_killed_writer_leaves_a_whole_file);
  tcase_add_test(t, unwritable_places_fail);
  tcase_add_test(t, tensors_are_read_at_commit);
  tcase_add_test(t, every_allocation_may_fail);
  tcase_add_test(t, reads_the_reference_run);
  suite_add_tcase(s, t);
  return run_suite(s);
}

/* core/data/sources.c: sources mixed by weights; tar shards and their indexes; going on in the middle of an epoch. */
#include "images.h"
#include <sys/stat.h>

enum { SIDE = 8 };
static const char *root[3];
static char roots[3][80];

/* Three sources: a folder of 20 images in two classes, a tar of 10 in two, one of them the folder's, a folder of 3.
 */
static void make_sets(void) {
  scratch_make();
  for (int i = 0; i < 20; i++) {
    char name[40];
    snprintf(name, sizeof name, "a/%s/%02d.png", i % 2 ? "cat" : "dog", i);
    put_image(name, 12 + i, 14, i);
  }
  for (int i = 0; i < 10; i++) {
    char name[40];
    snprintf(name, sizeof name, "t/%s/%02d.png", i % 2 ? "bee" : "cat", i);
    put_image(name, 12, 14 + i, 50 + i);
  }
  for (int i = 0; i < 3; i++) {
    char name[40];
    snprintf(name, sizeof name, "c/%d.png", i);
    put_image(name, 13, 11, 90 + i);
  }
  run_in_scratch("tar cf b.tar -C t bee cat");
  static const char *const name[3] = {"a", "b.tar", "c"};
  for (int i = 0; i < 3; i++) {
    snprintf(roots[i], sizeof roots[i], "%s/%s", scratch, name[i]);
    root[i] = roots[i];
  }
}
static data_config config(int sources, const double *weights) {
  return (data_config){.catalogue.source_count = sources,
                       .catalogue.roots = root,
                       .loader.weights = weights,
                       .loader.view.height = SIDE,
                       .loader.view.width = SIDE,
                       .loader.view.train = 1,
                       .loader.shuffle = 1,
                       .loader.batch = 4,
                       .loader.workers = 2,
                       .loader.view.seed = 5,
                       .loader.max_bad = 0};
}
static data open_data(const data_config *c) {
  data d;
  ck_assert_msg(data_open(c, &d) == IJ_OK, "%s", ij_errmsg());
  return d;
}
static void next(data d, ij_batch *b) { ck_assert_msg(ij_loader_next(d.loader, b) == IJ_OK, "%s", ij_errmsg()); }
static uint64_t batch_hash(const ij_batch *b) {
  uint64_t h = ij_hash((uint64_t)b->epoch, b->pixels, (size_t)b->count * SIDE * SIDE * 3);
  return ij_hash(h, b->samples, (size_t)b->count * sizeof *b->samples);
}

START_TEST(permutations_are_whole_and_even)
{
  static const uint32_t size[] = {1, 2, 3, 4, 5, 16, 17, 255, 4097, 70000};
  for (size_t k = 0; k < sizeof size / sizeof *size; k++) {
    uint32_t n = size[k], key[IJ_PERMUTE_ROUNDS];
    uint8_t *seen = ij_calloc(n, 1);
    for (uint32_t i = 0; i < IJ_PERMUTE_ROUNDS; i++) key[i] = 77 * i + n;
    for (uint32_t i = 0; i < n; i++) {
      uint32_t to = ij_permuted_position(key, n, i);
      ck_assert_uint_lt(to, n);
      ck_assert_int_eq(seen[to]++, 0);
    }
    ij_free(seen);
  }
  /* over keys, where 0 and 1 go, together: chi-square on the 17 * 16 pairs, 271 degrees; 1e-4 is 365 */
  enum { N = 17, KEYS = 40000 };
  static int count[N][N];
  for (uint32_t k = 0; k < KEYS; k++) {
    uint32_t key[IJ_PERMUTE_ROUNDS];
    ij_rng r;
    ij_rng_init(&r, 3, IJ_RNG_USER, k, 0);
    for (int i = 0; i < IJ_PERMUTE_ROUNDS; i++) key[i] = ij_rng_u32(&r);
    count[ij_permuted_position(key, N, 0)][ij_permuted_position(key, N, 1)]++;
  }
  double chi = 0, want = KEYS / (double)(N * (N - 1));
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++)
      if (i != j) chi += (count[i][j] - want) * (count[i][j] - want) / want;
  ck_assert_msg(chi < 365, "chi-square %g", chi);
}
END_TEST

START_TEST(without_weights_each_image_comes_once)
{
  data_config c = config(3, NULL);
  data d = open_data(&c);
  ck_assert_int_eq(ij_catalogue_count(d.catalogue), 33);
  ck_assert_int_eq(ij_catalogue_source_count(d.catalogue), 3);
  ck_assert_int_eq(ij_catalogue_class_count(d.catalogue), 3); /* bee, cat, dog: cat is of both */
  ck_assert_str_eq(ij_catalogue_class(d.catalogue, 1), "cat");
  ck_assert_str_eq(ij_catalogue_name(d.catalogue, 20), "bee/01.png");
  ck_assert_int_eq(ij_catalogue_source(d.catalogue, 19), 0);
  ck_assert_int_eq(ij_catalogue_source(d.catalogue, 20), 1);
  ck_assert_int_eq(ij_catalogue_source(d.catalogue, 32), 2);
  ck_assert_int_eq(ij_catalogue_source(d.catalogue, 33), -1);
  ck_assert_int_eq(ij_catalogue_label(d.catalogue, 20), 0);
  ck_assert_int_eq(ij_catalogue_label(d.catalogue, 0), 1);
  ck_assert_int_eq(ij_catalogue_label(d.catalogue, 32), -1);
  int other = 0;
  for (int e = 0; e < 3; e++) {
    int seen[33] = {0}, changes = 0, last = -1;
    for (int s = 0; s < ij_loader_steps(d.loader); s++) {
      ij_batch b;
      next(d, &b);
      for (int i = 0; i < b.count; i++) {
        seen[b.samples[i]]++;
        ck_assert_int_eq(b.labels[i], ij_catalogue_label(d.catalogue, b.samples[i]));
        changes += ij_catalogue_source(d.catalogue, b.samples[i]) != last;
        last = ij_catalogue_source(d.catalogue, b.samples[i]);
        uint8_t one[SIDE * SIDE * 3];
        ck_assert_int_eq(ij_catalogue_image(d.catalogue, &c.loader.view, b.samples[i], e, one), IJ_OK);
        ck_assert_mem_eq(one, b.pixels + (size_t)i * sizeof one, sizeof one);
      }
    }
    for (int i = 0; i < 33; i++) ck_assert_int_eq(seen[i], 1);
    other += changes;
  }
  ck_assert_int_gt(other, 3 * 8); /* they are mixed, not one after the other */
  data_close(d);
}
END_TEST

/* Recorded when the stream of the order was fixed: a run that resumes must meet the images that it would have met. */
START_TEST(the_order_keeps_its_bits)
{
  static const uint8_t one[2][20] = {{0, 11, 16, 18, 4, 19, 10, 13, 9, 6, 3, 14, 2, 15, 12, 7, 5, 8, 1, 17},
                                     {3, 18, 7, 8, 6, 16, 2, 17, 14, 5, 19, 12, 15, 9, 11, 13, 1, 10, 0, 4}};
  static const uint8_t mixed[2][33] = {{4,  32, 30, 28, 31, 25, 32, 16, 11, 30, 32, 30, 0,  18, 21, 30, 32,
                                        25, 30, 31, 31, 24, 19, 22, 31, 30, 31, 23, 32, 29, 26, 20, 27},
                                       {24, 32, 23, 3,  9,  6,  27, 28, 26, 22, 31, 32, 30, 32, 22, 10, 13,
                                        31, 32, 31, 32, 31, 20, 30, 27, 32, 31, 21, 30, 14, 29, 30, 31}};
  for (int sources = 1; sources <= 3; sources += 2) {
    data_config c = config(sources, (double[]){1, 2, 3});
    data d = open_data(&c);
    for (int e = 0; e < 2; e++) {
      int position = 0;
      for (int s = 0; s < ij_loader_steps(d.loader); s++) {
        ij_batch b;
        next(d, &b);
        for (int i = 0; i < b.count; i++, position++)
          ck_assert_uint_eq(b.samples[i], sources == 1 ? one[e][position] : mixed[e][position]);
      }
    }
    data_close(d);
  }
}
END_TEST

/* Weights 1, 2, 3: of 33 images 5.5, 11, 16.5; of each source all images come before one comes again. */
START_TEST(weights_are_kept_exactly)
{
  data_config c = config(3, (double[]){1, 2, 3});
  data d = open_data(&c);
  int shown[33] = {0}, of[3] = {0};
  for (int e = 0; e < 7; e++) {
    int now[3] = {0};
    for (int s = 0; s < ij_loader_steps(d.loader); s++) {
      ij_batch b;
      next(d, &b);
      ck_assert_int_eq(b.epoch, e);
      for (int i = 0; i < b.count; i++) {
        shown[b.samples[i]]++;
        now[ij_catalogue_source(d.catalogue, b.samples[i])]++;
      }
    }
    for (int k = 0; k < 3; k++) of[k] += now[k];
    ck_assert_int_eq(now[0] + now[1] + now[2], 33);
    ck_assert_int_eq(now[1], 11);
    ck_assert(now[0] == 5 || now[0] == 6);
    int first[] = {0, 20, 30, 33};
    for (int k = 0; k < 3; k++) { /* at the end of each epoch counts differ by at most one */
      int n = first[k + 1] - first[k];
      for (int i = first[k]; i < first[k + 1]; i++) ck_assert(shown[i] == of[k] / n || shown[i] == of[k] / n + 1);
    }
  }
  data_close(d);
}
END_TEST

START_TEST(a_image_shown_again_is_cropped_anew)
{
  data_config c = config(3, (double[]){1, 1, 25});
  data d = open_data(&c);
  enum { MOST = 64 };
  uint64_t seen[MOST];
  int n = 0, same = 0;
  for (int s = 0; s < ij_loader_steps(d.loader); s++) {
    ij_batch b;
    next(d, &b);
    for (int i = 0; i < b.count && n < MOST; i++) {
      if (b.samples[i] != 31) continue;
      seen[n] = ij_hash(0, b.pixels + (size_t)i * SIDE * SIDE * 3, SIDE * SIDE * 3);
      for (int k = 0; k < n; k++) same += seen[k] == seen[n];
      n++;
    }
  }
  ck_assert_int_ge(n, 9);
  ck_assert_int_le(same, 1); /* two boxes of so small an image may be the same */
  data_close(d);
}
END_TEST

START_TEST(a_mixture_goes_on_from_any_place)
{
  enum { BATCHES = 27 };
  uint64_t want[BATCHES];
  for (int w = 0; w < 3; w++) {
    data_config c = config(3, (double[]){1, 2, 3});
    c.loader.workers = w;
    data d = open_data(&c);
    ck_assert_int_eq(ij_loader_steps(d.loader), 9);
    for (int i = 0; i < BATCHES; i++) {
      ij_batch b;
      next(d, &b);
      if (w == 0) want[i] = batch_hash(&b);
      else ck_assert_uint_eq(want[i], batch_hash(&b));
    }
    data_close(d);
    for (int i = 0; i < 8; i++) { /* another process, from the middle */
      int at = i * 11 % BATCHES;
      d = open_data(&c);
      ck_assert_int_eq(ij_loader_seek(d.loader, at / 9, at % 9), IJ_OK);
      for (int k = 0; k < 3 && at < BATCHES; k++, at++) {
        ij_batch b;
        next(d, &b);
        ck_assert_uint_eq(want[at], batch_hash(&b));
      }
      data_close(d);
    }
  }
}
END_TEST

START_TEST(processes_share_a_mixture)
{
  int of[3] = {0}, all = 0;
  for (int rank = 0; rank < 3; rank++) {
    data_config c = config(3, (double[]){1, 2, 3});
    c.loader.rank = rank;
    c.loader.world = 3;
    data d = open_data(&c);
    for (int s = 0; s < ij_loader_steps(d.loader); s++) {
      ij_batch b;
      next(d, &b);
      for (int i = 0; i < b.count; i++, all++) of[ij_catalogue_source(d.catalogue, b.samples[i])]++;
    }
    data_close(d);
  }
  ck_assert_int_eq(all, 36); /* nine batches of four: the last begins the front again */
  ck_assert_int_eq(of[1], 11);
}
END_TEST

START_TEST(wrong_sources_are_refused)
{
  data d;
  data_config c = config(3, (double[]){1, 0, 1});
  ck_assert_int_eq(data_open(&c, &d), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "expected a number above 0"));
  c = config(3, (double[]){1, 1e-9, 1});
  ck_assert_int_eq(data_open(&c, &d), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "gets none of the 33 images"));
  c = config(3, NULL);
  c.catalogue.subset = "x";
  ck_assert_int_eq(data_open(&c, &d), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "data.subset works with one"));
  run_in_scratch("rm -r c");
  c = config(3, NULL);
  ck_assert_int_eq(data_open(&c, &d), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "c' is not there"));
}
END_TEST

START_TEST(a_broken_image_is_named_with_its_source)
{
  put_text("c/1.png", "no image");
  data_config c = config(3, NULL);
  c.loader.max_bad = .5;
  data d = open_data(&c);
  for (int s = 0; s < ij_loader_steps(d.loader); s++) {
    ij_batch b;
    next(d, &b);
    for (int i = 0; i < b.count; i++) ck_assert_uint_ne(b.samples[i], 31);
  }
  const char *text = ij_loader_corrupt(d.loader);
  char *want = ij_format("%s: 1.png: ", root[2]);
  ck_assert_msg(text && !strncmp(text, want, strlen(want)), "%s", text);
  ij_free(want);
  data_close(d);
}
END_TEST

START_TEST(running_out_of_memory_is_survived)
{
  for (int i = 1, st = IJ_ENOMEM; st != IJ_OK; i++) {
    data_config c = config(3, (double[]){1, 2, 3});
    c.loader.workers = 0;
    data d = {0};
    ij_batch b;
    ij_mem_fail_at(i);
    st = data_open(&c, &d);
    if (st == IJ_OK) st = ij_loader_next(d.loader, &b);
    ij_mem_fail_at(0);
    ck_assert_msg(st == IJ_OK || st == IJ_ENOMEM, "%d: %s", st, ij_errmsg());
    if (st == IJ_OK && i < 60) st = IJ_ENOMEM;
    data_close(d);
    ck_assert_uint_eq(ij_mem_live(), 0);
  }
}
END_TEST

/* ---- shards ---- */
START_TEST(shards_go_on_in_the_middle_of_an_epoch)
{
  enum { BATCHES = 21 };
  uint64_t want[BATCHES];
  run_in_scratch("mkdir s; for i in 0 1 2 3; do tar cf s/x$i.tar -C a $(cd a; ls -d */*$i.png); done; "
                 "tar cf s/x5.tar -C a cat/05.png cat/07.png cat/09.png cat/15.png cat/17.png cat/19.png; "
                 "tar cf s/x4.tar -C a dog/04.png dog/06.png dog/08.png dog/14.png dog/16.png dog/18.png");
  char path[80];
  snprintf(path, sizeof path, "%s/s", scratch);
  for (int w = 0; w < 3; w++) {
    data_config c = config(0, NULL);
    c.catalogue.root = path;
    c.loader.batch = 3;
    c.loader.workers = w;
    data d = open_data(&c);
    ck_assert_int_eq(ij_catalogue_count(d.catalogue), 20);
    ck_assert_int_eq(ij_loader_steps(d.loader), 7);
    for (int i = 0; i < BATCHES; i++) {
      ij_batch b;
      next(d, &b);
      if (w == 0) want[i] = batch_hash(&b);
      else ck_assert_uint_eq(want[i], batch_hash(&b));
    }
    data_close(d);
    for (int i = 1; i < BATCHES; i++) { /* a new process each time */
      d = open_data(&c);
      ij_batch b;
      ck_assert_int_eq(ij_loader_seek(d.loader, i / 7, i % 7), IJ_OK);
      next(d, &b);
      ck_assert_uint_eq(want[i], batch_hash(&b));
      data_close(d);
    }
  }
}
END_TEST

static void on_note(void *arg, const char *text) { (void)text, ++*(int *)arg; }
static ij_list *list_big(const char *cache, int *notes) {
  char *path = in_scratch("big.tar"), *folder = cache ? in_scratch(cache) : NULL;
  ij_list *l = NULL;
  *notes = 0;
  ck_assert_msg(ij_list_open(path, NULL, folder, false, on_note, notes, &l) == IJ_OK, "%s", ij_errmsg());
  ij_free(path);
  ij_free(folder);
  return l;
}
static void expect_same(ij_list *a, ij_list *b) {
  ck_assert_uint_eq(ij_list_count(a), ij_list_count(b));
  for (uint32_t i = 0; i < ij_list_count(a); i++) ck_assert_str_eq(ij_list_name(a, i), ij_list_name(b, i));
  ck_assert_uint_eq(ij_list_stamp(a), ij_list_stamp(b)); /* with places and sizes */
}

START_TEST(large_tars_keep_an_index)
{
  int notes;
  run_in_scratch(
      "mkdir -p big/x big/y; truncate -s 20M big/x/1.png; truncate -s 20M big/y/2.png; echo a > big/x/n.txt; "
      "tar cf big.tar -C big x y; tar cf small.tar -C big x/n.txt");
  ij_list *plain = list_big(NULL, &notes), *first = list_big("cache", &notes);
  expect_same(plain, first);
  run_in_scratch("test $(ls cache | wc -l) = 1");
  /* it is used: headers that are gone are not missed */
  run_in_scratch(
      "cp -p big.tar keep.tar; cp -p big.tar stamp; printf xxxx | dd of=big.tar bs=1 seek=512 conv=notrunc; touch -r "
      "stamp big.tar");
  ij_list *second = list_big("cache", &notes);
  expect_same(plain, second);
  ij_list_free(second);
  run_in_scratch("cp -p keep.tar big.tar; for i in 40 90; do cp cache/* old; printf '\\377' | dd of=old bs=1 seek=$i "
                 "conv=notrunc; "
                 "cp old cache/*.index; done"); /* damaged: made again */
  second = list_big("cache", &notes);
  expect_same(plain, second);
  ij_list_free(second);
  run_in_scratch("truncate -s 50 cache/*.index");
  second = list_big("cache", &notes);
  expect_same(plain, second);
  ij_list_free(second);
  run_in_scratch("mkdir z; touch z/3.png; tar rf big.tar -C z 3.png"); /* another tar */
  second = list_big("cache", &notes);
  ck_assert_uint_eq(ij_list_count(second), 3);
  ij_list_free(second);
  run_in_scratch("rm cache/*; truncate -s 35M big.tar"); /* cut off: said each time */
  for (int i = 0; i < 2; i++) {
    ij_list_free(list_big("cache", &notes));
    ck_assert_int_eq(notes, 1);
  }
  run_in_scratch("test $(ls cache | wc -l) = 0; rmdir cache; touch cache"); /* nowhere to keep it */
  ij_list_free(list_big("cache", &notes));
  ij_list_free(plain);
  ij_list_free(first);
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("sources");
  TCase *t = tcase_create("sources");
  tcase_add_checked_fixture(t, make_sets, scratch_remove);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, permutations_are_whole_and_even);
  tcase_add_test(t, without_weights_each_image_comes_once);
  tcase_add_test(t, the_order_keeps_its_bits);
  tcase_add_test(t, weights_are_kept_exactly);
  tcase_add_test(t, a_image_shown_again_is_cropped_anew);
  tcase_add_test(t, a_mixture_goes_on_from_any_place);
  tcase_add_test(t, processes_share_a_mixture);
  tcase_add_test(t, wrong_sources_are_refused);
  tcase_add_test(t, a_broken_image_is_named_with_its_source);
  tcase_add_test(t, running_out_of_memory_is_survived);
  tcase_add_test(t, shards_go_on_in_the_middle_of_an_epoch);
  tcase_add_test(t, large_tars_keep_an_index);
  suite_add_tcase(s, t);
  return run_suite(s);
}

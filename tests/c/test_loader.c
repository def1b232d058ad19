/* core/data/loader.c, augment.c: batches. */
#include "images.h"

enum { SIDE = 16, IMAGES = 23 };
static uint64_t hash(uint64_t h, const void *p, size_t n) {
  for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)p)[i]) * 1099511628211u;
  return h;
}
static uint64_t batch_hash(const ij_batch *b) {
  uint64_t h = hash(14695981039346656037u, b->pixels, (size_t)b->count * SIDE * SIDE * 3);
  h = hash(h, b->labels, (size_t)b->count * 4);
  h = hash(h, b->samples, (size_t)b->count * 4);
  return hash(h, &b->epoch, 16);
}

static char root[80];
static void make_set(void) {
  scratch_make();
  for (int i = 0; i < IMAGES; i++) {
    char name[40];
    snprintf(name, sizeof name, "d/%c/%02d.jpg", 'a' + i % 3, i);
    put_image(name, 30 + i, 50 - i, i);
  }
  snprintf(root, sizeof root, "%s/d", scratch);
}
static data_config config(void) {
  return (data_config){.catalogue.root = root,
                       .loader.view.height = SIDE,
                       .loader.view.width = SIDE,
                       .loader.view.train = 1,
                       .loader.shuffle = 1,
                       .loader.batch = 5,
                       .loader.view.scale = {.3, 1},
                       .loader.view.ratio = {.75, 4. / 3},
                       .loader.workers = 2,
                       .loader.prefetch = 3,
                       .loader.view.seed = 9,
                       .loader.world = 1,
                       .loader.max_bad = -1};
}
static data open_data(const data_config *c) {
  data d;
  ck_assert_msg(data_open(c, &d) == IJ_OK, "%s", ij_errmsg());
  return d;
}
static void next(data d, ij_batch *b) { ck_assert_msg(ij_loader_next(d.loader, b) == IJ_OK, "%s", ij_errmsg()); }

START_TEST(the_same_for_any_number_of_workers)
{
  enum { BATCHES = 17 };
  uint64_t want[BATCHES];
  for (int w = 0; w < 5; w++) {
    data_config c = config();
    c.loader.workers = w == 4 ? 9 : w;
    c.loader.prefetch = 1 + w;
    c.loader.view.flip = .5, c.loader.view.jitter = .5, c.loader.view.jitter_p = .8, c.loader.view.grey_p = .2,
    c.loader.view.blur_p = .5;
    data d = open_data(&c);
    ck_assert_int_eq(ij_loader_steps(d.loader), 5);
    for (int i = 0; i < BATCHES; i++) {
      ij_batch b;
      next(d, &b);
      ck_assert_int_eq(b.epoch, i / 5);
      ck_assert_int_eq(b.step, i % 5);
      ck_assert_int_eq(b.count, i % 5 == 4 ? 3 : 5);
      if (w == 0) want[i] = batch_hash(&b);
      else ck_assert_uint_eq(want[i], batch_hash(&b));
    }
    for (int i = 0; i < 12; i++) { /* any position, in any order */
      int at = (i * 7) % BATCHES;
      ij_batch b;
      ck_assert_int_eq(ij_loader_seek(d.loader, at / 5, at % 5), IJ_OK);
      for (int k = 0; k < i % 4 && at < BATCHES; k++, at++) {
        next(d, &b);
        ck_assert_uint_eq(want[at], batch_hash(&b));
      }
    }
    data_close(d);
  }
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

START_TEST(an_epoch_holds_each_image_once)
{
  data_config c = config();
  data d = open_data(&c);
  int order[2][IMAGES], moved = 0;
  ck_assert_int_eq(ij_catalogue_count(d.catalogue), IMAGES);
  ck_assert_int_eq(ij_catalogue_class_count(d.catalogue), 3);
  ck_assert_str_eq(ij_catalogue_class(d.catalogue, 1), "b");
  ck_assert_ptr_null(ij_catalogue_class(d.catalogue, 3));
  ck_assert_str_eq(ij_catalogue_name(d.catalogue, 0), "a/00.jpg");
  ck_assert_ptr_null(ij_catalogue_name(d.catalogue, IMAGES));
  ck_assert_ptr_null(ij_catalogue_name(d.catalogue, -1));
  ck_assert_int_eq(ij_catalogue_label(d.catalogue, IMAGES), -1);
  ck_assert_int_eq(ij_catalogue_image(d.catalogue, &c.loader.view, IMAGES, 0, NULL), IJ_EINVAL);
  for (int e = 0; e < 2; e++) {
    int seen[IMAGES] = {0}, at = 0;
    for (int s = 0; s < 5; s++) {
      ij_batch b;
      next(d, &b);
      for (int i = 0; i < b.count; i++) {
        seen[b.samples[i]]++;
        order[e][at++] = (int)b.samples[i];
        ck_assert_int_eq(b.labels[i], ij_catalogue_name(d.catalogue, b.samples[i])[0] - 'a');
        ck_assert_int_eq(b.labels[i], ij_catalogue_label(d.catalogue, b.samples[i]));
        uint8_t one[SIDE * SIDE * 3]; /* by its number, beside the sequence */
        ck_assert_int_eq(ij_catalogue_image(d.catalogue, &c.loader.view, b.samples[i], e, one), IJ_OK);
        ck_assert_mem_eq(one, b.pixels + (size_t)i * sizeof one, sizeof one);
      }
    }
    for (int i = 0; i < IMAGES; i++) ck_assert_int_eq(seen[i], 1);
  }
  for (int i = 0; i < IMAGES; i++) moved += order[0][i] != order[1][i];
  ck_assert_int_gt(moved, IMAGES / 2);
  data_close(d);
}
END_TEST

START_TEST(evaluation_ends_and_starts_over)
{
  for (int w = 0; w < 3; w += 2) {
    data_config c = config();
    c.loader.view.train = c.loader.shuffle = 0;
    c.loader.workers = w;
    data d = open_data(&c);
    uint64_t first = 0;
    for (int e = 0; e < 3; e++) {
      ij_batch b;
      uint32_t at = 0;
      for (int s = 0; s < 5; s++) {
        next(d, &b);
        ck_assert_int_eq(b.epoch, e);
        if (s == 0) {
          uint64_t h = hash(1, b.pixels, (size_t)b.count * SIDE * SIDE * 3);
          if (e == 0) first = h;
          ck_assert_uint_eq(h, first);
        }
        for (int i = 0; i < b.count; i++) ck_assert_uint_eq(b.samples[i], at++);
      }
      ck_assert_uint_eq(at, IMAGES);
      ck_assert_int_eq(ij_loader_next(d.loader, &b), IJ_EEND);
    }
    data_close(d);
  }
}
END_TEST

START_TEST(processes_share_an_epoch)
{
  for (int train = 0; train < 2; train++) {
    int seen[IMAGES] = {0}, all = 0;
    for (int rank = 0; rank < 4; rank++) {
      data_config c = config();
      c.loader.view.train = train;
      c.loader.rank = rank;
      c.loader.world = 4;
      data d = open_data(&c);
      ck_assert_int_eq(ij_loader_steps(d.loader), train || rank == 0 ? 2 : 1);
      for (int s = 0; s < ij_loader_steps(d.loader); s++) {
        ij_batch b;
        next(d, &b);
        for (int i = 0; i < b.count; i++) seen[b.samples[i]]++, all++;
      }
      data_close(d);
    }
    ck_assert_int_eq(all, train ? 40 : IMAGES); /* in training the last steps are filled up */
    for (int i = 0; i < IMAGES; i++) ck_assert_int_ge(seen[i], 1);
  }
}
END_TEST

/* Of each epoch, what W processes see in their n-th batches is what one sees in its batches n * W, n * W + 1, ... */
START_TEST(processes_see_what_one_sees)
{
  enum { BATCH = 3, STEPS = IMAGES / (2 * BATCH) };
  uint32_t one[2][2 * STEPS][BATCH];
  for (int world = 1; world <= 2; world++) {
    for (int rank = 0; rank < world; rank++) {
      data_config c = config();
      c.loader.view.train = c.loader.shuffle = c.loader.drop_last = 1;
      c.loader.batch = BATCH;
      c.loader.rank = rank;
      c.loader.world = world;
      c.loader.multiple = 2 / world;
      data d = open_data(&c);
      ck_assert_int_eq(ij_loader_steps(d.loader), 2 * STEPS / world);
      for (int i = 0; i < 2 * 2 * STEPS / world; i++) {
        ij_batch b;
        next(d, &b);
        ck_assert_int_eq(b.count, BATCH);
        ck_assert_int_eq(b.epoch, i / (2 * STEPS / world));
        uint32_t *position = one[b.epoch][b.step * world + rank];
        if (world == 1) memcpy(position, b.samples, sizeof one[0][0]);
        else ck_assert_mem_eq(position, b.samples, sizeof one[0][0]);
      }
      data_close(d);
    }
  }
}
END_TEST

START_TEST(the_last_batch_may_be_dropped)
{
  data_config c = config();
  c.loader.drop_last = 1;
  data d = open_data(&c);
  ck_assert_int_eq(ij_loader_steps(d.loader), 4);
  ij_batch b;
  for (int i = 0; i < 6; i++) {
    next(d, &b);
    ck_assert_int_eq(b.count, 5);
    ck_assert_int_eq(b.epoch, i / 4);
  }
  data_close(d);
  c.loader.batch = 24;
  ck_assert_int_eq(data_open(&c, &d), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "lower data.batch"));
}
END_TEST

START_TEST(corrupt_images_are_replaced_counted_and_named)
{
  uint64_t want[15];
  put_text("d/a/00.jpg", "no image");
  put_text("d/b/01.jpg", "");
  for (int w = 0; w < 4; w++) {
    data_config c = config();
    c.loader.workers = w;
    c.loader.max_bad = .1;
    data d = open_data(&c);
    int told = 0;
    for (int i = 0; i < 15; i++) {
      ij_batch b;
      next(d, &b);
      for (int k = 0; k < b.count; k++)
        ck_assert(b.samples[k] != 0 && strcmp(ij_catalogue_name(d.catalogue, b.samples[k]), "b/01.jpg") != 0);
      if (w == 0) want[i] = batch_hash(&b);
      else ck_assert_uint_eq(want[i], batch_hash(&b));
      if (i < 4) continue;
      for (const char *text; (text = ij_loader_corrupt(d.loader)); told++)
        ck_assert_msg(!strncmp(text, "a/00.jpg: ", 10) || !strcmp(text, "b/01.jpg: empty file"), "%s", text);
      ck_assert_int_eq(ij_loader_corrupt_count(d.loader), 2);
      ck_assert_int_eq(told, 2); /* once each, not again in later epochs */
    }
    data_close(d);
  }
}
END_TEST

/* Replacements have a random stream of their own: the other images stay as they were without corrupt ones. */
START_TEST(replacements_are_drawn_by_their_own_stream)
{
  data_config c = config();
  ij_batch b;
  uint32_t order[IMAGES], n = 0;
  data d = open_data(&c);
  for (int s = 0; s < 5; s++) {
    next(d, &b);
    for (int i = 0; i < b.count; i++) order[n++] = b.samples[i];
  }
  data_close(d);
  put_text("d/a/00.jpg", "no image");
  ij_rng r;
  uint32_t spare = 0;
  ij_rng_init(&r, c.loader.view.seed, IJ_RNG_SPARE, 0, 0);
  while (spare == 0) spare = ij_rng_below(&r, IMAGES);
  n = 0;
  d = open_data(&c);
  for (int s = 0; s < 5; s++) {
    next(d, &b);
    for (int i = 0; i < b.count; i++, n++) ck_assert_uint_eq(b.samples[i], order[n] ? order[n] : spare);
  }
  data_close(d);
}
END_TEST

/* Loaders with different views of one catalogue, which its owner closes before them. */
START_TEST(loaders_keep_their_catalogue_alive)
{
  data_config c = config();
  ij_catalogue *catalogue;
  ij_loader *train, *eval;
  ij_batch b;
  ck_assert_int_eq(ij_catalogue_open(&c.catalogue, &catalogue), IJ_OK);
  ck_assert_int_eq(ij_loader_open(catalogue, &c.loader, &train), IJ_OK);
  c.loader.view.train = c.loader.shuffle = 0;
  c.loader.view.height = 8;
  ck_assert_int_eq(ij_loader_open(catalogue, &c.loader, &eval), IJ_OK);
  uint8_t one[8 * SIDE * 3];
  ck_assert_int_eq(ij_catalogue_image(catalogue, &c.loader.view, 3, 0, one), IJ_OK);
  ij_catalogue_close(catalogue);
  for (int s = 0; s < 5; s++) {
    ck_assert_int_eq(ij_loader_next(train, &b), IJ_OK);
    ck_assert_int_eq(ij_loader_next(eval, &b), IJ_OK);
    ck_assert_int_eq((int)b.samples[0], 5 * s);
    if (s == 0) ck_assert_mem_eq(b.pixels + 3 * sizeof one, one, sizeof one);
  }
  ck_assert_int_eq(ij_loader_next(eval, &b), IJ_EEND);
  ij_loader_close(train);
  ij_loader_close(eval);
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

START_TEST(too_many_corrupt_images_end_the_run)
{
  data_config c = config();
  ij_batch b;
  put_text("d/a/00.jpg", "no image");
  data d = open_data(&c);
  for (int i = 0; i < 10; i++) next(d, &b); /* a single one does not end the run, though it is 4 % */
  data_close(d);
  put_text("d/b/01.jpg", "");
  d = open_data(&c);
  ij_status st = IJ_OK;
  for (int i = 0; i < 5 && st == IJ_OK; i++) st = ij_loader_next(d.loader, &b);
  ck_assert_int_eq(st, IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "2 of 23 images are corrupt, a larger fraction than data.max_bad = 0.01"));
  ck_assert_int_eq(ij_loader_next(d.loader, &b), IJ_EFORMAT);
  data_close(d);
  c.loader.max_bad = 0;
  run_in_scratch("for i in d/*/*; do : > $i; done");
  d = open_data(&c);
  ck_assert_int_eq(ij_loader_next(d.loader, &b), IJ_EFORMAT);
  data_close(d);
  c.loader.max_bad = 1;
  c.loader.workers = 0;
  d = open_data(&c);
  ck_assert_int_eq(ij_loader_next(d.loader, &b), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "32 images in a row could not be read"));
  data_close(d);
}
END_TEST

START_TEST(closing_at_any_time)
{
  for (int i = 0; i < 40; i++) {
    data_config c = config();
    c.loader.workers = 1 + i % 4;
    data d = open_data(&c);
    ij_batch b;
    for (int k = 0; k < i % 7; k++) next(d, &b);
    if (i % 3 == 0) ck_assert_int_eq(ij_loader_seek(d.loader, i, i % 5), IJ_OK);
    data_close(d);
  }
  ij_loader_close(NULL);
  ij_catalogue_close(NULL);
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

START_TEST(wrong_settings_are_refused)
{
  data d;
  data_config c;
#define REFUSED(field, value)                                                                                          \
  c = config();                                                                                                        \
  c.field = value;                                                                                                     \
  ck_assert_int_eq(data_open(&c, &d), IJ_EINVAL)
  REFUSED(loader.view.height, 0);
  REFUSED(loader.view.width, 1 << 20);
  REFUSED(loader.batch, 0);
  REFUSED(loader.workers, -1);
  REFUSED(loader.view.scale[0], -.1);
  REFUSED(loader.view.scale[1], 1.5);
  REFUSED(loader.view.ratio[0], 2);
  REFUSED(loader.view.flip, 1.5);
  REFUSED(loader.view.blur_p, 0. / 0.);
  REFUSED(loader.view.jitter, 3);
  REFUSED(loader.rank, 1);
  REFUSED(catalogue.root, NULL);
  REFUSED(loader.view.resize, 1 << 20);
  c = config();
  d = open_data(&c);
  ck_assert_int_eq(ij_loader_seek(d.loader, 0, 5), IJ_EINVAL);
  ck_assert_int_eq(ij_loader_seek(d.loader, -1, 0), IJ_EINVAL);
  data_close(d);
}
END_TEST

START_TEST(running_out_of_memory_is_survived)
{
  for (int w = 0; w < 2; w++)
    for (int i = 1, st = IJ_ENOMEM; st != IJ_OK; i++) {
      data_config c = config();
      c.loader.workers = w;
      c.loader.view.blur_p = 1;
      data d = {0};
      ij_batch b;
      ij_mem_fail_at(i);
      st = data_open(&c, &d);
      if (st == IJ_OK) st = ij_loader_next(d.loader, &b);
      ij_mem_fail_at(0);
      ck_assert_msg(st == IJ_OK || st == IJ_ENOMEM, "%d: %s", st, ij_errmsg());
      if (st == IJ_OK && i < 30) st = IJ_ENOMEM; /* a lost note or the like: go on */
      data_close(d);
      ck_assert_uint_eq(ij_mem_live(), 0);
    }
}
END_TEST

START_TEST(distortions_do_what_they_say)
{
  uint8_t p[SIDE * SIDE * 3], *from = draw(SIDE, SIDE, 3);
  ij_buffer buffer = {0};
  ij_rng r;
  memcpy(p, from, sizeof p);
  ij_rng_init(&r, 1, IJ_RNG_AUGMENT, 0, 0);
  ck_assert_int_eq(ij_augment(&r, &(ij_colours){.flip = 1}, SIDE, SIDE, p, &buffer), IJ_OK);
  for (int i = 0; i < SIDE * SIDE; i++)
    ck_assert_mem_eq(p + 3 * i, from + 3 * (i / SIDE * SIDE + SIDE - 1 - i % SIDE), 3);
  ij_augment(&r, &(ij_colours){.grey_p = 1}, SIDE, SIDE, p, &buffer);
  for (int i = 0; i < SIDE * SIDE; i++) ck_assert(p[3 * i] == p[3 * i + 1] && p[3 * i] == p[3 * i + 2]);
  memset(p, 90, sizeof p);
  ij_augment(&r, &(ij_colours){.blur_p = 1}, SIDE, SIDE, p, &buffer);
  for (size_t i = 0; i < sizeof p; i++) ck_assert_int_eq(p[i], 90);
  memcpy(p, from, sizeof p);
  ij_augment(&r, &(ij_colours){.jitter = 1, .jitter_p = 1}, SIDE, SIDE, p, &buffer);
  ck_assert_mem_ne(p, from, sizeof p);
  memcpy(p, from, sizeof p);
  ij_augment(&r, &(ij_colours){.jitter = 1}, SIDE, SIDE, p, &buffer);
  ck_assert_mem_eq(p, from, sizeof p);
  ij_buffer_free(&buffer);
  ij_free(from);
}
END_TEST

int main(void) {
  Suite *s = suite_create("loader");
  TCase *t = tcase_create("loader");
  tcase_add_checked_fixture(t, make_set, scratch_remove);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, the_same_for_any_number_of_workers);
  tcase_add_test(t, an_epoch_holds_each_image_once);
  tcase_add_test(t, evaluation_ends_and_starts_over);
  tcase_add_test(t, processes_share_an_epoch);
  tcase_add_test(t, processes_see_what_one_sees);
  tcase_add_test(t, the_last_batch_may_be_dropped);
  tcase_add_test(t, corrupt_images_are_replaced_counted_and_named);
  tcase_add_test(t, replacements_are_drawn_by_their_own_stream);
  tcase_add_test(t, loaders_keep_their_catalogue_alive);
  tcase_add_test(t, too_many_corrupt_images_end_the_run);
  tcase_add_test(t, closing_at_any_time);
  tcase_add_test(t, wrong_settings_are_refused);
  tcase_add_test(t, running_out_of_memory_is_survived);
  tcase_add_test(t, distortions_do_what_they_say);
  suite_add_tcase(s, t);
  return run_suite(s);
}

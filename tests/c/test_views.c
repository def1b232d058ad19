/* core/data/loader.c, view.c, decode.c: several views of an image. */
#include "images.h"
#include <vips/vips.h>

enum { IMAGES = 13, BATCH = 4, STEPS = 4 };
static const ij_view_group groups[] = {
    {{.height = 20, .width = 16, .scale = {.4, 1}, .ratio = {.75, 4. / 3}, .flip = .5}, 2},
    {{.height = 9, .width = 9, .scale = {.05, .3}, .ratio = {.5, 2}, .jitter = .5, .jitter_p = .8, .blur_p = .5}, 3},
    {{.height = 32, .width = 32, .scale = {.9, 1}, .ratio = {1, 1}, .grey_p = .5}, 1}};
enum { GROUPS = sizeof groups / sizeof *groups };

static char root[80];
static void make_set(void) {
  scratch_make();
  for (int i = 0; i < IMAGES; i++) {
    char name[40];
    snprintf(name, sizeof name, "d/%02d.%s", i, i % 3 ? "jpg" : i % 2 ? "png" : "bmp");
    put_image(name, 60 + 3 * i, 90 - 2 * i, i);
  }
  snprintf(root, sizeof root, "%s/d", scratch);
}
static data_config config(void) {
  return (data_config){.catalogue.root = root,
                       .loader.view = {.height = 20, .width = 16, .train = 1, .seed = 7},
                       .loader.view_groups = GROUPS,
                       .loader.views = groups,
                       .loader.shuffle = 1,
                       .loader.batch = BATCH,
                       .loader.workers = 2,
                       .loader.prefetch = 3,
                       .loader.max_bad = -1};
}
static data open_data(const data_config *c) {
  data d;
  ck_assert_msg(data_open(c, &d) == IJ_OK, "%s", ij_errmsg());
  return d;
}
static void next(data d, ij_batch *b) { ck_assert_msg(ij_loader_next(d.loader, b) == IJ_OK, "%s", ij_errmsg()); }
static const uint8_t *view_at(const ij_batch *b, int g, int view, int image) {
  const ij_batch_views *v = &b->views[g];
  return v->pixels + ((size_t)view * (size_t)b->count + (size_t)image) * (size_t)(v->height * v->width * 3);
}
static uint64_t batch_hash(const ij_batch *b) {
  uint64_t h = ij_hash(1, b->samples, (size_t)b->count * 4);
  for (int g = 0; g < b->view_groups; g++)
    h = ij_hash(h, b->views[g].pixels, (size_t)(b->count * b->views[g].n * b->views[g].height * b->views[g].width * 3));
  return h;
}

/* A view by its definition: crop box and colours from the view's own stretch of random numbers, of the whole image. */
static void want_view(const data *d, const ij_batch *b, int g, int view, int image, uint8_t *out) {
  const ij_view *v = &groups[g].view;
  uint8_t *whole;
  int h, w, box[4];
  ij_rng r;
  ij_buffer buffer = {0};
  char *path = ij_format("%s/%s", root, ij_catalogue_name(d->catalogue, b->samples[image]));
  ck_assert_int_eq(ij_image_load(path, &whole, &h, &w), IJ_OK);
  ij_rng_init(&r, 7, IJ_RNG_CROP, (uint32_t)b->epoch, b->samples[image]);
  r.ctr[0] = (uint32_t)(64 * g + view) * 65536;
  ij_crop_draw(&r, h, w, v->scale, v->ratio, box);
  ck_assert_int_eq(ij_image_crop(whole, h, w, box[0], box[1], box[2], box[3], v->height, v->width, out), IJ_OK);
  ij_rng_init(&r, 7, IJ_RNG_AUGMENT, (uint32_t)b->epoch, b->samples[image]);
  r.ctr[0] = (uint32_t)(64 * g + view) * 65536;
  ij_colours colours = {v->flip, v->jitter, v->jitter_p, v->grey_p, v->blur_p};
  ck_assert_int_eq(ij_augment(&r, &colours, v->height, v->width, out, &buffer), IJ_OK);
  ij_buffer_free(&buffer);
  ij_bytes_free(whole);
  ij_free(path);
}

START_TEST(each_view_has_random_numbers_of_its_own)
{
  data_config c = config();
  data d = open_data(&c);
  ij_batch b;
  for (int s = 0; s < 2 * STEPS; s++) {
    next(d, &b);
    ck_assert_int_eq(b.view_groups, GROUPS);
    ck_assert_ptr_eq(b.pixels, b.views[0].pixels);
    ck_assert_int_eq(b.count, s % STEPS == STEPS - 1 ? 1 : BATCH);
    for (int g = 0; g < GROUPS; g++) {
      ck_assert(b.views[g].n == groups[g].n && b.views[g].height == groups[g].view.height &&
                b.views[g].width == groups[g].view.width);
      for (int v = 0; v < groups[g].n; v++)
        for (int i = 0; i < b.count; i++) {
          uint8_t want[32 * 32 * 3];
          size_t n = (size_t)(b.views[g].height * b.views[g].width * 3);
          want_view(&d, &b, g, v, i, want);
          ck_assert_msg(!memcmp(view_at(&b, g, v, i), want, n), "step %d, group %d, view %d, image %d", s, g, v, i);
          if (v) ck_assert(memcmp(view_at(&b, g, 0, i), want, n) != 0);
        }
    }
  }
  data_close(d);
}
END_TEST

/* View 0 of group 0 has the bits of a single view with its settings, whatever other views there are. */
START_TEST(the_first_view_is_what_a_single_view_is)
{
  data_config c = config(), one = config();
  one.loader.view = groups[0].view;
  one.loader.view.train = 1;
  one.loader.view.seed = 7;
  one.loader.view_groups = 0;
  one.loader.views = NULL;
  data d = open_data(&c), e = open_data(&one);
  for (int s = 0; s < 2 * STEPS; s++) {
    ij_batch a, b;
    next(d, &a);
    next(e, &b);
    ck_assert(b.view_groups == 1 && b.views[0].n == 1 && b.views[0].pixels == b.pixels);
    ck_assert_mem_eq(a.samples, b.samples, (size_t)b.count * 4);
    ck_assert_mem_eq(a.pixels, b.pixels, (size_t)b.count * 20 * 16 * 3);
  }
  data_close(d);
  data_close(e);
}
END_TEST

START_TEST(the_same_for_any_number_of_workers_and_after_a_seek)
{
  uint64_t want[3 * STEPS];
  put_text("d/03.png", "no image"); /* replaced by others, all views of it */
  for (int w = 0; w < 4; w++) {
    data_config c = config();
    c.loader.workers = w == 3 ? 7 : w;
    c.loader.prefetch = 1 + w;
    data d = open_data(&c);
    ij_batch b;
    for (int i = 0; i < 3 * STEPS; i++) {
      next(d, &b);
      for (int k = 0; k < b.count; k++) ck_assert_int_ne(b.samples[k], 3);
      if (w == 0) want[i] = batch_hash(&b);
      else ck_assert_uint_eq(want[i], batch_hash(&b));
    }
    for (int i = 0; i < 9; i++) {
      int at = i * 7 % (3 * STEPS);
      ck_assert_int_eq(ij_loader_seek(d.loader, at / STEPS, at % STEPS), IJ_OK);
      next(d, &b);
      ck_assert_uint_eq(want[at], batch_hash(&b));
    }
    ck_assert_int_eq(ij_loader_corrupt_count(d.loader), 1);
    data_close(d);
  }
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

/* Windows of one decode have the bits that each has of a decode of its own: every decoder, turned images too. */
START_TEST(one_decode_gives_what_several_give)
{
  enum { WINDOWS = 5, SIDE = 24 };
  static const char *const file[] = {
      "x.jpg[Q=90]", "x.jpg[Q=80,interlace]", "x.jpg[Q=85,subsample-mode=off]", "x.png", "x.tif", "x.ppm"};
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  for (size_t k = 0; k < 2 * sizeof file / sizeof *file; k++) {
    bool turned = k % 2;
    ij_decoder *d;
    int h = 171 + (int)k, w = 133;
    ij_decoder_new(&(ij_decode_options){.orient = IJ_ORIENT_EXIF}, &d);
    uint8_t *from = draw(h, w, (int)k), got[WINDOWS][SIDE * SIDE * 3], one[SIDE * SIDE * 3], *out[WINDOWS];
    char *path = in_scratch(file[k / 2]), *plain = ij_strdup(path);
    if (strchr(plain, '[')) *strchr(plain, '[') = 0;
    VipsImage *raw = vips_image_new_from_memory(from, (size_t)(h * w * 3), w, h, 3, VIPS_FORMAT_UCHAR), *image;
    vips_copy(raw, &image, "interpretation", VIPS_INTERPRETATION_sRGB, NULL);
    if (turned) vips_image_set_int(image, "orientation", 6);
    ck_assert_msg(vips_image_write_to_file(image, path, NULL) == 0, "%s", vips_error_buffer());
    FILE *f = fopen(plain, "rb");
    static uint8_t bytes[1 << 18];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    ij_rng r;
    ij_rng_init(&r, k, IJ_RNG_USER, 0, 0);
    for (int round = 0; round < 8; round++) {
      ij_window win[WINDOWS];
      int b[4];
      ck_assert_msg(ij_decoder_open(d, bytes, n, &h, &w) == IJ_OK, "%s", ij_errmsg());
      for (int i = 0; i < WINDOWS; i++) {
        ij_crop_draw(&r, h, w, (double[]){.001, round ? .3 : 1}, (double[]){.3, 3}, b);
        win[i] = (ij_window){b[0], b[1], b[2], b[3], SIDE, SIDE, 0, 0, SIDE, SIDE};
        out[i] = got[i];
      }
      ck_assert_msg(ij_decoder_read_all(d, WINDOWS, win, out) == IJ_OK, "%s: %s", file[k / 2], ij_errmsg());
      for (int i = 0; i < WINDOWS; i++) {
        ck_assert_int_eq(ij_decoder_open(d, bytes, n, &h, &w), IJ_OK);
        ck_assert_int_eq(ij_decoder_read(d, &win[i], one), IJ_OK);
        ck_assert_msg(!memcmp(one, got[i], sizeof one), "%s, round %d, window %d", file[k / 2], round, i);
      }
    }
    g_object_unref(raw);
    g_object_unref(image);
    ij_decoder_free(d);
    ij_free(from);
    ij_free(path);
    ij_free(plain);
  }
}
END_TEST

static void refused(const data_config *c, const char *why) {
  data d;
  ck_assert_int_eq(data_open(c, &d), IJ_EINVAL);
  ck_assert_msg(strstr(ij_errmsg(), why) != NULL, "%s", ij_errmsg());
}
START_TEST(wrong_groups_are_refused)
{
  ij_view_group many[5] = {groups[0], groups[0], groups[0], groups[0], groups[0]};
  data_config c = config();
  c.loader.view.train = 0;
  refused(&c, "data.views: views are random crops: train is off");
  c = config();
  c.loader.view_groups = 17;
  refused(&c, "data.views: 17 groups: expected 1 to 16");
  c.loader.view_groups = 1;
  c.loader.views = NULL;
  refused(&c, "data.views");
  c = config();
  c.loader.views = many;
  many[1].n = 65;
  refused(&c, "data.views[2]: n = 65 is not between 1 and 64");
  many[1].n = 1;
  many[2].view.flip = 2;
  refused(&c, "data.views[3]: data: flip");
  many[2].view.flip = 0;
  for (int i = 0; i < 5; i++) many[i].n = 60;
  c.loader.view_groups = 5;
  refused(&c, "data.views: 300 views of an image: at most 256");
}
END_TEST

START_TEST(running_out_of_memory_is_survived)
{
  for (int w = 0; w < 2; w++)
    for (int i = 1, st = IJ_ENOMEM; st != IJ_OK; i++) {
      data_config c = config();
      c.loader.workers = w;
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

int main(void) {
  Suite *s = suite_create("views");
  TCase *t = tcase_create("views");
  tcase_add_checked_fixture(t, make_set, scratch_remove);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, each_view_has_random_numbers_of_its_own);
  tcase_add_test(t, the_first_view_is_what_a_single_view_is);
  tcase_add_test(t, the_same_for_any_number_of_workers_and_after_a_seek);
  tcase_add_test(t, one_decode_gives_what_several_give);
  tcase_add_test(t, wrong_groups_are_refused);
  tcase_add_test(t, running_out_of_memory_is_survived);
  suite_add_tcase(s, t);
  return run_suite(s);
}

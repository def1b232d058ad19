/* core/data/decode.c, other.c, image.c: every form of image, and what is broken. */
#include "images.h"
#include <vips/vips.h>

static uint8_t bytes[1 << 22];
static size_t get_bytes(const char *name) {
  char *path = in_scratch(name);
  FILE *f = fopen(path, "rb");
  ck_assert_ptr_nonnull(f);
  size_t n = fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  ij_free(path);
  return n;
}

static ij_status load(const char *name, uint8_t **p, int *h, int *w) {
  char *path = in_scratch(name);
  *p = NULL;
  ij_status st = ij_image_load(path, p, h, w);
  ij_free(path);
  return st;
}
static void expect_broken(const char *name, const char *why) {
  uint8_t *p;
  int h, w;
  ij_status st = load(name, &p, &h, &w);
  ck_assert_msg(st == IJ_EFORMAT || st == IJ_EIO, "%s: %d", name, st);
  ck_assert_msg(strstr(ij_errmsg(), why) != NULL, "%s: '%s'", name, ij_errmsg());
  ck_assert_ptr_null(strchr(ij_errmsg(), '\n'));
}

/* Saves (4, 5) pixels of so many bands, each of the given values, by libvips. */
static void put_vips(const char *name, int bands, VipsBandFormat format, VipsInterpretation space,
                     const double *value) {
  VipsImage *black, *made, *cast, *copy;
  double one[4] = {1, 1, 1, 1};
  char *path = in_scratch(name);
  ck_assert_int_eq(vips_black(&black, 5, 4, "bands", bands, NULL), 0);
  ck_assert_int_eq(vips_linear(black, &made, one, value, bands, NULL), 0);
  ck_assert_int_eq(vips_cast(made, &cast, format, NULL), 0);
  ck_assert_int_eq(vips_copy(cast, &copy, "interpretation", space, NULL), 0);
  ck_assert_msg(vips_image_write_to_file(copy, path, NULL) == 0, "%s", vips_error_buffer());
  g_object_unref(black);
  g_object_unref(made);
  g_object_unref(cast);
  g_object_unref(copy);
  ij_free(path);
}
static void expect_colour(const char *name, int red, int green, int blue, int tolerance) {
  uint8_t *p;
  int h, w;
  ck_assert_msg(load(name, &p, &h, &w) == IJ_OK, "%s", ij_errmsg());
  ck_assert(h == 4 && w == 5);
  for (int i = 0; i < 20; i++)
    ck_assert_msg(abs(p[3 * i] - red) <= tolerance && abs(p[3 * i + 1] - green) <= tolerance &&
                      abs(p[3 * i + 2] - blue) <= tolerance,
                  "%s: %d %d %d", name, p[3 * i], p[3 * i + 1], p[3 * i + 2]);
  ij_bytes_free(p);
}

START_TEST(all_colour_forms_become_rgb)
{
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  put_vips("rgb.png", 3, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_sRGB, (double[]){10, 20, 30});
  expect_colour("rgb.png", 10, 20, 30, 0);
  put_vips("rgb.webp", 3, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_sRGB, (double[]){10, 20, 30});
  expect_colour("rgb.webp", 10, 20, 30, 3);
  put_vips("rgb.jpg", 3, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_sRGB, (double[]){10, 20, 30});
  expect_colour("rgb.jpg", 10, 20, 30, 2);
  put_vips("grey.jpg", 1, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_B_W, (double[]){77});
  expect_colour("grey.jpg", 77, 77, 77, 0);
  put_vips("grey.png", 1, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_B_W, (double[]){77});
  expect_colour("grey.png", 77, 77, 77, 0);
  put_vips("grey-alpha.png", 2, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_B_W, (double[]){77, 5});
  expect_colour("grey-alpha.png", 77, 77, 77, 0);
  put_vips("alpha.png", 4, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_sRGB, (double[]){10, 20, 30, 0});
  expect_colour("alpha.png", 10, 20, 30, 0); /* as PIL: what lies under transparent pixels is taken */
  put_vips("deep.png", 3, VIPS_FORMAT_USHORT, VIPS_INTERPRETATION_RGB16, (double[]){10 * 256 + 9, 20 * 256, 30 * 256});
  expect_colour("deep.png", 10, 20, 30, 0);
  put_vips("deep-grey.png", 1, VIPS_FORMAT_USHORT, VIPS_INTERPRETATION_GREY16, (double[]){77 * 256 + 3});
  expect_colour("deep-grey.png", 77, 77, 77, 0);
  put_vips("deep.tif", 3, VIPS_FORMAT_USHORT, VIPS_INTERPRETATION_RGB16, (double[]){10 * 256, 20 * 256, 30 * 256});
  expect_colour("deep.tif", 10, 20, 30, 0);
  put_vips("ink.jpg", 4, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_CMYK, (double[]){255, 0, 0, 55});
  expect_colour("ink.jpg", 0, 200, 200, 2); /* cyan, by PIL's formula */
  put_vips("ink.tif", 4, VIPS_FORMAT_UCHAR, VIPS_INTERPRETATION_CMYK, (double[]){0, 0, 0, 0});
  expect_colour("ink.tif", 255, 255, 255, 8);
  put_vips("float.tif", 3, VIPS_FORMAT_FLOAT, VIPS_INTERPRETATION_scRGB, (double[]){1, 0, 1});
  expect_colour("float.tif", 255, 0, 255, 0);
}
END_TEST

START_TEST(animations_give_their_first_image)
{
  VipsImage *page[2], *all, *copy;
  char *path = in_scratch("move.webp");
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  for (int i = 0; i < 2; i++) {
    VipsImage *black;
    double one[3] = {1, 1, 1}, v[3] = {200.0 * i + 20, 20, 20};
    vips_black(&black, 5, 4, "bands", 3, NULL);
    vips_linear(black, &page[i], one, v, 3, "uchar", TRUE, NULL);
    g_object_unref(black);
  }
  ck_assert_int_eq(vips_arrayjoin(page, &all, 2, "across", 1, NULL), 0);
  ck_assert_int_eq(vips_copy(all, &copy, "interpretation", VIPS_INTERPRETATION_sRGB, NULL), 0);
  vips_image_set_int(copy, "page-height", 4);
  ck_assert_msg(vips_webpsave(copy, path, "lossless", TRUE, NULL) == 0, "%s", vips_error_buffer());
  expect_colour("move.webp", 20, 20, 20, 0);
  for (int i = 0; i < 2; i++) g_object_unref(page[i]);
  g_object_unref(all);
  g_object_unref(copy);
  ij_free(path);
}
END_TEST

START_TEST(one_pixel)
{
  static const char *const name[] = {"a/1.png", "a/1.jpg", "a/1.webp"};
  for (int i = 0; i < 3; i++) {
    put_image(name[i], 1, 1, 1);
    uint8_t *p, out[6 * 6 * 3];
    int h, w;
    ck_assert_int_eq(load(name[i], &p, &h, &w), IJ_OK);
    ck_assert(h == 1 && w == 1);
    ck_assert_int_eq(ij_image_crop(p, 1, 1, 0, 0, 1, 1, 6, 6, out), IJ_OK);
    for (int k = 0; k < 36; k++) ck_assert_mem_eq(out + 3 * k, p, 3);
    ij_bytes_free(p);
  }
}
END_TEST

/* Of a window alone, the same pixels as of the whole image: all samplings of colour, progressive too. */
START_TEST(windows_of_jpegs_are_exact)
{
  static const char *const option[] = {"[Q=90]", "[Q=95,subsample-mode=off]", "[Q=80,interlace,subsample-mode=on]",
                                       "[Q=85,interlace,subsample-mode=off]", "[Q=75,optimize-coding]"};
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  ij_decoder *d;
  ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 28}, &d);
  for (size_t k = 0; k < sizeof option / sizeof *option; k++)
    for (int grey = 0; grey < 2; grey++) {
      int h = 201 + 7 * (int)k, w = 163 + 5 * (int)k, h2, w2;
      uint8_t *from = draw(h, w, (int)k), *whole;
      char *path = in_scratch("x.jpg"), *with = ij_format("%s%s", path, option[k]);
      VipsImage *image = vips_image_new_from_memory(from, (size_t)(h * w * 3), w, h, 3, VIPS_FORMAT_UCHAR), *copy;
      if (grey) vips_extract_band(image, &copy, 0, NULL);
      else vips_copy(image, &copy, "interpretation", VIPS_INTERPRETATION_sRGB, NULL);
      ck_assert_msg(vips_image_write_to_file(copy, with, NULL) == 0, "%s", vips_error_buffer());
      ck_assert_int_eq(load("x.jpg", &whole, &h2, &w2), IJ_OK);
      ck_assert(h2 == h && w2 == w);
      size_t n = get_bytes("x.jpg");
      ij_rng r;
      ij_rng_init(&r, k, IJ_RNG_USER, 0, 0);
      for (int i = 0; i < 60; i++) {
        int b[4];
        static uint8_t one[40 * 40 * 3], two[40 * 40 * 3];
        ij_crop_draw(&r, h, w, (double[]){.001, 1}, (double[]){.3, 3}, b);
        ck_assert_int_eq(ij_image_crop(whole, h, w, b[0], b[1], b[2], b[3], 40, 40, one), IJ_OK);
        ij_window win = {b[0], b[1], b[2], b[3], 40, 40, 0, 0, 40, 40};
        ck_assert_int_eq(ij_decoder_open(d, bytes, n, &h2, &w2), IJ_OK);
        ck_assert_msg(ij_decoder_read(d, &win, two) == IJ_OK, "%s %d %d %d %d: %s", option[k], b[0], b[1], b[2], b[3],
                      ij_errmsg());
        ck_assert_msg(!memcmp(one, two, sizeof one), "%s: %d %d %d %d of %d x %d", option[k], b[0], b[1], b[2], b[3], h,
                      w);
      }
      g_object_unref(image);
      g_object_unref(copy);
      ij_bytes_free(whole);
      ij_free(from);
      ij_free(path);
      ij_free(with);
    }
  ij_decoder_free(d);
}
END_TEST

START_TEST(broken_files_are_told_apart)
{
  put_text("empty.jpg", "");
  expect_broken("empty.jpg", "empty file");
  put_text("text.jpg", "this is no image");
  expect_broken("text.jpg", "image '");
  put_bytes("start.jpg", "\xff\xd8\xff", 3);
  expect_broken("start.jpg", "JPEG");
  expect_broken("missing.jpg", "No such file");
  run_in_scratch("mkdir folder.jpg");
  expect_broken("folder.jpg", "not a file");
  put_image("a.jpg", 100, 80, 1);
  put_image("a.png", 100, 80, 1);
  put_image("a.webp", 100, 80, 1);
  size_t n = get_bytes("a.jpg");
  for (size_t cut = 3; cut < n; cut += 41) {
    put_bytes("cut.jpg", bytes, cut);
    expect_broken("cut.jpg", "image '");
  }
  put_bytes("cut.jpg", bytes, n - 2); /* only the end marker is missing */
  expect_broken("cut.jpg", "truncated JPEG");
  n = get_bytes("a.png");
  for (size_t cut = 1; cut + 60 < n; cut += n / 7) {
    put_bytes("cut.png", bytes, cut);
    expect_broken("cut.png", "image '");
  }
  n = get_bytes("a.webp");
  put_bytes("cut.webp", bytes, n / 2);
  expect_broken("cut.webp", "image '");
}
END_TEST

START_TEST(windows_see_truncation_below)
{
  put_image("a.jpg", 400, 80, 1);
  size_t n = get_bytes("a.jpg");
  ij_decoder *d;
  int h, w;
  uint8_t out[8 * 8 * 3];
  ij_window top = {0, 0, 20, 20, 8, 8, 0, 0, 8, 8};
  ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 28}, &d);
  ck_assert_int_eq(ij_decoder_open(d, bytes, n, &h, &w), IJ_OK);
  ck_assert_int_eq(ij_decoder_read(d, &top, out), IJ_OK);
  ck_assert_int_eq(ij_decoder_open(d, bytes, n - 100, &h, &w), IJ_OK);
  ck_assert_int_eq(ij_decoder_read(d, &top, out), IJ_EFORMAT);
  ck_assert_str_eq(ij_errmsg(), "truncated JPEG");
  ij_decoder_free(d);
}
END_TEST

START_TEST(huge_images_are_refused_by_their_header)
{
  static const char *const name[] = {"big.jpg", "big.png"};
  for (int i = 0; i < 2; i++) {
    put_image(name[i], 300, 400, 1);
    size_t n = get_bytes(name[i]);
    ij_decoder *d;
    int h, w;
    ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = 300 * 400 - 1}, &d), IJ_OK);
    ck_assert_int_eq(ij_decoder_open(d, bytes, n, &h, &w), IJ_EFORMAT);
    ck_assert_str_eq(ij_errmsg(), "400 x 300 pixels are more than data.max_pixels = 119999");
    ij_decoder_free(d);
  }
}
END_TEST

START_TEST(damaged_bytes_never_crash)
{
  static const char *const name[] = {"a.jpg", "a.png", "a.webp"};
  ij_decoder *d;
  ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 22}, &d);
  for (int k = 0; k < 3; k++) {
    put_image(name[k], 60, 70, 1);
    size_t n = get_bytes(name[k]);
    ij_rng r;
    ij_rng_init(&r, 5, IJ_RNG_USER, 0, 0);
    for (int i = 0; i < (k ? 150 : 1500); i++) {
      size_t at = i % 2 ? ij_rng_below(&r, (uint32_t)n) : ij_rng_below(&r, n < 700 ? (uint32_t)n : 700);
      uint8_t old = bytes[at], out[16 * 16 * 3];
      int h, w, b[4];
      bytes[at] = (uint8_t)ij_rng_u32(&r);
      if (ij_decoder_open(d, bytes, n, &h, &w) == IJ_OK) {
        ij_crop_draw(&r, h, w, (double[]){.1, 1}, (double[]){.75, 4. / 3}, b);
        ij_window win = {b[0], b[1], b[2], b[3], 16, 16, 0, 0, 16, 16};
        (void)ij_decoder_read(d, &win, out);
      }
      bytes[at] = old;
    }
  }
  ij_decoder_free(d);
}
END_TEST

START_TEST(saving_and_loading)
{
  uint8_t *p = draw(30, 40, 2), *q;
  int h, w;
  put_image("a[1].png", 30, 40, 2); /* libvips would take what is in brackets for options */
  ck_assert_int_eq(load("a[1].png", &q, &h, &w), IJ_OK);
  ck_assert(h == 30 && w == 40);
  ck_assert_mem_eq(p, q, 30 * 40 * 3);
  ij_bytes_free(q);
  ck_assert_int_eq(ij_image_save("/nowhere/at/all.png", p, 30, 40), IJ_EIO);
  ck_assert_int_eq(ij_image_save("/tmp/a.nothing", p, 30, 40), IJ_EUNSUPPORTED);
  ck_assert_int_eq(ij_image_save("/tmp/nothing", p, 30, 40), IJ_EINVAL);
  ck_assert_int_eq(ij_image_save("/tmp/a.png", p, 0, 40), IJ_EINVAL);
  ij_free(p);
}
END_TEST

int main(void) {
  Suite *s = suite_create("decode");
  TCase *t = tcase_create("decode");
  tcase_add_checked_fixture(t, scratch_make, scratch_remove);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, all_colour_forms_become_rgb);
  tcase_add_test(t, animations_give_their_first_image);
  tcase_add_test(t, one_pixel);
  tcase_add_test(t, windows_of_jpegs_are_exact);
  tcase_add_test(t, broken_files_are_told_apart);
  tcase_add_test(t, windows_see_truncation_below);
  tcase_add_test(t, huge_images_are_refused_by_their_header);
  tcase_add_test(t, damaged_bytes_never_crash);
  tcase_add_test(t, saving_and_loading);
  suite_add_tcase(s, t);
  return run_suite(s);
}

/* core/data/resize.c and the crop boxes: PIL's numbers. */
#include "images.h"
#include <cjson/cJSON.h>
#include <math.h>

static uint64_t hash(const uint8_t *p, size_t n) { /* FNV-1a */
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211u;
  return h;
}

/* Printed by golden/pil_resize.py: the same image, boxes and sizes through PIL. */
START_TEST(as_pil_resizes)
{
  static const struct {
    int top, left, h, w, out_h, out_w;
    uint64_t hash;
  } golden[] = {
#include "../golden/pil_resize.h"
  };
  uint8_t *p = ij_alloc(150 * 203 * 3), *out = ij_alloc(1 << 20);
  for (int y = 0; y < 150; y++)
    for (int x = 0; x < 203; x++)
      for (int c = 0; c < 3; c++)
        p[(y * 203 + x) * 3 + c] = (uint8_t)((x * x * (c + 1) + y * y * 3 + x * y * (5 - c) + c * 77) / 7);
  for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
    ck_assert_int_eq(ij_image_crop(p, 150, 203, golden[i].top, golden[i].left, golden[i].h, golden[i].w,
                                   golden[i].out_h, golden[i].out_w, out),
                     IJ_OK);
    ck_assert_msg(hash(out, (size_t)golden[i].out_h * (size_t)golden[i].out_w * 3) == golden[i].hash, "size %zu", i);
  }
  ij_free(p);
  ij_free(out);
}
END_TEST

START_TEST(the_same_size_is_a_copy)
{
  uint8_t *p = draw(13, 21, 1), out[5 * 7 * 3];
  ck_assert_int_eq(ij_image_crop(p, 13, 21, 4, 9, 5, 7, 5, 7, out), IJ_OK);
  for (int y = 0; y < 5; y++) ck_assert_mem_eq(out + y * 21, p + ((y + 4) * 21 + 9) * 3, 21);
  ij_free(p);
}
END_TEST

START_TEST(boxes_outside_are_refused)
{
  uint8_t p[3 * 3 * 3] = {0}, out[3];
  static const int box[][4] = {{-1, 0, 1, 1}, {0, -1, 1, 1}, {0, 0, 0, 1},       {0, 0, 1, 0},
                               {1, 0, 3, 1},  {0, 1, 1, 3},  {0, 0, INT_MAX, 1}, {INT_MAX, 0, 1, 1}};
  for (size_t i = 0; i < sizeof box / sizeof *box; i++)
    ck_assert_int_eq(ij_image_crop(p, 3, 3, box[i][0], box[i][1], box[i][2], box[i][3], 1, 1, out), IJ_EINVAL);
  ck_assert_int_eq(ij_image_crop(p, 3, 3, 0, 0, 1, 1, 0, 1, out), IJ_EINVAL);
  ck_assert_int_eq(ij_image_crop(p, 3, 3, 2, 2, 1, 1, 1, 1, out), IJ_OK);
}
END_TEST

START_TEST(random_boxes_have_the_published_distribution)
{
  double area = 0, aspect = 0;
  enum { N = 20000 };
  for (uint32_t i = 0; i < N; i++) {
    ij_rng r;
    int b[4];
    ij_rng_init(&r, 3, IJ_RNG_CROP, 0, i);
    ij_crop_draw(&r, 1000, 1000, (double[]){.3, .5}, (double[]){.75, 4. / 3}, b);
    ck_assert(b[0] >= 0 && b[1] >= 0 && b[0] + b[2] <= 1000 && b[1] + b[3] <= 1000);
    area += (double)b[2] * b[3] / 1e6 / N;
    aspect += log((double)b[3] / b[2]) / N;
  }
  ck_assert_double_eq_tol(area, .4, .002);
  ck_assert_double_eq_tol(aspect, 0, .005);
  static const int size[][6] = {
      {10, 1000, 0, 493, 10, 13}, {1000, 10, 493, 0, 13, 10}, {1, 1, 0, 0, 1, 1}, {1, 65000, 0, 32499, 1, 1}};
  for (int i = 0; i < 4; i++) { /* no try fits: the middle */
    ij_rng r;
    int b[4];
    ij_rng_init(&r, 3, IJ_RNG_CROP, 0, 0);
    ij_crop_draw(&r, size[i][0], size[i][1], (double[]){1, 1}, (double[]){.75, 4. / 3}, b);
    ck_assert_mem_eq(b, size[i] + 2, sizeof b);
  }
}
END_TEST

START_TEST(the_middle_in_evaluation)
{
  ij_window w;
  ij_crop_centre(375, 500, 256, 224, 224, &w);
  ck_assert(w.full_h == 256 && w.full_w == 341 && w.y == 16 && w.x == 58 && w.h == 375 && w.w == 500);
  ij_crop_centre(100, 100, 64, 224, 448, &w); /* a size too small for the output: grown until it fits */
  ck_assert(w.full_h == 448 && w.full_w == 448 && w.y == 112 && w.x == 0);
  ij_crop_centre(1, 65000, 256, 224, 224, &w);
  ck_assert(w.full_h == 256 && w.full_w == 16640000);
}
END_TEST

/* The published pipeline's crops: exactly, both from a decoded image and on the loader's way. */
START_TEST(conformance)
{
  const char *folder = SHARED_FOLDER "/conformance/crops";
  char path[PATH_MAX];
  static char text[1 << 16];
  snprintf(path, sizeof path, "%s/crops.json", folder);
  FILE *f = fopen(path, "rb");
  if (!f) {
    printf("skipped: %s is not there\n", path);
    return;
  }
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  cJSON *all = cJSON_Parse(text), *one;
  ck_assert_ptr_nonnull(all);
  ij_decoder *d;
  ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 28}, &d), IJ_OK);
  int count = 0;
  cJSON_ArrayForEach(one, all) {
    int box[5], h, w, eh, ew;
    static const char *const key[] = {"top", "left", "height", "width", "size"};
    for (int i = 0; i < 5; i++) box[i] = cJSON_GetObjectItem(one, key[i])->valueint;
    uint8_t *want, *pixels, *out;
    size_t side = (size_t)box[4], n = side * side * 3;
    snprintf(path, sizeof path, "%s/%s", folder, cJSON_GetObjectItem(one, "expected")->valuestring);
    ck_assert_msg(ij_image_load(path, &want, &eh, &ew) == IJ_OK, "%s", ij_errmsg());
    ck_assert(eh == box[4] && ew == box[4]);
    snprintf(path, sizeof path, "%s/%s", folder, cJSON_GetObjectItem(one, "image")->valuestring);
    ck_assert_msg(ij_image_load(path, &pixels, &h, &w) == IJ_OK, "%s", ij_errmsg());
    out = ij_alloc(n);
    ck_assert_int_eq(ij_image_crop(pixels, h, w, box[0], box[1], box[2], box[3], box[4], box[4], out), IJ_OK);
    ck_assert_mem_eq(out, want, n);
    memset(out, 0, n);
    static uint8_t bytes[1 << 22];
    f = fopen(path, "rb");
    size_t len = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    ij_window win = {box[0], box[1], box[2], box[3], box[4], box[4], 0, 0, box[4], box[4]};
    ck_assert_int_eq(ij_decoder_open(d, bytes, len, &h, &w), IJ_OK);
    ck_assert_msg(ij_decoder_read(d, &win, out) == IJ_OK, "%s", ij_errmsg());
    ck_assert_mem_eq(out, want, n);
    ij_free(out);
    ij_bytes_free(want);
    ij_bytes_free(pixels);
    count++;
  }
  ck_assert_int_gt(count, 0);
  ij_decoder_free(d);
  cJSON_Delete(all);
}
END_TEST

int main(void) {
  Suite *s = suite_create("crop");
  TCase *t = tcase_create("crop");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, as_pil_resizes);
  tcase_add_test(t, the_same_size_is_a_copy);
  tcase_add_test(t, boxes_outside_are_refused);
  tcase_add_test(t, random_boxes_have_the_published_distribution);
  tcase_add_test(t, the_middle_in_evaluation);
  tcase_add_test(t, conformance);
  suite_add_tcase(s, t);
  return run_suite(s);
}

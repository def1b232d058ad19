/* core/data/copy.c, manifest.c, sha256.c, and the limits that protect from hostile images. */
#include "images.h"
#include <sys/stat.h>
#include <vips/vips.h>

enum { SIDE = 8 };
static char root[80], copy_to[80];
static void make_set(void) {
  scratch_make();
  for (int i = 0; i < 12; i++) {
    char name[40];
    snprintf(name, sizeof name, "d/%c/%02d.png", 'a' + i % 3, i);
    put_image(name, 12 + i, 14, i);
  }
  run_in_scratch("mkdir s; tar cf s/x.tar -C d a b; tar cf s/y.tar -C d c");
  snprintf(root, sizeof root, "%s/d", scratch);
  snprintf(copy_to, sizeof copy_to, "%s/local", scratch);
}
static data open_root(const char *path) {
  data_config c = {.catalogue.root = path,
                   .loader.view.height = SIDE,
                   .loader.view.width = SIDE,
                   .loader.view.train = 1,
                   .loader.shuffle = 1,
                   .loader.batch = 5,
                   .loader.workers = 2,
                   .loader.max_bad = .5};
  data d;
  ck_assert_msg(data_open(&c, &d) == IJ_OK, "%s", ij_errmsg());
  return d;
}
static uint64_t epoch_hash(data d) {
  uint64_t h = 0;
  ck_assert_int_eq(ij_loader_seek(d.loader, 0, 0), IJ_OK);
  for (int s = 0; s < ij_loader_steps(d.loader); s++) {
    ij_batch b;
    ck_assert_msg(ij_loader_next(d.loader, &b) == IJ_OK, "%s", ij_errmsg());
    h = ij_hash(h, b.pixels, (size_t)b.count * SIDE * SIDE * 3);
  }
  return h;
}
static ij_status copy(data d, ij_progress *p) {
  ij_status st;
  do st = ij_catalogue_copy(d.catalogue, copy_to, 1, p);
  while (st == IJ_OK && !p->over);
  return st;
}
static void expect_copied(const char *path, int files, bool all) { /* all: all bytes, else none */
  data d = open_root(path);
  ij_progress p;
  uint64_t stamp = ij_catalogue_stamp(d.catalogue);
  ck_assert_msg(copy(d, &p) == IJ_OK, "%s", ij_errmsg());
  ck_assert_int_eq(p.files, files);
  ck_assert_int_eq(p.files_done, files);
  ck_assert_int_eq(p.bytes, p.bytes_done);
  ck_assert_int_eq(p.bytes > 0, all);
  ck_assert_uint_eq(ij_catalogue_stamp(d.catalogue), stamp); /* it is the same data */
  data_close(d);
}

START_TEST(a_copy_is_made_once_and_read_from_then_on)
{
  static const char *const what[2] = {"d", "s"};
  for (int k = 0; k < 2; k++) {
    char path[80], *hide;
    snprintf(path, sizeof path, "%s/%s", scratch, what[k]);
    data d = open_root(path);
    uint64_t want = epoch_hash(d);
    data_close(d);
    expect_copied(path, k ? 2 : 12, true);
    expect_copied(path, k ? 2 : 12, false); /* it is there */
    d = open_root(path);
    ij_progress p;
    ck_assert_int_eq(copy(d, &p), IJ_OK);
    hide = ij_format("mv %s away", what[k]);
    run_in_scratch(hide);
    ij_free(hide);
    ck_assert_uint_eq(epoch_hash(d), want);
    data_close(d);
    hide = ij_format("mv away %s", what[k]);
    run_in_scratch(hide);
    ij_free(hide);
    hide = ij_format("diff -r %s local%s/%s", what[k], scratch, what[k]);
    run_in_scratch(hide);
    ij_free(hide);
  }
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

/* A loader reads on while the files are copied, and from the copy as soon as it is complete. */
START_TEST(names_of_255_bytes_are_copied)
{
  char name[260], path[80];
  memset(name, 'n', 255);
  memcpy(name, "l/", 2);
  memcpy(name + 253, ".png", 5); /* 255 bytes after "l/" */
  put_image(name, 12, 14, 1);
  snprintf(path, sizeof path, "%s/l", scratch);
  expect_copied(path, 1, true);
  run_in_scratch("diff -r l local$PWD/l");
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

START_TEST(a_loader_reads_on_while_its_files_are_copied)
{
  static const char *const what[2] = {"d", "s"};
  for (int k = 0; k < 2; k++) {
    char path[80];
    snprintf(path, sizeof path, "%s/%s", scratch, what[k]);
    data d = open_root(path), other = open_root(path);
    ij_progress p = {0};
    ij_batch b, same;
    int steps = 0;
    for (; !p.over || steps < 20; steps++) {
      if (!p.over) ck_assert_msg(ij_catalogue_copy(d.catalogue, copy_to, .001, &p) == IJ_OK, "%s", ij_errmsg());
      ck_assert_msg(ij_loader_next(d.loader, &b) == IJ_OK, "%s", ij_errmsg());
      ck_assert_msg(ij_loader_next(other.loader, &same) == IJ_OK, "%s", ij_errmsg());
      ck_assert_mem_eq(b.pixels, same.pixels, (size_t)b.count * SIDE * SIDE * 3);
    }
    data_close(other);
    char *command = ij_format("mv %s away", what[k]);
    run_in_scratch(command);
    ij_free(command);
    for (int i = 0; i < 20; i++) ck_assert_msg(ij_loader_next(d.loader, &b) == IJ_OK, "%s", ij_errmsg());
    ck_assert_int_eq(ij_loader_corrupt_count(d.loader), 0);
    data_close(d);
    command = ij_format("mv away %s", what[k]);
    run_in_scratch(command);
    ij_free(command);
  }
}
END_TEST

START_TEST(a_part_of_a_copy_is_completed)
{
  char *line;
  expect_copied(root, 12, true);
  line = ij_format(
      "cd local%s/d; rm a/00.png; echo half >a/03.png.part; touch b/01.png; cp -p c/02.png t; echo >>c/02.png; "
      "touch -r t c/02.png",
      scratch);
  run_in_scratch(line);
  ij_free(line);
  data d = open_root(root);
  ij_progress p;
  struct stat s;
  ck_assert_int_eq(copy(d, &p), IJ_OK);
  int64_t want = 0; /* the missing one, the one of another time, the one of another size */
  static const char *const name[] = {"d/a/00.png", "d/b/01.png", "d/c/02.png"};
  for (int i = 0; i < 3; i++) {
    char *path = in_scratch(name[i]);
    ck_assert_int_eq(stat(path, &s), 0);
    want += s.st_size;
    ij_free(path);
  }
  ck_assert_int_eq(p.bytes, want);
  data_close(d);
  line = ij_format("rm local%s/d/t local%s/d/a/*.part; diff -r d local%s/d", scratch, scratch, scratch);
  run_in_scratch(line);
  ij_free(line);
  /* a copy that an earlier boot left unfinished is not believed */
  run_in_scratch("test ! -s local/.ijepa-copy; printf some-other-boot >local/.ijepa-copy");
  expect_copied(root, 12, true);
  run_in_scratch("test ! -s local/.ijepa-copy");
  run_in_scratch("cp /proc/sys/kernel/random/boot_id id; head -c 36 id >local/.ijepa-copy"); /* one of this boot is */
  expect_copied(root, 12, false);
}
END_TEST

START_TEST(what_can_not_be_copied)
{
  ij_progress p;
  data d = open_root(root);
  ck_assert_int_eq(ij_catalogue_copy(d.catalogue, "/dev/null/x", 1, &p), IJ_EIO);
  char inside[100];
  snprintf(inside, sizeof inside, "%s/d/a/local", scratch);
  ck_assert_int_eq(ij_catalogue_copy(d.catalogue, inside, 1, &p), IJ_EINVAL);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "lies in the data itself"));
  run_in_scratch("rm -r d/a/local; ln -s nowhere d/a/link.png");
  data_close(d);
  d = open_root(root); /* what can't be read stays broken, the rest is copied */
  ck_assert_msg(copy(d, &p) == IJ_OK, "%s", ij_errmsg());
  ck_assert_int_eq(ij_catalogue_count(d.catalogue), 13);
  data_close(d);
  char *huge = in_scratch("d/huge.png");
  FILE *f = fopen(huge, "wb");
  bool sparse = f && ftruncate(fileno(f), (off_t)1 << 43) == 0;
  if (f) fclose(f);
  if (!sparse) puts("SKIPPED: free space: this file system makes no file of 8 TiB");
  else {
    d = open_root(root);
    ck_assert_int_eq(copy(d, &p), IJ_EIO);
    ck_assert_msg(strstr(ij_errmsg(), "8796.") && strstr(ij_errmsg(), "GB are free there"), "%s", ij_errmsg());
    ck_assert_msg(epoch_hash(d) != 0, "it can still be read from where it is");
    data_close(d);
  }
  ij_free(huge);
  ij_interrupt_set(1);
  data_config c = {.catalogue.root = "s", .loader.view.height = 8, .loader.view.width = 8, .loader.batch = 2};
  char path[80];
  snprintf(path, sizeof path, "%s/s", scratch);
  c.catalogue.root = path;
  ck_assert_int_eq(data_open(&c, &d), IJ_EINTERRUPT);
  ij_interrupt_set(0);
  ck_assert_int_eq(data_open(&c, &d), IJ_OK);
  ij_interrupt_set(1);
  ck_assert_int_eq(copy(d, &p), IJ_EINTERRUPT);
  ij_interrupt_set(0);
  ck_assert_int_eq(copy(d, &p), IJ_OK);
  data_close(d);
}
END_TEST

/* ---- SHA-256, manifests ---- */
static void expect_sha(const char *text, size_t times, const char *want) {
  ij_sha256 s;
  uint8_t digest[32];
  char hex[65];
  ij_sha256_begin(&s);
  for (size_t i = 0; i < times; i++) ij_sha256_add(&s, text, strlen(text));
  ij_sha256_end(&s, digest);
  for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
  ck_assert_str_eq(hex, want);
}
START_TEST(sha256_as_published)
{ /* the examples of FIPS 180 */
  expect_sha("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  expect_sha("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  expect_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
             "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  expect_sha("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
END_TEST

static ij_status manifest(data d, const char *expected, ij_manifest **m) {
  ij_progress p;
  char *path = expected ? in_scratch(expected) : NULL;
  ij_status st = ij_manifest_open(d.catalogue, 0, path, m);
  ij_free(path);
  for (p.over = 0; st == IJ_OK && !p.over;) st = ij_manifest_wait(*m, 1, &p);
  return st;
}
static void write_manifest(const char *path, const char *to) {
  data d = open_root(path);
  ij_manifest *m;
  ck_assert_int_eq(manifest(d, NULL, &m), IJ_OK);
  char *out = in_scratch(to);
  FILE *f = fopen(out, "w");
  const char *line;
  for (int i = 0; (line = ij_manifest_line(m, i)); i++) fprintf(f, "%s\n", line);
  fclose(f);
  ij_free(out);
  ij_manifest_close(m);
  data_close(d);
}

START_TEST(sha256sum_reads_our_manifests_and_we_its)
{
  put_image("d/a/new\nline\\.png", 9, 9, 1);
  write_manifest(root, "m.txt");
  run_in_scratch("cd d; sha256sum -c ../m.txt && test $(wc -l <../m.txt) = 13");
  char path[80];
  snprintf(path, sizeof path, "%s/s", scratch);
  write_manifest(path, "s.txt");
  run_in_scratch("cd s; sha256sum -c ../s.txt && test $(wc -l <../s.txt) = 2");
  run_in_scratch("cd d; echo notes >readme.txt; find . -type f -exec sha256sum {} + >../theirs.txt");
  data d = open_root(root);
  static const char *const file[] = {"m.txt", "theirs.txt"};
  for (int i = 0; i < 2; i++) {
    ij_manifest *m;
    ck_assert_msg(manifest(d, file[i], &m) == IJ_OK, "%s", ij_errmsg());
    ck_assert_msg(ij_manifest_problems(m) == 0, "%s", ij_manifest_problem(m, 0));
    ij_manifest_close(m);
  }
  data_close(d);
}
END_TEST

START_TEST(what_differs_is_named)
{
  write_manifest(root, "m.txt");
  run_in_scratch("printf x | dd of=d/a/00.png bs=1 seek=60 conv=notrunc; rm d/b/01.png; cp d/c/02.png d/c/new.png");
  data d = open_root(root);
  ij_manifest *m;
  ck_assert_int_eq(manifest(d, "m.txt", &m), IJ_OK);
  ck_assert_int_eq(ij_manifest_problems(m), 3);
  static const char *const want[] = {"a/00.png: differs from the manifest", "c/new.png: not in the manifest",
                                     "b/01.png: in the manifest, but not there"};
  for (int k = 0; k < 3; k++) {
    bool found = false;
    for (int i = 0; i < 3; i++) found |= !strcmp(ij_manifest_problem(m, i), want[k]);
    ck_assert_msg(found, "%s", want[k]);
  }
  ck_assert_ptr_null(ij_manifest_problem(m, 3));
  ij_manifest_close(m);
  run_in_scratch("rm d/a/00.png"); /* after it was listed */
  ck_assert_int_eq(manifest(d, "m.txt", &m), IJ_OK);
  ck_assert_int_eq(ij_manifest_problems(m), 3);
  ij_manifest_close(m);
  put_text("bad.txt", "0123  a/00.png\n");
  ck_assert_int_eq(manifest(d, "bad.txt", &m), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "line 1: not a SHA-256 digest"));
  put_text("bad.txt", "\n");
  ck_assert_int_eq(manifest(d, "bad.txt", &m), IJ_EFORMAT);
  ck_assert_int_eq(manifest(d, "nowhere", &m), IJ_EIO);
  ck_assert_int_eq(ij_manifest_open(d.catalogue, 1, NULL, &m), IJ_EINVAL);
  data_close(d);
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

/* ---- hostile images ---- */
static ij_status decode(ij_decoder *d, const void *bytes, size_t n) {
  int h, w;
  uint8_t out[16 * 16 * 3];
  IJ_TRY(ij_decoder_open(d, bytes, n, &h, &w));
  ij_window all = {0, 0, h, w, 16, 16, 0, 0, 16, 16};
  return ij_decoder_read(d, &all, out);
}

static const char svg[] =
    "<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"20\" height=\"20\">"
    "<image href=\"file:///etc/passwd\" width=\"9\" height=\"9\"/><rect width=\"20\" height=\"20\"/></svg>";

START_TEST(formats_unsafe_for_strangers_files_are_off)
{
  static const char pdf[] =
      "%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
      "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 20 20]>>endobj\ntrailer<</Root 1 0 R>>\n";
  ij_decoder *d;
  ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 20}, &d), IJ_OK);
  ck_assert_int_eq(decode(d, svg, sizeof svg - 1), IJ_EFORMAT);
  if (vips_type_find("VipsOperation", "svgload_buffer"))
    ck_assert_ptr_nonnull(strstr(ij_errmsg(), "untrusted_loaders"));
  ck_assert_int_eq(decode(d, pdf, sizeof pdf - 1), IJ_EFORMAT);
  ij_decoder_free(d);
}
END_TEST

/* Two catalogues of the same files, open at the same time: that one of them trusts its files changes nothing in the
 * other, nor in single images. */
START_TEST(trust_is_of_one_catalogue)
{
  run_in_scratch("mkdir t");
  put_text("t/a.png", svg); /* by its name an image, by its contents an SVG */
  char *folder = in_scratch("t"), *file = in_scratch("t/a.png");
  ij_catalogue *trusting, *other;
  ij_view view = {.height = 8, .width = 8};
  uint8_t pixels[8 * 8 * 3], *all = NULL;
  int h, w;
  if (!vips_type_find("VipsOperation", "svgload_buffer")) puts("SKIPPED: untrusted_loaders: this libvips reads no SVG");
  else {
    ck_assert_int_eq(ij_catalogue_open(&(ij_catalogue_config){.root = folder}, &other), IJ_OK);
    ck_assert_int_eq(ij_catalogue_open(&(ij_catalogue_config){.root = folder, .untrusted_loaders = 1}, &trusting),
                     IJ_OK);
    for (int i = 0; i < 3; i++) {
      ck_assert_msg(ij_catalogue_image(trusting, &view, 0, 0, pixels) == IJ_OK, "%s", ij_errmsg());
      ck_assert_int_eq(pixels[0], 0); /* a black rectangle */
      ck_assert_int_eq(ij_catalogue_image(other, &view, 0, 0, pixels), IJ_EFORMAT);
      ck_assert_ptr_nonnull(strstr(ij_errmsg(), "unsafe"));
      ck_assert_int_eq(ij_image_load(file, &all, &h, &w), IJ_EFORMAT);
    }
    ij_catalogue_close(trusting);
    ij_catalogue_close(other);
  }
  ij_free(folder);
  ij_free(file);
}
END_TEST

/* A PNG of 16,000 x 16,000 pixels, all the same, is a small file. Below max_pixels it is read by strips. */
START_TEST(bombs_do_not_fill_the_memory)
{
  VipsImage *black;
  void *png;
  size_t n;
  enum { WIDE = 16000 };
  ij_decoder *d;
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  ck_assert_int_eq(vips_black(&black, WIDE, WIDE, "bands", 3, NULL), 0);
  ck_assert_int_eq(vips_image_write_to_buffer(black, ".png[compression=9]", &png, &n, NULL), 0);
  g_object_unref(black);
  ck_assert_uint_lt(n, 1 << 20);
  ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = WIDE * WIDE - 1}, &d), IJ_OK);
  ck_assert_int_eq(decode(d, png, n), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "more than data.max_pixels"));
  ij_decoder_free(d);
  ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = WIDE * WIDE}, &d), IJ_OK);
  size_t before = ij_rss_peak();
  ck_assert_msg(decode(d, png, n) == IJ_OK, "%s", ij_errmsg());
  size_t more = ij_rss_peak() - before; /* all of it would be 768 MB */
  ck_assert_msg(more < 100 << 20, "%zu MB", more >> 20);
  ij_decoder_free(d);
  g_free(png);
}
END_TEST

START_TEST(jpegs_of_many_scans_are_refused)
{ /* the last scan of a progressive JPEG again and again: each costs a pass over all pixels */
  VipsImage *black;
  uint8_t *jpeg, *bomb;
  size_t n, last = 0, size;
  enum { TIMES = 3000 };
  ck_assert_int_eq(ij_vips_ready(), IJ_OK);
  ck_assert_int_eq(vips_black(&black, 512, 512, "bands", 1, NULL), 0);
  ck_assert_int_eq(vips_image_write_to_buffer(black, ".jpg[interlace,strip]", (void **)&jpeg, &n, NULL), 0);
  g_object_unref(black);
  for (size_t i = 0; i + 1 < n; i++)
    if (jpeg[i] == 0xff && jpeg[i + 1] == 0xda) last = i;
  size_t scan = n - 2 - last;
  size = last + TIMES * scan + 2;
  bomb = ij_alloc(size);
  memcpy(bomb, jpeg, last);
  for (size_t i = 0; i < TIMES; i++) memcpy(bomb + last + i * scan, jpeg + last, scan);
  memcpy(bomb + size - 2, "\xff\xd9", 2);
  ij_decoder *d;
  ck_assert_int_eq(ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 20}, &d), IJ_OK);
  ck_assert_int_eq(decode(d, jpeg, n), IJ_OK);
  ck_assert_int_eq(decode(d, bomb, size), IJ_EFORMAT);
  ck_assert_str_eq(ij_errmsg(), "JPEG of more than 200 scans");
  ck_assert_int_eq(decode(d, jpeg, n), IJ_OK);
  ij_decoder_free(d);
  ij_free(bomb);
  g_free(jpeg);
}
END_TEST

START_TEST(files_above_the_limit_are_corrupt)
{
  run_in_scratch("truncate -s 2000000 d/a/big.png");
  data_config c = {.catalogue.root = root,
                   .loader.view.height = 8,
                   .loader.view.width = 8,
                   .loader.batch = 13,
                   .loader.max_bad = .5,
                   .catalogue.max_bytes = 1000000};
  data d;
  ij_batch b;
  ck_assert_int_eq(data_open(&c, &d), IJ_OK);
  ck_assert_int_eq(ij_loader_next(d.loader, &b), IJ_OK);
  ck_assert_str_eq(ij_loader_corrupt(d.loader),
                   "a/big.png: file of 2000000 bytes is too big: data.max_bytes = 1000000");
  data_close(d);
}
END_TEST

int main(void) {
  Suite *s = suite_create("copy");
  TCase *t = tcase_create("copy");
  tcase_add_checked_fixture(t, make_set, scratch_remove);
  tcase_set_timeout(t, 120);
  tcase_add_test(t, a_copy_is_made_once_and_read_from_then_on);
  tcase_add_test(t, names_of_255_bytes_are_copied);
  tcase_add_test(t, a_loader_reads_on_while_its_files_are_copied);
  tcase_add_test(t, a_part_of_a_copy_is_completed);
  tcase_add_test(t, what_can_not_be_copied);
  tcase_add_test(t, sha256_as_published);
  tcase_add_test(t, sha256sum_reads_our_manifests_and_we_its);
  tcase_add_test(t, what_differs_is_named);
  tcase_add_test(t, formats_unsafe_for_strangers_files_are_off);
  tcase_add_test(t, trust_is_of_one_catalogue);
  tcase_add_test(t, bombs_do_not_fill_the_memory);
  tcase_add_test(t, jpegs_of_many_scans_are_refused);
  tcase_add_test(t, files_above_the_limit_are_corrupt);
  suite_add_tcase(s, t);
  return run_suite(s);
}

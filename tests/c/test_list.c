/* core/data/list.c and tar.c: what a data set holds. */
#include "images.h"

static char notes[4096];
static void on_note(void *arg, const char *text) {
  (void)arg;
  strncat(notes, text, sizeof notes - strlen(notes) - 1);
  strncat(notes, "\n", sizeof notes - strlen(notes) - 1);
}
static ij_status list(const char *name, const char *subset, ij_list **out) {
  char *path = in_scratch(name), *sub = subset ? in_scratch(subset) : NULL;
  notes[0] = 0;
  *out = NULL;
  ij_status st = ij_list_open(path, sub, NULL, false, on_note, NULL, out);
  ij_free(path);
  ij_free(sub);
  return st;
}
static void expect_names(const ij_list *l, const char *const *want, int n) {
  ck_assert_uint_eq(ij_list_count(l), (unsigned)n);
  for (int i = 0; i < n; i++) ck_assert_str_eq(ij_list_name(l, (uint32_t)i), want[i]);
}

START_TEST(class_folders_are_sorted_and_numbered)
{
  ij_list *l;
  run_in_scratch(
      "mkdir -p d/b d/a/deep d/.hidden d/b-x; touch d/b/2.JPG d/b/10.png d/a/1.jpeg d/a/deep/9.webp d/a/notes.txt "
      "d/.hidden/x.jpg d/a/._1.jpg d/b-x/z.gif d/top.tiff");
  ck_assert_int_eq(list("d", NULL, &l), IJ_OK);
  static const char *const want[] = {"a/1.jpeg", "a/deep/9.webp", "b-x/z.gif", "b/10.png", "b/2.JPG", "top.tiff"};
  static const int label[] = {0, 0, 2, 1, 1, -1};
  expect_names(l, want, 6);
  for (uint32_t i = 0; i < 6; i++) ck_assert_int_eq(ij_list_label(l, i), label[i]);
  ck_assert_int_eq(ij_list_classes(l), 3);
  ck_assert_str_eq(ij_list_class(l, 2), "b-x");
  ck_assert_str_eq(notes, "");
  ij_list_free(l);
  run_in_scratch("rm d/a/1.jpeg d/b/* d/a/deep/* d/b-x/*");
  ck_assert_int_eq(list("d/", NULL, &l), IJ_OK);
  ck_assert_int_eq(ij_list_classes(l), 0);
  ij_list_free(l);
}
END_TEST

static uint64_t stamp(const char *name) {
  ij_list *l;
  ck_assert_int_eq(list(name, NULL, &l), IJ_OK);
  uint64_t h = ij_list_stamp(l);
  ij_list_free(l);
  return h;
}
START_TEST(stamps_follow_the_content_not_the_place)
{
  run_in_scratch("mkdir -p s/a s/b; echo 1 >s/a/1.jpg; echo 2 >s/b/2.jpg; tar cf s.tar -C s a b; cp -rp s moved");
  uint64_t first = stamp("s"), tar = stamp("s.tar");
  ck_assert_uint_eq(stamp("moved"), first);
  ck_assert_uint_ne(tar, first);
  run_in_scratch("touch -d '2001-01-01' s/a/1.jpg");
  uint64_t touched = stamp("s");
  ck_assert_uint_ne(touched, first);
  run_in_scratch("echo 22 >s/b/2.jpg; touch -r moved/b/2.jpg s/b/2.jpg; touch -d '2001-01-01' s.tar");
  ck_assert_uint_ne(stamp("s"), touched); /* the size alone */
  ck_assert_uint_ne(stamp("s.tar"), tar);
  run_in_scratch("mv moved/a moved/c");
  ck_assert_uint_ne(stamp("moved"), first);
}
END_TEST

START_TEST(links_are_followed_but_not_in_circles)
{
  ij_list *l;
  run_in_scratch("mkdir -p real/sub other; touch real/1.jpg real/sub/2.jpg other/3.jpg; ln -s .. real/sub/up; "
                 "ln -s ../other real/link; ln -s ../other/3.jpg real/4.jpg; ln -s nowhere real/5.jpg");
  ck_assert_int_eq(list("real", NULL, &l), IJ_OK);
  static const char *const want[] = {"1.jpg", "4.jpg", "5.jpg", "link/3.jpg", "sub/2.jpg"};
  expect_names(l, want, 5);
  ck_assert_str_eq(notes, "sub/up/: folder left out: a link leads back to a folder above it\n");
  ij_list_free(l);
}
END_TEST

START_TEST(subsets_name_files_or_paths)
{
  ij_list *l;
  run_in_scratch("mkdir -p d/a d/b; touch d/a/1.jpg d/a/2.jpg d/b/1.jpg d/b/3.jpg");
  put_text("sub", "3.jpg\r\n\n  a/2.jpg \nmissing.jpg\n3.jpg\n");
  ck_assert_int_eq(list("d", "sub", &l), IJ_OK);
  static const char *const want[] = {"a/2.jpg", "b/3.jpg"};
  expect_names(l, want, 2);
  ck_assert_ptr_nonnull(strstr(notes, "1 of 4 names are not in the data set, the first is 'missing.jpg'"));
  ij_list_free(l);
  put_text("sub", "missing.jpg\n");
  ck_assert_int_eq(list("d", "sub", &l), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "none of the images of subset"));
  put_text("sub", "\n");
  ck_assert_int_eq(list("d", "sub", &l), IJ_EFORMAT);
  ck_assert_int_eq(list("d", "nowhere", &l), IJ_EIO);
  ck_assert_int_eq(list("d", "d", &l), IJ_EIO);
}
END_TEST

START_TEST(what_is_not_there_is_said)
{
  ij_list *l;
  ck_assert_int_eq(list("nowhere", NULL, &l), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "nowhere' is not there"));
  run_in_scratch("mkdir -p empty text; touch text/a.txt text/b.csv");
  ck_assert_int_eq(list("empty", NULL, &l), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "has no images (0 other files"));
  ck_assert_int_eq(list("text", NULL, &l), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "has no images (2 other files"));
  ck_assert_int_eq(ij_list_open("", NULL, NULL, false, on_note, NULL, &l), IJ_EINVAL);
  ck_assert_int_eq(ij_list_open(NULL, NULL, NULL, false, on_note, NULL, &l), IJ_EINVAL);
  ck_assert_int_eq(ij_list_open("/dev/null", NULL, NULL, false, on_note, NULL, &l), IJ_EIO);
}
END_TEST

static void expect_read(ij_list *l, uint32_t i, const char *text) {
  ij_buffer buffer = {0};
  size_t n;
  ck_assert_msg(ij_list_read(l, i, 1 << 20, &buffer, &n) == IJ_OK, "%s", ij_errmsg());
  ck_assert_uint_eq(n, strlen(text));
  ck_assert_mem_eq(buffer.p, text, n);
  ij_buffer_free(&buffer);
}

START_TEST(tars_are_read_in_place)
{
  static const char *const format[] = {"v7", "oldgnu", "gnu", "ustar", "pax"};
  ij_list *l;
  run_in_scratch(
      "mkdir -p t/train/cat t/train/dog; printf one > t/train/cat/1.jpg; printf two > t/train/dog/2.jpg; "
      "head -c 3000 /dev/zero > t/train/readme.txt; printf three > t/train/dog/10.jpg; ln t/train/dog/2.jpg t/x.jpg");
  for (size_t i = 0; i < sizeof format / sizeof *format; i++) {
    char *line = ij_format("tar -C t --format=%s -cf t.tar ./train", format[i]);
    run_in_scratch(line);
    ij_free(line);
    ck_assert_msg(list("t.tar", NULL, &l) == IJ_OK, "%s: %s", format[i], ij_errmsg());
    static const char *const want[] = {"train/cat/1.jpg", "train/dog/10.jpg", "train/dog/2.jpg"};
    expect_names(l, want, 3);
    expect_read(l, 0, "one");
    expect_read(l, 1, "three");
    expect_read(l, 2, "two");
    ck_assert_int_eq(ij_list_classes(l), 2);
    ck_assert_str_eq(ij_list_class(l, 1), "dog");
    ck_assert_int_eq(ij_list_label(l, 0), 0);
    ck_assert_int_eq(ij_list_label(l, 1), 1);
    ck_assert_str_eq(notes, "");
    ij_list_free(l);
  }
  run_in_scratch("tar -C t -cf one.tar train/dog");
  ck_assert_int_eq(list("one.tar", NULL, &l), IJ_OK);
  ck_assert_int_eq(ij_list_classes(l), 0);
  ck_assert_int_eq(ij_list_label(l, 0), -1);
  ij_list_free(l);
}
END_TEST

START_TEST(long_names_in_tars)
{
  ij_list *l;
  char deep[400], want[500];
  memset(deep, 'd', sizeof deep);
  deep[199] = '/';
  deep[399] = 0;
  char *line =
      ij_format("mkdir -p t/%s; printf long > t/%s/p.jpg; printf short > t/q.jpg; tar -C t --format=gnu -cf g.tar .; "
                "tar -C t --format=pax -cf p.tar .",
                deep, deep);
  run_in_scratch(line);
  ij_free(line);
  snprintf(want, sizeof want, "%s/p.jpg", deep);
  for (int i = 0; i < 2; i++) {
    ck_assert_msg(list(i ? "p.tar" : "g.tar", NULL, &l) == IJ_OK, "%s", ij_errmsg());
    const char *const names[] = {want, "q.jpg"};
    expect_names(l, names, 2);
    expect_read(l, 0, "long");
    expect_read(l, 1, "short");
    ij_list_free(l);
  }
}
END_TEST

START_TEST(shards_by_list_or_folder)
{
  ij_list *l;
  run_in_scratch("mkdir -p t/a t/b s; printf 1 > t/a/1.jpg; printf 2 > t/b/2.jpg; tar -C t -cf s/x0.tar a; tar -C t "
                 "-cf s/x1.tar b");
  put_text("s/list.txt", "# two shards\nx1.tar\n\nx0.tar\n");
  for (int i = 0; i < 2; i++) {
    ck_assert_msg(list(i ? "s" : "s/list.txt", NULL, &l) == IJ_OK, "%s", ij_errmsg());
    static const char *const want[] = {"a/1.jpg", "b/2.jpg"};
    expect_names(l, want, 2);
    expect_read(l, 0, "1");
    expect_read(l, 1, "2");
    ck_assert_int_eq(ij_list_classes(l), 2);
    ij_list_free(l);
  }
  put_text("s/list.txt", "x0.tar\nx7.tar\n");
  ck_assert_int_eq(list("s/list.txt", NULL, &l), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "x7.tar"));
  put_text("s/list.txt", "# none\n");
  ck_assert_int_eq(list("s/list.txt", NULL, &l), IJ_EFORMAT);
}
END_TEST

static void expect_bytes(ij_list *l, uint32_t i, const char *want) {
  ij_buffer buffer = {0};
  size_t n;
  ck_assert_msg(ij_list_read(l, i, 1 << 20, &buffer, &n) == IJ_OK, "%s", ij_errmsg());
  ck_assert_uint_eq(n, strlen(want));
  ck_assert_mem_eq(buffer.p, want, n);
  ij_buffer_free(&buffer);
}

START_TEST(links_in_tars_are_followed)
{
  ij_list *l;
  run_in_scratch(
      "mkdir -p k/c0 k/c1 k/c2 k/.store; printf A > k/c0/a.jpg; printf B > k/.store/4711; ln k/c0/a.jpg k/c1/hard.jpg; "
      "cd k; ln -s ../c0/a.jpg c2/soft.jpg; ln -s soft.jpg c2/again.jpg; ln -s ../.store/4711 c2/annex.jpg; "
      "ln -s ../c1 c2/folder; ln -s c0 whole; ln -s ../c2/folder/hard.jpg c1/through.jpg; "
      "ln -s ../../k/c0/a.jpg c2/out.jpg; ln -s /etc/a.jpg c2/root.jpg; ln -s gone.jpg c2/lost.jpg; ln -s x.jpg "
      "c2/x.jpg; "
      "ln -s .. c0/up; tar cf ../links.tar --sort=name c0 c1 c2 .store whole");
  ck_assert_int_eq(list("links.tar", NULL, &l), IJ_OK);
  static const char *const want[] = {"c0/a.jpg",     "c1/hard.jpg",        "c1/through.jpg",        "c2/again.jpg",
                                     "c2/annex.jpg", "c2/folder/hard.jpg", "c2/folder/through.jpg", "c2/soft.jpg",
                                     "whole/a.jpg"};
  expect_names(l, want, 9);
  for (uint32_t i = 0; i < 9; i++) expect_bytes(l, i, i == 4 ? "B" : "A");
  const char *const noted[] = {"c2/out.jpg: a link to '../../k/c0/a.jpg', which is outside the tar, or a circle",
                               "c2/root.jpg: a link to '/etc/a.jpg', which is outside the tar, or a circle",
                               "c2/x.jpg: a link to 'x.jpg', which is outside the tar, or a circle",
                               "c2/lost.jpg: a link to 'gone.jpg', which is not in the tar"};
  for (size_t i = 0; i < 4; i++) ck_assert_msg(strstr(notes, noted[i]) != NULL, "%s: %s", noted[i], notes);
  ij_list_free(l);
}
END_TEST

START_TEST(hidden_and_sparse_members_are_left_out)
{
  ij_list *l;
  run_in_scratch(
      "mkdir -p h/a/.thumbs h/.git; for f in a/1.jpg a/.2.jpg a/.thumbs/3.jpg .git/4.jpg; do printf x > h/$f; done; "
      "truncate -s 1M h/a/hole.jpg; printf end >> h/a/hole.jpg; for f in gnu posix; do "
      "tar cf $f.tar --format=$f --sparse -C h .; done");
  const char *const tar[] = {"gnu.tar", "posix.tar"};
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(list(tar[i], NULL, &l), IJ_OK);
    expect_names(l, (const char *const[]){"a/1.jpg"}, 1);
    expect_bytes(l, 0, "x");
    ck_assert_ptr_nonnull(strstr(notes, "a/hole.jpg: a sparse member, whose bytes do not lie in one piece"));
    ij_list_free(l);
  }
}
END_TEST

START_TEST(concatenated_tars_are_read_to_the_end)
{
  ij_list *l;
  run_in_scratch("mkdir a b; printf 1 > a/1.jpg; printf 2 > b/2.jpg; for i in a b; do tar cf $i.tar $i; done; "
                 "cat a.tar b.tar > both.tar; cat a.tar > junk.tar; head -c 2048 /dev/urandom >> junk.tar");
  ck_assert_int_eq(list("both.tar", NULL, &l), IJ_OK);
  expect_names(l, (const char *const[]){"a/1.jpg", "b/2.jpg"}, 2);
  expect_bytes(l, 1, "2");
  ck_assert_str_eq(notes, "");
  ij_list_free(l);
  ck_assert_int_eq(list("junk.tar", NULL, &l), IJ_OK); /* what follows the end of a tar is not a part of it */
  expect_names(l, (const char *const[]){"a/1.jpg"}, 1);
  ck_assert_str_eq(notes, "");
  ij_list_free(l);
}
END_TEST

static void expect_classes(const ij_list *l, const char *const *want, int n) {
  ck_assert_int_eq(ij_list_classes(l), n);
  for (int i = 0; i < n; i++) ck_assert_str_eq(ij_list_class(l, i), want[i]);
}

/* The key is the name up to the first dot, and counts within its tar alone. */
START_TEST(cls_members_are_labels)
{
  ij_list *l;
  run_in_scratch(
      "mkdir w v; cd w; for i in 0 1 2; do printf x > 00$i.jpg; done; printf 10 > 000.cls; printf '2\\n' > 001.cls; "
      "printf y > 003.seg.png; printf 9 > 003.cls; cd ../v; printf z > 000.jpg; printf 2 > 000.cls; cd ..; "
      "mkdir s; tar cf s/w.tar -C w .; tar cf s/v.tar -C v .");
  ck_assert_int_eq(list("s", NULL, &l), IJ_OK);
  static const char *const want[] = {"000.jpg", "000.jpg", "001.jpg", "002.jpg", "003.seg.png"};
  static const int label[] = {0, 2, 0, -1, 1}; /* v.tar comes first; numbers in their order: 2, 9, 10 */
  expect_names(l, want, 5);
  expect_classes(l, (const char *const[]){"2", "9", "10"}, 3);
  for (uint32_t i = 0; i < 5; i++) ck_assert_int_eq(ij_list_label(l, i), label[i]);
  ij_list_free(l);
}
END_TEST

START_TEST(tars_of_classes)
{
  ij_list *l;
  run_in_scratch(
      "mkdir i; for c in n01440764 n02084071; do mkdir $c; for k in 1 2; do printf $c > $c/${c}_$k.JPEG; done; "
      "tar cf i/$c.tar -C $c .; done; tar cf train.tar -C i n01440764.tar n02084071.tar; mkdir o; cp i/n0208* o; "
      "mkdir p; printf q > p/n02.jpg; printf q > p/7.jpg; tar cf o/n01440764.tar -C p .; "
      "tar cf o/plain-0000.tar -C p .");
  static const char *const want[] = {"n01440764/n01440764_1.JPEG", "n01440764/n01440764_2.JPEG",
                                     "n02084071/n02084071_1.JPEG", "n02084071/n02084071_2.JPEG"};
  const char *const root[] = {"train.tar", "i"};
  for (int k = 0; k < 2; k++) {
    ck_assert_int_eq(list(root[k], NULL, &l), IJ_OK);
    expect_names(l, want, 4);
    expect_classes(l, (const char *const[]){"n01440764", "n02084071"}, 2);
    for (uint32_t i = 0; i < 4; i++) ck_assert_int_eq(ij_list_label(l, i), (int)i / 2);
    expect_bytes(l, 0, "n01440764");
    expect_bytes(l, 3, "n02084071");
    ij_list_free(l);
  }
  ck_assert_int_eq(list("o", NULL, &l), IJ_OK); /* another tar's name is no class */
  static const char *const mixed[] = {"7.jpg",
                                      "n01440764/7.jpg",
                                      "n01440764/n02.jpg",
                                      "n02.jpg",
                                      "n02084071/n02084071_1.JPEG",
                                      "n02084071/n02084071_2.JPEG"};
  expect_names(l, mixed, 6);
  ij_list_free(l);
}
END_TEST

START_TEST(blocked_formats_do_not_count)
{
  ij_list *l;
  run_in_scratch("mkdir f g; for i in a.jpg b.jp2 c.fits d.bmp e.pgm; do : > f/$i; done; : > g/x.JXL");
  ck_assert_int_eq(list("f", NULL, &l), IJ_OK);
  expect_names(l, (const char *const[]){"a.jpg", "d.bmp", "e.pgm"}, 3);
  ck_assert_ptr_nonnull(
      strstr(notes, " and 1 more: formats that libvips calls unsafe; data.untrusted_loaders=true reads"));
  ij_list_free(l);
  ck_assert_int_eq(list("g", NULL, &l), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "'x.JXL'); data.untrusted_loaders=true reads them"));
  char *path = in_scratch("f");
  ck_assert_int_eq(ij_list_open(path, NULL, NULL, true, on_note, NULL, &l), IJ_OK);
  ck_assert_uint_eq(ij_list_count(l), 5);
  ij_list_free(l);
  ij_free(path);
}
END_TEST

START_TEST(damaged_tars)
{
  ij_list *l;
  run_in_scratch(
      "mkdir t; for i in 1 2 3; do head -c 5000 /dev/zero > t/$i.jpg; done; tar -C t -cf t.tar 1.jpg 2.jpg 3.jpg; "
      "gzip -k t.tar; head -c 14000 t.tar > cut.tar; head -c 16896 t.tar > between.tar; cp t.tar bad.tar; "
      "printf 'zzzz' | dd of=bad.tar bs=1 seek=5632 conv=notrunc; printf 'no tar, but text' > text.tar; : > none.tar");
  ck_assert_int_eq(list("t.tar.gz", NULL, &l), IJ_EUNSUPPORTED);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "is compressed"));
  ck_assert_int_eq(list("text.tar", NULL, &l), IJ_EFORMAT);
  ck_assert_int_eq(list("none.tar", NULL, &l), IJ_EFORMAT);
  ck_assert_int_eq(list("bad.tar", NULL, &l), IJ_OK); /* one bad header costs one member */
  expect_names(l, (const char *const[]){"1.jpg", "3.jpg"}, 2);
  ck_assert_ptr_nonnull(strstr(notes, "bad.tar: damaged at byte 5632: members up to byte 11264 are left out"));
  ij_list_free(l);
  run_in_scratch("head -c 11264 bad.tar > end.tar");
  ck_assert_int_eq(list("end.tar", NULL, &l), IJ_OK);
  expect_names(l, (const char *const[]){"1.jpg"}, 1);
  ck_assert_ptr_nonnull(strstr(notes, "end.tar: damaged at byte 5632: what follows is left out"));
  ij_list_free(l);
  ck_assert_int_eq(list("cut.tar", NULL, &l), IJ_OK); /* its last image is there in part, and broken when read */
  ck_assert_ptr_nonnull(strstr(notes, "the tar is cut off"));
  ck_assert_uint_eq(ij_list_count(l), 3);
  ij_buffer buffer = {0};
  size_t n;
  ck_assert_int_eq(ij_list_read(l, 1, 1 << 20, &buffer, &n), IJ_OK);
  ck_assert_int_eq(ij_list_read(l, 2, 1 << 20, &buffer, &n), IJ_EFORMAT);
  ck_assert_str_eq(ij_errmsg(), "truncated: 2224 of 5000 bytes are there");
  ck_assert_int_eq(ij_list_read(l, 1, 100, &buffer, &n), IJ_EFORMAT);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "too big"));
  ij_buffer_free(&buffer);
  ij_list_free(l);
  ck_assert_int_eq(list("between.tar", NULL, &l), IJ_OK);
  ck_assert_uint_eq(ij_list_count(l), 3);
  ij_list_free(l);
}
END_TEST

START_TEST(any_byte_may_be_wrong)
{ /* a tar with each header byte changed in turn: an error or a list, never a crash */
  run_in_scratch("mkdir t; printf x > t/1.jpg; printf y > t/"
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.jpg; tar -C t --format=pax -cf t.tar .");
  char *path = in_scratch("t.tar");
  FILE *f = fopen(path, "rb");
  static char bytes[20480];
  size_t n = fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  ij_rng r;
  ij_rng_init(&r, 1, IJ_RNG_USER, 0, 0);
  for (int i = 0; i < 1500; i++) {
    size_t at = ij_rng_below(&r, 4096);
    char old = bytes[at];
    bytes[at] = (char)ij_rng_u32(&r);
    if (i % 3 == 0) { /* a right checksum lets the change through */
      size_t head = at / 512 * 512;
      unsigned sum = 0;
      for (size_t k = 0; k < 512; k++) sum += k >= 148 && k < 156 ? ' ' : (uint8_t)bytes[head + k];
      char text[8];
      snprintf(text, sizeof text, "%06o", sum & 0777777);
      if (at % 512 < 148 || at % 512 > 155) memcpy(bytes + head + 148, text, 7);
    }
    f = fopen(path, "wb");
    fwrite(bytes, 1, n, f);
    fclose(f);
    ij_list *l;
    if (list("t.tar", NULL, &l) == IJ_OK) {
      ij_buffer buffer = {0};
      size_t got;
      for (uint32_t k = 0; k < ij_list_count(l); k++) (void)ij_list_read(l, k, 1 << 20, &buffer, &got);
      ij_buffer_free(&buffer);
      ij_list_free(l);
    }
    bytes[at] = old;
  }
  ij_free(path);
}
END_TEST

START_TEST(running_out_of_memory_is_survived)
{
  run_in_scratch("mkdir -p d/a d/b; touch d/a/1.jpg d/b/2.jpg; tar -cf t.tar d; echo 1.jpg > sub");
  static const char *const what[] = {"d", "t.tar"};
  for (int k = 0; k < 2; k++)
    for (int i = 1, st = IJ_ENOMEM; st != IJ_OK; i++) {
      ij_list *l = NULL;
      char *path = in_scratch(what[k]), *sub = in_scratch("sub");
      ij_mem_fail_at(i);
      st = ij_list_open(path, sub, NULL, false, on_note, NULL, &l);
      ij_mem_fail_at(0);
      ck_assert(st == IJ_OK || st == IJ_ENOMEM);
      ij_list_free(l);
      ij_free(path);
      ij_free(sub);
    }
  ck_assert_uint_eq(ij_mem_live(), 0);
}
END_TEST

int main(void) {
  Suite *s = suite_create("list");
  TCase *t = tcase_create("list");
  tcase_add_checked_fixture(t, scratch_make, scratch_remove);
  tcase_set_timeout(t, 60);
  tcase_add_test(t, class_folders_are_sorted_and_numbered);
  tcase_add_test(t, stamps_follow_the_content_not_the_place);
  tcase_add_test(t, links_are_followed_but_not_in_circles);
  tcase_add_test(t, subsets_name_files_or_paths);
  tcase_add_test(t, what_is_not_there_is_said);
  tcase_add_test(t, tars_are_read_in_place);
  tcase_add_test(t, long_names_in_tars);
  tcase_add_test(t, shards_by_list_or_folder);
  tcase_add_test(t, links_in_tars_are_followed);
  tcase_add_test(t, hidden_and_sparse_members_are_left_out);
  tcase_add_test(t, concatenated_tars_are_read_to_the_end);
  tcase_add_test(t, cls_members_are_labels);
  tcase_add_test(t, tars_of_classes);
  tcase_add_test(t, blocked_formats_do_not_count);
  tcase_add_test(t, damaged_tars);
  tcase_add_test(t, any_byte_may_be_wrong);
  tcase_add_test(t, running_out_of_memory_is_survived);
  suite_add_tcase(s, t);
  return run_suite(s);
}

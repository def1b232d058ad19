/* index.c: where the images of a large tar lie, kept in a cache folder, so that the tar's headers, one seek each, are
 * read once. An index belongs to a path, size and time of change, and ends with a hash of itself: an old, torn or
 * foreign one is made again.
 *
 * "ijtar 2\n", u64 size of the tar, u64 its time of change in ns, u64 members; of each u64 offset, u64 size, name, 0;
 * u64 hash. Members that are neither images nor labels (.cls) are kept by number alone, without a name. Links and tars
 * in the tar are resolved already (links.c).
 *
 * The hash is no secret, so whoever can write to the cache can make one up. It gets no further than a made-up tar: what
 * it names must lie in the tar, under a name that a tar could have. */
#include "data.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FROM = 32 << 20, HEAD = 32 }; /* a smaller tar is read as fast without */
static const char magic[8] = "ijtar 2\n";

typedef struct index {
  ij_member_fn *add; /* where members go */
  void *arg;
  ij_note_fn *note;
  void *note_arg;
  bool noted; /* something is odd with the tar: no index, so that it is said again */
  uint8_t *bytes;
  size_t n, cap;
  uint64_t count;
} index_;

static ij_status put(index_ *x, const void *bytes, size_t n) {
  if (x->n + n > x->cap) {
    size_t cap = 2 * x->cap + n + 4096;
    uint8_t *more = ij_realloc(x->bytes, cap);
    if (!more) return IJ_ENOMEM;
    x->bytes = more;
    x->cap = cap;
  }
  memcpy(x->bytes + x->n, bytes, n);
  x->n += n;
  return IJ_OK;
}

static ij_status on_member(void *arg, const char *name, uint64_t offset, uint64_t size) {
  index_ *x = arg;
  uint64_t place[2] = {offset, size};
  IJ_TRY(put(x, place, sizeof place));
  bool kept = ij_is_image_name(name, true) || ij_is_label_name(name);
  IJ_TRY(put(x, kept ? name : "", kept ? strlen(name) + 1 : 1));
  x->count++;
  return x->add(x->arg, name, offset, size);
}
static void on_note(void *arg, const char *text) {
  index_ *x = arg;
  x->noted = true;
  x->note(x->note_arg, text);
}

/* Whether the n bytes are the index of a tar like head. */
static bool is_whole(const uint8_t *bytes, size_t n, const uint64_t head[2]) {
  uint64_t hash, count;
  if (n < HEAD + 8 || memcmp(bytes, magic, 8) != 0 || memcmp(bytes + 8, head, 16) != 0) return false;
  memcpy(&hash, bytes + n - 8, 8);
  if (hash != ij_hash(0, bytes, n - 8)) return false;
  memcpy(&count, bytes + 24, 8);
  size_t at = HEAD;
  for (; count; count--) {
    uint64_t place[2];
    const uint8_t *end = at + 16 < n - 8 ? memchr(bytes + at + 16, 0, n - 8 - at - 16) : NULL;
    if (!end || end - (bytes + at + 16) >= IJ_TAR_NAME_MOST) return false;
    memcpy(place, bytes + at, 16);
    if (place[0] > head[0] || place[1] > head[0] - place[0]) return false;
    at = (size_t)(end - bytes) + 1;
  }
  return at == n - 8;
}

/* Members from the index in the file at path. False: there is none that fits. */
static bool replay(const char *path, const uint64_t head[2], index_ *x, ij_status *st) {
  struct stat s;
  size_t n = 0;
  uint8_t *bytes = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  bool good = fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_size > HEAD &&
              (uint64_t)s.st_size < head[0] && /* a member takes more room in a tar than here */
              (bytes = ij_alloc((size_t)s.st_size)) && ij_read_at(fd, bytes, (size_t)s.st_size, 0, &n) == IJ_OK &&
              is_whole(bytes, n, head);
  if (fd >= 0) close(fd);
  *st = IJ_OK;
  for (size_t at = HEAD; good && *st == IJ_OK && at < n - 8;) {
    uint64_t place[2];
    memcpy(place, bytes + at, 16);
    const char *name = (const char *)bytes + at + 16;
    *st = x->add(x->arg, name, place[0], place[1]);
    at += 16 + strlen(name) + 1;
  }
  ij_free(bytes);
  return good;
}

ij_status ij_tar_members(int fd, const char *path, const char *cache, ij_member_fn *add, void *arg, ij_note_fn *note,
                         void *note_arg) {
  index_ x = {.add = add, .arg = arg, .note = note, .note_arg = note_arg};
  struct stat s;
  char *real = NULL, *file = NULL;
  ij_status st;
  if (!cache || fstat(fd, &s) != 0 || s.st_size < FROM || !(real = realpath(path, NULL)))
    return ij_tar_scan(fd, path, add, arg, note, note_arg);
  uint64_t head[2] = {(uint64_t)s.st_size, (uint64_t)s.st_mtim.tv_sec * 1000000000u + (uint64_t)s.st_mtim.tv_nsec};
  st = IJ_ENOMEM;
  if (!(file = ij_format("%s/tar-%016llx.index", cache, (unsigned long long)ij_hash(head[0], real, strlen(real)))))
    goto out;
  if (replay(file, head, &x, &st)) goto out;
  uint64_t hash, none = 0;
  IJ_TRY_TO(out, st, put(&x, magic, 8));
  IJ_TRY_TO(out, st, put(&x, head, 16));
  IJ_TRY_TO(out, st, put(&x, &none, 8));
  IJ_TRY_TO(out, st, ij_tar_scan(fd, path, on_member, &x, on_note, &x));
  memcpy(x.bytes + 24, &x.count, 8);
  hash = ij_hash(0, x.bytes, x.n);
  IJ_TRY_TO(out, st, put(&x, &hash, 8));
  if (!x.noted && ij_mkdirs(cache) == IJ_OK) (void)ij_file_replace(file, x.bytes, x.n); /* without it, slower */
out:
  (free)(real);
  ij_free(file);
  ij_free(x.bytes);
  return st;
}

/* file.c: reading files, which names are images, and memory that is used again: what the other files of core/data need
 * first. */
#include "data.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

ij_status ij_buffer_reserve(ij_buffer *r, size_t bytes) {
  if (bytes <= r->size) return IJ_OK;
  size_t size = bytes + bytes / 4;
  ij_buffer_free(r);
  if (!(r->p = ij_alloc(size))) return IJ_ENOMEM;
  r->size = size;
  return IJ_OK;
}

void ij_buffer_free(ij_buffer *r) {
  ij_free(r->p);
  *r = (ij_buffer){0};
}

enum { TRIES = 20, PAUSE_US = 50000 }; /* for an open file that another thread or process gives back: a second */

ij_status ij_file_open(const char *path, int *fd) {
  for (int i = 0; (*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0 && i < TRIES; i++) {
    if (errno != EMFILE && errno != ENFILE) break;
    usleep(PAUSE_US);
  }
  if (*fd >= 0) return IJ_OK;
  struct rlimit most = {0};
  getrlimit(RLIMIT_NOFILE, &most);
  if (errno == EMFILE)
    return ij_fail(IJ_EUNSUPPORTED,
                   "could not be opened: %llu files are open, which is this process's limit; ulimit -n "
                   "raises it",
                   (unsigned long long)most.rlim_cur);
  if (errno == ENFILE)
    return ij_fail(IJ_EUNSUPPORTED,
                   "could not be opened: too many files are open on this machine (sysctl fs.file-max)");
  return ij_fail(errno == ENOMEM ? IJ_ENOMEM : IJ_EIO, "could not be opened: %s", strerror(errno));
}

ij_status ij_read_at(int fd, void *to, size_t n, uint64_t offset, size_t *got) {
  *got = 0;
  while (*got < n) {
    ssize_t k = pread(fd, (char *)to + *got, n - *got, (off_t)(offset + *got));
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return ij_fail(errno == ENOMEM ? IJ_ENOMEM : IJ_EIO, "could not be read: %s", strerror(errno));
    if (k == 0) break;
    *got += (size_t)k;
  }
  return IJ_OK;
}

bool ij_is_utf16(const void *bytes, size_t n) {
  return n >= 2 && (!memcmp(bytes, "\xff\xfe", 2) || !memcmp(bytes, "\xfe\xff", 2));
}

ij_status ij_text_read(const char *path, const char *what, char **text) {
  ij_status st = IJ_OK;
  struct stat s;
  size_t got = 0;
  *text = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &s) != 0) st = ij_fail(IJ_EIO, "%s '%s' could not be read: %s", what, path, strerror(errno));
  else if (!S_ISREG(s.st_mode) || s.st_size > INT_MAX) st = ij_fail(IJ_EIO, "%s '%s' is not a text file", what, path);
  else if (!(*text = ij_alloc((size_t)s.st_size + 1))) st = IJ_ENOMEM;
  else if ((st = ij_read_at(fd, *text, (size_t)s.st_size, 0, &got)) != IJ_OK) ij_fail_in(st, "%s '%s'", what, path);
  else (*text)[got] = 0;
  if (fd >= 0) close(fd);
  if (st == IJ_OK && ij_is_utf16(*text, got))
    st = ij_fail(IJ_EFORMAT, "%s '%s' is UTF-16; save it as UTF-8", what, path);
  if (st == IJ_OK && strlen(*text) != got)
    st = ij_fail(IJ_EFORMAT, "%s '%s' is not a text file with one name per line", what, path);
  if (st == IJ_OK && !strncmp(*text, "\xef\xbb\xbf", 3)) memmove(*text, *text + 3, got - 2); /* a byte order mark */
  return st;
}

static const char *const endings[] = {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif",  "tif", "tiff",
                                      "ppm", "pgm",  "pbm", "pnm",  "bmp", "avif", "heic", "heif"};
static const char *const unsafe_endings[] = {"pfm", "jxl", "jp2", "j2k", "jpx", "j2c", "jpc", "hdr", "exr", "fits"};

static bool is_one_of(const char *ending, const char *const *list, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!strcasecmp(ending, list[i])) return true;
  return false;
}

bool ij_is_image_name(const char *name, bool untrusted) {
  const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name, *dot = strrchr(base, '.');
  if (*base == '.' || !dot) return false;
  return is_one_of(dot + 1, endings, sizeof endings / sizeof *endings) ||
         (untrusted && is_one_of(dot + 1, unsafe_endings, sizeof unsafe_endings / sizeof *unsafe_endings));
}

bool ij_is_label_name(const char *name) {
  size_t n = strlen(name);
  return n > 4 && name[n - 5] != '/' && !strcmp(name + n - 4, ".cls");
}

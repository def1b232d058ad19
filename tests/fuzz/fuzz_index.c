/* core/data/index.c on any bytes as the saved index of a tar: ignored, or a list whose every member lies in the tar.
 * What begins as an index does gets the right tar and hash, which a fuzzer can't guess. libFuzzer. */
#include "data/data.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAR = 40 << 20, HEAD = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static char folder[40], tar[60], file[120];
static uint64_t head[2]; /* of the tar: size and time of change */

static void no_note(void *arg, const char *text) { (void)arg, (void)text; }

static void clean_up(void) {
  unlink(file);
  unlink(tar);
  rmdir(folder);
}

/* A tar of one image, large enough to get an index, hardly any of it on the disk. */
static void make_tar(void) {
  uint8_t h[512] = "a/real.jpg";
  struct stat s;
  unsigned sum = 0;
  strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/ijepa-XXXXXX" : "/tmp/ijepa-XXXXXX");
  if (!mkdtemp(folder)) abort();
  snprintf(tar, sizeof tar, "%s/a.tar", folder);
  snprintf((char *)h + 124, 12, "%011o", 1000u);
  memcpy(h + 257, "ustar\00000", 8);
  h[156] = '0';
  memset(h + 148, ' ', 8);
  for (size_t i = 0; i < sizeof h; i++) sum += h[i];
  snprintf((char *)h + 148, 8, "%06o", sum);
  int fd = open(tar, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, h, sizeof h) != sizeof h || ftruncate(fd, TAR) != 0 || fstat(fd, &s) != 0) abort();
  close(fd);
  head[0] = (uint64_t)s.st_size;
  head[1] = (uint64_t)s.st_mtim.tv_sec * 1000000000u + (uint64_t)s.st_mtim.tv_nsec;
  char *real = realpath(tar, NULL);
  if (!real) abort();
  snprintf(file, sizeof file, "%s/tar-%016llx.index", folder, (unsigned long long)ij_hash(head[0], real, strlen(real)));
  (free)(real);
  atexit(clean_up);
}

static bool put(const uint8_t *bytes, size_t n) {
  int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  bool good = fd >= 0 && write(fd, bytes, n) == (ssize_t)n;
  if (n >= HEAD + 8 && !memcmp(bytes, "ijtar 1\n", 8) && bytes[8] != 'r') { /* r: raw */
    uint8_t *all = malloc(n);
    uint64_t hash;
    memcpy(all, bytes, n);
    memcpy(all + 8, head, sizeof head);
    hash = ij_hash(0, all, n - 8);
    memcpy(all + n - 8, &hash, 8);
    good = good && pwrite(fd, all, n, 0) == (ssize_t)n;
    free(all);
  }
  if (fd >= 0) close(fd);
  return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  ij_list *l;
  ij_buffer buffer = {0};
  if (!*file) make_tar();
  if (!put(bytes, n)) return 0;
  if (ij_list_open(tar, NULL, folder, false, no_note, NULL, &l) == IJ_OK) {
    size_t got;
    for (uint32_t i = 0; i < ij_list_count(l); i++) {
      if (!*ij_list_name(l, i) || strlen(ij_list_name(l, i)) >= IJ_TAR_NAME_MOST) __builtin_trap();
      if (ij_list_read(l, i, 1 << 14, &buffer, &got) != IJ_OK && !strstr(ij_errmsg(), "too big")) __builtin_trap();
      if (ij_list_label(l, i) >= ij_list_classes(l)) __builtin_trap();
    }
    (void)ij_list_stamp(l);
    ij_list_free(l);
  }
  ij_buffer_free(&buffer);
  if (ij_mem_live() != 0) __builtin_trap();
  return 0;
}

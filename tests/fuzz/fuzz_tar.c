/* core/data/tar.c and list.c on any bytes: an error or a list whose every member can be asked for. libFuzzer. */
#include "data/data.h"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void on_note(void *arg, const char *text) { (void)arg, (void)text; }

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  char path[40];
  ij_list *l;
  ij_buffer buffer = {0};
  int fd = memfd_create("fuzz.tar", MFD_CLOEXEC);
  if (fd < 0 || write(fd, bytes, n) != (ssize_t)n) return 0;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (ij_tar_kind(bytes, n) == 1 && ij_list_open(path, NULL, NULL, false, on_note, NULL, &l) == IJ_OK) {
    size_t got;
    for (uint32_t i = 0; i < ij_list_count(l); i++) {
      if (ij_list_read(l, i, 1 << 20, &buffer, &got) == IJ_OK && got > n) __builtin_trap();
      if (ij_list_label(l, i) >= ij_list_classes(l)) __builtin_trap();
    }
    (void)ij_list_stamp(l);
    ij_list_free(l);
  }
  ij_buffer_free(&buffer);
  close(fd);
  if (ij_mem_live() != 0) __builtin_trap();
  return 0;
}

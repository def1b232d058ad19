/* A file of any bytes as a file of tensors: opened, everything in it looked at and read. */
#include "core/ijepa.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile unsigned sum;

static void look(ij_tensor_file *f) {
  for (int i = 0; i < ij_tensor_file_count(f); i++) {
    size_t bytes = 0, n = 1;
    int known = ij_tensor_file_find(f, ij_tensor_file_name(f, i)) == i;
    if (!known) abort();
    const unsigned char *p = ij_tensor_file_data(f, i, &bytes);
    for (size_t k = 0; p && k < bytes; k++) sum += p[k];
    for (int d = 0; d < ij_tensor_file_ndim(f, i); d++) {
      size_t size = (size_t)ij_tensor_file_size(f, i, d);
      n = size && n > (1 << 20) / size ? (size_t)-1 : n * size; /* what the target reads itself is bounded */
      if (n == (size_t)-1) break;
    }
    if (n > 1 << 20) continue;
    float *values = malloc(n * sizeof *values + 1);
    if (ij_tensor_file_read(f, i, values, n) == IJ_OK)
      for (size_t k = 0; k < n; k++) sum += values[k] > 0;
    free(values);
  }
  for (int i = 0; i < ij_tensor_file_meta_count(f); i++)
    sum += (unsigned char)*ij_tensor_file_meta(f, ij_tensor_file_meta_key(f, i));
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t n) {
  static int fd = -1;
  static char path[64];
  if (fd < 0) {
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  }
  if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n) return 0;
  ij_tensor_file *f;
  if (ij_tensor_file_open(path, &f) == IJ_OK) {
    look(f);
    ij_tensor_file_close(f);
  }
  return 0;
}

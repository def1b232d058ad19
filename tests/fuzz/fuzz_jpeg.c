/* core/data/decode.c and baseline.c on bytes that begin as a JPEG does: pixels of a window, or an error. libFuzzer. */
#include "windows.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  if (n < 3 || bytes[0] != 0xff || bytes[1] != 0xd8) return 0; /* libvips' loaders are not ours to fuzz */
  read_windows(&(ij_decode_options){.max_pixels = 1 << 18}, bytes, n);
  return 0;
}

/* core/data/plain.c and container.c on any bytes: pixels of a window of a BMP or PNM, or an error; of all formats the
 * orientation and whether the file is cut off. libFuzzer. */
#include "windows.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  ij_filetype f = ij_filetype_of(bytes, n);
  int o = ij_orientation(f, bytes, n);
  if (o < 1 || o > 8) __builtin_trap();
  (void)ij_is_cut(f, bytes, n);
  if (f == IJ_FILE_TIFF) (void)ij_tiff_problem(bytes, n);
  if (ij_gif_flags(bytes, n) >= n && n) __builtin_trap();
  if (f != IJ_FILE_BMP && f != IJ_FILE_PNM) return 0; /* libvips' loaders are not ours to fuzz */
  read_windows(&(ij_decode_options){.max_pixels = 1 << 18, .high = n % 2 ? 100 : 0}, bytes, n);
  return 0;
}

/* core/data/plain.c and container.c on any bytes: pixels of a window of a BMP or PNM, or an error; of all formats the
 * orientation and whether the file is cut off. libFuzzer. */
#include "data/formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { SIDE = 24 };
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  static const double scale[2] = {.05, 1}, ratio[2] = {.3, 3};
  uint8_t out[SIDE * SIDE * 3];
  int height, width, box[4];
  ij_decoder *d;
  ij_rng r;
  ij_filetype f = ij_filetype_of(bytes, n);
  int o = ij_orientation(f, bytes, n);
  if (o < 1 || o > 8) __builtin_trap();
  (void)ij_is_cut(f, bytes, n);
  if (f == IJ_FILE_TIFF) (void)ij_tiff_problem(bytes, n);
  if (ij_gif_flags(bytes, n) >= n && n) __builtin_trap();
  if (f != IJ_FILE_BMP && f != IJ_FILE_PNM) return 0; /* libvips' loaders are not ours to fuzz */
  ij_decode_options options = {.max_pixels = 1 << 18, .high = n % 2 ? 100 : 0};
  if (ij_decoder_new(&options, &d) != IJ_OK) return 0;
  ij_rng_init(&r, ij_hash(0, bytes, n), IJ_RNG_USER, 0, 0);
  for (int i = 0; i < 2; i++) { /* the second time with what the first left behind */
    if (ij_decoder_open(d, bytes, n, &height, &width) != IJ_OK) break;
    ij_crop_draw(&r, height, width, scale, ratio, box);
    ij_window win = {box[0], box[1], box[2], box[3], SIDE, SIDE, 0, 0, SIDE, SIDE};
    (void)ij_decoder_read(d, &win, out);
  }
  ij_decoder_free(d);
  if (ij_mem_live() != 0) __builtin_trap();
  return 0;
}

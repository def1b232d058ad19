/* What fuzz_jpeg.c and fuzz_plain.c do with a decoder: windows of a file, drawn by the bytes themselves. */
#include "data/formats.h"

/* Reads two windows, the second with what the first left behind; traps where memory is left. */
static inline void read_windows(const ij_decode_options *options, const uint8_t *bytes, size_t n) {
  enum { SIDE = 24 };
  static const double scale[2] = {.05, 1}, ratio[2] = {.3, 3};
  uint8_t out[SIDE * SIDE * 3];
  int height, width, box[4];
  ij_decoder *d;
  ij_rng r;
  if (ij_decoder_new(options, &d) != IJ_OK) return;
  ij_rng_init(&r, ij_hash(0, bytes, n), IJ_RNG_USER, 0, 0);
  for (int i = 0; i < 2; i++) {
    if (ij_decoder_open(d, bytes, n, &height, &width) != IJ_OK) break;
    ij_crop_draw(&r, height, width, scale, ratio, box);
    ij_window win = {box[0], box[1], box[2], box[3], SIDE, SIDE, 0, 0, SIDE, SIDE};
    (void)ij_decoder_read(d, &win, out);
  }
  ij_decoder_free(d);
  if (ij_mem_live() != 0) __builtin_trap();
}

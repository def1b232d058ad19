/* core/data/decode.c and baseline.c on any bytes that begin as a JPEG does: pixels of a window, or an error. libFuzzer.
 * Which window: drawn by the bytes themselves. */
#include "data/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { SIDE = 24 };
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
  static const double scale[2] = {.05, 1}, ratio[2] = {.3, 3};
  uint8_t out[SIDE * SIDE * 3];
  int height, width, box[4];
  ij_decoder *d;
  ij_rng r;
  if (n < 3 || bytes[0] != 0xff || bytes[1] != 0xd8) return 0; /* libvips' loaders are not ours to fuzz */
  if (ij_decoder_new(&(ij_decode_options){.max_pixels = 1 << 18}, &d) != IJ_OK) return 0;
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

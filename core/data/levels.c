/* levels.c: stored values to the 8-bit RGB of a crop: depths by a range, inks as Pillow converts them. */
#include "formats.h"

void ij_levels_begin(ij_levels *l, const ij_decode_options *o, double low, double high) {
  bool given = o->low != o->high;
  *l = (ij_levels){.low = given ? o->low : low, .high = given ? o->high : high, .deep = true};
}

void ij_cmyk_to_rgb(uint8_t *p, int n, bool inverted) {
  for (; n > 0; n--, p += 4) {
    int paper = inverted ? p[3] : 255 - p[3];
    for (int c = 0; c < 3; c++) {
      int t = (inverted ? 255 - p[c] : p[c]) * paper + 128, v = paper - ((t + (t >> 8)) >> 8);
      p[c] = (uint8_t)(v < 0 ? 0 : v);
    }
  }
}
